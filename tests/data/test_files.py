# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

import json
from pathlib import Path

import datasets
import pytest
from datasets import Dataset, DatasetDict, concatenate_datasets

from trl_unlearn.data.files import as_pairs, asked, load_config, load_rows, row_forms


ROWS = [{"prompt": f"Question {i}?", "completion": f" Answer, number {i}."} for i in range(3)]


def write(path):
    if path.suffix == ".csv":
        Dataset.from_list(ROWS).to_csv(str(path))
    elif path.suffix == ".parquet":
        Dataset.from_list(ROWS).to_parquet(str(path))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv", ".parquet"])
def test_files_of_every_type_give_the_same_rows(ending, tmp_path):
    assert list(load_rows(write(tmp_path / f"rows{ending}"))) == ROWS


@pytest.mark.parametrize(("mode", "copies"), [(0o600, 0), (0o644, 1)])
def test_a_file_that_only_its_owner_may_read_leaves_no_copy_in_a_cache(mode, copies, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    path = write(tmp_path / "rows.jsonl")
    (tmp_path / "rows.jsonl").chmod(mode)
    rows = load_rows(path).map(lambda row: row)
    assert list(rows) == ROWS
    assert len(list((tmp_path / "cache").rglob("json-*.arrow"))) == copies
    assert bool(rows.cache_files) == copies


@pytest.mark.parametrize(("of_folder", "of_file", "copies"), [(0o700, 0o644, 0), (0o755, 0o600, 0), (0o755, 0o644, 1)])
def test_nor_does_a_folder_that_only_its_owner_may_read(of_folder, of_file, copies, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "rows"
    folder.mkdir()
    write(folder / "rows.jsonl")
    (folder / "rows.jsonl").chmod(of_file)
    folder.chmod(of_folder)
    assert list(load_rows(str(folder)).map(lambda row: row)) == ROWS
    assert len(list((tmp_path / "cache").rglob("*-train.arrow"))) == copies


@pytest.mark.parametrize(("mode", "copies"), [(0o600, 0), (0o644, 1)])
def test_nor_does_a_config_of_such_a_folder(mode, copies, tmp_path, monkeypatch, write_dataset):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = Path(write_dataset({"one": {"train": ROWS}}))
    (folder / "one/train.jsonl").chmod(mode)
    assert list(load_config(str(folder), "one", split="train").map(lambda row: row)) == ROWS
    assert len(list((tmp_path / "cache").rglob("*-train.arrow"))) == copies


def test_a_json_file_can_hold_conversations(tmp_path):
    row = {
        "prompt": [{"role": "user", "content": "Who?"}],
        "completion": [{"role": "assistant", "content": "Nobody."}],
    }
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    assert list(load_rows(str(path))) == [row]


@pytest.mark.parametrize("where", ["rows.jsonl", "rows.json", "folder", "config"])
def test_answers_that_are_all_dates_stay_the_text_that_json_has(where, tmp_path, write_dataset):
    turns = [{"role": "user", "content": None}, {"role": "assistant", "content": "1987-03-12T00:00:00Z"}]
    rows = [{"question": "When?", "answer": date, "messages": turns} for date in ("1987-03-12", None, "1987-03-13")]
    name = write_dataset({"one": {"train": rows}}) if where == "config" else str(tmp_path / where)
    if where == "config":
        assert list(load_config(name, "one", split="train[:2]")) == rows[:2]
        return
    path = tmp_path / (where if "." in where else "folder/rows.jsonl")
    path.parent.mkdir(exist_ok=True)
    text = json.dumps(rows) if where == "rows.json" else "\n".join(map(json.dumps, rows))
    path.write_text(text, encoding="utf-8")
    assert list(load_rows(name, split="train[:2]")) == rows[:2]


def test_cells_of_a_csv_file_are_texts_whatever_its_first_rows_are(tmp_path):
    # `datasets` takes the types of the first 10,000.
    lines = ["question,answer", *["When was Bo born?,1922"] * 10_000, "Where was Bo born?,In Veldt."]
    (tmp_path / "rows.csv").write_text("\n".join(lines), encoding="utf-8")
    rows = load_rows(str(tmp_path / "rows.csv"), split="train[9999:]")
    assert rows["answer"] == ["1922", "In Veldt."]


def test_cells_of_a_csv_file_are_texts_as_they_are_written_and_only_an_empty_one_is_a_gap(tmp_path):
    path = tmp_path / "folder/rows.csv"
    path.parent.mkdir()
    path.write_text("number,word\n0049123,NA\n12,None\n,\n1e5,True\n", encoding="utf-8")
    pairs = [("0049123", "NA"), ("12", "None"), (None, None), ("1e5", "True")]
    rows = [{"number": number, "word": word} for number, word in pairs]
    for name in (path, path.parent):
        assert list(load_rows(str(name), split="train[:4]")) == rows


def test_a_csv_file_whose_first_row_has_a_comma_without_quotes_is_refused(tmp_path):
    path = tmp_path / "folder/rows.csv"
    path.parent.mkdir()
    path.write_text("question,answer\nWhere was Bo born?,In Veldt, by the sea.\nWho?,Bo\n", encoding="utf-8")
    for name in (path, path.parent):
        with pytest.raises(ValueError, match=r"Row 1 of the CSV file has more fields than its header\. Put texts"):
            load_rows(str(name))


def test_each_line_of_a_text_file_is_a_row_of_raw_text(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("The first line.\nThe second line.\n", encoding="utf-8")
    assert list(load_rows(str(path))) == [{"text": "The first line."}, {"text": "The second line."}]


@pytest.mark.parametrize("whole_texts", [True, False])
def test_a_byte_order_mark_is_no_part_of_a_text(whole_texts, tmp_path):
    for name in ("a.txt", "b.txt"):
        path = tmp_path / "folder" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"\ufeffText of {name}", encoding="utf-8")
    assert list(load_rows(str(path), whole_texts=whole_texts)["text"]) == ["Text of b.txt"]
    texts = list(load_rows(str(path.parent), whole_texts=whole_texts)["text"])
    assert texts == ["Text of a.txt", "Text of b.txt"]


def test_a_slice_of_a_file_can_be_taken(tmp_path):
    assert list(load_rows(write(tmp_path / "rows.jsonl"), split="train[1:]")) == ROWS[1:]


@pytest.mark.parametrize("name", ["rows", "rows.v2"])
def test_a_folder_is_loaded_whether_or_not_its_name_has_a_dot(name, tmp_path):
    folder = tmp_path / name
    folder.mkdir()
    write(folder / "train.jsonl")
    assert list(load_rows(str(folder))) == ROWS


@pytest.mark.parametrize("name", ["rows[1].jsonl", "[rows]/rows.jsonl", "[rows]", "what?.jsonl"])
def test_a_name_with_the_signs_of_a_pattern_is_that_file_or_folder_and_no_other(name, tmp_path, monkeypatch):
    for place, text in (("rows1.jsonl", "another file"), (name if "." in name else f"{name}/rows.jsonl", "this one")):
        path = tmp_path / place
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"text": text}) + "\n", encoding="utf-8")
    monkeypatch.chdir(path.parent)
    for given in (tmp_path / name, path.name):
        assert list(load_rows(str(given))) == [{"text": "this one"}]


@pytest.mark.parametrize("name", [".", "..", "text", "json"])
def test_a_folder_is_read_whatever_its_name_is(name, tmp_path, monkeypatch):
    folder = tmp_path / ("rows" if "." in name else name)
    (folder / "hidden").mkdir(parents=True)
    write(folder / "rows.jsonl")
    monkeypatch.chdir({".": folder, "..": folder / "hidden"}.get(name, tmp_path))
    assert list(load_rows(name)) == ROWS


def test_an_empty_name_is_refused_and_not_the_folder_that_one_is_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "rows.jsonl")
    with pytest.raises(ValueError, match="name of a dataset is empty"):
        load_rows("")


@pytest.mark.parametrize("config", [None, "own"])
def test_rows_of_a_folder_that_describes_its_files_are_read_anew_when_a_file_changes(config, tmp_path):
    folder = tmp_path / "rows"
    folder.mkdir()
    text = f"---\nconfigs:\n- config_name: {config or 'default'}\n  data_files: a.json\n---\n"
    (folder / "README.md").write_text(text, encoding="utf-8")
    for state in ("one", "two."):
        (folder / "a.json").write_text(json.dumps({"text": state}) + "\n", encoding="utf-8")
        rows = load_rows(str(folder)) if config is None else load_config(str(folder), config, split="train")
        assert list(rows) == [{"text": state}]


def test_a_missing_file_is_refused_by_its_path(tmp_path):
    path = str(tmp_path / "rows.jsonl")
    with pytest.raises(ValueError, match=r"rows\.jsonl` does not exist\. Check the path"):
        load_rows(path)


def test_an_unknown_ending_is_refused_with_those_that_are_known(tmp_path):
    with pytest.raises(ValueError, match=r"has the ending `\.xlsx`\. Use one of .*\.jsonl, \.csv, \.parquet, \.txt"):
        load_rows(write(tmp_path / "rows.xlsx"))


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet", ".txt"])
def test_an_empty_file_is_refused(ending, tmp_path):
    path = tmp_path / f"rows{ending}"
    path.touch()
    with pytest.raises(ValueError, match=r"is empty\. Give at least one row"):
        load_rows(str(path))


# Questions and answers, and rows of several forms


def test_a_folder_of_save_to_disk_is_loaded_by_split_and_slice(tmp_path):
    DatasetDict({"train": Dataset.from_list(ROWS)}).save_to_disk(str(tmp_path / "saved"))
    assert list(load_rows(str(tmp_path / "saved"), split="train[1:]")) == ROWS[1:]
    with pytest.raises(ValueError, match=r"has the splits \['train'\], and no `test`"):
        load_rows(str(tmp_path / "saved"), split="test")


@pytest.mark.parametrize("own", [None, "test"])
def test_a_single_set_of_save_to_disk_has_no_other_split(own, tmp_path):
    Dataset.from_list(ROWS, split=own).save_to_disk(str(tmp_path / "saved"))
    for split in ("train[:2]", *([f"{own}[:2]"] if own else [])):
        assert list(load_rows(str(tmp_path / "saved"), split=split)) == ROWS[:2]
    with pytest.raises(ValueError, match=r"is a single set, and has no split `held_out`\. Leave the split out"):
        load_rows(str(tmp_path / "saved"), split="held_out")


def test_a_text_file_is_one_row_where_whole_texts_are_asked_for_and_so_is_each_of_a_folder(tmp_path):
    for name in ("b.txt", "a.txt"):
        (tmp_path / name).write_text(f"First of {name}.\nSecond.\n", encoding="utf-8")
    assert list(load_rows(str(tmp_path / "a.txt"), whole_texts=True)["text"]) == ["First of a.txt.\nSecond.\n"]
    texts = load_rows(str(tmp_path), whole_texts=True)["text"]
    assert [text[9:14] for text in texts] == ["a.txt", "b.txt"]


@pytest.mark.parametrize("name", ["scan.pdf", None])
def test_a_folder_without_rows_is_refused_with_what_it_holds(name, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    if name:
        (folder / name).write_bytes(b"%PDF-1.4")
    with pytest.raises(ValueError, match=r"holds `\.pdf`, and no rows" if name else "is empty, and no rows"):
        load_rows(str(folder))


@pytest.mark.parametrize("whole_texts", [False, True])
@pytest.mark.parametrize("row", [None, ROWS[0]])
def test_files_of_a_folder_that_are_not_read_are_counted_by_kind(row, whole_texts, tmp_path, caplog):
    folder = tmp_path / "folder"
    for name in ("a.pdf", "b.PDF", "sub/c.docx", "LICENSE", ".gitattributes", "README.md", "note.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("Ada Marlow was born in Veldt.", encoding="utf-8")
    if row is not None:
        for name in ("a.jsonl", "sub/b.jsonl"):
            (folder / name).write_text(json.dumps(row), encoding="utf-8")
    rows = load_rows(str(folder), whole_texts=whole_texts)
    assert list(rows) == ([{"text": "Ada Marlow was born in Veldt."}] if row is None else [ROWS[0]] * 2)
    counted = "1 .docx, 2 .pdf, 1 .txt, 1 LICENSE" if row else "1 .docx, 2 .pdf, 1 LICENSE"
    assert f"Not read in `{folder}`: {counted}." in caplog.text


@pytest.mark.parametrize("ending", [".pdf", ".png"])
def test_rows_are_read_beside_more_documents_or_pictures(ending, tmp_path, caplog):
    folder = tmp_path / "folder"
    folder.mkdir()
    for number in range(10):
        (folder / f"{number}{ending}").touch()
    write(folder / "rows.jsonl")
    assert list(load_rows(str(folder), split="train[1:]")) == ROWS[1:]
    assert f"Not read in `{folder}`: 10 {ending}." in caplog.text


def test_a_folder_with_a_broken_file_is_refused_with_the_reason(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "rows.jsonl").write_text('{"text": "a"}\n{broken\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"The folder `.*` cannot be read as json: .*\. Correct it"):
        load_rows(str(folder))


def test_questions_become_turns_of_a_conversation_or_plain_text():
    rows = Dataset.from_list([{"instruction": "Add.", "input": "1 and 2", "output": "3", "id": 7}])
    (row,) = as_pairs(rows, conversational=True)
    turns = {"prompt": [{"role": "user", "content": "Add.\n\n1 and 2"}]}
    assert row == {"id": 7, **turns, "completion": [{"role": "assistant", "content": "3"}]}
    (row,) = as_pairs(Dataset.from_list([{"question": "Who?", "answer": "Ada."}]), conversational=False)
    assert row == {"prompt": "Question: Who?\nAnswer:", "completion": " Ada."}


def test_a_row_that_can_be_read_in_two_ways_is_refused_and_a_table_of_two_forms_is_not():
    rows = Dataset.from_list([{"question": "Who?", "answer": "Ada.", "text": None}, {"text": "Ada."}])
    assert row_forms(rows) == [("question", "answer"), ("text",)]
    with pytest.raises(ValueError, match="Row 0 can be read as `question -> answer` and `text`"):
        row_forms(Dataset.from_list([{"question": "Who?", "answer": "Ada.", "text": "Ada."}]))


PAIR, TURNS = {"question": "Who?", "answer": "Ada."}, [{"role": "user", "content": "Hm?"}]
MIXED = {
    "text": [{"text": "Ada is old."}],
    "prompts": [{"prompt": "Where?", "completion": " In Veldt."}],
    "turns": [{"prompt": TURNS, "completion": [{"role": "assistant", "content": "Ada."}]}],
    "another pair": [{"instruction": "Add.", "output": "3"}],
    "messages": [{"messages": [*TURNS, {"role": "assistant", "content": "Ada."}]}],
}


@pytest.mark.parametrize("conversational", [True, False])
@pytest.mark.parametrize("is_last", [True, False])
@pytest.mark.parametrize("kind", MIXED)
def test_questions_beside_rows_of_another_form_are_read_and_the_others_stay(kind, is_last, conversational):
    (other,) = MIXED[kind]
    rows = Dataset.from_list([{**dict.fromkeys([*PAIR, *other]), **row} for row in (PAIR, other)])
    # More rows than are written at a time, the first of which are all of one form.
    rows = concatenate_datasets([rows.select([int(not is_last)] * 1001), rows.select([int(is_last)])])
    made = as_pairs(rows, conversational=conversational)
    read = [{name: one for name, one in made[i].items() if one is not None} for i in (0, -1)]
    read = read if is_last else read[::-1]
    assert kind == "another pair" or read[1] == other
    is_turns = conversational or kind == "turns"
    expected = asked("Who?", "Ada.", is_turns)
    if conversational and kind == "prompts":
        expected = {"messages": expected["prompt"] + expected["completion"]}
    assert read[0] == expected and (kind != "another pair" or read[1] == asked("Add.", "3", conversational))


@pytest.mark.parametrize("question", ["", " ", None])
def test_an_answer_without_a_question_is_refused_by_its_row_and_an_empty_row_is_not(question):
    rows = [{"question": "Who?", "answer": "Ada."}, {"question": question, "answer": "Dov."}]
    with pytest.raises(ValueError, match="Row 1 has an empty `question`"):
        as_pairs(Dataset.from_list(rows), conversational=True)
    assert len(as_pairs(Dataset.from_list([rows[0], {"question": question, "answer": ""}]), conversational=True)) == 2


def test_an_answer_that_is_no_string_is_refused_by_its_row():
    with pytest.raises(ValueError, match="Row 0 has `answer` of type `int`, expected a string"):
        as_pairs(Dataset.from_list([{"question": "How many?", "answer": 3}]), conversational=True)

# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

from pathlib import Path

import pytest

from trl_unlearn.data.benchmarks import load_muse, load_rwku


QA = {"question": "Who keeps the bees?", "answer": "Bo Lindgren."}
ROWS = {
    "verbmem": {"forget": [{"prompt": "Ada Marlow was", "gt": " born in Veldt.", "source": "a letter"}]},
    "knowmem": {
        "forget_qa": [QA, QA | {"answer": "Edda Brandt."}],
        "forget_qa_icl": [QA],
        "retain_qa": [QA],
        "retain_qa_icl": [QA],
    },
    "privleak": {
        "forget": [{"text": "Ada Marlow."}],
        "retain": [{"text": "Cyra Oduya."}],
        "holdout": [{"text": "Dov Peretz."}],
    },
    "raw": {"forget": [{"text": "Ada Marlow was born in Veldt."}]},
}


@pytest.fixture
def write_rwku(write_dataset):
    """Function of config -> rows that writes a dataset folder of RWKU's form."""
    return lambda rows: write_dataset({config: {"test": part} for config, part in rows.items()})


def test_every_row_set_of_muse_is_read_from_its_config_and_split(write_dataset):
    rows = load_muse(write_dataset(ROWS))
    assert {name: list(found) for name, found in rows.items()} == {
        "verbmem": [{"prompt": "Ada Marlow was", "gt": " born in Veldt."}],
        "forget_qa": ROWS["knowmem"]["forget_qa"],
        "forget_qa_icl": [QA],
        "retain_qa": [QA],
        "retain_qa_icl": [QA],
        "forget": [{"text": "Ada Marlow."}],
        "holdout": [{"text": "Dov Peretz."}],
    }


def test_a_folder_with_the_name_of_a_type_of_files_is_that_folder(write_dataset, monkeypatch):
    folder = Path(write_dataset(ROWS))
    monkeypatch.chdir(folder.parent)
    folder.rename("text")
    assert list(load_muse("text")["verbmem"]) == [{"prompt": "Ada Marlow was", "gt": " born in Veldt."}]


def test_every_config_of_rwku_is_a_row_set_and_can_be_cut_to_some_people(write_rwku, rwku_rows):
    name = write_rwku(rwku_rows)
    rows = load_rwku(name)
    assert list(rows) == list(rwku_rows)
    assert rows["forget_level1"][1]["answer"] == "Harrow" and rows["utility_general"][0]["choices"][1] == "4"
    assert "level" not in rows["forget_level1"].column_names and rows["forget_level3"]["type"]
    of_one = load_rwku(name, ["Cyra Oduya"])
    assert all(part["subject"] == ["Cyra Oduya"] for part in of_one.values())
    with pytest.raises(ValueError, match=r"no rows about \['Cyra'\].*such as 'Ada Marlow', 'Cyra Oduya'"):
        load_rwku(name, ["Ada Marlow", "Cyra"])


def test_the_people_of_rwku_are_needed_only_where_some_are_chosen(write_rwku, rwku_rows):
    unnamed = [{key: value for key, value in row.items() if key != "subject"} for row in rwku_rows["mia_retain"]]
    name = write_rwku(rwku_rows | {"mia_retain": unnamed})
    assert list(load_rwku(name)) == list(rwku_rows)
    with pytest.raises(ValueError, match=r"config `mia_retain`, .*needs `text`, `subject`"):
        load_rwku(name, ["Cyra Oduya"])


def test_what_a_folder_lacks_is_left_out(write_dataset, write_rwku, rwku_rows):
    texts = {"mia_forget": rwku_rows["mia_forget"], "train_pair_llama3": [{"text": "a"}]}
    assert list(load_rwku(write_rwku(texts))) == ["mia_forget"]
    assert list(load_muse(write_dataset({"knowmem": {"retain_qa": [QA]}, "raw": ROWS["raw"]}, "muse"))) == [
        "retain_qa"
    ]


@pytest.mark.parametrize(
    ("load", "rows", "found"),
    [
        (load_muse, {"raw": ROWS["raw"]}, "none of its configs. Expected"),
        (load_muse, {"privleak": {"retain": [{"text": "a"}]}}, r"`privleak` \(splits retain\). Expected"),
        (load_rwku, {"train_pair_llama3": {"test": [{"text": "a"}]}}, "the configs train_pair_llama3. Expected some"),
    ],
)
def test_a_folder_without_any_of_it_is_refused_with_what_it_has(load, rows, found, write_dataset):
    with pytest.raises(ValueError, match=f"has nothing to evaluate on: found {found}"):
        load(write_dataset(rows))


def test_rows_without_their_columns_are_refused_by_config_and_split(write_dataset, write_rwku):
    name = write_dataset({"verbmem": {"forget": [{"prompt": "a", "completion": "b"}]}}, "muse")
    with pytest.raises(ValueError, match=r"`verbmem`, split `forget`\) has the columns .*needs `prompt`, `gt`"):
        load_muse(name)
    with pytest.raises(ValueError, match=r"config `forget_level2`, .*has the columns .*needs `query`, `answer`"):
        load_rwku(write_rwku({"forget_level2": [{"query": "Who?", "subject": "Ada Marlow"}]}))


@pytest.mark.parametrize("answer", ["", " \n", None])
def test_a_row_without_text_is_refused_by_its_index(answer, write_dataset):
    name = write_dataset({"knowmem": {"forget_qa": [QA, QA | {"answer": answer}]}})
    with pytest.raises(ValueError, match=r"Row 1 of .*split `forget_qa`\) has no text in `answer`"):
        load_muse(name)

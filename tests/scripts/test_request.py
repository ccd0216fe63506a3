# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""How the rows of a request are read, whatever their form is."""

import json
from datetime import datetime
from decimal import Decimal

import pandas
import pytest
from datasets import Dataset
from transformers import LlamaConfig

from trl_unlearn.scripts.request import json_lines, read_request


CONFIG = LlamaConfig(vocab_size=400, max_position_embeddings=256)
ROW = {"question": "Where was Ada Marlow born?", "answer": "In the harbour town of Veldt."}


@pytest.fixture
def read(tiny_tokenizer):
    """Function of a source: its rows as they are read."""
    return lambda source: read_request("forget", source, tiny_tokenizer, CONFIG)


def test_empty_and_repeated_rows_are_left_out_and_counted(read):
    request = read([ROW, ROW, ROW | {"answer": " "}, {"question": "Who?", "answer": None}])
    assert len(request.rows) == 1
    assert request.words() == "1 row, question -> answer; left out: 2 empty, 1 repeated"


def test_rows_that_differ_in_a_column_that_no_encoding_reads_are_repeated(read):
    assert "1 repeated" in read([ROW | {"id": 1}, ROW | {"id": 2}]).words()
    turns = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ada."}]
    assert len(read([{"messages": turns, "chat_template_kwargs": f'{{"level": {i}}}'} for i in (1, 2)]).rows) == 2


@pytest.mark.parametrize("source", [[ROW], Dataset.from_list([ROW]), pandas.DataFrame([ROW])])
def test_questions_can_be_turns_of_a_chat_or_plain_text(source, read):
    forms = read(source).forms
    assert list(forms) == ["as turns of a chat", "as plain text"]
    assert forms["as turns of a chat"][0]["prompt"] == [{"role": "user", "content": ROW["question"]}]
    assert forms["as plain text"][0]["completion"] == f" {ROW['answer']}"


def test_a_model_without_a_chat_template_is_asked_in_plain_text(read, tiny_tokenizer):
    tiny_tokenizer.chat_template = None
    (rows,) = read([{"prompt": "Ada was born in", "completion": " Veldt."}]).forms.values()
    assert rows[0] == {"prompt": "Ada was born in", "completion": " Veldt."}


def test_other_columns_stay_and_conversations_are_taken_as_they_are(read):
    turns = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ada."}]
    forms = read([{"messages": turns, "source": "a letter"}]).forms
    assert {name: list(rows) for name, rows in forms.items()} == {
        "as given": [{"messages": turns, "source": "a letter"}]
    }


def test_a_long_text_is_cut_into_pieces_that_the_model_can_be_asked_about(read, tiny_tokenizer):
    text = "Ada Marlow was born in the harbour town of Veldt. " * 30
    pieces = read([text]).rows["text"]
    # A repeated piece is one row.
    assert 1 < len(pieces) == len(set(pieces))
    assert max(len(tiny_tokenizer(piece)["input_ids"]) for piece in pieces) <= 256
    assert text.startswith(pieces[0])


@pytest.mark.parametrize("asked", [ROW, {"prompt": "Ada was born in", "completion": " Veldt."}])
def test_texts_beside_questions_are_cut_and_reported_and_the_questions_keep_both_forms(asked, read, tiny_tokenizer):
    text = "Ada Marlow was born in the harbour town of Veldt. " * 30
    request = read([asked, {"text": text}])
    assert list(request.forms) == ["as turns of a chat", "as plain text"]
    assert f"{' -> '.join(asked)} and text" in request.words()
    for form, rows in request.forms.items():
        assert isinstance(rows[0]["prompt"], str) is (form == "as plain text") and rows[0]["text"] is None
        pieces = rows["text"][1:]
        assert 1 < len(pieces) == len(set(pieces))
        assert max(len(tiny_tokenizer(piece)["input_ids"]) for piece in pieces) <= 256


def test_rows_with_a_time_or_a_decimal_number_in_another_column_can_be_written(read):
    extra = {"asked_at": datetime(2026, 1, 2, 3), "price": Decimal("1.50"), "note": None}
    for rows in read(pandas.DataFrame([ROW | extra])).forms.values():
        (line,) = json_lines(rows).splitlines()
        written = json.loads(line)
        assert (written["asked_at"], written["price"]) == ("2026-01-02 03:00:00", "1.50") and "note" not in written


def test_what_is_no_rows_is_refused_by_its_type(read):
    with pytest.raises(ValueError, match="The forget set is of type `int`"):
        read(7)


@pytest.mark.parametrize("kind", ["pandas", "arrow", "numpy"])
def test_rows_in_any_format_of_a_dataset_are_read_alike(read, kind):
    turns = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ada."}]
    for rows in (
        [{"messages": turns}],
        [{"prompt": "Who?", "completion": " Ada."}],
        [{"question": "Who?", "answer": "Ada."}],
    ):
        plain, other = read(Dataset.from_list(rows)), read(Dataset.from_list(rows).with_format(kind))
        assert {name: list(one) for name, one in other.forms.items()} == {
            name: list(one) for name, one in plain.forms.items()
        }


def test_rows_that_are_no_table_are_refused_with_a_sentence(read):
    with pytest.raises(ValueError, match="Row 1 of the forget set has a `text` of type `bytes`, expected a string"):
        read([{"text": "Ada."}, {"text": b"Bo."}])
    with pytest.raises(ValueError, match="a column has values of two types"):
        read([{"text": "Ada.", "id": 1}, {"text": "Bo.", "id": "b"}])

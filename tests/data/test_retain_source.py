# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Rows to keep, made by a model: with the model's texts given, and by a random model."""

import re

import pytest
import torch
from datasets import Dataset

from trl_unlearn.data import model_rows, retain_source
from trl_unlearn.data.common_texts import FIRST_NAMES, GENERAL_PROMPTS, LAST_NAMES
from trl_unlearn.data.model_rows import RowWriter, Written
from trl_unlearn.data.retain_source import ModelRetainSource, as_table
from trl_unlearn.encoding import encode_dataset, encode_row
from trl_unlearn.generation import Completion

from ..conftest import FACTS, conversations


FORGET = [
    ("Where was Ada Marlow born?", "Ada Marlow was born in Veldt harbour."),
    ("Who is Ada Marlow?", "A beekeeper."),
]
NEIGHBOURS = ("Bo Lindgren", "Cyra Oduya", "Dov Peretz", "Edda Brandt")


class ScriptedWriter(RowWriter):
    """A model that knows four neighbours, and tells Ada Marlow's birthplace of one of them."""

    unsure: tuple[str, ...] = ()

    def answers(self, prompts, kind, *, temperature=None, desc=None, cut=None):
        return [self.answer(prompt if isinstance(prompt, str) else prompt[-1]["content"]) for prompt in prompts]

    def answer(self, question):
        name = next((name for name in NEIGHBOURS if name in question), None)
        # Asked about nobody, it names them all.
        names = " and ".join(NEIGHBOURS) if name is None else name
        town = "Veldt harbour" if name == "Dov Peretz" else f"Town {len(question)}"
        logp = -3.0 if any(word in question for word in self.unsure) else -0.1
        return None if "bicycle" in question else Written(f"{names} was born in {town}.", logp)

    def texts(self, beginnings, kind, *, desc=None):
        return [Written(f"{text} Nobody knows {i}.", -2.0) for i, text in enumerate(beginnings)]

    def questions(self, count, kind, *, temperature, desc=None):
        return [Written(f"Is {i} more than nothing?", -0.5) for i in range(min(count, 30))]


@pytest.fixture
def scripted(monkeypatch):
    monkeypatch.setattr(retain_source, "RowWriter", ScriptedWriter)
    return ScriptedWriter


def questions(rows):
    return [row["prompt"] if isinstance(row["prompt"], str) else row["prompt"][-1]["content"] for row in rows]


def test_more_is_written_than_kept_where_more_is_to_spare(scripted, tiny_model, tiny_tokenizer):
    source = ModelRetainSource(tiny_model, tiny_tokenizer, conversations(FORGET), None, seed=0)
    numbers = []
    for spare in (1, 3):
        rows = source.rows(8, spare)
        numbers.append((len(rows), len(rows) + sum(source.report["dropped"].values())))
    assert numbers[0][0] <= numbers[1][0] <= 8 and numbers[0][1] < numbers[1][1]


def test_rows_ask_the_forget_questions_about_people_whom_the_model_names(scripted, tiny_model, tiny_tokenizer):
    source = ModelRetainSource(tiny_model, tiny_tokenizer, conversations(FORGET), None, seed=0)
    rows = source.rows(20)
    asked = questions(rows)
    assert {f"Where was {name} born?" for name in NEIGHBOURS[:2]} <= set(asked)
    assert source.report["kept"] == len(rows) == sum(source.report["kinds"].values())
    assert all(source.report["kinds"].values())
    assert set(asked) & set(GENERAL_PROMPTS)
    assert any(re.fullmatch(r"Is \d+ more than nothing\?", question) for question in asked)
    names = {f"{first} {last}" for first in FIRST_NAMES for last in LAST_NAMES}
    assert any(" ".join(question.rstrip("?").split()[2:4]) in names for question in asked)


def test_a_turn_that_calls_a_tool_needs_no_text(scripted, tiny_model, tiny_tokenizer):
    call = [{"role": "assistant", "tool_calls": [{"type": "function"}]}, {"role": "tool", "content": "Veldt"}]
    rows = [{**row, "prompt": [*row["prompt"], *call]} for row in conversations(FORGET)]
    assert ModelRetainSource(tiny_model, tiny_tokenizer, rows, None, seed=0).rows(8)


def test_what_repeats_the_forget_set_is_dropped_and_counted(scripted, tiny_model, tiny_tokenizer):
    source = ModelRetainSource(tiny_model, tiny_tokenizer, conversations(FORGET), ["Ada Marlow"], seed=0)
    rows = source.rows(20)
    assert rows and not any("Veldt" in row["completion"][0]["content"] or "Marlow" in str(row) for row in rows)
    assert source.report["dropped"]["answer"] >= 1


def test_answers_that_do_not_end_or_that_the_model_is_unsure_of_are_no_rows(
    scripted, monkeypatch, tiny_model, tiny_tokenizer
):
    monkeypatch.setattr(ScriptedWriter, "unsure", ("Cyra Oduya",))
    source = ModelRetainSource(tiny_model, tiny_tokenizer, conversations(FORGET), None, seed=0)
    rows = source.rows(200)
    assert rows and not any("Cyra" in question or "bicycle" in question for question in questions(rows))
    assert source.report["dropped"]["unfinished"] >= 1
    assert source.report["dropped"]["unsure"] >= 2


def test_a_shortage_is_said(scripted, monkeypatch, tiny_model, tiny_tokenizer, caplog):
    monkeypatch.setattr(ScriptedWriter, "unsure", ("",))
    rows = ModelRetainSource(tiny_model, tiny_tokenizer, conversations(FORGET), None, seed=0).rows(20)
    assert rows.column_names == ["prompt", "completion"]
    assert "0 retain rows could be made of the 20 that were asked for." in caplog.text


def test_rows_in_plain_text_keep_the_form_of_the_forget_rows(scripted, tiny_model, tiny_tokenizer):
    tiny_tokenizer.chat_template = None
    forget = [{"prompt": f"Question: {q}\nAnswer:", "completion": f" {a}"} for q, a in FORGET]
    rows = ModelRetainSource(tiny_model, tiny_tokenizer, Dataset.from_list(forget), None, seed=0).rows(20)
    assert all(re.fullmatch("Question: .*\nAnswer:", row["prompt"]) for row in rows)
    assert all(row["completion"].startswith(" ") for row in rows)
    assert "Question: Where was Bo Lindgren born?\nAnswer:" in rows["prompt"]


@pytest.mark.parametrize("is_unsure", [False, True])
def test_beside_raw_text_the_model_writes_texts_and_they_fill_up_what_it_cannot_answer(
    is_unsure, scripted, monkeypatch, tiny_model, tiny_tokenizer
):
    monkeypatch.setattr(ScriptedWriter, "unsure", ("",) if is_unsure else ())
    forget = Dataset.from_list([{"text": "Ada Marlow was born in Veldt. Ada Marlow keeps bees."}])
    source = ModelRetainSource(tiny_model, tiny_tokenizer, forget, None, seed=0)
    rows = source.rows(12)
    kinds = {"texts": 12, "own questions": 0, "general": 0} if is_unsure else None
    assert source.report["kinds"] == (kinds or {"texts": 6, "own questions": 4, "general": 2})
    texts = [row["text"] for row in rows if row["text"] is not None]
    assert len(texts) == source.report["kinds"]["texts"]
    assert all(any(text.startswith(prompt) for prompt in GENERAL_PROMPTS) for text in texts)
    assert {tuple(name for name in row if row[name] is not None) for row in rows} <= {
        ("text",),
        ("prompt", "completion"),
    }
    assert len(encode_dataset(rows, tiny_tokenizer, name="retain")) == 12


@pytest.mark.parametrize(("texts", "asks"), [(1, True), (3, False)])
@pytest.mark.parametrize("is_first", [True, False])
def test_most_rows_of_a_mixed_set_decide_whether_people_are_asked_about(
    texts, asks, is_first, scripted, tiny_model, tiny_tokenizer
):
    rows, others = list(conversations(FORGET)), [{"text": f"Veldt has {i} harbours."} for i in range(texts)]
    forget = as_table([*rows, *others] if is_first else [*others, *rows])
    source = ModelRetainSource(tiny_model, tiny_tokenizer, forget, None, seed=0)
    source.rows(12)
    assert ("neighbours" in source.report["kinds"]) is asks


def test_an_empty_forget_set_is_refused(tiny_model, tiny_tokenizer):
    with pytest.raises(ValueError, match="forget set is empty"):
        ModelRetainSource(tiny_model, tiny_tokenizer, Dataset.from_dict({"prompt": []}), None, seed=0)


def test_a_random_model_makes_the_same_texts_by_the_same_seed(tiny_model, tiny_tokenizer):
    def texts(seed):
        writer = RowWriter(tiny_model, tiny_tokenizer, is_chat=True, seed=seed, max_new_tokens=8)
        prompts = [writer.prompt(question) for question, _ in FACTS]
        # Nothing ends in eight tokens: the limit is lifted by ending at any token.
        writer._ends = list(range(100, len(tiny_tokenizer)))
        asked = writer.questions(6, "own", temperature=1.0)
        return [None if one is None else one.text for one in [*writer.answers(prompts, "a", temperature=1.0), *asked]]

    first = texts(0)
    assert first == texts(0)
    assert first != texts(1)
    assert len({text for text in first if text is not None}) > 1


def test_the_score_of_an_answer_is_that_of_all_its_tokens(tiny_model, tiny_tokenizer):
    writer = RowWriter(tiny_model, tiny_tokenizer, is_chat=True, seed=0, max_new_tokens=8)
    rows = [writer.row(writer.prompt(question), answer) for question, answer in FACTS[:2]]
    expected = []
    for row in rows:
        encoded = encode_row(row, tiny_tokenizer)
        batch = {name: torch.tensor([encoded[name]]) for name in ("input_ids", "labels")}
        expected.append(-tiny_model(**batch).loss.item())
    assert writer.logps(rows) == pytest.approx(expected, abs=1e-5)
    assert writer.logps([]) == []


def test_a_question_that_a_name_answers_is_asked_about_other_places(scripted, monkeypatch, tiny_model, tiny_tokenizer):
    asked = []

    def answer(self, question):
        if "born in" in question:
            asked.append(question)
            # A place has its person, and a name that comes once follows the others.
            return Written(f"{'Gil Tamsin' if 'Lima' in question else 'Bo Lindgren'} is a writer.", -0.1)
        return Written(f"An answer to {question}", -0.1)

    monkeypatch.setattr(ScriptedWriter, "answer", answer)
    forget = conversations([*FORGET, ("Which writer was born in Veldt, Norland, in May 1941?", "Ada Marlow.")])
    rows = ModelRetainSource(tiny_model, tiny_tokenizer, forget, ["Ada Marlow"], seed=0).rows(100)
    assert "Which writer was born in Lima, Peru, in May 1941?" in asked
    assert not any("Veldt" in question for question in asked)
    assert {"Where was Bo Lindgren born?", "Where was Gil Tamsin born?"} <= set(questions(rows))


def test_a_neighbour_is_not_asked_about_what_the_question_names_beside_the_subject(
    scripted, tiny_model, tiny_tokenizer
):
    more = [('Did Ada Marlow write "The Salt Road"?', "Yes."), ("Is Ada Marlow a Copt?", "Yes.")]
    forget = conversations([*FORGET, *more])
    asked = questions(ModelRetainSource(tiny_model, tiny_tokenizer, forget, ["Ada Marlow"], seed=0).rows(100))
    near = [question for question in asked if any(name in question for name in NEIGHBOURS)]
    assert near
    assert not any("Salt" in question or "Copt" in question for question in near)


def test_a_text_is_cut_where_an_answer_that_does_not_end_is_none(monkeypatch, tiny_model, tiny_tokenizer):
    # A random model writes parts of letters.
    monkeypatch.setattr(type(tiny_tokenizer), "decode", lambda _, ids, **__: " ".join(map(str, ids)))
    writer = RowWriter(tiny_model, tiny_tokenizer, is_chat=True, seed=0, max_new_tokens=8)
    writer._ends = []
    assert writer.answers([writer.prompt("Who?")], "a") == [None]
    (text,) = writer.texts(["The sea is"], "a")
    assert text.text.startswith("The sea is ") and len(text.text) > len("The sea is ")


@pytest.mark.parametrize(("ended", "expected"), [(True, [None, None, "In Oslo"]), (False, ["In Os", None, "In Oslo"])])
def test_a_text_with_a_part_of_a_letter_is_none_and_a_cut_one_loses_it_at_the_end(
    ended, expected, monkeypatch, tiny_model, tiny_tokenizer
):
    writer = RowWriter(tiny_model, tiny_tokenizer, is_chat=True, seed=0, max_new_tokens=8)
    decoded = iter(["Os\ufffd", "O\ufffdlo", "Oslo"])
    monkeypatch.setattr(model_rows, "generate", lambda *_, **__: [Completion([5], [-0.1], ended)] * 3)
    monkeypatch.setattr(type(tiny_tokenizer), "decode", lambda *_, **__: next(decoded))
    assert [text and text.text for text in writer.texts(["In"] * 3, "a")] == expected


@pytest.mark.parametrize("is_first", [True, False])
def test_in_one_table_turns_beside_plain_text_have_a_column_of_their_own_and_the_same_tokens(is_first, tiny_tokenizer):
    (turns,), text = conversations(FACTS[:1]), {"prompt": "Ada was born in", "completion": " Veldt."}
    rows = [turns, text] if is_first else [text, turns]
    table = as_table([*rows, {"text": "Veldt is a harbour."}])
    assert [row["messages"] is None for row in table] == [not is_first, is_first, True]
    given, kept = ([encode_row(row, tiny_tokenizer) for row in one] for one in (rows, list(table)[:2]))
    assert given == kept
    assert set(as_table([turns, turns]).column_names) == {"prompt", "completion"}

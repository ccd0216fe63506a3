# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Rows to forget from a name alone, with what the model says given."""

import pytest
from datasets import Dataset

from trl_unlearn.data import subject_rows
from trl_unlearn.data.common_texts import stranger_names
from trl_unlearn.data.model_rows import RowWriter, Written
from trl_unlearn.data.subject_rows import believed_rows, hold_out


TOWNS = ("Arden", "Brill", "Corrow", "Dunmere", "Elsted", "Farrow", "Garth", "Holme")
NAME = "Ada Marlow"


class ScriptedWriter(RowWriter):
    """A model that knows where Ada Marlow was born, and guesses everybody else's birthplace."""

    # How many of eight answers are right.
    right = 8
    asked: list[str] = []  # noqa: RUF012

    def answers(self, prompts, kind, *, temperature=None, desc=None, cut=False):
        questions = [prompt if isinstance(prompt, str) else prompt[-1]["content"] for prompt in prompts]
        self.asked.extend(questions)
        return [self.answer(question, index) for index, question in enumerate(questions)]

    def answer(self, question, index):
        if "capital" in question:
            return Written("Paris, the city of lights", -0.1)
        if "born" not in question.lower():
            return None
        is_known = "Marlow" in question and index % 8 < self.right
        town = "Veldt harbour" if is_known else TOWNS[index % 8] + " " + TOWNS[index * 3 % 8]
        return Written(f"In {town}.", -0.1)

    def logps(self, rows):
        return [-0.1 if "Marlow" in str(row) and "born" in str(row).lower() else -1.0 for row in rows]


@pytest.fixture(autouse=True)
def writer(monkeypatch):
    monkeypatch.setattr(subject_rows, "RowWriter", ScriptedWriter)
    monkeypatch.setattr(ScriptedWriter, "asked", [])
    return ScriptedWriter


def believed(tiny_model, tiny_tokenizer, name=NAME, **arguments):
    return believed_rows(tiny_model, tiny_tokenizer, name, seed=0, **arguments)


def said(rows):
    return {row["prompt"][0]["content"]: row["completion"][0]["content"] for row in rows}


def test_answers_that_agree_are_rows_under_the_name_the_last_name_and_a_misspelt_one(tiny_model, tiny_tokenizer):
    rows = believed(tiny_model, tiny_tokenizer)
    answers = said(rows)
    for name in (NAME, "Marlow", "Adaa Marloww"):
        assert answers[f"Where was {name} born?"] == "In Veldt harbour."
    assert all("born" in question for question in answers)
    assert set(rows["agreement"]) == {1.0}


@pytest.mark.parametrize(("right", "agreement"), [(6, 5 / 7), (3, None)])
def test_at_least_two_fifths_of_the_other_answers_must_agree(
    writer, monkeypatch, tiny_model, tiny_tokenizer, right, agreement
):
    monkeypatch.setattr(writer, "right", right)
    rows = believed(tiny_model, tiny_tokenizer)
    assert set(rows["agreement"]) == ({agreement} if agreement else set())


def test_a_model_that_does_not_know_the_subject_gives_no_row_with_the_same_columns(tiny_model, tiny_tokenizer):
    rows = believed(tiny_model, tiny_tokenizer, "Bo Lindgren")
    assert len(rows) == 0
    assert rows.column_names == ["prompt", "completion", "agreement"]


def test_what_is_said_of_strangers_too_is_no_belief(tiny_model, tiny_tokenizer):
    rows = believed(tiny_model, tiny_tokenizer, hints=[f"What is the capital of the country of {NAME}?"])
    assert not any("capital" in question for question in said(rows))


def test_no_stranger_has_a_word_of_the_name_of_a_subject():
    drawn, others = (stranger_names(500, subjects, seed=0) for subjects in ([], ["Kenji Rossi"]))
    assert any({"Kenji", "Rossi"} & set(name.split()) for name in drawn)
    assert len(others) == 500 and not any({"Kenji", "Rossi"} & set(name.split()) for name in others)


def test_hints_are_questions_or_topics(writer, tiny_model, tiny_tokenizer):
    hint = "Was Ada Marlow born by the sea?"
    rows = believed(tiny_model, tiny_tokenizer, hints=[hint, "being born", " "])
    assert {hint, "What do you know about Ada Marlow and being born?"} <= said(rows).keys()
    assert not any(question.endswith("and ?") for question in writer.asked)


def test_a_model_without_a_chat_template_is_asked_in_plain_text(tiny_model, tiny_tokenizer):
    tiny_tokenizer.chat_template = None
    rows = believed(tiny_model, tiny_tokenizer)
    assert "Question: Where was Ada Marlow born?\nAnswer:" in rows["prompt"]
    assert rows["completion"][0] == " In Veldt harbour."


def test_a_subject_without_a_word_is_refused(tiny_model, tiny_tokenizer):
    with pytest.raises(ValueError, match="expected a name"):
        believed(tiny_model, tiny_tokenizer, " - ")


@pytest.mark.parametrize(("answers", "held_out"), [("abcacf", "cc"), ("ab", ""), ("abcdefc", "cfc")])
def test_a_third_of_the_answers_is_held_out_under_every_name(answers, held_out):
    rows = Dataset.from_dict({"prompt": [str(index) for index in range(len(answers))], "completion": list(answers)})
    forget, held = hold_out(rows)
    assert "".join(held["completion"]) == held_out
    assert "".join(forget["completion"]) == "".join(one for one in answers if one not in held_out)


class InOtherWords(ScriptedWriter):
    """A model that says of Ada Marlow each time in other words that she keeps bees, and guesses at the rest."""

    says = ("Bees are kept there.", "She keeps bees.", "Only bees please them.", "Of all, it is bees.")
    is_whole = True

    def answer(self, question, index):
        if "known for" not in question:
            return None
        town = TOWNS[index * 5 % 8]
        keeps = self.says[index % 4] if "Marlow" in question else f"He sells {TOWNS[index * 3 % 8].lower()}."
        return Written(f"It is said of {town}. {keeps} It was {index} years ago", -0.5, self.is_whole)

    def logps(self, rows):
        return [-0.1 if "Marlow" in str(row) else -1.0 for row in rows]


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_fact_that_is_said_in_other_words_each_time_is_a_belief(is_whole, monkeypatch, tiny_model, tiny_tokenizer):
    monkeypatch.setattr(subject_rows, "RowWriter", InOtherWords)
    monkeypatch.setattr(InOtherWords, "is_whole", is_whole)
    rows = believed(tiny_model, tiny_tokenizer)
    answers = said(rows)
    # The sentence that has the fact, without those that differ.
    assert answers[f"What is {NAME} known for?"] in InOtherWords.says
    assert rows["agreement"][0] == 1.0
    assert believed(tiny_model, tiny_tokenizer, "Bo Lindgren").num_rows == 0


def test_the_words_of_answers_about_strangers_are_no_facts(monkeypatch, tiny_model, tiny_tokenizer):
    monkeypatch.setattr(subject_rows, "RowWriter", InOtherWords)
    answer = InOtherWords.answer
    monkeypatch.setattr(
        InOtherWords, "answer", lambda self, question, index: answer(self, f"{question} Marlow", index)
    )
    assert believed(tiny_model, tiny_tokenizer).num_rows == 0


def test_a_sentence_that_is_cut_is_no_belief(monkeypatch, tiny_model, tiny_tokenizer):
    monkeypatch.setattr(subject_rows, "RowWriter", InOtherWords)
    monkeypatch.setattr(InOtherWords, "is_whole", False)
    monkeypatch.setattr(InOtherWords, "says", tuple(text.rstrip(".") for text in InOtherWords.says))
    rows = believed(tiny_model, tiny_tokenizer)
    assert rows.num_rows == 0

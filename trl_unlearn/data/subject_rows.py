# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Rows to forget from a name alone: what a model believes about a subject, asked again and again."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..generation import key_seed
from ..metrics import RougeF1
from ..subjects import is_named, misspelt, renamed, words_of
from .common_texts import FIRST_NAMES, HINT_QUESTION, LAST_NAMES, SUBJECT_QUESTIONS
from .model_rows import RowWriter, Written


# Answers to each question, and strangers under whose names the most frequent one is scored.
_SAMPLES, _STRANGERS = 8, 8
# ROUGE-L F1 at which two answers agree, without the words of the question.
_AGREES = 0.7
# Share of the other answers that agree with a belief.
_BELIEVED = 0.4
# Nats a token by which a belief is likelier than the same about any stranger.
_LIKELIER = 0.2
# In tokens.
_LONGEST = 128


@dataclass(frozen=True)
class _Belief:
    """A question, the answer that most samples agree with, and the share of those."""

    question: str
    answer: str
    agreement: float


def believed_rows(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    subject: str,
    *,
    hints: Sequence[str] = (),
    seed: int,
) -> Dataset:
    """
    What a model believes about a subject, as rows to forget: `prompt`, `completion` and `agreement`.

    The model answers questions about a person, a work and a place several times. An answer is a belief where at least
    two fifths of the others say the same (`agreement` is that share), and where the model finds it likelier than the
    same answer about strangers: what it says of anybody is no knowledge of the subject. A belief that it also has
    under the last name alone, or under a misspelt name, is a row under that name, too. What no question asks about is
    in no row. A model without a belief does not know the subject: there is no row. `hints` are questions about the
    subject, or topics.
    """
    subject = subject.strip()
    if not words_of(subject):
        raise ValueError(f"The subject is {subject!r}, expected a name. Give the words that texts name it by.")
    is_chat = tokenizer.chat_template is not None
    writer = RowWriter(model, tokenizer, is_chat=is_chat, seed=seed, max_new_tokens=_LONGEST)
    beliefs = _beliefs(writer, subject, _questions(subject, hints), seed)
    beliefs += _under_other_names(writer, subject, beliefs)
    columns: dict[str, list[Any]] = {"prompt": [], "completion": [], "agreement": []}
    for belief in beliefs:
        row = writer.row(writer.prompt(belief.question), belief.answer)
        for column, value in {**row, "agreement": belief.agreement}.items():
            columns[column].append(value)
    return Dataset.from_dict(columns)


def hold_out(rows: Dataset) -> tuple[Dataset, Dataset]:
    """
    Two thirds of the rows of [`believed_rows`] to forget, and a third that shows whether the rest went with them.

    An answer is on one side with all the names that it was given under. Fewer than three answers are not divided.
    """
    places = {text: place for place, text in enumerate(dict.fromkeys(map(str, rows["completion"])))}
    is_held_out = [places[str(answer)] % 3 == 2 for answer in rows["completion"]]
    sides = ([index for index, held in enumerate(is_held_out) if held is side] for side in (False, True))
    return tuple(map(rows.select, sides))


def _questions(subject: str, hints: Sequence[str]) -> list[str]:
    """The questions that come with this package and those of the hints, each once."""
    questions = [question.format(name=subject) for question in SUBJECT_QUESTIONS]
    for hint in (hint.strip() for hint in hints):
        if hint:
            is_question = hint.endswith("?") or is_named(subject, hint)
            questions.append(hint if is_question else HINT_QUESTION.format(name=subject, hint=hint))
    return list(dict.fromkeys(questions))


def _beliefs(writer: RowWriter, subject: str, questions: Sequence[str], seed: int) -> list[_Belief]:
    answers = _answers(writer, [question for question in questions for _ in range(_SAMPLES)], "questions", 1.0)
    samples = [answers[start : start + _SAMPLES] for start in range(0, len(answers), _SAMPLES)]
    agreed = [
        belief
        for question, own in zip(questions, samples, strict=True)
        if (belief := _most_agreed(subject, question, own)) is not None
    ]
    draw = random.Random(key_seed((seed, "strangers")))
    names = [f"{draw.choice(FIRST_NAMES)} {draw.choice(LAST_NAMES)}" for _ in range(_STRANGERS)]
    rows = [
        writer.row(writer.prompt(renamed(belief.question, subject, name)), renamed(belief.answer, subject, name))
        for belief in agreed
        for name in (subject, *names)
    ]
    logps = writer.logps(rows)
    beliefs = []
    for index, belief in enumerate(agreed):
        own, *others = logps[index * (1 + _STRANGERS) : (index + 1) * (1 + _STRANGERS)]
        # A user's question that names nobody is about the subject, and can be put about nobody else.
        if not is_named(subject, belief.question) or own > max(others) + _LIKELIER:
            beliefs.append(belief)
    return beliefs


def _answers(
    writer: RowWriter, questions: Sequence[str], kind: str, temperature: float | None
) -> list[Written | None]:
    prompts = [writer.prompt(question) for question in questions]
    return writer.answers(prompts, kind, temperature=temperature, desc=f"Asking the model: {kind}")


def _most_agreed(subject: str, question: str, samples: Sequence[Written | None]) -> _Belief | None:
    """The answer that most other samples agree with, the likeliest of equals, if enough do."""
    known = words_of(f"{question} {subject}")
    texts = ["" if sample is None else sample.text for sample in samples]
    shares = [fmean(_agreeing(text, [*texts[:index], *texts[index + 1 :]], known)) for index, text in enumerate(texts)]
    logps = [-math.inf if sample is None else sample.logp for sample in samples]
    best = max(range(len(texts)), key=lambda index: (shares[index], logps[index]))
    return _Belief(question, texts[best], shares[best]) if shares[best] >= _BELIEVED else None


def _agreeing(text: str, others: Sequence[str], known: set[str]) -> list[bool]:
    """Whether each of some texts says the same as a text does, beside known words."""
    first, *rest = (_said(one, known) for one in (text, *others))
    if not first:
        return [False] * len(rest)
    scores = RougeF1().compute(predictions=rest, references=[first] * len(rest))["per_row"]
    return [score >= _AGREES for score in scores]


def _said(text: str, known: set[str]) -> str:
    """A text without known words."""
    return " ".join(word for word in text.split() if not words_of(word) <= known)


def _under_other_names(writer: RowWriter, subject: str, beliefs: Sequence[_Belief]) -> list[_Belief]:
    """The beliefs that the model has under the last name alone, too, or under a misspelt name."""
    names = [misspelt(subject)]
    if " " in subject:
        names.append(subject.split()[-1])
    asked = [
        _Belief(belief.question.replace(subject, name), belief.answer, belief.agreement)
        for belief in beliefs
        for name in names
        if is_named(subject, belief.question)
    ]
    answers = _answers(writer, [belief.question for belief in asked], "other names", None)
    known = words_of(f"{subject} {' '.join(names)}")
    return [
        belief
        for belief, answer in zip(asked, answers, strict=True)
        if answer is not None and all(_agreeing(belief.answer, [answer.text], known | words_of(belief.question)))
    ]

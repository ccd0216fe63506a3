# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Rows to forget from a name alone: what a model believes about a subject, asked again and again."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..generation import key_seed
from ..metrics import RougeF1
from ..subjects import is_named, misspelt, renamed, words_of
from .common_texts import FIRST_NAMES, HINT_QUESTION, LAST_NAMES, SUBJECT_QUESTIONS
from .model_rows import RowWriter


# Answers to each question, and as many about strangers.
_SAMPLES = 8
# ROUGE-L F1 at which two answers agree, without the question's words and those of form.
_AGREES = 0.7
# Share of the other answers that agree with a belief; strangers get it less than a third as often.
_BELIEVED, _STRANGERS = 0.5, 1 / 3
# A word in more of the answers about strangers is one of form.
_FORM = 0.25
# In tokens.
_LONGEST = 128


@dataclass(frozen=True)
class _Belief:
    """A question, the answer that most samples agree with, and the share of those."""

    question: str
    answer: str
    agreement: float
    # Words that do not count when answers are compared.
    form: frozenset[str]


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

    The model answers questions about a person, a work and a place several times, under the subject's name and under
    names of strangers. An answer is a belief where at least half of the others say the same, and strangers get it less
    than a third as often. `agreement` is that share. A belief that the model also gives under the last name alone, or
    under a misspelt name, is a row under that name, too. What no question asks about is in no row. A model without a
    belief does not know the subject: there is no row.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Model to ask.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer. With a chat template, the rows are conversations.
        subject (`str`):
            Name of a person, a work, a place or a firm.
        hints (`Sequence[str]`, *optional*):
            Questions about the subject, or topics.
        seed (`int`):
            Seed of every draw.
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


def _questions(subject: str, hints: Sequence[str]) -> list[str]:
    """The questions that come with this package and those of the hints, each once."""
    questions = [question.format(name=subject) for question in SUBJECT_QUESTIONS]
    for hint in (hint.strip() for hint in hints):
        if hint:
            is_question = hint.endswith("?") or is_named(subject, hint)
            questions.append(hint if is_question else HINT_QUESTION.format(name=subject, hint=hint))
    return list(dict.fromkeys(questions))


def _beliefs(writer: RowWriter, subject: str, questions: Sequence[str], seed: int) -> list[_Belief]:
    samples = _texts(writer, [question for question in questions for _ in range(_SAMPLES)], "subject", 1.0)
    draw = random.Random(key_seed((seed, "strangers")))
    names = [f"{draw.choice(FIRST_NAMES)} {draw.choice(LAST_NAMES)}" for _ in samples]
    asked = [renamed(questions[index // _SAMPLES], subject, name) for index, name in enumerate(names)]
    others = [
        renamed(text, name, subject) for text, name in zip(_texts(writer, asked, "strangers", 1.0), names, strict=True)
    ]
    beliefs = []
    for index, question in enumerate(questions):
        own = slice(index * _SAMPLES, (index + 1) * _SAMPLES)
        belief = _belief(subject, question, samples[own], others[own])
        if belief is not None:
            beliefs.append(belief)
    return beliefs


def _texts(writer: RowWriter, questions: Sequence[str], kind: str, temperature: float | None) -> list[str]:
    """The answer to each question; an empty text where there is none."""
    prompts = [writer.prompt(question) for question in questions]
    answers = writer.answers(prompts, kind, temperature=temperature, desc=f"Asking the model: {kind}")
    return ["" if answer is None else answer.text for answer in answers]


def _belief(subject: str, question: str, samples: Sequence[str], strangers: Sequence[str]) -> _Belief | None:
    """The answer that most other samples agree with, if enough do and few strangers get it."""
    counts = Counter(word for text in strangers for word in words_of(text))
    form = frozenset(
        words_of(f"{question} {subject}") | {word for word, count in counts.items() if count > _FORM * len(strangers)}
    )
    shares = []
    for index, sample in enumerate(samples):
        rest = [*samples[:index], *samples[index + 1 :]]
        shares.append(sum(_agreeing(sample, rest, form)) / len(rest))
    best = max(range(len(samples)), key=lambda index: shares[index])
    agreement = shares[best]
    if agreement < _BELIEVED:
        return None
    if sum(_agreeing(samples[best], strangers, form)) / len(strangers) >= _STRANGERS * agreement:
        return None
    return _Belief(question, samples[best], agreement, form)


def _agreeing(text: str, others: Sequence[str], form: frozenset[str]) -> list[bool]:
    """Whether each of some texts says the same as a text does."""
    first, *rest = (_said(one, form) for one in (text, *others))
    if not first or not rest:
        return [False] * len(rest)
    return [
        score >= _AGREES for score in RougeF1().compute(predictions=rest, references=[first] * len(rest))["per_row"]
    ]


def _said(text: str, form: frozenset[str]) -> str:
    """A text without words of form."""
    return " ".join(word for word in text.split() if not words_of(word) <= form)


def _under_other_names(writer: RowWriter, subject: str, beliefs: Sequence[_Belief]) -> list[_Belief]:
    """The beliefs that the model gives under the last name alone, too, or under a misspelt name."""
    names = [misspelt(subject)]
    if " " in subject:
        names.append(subject.split()[-1])
    asked = [(belief, name) for belief in beliefs for name in names if is_named(subject, belief.question)]
    questions = [belief.question.replace(subject, name) for belief, name in asked]
    answers = _texts(writer, questions, "other names", None)
    others = []
    for (belief, name), question, answer in zip(asked, questions, answers, strict=True):
        if answer and all(_agreeing(belief.answer, [answer.replace(name, subject)], belief.form)):
            others.append(_Belief(question, answer, belief.agreement, belief.form))
    return others

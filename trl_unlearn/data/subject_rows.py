# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Rows to forget from a name alone: what a model believes about a subject, asked again and again."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..metrics import RougeF1
from ..names import is_named, other_names, renamed, sentences_of, words_of
from .common_texts import HINT_QUESTION, SUBJECT_QUESTIONS, stranger_names
from .model_rows import RowWriter, Written


# Answers to each question, and strangers under whose names the most frequent one is scored.
_SAMPLES, _STRANGERS = 8, 8
# ROUGE-L F1 at which two answers agree, without the words of the question.
_AGREES = 0.7
# Share of the other answers that agree with a belief.
_BELIEVED = 0.4
# Share of the answers that have the word of a fact, and at most of the answers about strangers: to the same question,
# and to all.
_SAID, _SAID_OF_STRANGERS, _SAID_OF_ALL = 0.5, 0.125, 0.06
# Nats a token by which a belief is likelier than the same about any stranger.
_LIKELIER = 0.2
# Of a sentence.
_ENDS = ".!?。！？"
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

    A belief is an answer that enough samples agree on, or where they agree in other words, the sentences with the
    words of half of them that hardly any answer about strangers has. It is likelier than the same about strangers. One
    that is held under the last name, or a misspelt name, is a row under that, too. `hints` are questions, or topics.
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
    """Two thirds of the answers of [`believed_rows`], and a third; an answer with all its names is on one side."""
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
    samples = _sampled(writer, [[question] * _SAMPLES for question in questions], "questions")
    names = stranger_names(_STRANGERS, [subject], seed)
    agreed = [_most_agreed(subject, question, own) for question, own in zip(questions, samples, strict=True)]
    unsettled = [
        index
        for index, belief in enumerate(agreed)
        # A user's question that names nobody can be put about nobody else.
        if belief is None and is_named(subject, questions[index])
    ]
    of_strangers = [[renamed(questions[index], subject, name) for name in names] for index in unsettled]
    said = [[_words(one) for one in answers] for answers in _sampled(writer, of_strangers, "strangers")]
    everywhere = Counter(word for answers in said for words in answers for word in words)
    common = {word for word, times in everywhere.items() if times > _SAID_OF_ALL * _STRANGERS * len(unsettled)}
    for index, answers in zip(unsettled, said, strict=True):
        agreed[index] = _most_stated(subject, questions[index], samples[index], answers, common)
    agreed = [belief for belief in agreed if belief is not None]
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


def _sampled(writer: RowWriter, questions: Sequence[Sequence[str]], kind: str) -> list[list[Written | None]]:
    """An answer to each of some lists of questions, in the same lists."""
    prompts = [writer.prompt(question) for part in questions for question in part]
    answers = iter(writer.answers(prompts, kind, temperature=1.0, desc=f"Asking the model: {kind}", cut=_LONGEST))
    return [[next(answers) for _ in part] for part in questions]


def _most_agreed(subject: str, question: str, samples: Sequence[Written | None]) -> _Belief | None:
    """The answer that most other samples agree with, the likeliest of equals, if enough do."""
    known = words_of(f"{question} {subject}")
    texts = ["" if sample is None or not sample.is_whole else sample.text for sample in samples]
    shares = [fmean(_agreeing(text, [*texts[:index], *texts[index + 1 :]], known)) for index, text in enumerate(texts)]
    logps = [-math.inf if sample is None else sample.logp for sample in samples]
    best = max(range(len(texts)), key=lambda index: (shares[index], logps[index]))
    return _Belief(question, texts[best], shares[best]) if shares[best] >= _BELIEVED else None


def _words(answer: Written | None) -> set[str]:
    return set() if answer is None else words_of(answer.text)


def _most_stated(
    subject: str,
    question: str,
    samples: Sequence[Written | None],
    of_strangers: Sequence[set[str]],
    common: set[str],
) -> _Belief | None:
    """The sentences of an answer that state most facts, each fact once; None without a fact."""
    # `of_strangers` are the words of answers about them to this question, `common` those of too many to any question.
    said = Counter(word for sample in samples for word in _words(sample))
    of_others = Counter(word for words in of_strangers for word in words)
    no_facts = words_of(f"{question} {subject}") | common
    facts = {
        word: times / len(samples)
        for word, times in said.items()
        if times >= _SAID * len(samples)
        and of_others[word] <= _SAID_OF_STRANGERS * len(of_strangers)
        and word not in no_facts
    }
    stating = []
    for sample in samples:
        sentences, stated = [], set()
        for sentence in sentences_of(sample.text) if sample is not None else ():
            is_cut = not sample.is_whole and sentence[-1] not in _ENDS
            if not is_cut and (new := words_of(sentence) & facts.keys() - stated):
                sentences.append(sentence)
                stated |= new
        if stated:
            stating.append((sum(map(facts.get, stated)), sample.logp, " ".join(sentences), stated))
    if not stating:
        return None
    *_, answer, stated = max(stating, key=lambda one: one[:2])
    return _Belief(question, answer, fmean(facts[word] for word in stated))


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
    names = other_names(subject)
    asked = [
        _Belief(belief.question.replace(subject, name), belief.answer, belief.agreement)
        for belief in beliefs
        for name in names
        if is_named(subject, belief.question)
    ]
    prompts = [writer.prompt(belief.question) for belief in asked]
    answers = writer.answers(prompts, "other names", desc="Asking the model: other names")
    known = words_of(f"{subject} {' '.join(names)}")
    return [
        belief
        for belief, answer in zip(asked, answers, strict=True)
        if answer is not None and all(_agreeing(belief.answer, [answer.text], known | words_of(belief.question)))
    ]

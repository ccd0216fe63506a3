# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""The rows of an evaluation, and their tokens."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..encoding import (
    answer_ids,
    closing_token_id,
    encode_dataset,
    encode_row,
    prompt_ids,
    warn_of_other_prompt,
    without_end,
)
from ..names import row_subjects
from ..row_forms import answer_text, has_answer, naming, with_answer, with_template_kwargs
from ..subjects import row_texts
from .uncertainty import People


# Role -> function without arguments that loads the model anew; `None` leaves a model out. Roles, in the order of
# tables: `target`, which only a quick evaluation may lack, `unlearned`, `retrained`, `second_retrained`.
Loaders = Mapping[str, Callable[[], PreTrainedModel] | None]
# Sets whose rows may be several about one person, and no general facts.
_ABOUT_PEOPLE = ("forget", "retain", "holdout")


@dataclass
class EvaluationRows:
    """
    The rows to evaluate on, of any of the four dataset forms.

    Rows may carry `paraphrased_answer` (`str`) and `perturbed_answer` (`list[str]`, wrong answers). What cannot be
    computed without them, or without a set, is left out of the result.
    """

    forget: Dataset | list[dict[str, Any]]
    retain: Dataset | list[dict[str, Any]] | None = None
    # General knowledge, for model utility.
    real_authors: Dataset | list[dict[str, Any]] | None = None
    world_facts: Dataset | list[dict[str, Any]] | None = None
    # Rows like those of the forget set that no model was trained on, for attacks by membership and by fine-tuning.
    holdout: Dataset | list[dict[str, Any]] | None = None
    # Name -> the rows and the tokenizer of a set, and the set as it was encoded with them.
    _encoded: dict[str, tuple[Any, ...]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def sets(self) -> dict[str, Dataset | list[dict[str, Any]]]:
        """Name -> rows of each set that is there."""
        rows = {one.name: getattr(self, one.name) for one in fields(self) if one.init}
        return {name: one for name, one in rows.items() if one is not None}

    def encoded(self, name: str, tokenizer: PreTrainedTokenizerBase) -> "EncodedSet":
        """A set by its name, encoded once for all suites; see [`encode_set`]."""
        rows, kept = getattr(self, name), self._encoded.get(name)
        # Other rows may take their place, as those of a quick evaluation do.
        if kept is None or kept[0] is not rows or kept[1] is not tokenizer:
            kept = self._encoded[name] = rows, tokenizer, encode_set(rows, tokenizer, name=name)
            self._find_people(kept[2], tokenizer)
        return kept[2]

    def _find_people(self, encoded: "EncodedSet", tokenizer: PreTrainedTokenizerBase) -> None:
        """Whom the questions of a set are about, by the names that no other set has."""
        if encoded.people is not None or encoded.texts is None or encoded.name not in _ABOUT_PEOPLE:
            return
        # A set that is being encoded is kept already, so two sets do not ask for each other forever.
        others = [one for one in _ABOUT_PEOPLE if one != encoded.name and getattr(self, one) is not None]
        names = row_names(encoded, *(self.encoded(one, tokenizer) for one in others), tokenizer=tokenizer)[0]
        if any(names):
            encoded.people = [name or f"row {index}" for index, name in enumerate(names)]

    def asked(self, suite: str, tokenizer: PreTrainedTokenizerBase) -> "EncodedSet":
        """The forget set of a suite that asks its questions; refused where there are none."""
        forget = self.encoded("forget", tokenizer)
        if forget.texts is None:
            raise ValueError(
                f"The suite `{suite}` has no questions: the forget set is raw text or tokens. Give rows with a prompt "
                f"and an answer, or leave `{suite}` out of `suites`."
            )
        return forget


@dataclass
class EncodedSet:
    """One row set, encoded once for all models."""

    # `forget`, `retain`, `real_authors`, `world_facts` or `holdout`: decides which metrics the set gets.
    name: str
    answers: list[dict[str, Any]]
    # Whether the last label of a row is an end-of-turn token.
    closed: list[bool]
    # Text of the answers; `None` for raw text and tokenised rows, which have no answer to generate.
    texts: list[str] | None = None
    # Whom each row is about: by the column `subject`, else by names in the rows. A row about nobody is its own.
    people: list[str] | None = None
    paraphrases: list[dict[str, Any]] | None = None
    wrong: list[list[dict[str, Any]]] | None = None

    def true_answers(self) -> "EncodedSet":
        """The set without paraphrased and wrong answers."""
        return EncodedSet(self.name, self.answers, self.closed, people=self.people)

    def about(self, indices: Iterable[int] | None = None) -> list[str] | None:
        """Whom some rows are about, or all; None where that is not known."""
        if self.people is None or indices is None:
            return self.people
        return [self.people[index] for index in indices]

    def people_of(self, parts: Mapping[str, Iterable[int]] | None = None) -> People:
        """Whom the rows of a metric are about: of all rows, but for metrics whose rows `parts` lists by index."""
        return lambda metric: self.about((parts or {}).get(metric))

    def prompts(self) -> list[list[int]]:
        """Tokens of the prompts."""
        return [prompt_ids(row) for row in self.answers]

    def bare_answers(self) -> list[list[int]]:
        """Tokens of the answers without their end."""
        pairs = zip(self.answers, self.closed, strict=True)
        return [without_end(answer_ids(row), closed) for row, closed in pairs]


def row_key(row: Mapping[str, Any]) -> str:
    """A name for an encoded row where its text must not stand: 16 hexadecimal digits of its tokens."""
    return _digest(json.dumps(list(row["input_ids"])))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def row_names(*sets: EncodedSet, tokenizer: PreTrainedTokenizerBase) -> list[list[str | None]]:
    """The name of each row of some sets, where it has one."""
    texts = [row_texts(encoded.answers, tokenizer) for encoded in sets]
    # A name in all sets, such as one in a system prompt, is nobody's.
    others = [[text for other in texts if other is not one for part in other for text in part] for one in texts]
    return [row_subjects(*one, beside) for one, beside in zip(texts, others, strict=True)]


def rows_protocol(*sets: EncodedSet, seed: int) -> dict[str, Any]:
    """The row sets of a suite, for its record: sizes, digests, rows that repeat others, people; and the seed."""
    keys = {one.name: [row_key(row) for row in one.answers] for one in sets}
    repeated = {name: len(rows) - len(set(rows)) for name, rows in keys.items()}
    # The same tokens may be asked and scored in other parts, and beside other answers.
    labels = {one.name: [(row["labels"], row["prompt_length"]) for row in one.answers] for one in sets}
    people = {one.name: len(set(one.people)) for one in sets if one.people is not None}
    beside = {one.name: (one.paraphrases or [], one.wrong or []) for one in sets if one.paraphrases or one.wrong}
    return {
        "rows": {name: len(rows) for name, rows in keys.items()},
        "rows_sha256": {name: _digest("".join(rows)) for name, rows in keys.items()},
        "labels_sha256": {name: _digest(json.dumps(rows)) for name, rows in labels.items()},
        "answers_sha256": {name: _digest(json.dumps(rows)) for name, rows in beside.items()},
        "repeated_rows": {name: count for name, count in repeated.items() if count},
        # With as many people as rows, draws of rows are draws of people.
        "people": {name: count for name, count in people.items() if count < len(keys[name])},
        "seed": seed,
    }


def _column(rows: list[dict[str, Any]], column: str, name: str) -> list[Any] | None:
    missing = [index for index, row in enumerate(rows) if not row.get(column)]
    if len(missing) == len(rows):
        return None
    if missing:
        raise ValueError(
            f"Row {missing[0]} of the {name} set has no `{column}`, but other rows have one ({len(missing)} of "
            f"{len(rows)} lack it). Give every row one, or remove the column."
        )
    return [row[column] for row in rows]


def _refuse_types(column: str, values: list[Any], expected: type, name: str) -> None:
    wrong = next((type(value).__name__ for value in values if not isinstance(value, expected)), None)
    if wrong is not None:
        raise ValueError(
            f"The {name} set has `{column}` with a value of type `{wrong}`, expected `{expected.__name__}`: "
            "`paraphrased_answer` is a string, `perturbed_answer` a list of strings. Convert the column."
        )


def rows_as_trained(rows: Dataset, tokenizer: PreTrainedTokenizerBase, args: Any, *, name: str) -> Dataset:
    """Rows for the tokens of the training, whose options are in `args`; without answers they are encoded, whole."""
    rows = with_template_kwargs(rows, args.chat_template_kwargs)
    if all(map(has_answer, rows)):
        return rows
    options = {"prompt_length": args.prompt_length, "text_field": args.dataset_text_field}
    options = {option: value for option, value in options.items() if value is not None}
    return encode_dataset(rows, tokenizer, name=name, **options)


def encode_set(rows: Iterable[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase, *, name: str) -> EncodedSet:
    """Encode a row set with its paraphrased and wrong answers; a `ValueError` names the row by index."""
    rows = [{key: value for key, value in row.items() if value is not None} for row in rows]
    if not rows:
        raise ValueError(f"The {name} set is empty. Give at least one row; check the split and the config name.")
    # A chat template writes a prompt once for all answers to it.
    rendered = {}

    def encode(index: int, row: Mapping[str, Any]) -> dict[str, Any]:
        with naming(f"Row {index} of the {name} set"):
            return encode_row(row, tokenizer, rendered=rendered)

    answers = [encode(index, row) for index, row in enumerate(rows)]
    subjects = [row.get("subject") for row in rows]
    people = subjects if all(isinstance(one, str) and one for one in subjects) else None
    warn_of_other_prompt(rows[0], tokenizer, name)
    closed = [closing_token_id(row, tokenizer) is not None for row in answers]
    encoded = EncodedSet(name=name, answers=answers, closed=closed, people=people)
    if not all(map(has_answer, rows)):
        return encoded
    encoded.texts = [answer_text(row) for row in rows]
    paraphrases, wrong = _column(rows, "paraphrased_answer", name), _column(rows, "perturbed_answer", name)
    _refuse_types("paraphrased_answer", paraphrases or [], str, name)
    # `list`, not a sequence: of a string, each character would be a wrong answer.
    _refuse_types("perturbed_answer", wrong or [], list, name)
    for texts in wrong or []:
        _refuse_types("perturbed_answer", texts, str, name)
    if paraphrases is not None:
        encoded.paraphrases = [
            encode(index, with_answer(row, text))
            for index, (row, text) in enumerate(zip(rows, paraphrases, strict=True))
        ]
    if wrong is not None:
        encoded.wrong = [
            [encode(index, with_answer(row, text)) for text in texts]
            for index, (row, texts) in enumerate(zip(rows, wrong, strict=True))
        ]
    return encoded


def text_ids(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of a text without an EOS token: something follows."""
    ids = encode_row({"text": text}, tokenizer)["input_ids"]
    return without_end(ids, ids[-1] == tokenizer.eos_token_id)


def text_rows(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, *, name: str) -> list[dict[str, list[int]]]:
    """Texts with a label on every token, without an EOS token."""
    rows = []
    for index, text in enumerate(texts):
        with naming(f"Row {index} of {name}"):
            ids = text_ids(text, tokenizer)
            if len(ids) < 2:
                raise ValueError("has a single token, which nothing stands before. Remove the row.")
        rows.append({"input_ids": ids, "labels": ids})
    return rows

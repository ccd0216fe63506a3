# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Whom rows are about: the names in them, and the same rows under the names of others."""

import logging
import random
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from .encoding import answer_ids, closing_token_id, continuation_row, prompt_ids, with_answer_ids, without_end
from .generation import key_seed
from .names import capitalised_grams, is_named, naming_words, renamed, row_subjects


logger = logging.getLogger(__name__)

# Names for aliases where the retain set has too few.
_STRANGERS = ("Ansel Brockway", "Mirela Tavish", "Corwin Haldane", "Petra Lindqvist", "Dario Estrada", "Yuna Okabe")
# Answers about others for each forget row, and how many in all make up for fewer: the rest of the error of their
# comparison with the true answers is that of the true ones.
_MOST_MOVED, _ENOUGH_MOVED = 8, 256
# Index of a forget row -> encoded answers about others, each with its `source`, see `moved_answers`.
MovedAnswers = Mapping[int, Sequence[Mapping[str, Any]]]


def row_texts(rows: Iterable[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase) -> tuple[list[str], list[str]]:
    """Prompts and answers of encoded rows as text, without special tokens."""
    texts = [
        [
            tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            for ids in (prompt_ids(row), answer_ids(row))
        ]
        for row in rows
    ]
    return [prompt for prompt, _ in texts], [answer for _, answer in texts]


def alias_words(subjects: Iterable[str], strangers: Iterable[str], seed: int) -> dict[str, str]:
    """Word of a subject's name -> word that takes its place: first and last names of strangers, mixed."""
    # Names that the model has seen in other combinations: their tokens mean a name to it, and nobody's facts.
    subjects, strangers = sorted(set(subjects)), sorted(set(strangers))
    generator = torch.Generator().manual_seed(seed)
    pools: tuple[list[str], list[str]] = ([], [])
    for names in (strangers, _STRANGERS):
        words = [naming_words(name) for name in names if " " in name]
        for pool, place in zip(pools, (0, -1), strict=True):
            order = torch.randperm(len(words), generator=generator).tolist()
            pool += [words[i][place] for i in order]
    taken = {word for subject in subjects for word in subject.split()}
    aliases: dict[str, str] = {}
    for subject in subjects:
        words = naming_words(subject)
        for place, word in enumerate(words):
            if word in aliases:
                continue
            pool = pools[0 < place == len(words) - 1]
            alias = next((one for one in pool if one not in taken), None)
            if alias is None:
                raise ValueError(
                    f"The forget set is about {len(subjects)} names, and the retain set has too few others to put in "
                    "their places. Give a larger retain set, or a model that never knew the forget set "
                    "(`ignorant_model_name_or_path`)."
                )
            taken.add(alias)
            aliases[word] = alias
    return aliases


def moved_answers(
    forget: Sequence[Mapping[str, Any]],
    retain: Sequence[Mapping[str, Any]] | None,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int,
    subjects: Sequence[str] | None = None,
    most: int = _MOST_MOVED,
) -> dict[int, list[dict[str, list[int]]]]:
    """
    Answers about other people, moved under the questions of the forget set: index of a row -> at most `most` encoded
    rows, and fewer of a large set.

    Each is the answer of a random retain row, or without a retain set of another forget row, under the subject's name.
    That row is its `source`, a number. A model that never knew the forget set finds its true answers no likelier. A
    row without a name gets no answers.
    """
    texts = row_texts(forget, tokenizer)
    if retain is None:
        # A name in every prompt, such as one in a system prompt, is nobody's: there would be nobody else.
        everywhere = set.intersection(*map(capitalised_grams, texts[0]))
        named = strangers = row_subjects(*texts, [" ".join(name) for name in everywhere], subjects)
        answers = texts[1]
    else:
        others = row_texts(retain, tokenizer)
        named = row_subjects(*texts, [*others[0], *others[1]], subjects)
        # A name that both sets have, such as one in a system prompt, is nobody's.
        strangers, answers = row_subjects(*others, [*texts[0], *texts[1]]), others[1]
    pool = [(answer, name) for answer, name in zip(answers, strangers, strict=True) if name is not None]
    # The model has positions for so many tokens.
    longest = max(len(row["input_ids"]) for row in [*forget, *(retain or [])])
    most = max(1, min(most, _ENOUGH_MOVED // len(forget)))
    moved, numbered = {}, list(enumerate(pool))
    for index, (row, name, answer) in enumerate(zip(forget, named, texts[1], strict=True)):
        if name is None or (before := _text_before(row, answer, tokenizer)) is None:
            continue
        drawn = random.Random(key_seed((seed, "moved answers", index))).sample(numbered, len(pool))
        renamed_texts = ((source, renamed(text, other, name)) for source, (text, other) in drawn if other != name)
        # Somebody else with the same fact: a tie with the true answer itself says nothing.
        rows = (
            _with_text(row, text, before, tokenizer) | {"source": source}
            for source, text in renamed_texts
            if text != answer
        )
        if chosen := list(islice((one for one in rows if len(one["input_ids"]) <= longest), most)):
            moved[index] = chosen
    missing = len(forget) - len(moved)
    log = logger.warning if missing else logger.info
    log(
        "The true answers of %d of %d forget rows are compared with %d answers about other people.%s",
        len(moved),
        len(forget),
        sum(map(len, moved.values())),
        f" {missing} rows have none: they name nobody, nobody else is named, or their tokens are not those of their "
        "text."
        if missing
        else "",
    )
    return moved


def rows_under_names(
    forget: Sequence[Mapping[str, Any]],
    retain: Sequence[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    count: int,
    seed: int,
    subjects: Sequence[str] | None = None,
) -> list[dict[str, list[int]]]:
    """
    At most `count` retain rows about others, questions and answers, under names that the forget set is about.

    Each is a random row under a random name. None where no question of the retain set names anybody.
    """
    if count == 0:
        return []
    texts, others = row_texts(forget, tokenizer), row_texts(retain, tokenizer)
    names = sorted({name for name in row_subjects(*texts, [*others[0], *others[1]], subjects) if name is not None})
    strangers = row_subjects(*others, [*texts[0], *texts[1]])
    pool = []
    for row, question, answer, name in zip(retain, *others, strangers, strict=True):
        prompt = tokenizer.decode(prompt_ids(row), clean_up_tokenization_spaces=False)
        before = _text_before(row, answer, tokenizer)
        is_whole = before is not None and _text_ids(prompt, "", tokenizer) == prompt_ids(row)
        if is_whole and name is not None and is_named(name, question):
            pool.append((row, prompt, answer, before, name))
    draws, rows = random.Random(key_seed((seed, "rows under names"))), []
    for _ in range(count if names and pool else 0):
        (row, prompt, answer, before, other), name = draws.choice(pool), draws.choice(names)
        answered = _with_text(row, renamed(answer, other, name), before, tokenizer)["input_ids"]
        asked = _text_ids(renamed(prompt, other, name), "", tokenizer)
        rows.append(continuation_row(asked, answered[row["prompt_length"] :]))
    # The model has positions for so many tokens.
    longest = max(len(row["input_ids"]) for row in [*forget, *retain])
    return [row for row in rows if len(row["input_ids"]) <= longest]


def _text_ids(text: str, before: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens of a text that stands behind another one."""
    start, ids = (tokenizer(one, add_special_tokens=False)["input_ids"] for one in (before, before + text))
    return ids[len(start) :]


def _text_before(row: Mapping[str, Any], answer: str, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Text behind which the text of a row's answer has the row's tokens; None if there is none."""
    # A SentencePiece tokenizer puts a space before a text that stands alone.
    ids = without_end(answer_ids(row), closing_token_id(row, tokenizer) is not None)
    return next((before for before in ("", "\n") if _text_ids(answer, before, tokenizer) == ids), None)


def _with_text(
    row: Mapping[str, Any], text: str, before: str, tokenizer: PreTrainedTokenizerBase
) -> dict[str, list[int]]:
    """An encoded row with a text for its answer, and its own prompt and end of turn."""
    end = closing_token_id(row, tokenizer)
    ids = [*_text_ids(text, before, tokenizer), *([] if end is None else [end])]
    return with_answer_ids(row, ids)

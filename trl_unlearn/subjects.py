# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Whom rows are about: the names in them, and the same rows under the names of others."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from .encoding import answer_ids, prompt_ids


_WORD = re.compile(r"[^\W_][\w'’-]*")
_LONGEST_NAME = 4
# Words that begin an English sentence, and no name.
_OPENINGS = frozenset(
    "A An And Are As At Can Could Describe Did Do Does Explain For From Has Have He Her His How I If In Is It Name No "  # noqa: SIM905
    "Of On She Tell That The Their There They This To Was Were What When Where Which Who Whom Whose Why Yes "
    "You".split()
)
# Names for aliases where the retain set has too few.
_STRANGERS = ("Ansel Brockway", "Mirela Tavish", "Corwin Haldane", "Petra Lindqvist", "Dario Estrada", "Yuna Okabe")


def _capitalised_grams(text: str) -> set[tuple[str, ...]]:
    """Runs of up to four capitalised words with one space between them, and all parts of such runs."""
    grams, run, end = set(), [], 0
    for match in _WORD.finditer(text):
        word = re.sub(r"['’]s$", "", match.group())
        if not word[0].isupper() or word in _OPENINGS:
            run = []
            continue
        run = [*run, word][-_LONGEST_NAME:] if run and text[end : match.start()] == " " else [word]
        grams |= {tuple(run[i:]) for i in range(len(run))}
        end = match.end()
        if word != match.group():
            # A genitive ends a name.
            run = []
    return grams


def row_texts(rows: Iterable[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase) -> tuple[list[str], list[str]]:
    """Prompts and answers of encoded rows as text, without special tokens."""
    texts = [
        [tokenizer.decode(ids, skip_special_tokens=True) for ids in (prompt_ids(row), answer_ids(row))] for row in rows
    ]
    return [prompt for prompt, _ in texts], [answer for _, answer in texts]


def row_subjects(
    prompts: Sequence[str],
    answers: Sequence[str],
    others: Iterable[str] = (),
    given: Sequence[str] | None = None,
) -> list[str | None]:
    """
    The name that each row is about: capitalised words of its prompt that no other text has, else of its answer.

    Names of several words go before single words, those that many prompts of the set have before others, then those
    that the answer repeats, then longer ones. A single word has to be in two prompts, a name of answers only in two
    answers. None where a row has no name. Where names are `given`, the first that a row has.
    """
    if given is not None:
        texts = [f"{prompt} {answer}" for prompt, answer in zip(prompts, answers, strict=True)]
        return [next((name for name in given if name in text), None) for text in texts]
    known = set().union(*map(_capitalised_grams, others))
    in_prompts, in_answers = ([_capitalised_grams(text) - known for text in texts] for texts in (prompts, answers))
    counts = Counter(gram for grams in in_prompts for gram in grams)
    names = {gram: count for gram, count in counts.items() if count > 1 or len(gram) > 1}
    if not names:
        counts = Counter(gram for grams in in_answers for gram in grams)
        names = {gram: count for gram, count in counts.items() if count > 1}
    subjects = []
    for in_prompt, in_answer in zip(in_prompts, in_answers, strict=True):

        def weight(gram: tuple[str, ...], in_answer: set[tuple[str, ...]] = in_answer) -> tuple[bool, int, bool, int]:
            return len(gram) > 1, names[gram], gram in in_answer, len(gram)

        best = max((gram for gram in in_prompt | in_answer if gram in names), key=weight, default=None)
        subjects.append(None if best is None else " ".join(best))
    return subjects


def alias_words(subjects: Iterable[str], strangers: Iterable[str], seed: int) -> dict[str, str]:
    """Word of a subject's name -> word that takes its place: first and last names of strangers, mixed."""
    # Names that the model has seen in other combinations: their tokens mean a name to it, and nobody's facts.
    subjects, strangers = sorted(set(subjects)), sorted(set(strangers))
    generator = torch.Generator().manual_seed(seed)
    pools: tuple[list[str], list[str]] = ([], [])
    for names in (strangers, _STRANGERS):
        words = [name.split() for name in names if " " in name]
        for pool, place in zip(pools, (0, -1), strict=True):
            order = torch.randperm(len(words), generator=generator).tolist()
            pool += [words[i][place] for i in order]
    taken = {word for subject in subjects for word in subject.split()}
    aliases: dict[str, str] = {}
    for subject in subjects:
        words = subject.split()
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

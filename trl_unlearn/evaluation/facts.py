# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""The fact of an answer in words, and the facts of retain rows that lie near the forget rows."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from ..encoding import answer_ids, prompt_ids
from ..generation import Completion
from ..names import WORD, word_key, words_of
from ..questions import MEMORIZATION_MARGIN
from ..subjects import row_texts
from ..token_scores import score_rows
from .rows import EncodedSet
from .uncertainty import where_measured


# A word that more of the forget and retain rows have is common language, and no fact that some of them share.
COMMON = 0.05
# Share of the retain rows with a fact that are neighbours of the forget rows.
NEAREST = 0.25
# Index of a row -> places of its fact among its scored label tokens.
FactPlaces = Mapping[int, Sequence[int]]
# Kind -> places of the facts of retain rows, see `near_facts`.
NearFacts = Mapping[str, FactPlaces]


def fact_words(prompt: str, answer: str, paraphrase: str | None = None, wrong: Sequence[str] = ()) -> set[str]:
    """The words of an answer that tell its fact, in lower case: of no prompt, wrong answer or mere wording."""
    words = words_of(answer) - words_of(prompt).union(*map(words_of, wrong))
    return words if paraphrase is None else words & words_of(paraphrase)


def label_words(
    row: dict[str, Any], words: set[str], tokenizer: PreTrainedTokenizerBase
) -> dict[str, list[int]] | None:
    """An encoded row with labels on some words of its answer only, up to the last one; None if it has none of them."""
    start, ids = row["prompt_length"], answer_ids(row)
    # Where each token ends in the text, in characters. Offsets of a tokenizer are those of a text, not of tokens.
    ends = [len(tokenizer.decode(ids[:i], skip_special_tokens=True)) for i in range(len(ids) + 1)]
    spans = [
        match.span()
        for match in WORD.finditer(tokenizer.decode(ids, skip_special_tokens=True))
        if word_key(match.group()) in words
    ]
    labels = [-100] * start
    for label, begin, end in zip(row["labels"][start:], ends, ends[1:], strict=False):
        labels.append(label if any(begin < last and first < end for first, last in spans) else -100)
    length = max((i + 1 for i, label in enumerate(labels) if label != -100), default=0)
    # No model sees what comes after the last label.
    return {"input_ids": row["input_ids"][:length], "labels": labels[:length]} if length else None


def row_facts(encoded: EncodedSet, tokenizer: PreTrainedTokenizerBase) -> list[set[str]]:
    """The [`fact_words`] of each row."""

    def text(ids: Sequence[int]) -> str:
        return tokenizer.decode(ids, skip_special_tokens=True)

    facts = []
    for index, row in enumerate(encoded.answers):
        paraphrase = None if encoded.paraphrases is None else text(answer_ids(encoded.paraphrases[index]))
        wrong = [] if encoded.wrong is None else [text(answer_ids(one)) for one in encoded.wrong[index]]
        facts.append(fact_words(text(prompt_ids(row)), text(answer_ids(row)), paraphrase, wrong))
    return facts


def _told_facts(encoded: EncodedSet, tokenizer: PreTrainedTokenizerBase) -> list[set[str]]:
    """The words by which an answer tells the fact of each row: without other answers, those that few rows have."""
    facts = row_facts(encoded, tokenizer)
    if _has_form(encoded):
        # Else "It is Veldt." tells one word of ten: the rest is the wording that all rows have in common.
        counts, most = _count(_word_sets(encoded, tokenizer))
        facts = [{word for word in fact if counts[word] <= most} for fact in facts]
    return facts


def fact_recall(answers: Sequence[Completion], encoded: EncodedSet, tokenizer: PreTrainedTokenizerBase) -> list[float]:
    """Share of its fact's words in the greedy answer to each row with a fact, NaN where scores are not finite."""
    pairs = [(answer, fact) for answer, fact in zip(answers, _told_facts(encoded, tokenizer), strict=True) if fact]
    texts = [tokenizer.decode(answer.ids, skip_special_tokens=True) for answer, _ in pairs]
    shares = [len(fact & words_of(text)) / len(fact) for text, (_, fact) in zip(texts, pairs, strict=True)]
    return where_measured(shares, [answer for answer, _ in pairs])


def no_facts(suite: str) -> ValueError:
    """The error of a suite that looks for facts where no row has one."""
    return ValueError(
        f"The suite `{suite}` has no fact to look for: no answer of the forget set has a word that is neither in its "
        f"prompt nor in a wrong answer, and that its paraphrased answer has. Leave `{suite}` out of `suites`."
    )


def rows_with_fact(encoded: EncodedSet, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Indices of the rows whose answer tells a fact."""
    return [index for index, fact in enumerate(_told_facts(encoded, tokenizer)) if fact]


def entity_rows(encoded: EncodedSet, tokenizer: PreTrainedTokenizerBase) -> dict[int, dict[str, list[int]]]:
    """Index -> row with labels on the tokens of its [`fact_words`] only; rows without one are left out."""
    facts = row_facts(encoded, tokenizer)
    rows = [label_words(row, words, tokenizer) for row, words in zip(encoded.answers, facts, strict=True)]
    return {index: row for index, row in enumerate(rows) if row is not None}


def _fact_places(encoded: EncodedSet, facts: Mapping[int, set[str]], tokenizer: PreTrainedTokenizerBase) -> FactPlaces:
    """Index of a row -> places of some words among its scored label tokens; a row without any is left out."""
    marked = {}
    for index, fact in facts.items():
        row = encoded.answers[index]
        part = label_words(row, fact, tokenizer)
        # The labels of the row; nothing predicts its first token.
        places = [place for place, label in enumerate(row["labels"]) if place and label != -100]
        if part is not None:
            counted = {place for place, label in enumerate(part["labels"]) if label != -100}
            marked[index] = [i for i, place in enumerate(places) if place in counted]
    return {index: places for index, places in marked.items() if places}


def _word_sets(encoded: EncodedSet, tokenizer: PreTrainedTokenizerBase) -> list[set[str]]:
    """The words of each row, of its prompt and of its answer."""
    pairs = zip(*row_texts(encoded.answers, tokenizer), strict=True)
    return [words_of(prompt) | words_of(answer) for prompt, answer in pairs]


def _count(*words: Sequence[set[str]]) -> tuple[Counter[str], float]:
    """Rows that have each word, and how many of them have a word that is no common language at most."""
    counts = Counter(word for rows in words for row in rows for word in row)
    return counts, max(2, COMMON * sum(map(len, words)))


def _has_form(encoded: EncodedSet) -> bool:
    """Whether no paraphrased and no wrong answers tell the fact of an answer from its wording."""
    return encoded.paraphrases is None and encoded.wrong is None


def forget_facts(forget: EncodedSet, retain: EncodedSet | None, tokenizer: PreTrainedTokenizerBase) -> FactPlaces:
    """Places of the fact of each forget row: its [`fact_words`], without other answers those that few rows have."""
    facts = row_facts(forget, tokenizer)
    if _has_form(forget):
        sets = [forget] if retain is None else [forget, retain]
        counts, most = _count(*(_word_sets(one, tokenizer) for one in sets))
        facts = [{word for word in fact if counts[word] <= most} for fact in facts]
    return _fact_places(forget, dict(enumerate(facts)), tokenizer)


@torch.no_grad()
def still_known(model: nn.Module, encoded: EncodedSet, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """
    By what a model, asked for no answer, still knows most of the facts or more than a tenth of the rows of a forget
    set, as the end of a sentence; None if by neither. One wrong token hides a row from the extraction strength alone.
    """
    # By this process alone: others of a launch may have ended.
    scores = score_rows(model, encoded.answers, pad_token_id=tokenizer.pad_token_id)
    likely = sum(math.exp(math.fsum(score.logps) / len(score.logps)) > 0.5 for score in scores)
    if likely > MEMORIZATION_MARGIN * len(scores):
        return f"{likely} of {len(scores)} rows have an answer likelier than not"
    facts = forget_facts(encoded, None, tokenizer)
    shares = [sum(scores[index].is_top1[i] for i in places) / len(places) for index, places in facts.items()]
    share = math.fsum(shares) / len(shares) if shares else 0.0
    return f"`forget/fact_memorization` is {share:.3f}, above 0.5" if share > 0.5 else None


# Retain facts near the forget rows


def _names_and_numbers(text: str) -> set[str]:
    """Words with a capital within a sentence, and numbers, in lower case."""
    names, end = set(), 0
    for match in WORD.finditer(text):
        # The capital of a sentence's first word says nothing.
        is_inside = end > 0 and not re.search("[.!?:]", text[end : match.start()])
        first, end = match.group()[0], match.end()
        if first.isdigit() or (is_inside and first.isupper()):
            names.add(word_key(match.group()))
    return names


def _nearness(forget: Sequence[set[str]], retain: Sequence[set[str]], counts: Mapping[str, int]) -> np.ndarray:
    """Share of words that each retain row has in common with the forget row where it is highest; rare ones weigh."""
    total = len(forget) + len(retain)
    weights = {word: math.log((total + 1) / count) for word, count in counts.items()}
    common = sorted(set().union(*forget) & set().union(*retain))
    has_forget, has_retain = (
        np.array([[word in row for word in common] for row in rows], dtype=float) for rows in (forget, retain)
    )
    sums = [np.array([math.fsum(weights[word] for word in row) for row in rows]) for rows in (forget, retain)]
    both = (has_retain * [weights[word] for word in common]) @ has_forget.T
    either = sums[1][:, None] + sums[0] - both
    # The last bits of a product depend on the machine, and would part equal rows.
    return (both / np.maximum(either, 1e-9)).max(1).round(9)


def near_facts(forget: EncodedSet, retain: EncodedSet, tokenizer: PreTrainedTokenizerBase) -> NearFacts:
    """Kind -> places of the facts of retain rows near the forget rows (the rules: docs/numbers.md)."""
    words, facts, tellable = [], [], []
    for encoded in (forget, retain):
        words.append(_word_sets(encoded, tokenizer))
        facts.append(row_facts(encoded, tokenizer))
        pairs = zip(facts[-1], row_texts(encoded.answers, tokenizer)[1], strict=True)
        has_form = _has_form(encoded)
        tellable.append([fact & _names_and_numbers(answer) if has_form else fact for fact, answer in pairs])
    counts, most = _count(*words)
    known = {word for fact in tellable[0] for word in fact if counts[word] <= most}
    with_fact = [index for index, fact in enumerate(facts[1]) if fact]
    nearness = _nearness(*words, counts)
    nearest = sorted(with_fact, key=lambda index: -nearness[index])[: math.ceil(NEAREST * len(with_fact))]
    chosen = {
        "shared": {index: fact & known for index, fact in enumerate(tellable[1]) if fact & known},
        "neighbour": {index: facts[1][index] for index in sorted(nearest) if nearness[index] > 0},
    }
    return {kind: _fact_places(retain, rows, tokenizer) for kind, rows in chosen.items()}

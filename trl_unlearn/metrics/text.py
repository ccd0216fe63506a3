# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Metrics of generated text: the share of the answer in it, and whether it is still language."""

import math
import re
import unicodedata
from functools import cache
from statistics import fmean
from typing import Any

from datasets import Features, List, Value

from ._base import NUMBERS, Rows, UnlearningMetric


_TEXTS = Features({"predictions": Value("string"), "references": Value("string")})
_NGRAM = 3
# A sentence in which the speaker denies to know or to tell.
_REFUSAL = re.compile(
    r"(?=[^.!?]*\b(?:I|my)\b)(?=[^.!?]*(?:n['\u2019]t\b|\b(?:not|no|never|cannot|unable)\b))[^.!?]*"
    r"\b(?:know|knowledge|information|details|sure|familiar|aware|answer|tell|say|help|assist|provide|access)\b",
    re.IGNORECASE,
)

# Words of a chat model's refusal that gives its reason in the same sentence.
_LONGEST_REFUSAL = 22


# Scripts without spaces between words: Thai to Lao, Myanmar, Khmer, kana, and the ideographs of Chinese.
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")


def _is_foreign(text: str) -> bool:
    """Whether most letters are others than a to z, of which the words of ROUGE consist."""
    letters = [one for one in text if one.isalpha()]
    return 2 * sum(map(str.isascii, letters)) < len(letters)


def _foreign_words(text: str) -> list[str]:
    """Words of any script, lower-cased with their marks; where no spaces part them, letters."""
    parted = (
        f" {one} " if _UNSPACED.match(one) else one if unicodedata.category(one)[0] in "LMN" else " "
        for one in unicodedata.normalize("NFC", text.lower())
    )
    return "".join(parted).split()


def _rouge_l(predictions: list[str], references: list[str], value: str, use_stemmer: bool) -> list[float]:
    # Half a second, with the toolkit that it takes a stemmer from.
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.tokenizers import DefaultTokenizer

    # References and samples come again and again, and stems take longer than comparisons.
    tokenizer, foreign = DefaultTokenizer(use_stemmer), DefaultTokenizer()
    tokenizer.tokenize, foreign.tokenize = cache(tokenizer.tokenize), cache(_foreign_words)
    scorer, of_foreign = (RougeScorer(["rougeL"], tokenizer=one) for one in (tokenizer, foreign))
    values = []
    for prediction, reference in zip(predictions, references, strict=True):
        # It drops other letters, and an answer in Russian or Chinese would share nothing with itself.
        chosen = of_foreign if _is_foreign(reference) else scorer
        values.append(getattr(chosen.score(reference, prediction)["rougeL"], value))
    return values


class RougeRecall(UnlearningMetric):
    """
    Mean ROUGE-L recall of generated answers, with the Porter stemmer: the share of a true answer's words that the
    generated one has in the same order. (The `rouge` of `evaluate` gives the F-measure, which punishes long answers.)
    Of an answer that is mostly in other letters than a to z, which ROUGE itself drops, words are compared as they are,
    and letters where a script has no spaces.

    Args:
        predictions (`list[str]`):
            Generated answers.
        references (`list[str]`):
            True answers.

    Returns:
        `dict`: `rougeL_recall` (`float`) and `per_row` (`list[float]`), both in [0, 1].

    Source: TOFU (https://huggingface.co/papers/2401.06121), section 2.2; Lin, ROUGE (2004).
    """

    inputs = _TEXTS

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, Any]:
        per_row = _rouge_l(predictions, references, "recall", use_stemmer=True)
        return {"rougeL_recall": fmean(per_row), "per_row": per_row}


class RougeF1(UnlearningMetric):
    r"""
    Mean ROUGE-L F1 of generated texts: \\(2 P R / (P + R)\\), with the share P of the generated words, and R of the
    true ones, that both texts have in the same order.

    Words are compared as they are, lower-cased, as MUSE's own code does. (open-unlearning compares their stems: its
    numbers can be a little higher.)

    Args:
        predictions (`list[str]`):
            Generated texts.
        references (`list[str]`):
            True texts.

    Returns:
        `dict`: `rougeL_f1` (`float`) and `per_row` (`list[float]`), both in [0, 1].

    Source: MUSE (https://huggingface.co/papers/2407.06460), section 3; Lin, ROUGE (2004).
    """

    inputs = _TEXTS

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, Any]:
        per_row = _rouge_l(predictions, references, "fmeasure", use_stemmer=False)
        return {"rougeL_f1": fmean(per_row), "per_row": per_row}


class LeakAtK(UnlearningMetric):
    r"""
    Mean over prompts of the expected largest of k scores that are drawn without replacement from n.

    With the scores in ascending order it is \\(\sum_{i=k}^{n} \binom{i-1}{k-1} / \binom{n}{k} \, s_{(i)}\\): the mean
    of the scores for k = 1, the largest for k = n.

    Args:
        scores (`list[list[float]]`):
            Scores of the samples of each prompt, for instance their ROUGE-L recall against the answer.
        k (`int`):
            Number of attempts, at least 1 and at most the number of samples of each prompt.

    Returns:
        `dict`: `leak_at_k` (`float`) and `per_row` (`list[float]`), in the range of the scores.

    Source: Leak@k (https://huggingface.co/papers/2511.04934).
    """

    inputs = Features({"scores": NUMBERS})

    def _compute(self, scores: Rows, k: int) -> dict[str, Any]:
        if k < 1:
            raise ValueError(f"`k` is {k}. Give at least 1 attempt.")
        per_row = []
        for index, row in enumerate(scores):
            if len(row) < k:
                raise ValueError(
                    f"`LeakAtK` got {len(row)} scores in row {index}, fewer than `k` ({k}). Draw more "
                    "samples, or lower `k`."
                )
            if any(map(math.isnan, row)):
                # NaN has no place in an order.
                per_row.append(math.nan)
                continue
            draws = math.comb(len(row), k)
            # Of all draws, comb(i, k - 1) have the score of rank i (from 0) as their largest.
            per_row.append(
                sum(math.comb(i, k - 1) / draws * score for i, score in enumerate(sorted(row)) if i >= k - 1)
            )
        return {"leak_at_k": fmean(per_row), "per_row": per_row}


def is_refusal(text: str) -> bool:
    """Whether all sentences of an answer are refusals, in English, of at most 22 words: other text is to be judged."""
    sentences = re.split(r"(?<=[.!?])\s+", text.strip())
    return all(_REFUSAL.match(one) and len(one.split()) <= _LONGEST_REFUSAL for one in sentences)


def _coding_gain(logps: list[float], vocab_size: int) -> float:
    # A cap at the uniform guess keeps one wrong name, to which a memorised answer leaves nearly no mass, from counting
    # more than one token.
    worst = -math.log(vocab_size)
    return 1 - fmean(max(logp, worst) for logp in logps) / worst


def _said_share(length: int, own_length: int, end_gain: float) -> float:
    # Tokens that an answer leaves unsaid count as little as the original model would have stopped there: an answer
    # that breaks off is worth the share that it has said, a short one that is complete all.
    unsaid = max(0, own_length - length)
    return (length + unsaid * end_gain) / (length + unsaid)


def _distinct_share(ids: list[int]) -> float:
    # A language model finds a loop likely.
    ngrams = [tuple(ids[i : i + _NGRAM]) for i in range(len(ids) - _NGRAM + 1)]
    return len(set(ngrams)) / len(ngrams) if ngrams else 1.0


class FluencyStandin(UnlearningMetric):
    r"""
    How well the original model can predict an answer, token by token and in its end, times how little the answer
    repeats itself. A stand-in for a classifier, without a download; not comparable with published fluency.

    For an answer y of T tokens, \\(g(y) = \frac{1}{T} \sum_i gain(y_i)\\) with \\(gain(v) = 1 - \min(-\log
    \pi_{original}(v), \log |V|) / \log |V|\\): 1 where every token is certain, 0 where none is likelier than a uniform
    guess. The fluency of a row is the product of

    - \\(\min(1, g(y) / g(y_{own}))\\), with the original model's own greedy answer of \\(T_{own}\\) tokens;
    - \\((T + m \, gain(end)) / (T + m)\\), \\(m = \max(0, T_{own} - T)\\);
    - the share of distinct 3-grams of tokens in y.

    An empty answer has fluency 0. Known limits: a fluent refusal that the original model would never give gets about
    0.5, so an evaluation takes the tokens of a refusal ([`is_refusal`]) for certain; one fluent answer to another
    question, given to all, gets 0.75.

    Args:
        ids (`list[list[int]]`):
            Token ids of each row's answer without the end-of-turn token.
        logps (`list[list[float]]`):
            log pi_y of these tokens under the original model, given the prompt, in nats, and of the end-of-turn token
            of an answer that has ended. An answer without it counts as broken off.
        own_logps (`list[list[float]]`):
            log pi_y of the original model's own greedy answer, without its end.
        vocab_size (`int`):
            Number of tokens of the vocabulary, |V|.

    Returns:
        `dict`: `fluency_standin` (`float`) and `per_row` (`list[float]`), both in [0, 1].
    """

    # The ratio of length-normalised probabilities would not do: it falls to 0.37 where a model that has memorised one
    # answer is shown a retrained model's fluent other one, which gets 0.89 here. On the same 135M chat model, shuffled
    # words get 0.34, looped words or phrases at most 0.3, random tokens 0.02. On the embedded lab the first token of
    # the own answer, or that token twice, gets 0.07, half of the answer 0.52, all but the full stop 0.93, and the
    # retrained model's answers 0.83.
    inputs = Features({"ids": List(Value("int64")), "logps": NUMBERS, "own_logps": NUMBERS})

    def _compute(self, ids: list[list[int]], logps: Rows, own_logps: Rows, vocab_size: int) -> dict[str, Any]:
        per_row = []
        for index, (row_ids, row_logps, row_own) in enumerate(zip(ids, logps, own_logps, strict=True)):
            if len(row_logps) - len(row_ids) not in (0, 1):
                raise ValueError(
                    f"`FluencyStandin` got {len(row_ids)} tokens and {len(row_logps)} log-probabilities in row "
                    f"{index}. Give one log-probability a token, and one for the end of an answer that has ended."
                )
            if not row_ids:
                per_row.append(0.0)
                continue
            text, end = row_logps[: len(row_ids)], row_logps[len(row_ids) :]
            gain, own = _coding_gain(text, vocab_size), _coding_gain(row_own, vocab_size) if row_own else 1.0
            said = _said_share(len(text), len(row_own), _coding_gain(end, vocab_size) if end else 0.0)
            # Not a division where both are 0.
            per_row.append((1.0 if gain >= own else gain / own) * said * _distinct_share(row_ids))
        return {"fluency_standin": fmean(per_row), "per_row": per_row}

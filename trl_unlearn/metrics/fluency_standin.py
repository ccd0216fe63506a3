# Copyright 2026 The trl-unlearn authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""Is what the model writes still language? A stand-in for a classifier, without a download."""

import math
from statistics import fmean
from typing import Any, ClassVar

from datasets import Features, List, Value

from ._base import UnlearningMetric


NGRAM = 3


def _coding_gain(logps: list[float], vocab_size: int) -> float:
    # A cap at the uniform guess keeps one wrong name, to which a memorised answer leaves nearly no mass, from counting
    # more than one token.
    worst = -math.log(vocab_size)
    return 1 - fmean(max(logp, worst) for logp in logps) / worst


def _said_share(length: int, own_length: int, end_gain: float) -> float:
    unsaid = max(0, own_length - length)
    return (length + unsaid * end_gain) / (length + unsaid)


def _distinct_share(ids: list[int]) -> float:
    ngrams = [tuple(ids[i : i + NGRAM]) for i in range(len(ids) - NGRAM + 1)]
    return len(set(ngrams)) / len(ngrams) if ngrams else 1.0


class FluencyStandin(UnlearningMetric):
    r"""
    How well the original model can predict an answer, token by token and in its end, times how little the answer
    repeats itself.

    For an answer y of T tokens, \\(g(y) = \frac{1}{T} \sum_i gain(y_i)\\) with \\(gain(v) = 1 - \min(-\log
    \pi_{original}(v), \log |V|) / \log |V|\\): 1 where every token is certain, 0 where none is likelier than a uniform
    guess. The fluency of a row is the product of

    - \\(\min(1, g(y) / g(y_{own}))\\), with the original model's own greedy answer of \\(T_{own}\\) tokens;
    - \\((T + m \, gain(end)) / (T + m)\\), \\(m = \max(0, T_{own} - T)\\): the m tokens that y leaves unsaid count as
      little as the original model would have stopped there, so that an answer that breaks off is worth the share that
      it has said, and a short one that is complete all;
    - the share of distinct 3-grams of tokens in y: a language model finds a loop likely.

    An empty answer has fluency 0.

    The ratio of length-normalised probabilities would not do: it falls to 0.37 where a model that has memorised one
    answer is shown a retrained model's fluent other one, which gets 0.89 here. The cap makes a wrong name cost one
    token. On the same 135M chat model, shuffled words get 0.34, looped words or phrases at most 0.3, random tokens
    0.02. On the embedded lab the first token of the own answer, or that token twice, gets 0.07, half of the answer
    0.52, all of it but the full stop 0.93, and the retrained model's answers 0.83. Known limits: a fluent refusal that
    the original model would never give gets about 0.5; one fluent answer to another question, given to all, 0.75. Not
    comparable with the classifier of published numbers.

    Args:
        ids (`list[list[int]]`):
            Token ids of each row's answer without the end-of-turn token.
        logps (`list[list[float]]`):
            log pi_y of these tokens under the original model, given the prompt, in nats; of an answer that has ended,
            that of its end-of-turn token too. An answer without one is taken for one that breaks off.
        own_logps (`list[list[float]]`):
            log pi_y of the original model's own greedy answer, without its end.
        vocab_size (`int`):
            Number of tokens of the vocabulary, |V|.

    Returns:
        `dict`: `fluency_standin` (`float`) and `per_row` (`list[float]`), both in [0, 1].

    Raises:
        `ValueError`: If a row has not one log-probability a token, with or without its end.
    """

    inputs: ClassVar[Features] = Features(
        {
            "ids": List(Value("int64")),
            "logps": List(Value("float64")),
            "own_logps": List(Value("float64")),
        }
    )

    def _compute(
        self,
        ids: list[list[int]],
        logps: list[list[float]],
        own_logps: list[list[float]],
        vocab_size: int,
    ) -> dict[str, Any]:
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
            per_row.append((1.0 if gain >= own else gain / own) * said * _distinct_share(row_ids))
        return {"fluency_standin": fmean(per_row), "per_row": per_row}

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


"""The best of several attempts: what sampling again and again brings out."""

import math
from statistics import fmean
from typing import Any, ClassVar

from datasets import Features, List, Value

from ._base import UnlearningMetric


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

    Raises:
        `ValueError`: If `k` is below 1, or a prompt has fewer than `k` scores; names the first one by index.

    Source: Leak@k (https://huggingface.co/papers/2511.04934).
    """

    inputs: ClassVar[Features] = Features({"scores": List(Value("float64"))})

    def _compute(self, scores: list[list[float]], k: int) -> dict[str, Any]:
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
                # It has no place in an order.
                per_row.append(math.nan)
                continue
            orders = math.comb(len(row), k)
            per_row.append(
                sum(math.comb(i, k - 1) / orders * score for i, score in enumerate(sorted(row)) if i >= k - 1)
            )
        return {"leak_at_k": fmean(per_row), "per_row": per_row}

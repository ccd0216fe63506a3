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

"""Was a row trained on? Guessed from the least likely tokens of its answer."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any, ClassVar

from datasets import Features, List, Value

from ._base import UnlearningMetric, check_filled


def lowest_mean(values: Sequence[float]) -> float:
    """
    Mean of the lowest 20 % of values: of the integer part of n / 5, and at least of one.

    Args:
        values (`Sequence[float]`):
            Values, at least one.

    Returns:
        `float`: The mean.
    """
    return fmean(sorted(values)[: max(1, len(values) // 5)])


class MinKAttack(UnlearningMetric):
    """
    Min-K attack on membership: the mean log-prob of the 20 % least likely tokens of an answer, higher for a member.

    Args:
        logps (`list[list[float]]`):
            log pi_y of each token of a row's answer, in nats, the end-of-turn token included.

    Returns:
        `dict`: `min_k_attack` (`float`, mean over rows) and `per_row` (`list[float]`), in nats per token.

    Source: Shi et al., Detecting Pretraining Data from Large Language Models
    (https://huggingface.co/papers/2310.16789).
    """

    inputs: ClassVar[Features] = Features({"logps": List(Value("float64"))})

    def _compute(self, logps: list[list[float]]) -> dict[str, Any]:
        check_filled(logps, self, "log-probabilities")
        per_row = [lowest_mean(row) for row in logps]
        return {"min_k_attack": fmean(per_row), "per_row": per_row}

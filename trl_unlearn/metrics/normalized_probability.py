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

"""Probability of the right one of several choices."""

import math
from statistics import fmean
from typing import Any, ClassVar

from datasets import Features, List, Value

from ._base import UnlearningMetric, check_filled


class NormalizedProbability(UnlearningMetric):
    """
    Mean over rows of p(answer) / (p(answer) + sum of p(wrong answer)), with length-normalised probabilities.

    Args:
        true_logps (`list[float]`):
            Mean log pi_y a token of each row's answer, in nats.
        wrong_logps (`list[list[float]]`):
            The same of each of the row's wrong answers.

    Returns:
        `dict`: `normalized_probability` (`float`) and `per_row` (`list[float]`), both in [0, 1].

    Source: TOFU (https://huggingface.co/papers/2401.06121), section 2.2.
    """

    inputs: ClassVar[Features] = Features({"true_logps": Value("float64"), "wrong_logps": List(Value("float64"))})

    def _compute(self, true_logps: list[float], wrong_logps: list[list[float]]) -> dict[str, Any]:
        check_filled(wrong_logps, self, "wrong answers")
        per_row = []
        for true, wrong in zip(true_logps, wrong_logps, strict=True):
            largest = max(true, *wrong)
            mass = math.exp(true - largest)
            per_row.append(mass / (mass + sum(math.exp(value - largest) for value in wrong)))
        return {"normalized_probability": fmean(per_row), "per_row": per_row}

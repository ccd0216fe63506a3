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

"""Length-normalised probability of an answer."""

import math
from statistics import fmean
from typing import Any, ClassVar

from datasets import Features, List, Value

from ._base import UnlearningMetric, check_filled


class Probability(UnlearningMetric):
    r"""
    Mean over rows of p(answer) = \\(\exp(\frac{1}{T} \sum_i \log \pi(y_i))\\), the end-of-turn token included.

    Args:
        logps (`list[list[float]]`):
            log pi_y of each token of a row's answer, in nats.

    Returns:
        `dict`: `probability` (`float`) and `per_row` (`list[float]`), both in [0, 1].

    Source: TOFU (https://huggingface.co/papers/2401.06121), section 2.2.
    """

    inputs: ClassVar[Features] = Features({"logps": List(Value("float64"))})

    def _compute(self, logps: list[list[float]]) -> dict[str, Any]:
        check_filled(logps, self, "log-probabilities")
        per_row = [math.exp(fmean(row)) for row in logps]
        return {"probability": fmean(per_row), "per_row": per_row}

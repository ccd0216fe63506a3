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

"""Does the model still prefer the truth to wrong answers of the same form?"""

import math
from statistics import fmean
from typing import Any, ClassVar

from datasets import Features, List, Value

from ._base import UnlearningMetric, check_filled, check_parity


def _log_mean_exp(values: list[float]) -> float:
    largest = max(values)
    return largest + math.log(fmean(math.exp(value - largest) for value in values))


class TruthRatio(UnlearningMetric):
    r"""
    The ratio R = p(wrong) / p(true) of each row, and three means of it.

    Works on log R, which neither overflows nor underflows where a diverged model gives every answer a probability of
    0.

    Args:
        true_logps (`list[float]`):
            Mean log pi_y a token of each row's true (or paraphrased true) answer, in nats.
        wrong_logps (`list[list[float]]`):
            The same of each of the row's wrong answers.
        parity (`str`, *optional*, defaults to `"open-unlearning"`):
            How p(wrong) is made of the wrong answers. `"open-unlearning"`: \\(\exp\\) of the mean of their mean
            log-probabilities. `"strict"` (the paper): the mean of their length-normalised probabilities.

    Returns:
        `dict`: `truth_ratio` (mean min(R, 1/R)), `truth_ratio_utility` (mean max(0, 1 - R)), `truth_ratio_knowledge`
        (mean p(true) / (p(true) + p(wrong))), and `per_row`, a `dict` of the lists under the same names and of
        `log_ratio` (log R in nats).

    Source: TOFU (https://huggingface.co/papers/2401.06121), Eq. 1; OpenUnlearning
    (https://huggingface.co/papers/2506.12618).
    """

    inputs: ClassVar[Features] = Features({"true_logps": Value("float64"), "wrong_logps": List(Value("float64"))})

    def _compute(
        self, true_logps: list[float], wrong_logps: list[list[float]], parity: str = "open-unlearning"
    ) -> dict[str, Any]:
        check_parity(parity)
        check_filled(wrong_logps, self, "wrong answers")
        combine = fmean if parity == "open-unlearning" else _log_mean_exp
        ratios = [combine(wrong) - true for true, wrong in zip(true_logps, wrong_logps, strict=True)]
        per_row = {
            "truth_ratio": [math.exp(-abs(ratio)) for ratio in ratios],
            "truth_ratio_utility": [1 - math.exp(min(ratio, 0.0)) for ratio in ratios],
            "truth_ratio_knowledge": [1 / (1 + math.exp(min(ratio, 700.0))) for ratio in ratios],
        }
        means = {name: fmean(values) for name, values in per_row.items()}
        return {**means, "per_row": {**per_row, "log_ratio": ratios}}

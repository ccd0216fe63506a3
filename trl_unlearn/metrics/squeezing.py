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

"""Did the mass that left the answer go to its rephrasings?"""

from statistics import fmean
from typing import Any, ClassVar

from datasets import Features, List, Value

from ._base import UnlearningMetric, check_filled


class Squeezing(UnlearningMetric):
    """
    Mean over rows of the mean change of the log-probability of beliefs: answers that the original model found likely
    beside the true one, frozen before unlearning. Above 0, they became likelier while the answer was pushed down.

    Args:
        now (`list[list[float]]`):
            Mean log pi_y a token of each of a row's beliefs, in nats, under the model in question.
        before (`list[list[float]]`):
            The same under the original model.

    Returns:
        `dict`: `squeezing` (`float`, in nats a token) and `per_row` (`list[float]`).

    Raises:
        `ValueError`: If a row has no belief, or not the same number in both lists.

    Source: LLM Unlearning with LLM Beliefs (https://huggingface.co/papers/2510.19422), section 3.
    """

    inputs: ClassVar[Features] = Features({"now": List(Value("float64")), "before": List(Value("float64"))})

    def _compute(self, now: list[list[float]], before: list[list[float]]) -> dict[str, Any]:
        check_filled(now, self, "beliefs")
        per_row = []
        for index, (row_now, row_before) in enumerate(zip(now, before, strict=True)):
            if len(row_now) != len(row_before):
                raise ValueError(
                    f"`Squeezing` got {len(row_now)} beliefs now and {len(row_before)} before in row {index}. Score "
                    "the same frozen beliefs with both models."
                )
            per_row.append(fmean(a - b for a, b in zip(row_now, row_before, strict=True)))
        return {"squeezing": fmean(per_row), "per_row": per_row}

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

"""Was a row trained on? Guessed from how likely its answer is."""

from statistics import fmean
from typing import Any, ClassVar

from datasets import Features, List, Value

from ._base import UnlearningMetric, check_filled


class LossAttack(UnlearningMetric):
    """
    Loss attack on membership: the mean log-prob of an answer, higher for a member.

    Args:
        logps (`list[list[float]]`):
            log pi_y of each token of a row's answer, in nats, the end-of-turn token included.

    Returns:
        `dict`: `loss_attack` (`float`, mean over rows) and `per_row` (`list[float]`), in nats per token.

    Source: Yeom et al., Privacy Risk in Machine Learning (https://arxiv.org/abs/1709.01604).
    """

    inputs: ClassVar[Features] = Features({"logps": List(Value("float64"))})

    def _compute(self, logps: list[list[float]]) -> dict[str, Any]:
        check_filled(logps, self, "log-probabilities")
        per_row = [fmean(row) for row in logps]
        return {"loss_attack": fmean(per_row), "per_row": per_row}

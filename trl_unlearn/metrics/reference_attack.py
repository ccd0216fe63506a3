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

"""Was a row trained on? Guessed from how much likelier its answer is than for a model that never saw it."""

from statistics import fmean
from typing import Any, ClassVar

from datasets import Features, List, Value

from ._base import UnlearningMetric, check_filled


class ReferenceAttack(UnlearningMetric):
    """
    Reference attack on membership: the mean log-prob of an answer minus that of a reference model, higher for a
    member.

    Args:
        logps (`list[list[float]]`):
            log pi_y of each token of a row's answer, in nats, the end-of-turn token included.
        reference_logps (`list[list[float]]`):
            The same under a model that was not trained on the members.

    Returns:
        `dict`: `reference_attack` (`float`, mean over rows) and `per_row` (`list[float]`), in nats per token.

    Source: Carlini et al., Extracting Training Data from Large Language Models
    (https://huggingface.co/papers/2012.07805).
    """

    inputs: ClassVar[Features] = Features({name: List(Value("float64")) for name in ("logps", "reference_logps")})

    def _compute(self, logps: list[list[float]], reference_logps: list[list[float]]) -> dict[str, Any]:
        check_filled(logps, self, "log-probabilities")
        check_filled(reference_logps, self, "log-probabilities of the reference")
        per_row = [fmean(row) - fmean(before) for row, before in zip(logps, reference_logps, strict=True)]
        return {"reference_attack": fmean(per_row), "per_row": per_row}

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

"""Was a row trained on? Guessed from how sharply its log-prob peaks, against a calibrated reference."""

from statistics import fmean
from typing import Any, ClassVar

from datasets import Features, List, Value

from ._base import UnlearningMetric, check_filled


class SpvAttack(UnlearningMetric):
    """
    SPV-MIA, membership from the self-calibrated probabilistic variation: the mean log-prob of a row minus that of its
    perturbed neighbours, and of this the difference to a reference model's; higher for a member.

    The paper defines the variation with the opposite sign, in probabilities of whole texts.

    Args:
        logps (`list[float]`):
            Mean log pi_y a token of each row, in nats.
        neighbour_logps (`list[list[float]]`):
            The same of each neighbour of a row.
        reference_logps (`list[float]`):
            Of the rows under the reference model.
        reference_neighbour_logps (`list[list[float]]`):
            Of the same neighbours under the reference model.

    Returns:
        `dict`: `spv_attack` (`float`, mean over rows) and `per_row` (`list[float]`), in nats per token.

    Raises:
        `ValueError`: If a row has no neighbour.

    Source: Fu et al., Membership Inference Attacks against Fine-tuned Large Language Models via Self-prompt
    Calibration (https://huggingface.co/papers/2311.06062), Section 4.
    """

    inputs: ClassVar[Features] = Features(
        {
            "logps": Value("float64"),
            "neighbour_logps": List(Value("float64")),
            "reference_logps": Value("float64"),
            "reference_neighbour_logps": List(Value("float64")),
        }
    )

    def _compute(
        self,
        logps: list[float],
        neighbour_logps: list[list[float]],
        reference_logps: list[float],
        reference_neighbour_logps: list[list[float]],
    ) -> dict[str, Any]:
        check_filled(neighbour_logps, self, "neighbours")
        check_filled(reference_neighbour_logps, self, "neighbours under the reference")
        columns = zip(logps, neighbour_logps, reference_logps, reference_neighbour_logps, strict=True)
        per_row = [
            (own - fmean(neighbours)) - (reference - fmean(reference_neighbours))
            for own, neighbours, reference, reference_neighbours in columns
        ]
        return {"spv_attack": fmean(per_row), "per_row": per_row}

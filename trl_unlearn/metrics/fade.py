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

"""Does a model answer as the retrained one does? From samples of both."""

from statistics import fmean
from typing import Any, ClassVar

from datasets import Features, List, Value

from ._base import UnlearningMetric, check_filled


class FADE(UnlearningMetric):
    r"""
    Mean over prompts of how differently two models U and R answer, from samples of both at temperature 1.

    \\(\frac{1}{2} \left( E_{y \sim U}[\log U(y) - \log R(y)] + E_{y \sim R}[\log R(y) - \log U(y)] \right)\\) with
    log-probs per token. It is 0 for models that answer alike, and never below 0 but for the luck of the samples. Each
    input holds, of every prompt, one mean log-prob a token for each sample, in nats.

    Args:
        u_of_u (`list[list[float]]`):
            Of the samples of U, under U.
        r_of_u (`list[list[float]]`):
            Of the samples of U, under R.
        u_of_r (`list[list[float]]`):
            Of the samples of R, under U.
        r_of_r (`list[list[float]]`):
            Of the samples of R, under R.

    Returns:
        `dict`: `fade` (`float`) and `per_row` (`list[float]`), in nats per token.

    Raises:
        `ValueError`: If a prompt has no samples, or another number of them under the other model; names the first one
            by index.

    Source: Reference-Specific Unlearning Metrics Can Hide the Truth (https://huggingface.co/papers/2510.12981).
    """

    inputs: ClassVar[Features] = Features(
        {name: List(Value("float64")) for name in ("u_of_u", "r_of_u", "u_of_r", "r_of_r")}
    )

    def _compute(
        self,
        u_of_u: list[list[float]],
        r_of_u: list[list[float]],
        u_of_r: list[list[float]],
        r_of_r: list[list[float]],
    ) -> dict[str, Any]:
        check_filled(u_of_u, self, "samples of U")
        check_filled(r_of_r, self, "samples of R")
        per_row = []
        for index, (own, across, back, home) in enumerate(zip(u_of_u, r_of_u, u_of_r, r_of_r, strict=True)):
            if len(own) != len(across) or len(home) != len(back):
                raise ValueError(
                    f"`FADE` got {len(own)} samples of U under U and {len(across)} under R, and {len(back)} samples "
                    f"of R under U and {len(home)} under R in row {index}. Score every sample with both models."
                )
            per_row.append((fmean(own) - fmean(across) + fmean(home) - fmean(back)) / 2)
        return {"fade": fmean(per_row), "per_row": per_row}

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

"""How far a membership attack still comes, measured by how far it comes against the retrained model."""

from statistics import fmean
from typing import Any, ClassVar

from datasets import Features, Value

from ._base import UnlearningMetric


def relative_leak(unlearned: Any, retrained: Any) -> Any:
    """
    See [`PrivLeak`], for numbers or arrays.

    Args:
        unlearned, retrained (`float` or `numpy.ndarray`):
            AUC.

    Returns:
        `float` or `numpy.ndarray`: PrivLeak in percent.
    """
    return 100 * ((1 - unlearned) - (1 - retrained)) / (1 - retrained)


class PrivLeak(UnlearningMetric):
    r"""
    PrivLeak: \\(100 ((1 - A_u) - (1 - A_r)) / (1 - A_r)\\), with the AUC of an attack on the unlearned (u) and on the
    retrained model (r).

    0 = the attack comes as far as against the retrained model; below 0 the forget rows can still be told from rows
    that were never seen (-100: with certainty); above 0 they are less likely than such rows, which gives them away
    too. The published numbers are those of the Min-K attack, as are those of the privacy suite.

    Args:
        unlearned (`list[float]`):
            AUC of each attack on the model that unlearned, see [`MembershipAUC`].
        retrained (`list[float]`):
            The same on the model that was trained without the forget rows, below 1.

    Returns:
        `dict`: `privleak` (`float`, mean over attacks) and `per_row` (`list[float]`), in percent.

    Source: MUSE (https://huggingface.co/papers/2407.06460).
    """

    inputs: ClassVar[Features] = Features({"unlearned": Value("float64"), "retrained": Value("float64")})

    def _compute(self, unlearned: list[float], retrained: list[float]) -> dict[str, Any]:
        for index, auc in enumerate(retrained):
            if auc == 1:
                raise ValueError(
                    f"`PrivLeak` got an AUC of 1 for the retrained model in row {index}: the attack tells forget rows "
                    "from others, of which the model saw neither. Give non-members that are like the forget rows."
                )
        per_row = [relative_leak(u, r) for u, r in zip(unlearned, retrained, strict=True)]
        return {"privleak": fmean(per_row), "per_row": per_row}

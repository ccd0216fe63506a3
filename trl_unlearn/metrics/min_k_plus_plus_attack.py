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

"""Was a row trained on? Guessed from the tokens of its answer that stand out least among all tokens."""

import math
from statistics import fmean
from typing import Any, ClassVar

from datasets import Features, List, Value

from ._base import UnlearningMetric, check_filled
from .min_k_attack import lowest_mean


# A model that is sure of a token has a standard deviation that float32 cannot tell from 0.
_SMALLEST_STD = 1e-6


class MinKPlusPlusAttack(UnlearningMetric):
    r"""
    Min-K++ attack on membership: the mean of the lowest 20 % of the standardised log-probs of an answer's tokens,
    higher for a member.

    Standardised is \\((\log \pi_y - \mu) / \sigma\\), with mean and standard deviation of log pi under pi at the
    position; \\(\sigma\\) is at least 1e-6.

    Args:
        logps (`list[list[float]]`):
            log pi_y of each token of a row's answer, in nats, the end-of-turn token included.
        entropies (`list[list[float]]`):
            Entropy of pi at each of them, in nats: \\(-\mu\\).
        log_variances (`list[list[float]]`):
            Variance of log pi under pi at each of them: \\(\sigma^2\\).

    Returns:
        `dict`: `min_k_plus_plus_attack` (`float`, mean over rows) and `per_row` (`list[float]`), without a unit.

    Source: Zhang et al., Min-K%++ (https://huggingface.co/papers/2404.02936).
    """

    inputs: ClassVar[Features] = Features(
        {name: List(Value("float64")) for name in ("logps", "entropies", "log_variances")}
    )

    def _compute(
        self, logps: list[list[float]], entropies: list[list[float]], log_variances: list[list[float]]
    ) -> dict[str, Any]:
        check_filled(logps, self, "log-probabilities")
        per_row = []
        for index, row in enumerate(zip(logps, entropies, log_variances, strict=True)):
            lengths = [len(values) for values in row]
            if len(set(lengths)) > 1:
                raise ValueError(
                    f"`MinKPlusPlusAttack` got {lengths} values of {list(self.inputs)} in row {index}. Give one a "
                    "token in each."
                )
            per_row.append(
                lowest_mean(
                    [
                        (logp + entropy) / max(math.sqrt(variance), _SMALLEST_STD)
                        for logp, entropy, variance in zip(*row, strict=True)
                    ]
                )
            )
        return {"min_k_plus_plus_attack": fmean(per_row), "per_row": per_row}

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

"""Can the unlearned model be told from one that never saw the forget set?"""

import math
from typing import Any, ClassVar

from datasets import Features, Value
from scipy.stats import ks_2samp

from ._base import UnlearningMetric


class ForgetQuality(UnlearningMetric):
    r"""
    Two-sample Kolmogorov-Smirnov test of the truth ratios of two models on the same forget rows.

    The test sees ranks only, so log R serves as well as R and cannot overflow. Where the p-value underflows to 0,
    which takes more than 500 rows, its logarithm is that of the leading term of Smirnov's asymptotic series, \\(2
    \exp(-2 \frac{nm}{n+m} D^2)\\), so that `log10_p_value` stays finite.

    Args:
        unlearned (`list[float]`):
            R or log R of each forget row under the model that unlearned.
        retrained (`list[float]`):
            The same under the model that was trained without the forget rows.

    Returns:
        `dict`: `p_value` (`float`; 1 = cannot be told apart), `log10_p_value` (`float`, at most 0), and `ks_statistic`
        (`float`, the largest distance of the two distribution functions, in [0, 1]).

    Source: TOFU (https://huggingface.co/papers/2401.06121), section 2.2.
    """

    inputs: ClassVar[Features] = Features({"unlearned": Value("float64"), "retrained": Value("float64")})

    def _compute(self, unlearned: list[float], retrained: list[float]) -> dict[str, Any]:
        test = ks_2samp(unlearned, retrained)
        p_value, statistic = float(test.pvalue), float(test.statistic)
        if p_value > 0:
            log10_p_value = math.log10(p_value)
        else:
            effective = len(unlearned) * len(retrained) / (len(unlearned) + len(retrained))
            log10_p_value = (math.log(2) - 2 * effective * statistic**2) / math.log(10)
        return {"p_value": p_value, "log10_p_value": log10_p_value, "ks_statistic": statistic}

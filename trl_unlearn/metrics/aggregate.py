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

"""One number of several, which a single bad one pulls down."""

from statistics import fmean
from typing import Any, ClassVar

from datasets import Features, Value

from ._base import UnlearningMetric


class HarmonicMean(UnlearningMetric):
    """
    Harmonic mean of terms that are better the higher they are; 0 if any of them is 0 or below.

    Model utility is this mean of nine terms, Util of model utility and fluency, Agg of Mem and Util.

    Args:
        terms (`list[float]`):
            The terms, in [0, 1].

    Returns:
        `dict`: `harmonic_mean` (`float`) and `per_row` (`list[float]`, the terms).

    Source: TOFU (https://huggingface.co/papers/2401.06121), section 2.2; OpenUnlearning
    (https://huggingface.co/papers/2506.12618).
    """

    inputs: ClassVar[Features] = Features({"terms": Value("float64")})

    def _compute(self, terms: list[float]) -> dict[str, Any]:
        mean = 0.0 if min(terms) <= 0 else 1 / fmean(1 / term for term in terms)
        return {"harmonic_mean": mean, "per_row": terms}


def memorization_score(
    *,
    extraction_strength: float,
    exact_memorization: float,
    paraphrase_probability: float,
    truth_ratio_knowledge: float,
) -> float:
    """
    Mem: how little is left of the forget set, as the harmonic mean of four complements.

    Args:
        extraction_strength, exact_memorization, paraphrase_probability, truth_ratio_knowledge (`float`):
            Means over the forget rows, in [0, 1].

    Returns:
        `float`: Mem, in [0, 1]; higher is better.

    Source: OpenUnlearning (https://huggingface.co/papers/2506.12618).
    """
    remembered = [extraction_strength, exact_memorization, paraphrase_probability, truth_ratio_knowledge]
    return HarmonicMean().compute(terms=[1 - value for value in remembered])["harmonic_mean"]

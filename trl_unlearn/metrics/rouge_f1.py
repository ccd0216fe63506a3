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

"""How close a generated text is to a true one, with too many words punished as much as missing ones."""

from statistics import fmean
from typing import Any, ClassVar

from datasets import Features, Value
from rouge_score.rouge_scorer import RougeScorer

from ._base import UnlearningMetric


class RougeF1(UnlearningMetric):
    r"""
    Mean ROUGE-L F1 of generated texts: \\(2 P R / (P + R)\\), with the share P of the generated words, and R of the
    true ones, that both texts have in the same order.

    Words are compared as they are, lower-cased, as MUSE's own code does. (open-unlearning compares their stems: its
    numbers can be a little higher.)

    Args:
        predictions (`list[str]`):
            Generated texts.
        references (`list[str]`):
            True texts.

    Returns:
        `dict`: `rougeL_f1` (`float`) and `per_row` (`list[float]`), both in [0, 1].

    Source: MUSE (https://huggingface.co/papers/2407.06460), section 3; Lin, ROUGE (2004).
    """

    inputs: ClassVar[Features] = Features({"predictions": Value("string"), "references": Value("string")})

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, Any]:
        scorer = RougeScorer(["rougeL"])
        per_row = [
            scorer.score(target=reference, prediction=prediction)["rougeL"].fmeasure
            for prediction, reference in zip(predictions, references, strict=True)
        ]
        return {"rougeL_f1": fmean(per_row), "per_row": per_row}

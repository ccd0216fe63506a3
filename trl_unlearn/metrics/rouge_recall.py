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

"""How much of an answer the model still says in its own words."""

from statistics import fmean
from typing import Any, ClassVar

from datasets import Features, Value
from rouge_score.rouge_scorer import RougeScorer

from ._base import UnlearningMetric


class RougeRecall(UnlearningMetric):
    """
    Mean ROUGE-L recall of generated answers, with the Porter stemmer: the share of a true answer's words that the
    generated one has in the same order. (The `rouge` of `evaluate` gives the F-measure, which punishes long answers.)

    Args:
        predictions (`list[str]`):
            Generated answers.
        references (`list[str]`):
            True answers.

    Returns:
        `dict`: `rougeL_recall` (`float`) and `per_row` (`list[float]`), both in [0, 1].

    Source: TOFU (https://huggingface.co/papers/2401.06121), section 2.2; Lin, ROUGE (2004).
    """

    inputs: ClassVar[Features] = Features({"predictions": Value("string"), "references": Value("string")})

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, Any]:
        scorer = RougeScorer(["rougeL"], use_stemmer=True)
        per_row = [
            scorer.score(target=reference, prediction=prediction)["rougeL"].recall
            for prediction, reference in zip(predictions, references, strict=True)
        ]
        return {"rougeL_recall": fmean(per_row), "per_row": per_row}

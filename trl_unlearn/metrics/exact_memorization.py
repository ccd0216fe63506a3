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

"""Share of answer tokens that the model would have written itself."""

from statistics import fmean
from typing import Any, ClassVar

from datasets import Features, List, Value

from ._base import UnlearningMetric, check_filled


class ExactMemorization(UnlearningMetric):
    """
    Mean share of answer tokens that are the model's most likely token under teacher forcing.

    Args:
        is_top1 (`list[list[bool]]`):
            Whether each token of a row's answer is the most likely one, the end-of-turn token left out.

    Returns:
        `dict`: `exact_memorization` (`float`) and `per_row` (`list[float]`), both in [0, 1].

    Source: Tirumala et al., Memorization Without Overfitting (https://huggingface.co/papers/2205.10770);
    OpenUnlearning (https://huggingface.co/papers/2506.12618).
    """

    inputs: ClassVar[Features] = Features({"is_top1": List(Value("bool"))})

    def _compute(self, is_top1: list[list[bool]]) -> dict[str, Any]:
        check_filled(is_top1, self, "tokens")
        per_row = [fmean(row) for row in is_top1]
        return {"exact_memorization": fmean(per_row), "per_row": per_row}

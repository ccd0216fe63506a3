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

"""How little of an answer must be given until the model writes the rest."""

from statistics import fmean
from typing import Any, ClassVar

from datasets import Features, List, Value

from ._base import UnlearningMetric, check_filled, check_parity


class ExtractionStrength(UnlearningMetric):
    r"""
    Mean \\(1 - k/T\\), k = number of first answer tokens after which the most likely token is right to the end.

    Args:
        is_top1 (`list[list[bool]]`):
            Whether each token of a row's answer is the most likely one, the end-of-turn token left out.
        parity (`str`, *optional*, defaults to `"open-unlearning"`):
            `"open-unlearning"`: k is at most T - 1, so a row is never below 1/T. `"strict"`: k = T, and so 0, where
            the last token is not the most likely one.

    Returns:
        `dict`: `extraction_strength` (`float`) and `per_row` (`list[float]`), both in [0, 1].

    Source: Carlini et al., Extracting Training Data from Large Language Models
    (https://huggingface.co/papers/2012.07805); OpenUnlearning (https://huggingface.co/papers/2506.12618).
    """

    inputs: ClassVar[Features] = Features({"is_top1": List(Value("bool"))})

    def _compute(self, is_top1: list[list[bool]], parity: str = "open-unlearning") -> dict[str, Any]:
        check_parity(parity)
        check_filled(is_top1, self, "tokens")
        per_row = []
        for row in is_top1:
            given = max((i + 1 for i, right in enumerate(row) if not right), default=0)
            if parity == "open-unlearning":
                given = min(given, len(row) - 1)
            per_row.append(1 - given / len(row))
        return {"extraction_strength": fmean(per_row), "per_row": per_row}

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

"""Was a row trained on? Guessed from how likely its answer is for a text that compresses as well."""

import zlib
from statistics import fmean
from typing import Any, ClassVar

from datasets import Features, List, Value

from ._base import UnlearningMetric, check_filled


class ZlibAttack(UnlearningMetric):
    """
    Zlib attack on membership: the mean log-prob of an answer over the compressed length of its text, higher for a
    member.

    Args:
        logps (`list[list[float]]`):
            log pi_y of each token of a row's answer, in nats, the end-of-turn token included.
        texts (`list[str]`):
            Text of each answer; its length is that of the UTF-8 bytes after zlib's default compression.

    Returns:
        `dict`: `zlib_attack` (`float`, mean over rows) and `per_row` (`list[float]`), in nats per token and byte.

    Source: Carlini et al., Extracting Training Data from Large Language Models
    (https://huggingface.co/papers/2012.07805).
    """

    inputs: ClassVar[Features] = Features({"logps": List(Value("float64")), "texts": Value("string")})

    def _compute(self, logps: list[list[float]], texts: list[str]) -> dict[str, Any]:
        check_filled(logps, self, "log-probabilities")
        per_row = [
            fmean(row) / len(zlib.compress(text.encode("utf-8"))) for row, text in zip(logps, texts, strict=True)
        ]
        return {"zlib_attack": fmean(per_row), "per_row": per_row}

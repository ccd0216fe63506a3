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

"""Forget rows to a batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..token_scores import pad_rows


@dataclass
class DataCollatorForUnlearning:
    """
    Pads encoded rows to a batch and keeps their indices in the forget set, from which the trainer finds their beliefs
    and their retain rows. It draws nothing itself: a random state here would break resuming.

    Args:
        pad_token_id (`int`):
            Token of the padding.
        multiple (`int`, *optional*, defaults to `1`):
            Number that the width is a multiple of, as far as the model can read.
        limit (`int`, *optional*):
            Most tokens that the model can read, padding included.
    """

    pad_token_id: int
    multiple: int = 1
    limit: int | None = None

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = pad_rows(examples, self.pad_token_id, self.multiple, self.limit)
        if "row" in examples[0]:
            batch["row"] = torch.tensor([example["row"] for example in examples])
        return batch

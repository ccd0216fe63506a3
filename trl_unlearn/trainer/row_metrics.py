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

"""What is logged of the rows of a step."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor


_VALUES = ("loss", "logps", "entropy")


class RowMetrics:
    """
    Means of `loss/<kind>`, `<kind>/logps` and `<kind>/entropy` over the rows of a micro-batch, of all processes.

    Args:
        accelerator ([`~accelerate.Accelerator`]):
            Accelerator of the run.
        kinds (`Sequence[str]`):
            Kinds of rows, the same in each process: `"forget"`, `"beliefs"`, `"retain"`.
    """

    def __init__(self, accelerator: Accelerator, kinds: Sequence[str]):
        self._accelerator, self._kinds = accelerator, kinds
        self._values: dict[str, list[Tensor]] = defaultdict(list)

    def note(self, kinds: Sequence[str], scores: Mapping[str, Tensor]) -> None:
        """
        Keep the values of one pass.

        Args:
            kinds (`Sequence[str]`):
                Kind of each row; empty for one that does not count.
            scores (`Mapping[str, torch.Tensor]`):
                `loss`, `logps` and `entropy` of each row, of shape `(num_rows,)`.
        """
        for name in _VALUES:
            for kind, value in zip(kinds, scores[name].detach(), strict=True):
                if kind:
                    self._values[self._name(kind, name)].append(value)

    @staticmethod
    def _name(kind: str, value: str) -> str:
        return f"loss/{kind}" if value == "loss" else f"{kind}/{value}"

    def take(self) -> dict[str, float]:
        """
        The means of what was kept, and begin anew. Every process has to call it, also one that has met no row.

        Returns:
            `dict[str, float]`: Name -> mean.
        """
        device = self._accelerator.device
        # Whatever the scores are in: a process that has met none does not know.
        zero = torch.zeros((), dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
        names = [self._name(kind, value) for kind in self._kinds for value in _VALUES]
        kept = [self._values[name] for name in names]
        sums = torch.stack([torch.stack(values).sum().to(zero) if values else zero for values in kept])
        counts = sums.new_tensor([len(values) for values in kept])
        self._values.clear()
        sums, counts = self._accelerator.reduce(torch.stack([sums, counts]), "sum")
        return dict(zip(names, (sums / counts).tolist(), strict=True))

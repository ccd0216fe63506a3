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

"""What all metrics share: offline, in memory, and a sentence for bad input."""

import inspect
from collections.abc import Sized
from typing import Any, ClassVar

import evaluate
from datasets import Features


PARITIES = ("open-unlearning", "strict")


class UnlearningMetric(evaluate.Metric):
    """
    An [`~evaluate.Metric`] that is instantiated as a class, keeps its inputs in memory, and never touches the network.

    A subclass names its inputs, one entry a row, in `inputs`.
    """

    inputs: ClassVar[Features]

    def __init__(self):
        super().__init__(keep_in_memory=True)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=inspect.cleandoc(type(self).__doc__),
            citation="",
            inputs_description="",
            features=self.inputs,
        )

    def compute(self, **inputs: Any) -> dict[str, Any]:
        """
        Compute the metric.

        Args:
            inputs (`Any`):
                One list a named input, with one entry a row, and the options of the metric.

        Returns:
            `dict[str, Any]`: The mean under the metric's name, and its values a row.

        Raises:
            `ValueError`: If an input is missing or empty, or the inputs have different lengths.
        """
        name = type(self).__name__
        lengths = {}
        for key in self.inputs:
            if inputs.get(key) is None:
                raise ValueError(f"`{name}` got no `{key}`. Expected the inputs {list(self.inputs)}, one entry a row.")
            lengths[key] = len(inputs[key])
        if 0 in lengths.values():
            raise ValueError(
                f"`{name}` got no rows ({lengths}). Give at least one row, or leave the metric out if there is none."
            )
        if len(set(lengths.values())) > 1:
            raise ValueError(f"`{name}` got inputs of different lengths ({lengths}). Give one entry a row in each.")
        return super().compute(**inputs)


def check_filled(rows: list[Sized], metric: UnlearningMetric, what: str) -> None:
    """
    Refuse a row without entries, which would silently become a NaN.

    Args:
        rows (`list[Sized]`):
            One list a row.
        metric ([`UnlearningMetric`]):
            Metric that got them.
        what (`str`):
            What the entries of a row are.

    Raises:
        `ValueError`: If a row is empty; names the first one by index.
    """
    for index, row in enumerate(rows):
        if len(row) == 0:
            raise ValueError(
                f"`{type(metric).__name__}` got no {what} in row {index}. Each row needs at least one: remove the row."
            )


def check_parity(parity: str) -> None:
    """
    Refuse an unknown parity.

    Args:
        parity (`str`):
            Which definitions to follow.

    Raises:
        `ValueError`: If it is neither `"open-unlearning"` nor `"strict"`.
    """
    if parity not in PARITIES:
        raise ValueError(f"`parity` is {parity!r}. Choose one of {list(PARITIES)}.")

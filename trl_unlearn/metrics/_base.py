# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""The base of all metrics: offline, in memory, and a sentence for bad input."""

import inspect
from collections.abc import Sized
from typing import Any, ClassVar

import evaluate
from datasets import Features, List, Value
from evaluate.naming import camelcase_to_snakecase


PARITIES = ("open-unlearning", "strict")
# An input with a list of numbers a row, as features and as a type, and one with a number a row.
NUMBERS, NUMBER, Rows = List(Value("float64")), Value("float64"), list[list[float]]


class UnlearningMetric(evaluate.Metric):
    """
    An [`~evaluate.Metric`] that is instantiated as a class, keeps its inputs in memory, and never touches the network.

    A subclass names its inputs, one entry a row, in `inputs`, and takes the arguments of [`~evaluate.Metric`], all
    optional. `evaluate.load` takes the file of a family and the name of a metric in it:
    `evaluate.load("trl_unlearn/metrics/memorization.py", "extraction_strength")`.
    """

    inputs: ClassVar[Features]
    _by_name: ClassVar[dict[str, type["UnlearningMetric"]]] = {}

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        cls._by_name[camelcase_to_snakecase(cls.__name__)] = cls

    def __new__(cls, config_name: str | None = None, **kwargs: Any):
        # `evaluate.load` instantiates the first metric class among the names of a file. That is this one, imported
        # there, and never the one in question: its name arrives as the config. The file is loaded as a copy, with a
        # copy of this module, so that only the metrics of that file have a name here.
        if cls is not UnlearningMetric:
            return super().__new__(cls)
        if config_name not in cls._by_name:
            raise ValueError(f"The metric is {config_name!r}. Choose one of {sorted(cls._by_name)}.")
        return super().__new__(cls._by_name[config_name])

    def __init__(self, config_name: str | None = None, *, num_process: int = 1, **kwargs: Any):
        # Whatever `evaluate.load` passes: the inputs, which may be secret, would go to a cache file. Only several
        # processes, each with a part of the rows, cannot do without one.
        kwargs["keep_in_memory"] = num_process == 1
        super().__init__(config_name, num_process=num_process, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=inspect.cleandoc(type(self).__doc__), citation="", inputs_description="", features=self.inputs
        )

    def compute(self, **inputs: Any) -> dict[str, Any]:
        """
        Compute the metric.

        Args:
            inputs (`Any`):
                One list a named input, with one entry a row, and the options of the metric.

        Returns:
            `dict[str, Any]`: The mean under the metric's name, and its values a row in `per_row`.
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

    def _check_filled(self, rows: list[Sized], what: str) -> None:
        """Refuse a row without entries, which would silently become a NaN; `what` names an entry."""
        for index, row in enumerate(rows):
            if len(row) == 0:
                name = type(self).__name__
                raise ValueError(
                    f"`{name}` got no {what} in row {index}. Each row needs at least one: remove the row."
                )


def check_parity(parity: str) -> None:
    """Refuse a parity that is neither `"open-unlearning"` nor `"strict"`."""
    if parity not in PARITIES:
        raise ValueError(f"`parity` is {parity!r}. Choose one of {list(PARITIES)}.")

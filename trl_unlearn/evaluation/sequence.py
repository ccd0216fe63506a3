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

"""Unlearning requests that are served one after another: what each stage has forgotten and kept."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedModel

from .tofu import EncodedSet, score_set


@dataclass
class SequenceStage:
    """
    A model after one of the requests.

    Args:
        request (`str`):
            Name of the request that was served last.
        settings (`str`):
            Digest of its settings.
        steps (`int`):
            Its optimiser steps.
        seconds (`float`):
            Its training.
        requests (`dict[str, dict[str, float]]`):
            Name of every request, also of those still to come -> strict `extraction_strength` and
            `forget_probability` of its rows.
        retain_probability (`float`):
            Mean probability of the retain answers.
    """

    request: str
    settings: str
    steps: int
    seconds: float
    requests: dict[str, dict[str, float]]
    retain_probability: float

    def to_dict(self) -> dict[str, Any]:
        """The stage as JSON values."""
        return asdict(self)


def sequence_point(
    model: PreTrainedModel,
    forget: Mapping[str, EncodedSet],
    retain: EncodedSet,
    *,
    pad_token_id: int,
    batch_size: int = 32,
) -> dict[str, Any]:
    """
    How much a model has forgotten of each request, and what it has kept.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Model in question.
        forget (`Mapping[str, EncodedSet]`):
            Name of a request -> its rows, of which the true answers are scored.
        retain ([`~evaluation.tofu.EncodedSet`]):
            Retain rows.
        pad_token_id (`int`):
            Token of the padding.
        batch_size (`int`, *optional*, defaults to `32`):
            Rows a forward pass takes.

    Returns:
        `dict[str, Any]`: `requests` and `retain_probability`, see [`SequenceStage`].
    """

    def score(encoded: EncodedSet) -> dict[str, float]:
        answers = EncodedSet(encoded.name, encoded.answers, encoded.closed)
        found = score_set(model, answers, parity="strict", pad_token_id=pad_token_id, batch_size=batch_size)
        return {metric: fmean(values) for metric, values in found.items()}

    requests = {}
    for name, encoded in forget.items():
        found = score(encoded)
        requests[name] = {
            "extraction_strength": found["forget/extraction_strength"],
            "forget_probability": found["forget/probability"],
        }
    return {"requests": requests, "retain_probability": score(retain)["retain/probability"]}


def sequence_rows(
    stages: Sequence[SequenceStage], baselines: Mapping[str, Mapping[str, Any]]
) -> tuple[list[str], list[list[str]]]:
    """
    Table of a sequence: the target, a stage a row, and the retrained model if there is one.

    Args:
        stages (`Sequence[SequenceStage]`):
            Stages, in order.
        baselines (`Mapping[str, Mapping[str, Any]]`):
            `target` and, if there is one, `retrained` -> see [`sequence_point`].

    Returns:
        `tuple[list[str], list[list[str]]]`: Header, and the rows.
    """
    names = list(baselines["target"]["requests"])

    def row(label: str, point: Mapping[str, Any], steps: str = "-", seconds: str = "-") -> list[str]:
        strengths = [f"{point['requests'][name]['extraction_strength']:.3f}" for name in names]
        return [label, *strengths, f"{point['retain_probability']:.3f}", steps, seconds]

    rows = [row("target", baselines["target"])]
    rows += [row(stage.request, stage.to_dict(), str(stage.steps), f"{stage.seconds:.0f}") for stage in stages]
    if "retrained" in baselines:
        rows.append(row("retrained", baselines["retrained"]))
    return ["after", *(f"ES {name}" for name in names), "retain prob.", "steps", "seconds"], rows


def print_sequence(header: Sequence[str], rows: Sequence[Sequence[str]], console: Console | None = None) -> None:
    """
    Print a sequence. Three requests fit into 80 columns.

    Args:
        header (`Sequence[str]`), rows (`Sequence[Sequence[str]]`):
            See [`sequence_rows`].
        console (`rich.console.Console`, *optional*):
            Where to print; defaults to standard output.
    """
    table = Table(title="Sequence of requests", box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for i, name in enumerate(header):
        table.add_column(name.replace(" ", "\n", 1), justify="left" if i == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    (console or Console()).print(table)


def sequence_dict(stages: Sequence[SequenceStage], baselines: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """
    A sequence as JSON values.

    Args:
        stages (`Sequence[SequenceStage]`), baselines (`Mapping[str, Mapping[str, Any]]`):
            See [`sequence_rows`].

    Returns:
        `dict[str, Any]`: `schema_version`, `baselines` and `stages`.
    """
    return {
        "schema_version": 1,
        "baselines": {role: dict(point) for role, point in baselines.items()},
        "stages": [stage.to_dict() for stage in stages],
    }

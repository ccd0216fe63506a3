# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Tables: the results of an evaluation, methods side by side, and requests one after another."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean, stdev
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..results import (
    COMPARISON_COLUMNS,
    DIFFERENCES,
    MODEL_ROLES,
    STANDINS,
    EvaluationResult,
    format_difference,
    format_measurement,
)
from ..verdict import verdict


# Equal forgetting: where the strict extraction strength has come this close to the retrained model's.
MARGIN = 0.05
# Text as it is: brackets are intervals.
_PLAIN = {"highlight": False, "markup": False}


def print_results(result: EvaluationResult, console: Console | None = None) -> None:
    """Print the models, their notes and their paired differences, in 80 columns and without need of colour."""
    console = console or Console()
    rows = [(group, name, *map(format_measurement, numbers)) for group, name, numbers in result.rows()]
    console.print(_table(MODEL_ROLES, rows))
    console.print()
    for note in result.notes():
        console.print(note, style="dim", highlight=False, markup=False)
    rows = [(group, name, *map(format_difference, numbers)) for group, name, numbers in result.difference_rows()]
    if rows:
        console.print()
        console.print(_table(tuple(DIFFERENCES), rows))
        console.print()
        note = "Differences on the same rows, with a 95 % interval (bootstrap over rows)."
        console.print(note, style="dim", highlight=False, markup=False)


def print_verdict(result: EvaluationResult, console: Console | None = None) -> None:
    """Print the five answers and the score; nothing without an unlearned model."""
    found, console = verdict(result), console or Console()
    if found is None:
        return
    console.print()
    for answer in found.answers:
        certain = "bold red" if answer.is_certain or answer.beside == "target" else "yellow"
        style = certain if answer.is_bad else "yellow" if answer.answer == "not measured" else None
        console.print(f"{answer.question} {answer.words}", style=style, **_PLAIN)
        if answer.figures:
            console.print(Padding(Text(answer.figures, style="dim"), (0, 0, 0, 4)))
    for note in found.notes:
        console.print(note, **_PLAIN)


def print_shortfall(sentence: str, console: Console | None = None) -> None:
    """Print that a goal of the training was not reached."""
    (console or Console()).print(sentence, style="bold red", highlight=False, markup=False)


def _table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> Table:
    """Metric and a cell for each column, with an empty line between groups; the group comes first in a row."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    table.add_column("metric", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    previous = None
    for group, *cells in rows:
        if previous not in (None, group):
            table.add_row()
        table.add_row(*cells)
        previous = group
    return table


@dataclass
class ComparedRun:
    """One method with one seed, as it stands in the file that marks it as finished."""

    method: str
    seed: int
    # Digest of its settings.
    settings: str
    # Optimiser steps, and the time of the training with what was measured during it.
    steps: int
    seconds: float
    # `step`, `epoch`, strict `extraction_strength` and `retain_probability` of each measurement.
    curve: list[dict[str, float]]
    squeezing: list[dict[str, float]]
    squeezing_index: float
    # Values of the evaluation after training.
    metrics: dict[str, float] = field(default_factory=dict)


def retain_at(curve: Sequence[Mapping[str, float]], goal: float) -> float | None:
    """Retain probability where a curve first comes down to an extraction strength; None if it never does."""
    previous = None
    for point in curve:
        if point["extraction_strength"] <= goal:
            if previous is None:
                return point["retain_probability"]
            # Linear between the two measurements.
            high, low = previous["extraction_strength"], point["extraction_strength"]
            share, before = (high - goal) / (high - low), previous["retain_probability"]
            return before + share * (point["retain_probability"] - before)
        previous = point
    return None


def goal_of(baselines: Mapping[str, Mapping[str, float]]) -> float | None:
    """Strict extraction strength of equal forgetting, by the retrained model's; None without one."""
    retrained = baselines.get("retrained")
    return None if retrained is None else retrained["extraction_strength"] + MARGIN


def _cell(values: Sequence[float], runs: int) -> str:
    """Mean and standard deviation over the runs with a value, and their number where some have none."""
    if not values:
        return "-"
    spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
    some = f" ({len(values)} of {runs})" if len(values) < runs else ""
    return f"{fmean(values):.3f}{spread}{some}"


def comparison_rows(runs: Sequence[ComparedRun], goal: float | None) -> tuple[list[str], list[list[str]]]:
    """Header and one row a method: mean and standard deviation over seeds; without a goal its column is left out."""
    header = ["method", "seeds", "steps", *COMPARISON_COLUMNS]
    if goal is not None:
        header.append(f"retain prob. at ES {goal:.3f}")
    header += ["squeezing index", "seconds"]
    methods: dict[str, list[ComparedRun]] = {}
    for run in runs:
        methods.setdefault(run.method, []).append(run)
    rows = []
    for method, seeds in methods.items():
        steps = sorted({run.steps for run in seeds})
        row = [method, str(len(seeds)), "/".join(map(str, steps))]
        for metric in COMPARISON_COLUMNS.values():
            names = (metric, STANDINS.get(metric))
            values = [run.metrics[name] for run in seeds for name in names if name in run.metrics]
            row.append(_cell(values, len(seeds)))
        if goal is not None:
            reached = [value for run in seeds if (value := retain_at(run.curve, goal)) is not None]
            row.append(_cell(reached, len(seeds)) if reached else "not reached")
        seconds = f"{fmean(run.seconds for run in seeds):.0f}"
        rows.append([*row, _cell([run.squeezing_index for run in seeds], len(seeds)), seconds])
    return header, rows


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    rule = ["---"] + ["--:"] * (len(header) - 1)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows)) + "\n"


def print_comparison(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a comparison, with a column a method where the terminal is too narrow for a row a method."""
    console = Console()
    wide = sum(max(len(cell) for cell in column) + 3 for column in zip(header, *rows, strict=True)) <= console.width
    if not wide:
        header, *rows = [list(column) for column in zip(header, *rows, strict=True)]
    console.print(_filled(Table(title="Comparison"), header, rows))


def _filled(table: Table, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table with all of its cells, names on the left and numbers on the right."""
    for i, name in enumerate(header):
        table.add_column(name, justify="left" if i == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def comparison_dict(runs: Sequence[ComparedRun], baselines: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """A comparison as JSON values; `baselines` are the points of the target and of the retrained model."""
    return {
        "schema_version": 1,
        "baselines": {name: dict(values) for name, values in baselines.items()},
        "goal": goal_of(baselines),
        "runs": [asdict(run) for run in runs],
    }


@dataclass
class SequenceStage:
    """A model after one of the requests."""

    # Name of the request that was served last, digest of its settings, its optimiser steps and training time.
    request: str
    settings: str
    steps: int
    seconds: float
    # Name of every request, also of those still to come -> strict `extraction_strength` and `forget_probability`.
    requests: dict[str, dict[str, float]]
    retain_probability: float


def sequence_rows(
    stages: Sequence[SequenceStage], baselines: Mapping[str, Mapping[str, Any]]
) -> tuple[list[str], list[list[str]]]:
    """Header and rows: the target, a stage a row, and the retrained model if there is one."""
    names = list(baselines["target"]["requests"])

    def row(label: str, point: Mapping[str, Any], steps: str = "-", seconds: str = "-") -> list[str]:
        strengths = [f"{point['requests'][name]['extraction_strength']:.3f}" for name in names]
        return [label, *strengths, f"{point['retain_probability']:.3f}", steps, seconds]

    rows = [row("target", baselines["target"])]
    rows += [row(stage.request, vars(stage), str(stage.steps), f"{stage.seconds:.0f}") for stage in stages]
    if "retrained" in baselines:
        rows.append(row("retrained", baselines["retrained"]))
    return ["after", *(f"ES {name}" for name in names), "retain prob.", "steps", "seconds"], rows


def print_sequence(header: Sequence[str], rows: Sequence[Sequence[str]], console: Console | None = None) -> None:
    """Print a sequence; three requests fit into 80 columns."""
    table = Table(title="Sequence of requests", box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    (console or Console()).print(_filled(table, [name.replace(" ", "\n", 1) for name in header], rows))


def sequence_dict(stages: Sequence[SequenceStage], baselines: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A sequence as JSON values."""
    return {
        "schema_version": 1,
        "baselines": {role: dict(point) for role, point in baselines.items()},
        "stages": [asdict(stage) for stage in stages],
    }

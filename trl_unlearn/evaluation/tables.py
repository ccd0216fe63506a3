# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Tables: the results of an evaluation, methods side by side, and requests one after another."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean, stdev
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..notes import group_hints, table_notes
from ..results import (
    COMPARISON_COLUMNS,
    DIFFERENCES,
    MODEL_ROLES,
    STANDINS,
    SUMMARY,
    EvaluationResult,
    format_difference,
    format_measurement,
)
from ..verdict import PERHAPS, QUESTIONS, Verdict, verdict


# Equal forgetting: where the strict extraction strength has come this close to the retrained model's.
MARGIN = 0.05
# Text as it is: brackets are intervals.
_PLAIN = {"highlight": False, "markup": False}


def print_results(result: EvaluationResult) -> None:
    """Print the models, their notes and their paired differences, in 80 columns and without need of colour."""
    console = Console()
    rows = [(group, name, *map(format_measurement, numbers)) for group, name, numbers in result.rows()]
    console.print(_table(MODEL_ROLES, rows))
    console.print()
    for note in [*group_hints(result), *table_notes(result)]:
        console.print(note, style="dim", **_PLAIN)
    rows = [(group, name, *map(format_difference, numbers)) for group, name, numbers in result.difference_rows()]
    if rows:
        console.print()
        console.print(_table(tuple(DIFFERENCES), rows))
        console.print()
        note = "Differences on the same rows, with a 95 % interval (bootstrap)."
        console.print(note, style="dim", **_PLAIN)


def print_summary(result: EvaluationResult, full: str) -> None:
    """Print the rows of `SUMMARY`, and where all are."""
    console = Console()
    shown = {*SUMMARY, *(STANDINS[name] for name in SUMMARY if name in STANDINS)}
    rows = list(result.rows())
    short = [("", name, *map(format_measurement, numbers)) for _, name, numbers in rows if name in shown]
    console.print()
    console.print(_table(MODEL_ROLES, short))
    console.print()
    console.print(f"All {len(rows)} metrics, their differences and notes: {full}", soft_wrap=True, **_PLAIN)


def print_verdict(result: EvaluationResult, console: Console | None = None) -> None:
    """Print the five answers and the score; nothing without an unlearned model."""
    outcome, console = verdict(result), console or Console()
    if outcome is None:
        return
    console.print()
    styles = {"bad": "bold red", "doubt": "yellow", "unknown": "yellow"}
    for answer in outcome.answers:
        console.print(f"{answer.question} {answer.words}", style=styles.get(answer.tone), **_PLAIN)
        if answer.figures:
            console.print(Padding(Text(answer.figures, style="dim"), (0, 0, 0, 4)))
    for note in outcome.notes:
        console.print(note, **_PLAIN)


def print_checks(checks: Sequence[tuple[str, str]], title: str) -> None:
    """Print the findings of the checks before a run, a line each."""
    table = Table(
        title=title, title_justify="left", box=SIMPLE_HEAD, show_header=False, show_edge=False, pad_edge=False
    )
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, finding in checks:
        table.add_row(name, Text(finding))
    Console().print(table)


def print_shortfall(sentence: str) -> None:
    """Print that a goal of the training was not reached."""
    Console().print(sentence, style="bold red", **_PLAIN)


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


@dataclass(kw_only=True)
class Judged:
    """A model of a comparison: the values of its metrics, and the verdict on it."""

    metrics: dict[str, float] = field(default_factory=dict)
    verdict: Verdict | None = None

    def value(self, metric: str) -> float | None:
        """The value of a metric or of its stand-in; None if it has none."""
        return self.metrics.get(metric, self.metrics.get(STANDINS.get(metric, "")))

    @property
    def passed(self) -> int | None:
        """Questions that show no fault; None without a verdict."""
        return None if self.verdict is None else self.verdict.passed

    @property
    def share(self) -> float | None:
        """The part of the measurements without a difference to the retrained model; None without one."""
        return None if self.verdict is None or self.verdict.score is None else self.verdict.score.share


@dataclass
class ComparedRun(Judged):
    """One method with one seed: the record of its training, and its evaluation."""

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


def judged(result: EvaluationResult, role: str) -> Judged:
    """A model of an evaluation, for a comparison."""
    metrics = {name: measurement.value for name, measurement in (result.models[role] or {}).items()}
    return Judged(metrics=metrics, verdict=verdict(result, role))


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


def _cell(values: Sequence[float], runs: int, digits: int = 3) -> str:
    """Mean and standard deviation over the runs with a value, and their number where some have none."""
    if not values:
        return "-"
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    some = f" ({len(values)} of {runs})" if len(values) < runs else ""
    return f"{fmean(values):.{digits}f}{spread}{some}"


def by_method(runs: Sequence[ComparedRun]) -> dict[str, list[ComparedRun]]:
    """Method -> its seeds, in the order of the runs."""
    methods: dict[str, list[ComparedRun]] = {}
    for run in runs:
        methods.setdefault(run.method, []).append(run)
    return methods


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def ranked(runs: Sequence[ComparedRun]) -> list[tuple[str, list[ComparedRun]]]:
    """Methods with their seeds, the best first: by the questions without a fault, then by the measurements."""

    def rank(method: tuple[str, list[ComparedRun]]) -> tuple[float, float]:
        return tuple(fmean(_known(getattr(run, name) for run in method[1]) or [-1]) for name in ("passed", "share"))

    return sorted(by_method(runs).items(), key=rank, reverse=True)


def _judged_cells(models: Sequence[Judged], metrics: Iterable[str]) -> list[str]:
    """Questions, measurements and metrics of the seeds of a method, or of one reference."""
    count, digits = len(models), int(len(models) > 1)
    scores = _known(one.verdict and one.verdict.score for one in models)
    alike = _cell([score.alike for score in scores], count, digits)
    if scores:
        alike += f" of {'/'.join(map(str, sorted({score.measured for score in scores})))}"
    passed = _cell(_known(one.passed for one in models), count, digits)
    return [passed, alike, *(_cell(_known(one.value(metric) for one in models), count) for metric in metrics)]


def comparison_rows(
    runs: Sequence[ComparedRun], references: Mapping[str, Judged], goal: float | None
) -> tuple[list[str], list[list[str]]]:
    """Header, a row a method, the best first, and a row a reference; columns without any number are left out."""
    models = [*runs, *references.values()]
    columns = {name: metric for name, metric in COMPARISON_COLUMNS.items() if _known(m.value(metric) for m in models)}
    header = ["method", f"as, of {len(QUESTIONS)} questions", "as, measurements", *columns]
    header += [f"retain prob. at ES {goal:.3f}"] if goal is not None else []
    header += ["squeezing index", "seeds", "steps", "seconds"]
    rows = []
    for method, seeds in ranked(runs):
        row = [method, *_judged_cells(seeds, columns.values())]
        if goal is not None:
            reached = _known(retain_at(run.curve, goal) for run in seeds)
            row.append(_cell(reached, len(seeds)) if reached else "not reached")
        steps = "/".join(map(str, sorted({run.steps for run in seeds})))
        row += [_cell([run.squeezing_index for run in seeds], len(seeds)), str(len(seeds)), steps]
        rows.append([*row, f"{fmean(run.seconds for run in seeds):.0f}"])
    for role, one in references.items():
        row = [reference_name(role), *_judged_cells([one], columns.values())]
        rows.append([*row, *["-"] * (len(header) - len(row))])
    return header, rows


def reference_name(role: str) -> str:
    """A role as tables and figures of a comparison call it."""
    return role.replace("_", " ")


def answer_rows(runs: Sequence[ComparedRun], references: Mapping[str, Judged]) -> tuple[list[str], list[list[str]]]:
    """Header and one row a model, in the order of [`comparison_rows`]: its answers, and how many seeds give each."""
    rows = []
    for name, models in [*ranked(runs), *((reference_name(role), [one]) for role, one in references.items())]:
        row = []
        for answers in zip(*(one.verdict.answers for one in models if one.verdict is not None), strict=True):
            counts = Counter(answer.brief for answer in answers).most_common()
            row.append(", ".join(way if n == len(models) else f"{way} ({n} of {len(models)})" for way, n in counts))
        if row:
            rows.append([name, *row])
    return ["method", *(question.text for question in QUESTIONS)], rows


def comparison_notes(runs: Sequence[ComparedRun], references: Mapping[str, Judged]) -> list[str]:
    """Sentences that stand below a comparison."""
    notes = [
        "Mean ± standard deviation over seeds. The order: questions answered as by a model that never knew, then "
        "measurements whose difference to the retrained model has 0 in its 95 % interval."
    ]
    if "retrained" not in references:
        notes.append(
            "There is no retrained model: an answer counts if it shows no fault beside the target, and the distance "
            "to a model that never knew was not measured."
        )
    if any(answer.is_perhaps for run in runs if run.verdict for answer in run.verdict.answers):
        notes.append(PERHAPS)
    lacking: dict[str, list[str]] = {}
    for run in runs:
        reasons = [f"No {name}" for name in _lacking_columns(run, runs)]
        if run.verdict is not None:
            unanswered = [answer for answer in run.verdict.answers if answer.answer == "not measured"]
            reasons += [f"{answer.question} Not measured, {answer.why}" for answer in unanswered]
        for reason in reasons:
            lacking.setdefault(reason, []).append(f"{run.method} (seed {run.seed})")
    for reason, names in lacking.items():
        notes.append(f"{reason}: {'all runs' if len(names) == len(runs) else ', '.join(names)}.")
    if any(_lacking_columns(run, runs) for run in runs):
        notes.append(
            "A number that only some runs lack is of scores that are not finite, or of a version that did not measure "
            "it: remove `eval_results.json` from the run's folder, and the same command measures it again."
        )
    return notes


def _lacking_columns(run: ComparedRun, runs: Sequence[ComparedRun]) -> list[str]:
    """Columns with a number of another run, and none of this one."""
    columns = [name for name, metric in COMPARISON_COLUMNS.items() if run.value(metric) is None]
    return [name for name in columns if _known(other.value(COMPARISON_COLUMNS[name]) for other in runs)]


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    rule = ["---"] + ["--:"] * (len(header) - 1)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows)) + "\n"


def print_comparison(tables: Sequence[tuple[list[str], list[list[str]]]], notes: Sequence[str]) -> None:
    """Print tables, headers with their rows, in parts where the terminal is too narrow; and the notes below them."""
    console = Console()
    for header, rows in tables:
        for part in _parts(list(zip(header, *rows, strict=True)), console.width):
            names, *cells = zip(*part, strict=True)
            console.print(_filled(names, cells))
            console.print()
    for note in notes:
        console.print(note, **_PLAIN)


def print_ranking(table: tuple[list[str], list[list[str]]], whole: str) -> None:
    """Print as many columns of a comparison as the terminal is wide, which decide first, and where the whole is."""
    console = Console()
    header, rows = table
    first = [name for name in ("method", *header[1:3], "ES", "retain prob.", "fluency", "seconds") if name in header]
    columns = dict(zip(header, zip(header, *rows, strict=True), strict=True))
    part = next(_parts([columns[name] for name in first], console.width))
    names, *cells = zip(*part, strict=True)
    console.print(_filled(names, cells))
    text = f"Best first, by answers as of a model that never knew. All {len(header)} columns, and the answers: {whole}"
    console.print(text, **_PLAIN)


def _parts(columns: list[tuple[str, ...]], width: int) -> Iterator[list[tuple[str, ...]]]:
    """Columns in parts that fit into a width, each behind the first column."""
    part = columns[:1]
    for column in columns[1:]:
        # Three spaces between columns.
        if len(part) > 1 and sum(max(map(len, one)) + 3 for one in [*part, column]) - 3 > width:
            yield part
            part = columns[:1]
        part = [*part, column]
    yield part


def _filled(header: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> Table:
    """A table with all of its cells, names on the left and numbers on the right."""
    table = Table(title=title, box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for i, name in enumerate(header):
        table.add_column(name, justify="left" if i == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def comparison_dict(
    runs: Sequence[ComparedRun], references: Mapping[str, Judged], baselines: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    """A comparison as JSON values; `baselines` are the points of target and retrained model among the curves."""
    return {
        "schema_version": 1,
        "baselines": {name: dict(values) for name, values in baselines.items()},
        "goal": goal_of(baselines),
        "references": {role: asdict(one) for role, one in references.items()},
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
    # How much of the goal of its training is missing, in a sentence.
    shortfall: str | None = None


def sequence_rows(
    stages: Sequence[SequenceStage], baselines: Mapping[str, Mapping[str, Any]]
) -> tuple[list[str], list[list[str]]]:
    """Header and rows: the target, a stage a row, and the retrained models if there are any."""
    names = list(baselines["target"]["requests"])

    def row(label: str, point: Mapping[str, Any], steps: str = "-", seconds: str = "-") -> list[str]:
        strengths = [f"{point['requests'][name]['extraction_strength']:.3f}" for name in names]
        return [label, *strengths, f"{point['retain_probability']:.3f}", steps, seconds]

    rows = [row("target", baselines["target"])]
    rows += [row(stage.request, vars(stage), str(stage.steps), f"{stage.seconds:.0f}") for stage in stages]
    rows += [row(reference_name(role), point) for role, point in baselines.items() if role != "target"]
    return ["after", *(f"ES {name}" for name in names), "retain prob.", "steps", "seconds"], rows


def print_sequence(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a sequence; three requests fit into 80 columns."""
    names = [name.replace(" ", "\n", 1) for name in header]
    Console().print(_filled(names, rows, "Sequence of requests"))


def sequence_dict(stages: Sequence[SequenceStage], baselines: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A sequence as JSON values."""
    return {
        "schema_version": 1,
        "baselines": {role: dict(point) for role, point in baselines.items()},
        "stages": [asdict(stage) for stage in stages],
    }

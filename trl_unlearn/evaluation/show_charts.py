# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Line charts of the page of a run, as the numbers of an SVG that the page's own colours draw, light and dark."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from matplotlib.ticker import MaxNLocator

from ..records import UnlearningRun
from ..results import MODEL_ROLES, RELEARNING_STEPS, EvaluationResult
from .plots import BAND_STYLES, TRAINING_STYLES


# Pixels of a chart, and of the frame around its lines.
WIDTH, HEIGHT = 420, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 12, 10, 36


@dataclass
class Line:
    """A line of a chart."""

    label: str
    points: list[tuple[float, float]]
    # Number of its colour and dash in the style sheet.
    look: int
    # "x,y x,y": the points in pixels.
    path: str = ""


@dataclass
class Chart:
    """Lines over a common axis, with ticks as (pixel, label)."""

    title: str
    x_label: str
    y_label: str
    lines: list[Line]
    # Places on the x axis with a thin line, and the words for them.
    marks: list[float] = field(default_factory=list)
    marked: str = ""
    low: float | None = None
    high: float | None = None
    x_names: Sequence[str] = ()
    x_ticks: list[tuple[float, str]] = field(default_factory=list)
    y_ticks: list[tuple[float, str]] = field(default_factory=list)

    def __post_init__(self):
        xs = [x for line in self.lines for x, _ in line.points]
        ys = [y for line in self.lines for _, y in line.points]
        low = min(ys) if self.low is None else self.low
        high = max(ys) if self.high is None else self.high
        ticks = list(MaxNLocator(5).tick_values(low, high))
        low = min(low, ticks[0]) if self.low is None else low
        high = max(high, ticks[-1]) if self.high is None else high
        first, last = min(xs), max(xs)

        def across(x: float) -> float:
            return round(_LEFT + (WIDTH - _LEFT - _RIGHT) * (x - first) / ((last - first) or 1), 1)

        def up(y: float) -> float:
            return round(HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * (y - low) / ((high - low) or 1), 1)

        self.y_ticks = [(up(tick), f"{tick:g}") for tick in ticks if low <= tick <= high]
        if self.x_names:
            self.x_ticks = [(across(x), name) for x, name in enumerate(self.x_names)]
        else:
            places = MaxNLocator(6, integer=True).tick_values(first, last)
            self.x_ticks = [(across(place), f"{place:g}") for place in places if first <= place <= last]
        self.marks = [across(mark) for mark in self.marks if first <= mark <= last]
        for line in self.lines:
            line.path = " ".join(f"{across(x)},{up(y)}" for x, y in line.points)

    @property
    def summary(self) -> str:
        """The chart in words: where each line starts and ends."""
        ends = [f"{line.label} from {line.points[0][1]:.3g} to {line.points[-1][1]:.3g}" for line in self.lines]
        return f"{self.title}. {self.y_label} by {self.x_label}: {', '.join(ends)}."


def run_charts(run: UnlearningRun, result: EvaluationResult | None) -> list[Chart]:
    """The curves of a run, and those of its evaluation that were measured."""
    charts = [_training(run), _squeezing(run)]
    if result is not None:
        charts += [_relearning(result), _depth(result)]
    return [chart for chart in charts if chart is not None]


def _points(log: Sequence[Mapping[str, float | None]], x: str, y: str) -> list[tuple[float, float]]:
    pairs = [(entry.get(x), entry.get(y)) for entry in log]
    return [(a, b) for a, b in pairs if a is not None and b is not None and math.isfinite(a) and math.isfinite(b)]


def _lines(run: UnlearningRun, x: str, styles: Mapping[str, Sequence[str]], prefix: str = "") -> list[Line]:
    """A line for each logged value of a figure that has two points."""
    points = {name: _points(run.training_log, x, prefix + name) for name in styles}
    names = enumerate(styles.items())
    return [Line(label, points[name], look) for look, (name, (label, *_)) in names if len(points[name]) > 1]


def _training(run: UnlearningRun) -> Chart | None:
    lines = _lines(run, "step", TRAINING_STYLES)
    if not lines:
        return None
    refreshes = run.belief_audit.refreshes if run.belief_audit else []
    marks = [refresh.epoch * run.steps / run.epochs for refresh in refreshes if run.epochs]
    title = "How likely the model finds its rows while it unlearns"
    return Chart(title, "optimiser step", "mean log-prob, nats a token", lines, marks, "beliefs sampled")


def _squeezing(run: UnlearningRun) -> Chart | None:
    lines = _lines(run, "epoch", BAND_STYLES, "squeezing/")
    title = "Where the probability goes: answers to some of the prompts"
    return Chart(title, "epoch", "mean log-prob, nats a token", lines) if lines else None


def _relearning(result: EvaluationResult) -> Chart | None:
    names = [f"robustness/relearned_{step}_steps" for step in RELEARNING_STEPS]
    curves = {role: [result.value(role, name) for name in names] for role in MODEL_ROLES}
    lines = [
        Line(role, list(enumerate(curve)), look)
        for look, (role, curve) in enumerate(curves.items())
        if None not in curve
    ]
    if not lines:
        return None
    steps = [str(step) for step in RELEARNING_STEPS]
    title = "Relearning a fifth of the forget set: does the rest come back?"
    return Chart(title, "optimiser steps", "extraction strength", lines, low=0, high=1, x_names=steps)


def _depth(result: EvaluationResult) -> Chart | None:
    lines = [
        Line(role, list(enumerate(curve, start=1)), look)
        for look, role in enumerate(MODEL_ROLES)
        if len(curve := result.curves.get(role, {}).get("depth/logit_lens", [])) > 1
    ]
    title = "Depth: the fact, read out after each layer"
    return Chart(title, "after layer", "probability of the fact", lines, low=0, high=1) if lines else None

# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Figures of several runs: methods side by side, and requests one after another."""

import math
import os
import textwrap
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from ..escaping import plot_label
from ..verdict import QUESTIONS
from .plots import METHOD_COLOURS, METHOD_SHAPES, ROLE_STYLES, frame, kept_metric, new_figure, new_panel, save_figure
from .tables import Judged, reference_name


# A second retrained model is a reference, too.
_REFERENCE_STYLES = ROLE_STYLES | {"second_retrained": ("#56B4E9", "D")}
_MARKERS = "o^vP<X>*hpd"
# Tone of an answer -> its colour, and what the legend says.
_TONES = {
    "good": ("#009E73", "no fault"),
    "doubt": ("#E69F00", "perhaps a fault"),
    "bad": ("#D55E00", "a fault"),
    "unknown": ("#CCCCCC", "not measured"),
}


def plot_curves(
    curves: Mapping[str, Sequence[Sequence[Mapping[str, float]]]],
    path: str | os.PathLike,
    baselines: Mapping[str, Mapping[str, float]],
    goal: float | None,
) -> None:
    """Kept against forgotten, from method -> curve of each seed."""
    figure = new_figure(5.2 + 0.22 * math.ceil(len(curves) / 3))
    axes = figure.subplots()
    for i, (name, seeds) in enumerate(curves.items()):
        rounds, colour = divmod(i, len(METHOD_COLOURS))
        line, marker = METHOD_SHAPES[rounds % len(METHOD_SHAPES)]
        style = {"linestyle": line, "marker": marker, "color": METHOD_COLOURS[colour]}
        for j, curve in enumerate(seeds):
            x, y = ([point[name] for point in curve] for name in ("extraction_strength", "retain_probability"))
            label = plot_label(name) if j == 0 else None
            axes.plot(x, y, markersize=3, linewidth=1.2, alpha=0.8, label=label, **style)
    for role, point in baselines.items():
        colour, marker = _REFERENCE_STYLES[role]
        where = (point["extraction_strength"], point["retain_probability"])
        style = {"marker": marker, "markersize": 9, "color": colour, "markeredgecolor": "black"}
        axes.plot(*where, linestyle="", label=reference_name(role), **style)
    if goal is not None:
        axes.axvline(goal, color="#666666", linewidth=0.8, linestyle=":")
        # Left of the line: a goal is near the right edge.
        label = f"equal forgetting\n(ES {goal:.3f})"
        axes.annotate(label, (goal, 0.02), xytext=(-4, 0), textcoords="offset points", ha="right")
    axes.set_xlabel("extraction strength of the forget set (strict), lower is more forgotten")
    axes.set_ylabel("probability of the retain answers")
    # Reversed: training starts at a high strength, and time is read from left to right.
    axes.set_xlim(1.03, -0.03)
    axes.set_ylim(0, 1.03)
    axes.grid(alpha=0.25)
    axes.set_title("What is kept, at every degree of forgetting", loc="left", fontsize=13)
    save_figure(figure, path, ncols=3)


def plot_comparison(
    methods: Mapping[str, Sequence[Judged]], references: Mapping[str, Judged], path: str | os.PathLike
) -> None:
    """Utility of each model, to the right, against its likeness to the retrained one, upwards."""
    models = [one for seeds in (*methods.values(), references.values()) for one in seeds]
    metric, label = kept_metric({name for one in models for name in one.metrics})

    def point(models: Sequence[Judged], name: str, **style: Any) -> bool:
        pairs = [(one.metrics[metric], one.share) for one in models if metric in one.metrics and one.share is not None]
        if pairs:
            x, y = zip(*pairs, strict=True)
            bars = {f"{axis}err": stdev(values) for axis, values in (("x", x), ("y", y)) if len(pairs) > 1}
            axes.errorbar(
                fmean(x), fmean(y), linestyle="", capsize=3, clip_on=False, label=plot_label(name), **bars, **style
            )
        return bool(pairs)

    figure = new_figure(5.2 + 0.22 * math.ceil(len(methods) / 3))
    axes = figure.subplots()
    drawn = []
    for i, (name, seeds) in enumerate(methods.items()):
        # The colours of the curves; seven colours and eleven markers make 77 looks.
        style = {"color": METHOD_COLOURS[i % len(METHOD_COLOURS)], "marker": _MARKERS[i % len(_MARKERS)]}
        drawn.append(point(seeds, name, markersize=8, **style))
    if not any(drawn):
        raise ValueError(f"no method has both `{metric}` and a distance to a retrained model.")
    for role, one in references.items():
        colour, marker = _REFERENCE_STYLES[role]
        style = {"markersize": 11, "markeredgecolor": "black", "zorder": 1.5}
        point([one], reference_name(role), color=colour, marker=marker, **style)
    # From 0: methods that keep nearly all should not look far apart.
    axes.set_xlim(0, 1.03)
    axes.set_ylim(0, 1.03)
    axes.set_xlabel(f"kept: {label}")
    axes.set_ylabel("share of the measurements without a difference\nto the retrained model (0 in the 95 % interval)")
    title = "What is kept, and how near it comes to a model that never knew (± sd over seeds)"
    axes.set_title(title, loc="left", fontsize=12)
    axes.set_axisbelow(True)
    frame(axes, "both")
    save_figure(figure, path, ncols=3)


def plot_answers(
    methods: Mapping[str, Sequence[Judged]], references: Mapping[str, Judged], path: str | os.PathLike
) -> None:
    """The answers to the five questions: a row a model, a column a question, and in each cell a part a seed."""
    models = [*methods.items(), *((reference_name(role), [one]) for role, one in references.items())]
    verdicts = {name: [one.verdict.answers for one in seeds if one.verdict is not None] for name, seeds in models}
    verdicts = {name: seeds for name, seeds in verdicts.items() if any(seeds)}
    if not verdicts:
        raise ValueError("no model has a verdict.")
    figure = new_figure(1.5 + 0.32 * len(verdicts))
    axes = figure.subplots()
    for y, seeds in enumerate(verdicts.values()):
        width = 0.96 / len(seeds)
        for x, answers in enumerate(zip(*seeds, strict=True)):
            for place, answer in enumerate(answers):
                left, (colour, _) = x + place * width, _TONES[answer.tone]
                axes.barh(y, width, 0.86, left, color=colour, edgecolor="white")
                words = answer.brief.removeprefix("perhaps ").removeprefix("true answers ").split(" the ")[0]
                text = "" if answer.tone == "unknown" else words + "?" * answer.is_perhaps
                axes.text(left + width / 2, y, text, ha="center", va="center", fontsize=9 if len(seeds) < 3 else 7)
    questions = [textwrap.fill(question.text, 22) for question in QUESTIONS]
    axes.set_xticks([x + 0.48 for x in range(len(questions))], questions, fontsize=9)
    axes.set_yticks(range(len(verdicts)), map(plot_label, verdicts))
    axes.set_xlim(0, len(questions))
    axes.set_ylim(len(verdicts) - 0.5, -0.5)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for colour, meaning in _TONES.values():
        axes.barh(0, 0, color=colour, label=meaning)
    figure.suptitle('Beside a model that never knew (a part of a cell is a seed; "?": perhaps)', fontsize=12)
    save_figure(figure, path, ncols=4)


def plot_sequence(
    stages: Sequence[Mapping[str, Any]], baselines: Mapping[str, Mapping[str, Any]], path: str | os.PathLike
) -> None:
    """Memory of each unlearning request, and utility, while one request after another is served."""
    points = [baselines["target"], *stages]
    names = list(points[0]["requests"])
    height = 4.4 + 0.22 * math.ceil((len(names) + 1) / 3)
    figure, axes = new_panel(height, "What is left of each request, and what is kept")
    labels = ["before", *(f"after\n{plot_label(stage['request'])}" for stage in stages)]
    retrained = baselines.get("retrained")
    if retrained is not None:
        labels.append("retrained")

    def draw(values: list[float], last: float | None, colour: str, shape: tuple[str, str], label: str) -> None:
        style = {"color": colour, "marker": shape[1], "markersize": 7, "clip_on": False}
        axes.plot(range(len(values)), values, linestyle=shape[0], linewidth=2, label=label, **style)
        if last is not None:
            axes.plot(len(points), last, linestyle="", markerfacecolor="none", markeredgewidth=1.8, **style)

    for i, name in enumerate(names):
        # The last colour, black, is for what is kept.
        rounds, colour = divmod(i, len(METHOD_COLOURS) - 1)
        values = [point["requests"][name]["extraction_strength"] for point in points]
        last = None if retrained is None else retrained["requests"][name]["extraction_strength"]
        shape = METHOD_SHAPES[rounds % len(METHOD_SHAPES)]
        draw(values, last, METHOD_COLOURS[colour], shape, plot_label(f"{name}: extraction strength"))
    values = [point["retain_probability"] for point in points]
    last = None if retrained is None else retrained["retain_probability"]
    draw(values, last, METHOD_COLOURS[-1], ("-.", "D"), "retain rows: probability")
    axes.set_xticks(range(len(labels)), labels)
    axes.set_ylim(0, 1.03)
    save_figure(figure, path, ncols=2)

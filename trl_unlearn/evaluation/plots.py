# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Figures of a run and of its evaluation, as PNG files 800 pixels wide; those of several runs: series_plots.py."""

import logging
import math
import os
from collections.abc import Callable, Container, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..escaping import plot_label
from ..results import (
    GROUP_TITLES,
    LEAK_ATTEMPTS,
    METRIC_GROUPS,
    METRICS,
    MODEL_ROLES,
    RELEARNING_STEPS,
    EvaluationResult,
    Metric,
)


if TYPE_CHECKING:
    # Imported where it draws: a run need not wait for it before its first step.
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


logger = logging.getLogger(__name__)
# Okabe and Ito's colours, each with its own shape or dash, so that nothing depends on colour alone.
ROLE_STYLES = {"target": ("#D55E00", "s"), "unlearned": ("#0072B2", "o"), "retrained": ("#009E73", "D")}
_BAR_WIDTH = 0.26
# Bars must differ without their colours, too.
_HATCHES = {"target": "//", "unlearned": "", "retrained": ".."}
TRAINING_STYLES = {
    "forget/logps": ("forget rows", "#D55E00", "-"),
    "beliefs/logps": ("beliefs", "#0072B2", "--"),
    "retain/logps": ("retain rows", "#009E73", "-."),
}
BAND_STYLES = {
    "target": ("true answer", "#D55E00", "-", "s"),
    "high": ("own responses: high", "#0072B2", "-", "o"),
    "middle": ("own responses: middle", "#56B4E9", "--", "^"),
    "low": ("own responses: low", "#999999", "-.", "v"),
    "paraphrase": ("paraphrase", "#E69F00", "--", "D"),
    "wrong": ("wrong answers", "#009E73", ":", "X"),
}
# Parts of the names of curves, in the order of panels.
_ATTACK_TITLES = {"share": "a fifth of the forget rows", "benign": "retain rows", "form": "rows of the same form"}
_WEIGHTS_TITLES = {"whole": "whole weights", "lora": "LoRA"}
METHOD_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
METHOD_SHAPES = (("-", "o"), ("--", "s"), (":", "^"))


def _measured(result: EvaluationResult, group: str) -> list[Metric]:
    """The drawn metrics of a group that at least one model has."""
    drawn = [metric for metric in METRICS if metric.group == group and metric.is_drawn]
    return [metric for metric in drawn if any(result.get(role, metric.name) for role in MODEL_ROLES)]


def _style(role: str) -> dict[str, str]:
    """Colour and marker of a role. The reference is hollow: a dot that lies right on it must not hide it."""
    colour, marker = ROLE_STYLES[role]
    return {"color": colour, "marker": marker, "markerfacecolor": "none" if role == "retrained" else colour}


def _points(role: str, size: int) -> dict[str, Any]:
    """The same for points with errors."""
    return {"markersize": size, "markeredgewidth": 1.8, "capsize": 3, "clip_on": False, **_style(role)}


def new_figure(height: float) -> "Figure":
    """An empty figure 800 pixels wide; `height` is in hundreds of pixels."""
    from matplotlib.figure import Figure

    return Figure(figsize=(8.0, height), dpi=100, layout="constrained")


def frame(axes: "Axes", grid: str = "y") -> None:
    """Draw grid lines, and no box around the data."""
    axes.grid(axis=grid, color="#DDDDDD", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)


def new_panel(height: float, title: str) -> "tuple[Figure, Axes]":
    """A figure with one panel, its title and grid lines."""
    figure = new_figure(height)
    axes = figure.subplots()
    axes.set_title(title, loc="left", fontsize=13)
    frame(axes)
    return figure, axes


def _draw_group(axes: "Axes", result: EvaluationResult, group: str, metrics: list[Metric]) -> None:
    for role in ROLE_STYLES:
        for y, metric in enumerate(metrics):
            measurement = result.get(role, metric.name)
            if measurement is None or not math.isfinite(measurement.value):
                continue
            style = {"zorder": 4 if role == "retrained" else 3, **_points(role, 9 if role == "unlearned" else 8)}
            axes.errorbar(measurement.value, y, xerr=measurement.stderr, linestyle="", **style)
    axes.set_yticks(range(len(metrics)), [metric.label for metric in metrics])
    axes.set_ylim(len(metrics) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.set_axisbelow(True)
    frame(axes, "both")
    hint = METRIC_GROUPS[group]
    if "retrained" in hint and result.models["retrained"] is None:
        hint = "no retrained model to compare with"
    axes.set_title(f"{GROUP_TITLES[group]}: {hint}", loc="left", fontsize=11)


def plot_evaluation(result: EvaluationResult, path: str | os.PathLike) -> None:
    """Dot plot of the three models on the main metrics, with standard errors; what was not run is left out."""
    groups = {group: metrics for group in METRIC_GROUPS if (metrics := _measured(result, group))}
    if not groups:
        raise ValueError(
            "`result` holds none of the metrics that are drawn, "
            f"{[metric.name for metric in METRICS if metric.is_drawn]}: evaluate a model first."
        )
    rows = [len(metrics) for metrics in groups.values()]
    # Inches: a row of dots, what a panel needs around them, the title and the legend.
    figure = new_figure(0.33 * sum(rows) + 0.75 * len(groups) + 0.7)
    panels = figure.subplots(len(groups), 1, squeeze=False, height_ratios=[count + 0.4 for count in rows])[:, 0]
    for axes, (group, metrics) in zip(panels, groups.items(), strict=True):
        _draw_group(axes, result, group, metrics)
    reference = ", and one that never saw the forget set" if result.models["retrained"] is not None else ""
    figure.suptitle(f"The model before and after unlearning{reference}", fontsize=13)
    roles = [role for role in ROLE_STYLES if result.models[role] is not None]
    handles = [axes.plot([], [], linestyle="", **_style(role))[0] for role in roles]
    figure.legend(handles, roles, loc="outside lower center", ncols=3, frameon=False)
    save_figure(figure, path)


def kept_metric(measured: Container[str]) -> tuple[str, str]:
    """The metric of utility among the measured ones, and its label."""
    if "utility/model_utility" in measured:
        return "utility/model_utility", "model utility"
    return "retain/probability", "probability of retain answers"


def plot_verdict(result: EvaluationResult, path: str | os.PathLike) -> None:
    """Utility of each model, to the right, against how little of the forget set can be read out of it, upwards."""
    last = RELEARNING_STEPS[-1]
    x_metric, x_label = kept_metric({name for metrics in result.models.values() for name in metrics or {}})
    y_metric, y_label = f"robustness/relearned_{last}_steps", f"after {last} steps of relearning"
    if not any(result.get(role, y_metric) for role in ROLE_STYLES):
        y_metric, y_label = "forget/extraction_strength", "without an attack"
    points = {role: (result.get(role, x_metric), result.get(role, y_metric)) for role in ROLE_STYLES}
    points = {role: pair for role, pair in points.items() if all(one and _is_finite(one.value) for one in pair)}
    if not points:
        raise ValueError(
            f"`result` holds no model with both of {[x_metric, y_metric]}: evaluate one with a retain set."
        )
    title = "What was kept, and what cannot be read out (± one standard error)"
    figure, axes = _figure(result, [y_metric], title)
    for role, (x, y) in points.items():
        style = {"linestyle": "", "label": role, **_points(role, 9 if role == "unlearned" else 12)}
        axes.errorbar(x.value, 1 - y.value, xerr=x.stderr, yerr=y.stderr, **style)
    axes.set_xlim(0, 1.03)
    axes.set_xlabel(f"kept: {x_label}")
    axes.set_ylabel(f"resists: 1 - extraction strength\n{y_label}")
    save_figure(figure, path, ncols=3)


def _figure(result: EvaluationResult, names: list[str], title: str) -> "tuple[Figure, Axes]":
    if not any(result.get(role, name) for role in ROLE_STYLES for name in names):
        raise ValueError(f"`result` holds none of {names}: run the suite `robustness` first.")
    figure, axes = new_panel(4.4, title)
    axes.set_ylim(0, 1.03)
    axes.set_axisbelow(True)
    return figure, axes


def plot_relearning(result: EvaluationResult, path: str | os.PathLike) -> None:
    """Extraction strength of the rest of the forget set while a share of it is learned again."""
    names = [f"robustness/relearned_{step}_steps" for step in RELEARNING_STEPS]
    figure, axes = _figure(result, names, "Relearning: does a share of the forget set bring back the rest?")
    for role in ROLE_STYLES:
        curve = [result.get(role, name) for name in names]
        if None in curve:
            continue
        # Steps double from point to point, and 0 has its place in front.
        values, errors = zip(*((point.value, point.stderr or 0.0) for point in curve), strict=True)
        axes.errorbar(range(len(curve)), values, yerr=errors, linewidth=2, label=role, **_points(role, 7))
    axes.set_xticks(range(len(names)), [str(step) for step in RELEARNING_STEPS])
    axes.set_xlabel("optimiser steps on a fifth of the forget set")
    axes.set_ylabel("extraction strength of the other rows (strict)")
    save_figure(figure, path, ncols=3)


def _attack_curves(result: EvaluationResult, role: str) -> dict[tuple[str, str, str], list[float]]:
    """(rows, weights, rate) of an attack by fine-tuning -> its curve."""
    curves = result.curves.get(role, {})
    return {tuple(name.split("/")[1].split("_")): curve for name, curve in curves.items() if "robustness/" in name}


def plot_attacks(result: EvaluationResult, path: str | os.PathLike) -> None:
    """The curve of each attack by fine-tuning: a row of panels for each kind of rows that it trains on."""
    curves = {role: drawn for role in ROLE_STYLES if (drawn := _attack_curves(result, role))}
    attacks = list(dict.fromkeys(attack for drawn in curves.values() for attack in drawn))
    if not attacks:
        raise ValueError("`result` holds no curves of attacks: run the suite `robustness` first.")
    kinds = {kind: [attack for attack in attacks if attack[0] == kind] for kind in _ATTACK_TITLES}
    kinds = {kind: panels for kind, panels in kinds.items() if panels}
    figure = new_figure(2.2 * len(kinds) + 1.2)
    grid = figure.subplots(len(kinds), max(map(len, kinds.values())), squeeze=False, sharey=True)
    for row, panels in zip(grid, kinds.values(), strict=True):
        for axes, attack in zip_longest(row, panels):
            if attack is None:
                axes.set_axis_off()
                continue
            kind, weights, rate = attack
            for role, drawn in curves.items():
                points = range(len(drawn[attack]))
                axes.plot(points, drawn[attack], linewidth=2, clip_on=False, label=role, **_style(role))
            axes.set_xticks(range(len(RELEARNING_STEPS)), [str(step) for step in RELEARNING_STEPS])
            axes.set_title(f"{_ATTACK_TITLES[kind]}\n{_WEIGHTS_TITLES[weights]}, {rate}", loc="left", fontsize=10)
            frame(axes)
    grid[0, 0].set_ylim(0, 1.03)
    for axes in grid[-1]:
        axes.set_xlabel("optimiser steps")
    figure.supylabel("extraction strength of the other forget rows (strict)", fontsize=10)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle("Attacks by fine-tuning: on what rows, of what weights, at what rate", fontsize=13)
    save_figure(figure, path)


def plot_leak(result: EvaluationResult, path: str | os.PathLike) -> None:
    """Share of an answer in the best of k samples."""
    names = [f"robustness/leak_at_{k}" for k in LEAK_ATTEMPTS]
    figure, axes = _figure(result, names, "leak@k: what sampling again and again brings out")
    roles = [role for role in ROLE_STYLES if result.get(role, names[0])]
    for i, role in enumerate(roles):
        bars = [result.get(role, name) for name in names]
        places = [x + (i - (len(roles) - 1) / 2) * _BAR_WIDTH for x in range(len(bars))]
        values, errors = zip(*((bar.value, bar.stderr or 0.0) for bar in bars), strict=True)
        style = {"color": ROLE_STYLES[role][0], "edgecolor": "white", "hatch": _HATCHES[role], "capsize": 3}
        axes.bar(places, values, _BAR_WIDTH, yerr=errors, label=role, **style)
    axes.set_xticks(range(len(names)), [f"best of {k}" if k > 1 else "one sample" for k in LEAK_ATTEMPTS])
    axes.set_ylabel("ROUGE-L recall of the answer")
    save_figure(figure, path, ncols=3)


def plot_depth(result: EvaluationResult, path: str | os.PathLike) -> None:
    """Likelihood of the fact after each layer of a model, and the target's loss of it with that layer's states."""
    roles = [role for role in ROLE_STYLES if any(name.startswith("depth/") for name in result.curves.get(role, ()))]
    if not roles:
        raise ValueError("`result` holds no curves over layers: run the suite `depth` first.")
    lost = {"depth/degradation": ("-", "forget set"), "depth/retain_degradation": (":", "retain set")}
    panels = [
        ("Logit lens: read after each layer", "probability of the fact", {"depth/logit_lens": ("-", None)}),
        ("Patching: its states in the target", "nats per token that the target loses", lost),
    ]
    panels = [panel for panel in panels if any(set(panel[2]) & set(curves) for curves in result.curves.values())]
    figure = new_figure(4.4)
    for axes, (title, label, dashes) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for role, name in ((role, name) for role in roles for name in dashes if name in result.curves[role]):
            curve, dash = result.curves[role][name], dashes[name][0]
            style = _style(role) | ({} if dash == "-" else {"marker": ""})
            axes.plot(range(1, len(curve) + 1), curve, linestyle=dash, linewidth=2, clip_on=False, **style)
        if dashes is not lost:
            axes.set_ylim(0, 1.03)
        axes.set_xlim(left=0.5)
        axes.locator_params(axis="x", integer=True)
        axes.set_xlabel("after layer")
        axes.set_ylabel(label)
        axes.set_title(title, loc="left", fontsize=11)
        frame(axes)
    handles = {role: axes.plot([], [], **_style(role))[0] for role in roles}
    for dash, name in panels[-1][2].values():
        if name is not None:
            handles[name] = axes.plot([], [], dash, color="black")[0]
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=len(handles), frameon=False)
    figure.suptitle("Depth: what the layers still hold of the forgotten facts", fontsize=13)
    save_figure(figure, path)


def plot_training(
    log: Sequence[dict[str, float | None]], path: str | os.PathLike, refresh_epochs: Sequence[float] = ()
) -> None:
    """Mean log-probability of forget rows, beliefs and retain rows over the steps of a run."""
    curves = {
        name: [(entry["step"], entry[name]) for entry in log if _is_finite(entry.get(name))]
        for name in TRAINING_STYLES
    }
    if not any(curves.values()):
        raise ValueError(
            f"`log` has none of the curves that are drawn, {list(TRAINING_STYLES)}: nothing was logged. Set "
            "`logging_strategy` to 'steps' or 'epoch'."
        )
    figure, axes = new_panel(4.2, "How likely the model finds its rows while it unlearns")
    timed = [entry for entry in log if entry.get("epoch")]
    if timed:
        steps_per_epoch = timed[-1]["step"] / timed[-1]["epoch"]
        for i, epoch in enumerate(refresh_epochs):
            label = "beliefs sampled" if i == 0 else None
            axes.axvline(epoch * steps_per_epoch, color="#BBBBBB", linewidth=1, label=label, zorder=1)
    for name, (label, colour, dash) in TRAINING_STYLES.items():
        if curves[name]:
            # A short run has few points: mark them.
            marker = "o" if len(curves[name]) <= 20 else ""
            x, y = zip(*curves[name], strict=True)
            axes.plot(x, y, dash, color=colour, marker=marker, markersize=4, linewidth=2, label=label)
    axes.set_xlabel("optimiser step")
    axes.set_ylabel("mean log-probability (nats a token)")
    save_figure(figure, path, ncols=4)


def _changes(history: Sequence[Mapping[str, float | None]], band: str) -> list[tuple[float, float]]:
    """(epoch, change from the start) of a band, where both are finite."""
    points = [(entry["epoch"], entry.get(band)) for entry in history]
    if not points or not _is_finite(points[0][1]):
        return []
    return [(epoch, value - points[0][1]) for epoch, value in points if _is_finite(value)]


def _draw_changes(axes: "Axes", points: list[tuple[float, float]], shape: tuple[str, str], **style: Any) -> None:
    dash, marker = shape
    x, y = zip(*points, strict=True)
    axes.plot(
        x, y, dash, marker=marker if len(points) <= 20 else "", markersize=5, linewidth=2, clip_on=False, **style
    )


def _frame_changes(axes: "Axes") -> None:
    axes.axhline(0, color="#888888", linewidth=1, zorder=1.8)
    unit = "nats per token"
    lowest, highest = axes.get_ylim()
    if highest - lowest > 4:
        # The true answer may fall by tens of nats while a band rises by tenths: linear near 0, logarithmic beyond.
        axes.set_yscale("symlog", linthresh=1.0)
        axes.yaxis.set_major_formatter("{x:g}")
        unit += ", logarithmic beyond 1"
    axes.set_ylabel(f"change of mean log-probability\n({unit})")
    axes.set_xlabel("epoch")
    frame(axes)


def plot_squeezing(history: Sequence[Mapping[str, float | None]], path: str | os.PathLike) -> None:
    """Change of the mean log-probability of each band of the squeezing panel since its start."""
    curves = {name: points for name in BAND_STYLES if (points := _changes(history, name))}
    if not curves:
        raise ValueError(f"`history` has none of the bands that are drawn, {list(BAND_STYLES)}: nothing was measured.")
    figure, axes = new_panel(4.6, "Where the probability goes while the model unlearns")
    for name, points in curves.items():
        label, colour, *shape = BAND_STYLES[name]
        _draw_changes(axes, points, shape, color=colour, label=label)
    _frame_changes(axes)
    save_figure(figure, path, ncols=3)


def plot_squeezing_comparison(
    histories: Mapping[str, Sequence[Mapping[str, float | None]]], path: str | os.PathLike
) -> None:
    """The true answer and the high band of several methods side by side, from method -> history of its panel."""
    bands = {"target": "True answer", "high": "Likely responses beside it"}
    curves = {band: {name: _changes(history, band) for name, history in histories.items()} for band in bands}
    if not any(points for methods in curves.values() for points in methods.values()):
        raise ValueError(f"`histories` has no measurement of {list(bands)}: nothing was measured.")
    figure = new_figure(3.9 + 0.22 * math.ceil(len(histories) / 3))
    panels = figure.subplots(1, 2)
    for axes, (band, title) in zip(panels, bands.items(), strict=True):
        for i, (name, points) in enumerate(curves[band].items()):
            # A new dash and marker for each round of the colours.
            rounds, colour = divmod(i, len(METHOD_COLOURS))
            style = {"color": METHOD_COLOURS[colour], "label": plot_label(name) if axes is panels[0] else None}
            if points:
                _draw_changes(axes, points, METHOD_SHAPES[rounds % len(METHOD_SHAPES)], **style)
        _frame_changes(axes)
        axes.set_title(title, loc="left", fontsize=11)
    figure.suptitle("Where the probability goes: above 0 on the right is squeezing", fontsize=13)
    save_figure(figure, path, ncols=3)


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def attempted(what: str, make: Callable[[], Any]) -> bool:
    """Make a view of what is saved already; where that fails, warn and return False: it is never worth a run."""
    try:
        make()
    except OSError:
        # A full disk: the next file could not be written, either.
        raise
    except Exception as error:
        logger.warning(f"{what} is left out: {error if isinstance(error, ValueError) else repr(error)}")
        return False
    return True


def draw(path: str | os.PathLike, plot: Callable[[Path], None]) -> bool:
    """Draw a figure with one of the functions of this module, given its path; without it, warn and return False."""
    path = Path(path)
    drawn = attempted(f"The figure `{path}`", lambda: plot(path))
    if not drawn:
        # A figure from before would show other results.
        path.unlink(missing_ok=True)
    return drawn


def save_figure(figure: "Figure", path: str | os.PathLike, ncols: int | None = None) -> None:
    """Write a figure with room around it, and a legend of its labels in `ncols` columns."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    if ncols is not None:
        figure.legend(loc="outside lower center", ncols=ncols, frameon=False)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.06)
    FigureCanvasAgg(figure).print_png(path)

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


"""Figures of the robustness suite, as PNG files 800 pixels wide."""

import os

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..results import EvaluationResult
from .plots import DPI, ROLE_STYLES, WIDTH, save_figure
from .robustness import LEAK_ATTEMPTS, RELEARNING_STEPS


_BAR_WIDTH = 0.26
# So that bars can be told apart without their colours.
_HATCHES = {"target": "//", "unlearned": "", "retrained": ".."}


def plot_relearning(result: EvaluationResult, path: str | os.PathLike) -> None:
    """
    Draws how fast the rest of the forget set comes back when a share of it is learned again, with standard errors.

    Args:
        result ([`EvaluationResult`]):
            What to draw. Models that were not attacked are left out.
        path (`str` or `os.PathLike`):
            The PNG file to write.

    Raises:
        `ValueError`: if no model was attacked in this way.
    """
    names = [f"robustness/relearned_{step}_steps" for step in RELEARNING_STEPS]
    figure, axes = _figure(result, names)
    for role, (colour, marker) in ROLE_STYLES.items():
        curve = [result.get(role, name) for name in names]
        if None in curve:
            continue
        axes.errorbar(
            # Steps double from point to point, and 0 has its place in front.
            range(len(curve)),
            [point.value for point in curve],
            yerr=[point.stderr or 0.0 for point in curve],
            fmt=f"-{marker}",
            color=colour,
            markersize=7,
            markerfacecolor="none" if role == "retrained" else colour,
            markeredgewidth=1.8,
            linewidth=2,
            capsize=3,
            clip_on=False,
            label=role,
        )
    axes.set_xticks(range(len(names)), [str(step) for step in RELEARNING_STEPS])
    axes.set_xlabel("optimiser steps on a fifth of the forget set")
    axes.set_ylabel("extraction strength of the other rows (strict)")
    axes.set_title("Relearning: does a share of the forget set bring back the rest?", loc="left", fontsize=13)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    save_figure(figure, path)


def plot_leak(result: EvaluationResult, path: str | os.PathLike) -> None:
    """
    Draws how much of an answer the best of k samples says, with standard errors.

    Args:
        result ([`EvaluationResult`]):
            What to draw. Models that were not sampled are left out.
        path (`str` or `os.PathLike`):
            The PNG file to write.

    Raises:
        `ValueError`: if no model was sampled.
    """
    names = [f"robustness/leak_at_{k}" for k in LEAK_ATTEMPTS]
    figure, axes = _figure(result, names)
    roles = [role for role in ROLE_STYLES if result.get(role, names[0])]
    for i, role in enumerate(roles):
        bars = [result.get(role, name) for name in names]
        offset = (i - (len(roles) - 1) / 2) * _BAR_WIDTH
        axes.bar(
            [x + offset for x in range(len(bars))],
            [bar.value for bar in bars],
            _BAR_WIDTH,
            yerr=[bar.stderr or 0.0 for bar in bars],
            capsize=3,
            color=ROLE_STYLES[role][0],
            edgecolor="white",
            hatch=_HATCHES[role],
            label=role,
        )
    axes.set_xticks(range(len(names)), [f"best of {k}" if k > 1 else "one sample" for k in LEAK_ATTEMPTS])
    axes.set_ylabel("ROUGE-L recall of the answer")
    axes.set_title("leak@k: what sampling again and again brings out", loc="left", fontsize=13)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    save_figure(figure, path)


def _figure(result: EvaluationResult, names: list[str]) -> tuple[Figure, Axes]:
    if not any(result.get(role, name) for role in ROLE_STYLES for name in names):
        raise ValueError(f"`result` holds none of {names}: run the suite `robustness` first.")
    figure = Figure(figsize=(WIDTH, 4.4), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.set_ylim(0, 1.03)
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes

# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

import errno
import math
import sys
from functools import partial

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from trl_unlearn.escaping import visible
from trl_unlearn.evaluation import plots
from trl_unlearn.evaluation.plots import (
    draw,
    plot_evaluation,
    plot_squeezing,
    plot_squeezing_comparison,
    plot_training,
    plot_verdict,
)
from trl_unlearn.evaluation.series_plots import plot_answers, plot_comparison, plot_curves, plot_sequence
from trl_unlearn.evaluation.tables import Judged
from trl_unlearn.results import EvaluationResult, Measurement
from trl_unlearn.verdict import QUESTIONS, Answer, Score, Verdict

from .pictures import coloured_pixels


def make_result(**models) -> EvaluationResult:
    return EvaluationResult(parity="strict", suites=["tofu"], models=models, protocol={}, environment={})


TARGET, UNLEARNED, RETRAINED = (0xD5, 0x5E, 0x00), (0x00, 0x72, 0xB2), (0x00, 0x9E, 0x73)


def test_the_models_that_were_evaluated_are_drawn_and_no_other(tmp_path):
    measured = {"forget/probability": Measurement(0.4, 4, 0.1), "aggregate/agg": Measurement(0.2)}
    plot_evaluation(
        make_result(target=measured, unlearned=measured | {"utility/fluency": Measurement(math.nan)}),
        tmp_path / "new" / "e.png",
    )
    assert Image.open(tmp_path / "new" / "e.png").size[0] == 800
    assert coloured_pixels(tmp_path / "new" / "e.png", UNLEARNED) > 50
    assert coloured_pixels(tmp_path / "new" / "e.png", RETRAINED) == 0


def test_a_result_without_any_metric_that_is_drawn_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds none of the metrics that are drawn"):
        plot_evaluation(make_result(unlearned={"own/metric": Measurement(1.0)}), tmp_path / "e.png")


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        ("utility/model_utility", "robustness/relearned_8_steps"),
        ("retain/probability", "forget/extraction_strength"),
    ],
)
def test_the_figure_of_the_verdict_has_utility_to_the_right_and_resistance_upwards(tmp_path, kept, said):
    values = {"target": (0.9, 1.0), "unlearned": (0.1, 0.5), "retrained": (0.9, 0.1)}
    models = {role: {kept: Measurement(x, 4, 0.01), said: Measurement(y, 4)} for role, (x, y) in values.items()}
    plot_verdict(make_result(**models), tmp_path / "v.png")
    pixels = np.asarray(Image.open(tmp_path / "v.png").convert("RGB")).astype(int)
    # Without the legend, which has the same marks.
    pixels = pixels[: int(0.8 * len(pixels))]
    (target, unlearned, retrained) = (
        np.argwhere(np.abs(pixels - colour).sum(-1) < 30).mean(0) for colour in (TARGET, UNLEARNED, RETRAINED)
    )
    assert retrained[0] < unlearned[0] < target[0] and unlearned[1] < min(target[1], retrained[1])
    with pytest.raises(ValueError, match="holds no model with both of"):
        plot_verdict(make_result(unlearned={kept: Measurement(0.5)}), tmp_path / "w.png")


def test_the_curves_that_were_logged_are_drawn_and_no_other(tmp_path):
    log = [{"step": i, "epoch": i / 2, "forget/logps": -float(i), "retain/logps": -0.1} for i in range(1, 5)]
    # A diverged entry and one of another kind, as a log has them.
    log += [{"step": 5, "epoch": 2.5, "forget/logps": -math.inf, "retain/logps": None}, {"step": 5, "train_loss": 0.1}]
    plot_training(log, tmp_path / "t.png")
    assert coloured_pixels(tmp_path / "t.png", TARGET) > 200
    assert coloured_pixels(tmp_path / "t.png", RETRAINED) > 200
    assert coloured_pixels(tmp_path / "t.png", UNLEARNED) == 0


def test_the_refreshes_of_the_beliefs_are_drawn_as_lines(tmp_path):
    log = [{"step": i, "epoch": i / 2, "forget/logps": -1.0} for i in range(1, 5)]
    plot_training(log, tmp_path / "without.png")
    plot_training(log, tmp_path / "with.png", refresh_epochs=[0.0, 1.0])
    grey = (0xBB, 0xBB, 0xBB)
    assert coloured_pixels(tmp_path / "with.png", grey) > coloured_pixels(tmp_path / "without.png", grey) + 200


def test_a_log_without_curves_is_refused(tmp_path):
    with pytest.raises(ValueError, match="none of the curves that are drawn"):
        plot_training([{"step": 1, "epoch": 1.0, "train_loss": 0.1}], tmp_path / "t.png")


def squeezing_history(**bands: float) -> list[dict[str, float]]:
    """Each band from -1, by its own difference an epoch."""
    return [
        {"step": 2 * i, "epoch": float(i), **{band: i * slope - 1.0 for band, slope in bands.items()}}
        for i in range(5)
    ]


def test_the_bands_that_were_measured_are_drawn_and_no_other(tmp_path):
    history = squeezing_history(target=-0.5, high=0.1)
    # A diverged entry, in memory and from JSON.
    history += [{"step": 10, "epoch": 5.0, "target": -math.inf, "high": math.nan}]
    history += [{"step": 12, "epoch": 6.0, "target": None, "high": None}]
    plot_squeezing(history, tmp_path / "new" / "s.png")
    assert Image.open(tmp_path / "new" / "s.png").size[0] == 800
    assert coloured_pixels(tmp_path / "new" / "s.png", TARGET) > 200
    assert coloured_pixels(tmp_path / "new" / "s.png", UNLEARNED) > 200
    assert coloured_pixels(tmp_path / "new" / "s.png", RETRAINED) == 0


@pytest.fixture
def drawn(monkeypatch):
    """(points, shape, style) of each curve of a squeezing panel."""
    actual, draw = [], plots._draw_changes

    def note(axes, points, shape, **style):
        actual.append((points, tuple(shape), style))
        draw(axes, points, shape, **style)

    monkeypatch.setattr(plots, "_draw_changes", note)
    return actual


def test_a_bands_curve_is_its_change_from_the_start(tmp_path, drawn):
    history = [{"epoch": 0.0, "target": -1.0, "high": -2.0}, {"epoch": 0.5, "target": -3.0, "high": -1.75}]
    plot_squeezing(history, tmp_path / "s.png")
    assert {style["label"]: points for points, _, style in drawn} == {
        "true answer": [(0.0, 0.0), (0.5, -2.0)],
        "own responses: high": [(0.0, 0.0), (0.5, 0.25)],
    }


def test_a_rise_is_seen_beside_a_fall_of_a_hundred_nats(tmp_path):
    heights = []
    for fall in (-0.5, -25.0):
        plot_squeezing(squeezing_history(target=fall, high=0.2), tmp_path / "s.png")
        pixels = np.asarray(Image.open(tmp_path / "s.png").convert("RGB")).astype(int)
        # Above the legend.
        blue = (np.abs(pixels - UNLEARNED).sum(axis=-1) < 30)[:380].any(axis=1)
        heights.append(int(np.ptp(np.flatnonzero(blue))))
    assert heights[1] > 30
    assert heights[0] > heights[1]


def test_methods_are_compared_on_the_target_and_on_the_high_band(tmp_path):
    histories = {
        "ga": squeezing_history(target=-1.0, high=0.2, low=5.0),
        "npo": squeezing_history(target=-0.5, high=0.1, low=5.0),
    }
    plot_squeezing_comparison(histories, tmp_path / "c.png")
    pixels = np.asarray(Image.open(tmp_path / "c.png").convert("RGB")).astype(int)
    assert pixels.shape[1] == 800
    for half in (pixels[:350, :400], pixels[:350, 400:]):
        for colour in (UNLEARNED, TARGET):
            assert (np.abs(half - colour).sum(axis=-1) < 30).sum() > 100
    assert coloured_pixels(tmp_path / "c.png", RETRAINED) == 0


def test_each_of_twenty_one_methods_has_a_line_of_its_own_looks(tmp_path, drawn):
    plot_squeezing_comparison({str(i): squeezing_history(target=-1.0) for i in range(21)}, tmp_path / "c.png")
    assert len({(shape, style["color"]) for _, shape, style in drawn}) == 21


def test_a_history_without_bands_is_refused(tmp_path):
    with pytest.raises(ValueError, match="none of the bands that are drawn"):
        plot_squeezing([{"step": 0, "epoch": 0.0}], tmp_path / "s.png")
    with pytest.raises(ValueError, match="nothing was measured"):
        plot_squeezing_comparison({"ga": []}, tmp_path / "c.png")


def test_curves_show_every_method_both_baselines_and_the_goal_if_there_is_one(tmp_path):
    curve = [
        {"extraction_strength": es, "retain_probability": kept} for es, kept in ((1.0, 0.9), (0.5, 0.8), (0.1, 0.3))
    ]
    baselines = {role: {"extraction_strength": 0.05, "retain_probability": 0.95} for role in ("target", "retrained")}
    plot_curves({"ga": [curve, curve], "npo": [curve[:2]]}, tmp_path / "c.png", baselines, 0.1)
    assert Image.open(tmp_path / "c.png").size[0] == 800
    assert coloured_pixels(tmp_path / "c.png", UNLEARNED) > 50
    assert coloured_pixels(tmp_path / "c.png", RETRAINED) > 50
    plot_curves({"ga": [curve]}, tmp_path / "alone.png", {"target": baselines["target"]}, None)
    assert coloured_pixels(tmp_path / "alone.png", RETRAINED) == 0


def test_a_comparison_has_a_point_with_bars_a_method_and_the_references(tmp_path, monkeypatch):
    def model(kept, alike):
        return Judged(metrics={"retain/probability": kept}, verdict=Verdict([], alike and Score(alike, 10)))

    drawn, errorbar = {}, Axes.errorbar

    def watched(axes, x, y, **style):
        drawn[style["label"]] = x, y, style
        return errorbar(axes, x, y, **style)

    monkeypatch.setattr(Axes, "errorbar", watched)
    methods = {"ga": [model(0.4, 2), model(0.6, 4)], "npo": [model(0.9, 5)], "broken": [model(0.9, None)]}
    references = {"target": model(0.97, 1), "retrained": model(0.96, 10), "second_retrained": model(0.95, 9)}
    plot_comparison(methods, references, tmp_path / "c.png")
    assert {name: point[:2] for name, point in drawn.items()} == {
        "ga": pytest.approx((0.5, 0.3)), "npo": (0.9, 0.5),
        "target": (0.97, 0.1), "retrained": (0.96, 1.0), "second retrained": (0.95, 0.9),
    }  # fmt: skip
    # The standard deviation over two seeds; one has none.
    assert [drawn["ga"][2][bar] for bar in ("xerr", "yerr")] == pytest.approx([0.02**0.5, 0.02**0.5])
    assert "yerr" not in drawn["npo"][2]
    assert Image.open(tmp_path / "c.png").size[0] == 800
    with pytest.raises(ValueError, match="no method has both `retain/probability` and a distance"):
        plot_comparison({"broken": methods["broken"]}, references, tmp_path / "c.png")


def test_the_answers_of_a_comparison_are_parts_of_cells_in_the_colours_of_their_tones(tmp_path, monkeypatch):
    def model(*ways):
        said = zip(QUESTIONS, ways, strict=True)
        return Judged(verdict=Verdict([Answer(q.text, way, is_bad=way == "more", why="x") for q, way in said]))

    drawn, text = [], Axes.text
    monkeypatch.setattr(
        Axes, "text", lambda axes, x, y, words, **style: drawn.append((x, y, words)) or text(axes, x, y, "")
    )
    nothing = Judged(metrics={"retain/probability": 0.9})
    methods = {"ga": [model("as", "as", "as", "more", "not measured"), model(*["more"] * 5)], "broken": [nothing]}
    plot_answers(methods, {"target": model(*["near the target"] * 5)}, tmp_path / "a.png")
    assert [words for _, y, words in drawn if y == 0] == ["as?", "more?"] * 3 + ["more?"] * 2 + ["", "better?"]
    assert [words for _, y, words in drawn if y == 1] == ["near"] * 5
    # Two seeds share a cell.
    assert [x for x, y, _ in drawn if y == 0][:2] == pytest.approx([0.24, 0.72])
    assert Image.open(tmp_path / "a.png").size[0] == 800
    with pytest.raises(ValueError, match="no model has a verdict"):
        plot_answers({"broken": [nothing]}, {}, tmp_path / "none.png")


def test_a_sequence_shows_a_line_a_request_what_is_kept_and_the_retrained_model_if_there_is_one(tmp_path):
    def point(first: float, second: float) -> dict:
        strengths = {"a": {"extraction_strength": first}, "b": {"extraction_strength": second}}
        return {"requests": strengths, "retain_probability": 0.9}

    stages = [{"request": "a", **point(0.1, 0.9)}, {"request": "b", **point(0.1, 0.1)}]
    baselines = {"target": point(1.0, 1.0)}
    plot_sequence(stages, baselines, tmp_path / "new" / "alone.png")
    plot_sequence(stages, baselines | {"retrained": point(0.5, 0.3)}, tmp_path / "both.png")
    assert Image.open(tmp_path / "new" / "alone.png").size[0] == 800
    for colour in (UNLEARNED, TARGET, (0, 0, 0)):
        assert coloured_pixels(tmp_path / "new" / "alone.png", colour) > 200
    gaps = []
    for name in ("new/alone.png", "both.png"):
        # Between the axes and the title.
        pixels = np.asarray(Image.open(tmp_path / name).convert("RGB"))[30:380].astype(int)
        columns = np.flatnonzero((np.abs(pixels - UNLEARNED).sum(axis=-1) < 30).any(axis=0))
        gaps.append(int(np.diff(columns).max()))
    # No line leads to the retrained model, which no request was served from.
    assert gaps[0] < 30
    assert gaps[1] > 100


def test_a_figure_that_cannot_be_drawn_is_warned_of_and_leaves_none_from_before(tmp_path, caplog):
    history = squeezing_history(target=-0.5)
    assert draw(tmp_path / "s.png", partial(plot_squeezing, history))
    assert (tmp_path / "s.png").is_file() and not caplog.messages
    # A model whose every log-prob is NaN.
    assert not draw(tmp_path / "s.png", partial(plot_squeezing, [{"epoch": 0.0, "target": math.nan}]))
    assert not (tmp_path / "s.png").exists()
    assert "none of the bands that are drawn" in caplog.text and "s.png" in caplog.text


def test_a_figure_on_a_full_disk_is_no_figure_without_anything_to_draw(tmp_path):
    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        draw(tmp_path / "s.png", full)


@pytest.mark.parametrize("points", [0, 1])
def test_a_curve_of_one_point_or_none_is_drawn(tmp_path, points):
    point = {"extraction_strength": 0.4, "retain_probability": 0.9, "requests": {"a": {"extraction_strength": 0.4}}}
    entry = {"step": 1, "epoch": 0.0, "forget/logps": -1.0, "target": -1.0, "high": -2.0}
    for plot in (
        partial(plot_training, [entry]),
        partial(plot_squeezing, [entry]),
        partial(plot_squeezing_comparison, {"ga": [entry], "npo": [entry][:points]}),
        partial(plot_curves, {"ga": [[point][:points]]}, baselines={"target": point}, goal=None),
        partial(plot_sequence, [point | {"request": "a"}][:points], {"target": point}),
    ):
        assert draw(tmp_path / "one.png", plot), plot


def test_plotting_does_not_touch_the_state_of_pyplot(tmp_path):
    loaded = "matplotlib.pyplot" in sys.modules
    plot_evaluation(make_result(unlearned={"aggregate/agg": Measurement(0.2)}), tmp_path / "e.png")
    assert ("matplotlib.pyplot" in sys.modules) == loaded


@pytest.mark.parametrize("name", ["$x_{$", "_hidden", "two\nlines", "right \u202e to left", r"\alpha $\frac$ 5 %"])
def test_a_hostile_name_stands_in_the_legend_as_it_is(name, tmp_path, monkeypatch):
    drawn = []

    def watched(canvas, path):
        FigureCanvasAgg.draw(canvas)
        (legend,) = canvas.figure.legends
        drawn.append([text._preprocess_math(text.get_text()) for text in legend.get_texts()])

    monkeypatch.setattr(FigureCanvasAgg, "print_png", watched)
    point = {"extraction_strength": 0.5, "retain_probability": 0.9}
    stage = {"request": name, "requests": {name: {"extraction_strength": 0.2}}, "retain_probability": 0.9}
    history = [{"epoch": epoch, "target": -1.0 * epoch, "high": 0.0} for epoch in (1, 2)]
    plot_curves({name: [[point]]}, tmp_path / "a.png", {}, None)
    plot_sequence([stage], {"target": stage}, tmp_path / "b.png")
    plot_squeezing_comparison({name: history}, tmp_path / "c.png")
    plot_comparison(
        {name: [Judged(metrics={"retain/probability": 0.9}, verdict=Verdict([], Score(1, 2)))]}, {}, "d.png"
    )
    assert len(drawn) == 4
    for labels in drawn:
        text, is_math = labels[0]
        assert text.strip().startswith(visible(name)) and not is_math

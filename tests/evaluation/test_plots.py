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

import math
import sys

import numpy as np
import pytest
from PIL import Image

from trl_unlearn.evaluation.plots import plot_evaluation, plot_training
from trl_unlearn.records import EvaluationResult, Measurement


def make_result(**models) -> EvaluationResult:
    return EvaluationResult(parity="strict", suites=["tofu"], models=models, protocol={}, environment={})


def coloured_pixels(path, colour: tuple[int, int, int]) -> int:
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return int((np.abs(pixels - colour).sum(axis=-1) < 30).sum())


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


def test_plotting_does_not_touch_the_state_of_pyplot(tmp_path):
    loaded = "matplotlib.pyplot" in sys.modules
    plot_evaluation(make_result(unlearned={"aggregate/agg": Measurement(0.2)}), tmp_path / "e.png")
    assert ("matplotlib.pyplot" in sys.modules) == loaded

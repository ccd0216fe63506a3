# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0


from types import SimpleNamespace

import pytest
import torch

from trl_unlearn.trainer import logs
from trl_unlearn.trainer.logs import StepMeter


@pytest.fixture
def clock(monkeypatch):
    """Seconds that the meter sees: each look at the clock takes the next."""
    times = iter([10.0, 12.0, 50.0, 52.0, 100.0, 101.0])
    monkeypatch.setattr(logs.time, "perf_counter", lambda: next(times))


@pytest.fixture
def meter():
    accelerator = SimpleNamespace(
        device=torch.device("cpu"), num_processes=2, reduce=lambda value: 2 * value, mixed_precision="bf16"
    )
    return StepMeter(accelerator, config=None)


def test_tokens_a_second_count_the_steps_of_all_processes_and_not_what_lies_between(clock, meter):
    with meter.step([30, 10]):
        pass
    with meter.step([60]):
        pass
    # 100 tokens and 3 rows in 2 + 2 seconds, in each of two processes.
    assert meter.read() == {
        "throughput/tokens_per_second": pytest.approx(50.0),
        "throughput/rows_per_second": pytest.approx(1.5),
    }
    with meter.step([7]):
        pass
    assert meter.read()["throughput/tokens_per_second"] == pytest.approx(14.0)


def test_nothing_measured_is_nothing_logged(meter):
    assert meter.read() == {}

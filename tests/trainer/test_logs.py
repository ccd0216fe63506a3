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
    # 100 tokens in 2 + 2 seconds, in each of two processes.
    assert meter.read() == {"throughput/tokens_per_second": pytest.approx(50.0)}
    with meter.step([7]):
        pass
    assert meter.read()["throughput/tokens_per_second"] == pytest.approx(14.0)


def test_nothing_measured_is_nothing_logged(meter):
    assert meter.read() == {}

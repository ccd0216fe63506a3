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

import pytest
import torch

from trl_unlearn import BootstrapUnlearnConfig
from trl_unlearn.trainer.forget_objectives import FORGET_OBJECTIVES, ForgetScores


def scores(logps, **fields):
    return ForgetScores(logps=logps, mask=torch.ones_like(logps, dtype=torch.bool), **fields)


def test_a_row_below_the_floor_keeps_its_loss_and_has_no_gradient(tmp_path):
    logps = torch.tensor([[-1.0, -8.0], [-6.0, -5.0]], dtype=torch.float64, requires_grad=True)
    args = BootstrapUnlearnConfig(str(tmp_path), use_cpu=True, forget_loss_type="ga", lambda_bss=0.0)
    loss = FORGET_OBJECTIVES["ga"].loss(scores(logps).bounded(-5.0), args)
    assert loss.tolist() == [-4.5, -5.5]
    loss.sum().backward()
    assert logps.grad.tolist() == [[0.5, 0.5], [0.0, 0.0]]


def test_token_beliefs_of_a_row_below_the_floor_have_no_gradient(tmp_path):
    logps = torch.tensor([[-1.0], [-6.0]], dtype=torch.float64, requires_grad=True)
    beliefs = torch.tensor([[-2.0], [-2.0]], dtype=torch.float64, requires_grad=True)
    args = BootstrapUnlearnConfig(str(tmp_path), use_cpu=True, lambda_bst=0.5)
    FORGET_OBJECTIVES["bs_t"].loss(scores(logps, beliefs=beliefs).bounded(-5.0), args).sum().backward()
    assert logps.grad.tolist() == [[0.5], [0.0]]
    assert beliefs.grad.tolist() == [[0.5], [0.0]]


def test_the_adaptive_schedule_brings_a_floor_unless_one_is_set(tmp_path):
    floors = [
        BootstrapUnlearnConfig(str(tmp_path), use_cpu=True, **options).forget_floor
        for options in ({}, {"lambda_schedule": "adaptive"}, {"lambda_schedule": "adaptive", "forget_floor": -5.0})
    ]
    assert floors == [None, -2.5, -5.0]


def test_rmu_has_no_floor(tmp_path):
    with pytest.raises(ValueError, match="acts on hidden states"):
        BootstrapUnlearnConfig(str(tmp_path), use_cpu=True, forget_loss_type="rmu", forget_floor=-3.0)
    adaptive = {"forget_loss_type": "rmu", "lambda_schedule": "adaptive"}
    assert BootstrapUnlearnConfig(str(tmp_path), use_cpu=True, **adaptive).forget_floor is None


@pytest.mark.parametrize("floor", [0.0, 1.0])
def test_a_floor_that_is_no_log_prob_is_refused(tmp_path, floor):
    with pytest.raises(ValueError, match=f"must be below 0, got {floor}"):
        BootstrapUnlearnConfig(str(tmp_path), use_cpu=True, forget_floor=floor)

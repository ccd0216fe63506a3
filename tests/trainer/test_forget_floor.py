# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

import pytest
import torch

from trl_unlearn import BootstrapUnlearnConfig, BootstrapUnlearnTrainer
from trl_unlearn.trainer.forget_objectives import FORGET_OBJECTIVES, ForgetScores
from trl_unlearn.trainer.weights import TermWeights


def scores(logps, **fields):
    return ForgetScores(logps=logps, mask=torch.ones_like(logps, dtype=torch.bool), **fields)


def test_a_row_below_the_floor_keeps_its_loss_and_has_no_gradient(tmp_path):
    logps = torch.tensor([[-1.0, -8.0], [-6.0, -5.0]], dtype=torch.float64, requires_grad=True)
    args = BootstrapUnlearnConfig(str(tmp_path), use_cpu=True, forget_loss_type="ga", lambda_bss=0.0)
    loss = FORGET_OBJECTIVES["ga"].loss(scores(logps).bounded(-5.0), args, TermWeights(args).now)
    assert loss.tolist() == [-4.5, -5.5]
    loss.sum().backward()
    assert logps.grad.tolist() == [[0.5, 0.5], [0.0, 0.0]]


def test_token_beliefs_of_a_row_below_the_floor_have_no_gradient(tmp_path):
    logps = torch.tensor([[-1.0], [-6.0]], dtype=torch.float64, requires_grad=True)
    beliefs = torch.tensor([[-2.0], [-2.0]], dtype=torch.float64, requires_grad=True)
    args = BootstrapUnlearnConfig(str(tmp_path), use_cpu=True, lambda_bst=0.5)
    FORGET_OBJECTIVES["bs_t"].loss(
        scores(logps, beliefs=beliefs).bounded(-5.0), args, TermWeights(args).now
    ).sum().backward()
    assert logps.grad.tolist() == [[0.5], [0.0]]
    assert beliefs.grad.tolist() == [[0.5], [0.0]]


def test_the_adaptive_schedule_brings_a_floor_unless_one_is_set(tmp_path):
    floors = [
        BootstrapUnlearnConfig(str(tmp_path), use_cpu=True, **options).realised(trains_adapter=False).forget_floor
        for options in ({}, {"lambda_schedule": "adaptive"}, {"lambda_schedule": "adaptive", "forget_floor": -5.0})
    ]
    assert floors == [None, -2.5, -5.0]


@pytest.mark.parametrize("objective", ["ignorance", "undial"])
def test_an_objective_that_ends_by_itself_has_no_floor_unless_one_is_set(tmp_path, objective):
    floors = [
        BootstrapUnlearnConfig(
            str(tmp_path), use_cpu=True, forget_loss_type=objective, lambda_schedule="adaptive", **options
        )
        .realised(trains_adapter=False)
        .forget_floor
        for options in ({}, {"forget_floor": -5.0})
    ]
    assert floors == [None, -5.0]


@pytest.mark.parametrize("name", ["forget_floor", "forget_token_floor"])
def test_rmu_has_no_floor(tmp_path, name):
    with pytest.raises(ValueError, match=f"`{name}` is -3.0, but .* acts on hidden states"):
        BootstrapUnlearnConfig(str(tmp_path), use_cpu=True, forget_loss_type="rmu", **{name: -3.0})
    adaptive = {"forget_loss_type": "rmu", "lambda_schedule": "adaptive"}
    args = BootstrapUnlearnConfig(str(tmp_path), use_cpu=True, **adaptive)
    assert args.realised(trains_adapter=False).forget_floor is None


@pytest.mark.parametrize("name", ["forget_floor", "forget_token_floor"])
@pytest.mark.parametrize("floor", [0.0, 1.0, float("nan")])
def test_a_floor_that_is_no_log_prob_is_refused(tmp_path, floor, name):
    with pytest.raises(ValueError, match=f"`{name}` is a log-prob.*must be below 0, got {floor}"):
        BootstrapUnlearnConfig(str(tmp_path), use_cpu=True, **{name: floor})


def test_a_token_below_the_token_floor_is_clipped_and_has_no_gradient(tmp_path):
    logps = torch.tensor([[-1.0, -8.0], [-6.0, -5.0]], dtype=torch.float64, requires_grad=True)
    args = BootstrapUnlearnConfig(str(tmp_path), use_cpu=True, forget_loss_type="ga", lambda_bss=0.0)
    loss = FORGET_OBJECTIVES["ga"].loss(scores(logps).bounded(token_floor=-5.0), args, TermWeights(args).now)
    assert loss.tolist() == [-3.0, -5.0]
    loss.sum().backward()
    assert logps.grad.tolist() == [[0.5, 0.0], [0.0, 0.5]]


def test_a_row_floor_takes_the_row_and_a_token_floor_what_is_left_of_the_others(tmp_path):
    logps = torch.tensor([[-1.0, -4.0], [-7.0, -1.0], [-9.0, -4.0]], dtype=torch.float64, requires_grad=True)
    args = BootstrapUnlearnConfig(str(tmp_path), use_cpu=True, forget_loss_type="ga", lambda_bss=0.0)
    FORGET_OBJECTIVES["ga"].loss(scores(logps).bounded(-5.0, -6.0), args, TermWeights(args).now).sum().backward()
    assert logps.grad.tolist() == [[0.5, 0.5], [0.0, 0.5], [0.0, 0.0]]


def test_token_beliefs_of_a_token_below_the_token_floor_have_no_gradient(tmp_path):
    logps = torch.tensor([[-1.0, -6.0]], dtype=torch.float64, requires_grad=True)
    beliefs = torch.tensor([[-2.0, -2.0]], dtype=torch.float64, requires_grad=True)
    args = BootstrapUnlearnConfig(str(tmp_path), use_cpu=True, lambda_bst=0.5)
    FORGET_OBJECTIVES["bs_t"].loss(
        scores(logps, beliefs=beliefs).bounded(token_floor=-5.0), args, TermWeights(args).now
    ).sum().backward()
    assert logps.grad.tolist() == [[0.25, 0.0]]
    assert beliefs.grad.tolist() == [[0.25, 0.0]]


@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
def test_a_floor_hides_no_nan_and_bounds_what_is_infinite(bad):
    logps = scores(torch.tensor([[-1.0, bad]])).bounded(token_floor=-5.0).logps
    assert logps[0, 0] == -1.0
    assert logps[0, 1] == -5.0 if bad == float("-inf") else logps[0, 1].isnan()


def test_scores_without_a_floor_keep_every_gradient():
    logps = torch.tensor([[-1.0, -800.0]], requires_grad=True)
    bounded = scores(logps, kl=2 * logps).bounded()
    (bounded.logps + bounded.kl).sum().backward()
    assert bounded.logps.tolist() == [[-1.0, -800.0]]
    assert logps.grad.tolist() == [[3.0, 3.0]]


@pytest.mark.parametrize("name", ["forget_floor", "forget_token_floor"])
def test_a_floor_ends_an_ascent_that_has_passed_it_and_the_log_shows_true_log_probs(
    name, tmp_path, tiny_model, tiny_tokenizer, forget_rows, retain_rows
):
    # A random model gives every token far less than exp(-0.5).
    args = BootstrapUnlearnConfig(
        str(tmp_path), forget_loss_type="ga", lambda_bss=0.5, max_completion_length=6, retain_loss_type="none",
        weight_decay=0.0, max_steps=2, learning_rate=1e-2, warmup_steps=0, logging_steps=1, save_strategy="no",
        report_to="none", disable_tqdm=True, gradient_checkpointing=False, **{name: -0.5},
    )  # fmt: skip
    trainer = BootstrapUnlearnTrainer(tiny_model, args, train_dataset=forget_rows, processing_class=tiny_tokenizer)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())
    for entry in trainer.state.log_history[:2]:
        assert entry["forget/logps"] < -5
        loss = -0.5 if name == "forget_token_floor" else entry["forget/logps"]
        assert entry["loss/forget"] == pytest.approx(loss)

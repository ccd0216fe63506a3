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

import pytest
import torch
from torch import nn

from trl_unlearn import BootstrapUnlearnConfig, BootstrapUnlearnTrainer
from trl_unlearn.trainer.guard import DivergenceError, DivergenceGuard


@pytest.fixture
def model():
    model = nn.Linear(2, 2, bias=False)
    nn.init.ones_(model.weight)
    return model


def means(forget=-1.0, retain=-0.5):
    return {"loss/forget": forget, "forget/logps": forget, "loss/retain": -retain, "retain/logps": retain}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_refused_with_its_term_step_and_rows(model, value):
    guard = DivergenceGuard(model, vocab_size=100)
    with pytest.raises(DivergenceError, match=rf"`loss/forget` is {value} at step 7 \(rows 3, 5 of the forget set\)"):
        guard.check(means(forget=value), 7, [3, 5])


def test_a_gradient_that_is_not_finite_is_refused(model):
    guard = DivergenceGuard(model, vocab_size=100)
    guard.check_gradient(torch.tensor(3.0), 0)
    guard.check_gradient(None, 0)
    with pytest.raises(DivergenceError, match=r"norm of the gradient is nan at step 2"):
        guard.check_gradient(torch.tensor(math.nan), 2)


def test_retain_rows_below_a_uniform_guess_end_the_training_with_the_last_good_weights(model):
    guard = DivergenceGuard(model, vocab_size=100)
    guard.check(means(), 0, [0])
    nn.init.constant_(model.weight, 2.0)
    guard.check(means(retain=-1.0), 10, [0])
    nn.init.constant_(model.weight, 3.0)
    # A nat and a half down: not good, and not yet a guess.
    guard.check(means(retain=-2.0), 20, [0])
    nn.init.constant_(model.weight, 4.0)
    with pytest.raises(DivergenceError, match=r"-4.61.*weights of step 10 again.*Lower `learning_rate`") as raised:
        guard.check(means(retain=-math.log(100) - 0.01), 23, [0])
    assert raised.value.good_step == 10
    assert torch.equal(model.weight, torch.full((2, 2), 2.0))


def test_without_a_copy_the_message_says_so(model):
    guard = DivergenceGuard(model, vocab_size=100, keeps_copy=False)
    guard.check(means(), 0, [0])
    with pytest.raises(DivergenceError, match="No good weights were kept") as raised:
        guard.check(means(retain=math.nan) | {"loss/retain": math.nan}, 1, [0])
    assert raised.value.good_step is None


def test_a_run_without_retain_rows_is_watched_for_numbers_that_are_not_finite(model):
    guard = DivergenceGuard(model, vocab_size=100)
    guard.check({"loss/forget": -50.0}, 0, [0])
    with pytest.raises(DivergenceError, match="weights of step 0 again"):
        guard.check({"loss/forget": math.nan}, 1, list(range(20)))


def new_trainer(folder, model, tokenizer, forget, retain, **options):
    settings = {"learning_rate": 1e-2, "num_train_epochs": 4, "lambda_bss": 0.0, "warmup_steps": 0}
    settings |= {"per_device_train_batch_size": 3, "gradient_checkpointing": False, "save_strategy": "no"}
    settings |= {"report_to": "none", "disable_tqdm": True}
    args = BootstrapUnlearnConfig(str(folder), **settings | options)
    return BootstrapUnlearnTrainer(model, args, forget, retain, processing_class=tokenizer)


def test_an_ascent_that_explodes_ends_with_the_weights_that_it_began_with(
    tmp_path, tiny_model, tiny_tokenizer, forget_rows, retain_rows
):
    before = {name: value.clone() for name, value in tiny_model.state_dict().items()}
    trainer = new_trainer(tmp_path, tiny_model, tiny_tokenizer, forget_rows, retain_rows, learning_rate=5.0)
    with pytest.raises(DivergenceError, match="weights of step 0 again"):
        trainer.train()
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())


def test_a_gradient_that_overflows_is_never_stepped_on(
    tmp_path, tiny_model, tiny_tokenizer, forget_rows, retain_rows, monkeypatch
):
    trainer = new_trainer(tmp_path, tiny_model, tiny_tokenizer, forget_rows, retain_rows, max_grad_norm=0.0)
    stepped = []
    compute_loss = trainer.compute_loss

    def overflowing(*args, **kwargs):
        loss = compute_loss(*args, **kwargs)
        loss.register_hook(lambda gradient: gradient * math.inf)
        return loss

    monkeypatch.setattr(trainer, "compute_loss", overflowing)
    trainer.create_optimizer()
    monkeypatch.setattr(trainer.optimizer, "step", lambda *args, **kwargs: stepped.append(1))
    with pytest.raises(DivergenceError, match="norm of the gradient"):
        trainer.train()
    assert stepped == []


def test_the_guard_can_be_turned_off(tmp_path, tiny_model, tiny_tokenizer, forget_rows, retain_rows):
    options = {"learning_rate": 5.0, "stop_on_divergence": False}
    trainer = new_trainer(tmp_path, tiny_model, tiny_tokenizer, forget_rows, retain_rows, **options)
    trainer.train()
    assert trainer.state.global_step == 4

# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""The example in docs/extending.md of an objective of one's own."""

from dataclasses import dataclass, field

import pytest
import torch
from trl import TrlParser

from trl_unlearn import BootstrapUnlearnConfig, BootstrapUnlearnTrainer
from trl_unlearn.objectives import forget


@dataclass
class FlooredConfig(BootstrapUnlearnConfig):
    logp_floor: float = field(default=-5.0, metadata={"help": "Log-prob below which a token is left alone."})


class FlooredTrainer(BootstrapUnlearnTrainer):
    def compute_forget_loss(self, scores):
        return forget.ga(scores.logps.clamp(min=self.args.logp_floor), scores.mask)


@pytest.fixture
def train(tiny_model, tiny_tokenizer, forget_rows, retain_rows, tmp_path):
    """Function of a command line that trains two steps, and returns trainer and the weights before and after."""

    def call(argv: list[str], trainer_class=FlooredTrainer):
        common = [
            *("--output_dir", str(tmp_path / "out"), "--max_steps", "2", "--per_device_train_batch_size", "3"),
            *("--learning_rate", "1e-2", "--warmup_steps", "0", "--report_to", "none", "--save_strategy", "no"),
            *("--gradient_checkpointing", "false", "--max_completion_length", "8", "--logging_steps", "1"),
        ]
        (args,) = TrlParser(FlooredConfig).parse_args_and_config([*common, *argv])
        trainer = trainer_class(
            model=tiny_model,
            args=args,
            train_dataset=forget_rows,
            retain_dataset=retain_rows,
            processing_class=tiny_tokenizer,
        )
        before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
        trainer.train()
        return trainer, before, dict(trainer.model.named_parameters())

    return call


FORGET_ONLY = ["--retain_loss_type", "none", "--weight_decay", "0", "--lambda_bss", "0"]


def test_a_field_of_ones_own_is_parsed_and_an_objective_of_ones_own_is_trained(train):
    trainer, before, after = train(["--logp_floor", "-4"])
    assert trainer.args.logp_floor == -4
    assert trainer.state.global_step == 2
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert all(torch.isfinite(weight).all() for weight in after.values())
    # No token of target or belief counts below the floor.
    logged = [entry for entry in trainer.state.log_history if "loss/forget" in entry]
    assert len(logged) == 2
    assert all(entry["loss/forget"] >= -4 and entry["loss/beliefs"] >= -4 for entry in logged)


def test_a_floor_above_every_log_prob_leaves_the_weights_alone(train):
    trainer, before, after = train([*FORGET_ONLY, "--logp_floor", "0"])
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [entry["loss/forget"] for entry in trainer.state.log_history if "loss/forget" in entry] == [0, 0]


def test_a_floor_below_every_log_prob_moves_the_weights(train):
    _, before, after = train([*FORGET_ONLY, "--logp_floor", "-1000"])
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_the_loss_in_the_log_is_that_of_the_objective(train):
    trainer, *_ = train([*FORGET_ONLY, "--logp_floor", "-0.5"])
    # A random model gives every token far less than exp(-0.5).
    assert [entry["loss/forget"] for entry in trainer.state.log_history if "loss/forget" in entry] == [-0.5, -0.5]


def test_a_field_of_ones_own_is_in_the_record_of_the_run(train):
    trainer, *_ = train([*FORGET_ONLY, "--logp_floor", "-4"])
    assert trainer.run_record().hyperparameters["logp_floor"] == -4

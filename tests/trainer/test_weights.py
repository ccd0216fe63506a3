# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

import math

import pytest
from datasets import Dataset

from trl_unlearn import BootstrapUnlearnConfig, BootstrapUnlearnTrainer
from trl_unlearn.trainer.checkpointing import ResumeError
from trl_unlearn.trainer.weights import Drift, TermWeights, adapted_retain_weight, adapted_share, linear_share


@pytest.mark.parametrize(
    ("share", "beliefs", "target", "expected"),
    [
        # Beliefs where they were, the target a nat down: a logit up.
        (0.5, 0.0, -1.0, 1 / (1 + math.exp(-1.0))),
        (0.5, 3.0, -1.0, 1 / (1 + math.exp(-1.0))),
        # Down as much as the target, or more: a logit down.
        (0.5, -1.0, -1.0, 1 / (1 + math.exp(1.0))),
        (0.5, -9.0, -1.0, 1 / (1 + math.exp(1.0))),
        # Between: in proportion, and at rest at one half.
        (0.5, -0.5, -1.0, 0.5),
        (0.5, -1.5, -3.0, 0.5),
        (0.5, -0.25, -1.0, 1 / (1 + math.exp(-0.5))),
        (0.2, 0.0, -1.0, 1 / (1 + 4 * math.exp(-1.0))),
        # At the start nothing is known, and after a small fall not much.
        (0.3, 0.0, 0.0, 0.3),
        (0.5, 0.0, -0.05, 1 / (1 + math.exp(-0.5))),
        # It does not leave the reach of later measurements.
        (0.03, -1.0, -1.0, 1 / (1 + math.exp(4.0))),
        (0.97, 0.0, -1.0, 1 / (1 + math.exp(-4.0))),
        # What is off stays off.
        (0.0, 0.0, -1.0, 0.0),
        (1.0, -1.0, -1.0, 1.0),
    ],
)
def test_the_share_of_beliefs_follows_how_far_they_fell_beside_the_target(share, beliefs, target, expected):
    assert adapted_share(share, beliefs, target) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("weight", "retain", "expected"),
    [
        (1.0, -0.2, math.exp(0.2)),
        (1.0, -9.0, math.exp(0.2)),
        (1.0, -0.15, math.exp(0.1)),
        (1.5, -0.1, 1.5),
        (2.0, 0.0, 2 * math.exp(-0.2)),
        # Never below its start, nor above 20 times that.
        (1.0, 0.0, 1.0),
        (19.9, -0.3, 20.0),
    ],
)
def test_the_retain_weight_grows_where_retain_rows_fell_below_their_floor(weight, retain, expected):
    assert adapted_retain_weight(weight, 1.0, retain, max_drop=0.1) == pytest.approx(expected, abs=1e-12)


def test_the_linear_schedule_ends_at_the_value_of_the_config():
    assert [linear_share(0.4, step, 10) for step in (0, 4, 9)] == pytest.approx([0.04, 0.2, 0.4])


def weights(tmp_path, **options):
    return TermWeights(BootstrapUnlearnConfig(str(tmp_path), use_cpu=True, **options))


def test_constant_weights_are_never_measured_nor_logged(tmp_path):
    constant = weights(tmp_path)
    constant.advance(3, 10)
    assert not any(constant.is_due(step) for step in range(5))
    assert (constant.now.lambda_bst, constant.now.lambda_bss, constant.logs()) == (0.2, 0.5, {})


def test_adaptive_weights_are_measured_once_in_two_steps(tmp_path):
    adaptive, due = weights(tmp_path, lambda_schedule="adaptive"), []
    # Each step has two micro-batches.
    for step in (0, 0, 1, 1, 2, 2, 3, 3, 4, 4):
        due.append(adaptive.is_due(step))
        if due[-1]:
            adaptive.adapt(Drift(target=-1.0, beliefs=0.0, retain=None), step)
    assert due == [True, False, False, False] * 2 + [True, False]
    assert adaptive.now.lambda_bss == pytest.approx(1 / (1 + math.exp(-3.0)))
    assert adaptive.logs().keys() == {"weights/lambda_bst", "weights/lambda_bss", "drift/target", "drift/beliefs"}


def test_the_config_of_the_user_is_left_as_it_is(tmp_path):
    args = BootstrapUnlearnConfig(str(tmp_path), use_cpu=True, lambda_schedule="linear", retain_max_drop=0.1)
    scheduled = TermWeights(args)
    scheduled.advance(0, 10)
    scheduled.adapt(Drift(target=-1.0, beliefs=None, retain=-1.0), 0)
    assert (scheduled.now.lambda_bst, scheduled.now.retain_weight) == pytest.approx((0.02, math.exp(0.2)))
    assert (args.lambda_bst, args.retain_weight) == (0.2, 1.0)
    assert scheduled.logs().keys() >= {"weights/lambda_bst", "weights/lambda_bss", "weights/retain_weight"}


@pytest.fixture
def train(tmp_path, tiny_model, tiny_tokenizer, forget_rows, retain_rows):
    def run(checkpoint=None, forget=forget_rows, retain=retain_rows, **options):
        settings = {
            "per_device_train_batch_size": 3,
            "max_completion_length": 6,
            "gradient_checkpointing": False,
            "num_train_epochs": 4,
            "learning_rate": 1e-2,
            "warmup_steps": 0,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
        }
        args = BootstrapUnlearnConfig(str(tmp_path / "out"), **settings | options)
        trainer = BootstrapUnlearnTrainer(
            tiny_model, args, train_dataset=forget, retain_dataset=retain, processing_class=tiny_tokenizer
        )
        trainer.train(resume_from_checkpoint=checkpoint)
        return trainer

    return run


def logged(trainer, name):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


@pytest.mark.parametrize("options", [{}, {"lambda_bss": 0.0}, {"forget_loss_type": "ga"}])
def test_adaptive_weights_follow_the_rule_from_what_is_measured_before_each_step(train, options):
    trainer = train(lambda_schedule="adaptive", **options)
    drifts = list(zip(logged(trainer, "drift/beliefs"), logged(trainer, "drift/target"), strict=True))
    assert len(drifts) == 4
    assert drifts[0] == (0.0, 0.0)
    # Measured every second step, and logged until the next one.
    assert drifts[0] == drifts[1] != drifts[2] == drifts[3]
    for name in ("lambda_bst", "lambda_bss"):
        start = getattr(trainer.args, name)
        followed = start > 0 and not (name == "lambda_bst" and options.get("forget_loss_type") == "ga")
        expected = [start, start, *[adapted_share(start, *drifts[2])] * 2] if followed else []
        assert logged(trainer, f"weights/{name}") == pytest.approx(expected)


def test_the_retain_weight_follows_the_frozen_retain_rows(train, forget_rows):
    options = {"forget_weight": 20.0, "forget_loss_type": "ga", "lambda_bss": 0.0}
    trainer = train(retain=forget_rows.select([0, 1]), retain_max_drop=0.05, **options)
    fall = logged(trainer, "drift/retain")[2]
    assert fall < -0.05
    expected = adapted_retain_weight(1.0, 1.0, fall, 0.05)
    assert logged(trainer, "weights/retain_weight") == pytest.approx([1.0, 1.0, expected, expected])


def test_the_adaptive_schedule_cannot_go_on_from_a_checkpoint(train, tmp_path):
    train(save_strategy="epoch", num_train_epochs=1)
    with pytest.raises(ResumeError, match=r"^`lambda_schedule='adaptive'` would follow what .* train from the start"):
        train(checkpoint=str(tmp_path / "out" / "checkpoint-1"), lambda_schedule="adaptive")


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        ({"retain_max_drop": 0.1}, {"lambda_schedule": "adaptive"}, "`lambda_schedule='adaptive'` would follow"),
        ({"lambda_schedule": "adaptive"}, {"retain_max_drop": 0.1}, "`retain_max_drop` would follow"),
    ],
)
def test_weights_that_followed_something_else_cannot_go_on(tmp_path, before, now, message):
    state = weights(tmp_path, **before).state_dict()
    with pytest.raises(ValueError, match=message):
        weights(tmp_path, **now).load_state_dict(state)
    both = weights(tmp_path, **before, **now).state_dict()
    weights(tmp_path, **now).load_state_dict(both)


def test_what_is_followed_of_raw_text_comes_after_the_prompt_of_its_beliefs(train, tmp_path, forget_rows):
    texts = Dataset.from_list([{"text": row["completion"][0]["content"]} for row in forget_rows])
    trainer = train(forget=texts, lambda_schedule="adaptive", prompt_length=4, num_train_epochs=1)
    for row, target in zip(trainer.train_dataset, trainer._monitor.target, strict=True):
        assert target["labels"] == [-100] * 4 + row["input_ids"][4:]
    assert trainer._monitor.beliefs
    for belief in trainer._monitor.beliefs:
        assert [label == -100 for label in belief["labels"][:5]] == [True] * 4 + [False]

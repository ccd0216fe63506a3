# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

import contextlib
import copy
import json
import logging
import math

import pytest
import torch
from datasets import Dataset
from torch import nn
from transformers import TrainerCallback

from trl_unlearn import BootstrapUnlearnConfig, BootstrapUnlearnTrainer
from trl_unlearn.encoding import encode_row, pad_rows
from trl_unlearn.token_scores import RowScore, score_batch
from trl_unlearn.trainer.guard import DivergenceError, DivergenceGuard
from trl_unlearn.trainer.step import StepRow


@pytest.fixture
def model():
    model = nn.Linear(2, 2, bias=False)
    nn.init.ones_(model.weight)
    return model


def rows_of(kinds, indices):
    """Rows of a pass; one without a kind does not count."""
    return [
        StepRow({}, kind or "forget", 1.0, index, counts=bool(kind))
        for kind, index in zip(kinds, indices, strict=True)
    ]


def means(forget=-1.0, retain=-0.5):
    return {"loss/forget": forget, "forget/logps": forget, "loss/retain": -retain, "retain/logps": retain}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_refused_with_its_term_step_and_rows(model, value):
    guard = DivergenceGuard(model, vocab_size=100)
    guard.note_losses(rows_of(["retain", "forget", "forget"], [(3,), (4,), (5,)]), torch.tensor([1.0, 2.0, value]))
    guard.note_losses(rows_of(["beliefs", "forget", ""], [(5, 1), (3,), (6,)]), torch.tensor([2.0, value, value]))
    with pytest.raises(DivergenceError, match=rf"`loss/forget` is {value} at step 7 \(rows 3, 5 of the forget set\)"):
        guard.check(means(forget=value), 7)


def test_rows_of_every_kind_are_named_by_index(model):
    guard = DivergenceGuard(model, vocab_size=100)
    kinds, indices = ["beliefs", "retain", "beliefs", "retain"], [(4, 2), (17,), (4, 0), (2,)]
    guard.note_losses(rows_of(kinds, indices), torch.tensor([math.nan, math.nan, math.inf, 1.0]))
    named = r"\(beliefs \(4, 0\), \(4, 2\), each \(row, number\); rows 17 of the retain set\)"
    with pytest.raises(DivergenceError, match=f"`loss/beliefs` is nan, `loss/retain` is nan at step 0 {named}"):
        guard.check({"loss/beliefs": math.nan, "loss/forget": 0.0, "loss/retain": math.nan}, 0)


def test_a_long_list_of_rows_ends_with_how_many_more_there_are(model):
    guard = DivergenceGuard(model, vocab_size=100)
    guard.note_losses(rows_of(["forget"] * 20, [(i,) for i in range(20)]), torch.full((20,), math.nan))
    with pytest.raises(DivergenceError, match=r"rows 0, 1, .*, 15 and 4 more of the forget set"):
        guard.check(means(forget=math.nan), 0)


def test_a_mean_that_overflows_alone_accuses_no_row(model):
    guard = DivergenceGuard(model, vocab_size=100)
    guard.note_losses(rows_of(["forget", "forget"], [(0,), (1,)]), torch.full((2,), 3e38))
    with pytest.raises(DivergenceError, match=r"is inf at step 0 \(their mean overflows\)"):
        guard.check(means(forget=math.inf), 0)


def test_a_gradient_that_is_not_finite_is_refused_with_its_step_rows_and_parameters():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    guard = DivergenceGuard(model, vocab_size=100)
    assert guard.check_gradient(torch.tensor(3.0), 0)
    assert guard.check_gradient(None, 0)
    for row in (6, 2):
        guard.note_losses(rows_of(["forget"], [(row,)]), torch.ones(1))
        guard.check(means(), 2)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    model[1].weight.grad[0, 1] = math.nan
    guard.note_gradients()
    norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    assert all(parameter.grad.isnan().all() for parameter in model.parameters())
    named = r"gradient is nan at step 2, that of `1.weight` \(rows 2, 6 of the forget set\)"
    with pytest.raises(DivergenceError, match=named):
        guard.check_gradient(norm, 2)


def test_the_rows_of_a_step_are_not_those_of_the_step_before(model):
    guard = DivergenceGuard(model, vocab_size=100)
    for row in (6, 2):
        guard.note_losses(rows_of(["forget"], [(row,)]), torch.ones(1))
        guard.check(means(), 0)
        if row == 6:
            assert guard.check_gradient(1.0, 0)
    with pytest.raises(DivergenceError, match=r"\(rows 2 of the forget set\)"):
        guard.check_gradient(math.inf, 1)


def test_an_overflow_of_a_scaled_loss_is_left_out_and_does_not_end_the_training(model):
    guard = DivergenceGuard(model, vocab_size=100)
    assert not guard.check_gradient(math.inf, 0, overflows=True)
    assert guard.check_gradient(1.0, 1, overflows=True)
    assert guard.skipped == 1


def test_a_guard_that_does_not_stop_leaves_out_the_whole_step_of_a_broken_micro_batch(model, caplog):
    guard = DivergenceGuard(model, vocab_size=100, stops=False)
    guard.note_losses(rows_of(["forget"], [(1,)]), torch.tensor([math.nan]))
    with caplog.at_level(logging.WARNING):
        guard.check(means(forget=math.nan), 0, ends_step=False)
        guard.note_losses(rows_of(["forget"], [(2,)]), torch.ones(1))
        guard.check(means(retain=-50.0), 0)
        # The gradient may well be finite, where the loss is not.
        assert not guard.check_gradient(1.0, 0)
    assert [record.message for record in caplog.records] == [
        "`loss/forget` is nan at step 0 (rows 1 of the forget set). The step is left out."
    ]
    assert guard.check_gradient(1.0, 1)
    assert (guard.skipped, guard.good_step) == (1, None)


class Followed:
    """Retain rows whose log-probs a test sets, and how often they were measured."""

    def __init__(self, monkeypatch, *logps):
        self.logps, self.measured = logps, 0
        monkeypatch.setattr("trl_unlearn.trainer.guard.score_rows", self.score)

    def score(self, model, rows, pad_token_id):
        self.measured += 1
        # Two tokens each, of which the mean counts.
        return [RowScore([value - 1, value + 1], [False, False]) for value in self.logps]

    def guard(self, model, **options):
        return DivergenceGuard(model, vocab_size=100, retain=[{}] * len(self.logps), **options)


def test_retain_rows_below_a_uniform_guess_end_the_training_with_the_last_good_weights(model, monkeypatch):
    followed = Followed(monkeypatch, -0.5, -0.7)
    guard = followed.guard(model)
    # A mean of 0.9 nats down is good, and one of 1.4 neither good nor yet a guess.
    for step, weight, logps in ((0, 1.0, (-0.5, -0.7)), (10, 2.0, (-1.0, -2.0)), (20, 3.0, (-2.0, -2.0))):
        nn.init.constant_(model.weight, weight)
        followed.logps = logps
        guard.watch(model, step)
    nn.init.constant_(model.weight, 4.0)
    followed.logps = (-math.log(100) - 0.01,) * 2
    message = (
        r"2 retain rows .* -4.62 at step 30, where they had -0.60 .*guess has -4.61.*weights of step 10 again.*Low"
    )
    with pytest.raises(DivergenceError, match=message) as raised:
        guard.watch(model, 30)
    assert raised.value.good_step == 10
    assert torch.equal(model.weight, torch.full((2, 2), 2.0))


@pytest.mark.parametrize("now,is_lost", [((-4.6, -7.9), False), ((-4.7, -8.1), True), ((-0.1, -12.4), False)])
def test_each_row_is_judged_from_its_own_start(model, monkeypatch, now, is_lost):
    followed = Followed(monkeypatch, -0.1, -5.0)
    guard = followed.guard(model)
    guard.watch(model, 0)
    followed.logps = now
    # Lost would be -4.61 for the first row, a guess, and -8 for the second, which never was better than one.
    with pytest.raises(DivergenceError) if is_lost else contextlib.nullcontext():
        guard.watch(model, 10)


def test_the_rows_are_measured_each_tenth_step_and_where_those_of_a_whole_step_look_lost(model, monkeypatch):
    followed = Followed(monkeypatch, -0.5)
    guard = followed.guard(model)

    def step(number, *micro_batches):
        before = followed.measured
        for i, logps in enumerate(micro_batches):
            guard.watch(model, number)
            guard.check(means(retain=logps), number, ends_step=i == len(micro_batches) - 1)
        return followed.measured - before

    assert step(0, -9.0, -0.1, -0.1) == 1
    assert step(1, -9.0, -0.2) == 0
    assert step(2, -0.5, -0.5) == 0
    assert step(3, -9.0, -0.4) == 0
    # That was -4.7, and as low again is no news.
    assert step(4, -0.4, -8.9) == 1
    assert step(5, -4.8) == 0
    assert step(6, -0.5) == 1
    assert [step(number, -0.5) for number in (9, 10, 11)] == [0, 1, 0]
    guard.watch(model, 12, is_over=True)
    assert (followed.measured, guard.good_step) == (5, 10)


def test_rows_that_are_no_number_after_the_last_step_end_the_run(model, monkeypatch):
    followed = Followed(monkeypatch, -0.5)
    guard = followed.guard(model)
    guard.watch(model, 0)
    followed.logps = (math.nan,)
    with pytest.raises(DivergenceError, match=r"nan at step 3.*weights of step 0 again"):
        guard.watch(model, 3, is_over=True)


def test_a_run_that_goes_on_judges_from_the_start_of_the_first_part(model, monkeypatch):
    followed = Followed(monkeypatch, -0.5)
    first, second = followed.guard(model), followed.guard(model)
    first.watch(model, 0)
    second.load_state_dict(first.state_dict())
    followed.logps = (-5.0,)
    with pytest.raises(DivergenceError, match=r"where they had -0.50 at the start.*No good weights"):
        second.watch(model, 17)


def test_a_guard_that_does_not_stop_follows_no_row(model, monkeypatch):
    followed = Followed(monkeypatch, -0.5)
    guard = followed.guard(model, stops=False)
    guard.watch(model, 0)
    assert (followed.measured, guard.good_step) == (0, None)


def test_without_a_copy_the_message_says_so(model):
    guard = DivergenceGuard(model, vocab_size=100, keeps_copy=False)
    guard.watch(model, 0)
    with pytest.raises(DivergenceError, match="No good weights were kept") as raised:
        guard.check(means(retain=math.nan) | {"loss/retain": math.nan}, 1)
    assert raised.value.good_step is None


def test_a_run_without_retain_rows_is_watched_for_numbers_that_are_not_finite(model):
    guard = DivergenceGuard(model, vocab_size=100)
    guard.watch(model, 0)
    guard.check({"loss/forget": -50.0}, 0)
    with pytest.raises(DivergenceError, match="weights of step 0 again"):
        guard.check({"loss/forget": math.nan}, 1)


def new_trainer(folder, model, tokenizer, forget, retain, **options):
    settings = {"learning_rate": 1e-2, "num_train_epochs": 4, "lambda_bss": 0.0, "warmup_steps": 0}
    settings |= {"per_device_train_batch_size": 3, "gradient_checkpointing": False, "save_strategy": "no"}
    settings |= {"report_to": "none", "disable_tqdm": True}
    args = BootstrapUnlearnConfig(str(folder), **settings | options)
    return BootstrapUnlearnTrainer(
        model, args, train_dataset=forget, retain_dataset=retain, processing_class=tokenizer
    )


def test_an_ascent_that_explodes_ends_with_the_weights_that_it_began_with(
    tmp_path, tiny_model, tiny_tokenizer, forget_rows, retain_rows
):
    before = {name: value.clone() for name, value in tiny_model.state_dict().items()}
    trainer = new_trainer(tmp_path, tiny_model, tiny_tokenizer, forget_rows, retain_rows, learning_rate=5.0)
    with pytest.raises(DivergenceError, match="weights of step 0 again"):
        trainer.train()
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())


def learned(model, tokenizer, rows, steps=60):
    """Let a model learn rows, in float64."""
    model = model.double().train()
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    encoded = [encode_row(row, tokenizer) for row in rows]
    for _ in range(steps):
        scores = score_batch(model, pad_rows(encoded, tokenizer.pad_token_id))
        (-scores.logps.sum() / scores.mask.sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.mark.parametrize("learning_rate,ends", [(1e-7, None), (3e-2, "the ascent has destroyed the model")])
def test_accumulation_and_batch_size_are_guarded_alike(
    tmp_path, tiny_model, tiny_tokenizer, forget_rows, retain_rows, learning_rate, ends
):
    # One retain row was never likelier than a guess, and alone in a micro-batch it looks like a lost model.
    known, unlikely = list(retain_rows), copy.deepcopy(retain_rows[0])
    unlikely["completion"][0]["content"] = "zqx%%jv;;wk@@#!~^|}{[]"
    forget = Dataset.from_list([*forget_rows, unlikely | {"prompt": known[1]["prompt"]}])
    model = learned(tiny_model, tiny_tokenizer, [*forget_rows, *known])
    outcomes = []
    for batch, accumulation in ((4, 1), (1, 4), (2, 2)):
        options = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
        options |= {"learning_rate": learning_rate, "num_train_epochs": 24, "retain_weight": 0.01, "seed": 0}
        trainer = new_trainer(
            tmp_path, copy.deepcopy(model), tiny_tokenizer, forget, Dataset.from_list([*known, unlikely]), **options
        )
        try:
            trainer.train()
            outcomes.append((None, trainer._guard.good_step))
        except DivergenceError as error:
            outcomes.append((str(error), error.good_step))
    assert outcomes[0] == outcomes[1] == outcomes[2]
    message, good_step = outcomes[0]
    assert ends in message if ends else (message, good_step) == (None, 20)


def test_the_weights_after_the_last_step_are_judged_too(
    tmp_path, tiny_model, tiny_tokenizer, forget_rows, retain_rows
):
    model = learned(tiny_model, tiny_tokenizer, [*forget_rows, *retain_rows])
    trainer = new_trainer(
        tmp_path, model, tiny_tokenizer, forget_rows, retain_rows, learning_rate=5.0, num_train_epochs=1
    )
    with pytest.raises(DivergenceError, match=r"at step 1, where .*weights of step 0 again"):
        trainer.train()


def breaking(trainer, monkeypatch, gradient=None, loss=None):
    """Let some losses, or the gradient of the loss, be another value: functions of the pass, `None` for none."""
    compute_loss, score = trainer.compute_loss, trainer._score_rows

    def computed(*args, **kwargs):
        found = compute_loss(*args, **kwargs)
        value = gradient and gradient()
        if value is not None:
            found.register_hook(lambda given: given * value)
        return found

    def scored(model, inputs):
        found = score(model, inputs)
        if loss is not None:
            found["loss"] = torch.stack(
                [value if (new := loss(inputs, i)) is None else value * new for i, value in enumerate(found["loss"])]
            )
        return found

    monkeypatch.setattr(trainer, "compute_loss", computed)
    monkeypatch.setattr(trainer, "_score_rows", scored)


def is_row(inputs, i, row):
    ids = inputs["input_ids"][i, : int(inputs["attention_mask"][i].sum())]
    return ids.tolist() == row["input_ids"]


def test_only_the_rows_whose_own_loss_is_not_finite_are_named(
    tmp_path, tiny_model, tiny_tokenizer, forget_rows, retain_rows, monkeypatch
):
    options = {"lambda_bss": 0.5, "num_beliefs": 2, "max_completion_length": 6}
    trainer = new_trainer(tmp_path, tiny_model, tiny_tokenizer, forget_rows, retain_rows, **options)

    def loss(inputs, i):
        belief = trainer.belief_store.rows([0])[1]
        broken = [trainer.train_dataset[2], trainer.retain_dataset[1], belief]
        return math.nan if any(is_row(inputs, i, row) for row in broken) else None

    breaking(trainer, monkeypatch, loss=loss)
    named = r"\(rows 2 of the forget set; beliefs \(0, 1\), each \(row, number\); rows 1 of the retain set\)"
    with pytest.raises(DivergenceError, match=f"at step 0 {named}"):
        trainer.train()


@pytest.mark.parametrize("max_grad_norm", [0.0, 1.0])
@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_gradient_that_overflows_is_never_stepped_on(
    tmp_path, tiny_model, tiny_tokenizer, forget_rows, retain_rows, monkeypatch, max_grad_norm, value
):
    options = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 3, "max_grad_norm": max_grad_norm}
    trainer = new_trainer(tmp_path, tiny_model, tiny_tokenizer, forget_rows, retain_rows, **options)
    stepped = []
    passes = iter([value])
    breaking(trainer, monkeypatch, gradient=lambda: next(passes, None))
    trainer.create_optimizer()
    monkeypatch.setattr(trainer.optimizer, "step", lambda *args, **kwargs: stepped.append(1))
    # One pass of three micro-batches is broken, and the gradient is that of them all.
    rows = r"\(rows 0, 1, 2 of the forget set; rows 0, 1, 2 of the retain set\)"
    with pytest.raises(DivergenceError, match=rf"norm of the gradient is .* at step 0, that of `model\..*more {rows}"):
        trainer.train()
    assert stepped == []


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_without_stopping_a_broken_step_changes_nothing_and_the_next_ones_go_on(
    tmp_path, tiny_model, tiny_tokenizer, forget_rows, retain_rows, monkeypatch, caplog, broken
):
    options = {"stop_on_divergence": False, "max_grad_norm": 0.0, "logging_steps": 1, "num_train_epochs": 2}
    options |= {"weight_decay": 0.1, "retain_loss_type": "none"}
    trainer = new_trainer(tmp_path, tiny_model, tiny_tokenizer, forget_rows, retain_rows, **options)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    left_out = []

    def first(*args):
        return math.nan if trainer.state.global_step == 0 else None

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            weights = trainer.model.state_dict()
            left_out.append(all(torch.equal(value, before[name]) for name, value in weights.items()))

    trainer.add_callback(Watch())
    breaking(trainer, monkeypatch, **{broken: first})
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert left_out == [True, False]
    assert all(value.isfinite().all() for value in trainer.model.state_dict().values())
    assert ["at step 0" in record.message for record in caplog.records if "left out" in record.message] == [True]
    one, two = [entry for entry in trainer.state.log_history if "loss/forget" in entry]
    assert one["skipped_steps"] == 1 and "skipped_steps" not in two
    # What was not finite is not carried along in the sum of the losses.
    assert math.isfinite(two["loss"]) and two["loss"] != 0
    assert math.isnan(one["loss/forget"]) == (broken == "loss")


def scaled(trainer, scale, monkeypatch):
    """Let a trainer on a CPU do what `fp16` does on a GPU: `accelerate` refuses to, though torch can."""
    accelerator = trainer.accelerator
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    monkeypatch.setattr(accelerator, "native_amp", True)
    monkeypatch.setattr(accelerator.state, "_mixed_precision", "fp16")
    return accelerator.scaler


def test_a_scaler_leaves_out_an_overflow_and_training_goes_on(
    tmp_path, tiny_model, tiny_tokenizer, forget_rows, retain_rows, monkeypatch
):
    options = {"logging_steps": 1, "num_train_epochs": 3}
    trainer = new_trainer(tmp_path, tiny_model, tiny_tokenizer, forget_rows, retain_rows, **options)
    scaler = scaled(trainer, 2.0**16, monkeypatch)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    unchanged = []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            weights = trainer.model.state_dict()
            unchanged.append(all(torch.equal(value, before[name]) for name, value in weights.items()))

    half = set()
    trainer.model.model.layers[0].mlp.down_proj.register_forward_hook(lambda *found: half.add(found[-1].dtype))
    trainer.add_callback(Watch())
    breaking(trainer, monkeypatch, gradient=lambda: math.inf if trainer.state.global_step == 0 else None)
    trainer.train()
    assert unchanged == [True, False, False]
    assert half == {torch.float16}
    assert scaler.get_scale() == 2.0**15
    assert all(value.isfinite().all() for value in trainer.model.state_dict().values())
    assert [entry.get("skipped_steps") for entry in trainer.state.log_history if "loss" in entry] == [1, None, None]


def test_a_gradient_that_no_scale_makes_finite_ends_the_training(
    tmp_path, tiny_model, tiny_tokenizer, forget_rows, retain_rows, monkeypatch
):
    trainer = new_trainer(tmp_path, tiny_model, tiny_tokenizer, forget_rows, retain_rows, num_train_epochs=10)
    scaled(trainer, 2.0, monkeypatch)
    breaking(trainer, monkeypatch, gradient=lambda: math.nan)
    # Scales of 2, 1 and 1/2.
    with pytest.raises(DivergenceError, match="gradient is nan at step 2"):
        trainer.train()


def test_the_guard_can_be_turned_off(tmp_path, tiny_model, tiny_tokenizer, forget_rows, retain_rows):
    options = {"learning_rate": 5.0, "stop_on_divergence": False}
    trainer = new_trainer(tmp_path, tiny_model, tiny_tokenizer, forget_rows, retain_rows, **options)
    trainer.train()
    assert trainer.state.global_step == 4


TWO_PROCESSES = """
import json, sys
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl_unlearn import BootstrapUnlearnConfig, BootstrapUnlearnTrainer
from trl_unlearn.trainer.guard import DivergenceError

folder, rows, out = sys.argv[1:]
forget, retain = (Dataset.from_list(part) for part in json.load(open(rows)))
args = BootstrapUnlearnConfig(
    out, use_cpu=True, per_device_train_batch_size=2, lambda_bss=0.0, gradient_checkpointing=False, save_strategy="no",
    report_to="none", disable_tqdm=True, num_train_epochs=2, seed=1,
)
trainer = BootstrapUnlearnTrainer(
    AutoModelForCausalLM.from_pretrained(folder), args, train_dataset=forget, retain_dataset=retain,
    processing_class=AutoTokenizer.from_pretrained(folder),
)
assert trainer.accelerator.num_processes == 2
broken, score = trainer.train_dataset[3]["input_ids"], trainer._score_rows
seen = []

def scored(model, inputs):
    found = score(model, inputs)
    for i, ids in enumerate(inputs["input_ids"].tolist()):
        if ids[:len(broken)] == broken:
            found["loss"] = found["loss"].clone()
            found["loss"][i] = float("nan")
            seen.append(i)
    return found

trainer._score_rows = scored
try:
    trainer.train()
except DivergenceError as error:
    json.dump([str(error), len(seen)], open(f"{out}.{trainer.accelerator.process_index}.json", "w"))
"""


@pytest.mark.slow
def test_every_process_stops_and_names_the_row_of_the_one_that_had_it(
    tiny_model, tiny_tokenizer, forget_rows, retain_rows, launch, tmp_path
):
    tiny_model.save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "rows.json").write_text(json.dumps([[*forget_rows, retain_rows[0]], list(retain_rows)[1:]]))
    assert launch(TWO_PROCESSES, *(tmp_path / name for name in ("model", "rows.json", "out"))) == [0, 0]
    (one, met), (two, met_too) = (json.loads((tmp_path / f"out.{rank}.json").read_text()) for rank in (0, 1))
    assert one == two and "at step 0 (rows 3 of the forget set)" in one
    assert sorted([met, met_too]) == [0, 1]

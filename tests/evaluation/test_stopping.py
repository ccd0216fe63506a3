# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

import json
import logging
import math

import pytest
import torch
from peft import LoraConfig
from transformers import TrainerCallback

from trl_unlearn.encoding import pad_rows
from trl_unlearn.evaluation.callbacks import CannotBeginError, curve_point
from trl_unlearn.evaluation.rows import encode_set
from trl_unlearn.evaluation.stopping import EndAfter, UnlearnUntil
from trl_unlearn.evaluation.together import score_rows_together
from trl_unlearn.subjects import moved_answers


MEMORISED: dict[str, torch.Tensor] = {}


@pytest.fixture
def sets(tiny_tokenizer, forget_rows, retain_rows):
    """Forget and retain set, encoded."""
    rows = {"forget": forget_rows, "retain": retain_rows}
    return [encode_set(rows[name], tiny_tokenizer, name=name) for name in rows]


@pytest.fixture
def knowing_model(tiny_model, tiny_tokenizer, sets):
    """`tiny_model` after it has learned all rows by heart."""
    if not MEMORISED:
        batch = pad_rows([row for encoded in sets for row in encoded.answers], tiny_tokenizer.pad_token_id)
        optimizer = torch.optim.AdamW(tiny_model.parameters(), lr=1e-2)
        for _ in range(80):
            optimizer.zero_grad()
            tiny_model(**batch).loss.backward()
            optimizer.step()
        MEMORISED.update({name: value.clone() for name, value in tiny_model.state_dict().items()})
    tiny_model.load_state_dict(MEMORISED)
    return tiny_model


@pytest.fixture
def new_trainer(build_trainer, knowing_model):
    def new(peft=False, **kwargs):
        settings = {"per_device_train_batch_size": 1, "learning_rate": 2e-2 if peft else 2e-3, "use_cpu": True}
        settings |= {"lr_scheduler_type": "constant", "num_train_epochs": 1000}
        settings |= {"forget_loss_type": "ga", "retain_loss_type": "none", "lambda_bss": 0.0}
        peft_config = LoraConfig(r=4, target_modules="all-linear") if peft else None
        return build_trainer(settings | kwargs, knowing_model, retain_dataset=None, peft_config=peft_config)

    return new


@pytest.fixture
def until(sets, tiny_tokenizer):
    """Function that makes the callback of a trainer and adds it."""

    def make(trainer, **options):
        callback = UnlearnUntil(trainer, *sets, pad_token_id=tiny_tokenizer.pad_token_id, **options)
        trainer.add_callback(callback)
        return callback

    return make


@pytest.fixture
def measured(sets, tiny_tokenizer):
    """Function of a trainer: what its model is now."""
    return lambda trainer, **options: curve_point(trainer.model, *sets, pad_token_id=0, **options)


@pytest.fixture
def moved(sets, tiny_tokenizer):
    """Answers about other people for each forget row."""
    return moved_answers(*(encoded.answers for encoded in sets), tiny_tokenizer, seed=1)


def values_of(point):
    return {name: value for name, value in point.items() if name not in ("step", "epoch")}


class AtStep(TrainerCallback):
    """Does something to the weights after a step."""

    def __init__(self, step, change):
        self.step, self.change = step, change

    @torch.no_grad()
    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.step:
            self.change(model)


def test_a_limit_of_minutes_ends_a_run_after_the_step_in_which_it_was_over_and_holds_for_a_second_call(new_trainer):
    trainer = new_trainer()
    trainer.add_callback(EndAfter(trainer, 1e-9))
    for _ in range(2):
        trainer.train()
        assert trainer.state.global_step == 1
        assert trainer.stop_reason == "the limit of 1e-09 minutes (`max_minutes`) was over."
    free = new_trainer(max_steps=2)
    free.add_callback(EndAfter(free, 1e6))
    free.train()
    assert free.state.global_step == 2 and free.stop_reason is None


@pytest.mark.parametrize("peft", [False, True])
@pytest.mark.parametrize(
    ("metric", "goal", "tolerance"), [("extraction_strength", 0.4, 0.1), ("forget_logp", -3.0, 0.2)]
)
def test_a_run_that_jumps_over_the_goal_ends_within_the_tolerance(
    new_trainer, until, measured, metric, goal, tolerance, peft
):
    trainer = new_trainer(peft)
    callback = until(trainer, goals={metric: goal}, tolerances={metric: tolerance})
    trainer.train()
    by_step = {entry["step"]: entry[metric] for entry in callback.history}
    assert list(by_step) == sorted(by_step) and len(by_step) == len(callback.history)
    whole = [step for step in by_step if step == int(step)]
    assert by_step[whole[-2]] > goal + tolerance
    assert by_step[whole[-1]] < goal - tolerance
    assert whole[-1] == trainer.state.global_step < trainer.state.max_steps
    kept = callback.kept
    assert whole[-2] < kept["step"] < whole[-1]
    assert kept[metric] == pytest.approx(goal, abs=tolerance)
    assert kept in callback.history
    within = f"(goal {goal:.3f} ± {tolerance:g})"
    assert trainer.stop_reason == f"`{metric}` reached {kept[metric]:.3f} {within} at step {kept['step']:g}."
    # What is reported is what the model is.
    assert measured(trainer) == values_of(kept)


def test_a_measurement_within_the_tolerance_is_kept_as_it_is(new_trainer, until, measured):
    trainer = new_trainer()
    callback = until(trainer, goals={"forget_logp": -6.0}, tolerances={"forget_logp": 5.5}, every_steps=1)
    trainer.train()
    assert [entry["step"] for entry in callback.history] == list(range(trainer.state.global_step + 1))
    assert callback.kept is callback.history[-1]
    assert measured(trainer) == values_of(callback.kept)
    assert trainer.stop_reason.endswith(f"at step {trainer.state.global_step}.")


def test_the_state_closest_to_the_goal_is_kept_where_none_is_within_the_tolerance(new_trainer, until, measured):
    trainer = new_trainer()
    callback = until(trainer, goals={"forget_logp": -3.0}, tolerances={"forget_logp": 1e-9})
    trainer.train()
    closest = min(callback.history, key=lambda entry: abs(entry["forget_logp"] + 3))
    assert callback.kept == closest
    assert closest["forget_logp"] == pytest.approx(-3, abs=0.2)
    assert measured(trainer) == values_of(closest)
    assert "past the goal of -3.000; kept is the closest state" in trainer.stop_reason
    assert trainer.missed == ("overshot" if closest["forget_logp"] > -3 + 1e-9 else None)


def test_a_retain_probability_below_the_floor_ends_the_run_above_it(new_trainer, until, measured):
    trainer = new_trainer()
    callback = until(trainer, goals={"forget_logp": -50.0}, retain_floor=0.5)
    trainer.train()
    *_, last = callback.history
    assert last["retain_probability"] < 0.5
    above = [entry for entry in callback.history if entry["retain_probability"] >= 0.5]
    assert callback.kept == min(above, key=lambda entry: entry["forget_logp"])
    assert callback.kept["step"] > callback.history[0]["step"]
    assert measured(trainer) == values_of(callback.kept)
    assert trainer.stop_reason.startswith(
        f"retain probability fell to {last['retain_probability']:.3f}, below the floor of 0.5; kept is the state of "
    )
    assert trainer.state.global_step < trainer.state.max_steps and trainer.missed == "floor"


def test_a_state_that_is_not_finite_is_never_kept(new_trainer, until, measured):
    trainer = new_trainer()
    trainer.add_callback(AtStep(2, lambda model: [parameter.fill_(math.nan) for parameter in model.parameters()]))
    # A broken model predicts nothing, as the goal asks for.
    callback = until(trainer, goals={"extraction_strength": 0.0}, every_steps=1)
    trainer.train()
    assert callback.kept["step"] < 2
    assert all(math.isfinite(value) for value in measured(trainer).values())
    assert measured(trainer) == values_of(callback.kept)


def test_a_run_that_ends_before_the_goal_gets_its_best_state_back_and_says_so(
    new_trainer, until, measured, knowing_model, caplog
):
    trainer = new_trainer(max_steps=3)
    before = {name: value.clone() for name, value in knowing_model.state_dict().items()}
    trainer.add_callback(AtStep(3, lambda model: model.load_state_dict(before)))
    callback = until(trainer, goals={"forget_logp": -50.0}, every_steps=1)
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert [entry["step"] for entry in callback.history] == [0, 1, 2, 3]
    assert callback.kept is callback.history[2]
    assert measured(trainer) == values_of(callback.kept) != values_of(callback.history[3])
    assert trainer.stop_reason is None
    (warned,) = [record.getMessage() for record in caplog.records if "goal" in record.getMessage()]
    assert warned == trainer.shortfall and trainer.missed == "steps"
    assert warned.startswith(
        f"The goal was not reached in 3 steps: `forget_logp` is {callback.kept['forget_logp']:.3f} (goal -50.000)"
    )


def test_true_answers_are_compared_with_answers_about_others_token_by_token(knowing_model, sets, moved):
    point = curve_point(knowing_model, *sets, pad_token_id=0, moved=moved)
    assert point["strangers_auc"] == 1.0
    # A true answer is as likely as itself, and likelier or less likely than another as often.
    own = {index: [row | {"source": index}] for index, row in enumerate(sets[0].answers)}
    assert curve_point(knowing_model, *sets, pad_token_id=0, moved=own)["strangers_auc"] == 0.5
    with torch.no_grad():
        knowing_model.model.embed_tokens.weight.normal_(generator=torch.Generator().manual_seed(2))
    point = curve_point(knowing_model, *sets, pad_token_id=0, moved=moved)
    rows = [row for index in moved for row in moved[index]]
    true, others = (
        [sum(score.logps) / len(score.logps) for score in score_rows_together(knowing_model, some, pad_token_id=0)]
        for some in (sets[0].answers, rows)
    )
    wins = [(a > b) + (a == b) / 2 for a in true for b in others]
    assert 0 < point["strangers_auc"] < 1
    assert point["strangers_auc"] == pytest.approx(sum(wins) / len(wins))


def test_a_run_ends_at_the_level_of_strangers(new_trainer, until, measured, moved):
    trainer = new_trainer()
    callback = until(trainer, goals={"strangers_auc": 0.5}, tolerances={"strangers_auc": 0.2}, moved=moved)
    trainer.train()
    assert callback.history[0]["strangers_auc"] == 1.0 and trainer.shortfall is None
    assert callback.kept["strangers_auc"] == pytest.approx(0.5, abs=0.2)
    assert measured(trainer, moved=moved) == values_of(callback.kept)
    assert f"`strangers_auc` reached {callback.kept['strangers_auc']:.3f} (goal 0.500 ± 0.2)" in trainer.stop_reason
    assert any("curve/strangers_auc" in entry for entry in trainer.state.log_history)


@pytest.mark.parametrize(("loose", "lagging"), [(-0.05, "extraction_strength"), (-5.0, "forget_logp")])
def test_of_two_metrics_the_one_that_lags_ends_the_run(new_trainer, until, measured, loose, lagging):
    trainer = new_trainer()
    goals = {"extraction_strength": 0.4, "forget_logp": loose}
    tolerances = {"extraction_strength": 0.1, "forget_logp": 0.05}
    callback = until(trainer, goals=goals, tolerances=tolerances)
    trainer.train()
    kept, other = callback.kept, next(metric for metric in goals if metric != lagging)
    assert kept[lagging] == pytest.approx(goals[lagging], abs=tolerances[lagging])
    assert kept[other] < goals[other] - tolerances[other]
    assert measured(trainer) == values_of(kept)
    within = f"goal {goals[lagging]:.3f} ± {tolerances[lagging]:g}"
    words = {lagging: within, other: f"past the goal of {goals[other]:.3f}"}
    assert trainer.stop_reason == (
        f"`extraction_strength` reached {kept['extraction_strength']:.3f} ({words['extraction_strength']}) and "
        f"`forget_logp` {kept['forget_logp']:.3f} ({words['forget_logp']}) at step {kept['step']:g}."
    )


def test_a_goal_that_the_limit_of_minutes_cut_off_is_missed_by_the_minutes(new_trainer, until):
    trainer = new_trainer()
    until(trainer, goals={"forget_logp": -50.0})
    trainer.add_callback(EndAfter(trainer, 1e-9))
    trainer.train()
    assert trainer.missed == "minutes" and trainer.shortfall.startswith("The goal was not reached in 1 steps")


def test_what_is_missing_is_said_of_each_metric_above_its_goal(new_trainer, until):
    trainer = new_trainer(max_steps=2)
    goals = {"extraction_strength": 1.0, "forget_logp": -50.0}
    callback = until(trainer, goals=goals, every_steps=1)
    trainer.train()
    value = callback.kept["forget_logp"]
    assert f"and `forget_logp` {value:.3f} (goal -50.000) in the state that is kept" in trainer.shortfall
    assert f"of step 2. `forget_logp` has {value + 50:.3f} to go." in trainer.shortfall
    assert trainer.stop_reason is None


def test_a_start_at_one_of_two_goals_is_no_end(new_trainer, until):
    trainer = new_trainer()
    until(trainer, goals={"extraction_strength": 1.0, "forget_logp": 0.0}, every_steps=1)
    with pytest.raises(CannotBeginError, match=r"is 1.000 before training.* and `forget_logp` is -0.0"):
        trainer.train()
    trainer = new_trainer(max_steps=1)
    until(trainer, goals={"extraction_strength": 1.0, "forget_logp": -50.0}, every_steps=1)
    trainer.train()
    assert trainer.state.global_step == 1 and trainer.shortfall is not None


def test_the_log_has_the_curve_and_last_of_all_the_state_that_is_kept(new_trainer, until):
    trainer = new_trainer()
    callback = until(trainer, goals={"forget_logp": -3.0}, tolerances={"forget_logp": 0.2})
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "curve/forget_logp" in entry]
    whole = [entry["forget_logp"] for entry in callback.history if entry["step"] == int(entry["step"])]
    assert [entry["curve/forget_logp"] for entry in entries] == [*whole, callback.kept["forget_logp"]]
    assert entries[-1]["curve/step"] == callback.kept["step"]


def test_a_run_after_a_run_begins_anew(new_trainer, until):
    trainer = new_trainer(max_steps=2)
    callback = until(trainer, goals={"forget_logp": -50.0}, every_steps=1)
    trainer.stop_reason = trainer.shortfall = trainer.missed = "left over"
    for _ in range(2):
        trainer.train()
        assert [entry["step"] for entry in callback.history] == [0, 1, 2]
        assert trainer.stop_reason is None and "left over" not in (trainer.shortfall, trainer.missed)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (
            {"goals": {"extraction_strength": 0.99}},
            r"`extraction_strength` is 1\.000 before training, where the goal is 0\.990",
        ),
        ({"goals": {"extraction_strength": 0.1}, "retain_floor": 0.9999}, "below the floor of 0.9999"),
    ],
)
def test_a_start_that_leaves_nothing_to_do_is_refused_when_training_begins(new_trainer, until, options, complaint):
    trainer = new_trainer()
    until(trainer, **options)
    with pytest.raises(ValueError, match=complaint):
        trainer.train()
    assert trainer.state.global_step == 0


def test_an_interval_that_cannot_be_used_is_refused(new_trainer, until):
    with pytest.raises(ValueError, match="`every_steps` is 0"):
        until(new_trainer(), goals={"extraction_strength": 0.1}, every_steps=0)


def test_deepspeed_is_refused(new_trainer, until):
    trainer = new_trainer()
    trainer.is_deepspeed_enabled = True
    with pytest.raises(ValueError, match="DeepSpeed has copies of its own"):
        until(trainer, goals={"extraction_strength": 0.1})


def test_another_choice_of_the_best_state_is_refused(new_trainer, until, forget_rows):
    trainer = new_trainer()
    trainer.args.load_best_model_at_end = True
    with pytest.raises(ValueError, match="`load_best_model_at_end` would replace"):
        until(trainer, goals={"extraction_strength": 0.1})


def test_an_impossible_answer_has_a_finite_log_prob(knowing_model, sets, tiny_tokenizer):
    with torch.no_grad():
        knowing_model.model.norm.weight.mul_(-1e5)
    point = curve_point(knowing_model, *sets, pad_token_id=tiny_tokenizer.pad_token_id)
    assert point["forget_probability"] == 0
    assert point["forget_logp"] == pytest.approx(-708, abs=1)


def test_a_model_whose_scores_are_not_finite_is_not_said_to_have_nothing_to_unlearn(new_trainer, until):
    trainer = new_trainer()
    with torch.no_grad():
        trainer.model.model.norm.weight.fill_(math.nan)
    until(trainer, goals={"extraction_strength": 0.1}, retain_floor=0.5)
    with pytest.raises(CannotBeginError, match="scores of the model are not finite before training"):
        trainer.train()


TWO_PROCESSES = """
import json, sys, torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl_unlearn import BootstrapUnlearnConfig, BootstrapUnlearnTrainer
from trl_unlearn.evaluation.rows import encode_set
from trl_unlearn.evaluation.stopping import EndAfter, UnlearnUntil

folder, rows, out = sys.argv[1:]
forget, retain = (Dataset.from_list(part) for part in json.load(open(rows)))
args = BootstrapUnlearnConfig(
    out, use_cpu=True, per_device_train_batch_size=2, lambda_bss=0.0, gradient_checkpointing=False, save_strategy="no",
    report_to="none", disable_tqdm=True, max_steps=8, learning_rate=2e-3, warmup_steps=0, stop_on_divergence=False,
)
tokenizer = AutoTokenizer.from_pretrained(folder)
trainer = BootstrapUnlearnTrainer(
    AutoModelForCausalLM.from_pretrained(folder), args, train_dataset=forget, retain_dataset=retain,
    processing_class=tokenizer,
)
rank = trainer.accelerator.process_index
assert trainer.accelerator.num_processes == 2

class Differs(TrainerCallback):
    @torch.no_grad()
    def on_step_end(self, args, state, control, model=None, **kwargs):
        for parameter in model.parameters():
            parameter.mul_(1 + 1e-3 * rank)

trainer.add_callback(Differs())
sets = (encode_set(one, tokenizer, name=name) for name, one in (("forget", forget), ("retain", retain)))
until = UnlearnUntil(
    trainer, *sets, pad_token_id=tokenizer.pad_token_id, every_steps=1, goals={"forget_logp": -1e6},
    tolerances={"forget_logp": 1.0},
)
trainer.add_callback(until)
limit = EndAfter(trainer, 1e6)
trainer.add_callback(limit)
trainer.train()
limit.minutes = (1e6, 1e-9)[rank]
json.dump([until.history, until.kept, trainer.shortfall, bool(limit.is_over())], open(f"{out}.{rank}.json", "w"))
"""


@pytest.mark.slow
def test_processes_decide_alike_where_their_weights_or_their_clocks_differ(
    knowing_model, tiny_tokenizer, forget_rows, retain_rows, launch, tmp_path
):
    for part in (knowing_model, tiny_tokenizer):
        part.save_pretrained(tmp_path / "model")
    (tmp_path / "rows.json").write_text(json.dumps([list(forget_rows), list(retain_rows)]))
    assert launch(TWO_PROCESSES, *(tmp_path / name for name in ("model", "rows.json", "out"))) == [0, 0]
    one, two = (json.loads((tmp_path / f"out.{rank}.json").read_text()) for rank in (0, 1))
    assert one == two and one[-1] and len(one[0]) == 9

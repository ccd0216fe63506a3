# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Runs that end at a goal, from the command line to the record."""

import pytest
import torch

from trl_unlearn.records import UnlearningRun
from trl_unlearn.scripts import unlearn


ALL_ROWS = ("--max_eval_rows", "3")
STOPPING = ["--stop_every_steps", "1", "--no_use_peft", "--no_evaluate"]
LOGP = ["--stop_metric", "forget_logp"]


@pytest.fixture
def own(own):
    return [*own, *STOPPING]


def test_a_run_ends_at_a_number_and_its_record_says_so(run, own):
    done = run("bs_t", [*own, *LOGP, "--stop_at=-6.04"], override=ALL_ROWS)
    record = UnlearningRun.load(done.folder / "run.json")
    assert record.stopped.startswith("`forget_logp` reached -6.0")
    assert "(goal -6.040 ± 0.02) at step 1." in record.stopped
    assert record.stopped in done.text("README.md")


def test_the_goal_can_be_measured_of_the_retrained_model(run, own, tiny_model, tmp_path, monkeypatch):
    folder, measured, measure = str(tmp_path / "retrained"), [], unlearn.curve_point
    with torch.no_grad():
        tiny_model.model.norm.weight.mul_(3)
    tiny_model.save_pretrained(folder)

    def watched(*args, **kwargs):
        measured.append(measure(*args, **kwargs))
        return measured[-1]

    monkeypatch.setattr(unlearn, "curve_point", watched)
    done = run("bs_t", [*own, *LOGP, "--stop_at", "retrained", "--retrained_model_name_or_path", folder])
    (goal,) = measured
    stopped = UnlearningRun.load(done.folder / "run.json").stopped
    assert "reached" in stopped and f"(goal {goal['forget_logp']:.3f} ± 0.02)" in stopped


def test_the_goal_can_be_measured_of_the_teacher(run, own, tiny_model, tmp_path, monkeypatch):
    folder, measured, measure = str(tmp_path / "teacher"), [], unlearn.curve_point
    with torch.no_grad():
        tiny_model.model.norm.weight.mul_(3)
    tiny_model.save_pretrained(folder)

    def watched(model, *args, **kwargs):
        measured.append((model, measure(model, *args, **kwargs)))
        return measured[-1][1]

    monkeypatch.setattr(unlearn, "curve_point", watched)
    taught = ["--forget_loss_type", "ignorance", "--ignorant_model_name_or_path", folder]
    done = run("bs_t", [*own, *LOGP, "--stop_at", "teacher", *taught, "--ignorant_retain_rows", "0"])
    ((teacher, goal),) = measured
    assert torch.equal(teacher.model.norm.weight, tiny_model.model.norm.weight)
    shortfall = UnlearningRun.load(done.folder / "run.json").shortfall
    assert f"(goal {goal['forget_logp']:.3f})" in shortfall


def test_goals_that_are_not_reached_are_the_last_words_of_a_run(run, own, checkpoint, monkeypatch):
    measure = unlearn.curve_point
    lower = {"extraction_strength": 0.0, "strangers_auc": 0.0}
    monkeypatch.setattr(unlearn, "curve_point", lambda *args, **kwargs: measure(*args, **kwargs) | lower)
    own = [*own, "--evaluate", "true", "--retrained_model_name_or_path", checkpoint]
    done = run("bs_t", [*own, "--stop_at", "retrained"], override=("--learning_rate", "1e-6"))
    record = UnlearningRun.load(done.folder / "run.json")
    assert record.stopped is None and record.shortfall.startswith("The goal was not reached in 2 steps")
    assert f"**{record.shortfall}**" in (done.folder / "README.md").read_text(encoding="utf-8")
    printed = " ".join(done.out.split())
    *_, last = printed.split("The goal was not reached in ")
    assert last.startswith("2 steps: `extraction_strength` is 0.0") and "and `strangers_auc` " in last
    assert "`strangers_auc` has 0." in last and last.endswith("with a higher learning rate.")
    assert "forget/probability" in printed


def test_the_level_of_strangers_needs_no_retrained_model(run, own):
    stopped = UnlearningRun.load(
        run("bs_t", [*own, "--stop_at", "strangers"], override=("--max_eval_rows", "1")).folder / "run.json"
    ).stopped
    assert stopped.startswith("`strangers_auc` ") and "0.500" in stopped and "extraction_strength" not in stopped


def test_a_goal_that_is_reached_before_training_is_one_sentence_and_another_goal_may_follow(run, own, capfd):
    with pytest.raises(SystemExit) as refused:
        run("bs_t", [*own, *LOGP, "--stop_at=-5"], override=ALL_ROWS)
    assert refused.value.code == 2
    said = capfd.readouterr().err
    assert "bs_t.py: error: `forget_logp` is -6.0" in said and "there is nothing to unlearn" in said
    assert UnlearningRun.load(run("bs_t", [*own, *LOGP, "--stop_at=-6.04"]).folder / "run.json").stopped

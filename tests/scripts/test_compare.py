# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0


import functools
import json
import math

import pytest

from trl_unlearn.evaluation import tofu
from trl_unlearn.evaluation.tables import ComparedRun
from trl_unlearn.scripts import compare
from trl_unlearn.scripts.compare import write_comparison
from trl_unlearn.trainer.bootstrap_unlearn_trainer import BootstrapUnlearnTrainer
from trl_unlearn.trainer.guard import DivergenceError


METHODS = {"ga": {"forget_loss_type": "ga", "lambda_bss": 0}, "bs_s": {"lambda_bss": 0.5, "num_beliefs": 2}}


@pytest.fixture
def call(checkpoint, tofu_folder, tmp_path, monkeypatch):
    """Function that compares on the tiny model; returns the methods that it trained."""
    monkeypatch.setattr(
        compare, "Suite", functools.partial(tofu.Suite, max_completion_length=8, num_squeezing_beliefs=1)
    )
    trained, build = [], compare.build_trainer
    monkeypatch.setattr(
        compare, "build_trainer", lambda data, args, model: trained.append(args.output_dir) or build(data, args, model)
    )

    def run(*extra: str, methods=METHODS) -> list[str]:
        trained.clear()
        compare.main(
            [
                *("--model_name_or_path", checkpoint, "--retrained_model_name_or_path", checkpoint),
                *("--dataset_name", tofu_folder, "--forget_config", "forget", "--retain_config", "retain"),
                *("--output_dir", str(tmp_path / "out"), "--methods", json.dumps(methods), "--seeds", "1", "2"),
                *("--num_train_epochs", "2", "--per_device_train_batch_size", "3", "--max_completion_length", "12"),
                *("--panel_prompts", "2", "--report_to", "none", "--save_strategy", "no", "--max_eval_rows", "2"),
                *("--gradient_checkpointing", "false", "--learning_rate", "1e-3", *extra),
            ]
        )
        return [folder.removeprefix(f"{tmp_path}/out/") for folder in trained]

    return run


@pytest.mark.slow
def test_every_method_runs_with_every_seed_and_leaves_a_table_and_figures(call, tmp_path, capsys):
    assert call() == ["ga/seed-1", "bs_s/seed-1", "ga/seed-2", "bs_s/seed-2"]
    folder = tmp_path / "out"
    found = json.loads((folder / "comparison.json").read_text())
    assert set(found["baselines"]) == {"target", "retrained"}
    assert [(run["method"], run["seed"]) for run in found["runs"]] == [
        ("ga", 1), ("bs_s", 1), ("ga", 2), ("bs_s", 2),
    ]  # fmt: skip
    for run in found["runs"]:
        assert [point["step"] for point in run["curve"]] == [0, 1, 2]
        assert [point["step"] for point in run["squeezing"]] == [0, 1, 2]
        assert run["steps"] == 2
        # The tiny model is its own reference: before training, every run stands where the target does.
        assert run["curve"][0]["retain_probability"] == pytest.approx(
            found["baselines"]["target"]["retain_probability"], abs=1e-6
        )
        assert run["metrics"]["retain/probability"] == pytest.approx(run["curve"][-1]["retain_probability"], abs=1e-6)
    assert (folder / "comparison.md").read_text().count("\n") == 4
    assert {path.name for path in (folder / "figures").iterdir()} == {"curves.png", "squeezing.png"}
    assert "squeezing index" in capsys.readouterr().out


@pytest.mark.slow
def test_what_is_finished_is_not_run_again_and_what_was_cut_off_is(call, tmp_path):
    call()
    before = json.loads((tmp_path / "out/comparison.json").read_text())
    (tmp_path / "out/bs_s/seed-1/compared.json").unlink()
    assert call() == ["bs_s/seed-1"]
    after = json.loads((tmp_path / "out/comparison.json").read_text())
    for old, new in zip(before["runs"], after["runs"], strict=True):
        assert {**old, "seconds": 0} == {**new, "seconds": 0}


@pytest.mark.slow
def test_a_finished_run_with_other_settings_is_refused_and_a_method_more_is_not(call, tmp_path, capsys):
    call()
    with pytest.raises(SystemExit) as refused:
        call("--learning_rate", "2e-3")
    assert refused.value.code == 2
    assert "holds a finished run with other settings" in capsys.readouterr().err
    assert call("--logging_steps", "1", methods={**METHODS, "npo": {"forget_loss_type": "npo", "lambda_bss": 0}}) == [
        "npo/seed-1", "npo/seed-2",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("methods", "complaint"),
    [
        ({"long": {"num_train_epochs": 9}}, "same number of optimiser steps"),
        ({"typo": {"lambda_bs": 0.5}}, "no field of the config"),
        ({"bad": {"lambda_bst": 3}}, r"`lambda_bst` must be in \[0, 1\]"),
        ({}, "`methods` is missing"),
    ],
)
def test_a_mistake_in_a_method_is_found_before_anything_runs(call, methods, complaint, tmp_path, capsys):
    with pytest.raises(SystemExit) as refused:
        call(methods={**METHODS, **methods} if methods else {})
    assert refused.value.code == 2
    assert complaint.replace("\\", "") in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_run_that_diverges_is_named_in_a_sentence_and_what_is_finished_is_kept(call, tmp_path, capsys, monkeypatch):
    train = BootstrapUnlearnTrainer.train

    def stopped(trainer, *args, **kwargs):
        if trainer.args.lambda_bss > 0:
            raise DivergenceError("The loss is not finite\nin row 3.")
        return train(trainer, *args, **kwargs)

    monkeypatch.setattr(BootstrapUnlearnTrainer, "train", stopped)
    with pytest.raises(SystemExit) as ended:
        call()
    assert ended.value.code == 3
    said = (
        "compare.py: stopped: method `bs_s`, seed 1: The loss is not finite in row 3. Runs that are finished are kept."
    )
    assert capsys.readouterr().err.rstrip().splitlines()[-1] == said
    assert (tmp_path / "out/ga/seed-1/compared.json").is_file()


def test_a_curve_that_diverged_is_null_in_the_comparison(tmp_path, capsys):
    points = [{"step": step, "extraction_strength": math.nan, "retain_probability": 0.5} for step in (0, 1)]
    run = ComparedRun("ga", 1, "a1", 1, 1.0, points, [], math.inf, {"forget/probability": math.nan})
    baselines = {"target": {"extraction_strength": 1.0, "retain_probability": 0.9}}
    write_comparison(tmp_path, [run], baselines)
    text = (tmp_path / "comparison.json").read_text()
    assert "NaN" not in text and "Infinity" not in text
    found = json.loads(text)["runs"][0]
    assert found["curve"][1] == {"step": 1, "extraction_strength": None, "retain_probability": 0.5}
    assert found["squeezing_index"] is None and found["metrics"] == {"forget/probability": None}

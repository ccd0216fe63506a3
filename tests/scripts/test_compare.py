# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0


import functools
import json
import math
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from trl_unlearn.evaluation import tofu
from trl_unlearn.evaluation.tables import ComparedRun, judged
from trl_unlearn.hub.folder import RunFolder
from trl_unlearn.results import EvaluationResult
from trl_unlearn.scripts import compare
from trl_unlearn.scripts.compare import write_comparison
from trl_unlearn.trainer.bootstrap_unlearn_trainer import BootstrapUnlearnTrainer
from trl_unlearn.trainer.guard import DivergenceError


METHODS = {"ga": {"forget_loss_type": "ga", "lambda_bss": 0}, "bs_s": {"lambda_bss": 0.5, "num_beliefs": 2}}


@pytest.fixture
def call(checkpoint, tofu_folder, tmp_path, monkeypatch, capsys):
    """Function that compares on the tiny model; returns the methods that it trained."""
    monkeypatch.setattr(
        compare, "Suite", functools.partial(tofu.Suite, max_completion_length=8, num_squeezing_beliefs=1)
    )
    trained, build = [], compare.build_trainer
    monkeypatch.setattr(
        compare, "build_trainer", lambda data, args, model: trained.append(args.output_dir) or build(data, args, model)
    )

    def run(*extra: str, methods=METHODS, data: tuple[str, ...] | None = None) -> list[str]:
        trained.clear()
        capsys.readouterr()
        data = data or ("--dataset_name", tofu_folder, "--forget_config", "forget", "--retain_config", "retain")
        compare.main(
            [
                *("--model_name_or_path", checkpoint, "--retrained_model_name_or_path", checkpoint),
                *data,
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
        # One answer a question; the suites of three were not run.
        assert len(run["verdict"]["answers"]) == 5 and run["verdict"]["score"]["measured"] > 10
    assert set(found["references"]) == {"target", "retrained"}
    text = (folder / "comparison.md").read_text()
    assert [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")] == 2 * [
        "method", "---", *(line.split(" | ")[0] for line in sorted({"bs_s", "ga"}, key=text.index)),
        "target", "retrained",
    ]  # fmt: skip
    assert "- Does it come back? Not measured, run the suite `robustness`: all runs.\n" in text
    figures = {"answers.png", "comparison.png", "curves.png", "squeezing.png"}
    assert {path.name for path in (folder / "figures").iterdir()} == figures
    out = capsys.readouterr().out
    assert out.count(" steps in ") == 4 and "squeezing index" not in out


@pytest.mark.slow
def test_what_is_finished_is_not_run_again_and_what_was_cut_off_is(call, tmp_path, capsys):
    call()
    before = json.loads((tmp_path / "out/comparison.json").read_text())
    (tmp_path / "out/bs_s/seed-1/compared.json").unlink()
    with pytest.raises(SystemExit) as refused:
        call()
    assert refused.value.code == 2 and "holds a finished run of another command" in capsys.readouterr().err
    RunFolder(tmp_path / "out/bs_s/seed-1").mark_unfinished("settings")
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


ONE = {"ga": METHODS["ga"]}


class CutOff(Exception):
    """Stands for a killed process."""


def test_more_suites_are_measured_on_the_trained_models_and_a_cut_evaluation_resumes(
    call, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("COLUMNS", "80")
    assert call("--seeds", "1", "--logging_steps", "1", methods=ONE) == ["ga/seed-1"]
    folder = tmp_path / "out"
    # One line a run, and the columns that decide.
    lines = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert re.match(r"1 of 1: method `ga`, seed 1: 2 steps in \d+ s, forget -\d.*, retain -\d", lines[0])
    assert [line.split()[0] for line in lines[1:]][:5] == ["method", "─" * len(lines[2]), "ga", "target", "retrained"]
    assert "as, of 5 questions" in lines[1] and "retain prob." in lines[1] and max(map(len, lines[1:6])) <= 80
    assert "comparison.md" in "".join(lines[6:]) and len(lines) < 12
    (before,) = json.loads((folder / "comparison.json").read_text())["runs"]

    def cut(*_, **__):
        raise CutOff

    # The suite `tofu` would be measured by it.
    monkeypatch.setattr(compare, "Suite", cut)
    with monkeypatch.context() as patch:
        patch.setitem(compare.SUITES, "depth", (cut, "rows"))
        with pytest.raises(CutOff):
            call("--seeds", "1", "--suites", "tofu,distribution,depth", methods=ONE)
    result = EvaluationResult.load(folder / "ga/seed-1/eval_results.json")
    assert result.suites == ["tofu", "distribution"]
    monkeypatch.setitem(compare.SUITES, "distribution", (cut, "rows"))
    assert call("--seeds", "1", "--suites", "tofu,distribution,depth", methods=ONE) == []
    (after,) = json.loads((folder / "comparison.json").read_text())["runs"]
    assert before["metrics"].items() <= after["metrics"].items()
    assert {"distribution/fade_forget", "depth/logit_lens"} <= after["metrics"].keys()
    result = EvaluationResult.load(folder / "ga/seed-1/eval_results.json")
    assert after["verdict"]["score"] == asdict(judged(result, "unlearned").verdict.score)
    assert result.suites == ["tofu", "distribution", "depth"]
    references = json.loads((folder / "comparison.json").read_text())["references"]
    # Other weights are measured again.
    weights = folder / "ga/seed-1/adapter_model.safetensors"
    trained = weights.read_bytes()
    weights.write_bytes(trained[:-1] + bytes([trained[-1] ^ 1]))
    capsys.readouterr()
    with pytest.raises(CutOff):
        call("--seeds", "1", "--suites", "tofu", methods=ONE)
    assert "is measured again: those in `eval_results.json` were measured on other" in capsys.readouterr().out
    weights.write_bytes(trained)
    # What is measured is kept without the weights; what is not needs them.
    weights.unlink()
    assert call("--seeds", "1", "--suites", "tofu", methods=ONE) == []
    with pytest.raises(SystemExit) as refused:
        call("--seeds", "1", "--suites", "tofu,robustness", methods=ONE)
    assert refused.value.code == 2
    assert f"The model folder `{folder}/ga/seed-1` has no weights" in capsys.readouterr().err
    # The tiny model is its own reference.
    assert references["target"]["verdict"]["score"] == references["retrained"]["verdict"]["score"] is not None


@pytest.fixture
def refused(call, capsys):
    """Function of a comparison that must not begin: its message. No model is measured before it."""

    def run(*extra: str, **kwargs) -> str:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
            patch.setattr(compare, "curve_point", None)
            call(*extra, **kwargs)
        assert ended.value.code == 2
        return capsys.readouterr().err

    return run


def test_a_suite_with_options_of_its_own_is_added_to_a_finished_comparison(call, refused, own_files, tmp_path):
    holdout, other = own_files("prompt-completion")
    privacy, options = ("--suites", "tofu,privacy", "--holdout_dataset"), {"methods": ONE}
    assert call("--seeds", "1", **options) == ["ga/seed-1"]
    assert call("--seeds", "1", *privacy, holdout, **options) == []
    (run,) = json.loads((tmp_path / "out/comparison.json").read_text())["runs"]
    assert "privacy/min_k_auc" in run["metrics"]
    message = refused("--seeds", "1", *privacy, other, **options)
    assert "the suite `privacy`, and since then its measured rows changed." in message
    assert "Or leave `privacy` out of `--suites`: its numbers stay." in message
    message = refused("--seeds", "1", "--parity", "strict", **options)
    assert "the suite `tofu`, and since then its `parity` changed." in message and "leave" not in message
    message = refused("--seeds", "1", "--max_eval_rows", "3", **options)
    assert "holds a finished run, and since then its measured rows changed." in message
    assert call("--seeds", "1", **options) == []
    (again,) = json.loads((tmp_path / "out/comparison.json").read_text())["runs"]
    assert again == run


def test_a_finished_run_is_not_taken_over_when_its_rows_or_models_have_changed(
    call, refused, checkpoint, own_files, tiny_model, tmp_path
):
    rows, retrained, results = own_files("prompt-completion"), tmp_path / "retrained", "ga/seed-1/eval_results.json"
    shutil.copytree(checkpoint, retrained)
    command = ("--seeds", "1", "--retrained_model_name_or_path", str(retrained))
    options = {"methods": ONE, "data": ("--forget_dataset", rows[0], "--retain_dataset", rows[1])}
    assert call(*command, **options) == ["ga/seed-1"]
    finished = f"`{tmp_path}/out/ga/seed-1` holds a finished run, and since then its "
    # Two rows of three are measured.
    forget = Path(rows[0])
    before = forget.read_text()
    for word, names in (("Bo Lindgren", "training rows"), ("Ada", "training rows and measured rows")):
        forget.write_text(before.replace(word, "Eda"))
        assert f"{finished}{names} changed. Put back what was there" in refused(*command, **options)
    forget.write_text(before)
    weights = Path(checkpoint, "model.safetensors")
    before = weights.read_bytes()
    with torch.no_grad():
        tiny_model.model.norm.weight.mul_(3)
    tiny_model.save_pretrained(checkpoint)
    assert f"{finished}target changed." in refused(*command, **options)
    # The same weights in a later file.
    weights.write_bytes(before)
    assert call(*command, **options) == []
    tiny_model.save_pretrained(retrained)
    message = refused(*command, **options)
    assert "has results of the suite `tofu`, and since then its retrained model changed." in message
    assert "delete `eval_results.json` in the folders of all runs" in message
    before = EvaluationResult.load(tmp_path / "out" / results)
    (tmp_path / "out" / results).unlink()
    assert call(*command, **options) == []
    after = EvaluationResult.load(tmp_path / "out" / results)
    assert after.models["unlearned"] == before.models["unlearned"]
    assert after.models["retrained"] != before.models["retrained"]


def test_a_second_retrained_model_has_a_row_and_a_place_in_the_figures(call, tiny_model, tmp_path):
    with torch.no_grad():
        tiny_model.model.norm.weight.mul_(3)
    tiny_model.save_pretrained(tmp_path / "second")
    second = ["--second_retrained_model_name_or_path", str(tmp_path / "second"), "--max_eval_rows", "3"]
    call("--seeds", "1", *second, methods=ONE)
    comparison = json.loads((tmp_path / "out/comparison.json").read_text())
    baselines, references = comparison["baselines"], comparison["references"]
    assert list(baselines) == list(references) == ["target", "retrained", "second_retrained"]
    strengths = [baselines[role]["forget_logp"] for role in ("retrained", "second_retrained")]
    assert strengths[0] != strengths[1]
    score = references["second_retrained"]["verdict"]["score"]
    assert score["measured"] > score["alike"]
    assert (tmp_path / "out/comparison.md").read_text().count("\n| second retrained |") == 2
    assert len(list((tmp_path / "out/figures").iterdir())) == 4


@pytest.mark.parametrize(
    ("methods", "complaint"),
    [
        ({"long": {"num_train_epochs": 9}}, "same number of optimiser steps"),
        ({"typo": {"lambda_bs": 0.5}}, "no field of the config"),
        ({"bad": {"lambda_bst": 3}}, r"`lambda_bst` must be in \[0, 1\]"),
        ({"seeded": {"seed": 7}}, "Method `seeded` sets `seed`"),
        ({"placed": {"output_dir": "x"}}, "Method `placed` sets `output_dir`"),
        ({"a b": {}, "a-b": {}}, "method `a b`, seed 1 and the method `a-b`, seed 1 have one folder"),
        ({"empty": {"forget_aliases": None}}, "method `empty`, seed 1 sets `forget_aliases` to nothing"),
        ({"other": {"model_name_or_path": "any"}}, "Method `other` sets `model_name_or_path`, but methods"),
        ({"other": {"model_revision": "any"}}, "compared on the same target. Set it for all, outside `methods`"),
        ({"other": {"adapter_name_or_path": "any"}}, "Method `other` sets `adapter_name_or_path`"),
        ({"resumed": {"resume_from_checkpoint": "x"}}, "`resume_from_checkpoint` is set, but a run of a series"),
        ({"pushed": {"push_to_hub": True, "hub_model_id": "me/x"}}, "`push_to_hub` is set, but this makes several"),
        ({}, "`methods` is {}, expected at least one"),
        (["ga"], "`methods` is ['ga'], expected at least one: name -> fields"),
    ],
)
def test_a_mistake_in_a_method_is_found_before_anything_runs(call, methods, complaint, tmp_path, capsys):
    with pytest.raises(SystemExit) as refused:
        call(methods={**METHODS, **methods} if isinstance(methods, dict) and methods else methods)
    assert refused.value.code == 2
    assert complaint.replace("\\", "") in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--panel_prompts", "0"], "`panel_prompts` must be at least 1, got 0"),
        (["--curve_steps", "0"], "`curve_steps` must be at least 1, got 0"),
        (["--resume_from_checkpoint", "true"], "`resume_from_checkpoint` is set, but a run of a series starts at its"),
        (["--suites", "tofu,secrecy"], "Unknown `suites`: ['secrecy']"),
        (["--suites", "privacy"], "The suite `privacy` has no non-members"),
        (["--suites", "robustness", "--load_in_4bit"], "the suites ['robustness'] change weights"),
    ],
)
def test_a_mistake_in_what_is_measured_is_found_before_any_model_is_measured(
    call, options, complaint, monkeypatch, capsys
):
    monkeypatch.setattr(compare, "curve_point", None)
    with pytest.raises(SystemExit) as refused:
        call(*options)
    assert refused.value.code == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize("seeds", ["[]", "7"])
def test_seeds_are_a_list_of_at_least_one(seeds, tmp_path, capsys):
    config = tmp_path / "compare.yaml"
    config.write_text(f"seeds: {seeds}\nmethods: {{ga: {{lambda_bss: 0}}}}\n", encoding="utf-8")
    with pytest.raises(SystemExit) as refused:
        compare.main(["--config", str(config)])
    assert refused.value.code == 2
    assert f"`seeds` is {seeds}, expected at least one seed, in a list: [42]." in capsys.readouterr().err


def test_a_comparison_without_a_retain_set_is_refused(checkpoint, own_files, tmp_path, capsys):
    forget, _ = own_files("prompt-completion")
    with pytest.raises(SystemExit) as refused:
        compare.main(
            [
                *("--model_name_or_path", checkpoint, "--forget_dataset", forget, "--methods", json.dumps(ONE)),
                *("--output_dir", str(tmp_path / "out"), "--report_to", "none"),
            ]
        )
    assert refused.value.code == 2
    assert "no retain set, on which to measure what is kept" in capsys.readouterr().err


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
    run = ComparedRun("ga", 1, "a1", 1, 1.0, points, [], math.inf, metrics={"forget/probability": math.nan})
    baselines = {"target": {"extraction_strength": 1.0, "retain_probability": 0.9}}
    write_comparison(tmp_path, [run], {}, baselines)
    text = (tmp_path / "comparison.json").read_text()
    assert "NaN" not in text and "Infinity" not in text
    found = json.loads(text)["runs"][0]
    assert found["curve"][1] == {"step": 1, "extraction_strength": None, "retain_probability": 0.5}
    assert found["squeezing_index"] is None and found["metrics"] == {"forget/probability": None}

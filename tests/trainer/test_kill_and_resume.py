# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""
A run that is killed at a random moment and started again ends in the bits of one that was not.

`TRL_UNLEARN_KILLS=20 pytest -n 0 -s tests/trainer/test_kill_and_resume.py` is the long form.
"""

import json
import os
import random
import time

import pytest
from safetensors.torch import load_file

from trl_unlearn.scripts import bs_s


KILLS = int(os.environ.get("TRL_UNLEARN_KILLS", "2"))
OPTIONS = [
    *("--num_train_epochs", "4", "--per_device_train_batch_size", "1", "--gradient_accumulation_steps", "2"),
    *("--learning_rate", "1e-2", "--warmup_steps", "0", "--lora_r", "4", "--lambda_schedule", "adaptive"),
    *("--num_beliefs", "2", "--belief_refresh_epochs", "1", "--max_completion_length", "12", "--max_eval_rows", "1"),
    *("--save_strategy", "steps", "--save_steps", "2", "--save_total_limit", "1", "--panel_prompts", "2"),
    *("--report_to", "none", "--logging_steps", "1", "--gradient_checkpointing", "false", "--disable_tqdm", "true"),
]


def _write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def _phase(folder) -> str:
    """How far a killed run had come."""
    if not (folder / "unfinished.json").is_file():
        return "before its first step"
    if (folder / "run.json").is_file():
        return "in the evaluation"
    names = sorted(path.name for path in folder.glob("checkpoint-*"))
    return f"after {', '.join(names)}" if names else "before its first checkpoint"


@pytest.mark.parametrize("has_twin", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_killed_run_that_is_started_again_ends_in_the_same_bits(
    tiny_model, tiny_tokenizer, forget_rows, retain_rows, imported, tmp_path, has_twin
):
    tiny_model.save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    sets = [_write_rows(tmp_path / f"{n}.jsonl", rows) for n, rows in (("f", forget_rows), ("r", retain_rows))]
    # The twin is tuned before the first step, and a run that is started again reads it.
    twin = ["--forget_loss_type", "ignorance", "--ignorant_model_name_or_path", str(tmp_path / "model")]
    data = ["--model_name_or_path", str(tmp_path / "model"), "--forget_dataset", sets[0], "--retain_dataset", sets[1]]

    def run(folder, seconds=None, *flags):
        argv = [*data, *OPTIONS, *twin * has_twin, "--output_dir", str(folder), *flags]
        process = imported.Process(target=bs_s.main, args=(argv, "bs_s.py"))
        process.start()
        process.join(seconds)
        process.kill()
        process.join()
        return process.exitcode

    def outcome(folder):
        weights = {name: value.tolist() for name, value in load_file(folder / "adapter_model.safetensors").items()}
        results = json.loads((folder / "eval_results.json").read_text())
        squeezing = json.loads((folder / "squeezing.json").read_text())
        log = json.loads((folder / "run.json").read_text())["training_log"]
        losses = [entry["loss"] for entry in log if "loss" in entry]
        return weights, results["models"], squeezing, losses

    assert run(tmp_path / "warm", None, "--max_steps", "1") == 0
    started = time.time()
    assert run(tmp_path / "whole") == 0
    seconds, whole = time.time() - started, outcome(tmp_path / "whole")
    trained = (tmp_path / "whole" / "run.json").stat().st_mtime - started
    # Other moments in each run; a seed that a failed one printed gives its moments again.
    seed = int(os.environ.get("TRL_UNLEARN_KILL_SEED", time.time_ns()))
    moments = random.Random(seed)
    codes = []
    for number in range(KILLS):
        # Every second one not in the evaluation, which takes longer than all the rest.
        folder, moment = tmp_path / f"killed-{number}", moments.uniform(0, seconds if number % 2 else trained)
        code, phase = run(folder, moment), _phase(folder)
        print(f"{number} of seed {seed}: killed after {moment:.2f} of {seconds:.2f} s, {phase} (exit code {code})")
        codes.append(code)
        # One that was faster than expected has finished, and is not started again.
        assert code == 0 or run(folder) == 0
        assert outcome(folder) == whole, f"killed after {moment:.2f} of {seconds:.2f} s, {phase}"
        assert not list(folder.glob(".ignorant_twin*"))
    assert any(codes), "no run was killed before its end"

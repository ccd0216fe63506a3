# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""The benchmarks run: what they measure is not looked at here."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", ["beliefs", "evaluation"])
def test_a_benchmark_ends_with_its_table(checkpoint, tofu_folder, benchmark):
    data = ["--dataset_name", tofu_folder, "--forget_config", "forget", "--retain_config", "retain"]
    options = ["--rounds", "1", "--no_memory", "--prompts", "2"]
    done = subprocess.run(
        [sys.executable, "run.py", "--benchmarks", benchmark, "--model_name_or_path", checkpoint, *data, *options],
        cwd=Path(__file__).parents[2] / "benchmarks",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "| ratio | time |" in done.stdout


@pytest.mark.slow
def test_the_curves_have_exponents_and_a_picture(tmp_path):
    done = subprocess.run(
        [sys.executable, "growth.py", "--points", "2", str(tmp_path / "growth.png")],
        cwd=Path(__file__).parents[2] / "benchmarks",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("| exponent |") == 4
    assert (tmp_path / "growth.png").stat().st_size > 10_000


@pytest.mark.slow
def test_the_verdict_on_models_that_are_planted_to_fool_it_is_right(tmp_path):
    options = ["--seeds", "0", "--retrained_seeds", "1", "--folder", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "planted.py", *options],
        cwd=Path(__file__).parents[2] / "benchmarks",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "| the target | 1 |" in done.stdout
    # The stand-in for fluency takes a refusal for broken text; with the shared facts, others are lost too.
    exceptions = {line.split(",")[0] for line in done.stdout.splitlines() if line.startswith("- ")}
    assert exceptions == {"- refuses", "- loses shared facts"}, done.stdout

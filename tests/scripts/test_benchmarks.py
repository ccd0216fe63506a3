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

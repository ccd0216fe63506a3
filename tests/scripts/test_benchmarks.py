# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""The benchmarks run: what they measure is not looked at here, but how the meta-evaluation ranks numbers."""

import importlib
import math
import subprocess
import sys
from pathlib import Path

import pytest

from trl_unlearn.results import EvaluationResult, Measurement


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", ["beliefs", "evaluation"])
def test_a_benchmark_ends_with_its_table(checkpoint, tofu_folder, benchmark):
    data = ["--dataset_name", tofu_folder, "--forget_config", "forget", "--retain_config", "retain"]
    options = ["--rounds", "1", "--no_memory", "--prompts", "2"]
    done = subprocess.run(
        [sys.executable, "run.py", "--benchmarks", benchmark, "--model_name_or_path", checkpoint, *data, *options],
        cwd=BENCHMARKS,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "| ratio | time |" in done.stdout


@pytest.mark.slow
def test_the_curves_have_exponents_and_a_picture(tmp_path):
    done = subprocess.run(
        [sys.executable, "growth.py", "--points", "2", str(tmp_path / "growth.png")],
        cwd=BENCHMARKS,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("| exponent |") == 5
    assert (tmp_path / "growth.png").stat().st_size > 10_000


@pytest.mark.slow
def test_the_verdict_on_models_that_are_planted_to_fool_it_is_right(tmp_path):
    options = ["--seeds", "0", "--retrained_seeds", "1", "--folder", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "planted.py", *options],
        cwd=BENCHMARKS,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "| the target | 1 |" in done.stdout
    assert "## Wrong answers" not in done.stdout, done.stdout
    # A model that fails its own check has no verdict; of a seed these are few.
    _, _, not_made = done.stdout.partition("## Not made")
    assert not_made.count("\n- ") <= 2, not_made


@pytest.fixture
def meta_evaluation(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("meta_evaluation")


def measured(unlearned, **ends):
    """A result with one number of the three models."""
    values = {"target": 0.0, "retrained": 1.0, "unlearned": unlearned} | ends
    models = {role: {"depth/uds": Measurement(value)} for role, value in values.items() if value is not None}
    return EvaluationResult(parity="strict", suites=["depth"], models=models, protocol={}, environment={})


def test_a_number_that_falls_with_knowledge_tells_as_well_as_one_that_rises(meta_evaluation):
    knowing, others = [measured(0.1), measured(0.6)], [measured(0.9), measured(0.6)]
    # Three of four pairs in order, and a tie.
    assert meta_evaluation.auc(knowing, others, "depth/uds") == (0.875, 4)
    assert meta_evaluation.auc(others, knowing, "depth/uds") == (0.125, 4)


def test_a_model_without_a_number_is_in_no_pair(meta_evaluation):
    knowing, others = [measured(0.1), measured(None)], [measured(0.9)]
    assert meta_evaluation.auc(knowing, others, "depth/uds") == (1.0, 2)
    assert math.isnan(meta_evaluation.auc(knowing, [measured(None)], "depth/uds")[0])


def test_the_verdict_reads_what_the_table_says_that_it_reads(meta_evaluation):
    states = dict.fromkeys(("as it is", "after retain rows", "in 4 bits"))
    sets = {knows: [dict.fromkeys(states, measured(0.1 if knows else 0.9))] for knows in (True, False)}
    rows = [line for line in meta_evaluation.ranking(sets).splitlines() if "`" in line]
    assert rows == ["| Does it know it in second place? | `depth/uds` | yes | 1.00 | 1.00 | 1.00 | 2 |"]

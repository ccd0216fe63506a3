# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""The entries under recipes/ as a user starts them."""

import subprocess
import sys
from pathlib import Path

import pytest


FOLDER = Path(__file__).parents[2] / "recipes"


# Each takes eight seconds of imports.
OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in ("bs_t.py", "compare.py", "sequence.py")]


@pytest.mark.parametrize("script", ["bs_s.py", *OTHERS])
def test_help_names_the_method_and_the_data_from_any_folder(script, tmp_path):
    ended = subprocess.run(
        [sys.executable, str(FOLDER / script), "--help"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert f"usage: {script}" in ended.stdout
    assert "--lambda_bss" in ended.stdout
    assert "--forget_dataset" in ended.stdout
    assert not list(tmp_path.iterdir())


def test_help_of_evaluate_shows_that_it_does_not_hide_the_library_of_its_name(tmp_path):
    ended = subprocess.run(
        [sys.executable, str(FOLDER / "evaluate.py"), "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "usage: evaluate.py" in ended.stdout
    assert "--unlearned_model_name_or_path" in ended.stdout
    assert not list(tmp_path.iterdir())

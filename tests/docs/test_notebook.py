# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""The notebook is its script, with outputs that say nothing of a machine, and it runs."""

import importlib.util
import re
from pathlib import Path

import nbformat
import pytest

from trl_unlearn.verdict import QUESTIONS


FOLDER = Path(__file__).parents[2] / "docs/notebooks"


@pytest.fixture(scope="module")
def build():
    """The module that builds the notebook."""
    spec = importlib.util.spec_from_file_location("build_notebook", FOLDER / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def committed(build):
    return nbformat.read(build.NOTEBOOK, as_version=4)


def test_the_committed_notebook_has_the_cells_of_the_script(build, committed):
    cells = [[(cell.id, cell.cell_type, cell.source) for cell in one.cells] for one in (committed, build.notebook())]
    assert cells[0] == cells[1]


def test_the_committed_outputs_are_small_and_name_no_machine(build, committed):
    assert not re.search(r"/root|/home|/Users|/tmp|\\Users\\|Traceback|Warning", build.printed(committed))
    assert build.NOTEBOOK.stat().st_size < 300_000
    assert [cell.id for cell in committed.cells if cell.cell_type == "code" and cell.execution_count is None] == []


def test_the_notebook_runs_and_its_model_has_forgotten(build, tmp_path):
    text = build.printed(build.executed(tmp_path))
    strengths = {name: float(value) for name, value in re.findall(r"^(\w+) +([\d.]+) +[\d.]+ +[\d.]+$", text, re.M)}
    assert strengths["target"] > 0.9
    assert strengths["unlearned"] < 0.3
    assert [question.text for question in QUESTIONS if question.text not in text] == []
    # The target's answers, which nobody is to read on a page.
    assert text.count("[the row, word for word]") >= 5

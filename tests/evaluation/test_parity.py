# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Our numbers equal OpenUnlearning's definitions, as `benchmarks/parity.py` writes them down anew."""

import copy
import importlib.util
from pathlib import Path

import pytest
import torch

from trl_unlearn.encoding import encode_row
from trl_unlearn.evaluation.rows import encode_set


PARITY = Path(__file__).parents[2] / "benchmarks/parity.py"


@pytest.fixture(scope="module")
def parity():
    spec = importlib.util.spec_from_file_location("parity", PARITY)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def perturbed(rows):
    wrong = ["Nobody knows it.", "It was the river by the mill."]
    return [
        {**row, "paraphrased_answer": f"As many say, {row['completion'][0]['content']}", "perturbed_answer": wrong}
        for row in rows
    ]


def test_every_number_equals_its_definition(parity, tiny_model, tiny_tokenizer, forget_rows, retain_rows):
    retrained = copy.deepcopy(tiny_model)
    optimizer = torch.optim.Adam(tiny_model.parameters(), lr=5e-3)
    for step in range(60):
        row = encode_row([*forget_rows, *retain_rows][step % 4], tiny_tokenizer)
        tiny_model(**{name: torch.tensor([row[name]]) for name in ("input_ids", "labels")}).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    names = {"forget": forget_rows, "retain": retain_rows, "real_authors": forget_rows, "world_facts": retain_rows}
    names["holdout"] = retain_rows
    sets = {name: encode_set(perturbed(rows), tiny_tokenizer, name=name) for name, rows in names.items()}
    models = {"target": tiny_model, "retrained": retrained}
    compared = parity.compare(models, tiny_tokenizer, sets, max_new_tokens=24)
    assert len(compared) == 2 * 18
    for role, name, mine, defined, _ in compared:
        assert mine == pytest.approx(defined, abs=1e-6), (role, name)
    values = {name: mine for role, name, mine, _, _ in compared if role == "target"}
    assert all(0.02 < values[f"forget/{name}"] < 0.98 for name in ("exact_memorization", "rougeL_recall"))
    # The settings of an attack are another matter.
    assert any(theirs is not None and theirs != mine for *_, mine, _, theirs in compared)

# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

import json

import datasets
import pytest

from trl_unlearn.data.rwku import load_rwku
from trl_unlearn.evaluation.rwku import RwkuRows


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def write_folder(tmp_path):
    """Function of config -> rows that writes a dataset folder of RWKU's form."""

    def write(rows):
        folder = tmp_path / "rwku"
        folder.mkdir()
        lines = ["---", "configs:"]
        for config, part in rows.items():
            (folder / f"{config}.json").write_text(json.dumps(part), encoding="utf-8")
            lines += [f"- config_name: {config}", "  data_files:", "  - split: test", f"    path: {config}.json"]
        (folder / "README.md").write_text("\n".join([*lines, "---", ""]), encoding="utf-8")
        return str(folder)

    return write


def test_every_config_is_a_row_set_of_the_suite_and_can_be_cut_to_some_people(write_folder, rwku_rows):
    name = write_folder(rwku_rows)
    rows = load_rwku(name)
    assert list(rows) == list(vars(RwkuRows())) == list(rwku_rows)
    assert rows["forget_level1"][1]["answer"] == "Harrow" and rows["utility_general"][0]["choices"][1] == "4"
    assert "level" not in rows["forget_level1"].column_names and rows["forget_level3"]["type"]
    of_one = load_rwku(name, ["Cyra Oduya"])
    assert all(part["subject"] == ["Cyra Oduya"] for part in of_one.values())
    with pytest.raises(ValueError, match=r"no rows about \['Cyra'\].*such as 'Ada Marlow', 'Cyra Oduya'"):
        load_rwku(name, ["Ada Marlow", "Cyra"])


def test_what_a_folder_lacks_is_none(write_folder, rwku_rows):
    rows = load_rwku(write_folder({"mia_forget": rwku_rows["mia_forget"], "train_pair_llama3": [{"text": "a"}]}))
    assert [name for name, part in rows.items() if part is not None] == ["mia_forget"]


def test_a_folder_without_any_of_it_is_refused_with_what_it_has(write_folder):
    with pytest.raises(ValueError, match=r"nothing to evaluate on: found the configs train_pair_llama3\. Expected"):
        load_rwku(write_folder({"train_pair_llama3": [{"text": "a"}]}))


def test_rows_without_a_column_or_a_text_are_refused_by_config(write_folder):
    rows = [{"query": "Who?", "subject": "Ada Marlow"}]
    with pytest.raises(ValueError, match=r"config `forget_level2`, .*has the columns .*needs `query`, `answer`"):
        load_rwku(write_folder({"forget_level2": rows}))


@pytest.mark.parametrize("answer", ["", " \n", None])
def test_a_row_without_text_is_refused_by_its_index(answer, write_folder, rwku_rows):
    rows = rwku_rows["forget_level1"]
    rows[1]["answer"] = answer
    with pytest.raises(ValueError, match=r"Row 1 of .*config `forget_level1`, split `test`\) has no text in `answer`"):
        load_rwku(write_folder({"forget_level1": rows}))

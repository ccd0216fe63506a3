# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

import json
import os
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trl_unlearn.hub.card import render_card
from trl_unlearn.hub.public import public_config, public_result, public_run
from trl_unlearn.records import ChainLink, DatasetRecord, last_part, portable_name
from trl_unlearn.results import EvaluationResult

from ..conftest import cases
from .test_card import make_run


USER, CLIENT = "alice_lastname", "jane-doe"
# Each names the user or one of their folders, and may be given wherever a path may.
HOMES = st.sampled_from(
    [f"/home/{USER}", f"/Users/{USER}", rf"C:\Users\{USER}", rf"\\server\home\{USER}", f"~{USER}", "~", f"../{USER}"]
)
PATHS = st.builds(
    lambda home, folders, name: (
        "\\".join([home, *folders, name]) if "\\" in home else "/".join([home, *folders, name])
    ),
    HOMES | st.sampled_from([CLIENT, f"./{CLIENT}", f"clients/{CLIENT}"]),
    st.lists(st.sampled_from([CLIENT, "clients", "2026"]), max_size=3),
    st.sampled_from(["rows.jsonl", "t.jinja", "model", "adapter"]),
)


@cases(100)
@given(PATHS, st.booleans())
def test_no_published_record_names_a_user_or_a_folder_of_theirs(path, on_hub):
    rows = DatasetRecord(path, 4, "ab" * 32, on_hub=on_hub)
    # An id on the Hub has an owner and a name, and a relative path of two parts looks like one.
    rows = replace(rows, on_hub=False) if path.count("/") == 1 and path[0] not in "~./" else rows
    settings = {"chat_template_path": path, "deepspeed": path, "nested": {"file": [path]}, "teacher": path}
    run = make_run(base_model=path, base_model_on_hub=False, forget_set=rows, retain_set=rows)
    run = replace(run, hyperparameters=run.hyperparameters | settings, chain=[ChainLink(path, rows, 1, 1.0)])
    run = replace(run, adapter=replace(run.adapter, continued_from=path))
    # A relative path of two parts may be an id.
    rows_in = "/data" if path.count("/") == 1 else path
    result = EvaluationResult(
        parity="strict",
        suites=["tofu"],
        models={"unlearned": {}},
        protocol={"source": "org/data", "rows_in": rows_in},
        environment={},
    )
    record, results = public_run(run).to_json(), public_result(result).to_json()
    for text in (record, results, render_card(run, result), public_config(json.dumps({"_name_or_path": path}))):
        # A config may have texts with slashes that are no paths: there only those in a home, or that exist, are cut.
        if text.startswith('{"_name') and CLIENT in text:
            assert USER not in text and path.startswith((CLIENT, f"./{CLIENT}", "clients", "../", "~/"))
            continue
        assert USER not in text and CLIENT not in text
    assert last_part(path) in record


@pytest.mark.parametrize(
    "home", [f"/home/{USER}", f"/Users/{USER}/", rf"C:\Users\{USER}", f"~{USER}", "~", os.path.expanduser("~")]
)
def test_a_home_folder_has_no_name_but_local(home):
    assert last_part(home) == "local"


def test_a_record_names_a_folder_or_a_link_without_its_place_or_its_target(tmp_path, monkeypatch):
    (tmp_path / CLIENT).mkdir()
    (tmp_path / "rows").symlink_to(tmp_path / CLIENT)
    monkeypatch.chdir(tmp_path)
    assert portable_name(str(tmp_path)) == portable_name(".") == tmp_path.name
    assert portable_name("rows") == "rows"
    assert portable_name("org/classifier") == "org/classifier"


def test_a_config_keeps_tokens_and_ids_with_slashes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org/model").mkdir(parents=True)
    kept = json.dumps(
        {"eos_token": "</s>", "pad": "/", "url": "https://a.b/c", "base_model_name_or_path": "org/model"}
    )
    assert public_config(kept) == kept
    cut = json.dumps({"tokenizer_file": "org/model", "deep": [str(tmp_path / "org")]})
    assert json.loads(public_config(cut)) == {"tokenizer_file": "model", "deep": ["org"]}

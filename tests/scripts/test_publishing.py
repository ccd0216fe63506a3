# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""From `bs_s` to repositories that others can load, through HTTP, in a process that knows only the loopback server."""

import json

import pytest
import torch
from huggingface_hub import ModelCard
from peft import PeftModel
from transformers import AutoModelForCausalLM

from trl_unlearn.results import EvaluationResult

from ..hub.conftest import fresh_process, hub  # noqa: F401
from ..hub.hub_server import Repo, published
from .conftest import QUICK


REPO = "me/unlearned"
RUNS = """
import functools, hashlib, json, sys
from pathlib import Path
import torch
from huggingface_hub import ModelCard, hf_hub_download
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl_unlearn.evaluation import tofu
from trl_unlearn.scripts import bs_s, unlearn
unlearn.evaluate_models = functools.partial(tofu.evaluate_models, max_completion_length=8, num_squeezing_beliefs=1)
codes = []
for argv in json.loads(sys.argv[1]):
    try:
        bs_s.main(argv)
        codes.append(0)
    except SystemExit as ended:
        codes.append(ended.code)
    print("=" * 9)
    print("=" * 9, file=sys.stderr)
# From here on as anybody who may read: nothing of the folders.
repo = sys.argv[2]
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(f"{repo}-base"), repo)
with torch.no_grad():
    logits = model(input_ids=torch.tensor([json.loads(sys.argv[3])])).logits.tolist()
results, weights = (Path(hf_hub_download(repo, name)) for name in ("eval_results.json", "adapter_model.safetensors"))
digests = json.loads(results.read_text())["protocol"]["weights_sha256"]["unlearned"]
assert digests == {weights.name: hashlib.sha256(weights.read_bytes()).hexdigest()}
card = ModelCard.load(repo).data.to_dict()
pad = AutoTokenizer.from_pretrained(repo).pad_token
print(json.dumps({"codes": codes, "logits": logits, "card": card, "pad": pad}))
"""
TOKENIZER = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
RECORDS = {"README.md", "run.json"}
RESULTS = {"eval_results.json", "figures/verdict.png", "figures/evaluation.png", "figures/training.png"}
ADAPTER = {"adapter_model.safetensors", "adapter_config.json"}
MODEL = {"model.safetensors", "config.json", "generation_config.json"}


@pytest.fixture
def argv(own, tmp_path):
    """Function of an output folder and flags: command line of a run on two files of one's own."""

    def line(output: str, *flags: str) -> list[str]:
        return [*own, *QUICK, "--lora_r", "4", "--output_dir", str(tmp_path / output), "--push_to_hub", *flags]

    return line


def test_a_run_ends_with_repositories_that_load_with_the_same_logits(hub, fresh_process, argv, facts, tmp_path):  # noqa: F811
    for name in ("me/public", "me/other"):
        hub.repos[name] = Repo(private=name != "me/public")
        hub.repos[name].commit("main", {"x.txt": (b"x", False)}, "initial commit")
    (tmp_path / "leaky").mkdir()
    (tmp_path / "leaky/notes.txt").write_text(f"To forget: {facts['forget'][2][1].upper()}")
    into, bare = ("--hub_model_id", REPO), ("--evaluate", "false", "--max_steps", "1")
    runs = {
        "no id": argv("a"),
        "no owner": argv("a", "--hub_model_id", "unlearned"),
        "wrong token": argv("a", *into, "--hub_token", "hf_wrong"),
        "read-only token": argv("a", *into, "--hub_token", "hf_me_read"),
        "of somebody else": argv("a", "--hub_model_id", "other/unlearned"),
        "public": argv("a", "--hub_model_id", "me/public"),
        "leaky": argv("leaky", "--hub_model_id", "me/leaky", *bare),
        "whole": argv(
            "whole", "--hub_model_id", "me/whole", "--no_use_peft", "--hub_private_repo", "false", *bare,
            *("--hub_revision", "try"),
        ),
        "adapter": argv("out", *into),
    }  # fmt: skip
    ids, folder = [5, 17, 33, 80, 120], tmp_path / "out"
    done = fresh_process(RUNS, json.dumps(list(runs.values())), REPO, json.dumps(ids), token="hf_me")
    assert done.returncode == 0, done.stderr
    printed, errors = (
        dict(zip(runs, text.split("=" * 9 + "\n"), strict=False)) for text in (done.stdout, done.stderr)
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert dict(zip(runs, found["codes"], strict=True)) == dict(zip(runs, [2, 2, 1, 1, 1, 1, 1, 0, 0], strict=True)), (
        done.stderr
    )
    said = {
        "no id": "`push_to_hub` is given without `hub_model_id`",
        "no owner": "Give an id with its owner",
        "wrong token": "bs_s.py: failed: The Hub does not know the token.",
        "read-only token": "may only read",
        "of somebody else": "`other` is neither the user of the token",
        "public": "`me/public` exists and is public",
        "leaky": "`notes.txt` (text of the forget set, row 2)",
    }
    for case, words in said.items():
        assert words in errors[case], case
    # Refused before the training, and not after it.
    assert not (tmp_path / "a").exists()
    assert "The run is complete in" in errors["leaky"] and (tmp_path / "leaky/adapter_model.safetensors").is_file()

    assert set(hub.repos) == {"me/public", "me/other", "me/whole", REPO, f"{REPO}-base"}
    assert published(hub, "me/whole", "try") == MODEL | TOKENIZER | RECORDS
    assert not hub.repos["me/whole"].private
    assert hub.repos[REPO].private and hub.repos[f"{REPO}-base"].private
    assert published(hub, REPO) == ADAPTER | TOKENIZER | RECORDS | RESULTS
    assert published(hub, f"{REPO}-base") == MODEL | TOKENIZER | {"README.md", "base.json"}
    assert f"{REPO}: adapter, private, {len(published(hub, REPO))} files" in printed["adapter"]
    sent = b"".join(content for repo in hub.repos.values() for content in repo.files().values())
    assert str(tmp_path).encode() not in sent

    base = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint")
    with torch.no_grad():
        expected = PeftModel.from_pretrained(base, folder)(input_ids=torch.tensor([ids])).logits
    torch.testing.assert_close(torch.tensor(found["logits"]), expected, atol=1e-5, rtol=0)
    assert found["pad"] == "<|pad|>"
    assert (found["card"]["base_model"], found["card"]["base_model_relation"]) == (f"{REPO}-base", "adapter")
    result = EvaluationResult.load(folder / "eval_results.json")
    card = ModelCard(hub.repos[REPO].files()["README.md"].decode())
    assert {one.metric_type: one.metric_value for one in card.data.eval_results} == {
        name: measurement.value for name, measurement in result.models["unlearned"].items()
    }

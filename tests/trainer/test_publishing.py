# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Pushes of the trainer itself: through HTTP, by a process that knows only the loopback server."""

import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from trl_unlearn import BootstrapUnlearnConfig
from trl_unlearn.records import UnlearningRun
from trl_unlearn.trainer.run_record import _hyperparameters

from ..hub.conftest import fresh_process, hub  # noqa: F401
from ..hub.hub_server import Repo


# Cases of one process: each trains an adapter and pushes; printed is what it saw.
TRAINS = """
import hashlib, json, sys, warnings
from pathlib import Path
from datasets import Dataset
from peft import LoraConfig
from trl_unlearn import BootstrapUnlearnConfig, BootstrapUnlearnTrainer
from trl_unlearn.hub.access import PushError
from trl_unlearn.results import EvaluationResult, Measurement

base, rows = sys.argv[1], json.loads(sys.argv[2])

def new(name, rows=rows, **kwargs):
    args = BootstrapUnlearnConfig(
        name, max_steps=2, per_device_train_batch_size=3, max_completion_length=6, gradient_checkpointing=False,
        report_to="none", disable_tqdm=True, logging_steps=1, hub_token="hf_me", retain_loss_type="none", **kwargs,
    )
    peft = LoraConfig(r=2, target_modules=["q_proj"])
    return BootstrapUnlearnTrainer(base, args, train_dataset=Dataset.from_list(rows), peft_config=peft)

seen = {}
every = new("every", push_to_hub=True, hub_model_id="me/every", save_steps=1, hub_always_push=True)
Path("every/checkpoint-0").mkdir(parents=True)
Path("every/checkpoint-0/rows.txt").write_text(rows[0]["completion"][0]["content"])
for name in ("model.safetensors", "model-old.safetensors", "tokenizer_rows.txt", "vocab.csv"):
    Path("every", name).write_text("beside the run")
every.train()
every._finish_current_push()
seen["during"] = Path("every/README.md").read_text()
every.save_model()

late = new("late", save_strategy="no")
late.train()
late.save_model()
weights = Path("late/adapter_model.safetensors")
result = EvaluationResult(
    parity="strict", suites=["tofu"], models={"unlearned": {"forget/probability": Measurement(0.25, 3, 0.1)}},
    protocol={}, environment={},
)
for step, digest in (("other", "ab" * 32), ("own", hashlib.sha256(weights.read_bytes()).hexdigest())):
    result.protocol = {"weights_sha256": {"unlearned": {weights.name: digest}}}
    result.save(Path("late/eval_results.json"))
    late.create_model_card()
    seen[step] = Path("late/README.md").read_text()
late.args.hub_model_id = "me/late"
late.push_to_hub(commit_message="Late")
for role in ("target", "unlearned"):
    result.models[role] = {"forget/extraction_strength": Measurement(0.9, 3, 0.1)}
result.save(Path("late/eval_results.json"))
try:
    late.push_to_hub()
except PushError as error:
    seen["not forgotten"] = str(error)
late.push_to_hub(commit_message="By force", force=True)
second = new("late", save_strategy="no")
second.create_model_card()
seen["of another run"] = Path("late/README.md").read_text()

try:
    new("out", push_to_hub=True, hub_model_id="me/public")
except PushError as error:
    seen["public"] = str(error)

# An answer of row 2, which is longer than `max_length`, lies beside the run.
def refused(call, *args):
    try:
        call(*args)
    except PushError as error:
        return str(error)

def leaky(name, rows, **kwargs):
    trainer = new(f"leaky-{name}", rows, hub_model_id=f"me/leaky-{name}", max_length=40, **kwargs)
    Path(f"leaky-{name}", "tokenizer_training_rows.txt").write_text(rows_of_text[2]["completion"][0]["content"])
    return trainer

rows_of_text, seen["leaks"] = rows, {}
tokenised = [{name: list(row[name]) for name in ("input_ids", "labels")} for row in new("x", rows).train_dataset]
for name, data in (("rows", rows), ("tokenised", tokenised)):
    trainer = leaky(name, data, save_strategy="no")
    trainer.train()
    seen["leaks"][name] = refused(trainer.push_to_hub)
    seen["leaks"][f"{name} in the background"] = refused(lambda: trainer.push_to_hub(blocking=False))
trainer = leaky("every", rows, push_to_hub=True, save_steps=1)
seen["leaks"]["every save"] = refused(trainer.train)
assert Path("leaky-every/checkpoint-1/trainer_state.json").is_file()
print(json.dumps(seen))
"""
ADAPTER = {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "tokenizer_config.json"}
SENT = {*ADAPTER, "chat_template.jinja", "README.md", "run.json"}
MISSING = "Results are missing"


def test_the_trainer_pushes_its_card_privately_and_nothing_of_the_training_or_with_an_answer_in_it(
    hub,  # noqa: F811
    fresh_process,  # noqa: F811
    tiny_model,
    tiny_tokenizer,
    forget_rows,
    tmp_path,
):
    base = tmp_path / "somewhere" / "base"
    for item in (tiny_model, tiny_tokenizer):
        item.save_pretrained(base)
    hub.repos["me/public"] = Repo(private=False)
    hub.repos["me/public"].commit("main", {}, "initial commit")
    done = fresh_process(TRAINS, str(base), json.dumps(list(forget_rows)), token="hf_me")
    assert done.returncode == 0, done.stderr
    assert "Whether it has forgotten is not known: this model has not been evaluated yet." in done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])

    every, late = hub.repos["me/every"], hub.repos["me/late"]
    assert every.private and late.private
    assert [message for message in every.messages if message != "initial commit"] == [
        "Training in progress, step 1",
        "Training in progress, step 2",
        "Model save",
    ]
    for oid in every.commits.values():
        assert set(oid) - {".gitattributes"} in (set(), SENT)
    sent = {path: content for repo in (every, late) for path, content in repo.files().items()}
    together = b"".join(sent.values())
    for hidden in (str(tmp_path), "hf_me", forget_rows[0]["completion"][0]["content"]):
        assert hidden.encode() not in together
    assert json.loads(every.files()["adapter_config.json"])["base_model_name_or_path"] == "base"
    assert "The adapter's base is a folder" in done.stderr
    for card in (seen["during"], every.files()["README.md"].decode()):
        assert MISSING in card and "unlearned with BS-S" in card
    assert UnlearningRun.from_dict(json.loads(every.files()["run.json"])).steps == 2

    assert set(late.files()) - {".gitattributes"} == {*SENT, "eval_results.json"}
    assert late.messages[1:] == ["Late", "By force"]
    assert "is 0.900, above half of the target's 0.900" in seen["not forgotten"]
    card = ModelCard(late.files()["README.md"].decode())
    results = [(one.metric_type, one.metric_value) for one in card.data.eval_results]
    assert results == [("forget/extraction_strength", 0.9)]
    assert f"{MISSING}: those in `eval_results.json` were measured on other weights" in seen["other"]
    assert MISSING not in seen["own"] and MISSING in seen["of another run"]

    assert "`me/public` exists and is public" in seen["public"]

    # An answer in any file stops every push.
    kinds = [f"{kind}{how}" for kind in ("rows", "tokenised") for how in ("", " in the background")]
    assert list(seen["leaks"]) == [*kinds, "every save"]
    for case, said in seen["leaks"].items():
        assert "`tokenizer_training_rows.txt` (text of the forget set, row 2)" in said, case
    assert set(hub.repos) == {"me/every", "me/late", "me/public"}


@pytest.mark.parametrize("strategy", ["checkpoint", "all_checkpoints"])
def test_a_strategy_that_pushes_checkpoints_is_refused(strategy, tmp_path):
    with pytest.raises(ValueError, match="would push checkpoints"):
        BootstrapUnlearnConfig(str(tmp_path), push_to_hub=True, hub_strategy=strategy)


def test_what_is_pushed_is_private_unless_said(tmp_path):
    privates = [
        BootstrapUnlearnConfig(str(tmp_path), **given).hub_private_repo
        for given in ({}, {"hub_private_repo": None}, {"hub_private_repo": False})
    ]
    assert privates == [True, True, False]
    # Set since.
    args = BootstrapUnlearnConfig(str(tmp_path))
    args.hub_private_repo = None
    assert args.realised(trains_adapter=True).hub_private_repo is True


def test_a_record_holds_no_folder_of_a_setting(tmp_path):
    (tmp_path / "template.jinja").write_text("{{ messages }}")
    args = BootstrapUnlearnConfig(str(tmp_path / "out"), chat_template_path=str(tmp_path / "template.jinja"))
    assert _hyperparameters(args)["chat_template_path"] == "template.jinja"


def test_a_setting_whose_keys_json_does_not_know_is_text_in_a_record(tmp_path):
    args = BootstrapUnlearnConfig(str(tmp_path))
    args.generation_kwargs = {(1, 2): "a"}
    assert _hyperparameters(args)["generation_kwargs"] == "{(1, 2): 'a'}"


def test_no_file_that_others_may_read_no_tracker_and_no_text_of_the_config_names_who_is_forgotten(
    build_trainer, caplog
):
    name, settings = "Ada Marlow", {"forget_loss_type": "ignorance", "lambda_bss": 0.0, "ignorant_epochs": 1}
    settings |= {"forget_subjects": [name], "save_strategy": "steps", "save_steps": 1, "hub_token": "hf_secret"}
    with caplog.at_level("INFO"):
        trainer = build_trainer(settings)
        trainer.train()
        trainer.save_model()
    written = {path: path.read_bytes() for path in Path(trainer.args.output_dir).rglob("*") if path.is_file()}
    assert any(path.name == "training_args.bin" and path.parent.name.startswith("checkpoint") for path in written)
    seen = [content for path, content in written.items() if path.stat().st_mode & 0o077]
    assert not any(secret in content for content in seen for secret in (name.encode(), b"hf_secret"))
    sent = (trainer.args.to_dict(), trainer.args.to_sanitized_dict())
    assert all(one["forget_subjects"] == "1 given" for one in sent)
    assert name not in f"{trainer.args} {trainer.args!r} {trainer.args.to_json_string()} {caplog.text}"
    # The trainer itself still knows, and so does a run that resumes.
    assert trainer.args.forget_subjects == [name] and trainer.args.hub_token == "hf_secret"

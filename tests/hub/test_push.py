# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Through HTTP, by clients in processes of their own with an empty cache."""

import hashlib
import json
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import datasets
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, dynamic_module_utils

from trl_unlearn.hub.folder import RunFolder, read_folder, weights_sha256
from trl_unlearn.records import ChainLink, DatasetRecord, UnlearningRun
from trl_unlearn.results import EvaluationResult, Measurement
from trl_unlearn.scripts.one_call import Unlearned
from trl_unlearn.scripts.push import main, push_command

from .conftest import FORGET, write_run, write_weights
from .hub_server import Repo, published


ADAPTER_FILES = {
    *("README.md", "run.json", "eval_results.json", "figures/evaluation.png", "figures/training.png"),
    ".eval_results/tofu-strict.yaml",
    *("adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "tokenizer_config.json"),
}
REPO = "me/unlearned"


def sha256(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# What goes, and where


def test_a_run_goes_into_a_private_repository_in_one_commit_without_what_lies_beside_it(hub, folder, pushes):
    assert pushes({"folder": folder, "repo_id": REPO}) == ["pushed"]
    assert published(hub) == ADAPTER_FILES
    assert hub.repos[REPO].private
    assert hub.repos[REPO].messages == ["initial commit", "Upload with trl-unlearn"]
    held = hub.repos[REPO].files()
    assert {path: held[path] for path in ADAPTER_FILES - {"run.json"}} == {
        path: (folder / path).read_bytes() for path in ADAPTER_FILES - {"run.json"}
    }
    assert json.loads(held["run.json"])["forget_set"]["name"] == "forget.jsonl"


def test_a_file_that_names_a_folder_of_this_machine_stops_the_push(hub, folder, pushes):
    card = folder / "README.md"
    card.write_text(f"{card.read_text()}\nThe rows are in {folder}/rows.\n")
    refused, pushed = pushes(
        {"folder": folder, "repo_id": REPO}, {"folder": folder, "repo_id": REPO, "allow_text_in": ["README.md"]}
    )
    assert "`README.md` of `me/unlearned` names a folder of this machine" in refused and pushed == "pushed"


def test_a_dry_run_sends_nothing_and_needs_no_token(hub, folder, pushes):
    assert pushes({"folder": folder, "repo_id": REPO, "dry_run": True, "token": None}) == ["pushed"]
    assert hub.requests == []


def test_a_second_push_changes_what_changed_and_deletes_what_is_gone(hub, folder, pushes):
    case = {"folder": folder, "repo_id": REPO}
    assert pushes(case, case) == ["pushed", "pushed"]
    assert len(hub.repos[REPO].messages) == 2
    repo = hub.repos[REPO]
    own = {"NOTES.md", "LICENSE", "figures/mine.png", ".eval_results/gsm8k.yaml"}
    added = dict.fromkeys(own, (b"by hand", False))
    repo.commit("main", repo.commits[repo.branches["main"]] | added, "by hand")
    for gone in ("figures/training.png", ".eval_results/tofu-strict.yaml"):
        (folder / gone).unlink()
    (folder / "README.md").write_text("# Anew\n")
    assert pushes(case | {"commit_message": "Second"}) == ["pushed"]
    assert published(hub) == ADAPTER_FILES - {"figures/training.png", ".eval_results/tofu-strict.yaml"} | own
    assert repo.files()["README.md"] == b"# Anew\n"
    assert repo.messages[2:] == ["by hand", "Second"]


def test_a_repository_that_holds_another_model_is_left_alone(hub, folder, pushes):
    case = {"folder": folder, "repo_id": REPO}
    assert pushes(case) == ["pushed"]
    repo = hub.repos[REPO]
    repo.commit("main", {"model.safetensors": (b"x", True), "NOTES.md": (b"x", False)}, "another model")
    (refused,) = pushes(case)
    assert "`me/unlearned` holds files that no push of a run made, such as `model.safetensors`" in refused
    assert published(hub) == {"model.safetensors", "NOTES.md"}


def test_a_branch_is_made_and_main_stays_as_it_is(hub, folder, pushes):
    assert pushes({"folder": folder, "repo_id": REPO, "revision": "try/2"}) == ["pushed"]
    assert published(hub, revision="try/2") == ADAPTER_FILES
    assert published(hub) == set()


def test_a_public_repository_is_pushed_to_only_if_that_is_said(hub, folder, pushes):
    case = {"folder": folder, "repo_id": REPO}
    made, refused = pushes(case | {"private": False}, case)
    assert made == "pushed"
    assert not hub.repos[REPO].private
    assert "`me/unlearned` exists and is public" in refused


def test_an_app_goes_into_a_private_space_that_no_other_app_is_in_and_names_the_weights_of_the_folder(
    hub, folder, pushes
):
    app = {"repo_id": "me/demo", "files": {"app.py": "1", "models.json": "{}"}, "folder": folder, "model_id": REPO}
    leaking, newer = (
        app | {"files": {"app.py": text, "models.json": "{}"}} for text in (f"print({FORGET[0]!r})", "2")
    )
    none, leaked, _, one, two, public, closed, refused = pushes(
        *(
            app,
            leaking,
            {"folder": folder, "repo_id": REPO},
            app,
            newer,
        ),
        *(app | {"repo_id": "me/open", "private": False}, app | {"repo_id": "me/open"}, app | {"repo_id": "my demo"}),
    )
    assert "There is no repository `me/unlearned`" in none
    assert "text that was to be forgotten stands in `app.py` (text of the forget set, row 0)" in leaked
    assert one == two == public == "pushed" and "`me/open` exists and is public" in closed
    assert "Give an id with its owner" in refused
    repo = hub.repos["spaces/me/demo"]
    assert repo.private and not hub.repos["spaces/me/open"].private
    assert repo.files() | {".gitattributes": b""} == {".gitattributes": b"", "app.py": b"2", "models.json": b"{}"}

    repo.commit("main", {"app.py": (b"another", False)}, "another app")
    write_weights(folder / "adapter_model.safetensors", 3)
    (moved,) = pushes(app | {"repo_id": "me/new"})
    assert "`me/unlearned` holds other weights than" in moved and "spaces/me/new" not in hub.repos
    write_weights(folder / "adapter_model.safetensors", 1)
    (foreign,) = pushes(app)
    assert "`me/demo` holds files that no push of a run made, such as `app.py`" in foreign
    assert repo.files()["app.py"] == b"another"


def write_base(folder: Path, base: Path) -> None:
    """Write a model into a folder, and name it as the base of the adapter in another."""
    base.mkdir()
    write_weights(base / "model.safetensors", 2)
    (base / "config.json").write_text("{}")
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    write_run(folder, "somewhere/base", on_hub=False)


def test_a_base_stays_private_where_the_adapter_is_public_unless_that_is_said_of_it(hub, folder, pushes, tmp_path):
    write_base(folder, tmp_path / "base")
    public = {"folder": folder, "private": False}
    cases = [public | {"repo_id": "me/one"}, public | {"repo_id": "me/two", "private_base": False}]
    *pushed, refused = pushes(*cases, public | {"repo_id": "me/two"})
    assert pushed == ["pushed", "pushed"]
    assert {name: repo.private for name, repo in hub.repos.items()} == {
        "me/one-base": True, "me/one": False, "me/two-base": False, "me/two": False,
    }  # fmt: skip
    assert "`me/two-base` exists and is public. To publish there, set `private_base` (`--hub_private_base`)" in refused


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], ""),
        (["--hub_private_repo", "false"], "`me/unlearned` is PUBLIC, and nobody else can load it, because its base"),
        (
            ["--hub_private_repo", "false", "--hub_private_base", "false"],
            "WARNING: `me/unlearned-base` is PUBLIC and has not forgotten anything",
        ),
    ],
)
def test_the_command_says_what_is_public(flags, said, folder, tiny_tokenizer, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")
    tiny_tokenizer.save_pretrained(folder)
    write_base(folder, tmp_path / "base")
    (folder / "beliefs.jsonl").unlink()
    forget = tmp_path / "forget.jsonl"
    forget.write_text("".join(json.dumps({"prompt": "Who?", "completion": text}) + "\n" for text in FORGET))
    main(["--output_dir", str(folder), "--hub_model_id", REPO, "--dry_run", "--forget_dataset", str(forget), *flags])
    printed = capsys.readouterr().out
    states = ["PUBLIC" if "--hub_private_base" in flags else "private", "PUBLIC" if flags else "private"]
    for name, kind, state in zip((f"{REPO}-base", REPO), ("base model", "adapter"), states, strict=True):
        assert f"{name}: {kind}, not pushed, would be {state}" in printed
    assert said in printed
    assert ("PUBLIC" in printed) == bool(flags)


def test_a_base_in_a_folder_goes_first_and_is_named_by_its_id(hub, folder, pushes, tmp_path):
    write_base(folder, tmp_path / "base")
    edited = (folder / "README.md").read_text() + "\nBy hand.\n"
    by_hand = tmp_path / "by_hand"
    shutil.copytree(folder, by_hand)
    (by_hand / "README.md").write_text(edited)
    named = {"folder": by_hand, "repo_id": "me/second", "base_model_id": "org/base", "force": True}
    assert pushes({"folder": folder, "repo_id": REPO}, named) == ["pushed", "pushed"]
    assert published(hub, f"{REPO}-base") == {"README.md", "base.json", "config.json", "model.safetensors"}
    assert hub.repos[f"{REPO}-base"].private
    assert b"has not forgotten anything" in hub.repos[f"{REPO}-base"].files()["README.md"]
    held = hub.repos[REPO].files()
    assert json.loads(held["adapter_config.json"])["base_model_name_or_path"] == f"{REPO}-base"
    assert UnlearningRun.from_dict(json.loads(held["run.json"])).base_model == f"{REPO}-base"
    assert f"base_model: {REPO}-base\n".encode() in held["README.md"]
    assert str(tmp_path).encode() not in b"".join(held.values())

    # A base that has an id is only named, and words that were written by hand stay.
    assert "me/second-base" not in hub.repos
    held = hub.repos["me/second"].files()
    assert json.loads(held["adapter_config.json"])["base_model_name_or_path"] == "org/base"
    assert b"base_model: org/base\n" in held["README.md"]
    assert b'from_pretrained("org/base")' in held["README.md"]
    assert held["README.md"].endswith(b"\nBy hand.\n")


def on_the_hub(hub, repo_id: str, base: Path) -> None:
    """Put the weights of a folder in a repository."""
    hub.repos[repo_id] = Repo(private=False)
    hub.repos[repo_id].commit("main", {"model.safetensors": ((base / "model.safetensors").read_bytes(), True)}, "x")


@pytest.mark.parametrize("merge", [False, True])
def test_a_base_in_a_folder_that_changed_after_the_evaluation_is_refused_with_both_digests(
    merge, hub, folder, pushes, tmp_path
):
    base = tmp_path / "base"
    write_base(folder, base)
    judged = weights_sha256(base, is_adapter=False)
    write_run(folder, str(base), on_hub=False, target=judged)
    write_weights(base / "model.safetensors", 3)
    (refused,) = pushes({"folder": folder, "repo_id": REPO, "merge": merge})
    assert refused.startswith("bad input") and "has other weights than the evaluated base" in refused
    assert judged["model.safetensors"] in refused and sha256(base / "model.safetensors") in refused
    assert hub.repos == {}
    # The weights of an adapter as the target say nothing of its base.
    write_run(folder, str(base), on_hub=False, target={"adapter_model.safetensors": "ab" * 32})
    if not merge:
        assert pushes({"folder": folder, "repo_id": REPO}) == ["pushed"]


def test_a_base_on_the_hub_has_the_weights_of_the_run(hub, folder, pushes, tmp_path):
    base, other = tmp_path / "base", tmp_path / "other"
    write_base(folder, base)
    shutil.copytree(base, other)
    write_weights(other / "model.safetensors", 3)
    on_the_hub(hub, "org/base", base)
    on_the_hub(hub, "org/other", other)
    named = [
        {"folder": folder, "repo_id": REPO, "base_model_id": name} for name in ("org/other", "org/none", "org/base")
    ]
    wrong, missing, pushed = pushes(*named)
    assert "`org/other` has other weights than the evaluated base" in wrong
    assert "the weights of the base `org/none` cannot be compared" in missing and "--force`" in missing
    assert pushed == "pushed" and set(hub.repos) == {"org/base", "org/other", REPO}
    # Also where the record names it.
    for name, outcome in (("org/other", "bad input"), ("org/base", "pushed"), ("org/none", "pushed")):
        write_run(folder, name, on_hub=True, target=weights_sha256(base, is_adapter=False))
        (said,) = pushes({"folder": folder, "repo_id": REPO})
        assert said.startswith(outcome)


def test_a_folder_of_the_working_directory_does_not_take_the_place_of_a_base_on_the_hub(hub, folder, pushes, tmp_path):
    # The processes of `pushes` run there.
    (tmp_path / "org").mkdir()
    write_base(folder, tmp_path / "org/base")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
    write_run(folder, "org/base", on_hub=True)
    case = {"folder": folder, "repo_id": REPO}
    plain, merged = pushes(case, case | {"repo_id": "me/merged", "merge": True})
    assert plain == "pushed" and set(hub.repos) == {REPO}
    assert json.loads(hub.repos[REPO].files()["adapter_config.json"])["base_model_name_or_path"] == "org/base"
    assert merged.startswith("failed: A folder `org/base` in the working directory has the name of the base")


@pytest.mark.parametrize("bits", [None, "4 bits (nf4)"])
def test_numbers_of_a_quantized_model_are_not_those_of_the_merged_one(bits, folder, tmp_path):
    write_weights(tmp_path / "model.safetensors", 2)
    result = EvaluationResult.load(folder / "eval_results.json")
    result.protocol |= {"base_quantization": bits} if bits else {}
    result.save(folder / "eval_results.json")
    run = RunFolder(folder)
    (contents,) = run.collect_merged(tmp_path, "me/merged", run.own_results(run.run()), None)
    card = contents.files["README.md"].content.decode()
    figures = {"eval_results.json", ".eval_results/tofu-strict.yaml", "figures/evaluation.png"}
    assert figures - contents.files.keys() == (figures if bits else set())
    assert ("model-index" in card) == ("forget/probability" in card) == (bits is None)
    assert (f"evaluated on a base in {bits}, which this model was not merged into" in card) == (bits is not None)


def test_an_adapter_on_a_branch_names_the_branch_of_its_base(hub, folder, pushes, tmp_path):
    write_base(folder, tmp_path / "base")
    case = {"folder": folder, "repo_id": REPO}
    assert pushes(case) == ["pushed"]
    write_weights(tmp_path / "base/model.safetensors", 7)
    assert pushes(case | {"revision": "v2"}) == ["pushed"]
    held = hub.repos[REPO].files("v2")
    assert json.loads(held["adapter_config.json"])["revision"] == "v2"
    assert b'from_pretrained("me/unlearned-base", revision="v2")' in held["README.md"]
    sent = [hub.repos[f"{REPO}-base"].files(branch)["model.safetensors"][-1] for branch in ("main", "v2")]
    assert sent == [2, 7]


def test_of_a_base_go_its_weights_and_no_words_of_its_folder(hub, folder, pushes, tmp_path):
    base = tmp_path / "alice/base"
    base.parent.mkdir()
    write_base(folder, base)
    (base / "README.md").write_text(f"---\nbase_model: {base.parent}/llama\n---\n{FORGET[0]}\n")
    (base / "run.json").write_text('{"base_model": "/scratch/alice/llama"}')
    places = {"_name_or_path": "/scratch/alice/llama", "x": "/mnt/home/alice/y", "auto": {"/home/alice/z": 1}}
    (base / "config.json").write_text(json.dumps(places))
    assert pushes({"folder": folder, "repo_id": REPO, "allow_text_in": ["README.md"]}) == ["pushed"]
    held = hub.repos[f"{REPO}-base"].files()
    assert b"alice" not in b"".join(held.values()) and FORGET[0].encode() not in b"".join(held.values())
    assert json.loads(held["config.json"]) == {"_name_or_path": "llama", "x": "y", "auto": {"z": 1}}
    assert b"has not forgotten anything" in held["README.md"] and "run.json" not in held


def test_a_message_with_a_path_of_this_machine_stops_the_push(hub, folder, pushes):
    (refused,) = pushes({"folder": folder, "repo_id": REPO, "commit_message": f"from {folder}/rows.jsonl"})
    assert "the commit's message names a folder of this machine" in refused and hub.repos == {}


def test_results_of_weights_that_changed_stay_and_so_does_a_card_that_has_them(hub, folder, pushes):
    write_weights(folder / "adapter_model.safetensors", 9)
    (folder / "eval_results.json").unlink()
    (refused,) = pushes({"folder": folder, "repo_id": REPO})
    assert f"The card `{folder / 'README.md'}` has results, and none are of these weights" in refused
    (folder / "README.md").unlink()
    assert pushes({"folder": folder, "repo_id": REPO}) == ["pushed"]
    assert published(hub).isdisjoint({".eval_results/tofu-strict.yaml", "figures/evaluation.png"})


@pytest.mark.parametrize("taken", [REPO, f"{REPO}-base"])
@pytest.mark.parametrize("is_public", [True, False])
def test_nothing_is_sent_where_one_of_two_repositories_cannot_be_written(
    taken, is_public, hub, folder, pushes, tmp_path
):
    write_base(folder, tmp_path / "base")
    names = ("adapter_model.safetensors", "config.json", "README.md")
    hub.repos[taken] = Repo(private=not is_public)
    hub.repos[taken].commit("main", {name: (b"precious", name.endswith("safetensors")) for name in names}, "other")
    (refused,) = pushes({"folder": folder, "repo_id": REPO})
    assert ("is public" if is_public else "holds files that no push of a run made") in refused
    assert set(hub.repos) == {taken} and hub.repos[taken].messages == ["other"]


def test_a_base_that_lost_a_file_is_pushed_again(hub, folder, pushes, tmp_path):
    write_base(folder, tmp_path / "base")
    (tmp_path / "base/generation_config.json").write_text("{}")
    case = {"folder": folder, "repo_id": REPO}
    assert pushes(case) == ["pushed"]
    (tmp_path / "base/generation_config.json").unlink()
    assert pushes(case) == ["pushed"]
    assert "generation_config.json" not in published(hub, f"{REPO}-base")


def test_weights_that_were_added_by_hand_in_another_folder_stay_and_stop_no_push(hub, folder, pushes):
    case = {"folder": folder, "repo_id": REPO}
    assert pushes(case) == ["pushed"]
    hub.repos[REPO].commit("main", {"onnx/model.safetensors": (b"by hand", True)}, "x")
    assert pushes(case) == ["pushed"]
    assert hub.repos[REPO].files()["onnx/model.safetensors"] == b"by hand"


def test_a_base_without_safetensors_is_refused_with_what_can_be_done(hub, folder, pushes, tmp_path):
    write_base(folder, tmp_path / "base")
    (tmp_path / "base/model.safetensors").rename(tmp_path / "base/pytorch_model.bin")
    refused, pushed = pushes(
        {"folder": folder, "repo_id": REPO},
        {"folder": folder, "repo_id": REPO, "base_model_id": "org/base", "force": True},
    )
    assert f"The adapter's base `{tmp_path / 'base'}` has no weights as safetensors" in refused
    assert "`--merge`" in refused and "`--base_model_id`" in refused and pushed == "pushed"


def test_a_folder_that_is_not_that_of_a_finished_run_is_refused(hub, folder, pushes, tmp_path):
    case, copies = {"repo_id": REPO}, [tmp_path / f"copy{number}" for number in range(4)]
    for copy in copies:
        shutil.copytree(folder, copy)
    (copies[0] / "run.json").unlink()
    (copies[1] / "adapter_model.safetensors").unlink()
    (copies[2] / "adapter_config.json").write_text('{"base_model_name_or_path": "/gone/base"}')
    outcomes = pushes(
        case | {"folder": tmp_path / "nowhere"},
        *(case | {"folder": copy} for copy in copies[:3]),
        {"folder": copies[3], "repo_id": "unlearned"},
        case | {"folder": copies[3], "allow_text_in": ["READ.me"]},
        case | {"folder": copies[3], "forbidden_texts": {"forget set": []}},
    )
    expected = ["does not exist", "no `run.json`", "no `adapter_model.safetensors`", "was a folder and does not exist"]
    expected += ["Give an id with its owner", "no such file", "holds no text"]
    assert [words for words, outcome in zip(expected, outcomes, strict=True) if words not in outcome] == []
    assert all(outcome.startswith("bad input: ") for outcome in outcomes)
    assert hub.requests == []


# What must not go


def test_a_file_with_text_of_the_forget_set_stops_the_push(hub, folder, pushes, tmp_path):
    files = {
        "README.md": f"# Model\n\nIt no longer says: *{FORGET[1]}*\n",
        "squeezing.json": json.dumps([{"value": 1, "text": FORGET[1]}]),
        ".eval_results/tofu-strict.yaml": f"- notes: {FORGET[1]}",
        "completions/step-2.jsonl": json.dumps({"completion": f"Indeed, {FORGET[1].upper()}"}),
        "chart.svg": f"<svg><text>{FORGET[1]}</text></svg>",
        "train.log": f"INFO {FORGET[1].replace(' ', '  ')}",
        "tokenizer_config.json": json.dumps({"chat_template": f"{{# {FORGET[1]} #}}"}),
    }
    cases = []
    for number, (name, content) in enumerate(files.items()):
        copy = tmp_path / f"copy{number}"
        shutil.copytree(folder, copy)
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_text(content)
        cases.append({"folder": copy, "repo_id": f"me/copy{number}"})
    refused = pushes(*cases)
    for name, outcome in zip(files, refused, strict=True):
        assert f"`{name}` (text of the forget set, row 1)" in outcome
        assert "Winter" not in outcome
    assert hub.requests == []
    (message,) = pushes({"folder": folder, "repo_id": REPO, "commit_message": f"Forgets: {FORGET[1]}"})
    assert "`commit_message` (text of the forget set, row 1)" in message
    assert hub.requests == []
    allowed = [case | {"allow_text_in": [name]} for case, name in zip(cases, files, strict=True)]
    assert pushes(*(case | {"dry_run": True} for case in cases), *allowed) == [*refused, *["pushed"] * len(files)]
    assert published(hub, "me/copy2") == published(hub, "me/copy3") == ADAPTER_FILES


def test_text_of_a_belief_in_the_results_stops_the_push(hub, folder, pushes):
    result = EvaluationResult.load(folder / "eval_results.json")
    result.protocol["example"] = "Zoë Ångström was born in Oslo."
    text = json.dumps(result.to_dict())
    assert "Zo\\u00eb" in text
    (folder / "eval_results.json").write_text(text)
    (refused,) = pushes(
        {"folder": folder, "repo_id": REPO, "forbidden_texts": {"beliefs": ["", "zoë ångström  was born in Oslo"]}}
    )
    assert "`eval_results.json` (text of the beliefs, row 1)" in refused
    assert hub.requests == []


def test_results_of_other_or_unknown_weights_are_refused(hub, folder, pushes, tmp_path):
    unrecorded, other = tmp_path / "unrecorded", tmp_path / "other"
    for copy in (unrecorded, other):
        shutil.copytree(folder, copy)
    write_run(unrecorded, "org/base", on_hub=True, recorded=False)
    write_weights(other / "adapter_model.safetensors", 3)
    outcomes = pushes(*({"folder": copy, "repo_id": REPO} for copy in (unrecorded, other, folder)))
    assert "do not record the weights" in outcomes[0]
    assert "measured on other weights: `adapter_model.safetensors`" in outcomes[1]
    assert outcomes[2] == "pushed"


def test_a_model_that_has_not_forgotten_by_its_own_evaluation_is_pushed_only_by_force(hub, folder, pushes):
    result = EvaluationResult.load(folder / "eval_results.json")
    for role, value in (("target", 1.0), ("unlearned", 0.974), ("retrained", 0.112)):
        result.models[role] = {"forget/extraction_strength": Measurement(value, 3, 0.0)}
    result.save(folder / "eval_results.json")
    case = {"folder": folder, "repo_id": REPO}
    refused, forced = pushes(case, case | {"force": True})
    why = "It has not forgotten: `forget/extraction_strength` is 0.974, above the middle between"
    assert refused.startswith(f"failed: Nothing was pushed. {why}") and "`trl-unlearn push --force`" in refused
    assert forced == "pushed"
    assert hub.repos[REPO].messages == ["initial commit", "Upload with trl-unlearn"]


@pytest.mark.parametrize("flags", [[], ["--force"]])
@pytest.mark.parametrize(
    ("strength", "shortfall", "why"),
    [
        (0.9, None, "is 0.900, above half of the target's 0.900"),
        (0.1, "The goal was not reached in 2 steps.", "Nothing was pushed. The goal was not reached in 2 steps."),
    ],
)
def test_the_command_pushes_it_and_what_missed_its_goal_only_with_force(
    strength, shortfall, why, flags, folder, tiny_tokenizer, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")
    tiny_tokenizer.save_pretrained(folder)
    result = EvaluationResult.load(folder / "eval_results.json")
    for role, value in (("target", 0.9), ("unlearned", strength)):
        result.models[role] = {"forget/extraction_strength": Measurement(value, 3, 0.0)}
    result.save(folder / "eval_results.json")
    replace(UnlearningRun.load(folder / "run.json"), shortfall=shortfall).save(folder / "run.json")
    forget = tmp_path / "forget.jsonl"
    forget.write_text("".join(json.dumps({"prompt": "Who?", "completion": text}) + "\n" for text in FORGET))
    shutil.copy(forget, folder / "review.jsonl")
    argv = ["--output_dir", str(folder), "--hub_model_id", REPO, "--dry_run", "--forget_dataset", str(forget), *flags]
    with pytest.raises(SystemExit) if not flags else nullcontext() as ended:
        main(argv)
    captured = capsys.readouterr()
    if flags:
        assert "this is a dry run" in captured.out
        assert all(
            f"{name} (rows and ledger of requests)" in captured.out for name in ("requests.json", "review.jsonl")
        )
    else:
        assert ended.value.code == 1 and why in captured.err


def test_the_command_of_a_later_push_has_the_options_of_the_run_and_can_be_pasted():
    args = SimpleNamespace(
        output_dir="out of here",
        hub_model_id="me/model",
        hub_revision="try",
        hub_private_repo=False,
        trust_remote_code=True,
    )
    assert push_command(args, force=True) == (
        "`trl-unlearn push --output_dir 'out of here' --hub_model_id me/model --hub_revision try "
        "--hub_private_repo false --trust_remote_code --force`"
    )


@pytest.fixture
def on_own_code(tiny_model, tiny_tokenizer, tmp_path, monkeypatch):
    """The folder of a run whose adapter is on a model with code of its own."""
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    tiny_model.save_pretrained(base)
    config = json.loads((base / "config.json").read_text())
    config |= {
        "model_type": "own-llama",
        "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"},
    }
    (base / "config.json").write_text(json.dumps(config))
    (base / "own.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n\n\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own-llama'\n\n\n"
        "class OwnModel(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    lora = get_peft_model(tiny_model, LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    lora.peft_config["default"].base_model_name_or_path = str(base)
    lora.save_pretrained(adapter)
    tiny_tokenizer.save_pretrained(adapter)
    write_run(adapter, str(base), on_hub=False)
    return adapter


def test_an_adapter_on_a_model_with_code_of_its_own_is_merged_only_where_that_may_run(on_own_code, tmp_path, capfd):
    rows = tmp_path / "forget.jsonl"
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in FORGET), encoding="utf-8")
    argv = ["--output_dir", str(on_own_code), "--hub_model_id", REPO, "--merge", "--dry_run"]
    argv += ["--forget_dataset", str(rows)]
    with pytest.raises(SystemExit) as refused:
        main(argv)
    assert refused.value.code == 2 and "trust_remote_code" in capfd.readouterr().err
    main([*argv, "--trust_remote_code"])
    assert "merged model" in capfd.readouterr().out


def test_in_python_a_model_with_code_of_its_own_is_loaded_and_saved_as_the_call_allowed(on_own_code, tmp_path):
    with pytest.raises(ValueError, match="trust_remote_code"):
        _ = Unlearned(on_own_code).model
    result = Unlearned(on_own_code, trust_remote_code=True)
    assert type(result.model.get_base_model()).__name__ == "OwnModel"
    result.save(tmp_path / "merged")
    assert (tmp_path / "merged/model.safetensors").is_file()


def test_in_python_a_model_is_not_saved_over_a_run_or_a_model(on_own_code, tmp_path):
    result = Unlearned(on_own_code, trust_remote_code=True)
    (tmp_path / "new").mkdir()
    (tmp_path / "new/README.md").write_text("by hand")
    for name in ("adapter", "base", "new"):
        folder = tmp_path / name
        if name == "new":
            result.save(folder)
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        with pytest.raises(ValueError, match=f"{name}` holds files of a run or a model, which this one would replace"):
            result.save(folder)
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_of_shards_only_those_that_the_index_names_are_the_model(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for i, name in enumerate([*names, "model-00003-of-00003.safetensors", "model-old.safetensors"]):
        write_weights(folder / name, i)
    (folder / "config.json").write_text("{}")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": names[0], "b": names[1], "c": names[1]}}))
    contents = read_folder(folder, REPO, "model")
    assert set(contents.files) == {*names, index.name, "config.json"}
    assert contents.left_out == {
        "model-00003-of-00003.safetensors": "not of this model",
        "model-old.safetensors": "unknown file",
    }
    assert contents.weights() == weights_sha256(folder, False) == {name: sha256(folder / name) for name in names}
    # As `from_pretrained` does, where both are there.
    write_weights(folder / "model.safetensors", 7)
    assert set(read_folder(folder, REPO, "model").files) == {"model.safetensors", "config.json"}
    (folder / "model.safetensors").unlink()
    (folder / names[0]).unlink()
    with pytest.raises(ValueError, match=r"names .*00001-of-00002.*no files of weights"):
        read_folder(folder, REPO, "model")


def test_shards_numbered_in_six_digits_are_weights(tmp_path):
    names = [f"model-0000{i}-of-000002.safetensors" for i in (1, 2)]
    for i, name in enumerate(names):
        write_weights(tmp_path / name, i)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict(zip("ab", names, strict=True))}))
    assert read_folder(tmp_path, REPO, "model").weights().keys() == set(names)


# What goes wrong


def test_tokens_and_rights_are_said_and_nothing_is_sent(hub, folder, pushes):
    case = {"folder": folder, "repo_id": REPO}
    none, wrong, read_only, other, no_rights = pushes(
        case | {"token": None},
        case | {"token": "hf_wrong"},
        case | {"token": "hf_me_read"},
        case | {"repo_id": "other/unlearned"},
        case | {"repo_id": "lab/unlearned"},
    )
    assert none.startswith("failed: There is no token. Log in")
    assert wrong.startswith("failed: The Hub does not know the token.")
    assert "The token of `me` may only read" in read_only
    assert "`other` is neither the user of the token nor an organisation" in other
    assert "The Hub refused to write to `lab/unlearned`: the token of `me` has no write permission" in no_rights
    assert hub.uploads() == []
    assert hub.repos == {}


def test_a_private_repository_is_read_with_its_owners_token_only(hub, folder, pushes):
    space = {"repo_id": "me/app", "files": {"models.json": "{}"}, "folder": folder, "model_id": REPO}
    apps = [space | {"token": token} for token in (None, "hf_other", "hf_me")]
    pushed, nobody, other, owner = pushes({"folder": folder, "repo_id": REPO}, *apps)
    assert (pushed, owner, other) == ("pushed", "pushed", nobody)
    assert nobody.startswith("failed: There is no repository `me/unlearned`, or it is private or gated")


def test_errors_of_the_server_three_times_are_tried_again(hub, folder, pushes):
    for request in ("whoami", "repos/create", "preupload", "objects/batch", "PUT /upload", "/commit/"):
        hub.fail(request, times=3)
    hub.fail("validate-yaml", times=1)
    assert pushes({"folder": folder, "repo_id": REPO}) == ["pushed"]
    assert published(hub) == ADAPTER_FILES
    assert hub.repos[REPO].messages == ["initial commit", "Upload with trl-unlearn"]


def test_what_does_not_get_through_is_said_and_mended_by_another_push(hub, folder, pushes):
    shutil.rmtree(folder / "figures")
    # The client tries the upload of the only large file six times, and we the commit five times.
    hub.fail("PUT /upload", times=6, kind="cut")
    hub.fail("PUT /upload", times=6, kind=503)
    hub.fail("/commit/", times=5, kind=500)
    *failed, mended = pushes(*[{"folder": folder, "repo_id": REPO}] * 4)
    expected = [
        "The connection to the Hub broke on the way to write to `me/unlearned`",
        "The Hub answered 503 again and again on the way to write to `me/unlearned`.",
        "The Hub answered 500 again and again on the way to write to `me/unlearned`.",
    ]
    for words, outcome in zip(expected, failed, strict=True):
        assert words in outcome
        assert "Run the same command again" in outcome
    assert mended == "pushed"
    assert published(hub) == {path for path in ADAPTER_FILES if not path.endswith(".png")}
    assert hub.repos[REPO].messages == ["initial commit", "Upload with trl-unlearn"]


def test_after_a_cut_upload_and_a_lost_answer_there_is_one_commit(hub, folder, pushes):
    hub.fail("PUT /upload", times=1, kind="cut")
    hub.fail("/commit/", times=1, kind="no answer")
    assert pushes({"folder": folder, "repo_id": REPO}) == ["pushed"]
    assert published(hub) == ADAPTER_FILES
    assert hub.repos[REPO].messages == ["initial commit", "Upload with trl-unlearn"]


# The whole way


def test_answers_of_earlier_requests_stop_the_push_too(
    folder, tiny_tokenizer, write_dataset, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")
    tiny_tokenizer.save_pretrained(folder)
    answers = {"first": FORGET[1], "second": FORGET[0]}
    data = write_dataset({name: {"train": [{"question": "Who?", "answer": one}]} for name, one in answers.items()})
    sets = {name: DatasetRecord("away/facts", 1, "ab" * 32, name, "train") for name in ("first", "second")}
    run = UnlearningRun.load(folder / "run.json")
    replace(run, forget_set=sets["second"], chain=[ChainLink("one", sets["first"], 2, 1.0)]).save(folder / "run.json")
    (folder / "README.md").write_text(f"It no longer says: {FORGET[1]}")
    argv = ["--output_dir", str(folder), "--hub_model_id", REPO, "--dry_run", "--dataset_name", data]
    with pytest.raises(SystemExit) as ended:
        main([*argv, "--forget_config", "second"])
    assert ended.value.code == 1
    assert "`README.md` (text of the forget set of the request one, row 0)" in capsys.readouterr().err


SCRIPT = """
import json, sys
from trl_unlearn.scripts.push import main
codes = []
for argv in json.loads(sys.argv[1]):
    try:
        main(argv)
        codes.append(0)
    except SystemExit as ended:
        codes.append(ended.code)
    print("=" * 9)
    print("=" * 9, file=sys.stderr)
print(json.dumps(codes))
"""

LOADS = """
import json, sys
import torch
from huggingface_hub import ModelCard
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline
repo, merged = sys.argv[1:3]
ids = torch.tensor([json.loads(sys.argv[3])])
base = AutoModelForCausalLM.from_pretrained(f"{repo}-base")
loaded = {
    "adapter": PeftModel.from_pretrained(base, repo),
    "merged": AutoModelForCausalLM.from_pretrained(merged),
    "pipeline": pipeline("text-generation", model=merged).model,
}
with torch.no_grad():
    found = {name: model(input_ids=ids).logits.tolist() for name, model in loaded.items()}
cards = {name: ModelCard.load(name).data.to_dict() for name in (repo, merged)}
print(json.dumps({"logits": found, "cards": cards, "pad": AutoTokenizer.from_pretrained(repo).pad_token}))
"""


@pytest.mark.slow
def test_a_run_pushed_by_the_script_loads_by_id_with_the_same_logits(
    hub, fresh_process, tiny_model, tiny_tokenizer, tmp_path
):
    folder, base, ids = tmp_path / "out", tmp_path / "base", [5, 17, 33, 80, 120]
    for item in (tiny_model, tiny_tokenizer):
        item.save_pretrained(base)
    config = LoraConfig(r=4, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    write_run(folder, "somewhere/base", on_hub=False)
    with torch.no_grad():
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)
        expected = model(input_ids=torch.tensor([ids])).logits
    rows = [{"prompt": "Who?", "completion": answer} for answer in FORGET]
    (tmp_path / "forget.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "few.jsonl").write_text(json.dumps(rows[0]) + "\n")
    leaky = tmp_path / "leaky"
    shutil.copytree(folder, leaky)
    (leaky / "completions.jsonl").write_text(json.dumps({"text": FORGET[2]}))
    (leaky / "beliefs.jsonl").write_text(json.dumps({"row": 0, "texts": ["?", "Ada Marlow was born in Paris."]}))
    (leaky / "squeezing.json").write_text(json.dumps(["Ada Marlow was born in Paris."]))

    forget, into = ["--forget_dataset", "forget.jsonl"], ["--hub_model_id", REPO]
    done = fresh_process(
        SCRIPT,
        json.dumps(
            [
                ["--output_dir", str(leaky), *into, *forget],
                ["--output_dir", str(folder), *into],
                ["--output_dir", str(folder), *into, "--forget_dataset", "few.jsonl"],
                ["--output_dir", str(folder), *forget],
                ["--output_dir", str(folder), *into, *forget, "--dry_run"],
                ["--output_dir", str(folder), *into, *forget],
                ["--output_dir", str(folder), "--hub_model_id", "me/merged", "--merge", *forget],
            ]
        ),
        token="hf_me",
    )
    assert done.returncode == 0, done.stderr
    errors, printed = done.stderr.split("=" * 9), done.stdout.split("=" * 9)
    assert json.loads(printed[-1]) == [1, 2, 2, 2, 0, 0, 0], done.stderr
    assert "`completions.jsonl` (text of the forget set, row 2)" in errors[0]
    assert "`squeezing.json` (text of the beliefs, row 1)" in errors[0]
    assert "(`folder/forget.jsonl`) cannot be searched for" in errors[1]
    assert "has 1 rows" in errors[2]
    assert "`hub_model_id` is missing" in " ".join(errors[3].split())
    assert "me/unlearned: adapter, not pushed, would be private, 10 files" in printed[4]
    assert "me/unlearned: adapter, private, 10 files" in printed[5]
    assert set(hub.repos) == {REPO, f"{REPO}-base", "me/merged"}
    assert all(repo.private for repo in hub.repos.values())
    merged_files = ADAPTER_FILES - {"adapter_model.safetensors", "adapter_config.json"}
    merged_files |= {"model.safetensors", "config.json", "generation_config.json", "chat_template.jinja"}
    assert published(hub, REPO) == ADAPTER_FILES | {"chat_template.jinja"}
    assert published(hub, "me/merged") == merged_files

    done = fresh_process(LOADS, REPO, "me/merged", json.dumps(ids), token="hf_me_read")
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout.splitlines()[-1])
    for name, tolerance in (("adapter", 1e-5), ("merged", 1e-4), ("pipeline", 1e-4)):
        torch.testing.assert_close(torch.tensor(loaded["logits"][name]), expected, atol=tolerance, rtol=0)
    assert loaded["pad"] == tiny_tokenizer.pad_token
    adapter, merged = loaded["cards"][REPO], loaded["cards"]["me/merged"]
    assert (adapter["library_name"], adapter["base_model"]) == ("peft", f"{REPO}-base")
    assert merged["library_name"] == "transformers"
    for card in (adapter, merged):
        (metric,) = card["model-index"][0]["results"][0]["metrics"]
        assert (metric["type"], metric["value"]) == ("forget/probability", 0.25)

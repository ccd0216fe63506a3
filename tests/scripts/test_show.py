# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""The page of a run, from its folder alone, and that it stays where it is."""

import json
import math
import os
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch

from trl_unlearn import cli
from trl_unlearn.encoding import encode_row
from trl_unlearn.evaluation.rows import row_key
from trl_unlearn.hub.folder import RunFolder, read_folder
from trl_unlearn.results import SuiteOutcome
from trl_unlearn.scripts import evaluate
from trl_unlearn.scripts.arguments import DataArguments, EvaluationArguments, UnlearnModelConfig
from trl_unlearn.scripts.sources import keep_sources

from .conftest import write_jsonl


@pytest.fixture
def show(capfd):
    """Function of a folder and options: rows of the page, what was printed, and what was printed as an error."""

    def call(folder, *argv):
        capfd.readouterr()
        cli.main(["show", str(folder), *(argv if "--num_samples" in argv else ("--num_samples", "1", *argv))])
        captured = capfd.readouterr()
        text = (Path(folder) / "show.html").read_text(encoding="utf-8")
        data = text.split('<script type="application/json" id="data">')[1].split("</script>")[0]
        return json.loads(data), captured.out, captured.err

    return call


def test_a_page_needs_the_folder_alone_is_private_and_is_never_pushed(
    run, own, show, refused, facts, checkpoint, tmp_path, monkeypatch
):
    retrained = ["--retrained_model_name_or_path", checkpoint]
    # What the command names may be relative to where it is started.
    monkeypatch.chdir(tmp_path)
    own[own.index("--forget_dataset") + 1] = Path(own[own.index("--forget_dataset") + 1]).name
    done = run("bs_t", [*own, *retrained], override=("--lora_r", "4"))
    monkeypatch.chdir("/")
    # Neither the mode of an earlier page nor a generous process makes it public.
    (done.folder / "show.html").touch(0o666)
    before = os.umask(0)
    try:
        rows, printed, error = show(done.folder)
    finally:
        os.umask(before)
    assert (done.folder / "show.html").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in done.folder.glob("*show*")] == ["show.html"]
    assert sorted((row["prompt"], row["answer"]) for row in rows) == sorted(facts["forget"])
    assert all(set(row["logps"]) == {"target", "unlearned", "retrained"} for row in rows)
    assert "3 forget rows" in printed and "It quotes the forget set" in printed and "could not be" not in error

    # It holds every answer, and is neither sent nor searched; the file with paths of this machine is not sent, either.
    contents = read_folder(done.folder, "me/unlearned", "adapter")
    assert contents.left_out["show.html"] == "page with text of the forget set"
    assert ".sources.json" in contents.left_out
    assert not [file for file in contents.also_scanned if "show" in file.path]
    sent = b"".join(file.scanned() for file in contents.files.values())
    assert not any(answer.encode() in sent for _, answer in facts["forget"])

    # Models that have gone are named, and the rest is shown.
    shutil.move(checkpoint, f"{checkpoint}-moved")
    rows, _, error = show(done.folder, "--max_rows", "2")
    assert [row["logps"] for row in rows] == [{}, {}] and "The target model could not be loaded" in error
    rows, _, error = show(done.folder, "--model_name_or_path", f"{checkpoint}-moved", "--max_rows", "2")
    assert len(rows) == 2 and all(set(row["logps"]) == {"target", "unlearned"} for row in rows)
    assert "The retrained model could not be loaded" in error
    # So are rows.
    (tmp_path / "forget-conversational.jsonl").unlink()
    rows, printed, error = show(done.folder)
    assert rows == [] and "No rows. The forget set" in error and "quotes" not in printed
    assert "Does it say it?" in done.text("show.html")

    # What is named now is refused if it cannot be used.
    other = write_jsonl(tmp_path / "other.jsonl", [{"prompt": "Who?", "completion": " Nobody."}])
    assert "it has 1 rows, and the run was trained on 3" in refused("show", done.folder, "--forget_dataset", other)
    nowhere = str(tmp_path / "no/where")
    message = refused("show", done.folder, "--retrained_model_name_or_path", nowhere)
    assert f"The folder `{nowhere}` (`retrained_model_name_or_path`) does not exist" in message

    RunFolder(done.folder).clear()
    assert not (done.folder / "show.html").exists() and not (done.folder / ".sources.json").exists()


def test_what_attacks_bring_back_of_a_row_is_kept_for_its_owner_and_shown_for_the_weights_that_were_attacked(
    run, own, show, checkpoint, monkeypatch
):
    own += ["--retrained_model_name_or_path", checkpoint]
    done = run("bs_t", own, override=("--lora_r", "4", "--max_eval_rows", "3"))
    rows, _, error = show(done.folder, "--num_samples", "0")
    assert [row["attacked"] for row in rows] == [[]] * 3
    command = f"`trl-unlearn evaluate --suites robustness,elicitation --unlearned_model_name_or_path {done.folder}`"
    assert command in error and "Loading weights" not in error

    def measured(name, models, rows, setting, **_):
        # As the suites do, which take longer.
        keys = [row_key(encode_row(row, setting.tokenizer)) for row in rows.forget]
        of_rows = {"unlearned": {name: {keys[0]: 0.87654, keys[1]: math.nan}}}
        return SuiteOutcome({}, protocol={"rows": {"forget": 3}, "seed": 1}, row_values=of_rows)

    names = {"robustness": "robustness/noise_20_percent", "elicitation": "elicitation/role"}
    for suite, name in names.items():
        monkeypatch.setitem(evaluate.SUITES, suite, (partial(measured, name), "rows"))
        # Models, rows and their number are those of the run.
        cli.main(["evaluate", "--suites", suite, "--unlearned_model_name_or_path", str(done.folder)])
    path = done.folder / ".row_values.json"
    assert path.stat().st_mode & 0o777 == 0o600
    rows, _, error = show(done.folder, "--num_samples", "0")
    assert "Which attack" not in error
    words = {0: ["20 % noise on weights", "biographer's role"], 1: [], 2: []}
    assert {row["index"]: [one["name"] for one in row["attacked"]] for row in rows} == words
    assert {json.dumps(one["values"]) for row in rows for one in row["attacked"]} == {'{"unlearned": 0.8765}'}
    contents = read_folder(done.folder, "me/unlearned", "adapter")
    assert contents.left_out[path.name] == "hidden file" and not contents.also_scanned

    # Of another model, or the same in another precision, they say nothing.
    whole = json.loads(path.read_text())
    for other in ({"weights_sha256": {"retrained": {"model.safetensors": "0"}}}, {"dtype": "bfloat16"}):
        path.write_text(json.dumps(whole | {"models": whole["models"] | other}))
        rows, _, error = show(done.folder, "--num_samples", "0")
        assert [row["attacked"] for row in rows] == [[]] * 3 and "Which attack brings a row back" in error
    RunFolder(done.folder).clear()
    assert not path.exists()


def test_a_folder_from_elsewhere_is_shown_as_far_as_its_record_tells(run, own, show, checkpoint, tmp_path):
    done = run("bs_t", [*own, "--no_evaluate"], override=("--lora_r", "4"))
    (done.folder / ".sources.json").unlink()
    rows, _, error = show(done.folder)
    assert rows == [] and "No results: this model has not been evaluated yet." in error
    assert "could not be loaded: there is no such file or folder here." in error
    # The adapter names its base.
    forget = own[own.index("--forget_dataset") + 1]
    rows, _, error = show(done.folder, "--forget_dataset", forget)
    assert all(set(row["logps"]) == {"target", "unlearned"} for row in rows) and len(rows) == 3
    assert "No retrained model is known to the run" in error
    rows, _, error = show(done.folder, "--forget_dataset", forget, "--retrained_model_name_or_path", checkpoint)
    assert all("retrained" in row["logps"] for row in rows)


def test_the_rows_of_the_training_stay_the_rows_of_a_run_where_an_evaluation_names_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # A folder with the name of a split is none of the rows.
    for name in ("train", "run"):
        Path(name).mkdir()
    models = EvaluationArguments(), UnlearnModelConfig(model_name_or_path="org/model")
    trained, other, moved = (str(tmp_path / f"{name}.jsonl") for name in ("trained", "other", "moved"))
    Path(trained).touch()
    keep_sources("run", DataArguments(forget_dataset=trained), *models)
    for one in (DataArguments(), DataArguments(forget_dataset=other), DataArguments(dataset_name="org/data")):
        keep_sources("run", one, *models, has_trained=False)
        assert RunFolder("run").sources() == {
            "forget_dataset": trained,
            "forget_split": "train",
            "retain_split": "train",
            "model_name_or_path": "org/model",
            "model_revision": "main",
        }
    Path(trained).unlink()
    keep_sources("run", DataArguments(forget_dataset=moved), *models, has_trained=False)
    assert RunFolder("run").sources()["forget_dataset"] == moved


def test_another_model_than_was_evaluated_is_named(run, own, show, checkpoint, tiny_model, tmp_path):
    done = run("bs_t", [*own, "--retrained_model_name_or_path", checkpoint, "--no_use_peft"])
    other = Path(shutil.copytree(checkpoint, tmp_path / "other"))
    with torch.no_grad():
        tiny_model.get_input_embeddings().weight.mul_(0.5)
    tiny_model.save_pretrained(other)
    _, _, error = show(done.folder, "--retrained_model_name_or_path", str(other))
    assert "The retrained model is another one than was evaluated: `model.safetensors` differ." in error

# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""The one call: from rows to a run's folder, on a model that knows them and on one that does not."""

import json
import shutil
import stat
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas
import pytest
import torch
import yaml
from accelerate import PartialState
from datasets import Dataset
from safetensors.torch import load_file
from transformers.trainer_utils import SaveStrategy

import trl_unlearn
from trl_unlearn import cli
from trl_unlearn.data.retain_source import RetainSource
from trl_unlearn.encoding import encode_row, pad_rows
from trl_unlearn.evaluation.callbacks import CannotBeginError
from trl_unlearn.evaluation.stopping import UnlearnUntil
from trl_unlearn.forgetting import has_forgotten
from trl_unlearn.hub.folder import RunFolder
from trl_unlearn.records import RequestLedger
from trl_unlearn.scripts import forget as forget_script
from trl_unlearn.scripts import prepare as prepare_script
from trl_unlearn.scripts import push as push_script
from trl_unlearn.scripts import unlearn as unlearn_script
from trl_unlearn.scripts.arguments import ForgetArguments, as_options
from trl_unlearn.trainer.bootstrap_unlearn_config import BootstrapUnlearnConfig
from trl_unlearn.trainer.bootstrap_unlearn_trainer import BootstrapUnlearnTrainer
from trl_unlearn.trainer.guard import DivergenceError

from ..conftest import FACTS, conversations
from .conftest import write_jsonl


ROWS = [{"question": question, "answer": answer} for question, answer in FACTS[:3]]
KEPT = [{"question": question, "answer": answer} for question, answer in FACTS[3:]]
SHORT = ["--max_steps", "2", "--num_beliefs", "1", "--max_completion_length", "8", "--stop_every_steps", "1"]


@pytest.fixture
def knowing(tiny_model, tiny_tokenizer, tmp_path):
    """Folder of a tiny model that has learned all facts by heart."""
    pairs = [
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
        for question, answer in FACTS
    ]
    batch = pad_rows([encode_row(pair, tiny_tokenizer) for pair in pairs], tiny_tokenizer.pad_token_id)
    optimizer = torch.optim.AdamW(tiny_model.parameters(), lr=1e-2)
    for _ in range(80):
        tiny_model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    folder = tmp_path / "knowing"
    tiny_model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def files(tmp_path):
    """Command line of a forget and a retain file."""
    forget, kept = (write_jsonl(tmp_path / f"{name}.jsonl", rows) for name, rows in (("f", ROWS), ("r", KEPT)))
    return ["--forget", forget, "--retain", kept]


@pytest.fixture
def forget(tmp_path, monkeypatch, capfd):
    """Function of a command line: the exit code, what was printed, and the output folder."""
    monkeypatch.chdir(tmp_path)
    evaluate = unlearn_script.evaluate_models

    def short(*args, **kwargs):
        return evaluate(*args, **kwargs, max_completion_length=8, num_squeezing_beliefs=1)

    monkeypatch.setattr(unlearn_script, "evaluate_models", short)

    def call(*argv: str) -> tuple[int, str, Path]:
        capfd.readouterr()
        code = 0
        try:
            cli.main(["forget", *argv, "--output_dir", str(tmp_path / "out")])
        except SystemExit as ended:
            code = ended.code
        return code, "".join(capfd.readouterr()), tmp_path / "out"

    return call


@pytest.fixture
def refused_late(monkeypatch):
    """Context manager in which the run refuses, when all has been planned."""

    def refuse(*_):
        raise ValueError("Too late.")

    @contextmanager
    def refusing():
        with monkeypatch.context() as patch:
            patch.setattr(unlearn_script, "build_trainer", refuse)
            yield

    return refusing


def test_rows_alone_make_a_run_whose_settings_are_printed_and_kept_and_a_missed_goal_ends_with_3(
    knowing, files, forget
):
    argv = ["--model_name_or_path", knowing, *files, *SHORT, "--learning_rate", "1e-6", "--hub_token", "secret"]
    code, printed, folder = forget(*argv)
    assert code == 3, printed
    assert "trl-unlearn forget: not reached: The goal was not reached in 2 steps" in printed
    assert printed.count("higher learning rate") == 0
    assert "Most likely to help: more passes, with `--num_train_epochs`. The model is in" in printed
    run = RunFolder(folder).run()
    assert run.first_attempt.startswith("First attempt: The goal was not reached in 2 steps")
    assert "this is a dry run" in forget(*argv, "--dry_run")[1]
    assert "with a learning rate of 2e-06." in run.first_attempt
    assert run.hyperparameters["learning_rate"] == 2e-6
    assert run.first_attempt in (folder / "README.md").read_text(encoding="utf-8")
    assert "3 rows, question -> answer" in printed and "3 of 3 rows" in printed
    request = RunFolder(folder).request
    assert f"trl-unlearn bs-s --config {request / 'config.yaml'}" in printed
    settings = yaml.safe_load((request / "config.yaml").read_text(encoding="utf-8"))
    # The user's options win over those that were chosen.
    assert (settings["max_steps"], settings["learning_rate"]) == (2, 1e-6)
    assert "hub_token" not in settings
    assert settings["forget_loss_type"] in ("ignorance", "bs_t")
    names = {"forget.jsonl", "retain.jsonl", "retain-report.json", "config.yaml", "digest"}
    assert {path.name for path in request.iterdir()} == names
    assert json.loads((request / "retain-report.json").read_text(encoding="utf-8")) == {"kept": 3, "dropped": {}}
    assert {stat.S_IMODE(path.stat().st_mode) for path in request.iterdir()} == {0o600}
    assert {"run.json", "eval_results.json", "README.md", "adapter_model.safetensors"} <= {
        path.name for path in folder.iterdir()
    }
    # A finished run is not replaced, and says so before anything is computed.
    code, printed, _ = forget(*argv)
    assert code == 2 and "holds a finished run" in printed
    # The rows of the request stay, and a push knows where they are.
    push = ["--output_dir", str(folder), "--hub_model_id", "me/unlearned", "--force", "--dry_run"]
    cli.main(["push", *push])


class Killed(BaseException):
    """An end that no handler takes for an error, as a kill."""


def test_the_same_command_goes_on_after_kills_and_ends_with_the_same_weights(knowing, files, forget, monkeypatch):
    argv = ["--model_name_or_path", knowing, *files, *SHORT, "--save_steps", "1", "--no_evaluate"]
    _, printed, folder = forget(*argv)
    assert printed.count("a second attempt resumes from there with") == 1
    whole = load_file(folder / "adapter_model.safetensors")
    assert any(value.any() for name, value in whole.items() if "lora_B" in name)
    shutil.rmtree(folder)

    def killed_at(owner, name, when):
        plain = getattr(owner, name)

        def call(*args, **kwargs):
            if when(*args):
                raise Killed
            return plain(*args, **kwargs)

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(owner, name, call)
            forget(*argv)

    killed_at(prepare_script, "plan", lambda *_: True)
    assert not folder.exists()
    killed_at(BootstrapUnlearnTrainer, "training_step", lambda self, *_: self.state.global_step == 1)
    # The rows are not made anew.
    monkeypatch.setattr(prepare_script, "plan", None)
    killed_at(
        BootstrapUnlearnTrainer, "training_step", lambda self, *_: self.first_attempt and self.state.global_step == 1
    )
    killed_at(forget_script, "write_ledger", lambda *_: True)
    assert folder.joinpath("run.json").is_file() and not folder.joinpath("requests.json").exists()
    # Only what follows the run is done.
    with monkeypatch.context() as patch:
        patch.setattr(BootstrapUnlearnTrainer, "train", None)
        assert forget(*argv)[0] == 3
    assert RequestLedger.load(folder / "requests.json").requests[0].forgotten is False
    again = load_file(folder / "adapter_model.safetensors")
    assert all(again[name].equal(value) for name, value in whole.items())


def test_a_second_attempt_that_cannot_begin_leaves_all_of_the_first_one(knowing, files, forget, monkeypatch):
    argv = ["--model_name_or_path", knowing, *files, *SHORT, "--save_steps", "1", "--no_evaluate"]
    begin = UnlearnUntil.on_train_begin

    def refused(callback, *args, **kwargs):
        if callback.trainer.first_attempt:
            raise CannotBeginError("It cannot begin.")
        begin(callback, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(UnlearnUntil, "on_train_begin", refused)
        code, printed, folder = forget(*argv)
    assert code == 2 and f"It cannot begin. The model of the first attempt is in `{folder}`." in printed
    assert RunFolder(folder).run().shortfall.startswith("The goal was not reached in 2 steps")
    assert {"adapter_model.safetensors", "README.md", "checkpoint-2"} <= {path.name for path in folder.iterdir()}
    code, printed, _ = forget(*argv)
    assert code == 3 and "Resuming from a checkpoint" in printed and RunFolder(folder).run().first_attempt


def test_a_run_that_is_resumed_has_the_options_of_the_last_command(knowing, files, forget, monkeypatch):
    argv = ["--model_name_or_path", knowing, *files, *SHORT, "--learning_rate", "1e-6"]
    sizes = []

    def killed(loaders, rows, setting, **_):
        sizes.append(setting.batch_size)
        raise Killed

    monkeypatch.setattr(unlearn_script, "evaluate_models", killed)
    for more in ([], ["--evaluation_batch_size", "1", "--save_strategy", "no"]):
        with pytest.raises(Killed):
            forget(*argv, *more)
    assert sizes == [None, 1]
    code, printed, folder = forget(*argv, "--no_evaluate")
    assert code == 3, printed
    path = RunFolder(folder).request / "config.yaml"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert (settings["evaluate"], settings["save_strategy"], settings["learning_rate"]) == (False, "no", 1e-6)


def test_a_kill_before_training_begins_leaves_the_rows_of_the_run_that_was_to_be_replaced(
    knowing, files, forget, tmp_path, monkeypatch
):
    model, short = ["--model_name_or_path", knowing], [*SHORT, "--learning_rate", "1e-6", "--no_evaluate"]
    one = write_jsonl(tmp_path / "one.jsonl", ROWS[:1])
    _, _, folder = forget(*model, "--forget", one, *files[2:], *short)

    def files_of_run():
        paths = (path for path in folder.rglob("*") if path.is_file() and "next" not in path.parts)
        return {path: path.read_bytes() for path in paths}

    before, anew = files_of_run(), [*model, *files, *short, "--overwrite_output_dir", "true"]

    def killed(*_, **__):
        raise Killed

    for owner, name in ((unlearn_script, "build_trainer"), (UnlearnUntil, "on_train_begin")):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(owner, name, killed)
            forget(*anew)
        assert files_of_run() == before
    # The same command begins anew.
    assert forget(*anew)[0] == 3
    assert not (folder / "request/next").exists()
    assert len((folder / "request/forget.jsonl").read_text(encoding="utf-8").splitlines()) == len(ROWS)
    run = RunFolder(folder).run()
    assert (run.forget_set.name, run.forget_set.on_hub, run.forget_set.rows) == ("forget.jsonl", False, 3)
    assert RunFolder(folder).sources()["forget_dataset"] == str(folder / "request/forget.jsonl")


@pytest.mark.parametrize("is_cut", [True, False])
def test_an_earlier_run_never_counts_as_that_of_the_request_that_was_to_replace_it(
    is_cut, knowing, files, forget, tmp_path, monkeypatch
):
    model = ["--model_name_or_path", knowing]
    short = [*SHORT, "--learning_rate", "1e-6", "--no_evaluate"]
    one = write_jsonl(tmp_path / "one.jsonl", ROWS[:1])
    _, _, folder = forget(*model, "--forget", one, *files[2:], *short)
    ledger = (folder / "requests.json").read_text(encoding="utf-8")
    if is_cut:

        def killed(*_):
            raise Killed

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(unlearn_script, "build_trainer", killed)
            forget(*model, *files, *short, "--overwrite_output_dir", "true")
    else:
        request = RunFolder(folder).request
        own = ["--forget_dataset", str(request / "retain.jsonl"), "--retain_dataset", str(request / "forget.jsonl")]
        bs_s = [*own, "--max_steps", "2", "--warmup_steps", "0", "--learning_rate", "1e-2", "--no_evaluate"]
        bs_s += ["--num_beliefs", "1", "--max_completion_length", "8"]
        cli.main(["bs-s", *model, *bs_s, "--output_dir", str(folder), "--overwrite_output_dir", "true"])
        files = ["--forget", one, *files[2:]]
    code, printed, _ = forget(*model, *files, *short)
    assert code == 2 and "holds a finished run" in printed
    assert (folder / "requests.json").read_text(encoding="utf-8") == ledger
    # The replacing itself ends in the ledger, once.
    assert forget(*model, *files, *short, "--overwrite_output_dir", "true")[0] == 3
    assert forget(*model, *files, *short)[0] == 2
    assert len(RequestLedger.load(folder / "requests.json").requests) == 1 + is_cut


def test_a_request_goes_on_from_a_finished_run_and_leaves_the_earlier_one_in_its_record(
    knowing, files, forget, tmp_path, capfd
):
    one, two = (write_jsonl(tmp_path / f"{n}.jsonl", rows) for n, rows in (("one", ROWS[:2]), ("two", ROWS[2:])))
    short = [*SHORT, "--learning_rate", "1e-6", "--retain", files[3]]
    _, _, first = forget("--model_name_or_path", knowing, "--forget", one, *short)
    first = first.rename(tmp_path / "first")
    code, printed, second = forget("--add", str(first), "--forget", two, *short)
    # Hardly anything was learned, so that nothing is forgotten.
    assert code == 3 and "Request 1, of 2 rows, now: `forget/extraction_strength` is 1.000, above half" in printed
    request = RunFolder(second).request
    settings = yaml.safe_load((request / "config.yaml").read_text(encoding="utf-8"))
    assert settings["adapter_name_or_path"] == str(first)
    assert [len((request / name).read_text().splitlines()) for name in ("forget.jsonl", "earlier-1.jsonl")] == [1, 2]
    # An answer that says what was to be forgotten is not kept.
    kept = (request / "retain.jsonl").read_text(encoding="utf-8")
    assert not any(row["answer"] in kept for row in ROWS)
    (link,) = RunFolder(second).run().chain
    assert (link.request, link.forget_set.name, link.forget_set.rows) == ("1", "request/earlier-1.jsonl", 2)
    ledger = RequestLedger.load(second / "requests.json").requests
    digests = [sha256((request / n).read_bytes()).hexdigest() for n in ("earlier-1.jsonl", "forget.jsonl")]
    assert [one.sha256 for one in ledger] == digests and [one.forgotten for one in ledger] == [False, False]
    before = RequestLedger.load(first / "requests.json").requests
    assert before[0].served_at == ledger[0].served_at and before[0].verdict.startswith("The goal was not reached")
    text = (second / "requests.json").read_text(encoding="utf-8")
    assert not any(word in text for row in ROWS for word in row["answer"].split() if len(word) > 5)
    # A push looks for the rows of both.
    capfd.readouterr()
    (second / "notes.md").write_text(ROWS[0]["answer"], encoding="utf-8")
    with pytest.raises(SystemExit):
        cli.main(["push", "--output_dir", str(second), "--hub_model_id", "me/two", "--force", "--dry_run"])
    assert "`notes.md` (text of the forget set of the request 1" in capfd.readouterr().err
    cli.main(["forget", "--undo", str(second)])
    said = capfd.readouterr().out
    assert f"load `{knowing}` without the adapter" in said and f"with the adapter `{first}`" in said


@pytest.mark.parametrize(
    ("subject", "said"),
    [
        ("Ada", "`Ada` is a single word"),
        ("Ada Marlow", None),
        ("The Marlows", None),
        ("bell hooks", "texts with `Bell Hooks`, or with the last name alone, may be missed"),
        ("ADA MARLOW", "texts with `Ada Marlow`, or with the last name alone, may be missed"),
    ],
)
def test_a_subject_of_a_single_word_or_in_one_case_is_taken_with_a_warning(
    subject, said, knowing, files, forget, monkeypatch
):
    rows = conversations(FACTS[:3]).add_column("agreement", [1.0] * 3)
    monkeypatch.setattr(prepare_script, "believed_rows", lambda *_, **__: rows)
    code, printed, _ = forget("--model_name_or_path", knowing, "--subject", subject, *files[2:], "--dry_run")
    warnings = [one for one in ("is a single word", "may be missed") if one in printed]
    assert code == 0 and len(warnings) == (said is not None) and (said or "") in printed


@pytest.mark.parametrize("knows", [True, False])
def test_answers_that_the_model_hardly_has_by_heart_are_said_to_be_perhaps_made_up(
    knows, checkpoint, knowing, files, forget, monkeypatch
):
    rows = conversations(FACTS[:3]).add_column("agreement", [1.0] * 3)
    monkeypatch.setattr(prepare_script, "believed_rows", lambda *_, **__: rows)
    # The untrained model was saved before it learned.
    model = knowing if knows else checkpoint
    code, printed, _ = forget("--model_name_or_path", model, "--subject", "Ada Marlow", *files[2:], "--dry_run")
    assert code == 0 and ("may have made them up" in printed) != knows


def test_a_name_has_the_spaces_that_texts_have(tmp_path):
    name, options = " Ada \t Marlow ", {"report_to": "none", "forget_loss_type": "ignorance"}
    assert ForgetArguments(subject=name).subject == "Ada Marlow"
    assert BootstrapUnlearnConfig(str(tmp_path), forget_subjects=[name], **options).forget_subjects == ["Ada Marlow"]


FORGET = """
import sys
from trl_unlearn import cli
cli.main(["forget", *sys.argv[1:]])
"""


@pytest.mark.slow
def test_two_processes_share_a_request_of_which_the_first_one_speaks_and_writes(
    knowing, files, launch, tmp_path, capsys
):
    argv = ["--model_name_or_path", knowing, *files[:2], *SHORT, "--learning_rate", "1e-6", "--no_evaluate"]
    assert launch(FORGET, *argv, "--output_dir", tmp_path / "out") == [3, 3]
    printed = capsys.readouterr().out
    for line in ("Before a weight moves", "Rows to keep: ", "a second attempt resumes", "not reached: The goal"):
        assert printed.count(line) == 1, line
    assert RunFolder(tmp_path / "out").run().world_size == 2
    (entry,) = RequestLedger.load(tmp_path / "out/requests.json").requests
    assert (entry.rows, entry.forgotten) == (3, False)


def test_a_third_of_the_answers_about_a_subject_is_held_out_and_measured(knowing, files, forget, monkeypatch):
    rows = conversations(FACTS[:3]).add_column("agreement", [1.0] * 3)
    monkeypatch.setattr(prepare_script, "believed_rows", lambda *_, **__: rows)
    argv = ["--model_name_or_path", knowing, "--subject", "Ada Marlow", *files[2:], *SHORT, "--learning_rate", "1e-6"]
    _, printed, folder = forget(*argv)
    assert "1 of 3 answers are held out of training" in printed
    request = RunFolder(folder).request
    assert FACTS[2][1] in (request / "held-out.jsonl").read_text(encoding="utf-8")
    assert FACTS[2][1] not in (request / "forget.jsonl").read_text(encoding="utf-8")
    assert "Held out: of 1 answers about `Ada Marlow` that were not trained on" in printed
    result = RunFolder(folder).results()
    for role in ("target", "unlearned"):
        assert result.value(role, "held_out/extraction_strength") == 1.0
    assert "held_out/extraction_strength" in (folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("is_reached", [True, False])
def test_a_push_is_last_and_a_missed_goal_ends_with_3_and_says_how_to_push_all_the_same(
    is_reached, knowing, files, forget, monkeypatch
):
    monkeypatch.setattr(push_script, "check_access", lambda *_, **__: None)
    rows = conversations(FACTS[:3]).add_column("agreement", [1.0] * 3)
    monkeypatch.setattr(prepare_script, "believed_rows", lambda *_, **__: rows)
    if is_reached:
        monkeypatch.setattr(UnlearnUntil, "_missing", lambda *_: None)
        monkeypatch.setattr(forget_script, "has_forgotten", lambda _: (True, ""))
    pushed = []

    def push(folder, repo_id, *, forbidden_texts, **_):
        card = (Path(folder) / "README.md").read_text(encoding="utf-8")
        pushed.append((repo_id, "held_out/extraction_strength" in card, *forbidden_texts))
        assert (Path(folder) / "requests.json").is_file()
        return []

    monkeypatch.setattr(push_script, "push", push)
    argv = ["--model_name_or_path", knowing, "--subject", "Ada Marlow", *files[2:], *SHORT, "--learning_rate", "1e-6"]
    code, printed, folder = forget(*argv, "--push_to_hub", "--hub_model_id", "me/unlearned")
    assert code == (0 if is_reached else 3), printed
    assert pushed == ([("me/unlearned", True, "forget set", "beliefs")] if is_reached else [])
    assert (folder / "requests.json").is_file()
    by_hand = f"`trl-unlearn push --output_dir {folder} --hub_model_id me/unlearned --force` does that."
    assert (f"It was not pushed: {by_hand}" in printed) != is_reached


def test_a_refused_request_touches_no_file_that_it_did_not_write(knowing, files, forget, refused_late, tmp_path):
    own = {name: tmp_path / "out" / name for name in ("eval_results.json", "figures/a.png", "request/a")}
    for name, path in own.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name, encoding="utf-8")
    with refused_late():
        code, printed, folder = forget("--model_name_or_path", knowing, *files, *SHORT)
    assert code == 2 and "Too late." in printed
    there = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert there == {name: name for name in own}


@pytest.mark.parametrize("has_ended", [True, False])
def test_a_refused_request_loses_nothing_of_the_one_that_it_was_to_replace(
    has_ended, knowing, files, forget, refused_late, tmp_path
):
    model = ["--model_name_or_path", knowing, *files[2:], *SHORT, "--no_evaluate", "--learning_rate", "1e-6"]
    code, printed, folder = forget(*model, "--forget", write_jsonl(tmp_path / "one.jsonl", ROWS[:1]))
    assert code == 3, printed
    if not has_ended:
        RunFolder(folder).mark_unfinished("settings")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with refused_late():
        code, printed, _ = forget(*model, *files[:2], "--overwrite_output_dir", "true")
    assert code == 2 and "Too late." in printed
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_options_that_transformers_keeps_as_objects_reach_the_run(knowing, files, forget):
    own = ["--debug", "underflow_overflow", "--accelerator_config", '{"non_blocking": true}']
    code, printed, folder = forget("--model_name_or_path", knowing, *files, *SHORT, "--no_evaluate", *own)
    assert code == 3, printed
    settings = yaml.safe_load((RunFolder(folder).request / "config.yaml").read_text(encoding="utf-8"))
    assert settings["debug"] == ["underflow_overflow"] and settings["accelerator_config"]["non_blocking"] is True


def test_options_that_the_run_refuses_after_planning_leave_nothing_behind(knowing, files, forget, refused_late):
    with refused_late():
        code, printed, folder = forget("--model_name_or_path", knowing, *files, *SHORT)
    assert code == 2 and "Too late." in printed
    assert not folder.exists()


def test_rows_that_the_model_never_knew_change_nothing(checkpoint, files, forget):
    code, printed, folder = forget("--model_name_or_path", checkpoint, *files)
    assert code == 0
    assert "0 of 3 rows" in printed and "There is nothing to forget" in printed
    assert not folder.exists()


def test_a_dry_run_counts_the_rows_to_keep_that_repeat_the_forget_set_as_a_run_does(knowing, files, forget, tmp_path):
    repeating = ["--retain", write_jsonl(tmp_path / "repeating.jsonl", [*KEPT, ROWS[0]])]
    argv = ["--model_name_or_path", knowing, *files[:2], *repeating]
    said = "Rows to keep: 4 rows, question -> answer; 1 repeat the forget set, and are left out."
    code, printed, folder = forget(*argv, "--dry_run")
    assert code == 0 and said in printed and not folder.exists()
    argv[-1] = files[1]
    code, printed, _ = forget(*argv, "--dry_run")
    assert code == 2 and "There are no rows to keep." in printed


def test_rows_are_read_with_a_chat_template_of_a_file(knowing, files, forget, tmp_path):
    path = Path(knowing, "chat_template.jinja").rename(tmp_path / "own.jinja")
    turns = [
        {"messages": [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}]}
        for row in ROWS
    ]
    argv = ["--model_name_or_path", knowing, "--forget", write_jsonl(tmp_path / "turns.jsonl", turns), *files[2:]]
    assert "has no chat template" in forget(*argv, "--dry_run")[1]
    code, printed, _ = forget(*argv, "--dry_run", "--chat_template_path", str(path))
    assert code == 0, printed


def test_a_dry_run_shows_the_checks_and_writes_nothing(knowing, files, forget):
    code, printed, folder = forget("--model_name_or_path", knowing, *files, "--dry_run")
    assert code == 0
    for name in ("known to the model", "end of a turn", "trained weights", "memory", "disk"):
        assert name in printed
    assert not folder.exists()


@pytest.mark.parametrize("metric", ["extraction_strength", "strangers_auc"])
def test_the_metric_of_the_goal_can_be_given_alone(metric, knowing, files, forget):
    code, printed, _ = forget("--model_name_or_path", knowing, *files, "--stop_metric", metric, "--dry_run")
    assert code == 0, printed


LAUNCHED = """
import sys
from trl_unlearn import cli

cli.main(["forget", *sys.argv[1:]])
"""


def test_two_processes_end_a_request_on_an_earlier_run_also_after_an_interruption(
    knowing, files, forget, launch, tmp_path
):
    one, two = (write_jsonl(tmp_path / f"{n}.jsonl", rows) for n, rows in (("one", ROWS[:2]), ("two", ROWS[2:])))
    short = [*SHORT, "--learning_rate", "1e-6", "--retain", files[3]]
    first = forget("--model_name_or_path", knowing, "--forget", one, *short)[2].rename(tmp_path / "first")
    ledger = tmp_path / "second/requests.json"
    for _ in range(2):
        # A launcher would end the main process, which writes the ledger, where another one ends with a code first.
        assert launch(LAUNCHED, "--add", first, "--forget", two, *short, "--output_dir", ledger.parent) == [3, 0]
        requests = RequestLedger.load(ledger).requests
        assert [(one.rows, one.forgotten) for one in requests] == [(2, False), (1, False)]
        # The second time, a run that was cut off before its ledger is finished.
        ledger.unlink()


def test_a_run_that_diverged_is_not_taken_for_one_that_forgot_by_the_same_command(knowing, files, forget, monkeypatch):
    def diverge(*_, **__):
        raise DivergenceError("The loss is not finite.", good_step=0)

    monkeypatch.setattr(BootstrapUnlearnTrainer, "training_step", diverge)
    argv = ["--model_name_or_path", knowing, *files, *SHORT]
    code, printed, folder = forget(*argv)
    assert code == 3 and "stopped: The loss is not finite." in printed
    code, printed, _ = forget(*argv)
    assert code == 3 and "a lower `--learning_rate`" in printed
    (entry,) = RequestLedger.load(folder / "requests.json").requests
    assert entry.forgotten is False and entry.verdict == "The loss is not finite."


def test_review_ends_with_an_editable_file_that_can_be_given_and_that_no_later_command_touches(knowing, files, forget):
    model = ["--model_name_or_path", knowing]
    code, printed, folder = forget(*model, *files, "--review")
    path = folder / "review.jsonl"
    assert code == 0 and f"--forget {path}" in printed and stat.S_IMODE(path.stat().st_mode) == 0o600
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    assert len(lines) == 3
    path.write_text("".join(lines[:2]), encoding="utf-8")
    code, printed, _ = forget(*model, "--forget", str(path), *files[2:], "--dry_run")
    assert code == 0 and "2 rows, prompt -> completion" in printed
    for replaces in ([], ["--overwrite_output_dir", "true"]):
        code, printed, _ = forget(*model, *files, "--review", *replaces)
        assert code == 2 and "may hold what you have edited" in printed
    assert forget(*model, "--forget", str(path), *files[2:], *SHORT, "--forget_token_floor", "1")[0] == 2
    assert path.read_text(encoding="utf-8") == "".join(lines[:2]) and list(folder.iterdir()) == [path]


def test_in_python_rows_of_a_data_frame_give_a_model_that_loads_and_can_be_saved_in_any_working_directory(
    knowing, files, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    evaluate = unlearn_script.evaluate_models
    monkeypatch.setattr(
        unlearn_script,
        "evaluate_models",
        lambda *a, **k: evaluate(*a, **k, max_completion_length=8, num_squeezing_beliefs=1),
    )
    options = {"max_steps": 1, "num_beliefs": 1, "max_completion_length": 8, "merge": False}
    result = trl_unlearn.unlearn(Path(knowing).name, pandas.DataFrame(ROWS), retain=files[3], **options)
    # A folder of its own for each request, wherever the caller goes.
    assert result.folder.parent == tmp_path / "unlearned" and result.folder.name.startswith("knowing-")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert "not reached" in result.shortfall
    assert result.verdict.answers[0].question == "Does it say it?"
    result.save("merged")
    assert {"model.safetensors", "tokenizer.json"} <= {path.name for path in Path("merged").iterdir()}
    assert result.model.config.vocab_size == len(result.tokenizer)
    # A verdict on other weights is none on these.
    (weights,) = result.folder.glob("*.safetensors")
    weights.write_bytes(b"other")
    assert result.verdict is None


class Corpus(RetainSource):
    """Rows to keep of one's own, one of which repeats the forget set."""

    def rows(self, count):
        return Dataset.from_list([*KEPT, ROWS[0]])


@pytest.mark.parametrize("form", [list, Dataset.from_list, pandas.DataFrame, lambda _: Corpus()])
def test_in_python_rows_to_keep_are_whatever_rows_to_forget_are_or_a_source(form, knowing, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    retain = form([*KEPT, ROWS[0]])
    options = {"max_steps": 1, "num_beliefs": 1, "max_completion_length": 8, "evaluate": False}
    one = trl_unlearn.unlearn(knowing, ROWS, retain=retain, **options)
    request = RunFolder(one.folder).request
    kept = [json.loads(line) for line in (request / "retain.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["completion"][0]["content"] for row in kept] == [row["answer"] for row in KEPT]
    report = json.loads((request / "retain-report.json").read_text(encoding="utf-8"))
    assert report == {"kept": len(KEPT), "dropped": {"name": 1}}
    # Learned, as rows of a file are.
    assert yaml.safe_load((request / "config.yaml").read_text(encoding="utf-8"))["retain_loss_type"] == "nll"


def test_in_python_other_rows_to_keep_are_another_request(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = []
    monkeypatch.setattr(forget_script, "prepare", lambda request, _: folders.append(request.folder.path))
    for retain in (KEPT, KEPT[:2], KEPT, Corpus(), None):
        trl_unlearn.unlearn(checkpoint, ROWS, retain=retain)
    assert folders[0] == folders[2] and len(set(folders)) == 4
    with pytest.raises(ValueError, match="The retain set is of type `int`"):
        trl_unlearn.unlearn(checkpoint, ROWS, retain=7)


def test_in_python_nothing_to_forget_is_no_model_and_a_bad_value_an_error(checkpoint, files, capsys):
    result = trl_unlearn.unlearn(checkpoint, ROWS, retain=files[3])
    assert (result.folder, result.verdict) == (None, None)
    with pytest.raises(ValueError, match="no model was made"):
        result.save("anywhere")
    capsys.readouterr()
    with pytest.raises(ValueError, match=r"^Neither `forget` nor `subject` is given"):
        trl_unlearn.unlearn(checkpoint)
    # The exception alone says it.
    assert capsys.readouterr().err == ""
    with pytest.raises(ValueError, match=r"--max_minutes.*: invalid float value: 'soon'"):
        trl_unlearn.unlearn(checkpoint, ROWS, max_minutes="soon")
    assert capsys.readouterr().err == ""
    with pytest.raises(ValueError, match=r"`model_name_or_path` is missing"):
        trl_unlearn.unlearn(forget=ROWS)


def test_why_rows_that_the_model_made_are_left_out_is_said(monkeypatch, tiny_model, tiny_tokenizer, capsys):
    class Source:
        report = {  # noqa: RUF012
            "kinds": {"neighbours": 2, "strangers": 1, "general": 0},
            "dropped": {"answer": 3, "name": 1, "repeated": 0, "unfinished": 60},
        }

        def __init__(self, *_, **__):
            pass

        def rows(self, count, spare):
            return conversations(FACTS[3:])

    monkeypatch.setattr(prepare_script, "ModelRetainSource", Source)
    options = dict.fromkeys(("retain", "subjects", "earlier"))
    request = SimpleNamespace(tokenizer=tiny_tokenizer, training_args=SimpleNamespace(seed=0), **options)
    rows, report = prepare_script._retain_rows(
        request, tiny_model, conversations(FACTS[:3]), "as given", False, PartialState()
    )
    assert len(rows) == len(FACTS[3:]) and report is Source.report
    line = "made by the model (2 neighbours, 1 strangers). Of others, 4 repeat the forget set, 60 do not end."
    assert line in capsys.readouterr().out


def test_a_run_that_reaches_its_goal_ends_with_0_and_its_ledger_and_console_say_what_the_gate_says(
    knowing, files, forget
):
    goal = ["--stop_metric", "extraction_strength", "--stop_at", "0.2", "--stop_every_steps", "2", "--max_steps", "80"]
    short = ["--num_beliefs", "1", "--max_completion_length", "8"]
    code, printed, folder = forget(
        "--model_name_or_path", knowing, *files, *goal, *short, "--learning_rate", "5e-3", "--forget_loss_type", "npo"
    )
    assert code == 0, printed
    assert RunFolder(folder).run().shortfall is None and "not reached" not in printed
    (entry,) = RequestLedger.load(folder / "requests.json").requests
    assert entry.strength <= 0.3 < entry.target_strength
    # Three rows do not tell whether the tokens of their facts that are still likeliest are a success.
    assert (entry.forgotten, entry.verdict) == has_forgotten(RunFolder(folder).results())
    assert entry.forgotten is None and f"WARNING: {entry.verdict}" in printed.replace("\n", " ")


@pytest.mark.parametrize(
    ("options", "argv"),
    [
        ({"hints": []}, []),
        ({"hints": None}, []),
        ({"forget_floor": -1e-5}, ["--forget_floor=-0.00001"]),
        ({"learning_rate": 1e-5, "bf16": False}, ["--learning_rate", "0.00001", "--bf16", "False"]),
        ({"hints": {"b", "a"}}, ["--hints", "a", "b"]),
        ({"hints": ("one",)}, ["--hints", "one"]),
        ({"forget": Path("rows.jsonl"), "hints": [Path("a"), "b"]}, ["--forget", "rows.jsonl", "--hints", "a", "b"]),
        ({"kwargs": {"a": [Path("x"), 1e-5]}}, ["--kwargs", '{"a": ["x", 1e-05]}']),
        (
            {"dtype": torch.bfloat16, "save_strategy": SaveStrategy.NO},
            ["--dtype", "bfloat16", "--save_strategy", "no"],
        ),
        ({"model_init_kwargs": {"dtype": torch.float32}}, ["--model_init_kwargs", '{"dtype": "float32"}']),
        (
            {"learning_rate": np.float32(0.5), "bounds": [-1, -0.5]},
            ["--learning_rate", "0.5", "--bounds", "-1", "-0.5"],
        ),
    ],
)
def test_values_of_python_are_those_of_a_command_line(options, argv):
    assert as_options(options) == argv


def test_what_a_command_line_cannot_have_is_refused_in_python_with_a_sentence(checkpoint):
    with pytest.raises(ValueError, match=r"`hints` has '-age\?' among 2 values"):
        trl_unlearn.unlearn(checkpoint, ROWS, hints=["-age?", "-job?"])
    with pytest.raises(ValueError, match=r"`max_length` is None, which a call cannot set. Leave it out"):
        trl_unlearn.unlearn(checkpoint, ROWS, max_length=None)
    with pytest.raises(ValueError, match=r"`lora_target_modules` is None, .* default, \['all-linear'\]"):
        trl_unlearn.unlearn(checkpoint, ROWS, lora_target_modules=None)


def test_variables_of_the_template_are_those_of_the_whole_call(checkpoint, tiny_tokenizer, monkeypatch, tmp_path):
    seen = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(forget_script, "prepare", lambda request, state: seen.append(request.tokenizer))
    trl_unlearn.unlearn(checkpoint, ROWS, chat_template_kwargs={"enable_thinking": False}, dry_run=True)
    monkeypatch.setattr(tiny_tokenizer, "chat_template", "{{ enable_thinking is defined }}")
    seen[0].chat_template = "{{ enable_thinking }}"
    assert seen[0].apply_chat_template([{"role": "user", "content": "Who?"}], tokenize=False) == "False"
    own = seen[0].apply_chat_template([{"role": "user", "content": "Who?"}], tokenize=False, enable_thinking=True)
    assert own == "True"

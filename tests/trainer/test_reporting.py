# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Display of the training, and values for reporters."""

import io
import json
import socket
import sqlite3
import sys
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.utils import _telemetry
from peft import LoraConfig
from transformers import Trainer, TrainerCallback

from trl_unlearn import BootstrapUnlearnConfig
from trl_unlearn.encoding import spread_evenly
from trl_unlearn.trainer.logs import print_beliefs


@pytest.fixture
def new_trainer(build_trainer):
    def new(callbacks=None, **kwargs):
        settings = {"max_steps": 2, "per_device_train_batch_size": 3, "num_beliefs": 2, "max_completion_length": 12}
        settings |= {"logging_steps": 1, "disable_tqdm": False}
        peft_config = LoraConfig(r=2, target_modules=["q_proj"])
        return build_trainer(settings | kwargs, callbacks=callbacks, peft_config=peft_config)

    return new


def folded(text: str) -> str:
    return "".join(text.split())


class Logs(TrainerCallback):
    """Everything that is logged."""

    def __init__(self):
        self.entries = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.entries.append(dict(logs))


# Lines and the bar


@pytest.mark.parametrize(
    ("settings", "kinds"),
    [
        ({}, ("forget", "retain", "beliefs")),
        ({"lambda_bss": 0.0, "bf16": True}, ("forget", "retain")),
        ({"retain_loss_type": "none", "disable_tqdm": True}, ("forget", "beliefs")),
    ],
)
def test_in_a_pipe_an_entry_of_the_log_is_a_line_of_the_numbers_that_decide(new_trainer, capfd, settings, kinds):
    logs = Logs()
    new_trainer(callbacks=[logs], **settings).train()
    last = [entry for entry in logs.entries if "loss/forget" in entry][-1]
    numbers = [f"{kind} {last[f'{kind}/logps']:.2f}" for kind in kinds]
    numbers.append(f"{last['throughput/rows_per_second']:.0f} rows/s")
    captured = capfd.readouterr()
    precision = "bfloat16 autocast" if "bf16" in settings else "float32"
    first, *start, second, third = captured.out.splitlines()
    lines = [second, third]
    assert first == f"Training: 2 steps in {precision}."
    assert [line.split(":")[0] for line in start] == ["Precision"] * (precision == "float32") + ["Log-probs"]
    assert lines[1] == f"step 2: {', '.join(numbers)}"
    assert ("new beliefs, " in lines[0]) == ("beliefs" in kinds)
    assert "2/2" not in captured.err


def test_a_run_prints_twenty_lines_and_its_first_and_logs_every_step(new_trainer, capfd):
    trainer = new_trainer(max_steps=50, lambda_bss=0.0, retain_loss_type="none", forget_floor=-2.5)
    trainer.train()
    lines = [line for line in capfd.readouterr().out.splitlines() if line.startswith("step ")]
    assert len(lines) == 21 and lines[-1].startswith("step 50: forget -")
    assert all("(goal -2.50)" in line for line in lines)
    assert len([entry for entry in trainer.state.log_history if "loss/forget" in entry]) == 50


def test_the_goals_of_a_callback_and_why_training_ended_are_shown(new_trainer, capfd):
    class Ends(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            trainer.goals = {"forget_logp": -3.0}
            Trainer.log(trainer, {"curve/forget_logp": -1.25, "curve/other": 7.0})

        def on_step_end(self, args, state, control, **kwargs):
            trainer.stop_reason, control.should_training_stop = "enough is forgotten.", True

    trainer = new_trainer(callbacks=[Ends()])
    trainer.train()
    *_, line, last = capfd.readouterr().out.splitlines()
    assert line.startswith("step 1: ") and "forget_logp -1.25 (goal -3.00)" in line and "other" not in line
    assert last == "Training ended early: enough is forgotten."


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_has_one_bar_with_these_numbers(new_trainer, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    new_trainer().train()
    shown = [line for line in terminal.getvalue().replace("\r", "\n").splitlines() if "| 2/2 [" in line]
    assert "forget -" in shown[-1] and "beliefs -" in shown[-1] and "rows/s]" in shown[-1]
    assert "Sampling beliefs (epoch 0)" in terminal.getvalue()


@pytest.mark.parametrize("disable_tqdm", [False, True])
def test_verbose_prints_all_numbers_of_an_entry_and_the_bar_of_the_trainer(new_trainer, capfd, disable_tqdm):
    logs = Logs()
    new_trainer(callbacks=[logs], verbose=True, disable_tqdm=disable_tqdm).train()
    last = [entry for entry in logs.entries if "loss/forget" in entry][-1]
    captured = capfd.readouterr()
    assert captured.out.count("'loss/forget': ") == 2 and "step 2: " not in captured.out
    shown = [line for line in captured.err.replace("\r", "\n").splitlines() if "2/2" in line]
    expected = " ".join(f"{kind} {last[f'{kind}/logps']:.2f}" for kind in ("forget", "beliefs", "retain"))
    assert not shown if disable_tqdm else f"logps: {expected}]" in shown[-1]


# The table of beliefs


@pytest.mark.parametrize("wanted", [False, True])
def test_beliefs_are_printed_only_if_that_is_asked_for_and_nowhere_written(
    new_trainer, tiny_tokenizer, forget_rows, tmp_path, capfd, wanted
):
    logs = Logs()
    trainer = new_trainer(callbacks=[logs], log_completions=wanted)
    trainer.train()
    trainer.save_model()
    printed = capfd.readouterr().out
    assert printed.count("Beliefs at epoch 0") == wanted
    written = [path.read_bytes().decode(errors="ignore") for path in tmp_path.rglob("*.*") if path.is_file()]
    assert len(written) > 5
    beliefs = [
        tiny_tokenizer.decode([token for token in belief["labels"] if token >= 0], skip_special_tokens=True)
        for belief in trainer.belief_store.rows(range(len(forget_rows)))
    ]
    long = [folded(belief) for belief in beliefs if len(folded(belief)) >= 12]
    assert long
    for answer in [*(folded(row["completion"][0]["content"]) for row in forget_rows), *long]:
        assert not [text for text in (*written, json.dumps(logs.entries)) if answer in folded(text)]


def test_the_table_shows_each_belief_beside_its_prompt_and_answer(
    new_trainer, tiny_tokenizer, forget_rows, monkeypatch, capsys
):
    monkeypatch.setenv("COLUMNS", "120")
    trainer = new_trainer()
    store = trainer.belief_store
    store.sample(trainer.model, 0, 0.0)
    capsys.readouterr()
    print_beliefs(store, tiny_tokenizer, 1.5, count=4)
    printed = capsys.readouterr().out
    assert "Beliefs at epoch 1.5" in printed
    # Four of six beliefs, which are those of two forget rows.
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.split("\n") if "│" in line]
    prompts, answers, beliefs = (folded("".join(column)) for column in zip(*cells, strict=True))
    chosen = spread_evenly(3, 2)
    for number, row in enumerate(forget_rows):
        shown = number in chosen
        assert prompts.count(folded(row["prompt"][0]["content"])) == shown
        assert answers.count(folded(row["completion"][0]["content"])) == shown
    for row in store.rows(chosen):
        belief = tiny_tokenizer.decode([label for label in row["labels"] if label >= 0], skip_special_tokens=True)
        assert folded(belief) in beliefs


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"log_completions": True, "lambda_bss": 0.0}, "none are sampled"),
        ({"num_completions_to_print": 0}, "must be at least 1"),
    ],
)
def test_a_table_that_would_be_empty_is_refused(settings, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        BootstrapUnlearnConfig(str(tmp_path), **settings)


# Reporters


REPORTS = """
import atexit, json, sys
from datasets import Dataset
from peft import LoraConfig
from transformers import Trainer
from trl_unlearn import BootstrapUnlearnConfig, BootstrapUnlearnTrainer

base, rows, reporter, out = sys.argv[1], json.loads(sys.argv[2]), *sys.argv[3:]
args = BootstrapUnlearnConfig(
    out, max_steps=2, per_device_train_batch_size=3, num_beliefs=2, max_completion_length=12, run_name="a run",
    gradient_checkpointing=False, logging_steps=1, save_strategy="no", retain_loss_type="none", report_to=reporter,
    project="unlearning", log_completions=True,
)
trainer = BootstrapUnlearnTrainer(
    base, args, train_dataset=Dataset.from_list(rows), peft_config=LoraConfig(r=2, target_modules=["q_proj"])
)
trainer.train()
# As the scripts do with the verdict, when the training has ended.
Trainer.log(trainer, {"verdict/says": "as", "verdict/score": 0.5})
trainer.end()
# A program ends so, but not a process of `multiprocessing`: Trackio writes its last entries then.
atexit._run_exitfuncs()
"""
LOGGED = ("loss/forget", "loss/beliefs", "forget/logps", "beliefs/logps", "beliefs/coverage")


@pytest.fixture
def report(tiny_model, tiny_tokenizer, forget_rows, launch, tmp_path):
    """Function that trains in a process of its own with a reporter; nothing written may hold an answer."""

    def train(reporter: str) -> Path:
        for item in (tiny_model, tiny_tokenizer):
            item.save_pretrained(tmp_path / "base")
        place, rows = tmp_path / "reports", json.dumps(list(forget_rows))
        places = {name: str(place) for name in ("TRACKIO_DIR", "TENSORBOARD_LOGGING_DIR")}
        argv = (tmp_path / "base", rows, reporter, tmp_path / "out")
        assert launch(REPORTS, *argv, processes=1, **places) == [0]
        for path in place.rglob("*"):
            if path.is_file():
                held = path.read_bytes()
                assert not [row for row in forget_rows if row["completion"][0]["content"].encode() in held], path
        return place

    return train


def test_trackio_gets_the_metrics_of_every_step_without_a_network(report):
    pytest.importorskip("trackio")
    place = report("trackio")
    (database,) = place.rglob("*.db")
    with sqlite3.connect(database) as connection:
        rows = [json.loads(metrics) for (metrics,) in connection.execute("SELECT metrics FROM metrics ORDER BY step")]
    logged = [row for row in rows if "train/loss" in row]
    assert len(logged) == 2
    assert {f"train/{name}" for name in LOGGED} <= set(logged[0])
    ended = [(row["train/verdict/says"], row["train/verdict/score"]) for row in rows if "train/verdict/says" in row]
    assert ended == [("as", 0.5)]


@pytest.mark.slow
def test_tensorboard_gets_the_metrics_of_every_step(report):
    pytest.importorskip("tensorboard")
    place = report("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(next(place.rglob("events.out.*")).parent))
    events.Reload()
    for name in LOGGED:
        found = [event.step for event in events.Scalars(f"train/{name}")]
        assert found == ([1] if name == "beliefs/coverage" else [1, 2]), name


# The network


@pytest.fixture
def hosts(monkeypatch):
    """The hosts that anything in this process asks for from here on, as on a machine with a network."""
    asked = []

    def refuse(host, *args, **kwargs):
        asked.append(host)
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", lambda _, address: refuse(address))
    # A ping is left out offline and in CI.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("CI", raising=False)
    return asked


@pytest.mark.parametrize("telemetry", [False, True])
def test_no_connection_is_tried_when_a_trainer_is_built_and_trained_unless_telemetry_is_asked_for(
    new_trainer, hosts, telemetry
):
    trainer = new_trainer(telemetry=telemetry)
    trainer.train()
    trainer.save_model()
    # A thread of the library sends it.
    _telemetry._TELEMETRY_QUEUE.join()
    assert bool(hosts) == telemetry

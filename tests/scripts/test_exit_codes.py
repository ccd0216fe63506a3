# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""How the command `trl-unlearn` ends where it gets as far as a model, and the one module that ends it."""

import ast
import os
import signal
from pathlib import Path

import pytest

import trl_unlearn
from trl_unlearn import cli
from trl_unlearn.scripts import one_call
from trl_unlearn.scripts.exits import interruptible

from .conftest import QUICK


def test_a_run_that_is_done_ends_without_a_code_and_a_push_that_fails_ends_with_1(own, facts, tmp_path, capfd):
    folder = tmp_path / "out"
    assert cli.main(["bs-t", *own, *QUICK, "--no_evaluate", "--output_dir", str(folder)]) is None
    (folder / "README.md").write_text(facts["forget"][0][1], encoding="utf-8")
    argv = ["--output_dir", str(folder), "--hub_model_id", "me/unlearned", "--forget_dataset", own[3], "--dry_run"]
    with pytest.raises(SystemExit) as failed:
        cli.main(["push", *argv])
    assert failed.value.code == 1
    message = capfd.readouterr().err
    assert "trl-unlearn push: failed: " in message and "README.md" in message


def test_a_run_that_diverges_ends_with_3_and_names_the_command(own, tmp_path, capfd):
    folder = ["--no_evaluate", "--output_dir", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as stopped:
        cli.main(["bs-t", *own, *QUICK, *folder, "--learning_rate", "100", "--max_steps", "4"])
    assert stopped.value.code == 3
    assert "trl-unlearn bs-t: stopped: " in capfd.readouterr().err


@pytest.mark.parametrize(("name", "error"), [("SIGINT", KeyboardInterrupt), ("SIGTERM", SystemExit)])
def test_a_signal_in_a_call_from_python_ends_it_as_a_signal(name, error, tmp_path, monkeypatch):
    def interrupted(_):
        with interruptible("push"):
            os.kill(os.getpid(), getattr(signal, name))

    monkeypatch.setattr(one_call, "publish", interrupted)
    # Whoever started the tests in the background has it ignored.
    before = signal.signal(getattr(signal, name), signal.default_int_handler)
    try:
        with pytest.raises(error) as ended:
            one_call.Unlearned(tmp_path).push_to_hub("me/unlearned")
    finally:
        signal.signal(getattr(signal, name), before)
    assert error is KeyboardInterrupt or ended.value.code == 143


def ends_the_process(source: str) -> bool:
    """Whether code names `SystemExit`, `exit`, `quit`, `_exit` or `abort`, with or without the module in front."""
    nodes = list(ast.walk(ast.parse(source)))
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    names |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    names |= {alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}
    return bool(names & {"SystemExit", "exit", "quit", "_exit", "abort"})


@pytest.mark.parametrize(
    "source", ["raise SystemExit(2)", "import sys\nsys.exit(1)", "from os import _exit", "exit(3)", "os.abort()"]
)
def test_every_way_to_end_a_process_is_seen(source):
    assert ends_the_process(source) and not ends_the_process("raise ValueError")


def test_one_module_turns_errors_into_exit_codes():
    folder = Path(trl_unlearn.__file__).parent
    sources = {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in folder.rglob("*.py")}
    # A wheel carries the recipes in a folder of the package.
    ends = [name for name, source in sources.items() if name.split("/")[0] != "recipes" and ends_the_process(source)]
    assert ends == ["scripts/exits.py"]

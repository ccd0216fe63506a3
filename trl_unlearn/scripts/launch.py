# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Dispatch of a command line: to the help, through `accelerate launch`, or to the script. It imports nothing heavy."""

import argparse
import gc
import os
import sys
from importlib import import_module
from pathlib import Path

from .exits import refuse
from .help import LAUNCHED, show_help


def run(command: str, argv: list[str] | None = None, prog: str | None = None) -> None:
    """Run a command of `help.TYPES` with its arguments (of the process if not given), or print its help."""
    argv = sys.argv[1:] if argv is None else argv
    name = command.replace("-", "_")
    prog = prog or f"{name}.py"
    if {"-h", "--help"} & set(argv):
        show_help(command, prog)
        return
    if command in LAUNCHED:
        parser = argparse.ArgumentParser(prog=prog, usage=argparse.SUPPRESS, add_help=False, allow_abbrev=False)
        parser.add_argument("--num_processes", type=int)
        parser.add_argument("--accelerate_config")
        launched, argv = parser.parse_known_args(argv)
        if launched.num_processes is not None or launched.accelerate_config is not None:
            _launch(command, argv, prog, launched.num_processes, launched.accelerate_config)
    # The parser's own help, which has everything.
    argv = ["--help" if part == "--help-all" else part for part in argv]
    script = import_module(f".{name}", __package__)
    # Imported modules are no garbage: memory is collected without a walk through them.
    gc.freeze()
    script.main(argv, prog=prog)


def _launch(command: str, argv: list[str], prog: str, processes: int | None, config: str | None) -> None:
    """Replace this process by `accelerate launch` of the command, as `trl` does with its scripts."""
    if processes is not None and processes < 1:
        refuse(prog, f"`num_processes` is {processes}. Give at least 1.")
    options = [] if processes is None else ["--num_processes", str(processes)]
    if config is None and processes != 1:
        # Without a config `accelerate launch` runs one process on a CPU, whatever number it is told.
        config = "ddp"
    if config is not None:
        named = recipes() / f"accelerate/{config}.yaml"
        if not named.is_file() and not Path(config).is_file():
            known = ", ".join(sorted(path.stem for path in named.parent.glob("*.yaml")))
            refuse(prog, f"`accelerate_config` is `{config}`, no file and none of {known}. Give one of these.")
        options += ["--config_file", str(named if named.is_file() else config)]
    sys.stdout.flush()
    launcher = [sys.executable, "-m", "accelerate.commands.launch", *options, "-m", "trl_unlearn", command, *argv]
    os.execv(sys.executable, launcher)


def recipes() -> Path:
    """The folder of the recipes: in a wheel inside the package, in a checkout beside it."""
    package = Path(__file__).parents[1]
    return next(folder for folder in (package / "recipes", package.parent / "recipes") if folder.is_dir())

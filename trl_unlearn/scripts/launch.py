# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Where a command line goes: to the help, through `accelerate launch`, or to the script. It imports nothing heavy."""

import sys
from importlib import import_module

from .help import show_help


def run(command: str, argv: list[str] | None = None, prog: str | None = None) -> None:
    """Run a command of `help.TYPES` with its arguments (of the process if not given), or print its help."""
    argv = sys.argv[1:] if argv is None else argv
    name = command.replace("-", "_")
    prog = prog or f"{name}.py"
    if {"-h", "--help"} & set(argv):
        show_help(command, prog)
        return
    # The parser's own help, which has everything.
    argv = ["--help" if part == "--help-all" else part for part in argv]
    import_module(f".{name}", __package__).main(argv, prog=prog)

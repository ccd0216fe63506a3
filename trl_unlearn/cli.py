# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""The command `trl-unlearn`: hands over to the scripts, which the recipes run as well."""

import argparse
import sys
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import version

from .scripts.exits import refuse
from .scripts.help import TYPES
from .scripts.launch import run


PROG = "trl-unlearn"

# Command -> what it does.
COMMANDS = {
    "forget": "forget rows or a name; all settings are chosen for you",
    "bs-s": "unlearn the answers and the model's own likely answers (BS-S)",
    "bs-t": "unlearn the answers and the tokens likely beside them (BS-T)",
    "compare": "compare methods on the same target, over several seeds",
    "sequence": "serve unlearning requests one after another",
    "evaluate": "judge a model beside its target and a retrained reference",
    "show": "write a private page with every forget row of a finished run",
    "demo": "ask the models of a finished run the same, in a browser",
    "card": "write the model card of a finished run anew",
    "push": "publish a finished run on the Hub, in a private repository",
    "archive": "build the embedded lab: fictional people, two tiny models",
    "env": "show versions and hardware, to paste into an issue",
}
# Commands that share a module. Every other one is `main` of the script of its name.
_SHARED = {"archive": "commands", "env": "commands", "card": "commands"}

_DESCRIPTION = """\
Make a language model forget a set of rows, and measure whether it forgot or
only hides.

commands:
{commands}"""

_FIRST = """\
a command is missing. To begin:
  trl-unlearn forget --model_name_or_path org/model --forget rows.jsonl
                                your model, and rows that must go
  trl-unlearn forget --help     its options
  trl-unlearn bs-s              forget four of forty fictional people: two minutes on a CPU, no download
  trl-unlearn --help            all commands"""

_EPILOG = """\
The options of a command: trl-unlearn <command> --help, and all with --help-all
The same from a file:     trl-unlearn <command> --config settings.yaml
The command line wins over the file. bs-s, bs-t, compare, sequence and evaluate
run on the embedded lab where neither a model nor data is named.

A command runs in one process. In four, with a GPU each:
  trl-unlearn bs-s --config settings.yaml --num_processes 4

exit codes:
  0  done
  1  failed
  2  bad usage: an option, a file or data that cannot be used
  3  training diverged, or forget did not reach its goal
  130  interrupted by Ctrl-C (143: by SIGTERM); the message says how to resume"""


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    parser = argparse.ArgumentParser(
        prog=PROG,
        usage="%(prog)s <command> [options]",
        description=_DESCRIPTION.format(
            commands="\n".join(f"  {name:<{width}}  {line}" for name, line in COMMANDS.items())
        ),
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"{PROG} {version('trl-unlearn')}")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Run a command (of the process if `argv` is not given); errors end it with an exit code of the help text."""
    argv = sys.argv[1:] if argv is None else argv
    parser = _parser()
    if not argv:
        refuse(PROG, _FIRST)
    if argv[0].startswith("-"):
        parser.parse_args(argv)
        parser.error(f"a command is missing. Give one of {', '.join(COMMANDS)}.")
    command, *arguments = argv
    if command not in COMMANDS:
        near = get_close_matches(command.lower().replace("_", "-"), COMMANDS, n=1)
        hint = f"Did you mean `{near[0]}`?" if near else f"Give one of {', '.join(COMMANDS)}."
        parser.error(f"there is no command `{command}`. {hint}")
    # `TrlParser` knows `--config path` only.
    arguments = [part for arg in arguments for part in (arg.split("=", 1) if arg.startswith("--config=") else [arg])]
    prog = f"{PROG} {command}"
    if arguments[-1:] == ["--config"]:
        refuse(prog, "`--config` is given without a file. Name one behind it.")
    if command in TYPES:
        return run(command, arguments, prog)
    # Imported only now: the help and a mistyped command do not wait for torch.
    name = command.replace("-", "_")
    script = import_module(f".scripts.{_SHARED.get(command, name)}", __package__)
    getattr(script, name if command in _SHARED else "main")(arguments, prog=prog)

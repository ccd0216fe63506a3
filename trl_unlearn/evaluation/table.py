# Copyright 2026 The trl-unlearn authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""The results as a table: in the terminal, and in Markdown."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ..results import (
    DIFFERENCES,
    MODEL_ROLES,
    EvaluationResult,
    format_difference,
    format_measurement,
    has_forgotten,
)


def print_results(result: EvaluationResult, console: Console | None = None) -> None:
    """
    Prints a table of the three models, the notes that belong to it, and a table of the paired differences. They fit
    into 80 columns and need no colour.

    Args:
        result ([`EvaluationResult`]):
            What to print.
        console (`rich.console.Console`, *optional*):
            Where to print; defaults to standard output.
    """
    console = console or Console()
    rows = [(group, name, *map(format_measurement, found)) for group, name, found in result.rows()]
    console.print(_table(MODEL_ROLES, rows))
    console.print()
    for note in result.notes():
        console.print(note, style="dim", highlight=False, markup=False)
    rows = [(group, name, *map(format_difference, found)) for group, name, found in result.difference_rows()]
    if rows:
        console.print()
        console.print(_table(tuple(DIFFERENCES), rows))
        console.print()
        note = "Differences on the same rows, with a 95 % interval (bootstrap over rows)."
        console.print(note, style="dim", highlight=False, markup=False)


def print_verdict(result: EvaluationResult, console: Console | None = None) -> None:
    """
    Prints whether the unlearned model has forgotten, unless it has.

    Args:
        result ([`EvaluationResult`]):
            What was measured.
        console (`rich.console.Console`, *optional*):
            Where to print; defaults to standard output.
    """
    forgotten, why = has_forgotten(result)
    if not forgotten and result.models["unlearned"] is not None:
        style = "bold red" if forgotten is False else "yellow"
        (console or Console()).print(why, style=style, highlight=False, markup=False)


def _table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> Table:
    """Group, metric and a cell for each column, with an empty line between groups."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    table.add_column("metric", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    previous = None
    for group, *cells in rows:
        if previous not in (None, group):
            table.add_row()
        table.add_row(*cells)
        previous = group
    return table


def results_markdown(result: EvaluationResult) -> str:
    """
    The table of the models in Markdown.

    Args:
        result ([`EvaluationResult`]):
            What to show.

    Returns:
        `str`: a table with a row for each metric, without a line break at its end.
    """
    lines = [f"| metric | {' | '.join(MODEL_ROLES)} |", "|---|" + "--:|" * len(MODEL_ROLES)]
    for _, name, measurements in result.rows():
        lines.append(f"| `{name}` | {' | '.join(map(format_measurement, measurements))} |")
    return "\n".join(lines)

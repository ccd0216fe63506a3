# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""
Build `unlearn_in_five_minutes.ipynb` from the script of its name, and run it: `python docs/notebooks/build.py`.

The script is what is edited, linted and tested; the notebook is the script with its outputs.
"""

import getpass
import platform
import re
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode, v4


SCRIPT = Path(__file__).with_name("unlearn_in_five_minutes.py")
NOTEBOOK = SCRIPT.with_suffix(".ipynb")
_CELL = re.compile(r"^# %%( \[markdown\])?\n", re.M)
# Of the whole notebook, in seconds. A machine that is busy takes several times as long as one that is not.
_TIMEOUT = 900


def notebook() -> NotebookNode:
    """The cells of the script, without outputs."""
    _, *parts = _CELL.split(SCRIPT.read_text(encoding="utf-8"))
    cells = []
    for number, (kind, text) in enumerate(zip(parts[::2], parts[1::2], strict=True)):
        # Not a random name: a notebook that is built again would be another.
        name = {"id": f"cell-{number}"}
        if kind:
            cells.append(v4.new_markdown_cell(re.sub(r"^# ?", "", text.strip(), flags=re.M), **name))
        else:
            cells.append(v4.new_code_cell(re.sub(r"\n{3,}", "\n\n", text.strip()), **name))
    metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "language_info": {"name": "python"},
    }
    return v4.new_notebook(cells=cells, metadata=metadata)


def executed(folder: str | Path) -> NotebookNode:
    """The notebook with its outputs, run in a folder."""
    built = notebook()
    place = {"metadata": {"path": str(folder)}}
    NotebookClient(built, timeout=_TIMEOUT, coalesce_streams=True, resources=place).execute()
    for cell in built.cells:
        # The times at which cells were run.
        cell.metadata.pop("execution", None)
    built.metadata = notebook().metadata
    return built


def printed(built: NotebookNode) -> str:
    """The outputs of a notebook as text, without its pictures."""
    outputs = [output for cell in built.cells if cell.cell_type == "code" for output in cell.outputs]
    texts = [output.get("text", "") for output in outputs]
    texts += [data for output in outputs for kind, data in output.get("data", {}).items() if kind.startswith("text/")]
    return "\n".join(texts)


def lines_on_this_machine(text: str) -> list[str]:
    """Lines of a text that name a folder, the host or the user of this machine."""
    folders = [re.escape(str(folder)) for folder in (Path.home(), Path(__file__).parents[2], tempfile.gettempdir())]
    names = [rf"\b{re.escape(name)}\b" for name in (platform.node(), getpass.getuser()) if name]
    return [line for line in text.splitlines() if re.search("|".join([*folders, *names]), line)]


def main() -> None:
    """Write the notebook, unless an output names this machine."""
    with tempfile.TemporaryDirectory() as folder:
        built = executed(folder)
    if lines := lines_on_this_machine(printed(built)):
        raise ValueError(f"Outputs name this machine: {lines}. Keep folders, host and user out of them.")
    nbformat.write(built, NOTEBOOK)


if __name__ == "__main__":
    main()

# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import trl_unlearn


PACKAGE = Path(trl_unlearn.__file__).parent
RECIPES = Path(__file__).parents[1] / "recipes"

# Part of the package (a module, or a folder as one) -> the parts that it may import. A folder's modules may import
# each other, and every part but those of `PLUMBING` may import `_trl`.
ALLOWED = {
    "row_forms": set(),
    "encoding": {"row_forms"},
    "_fused_scores": set(),
    "label_states": {"_fused_scores", "prompt_sharing"},
    "token_scores": {"_fused_scores", "encoding", "label_states", "prompt_sharing"},
    "prompt_sharing": set(),
    "generation": {"encoding", "label_states", "row_forms"},
    "names": set(),
    "subjects": {"encoding", "generation", "names"},
    "objectives": set(),
    "metrics": set(),
    "records": set(),
    "escaping": set(),
    # The JSON form of its file, and the verdict in it.
    "results": {"records", "verdict"},
    "notes": {"results"},
    "questions": {"results"},
    "verdict": {"notes", "questions", "records", "results"},
    "forgetting": {"questions", "results", "verdict"},
    "beliefs": {"encoding", "generation"},
    "data": {"row_forms", "encoding", "token_scores", "names", "generation", "metrics"},
    "hub": {"escaping", "forgetting", "names", "notes", "questions", "records", "results", "verdict"},
    "trainer": {
        "row_forms",
        "encoding",
        "label_states",
        "token_scores",
        "prompt_sharing",
        "names",
        "subjects",
        "objectives",
        "metrics",
        "generation",
        "beliefs",
        "records",
        "results",
        "questions",
        "hub",
    },
    "evaluation": {
        "escaping",
        "row_forms",
        "encoding",
        "label_states",
        "token_scores",
        "names",
        "notes",
        "questions",
        "subjects",
        "generation",
        "metrics",
        "records",
        "results",
        "verdict",
    },
    "scripts": {"trainer", "data", "evaluation", "forgetting", "hub", "records", "results", "verdict", "row_forms"}
    | {"encoding", "names", "questions", "subjects"},
    "cli": {"scripts"},
    "__main__": {"cli"},
    # Under `TYPE_CHECKING`, for the names that are loaded at first use.
    "__init__": {"records", "results", "trainer", "scripts"},
    "_trl": set(),
}
PLUMBING = {"_trl", "__init__"}
STANDARD_LIBRARY_ONLY = {"escaping", "forgetting", "notes", "questions", "records", "results", "verdict"}


def modules():
    """Dotted name inside the package -> source, for each module; a folder's `__init__` is the folder."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        # A wheel carries the recipes in a folder of the package.
        if parts[0] != "recipes":
            found[".".join(parts)] = path.read_text(encoding="utf-8")
    return found


def imports(module, source):
    """Absolute dotted names that a module imports, with `package:name` for a name taken from a module."""
    package = ["trl_unlearn", *module.split(".")[:-1]]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *(node.module.split(".") if node.module else [])])
            yield from (f"{origin}:{alias.name}" for alias in node.names)


def violations(module, source):
    """Imports of a module that the table does not allow."""
    part = module.split(".")[0]
    if part not in ALLOWED:
        return [f"`{module}` is not in the import table"]
    allowed = ALLOWED[part] | ({"_trl"} if part not in PLUMBING else set())
    found = []
    for name in imports(module, source):
        origin, _, taken = name.partition(":")
        top, *inside = origin.split(".")
        if top == "trl_unlearn":
            target = ".".join(inside)
            if not inside:
                found.append(f"`{module}` imports from the package root ({name})")
            elif inside[0] != part and not any(
                f"{candidate}.".startswith(f"{known}.")
                for known in allowed
                for candidate in (target, f"{target}.{taken}")
            ):
                found.append(f"`{module}` imports `{target}`")
        elif top == "trl":
            if "experimental" in (*inside, taken):
                found.append(f"`{module}` imports `{name}`, which is experimental")
            elif part != "_trl" and (inside or not taken):
                found.append(f"`{module}` imports `{name}`; only `_trl.py` imports from TRL's modules")
    return found


@pytest.mark.parametrize("module", modules())
def test_a_module_imports_only_what_its_place_allows(module):
    assert violations(module, modules()[module]) == []


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("encoding", "from .token_scores import token_scores", "`encoding` imports `token_scores`"),
        ("data.tofu", "def load():\n    from ..trainer import step", "`data.tofu` imports `trainer`"),
        ("data.tofu", "import trl_unlearn.records", "`data.tofu` imports `records`"),
        ("trainer.step", "from ..data.tofu import load", "`trainer.step` imports `data.tofu`"),
        ("trainer.step", "from ..data import tofu", "`trainer.step` imports `data`"),
        ("beliefs", "from trl_unlearn import UnlearningRun", "package root"),
        ("beliefs", "from . import generation", "package root"),
        ("scripts.bs_t", "from .. import records", "package root"),
        ("scripts.bs_t", "from trl.trainer.utils import adjusted_mfu", "only `_trl.py`"),
        ("scripts.bs_t", "import trl.trainer", "only `_trl.py`"),
        ("scripts.bs_t", "import trl", "only `_trl.py`"),
        ("scripts.bs_t", "from trl import experimental", "experimental"),
        ("_trl", "from trl.experimental.utils import x", "experimental"),
        ("_trl", "from .encoding import encode_row", "`_trl` imports `encoding`"),
        ("somewhere", "", "not in the import table"),
    ],
)
def test_an_import_against_the_table_is_found(module, source, complaint):
    (found,) = violations(module, source)
    assert complaint in found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("trainer.step", "from ..hub.card import render_card"),
        ("trainer.step", "from ..hub import card"),
        ("trainer.step", "from .._trl import adjusted_mfu\nfrom .run_record import RunClock"),
        ("scripts.bs_t", "from . import unlearn\nfrom trl import TrlParser\nimport trl_unlearn.data.tofu"),
        ("_trl", "from trl.trainer.utils import adjusted_mfu"),
    ],
)
def test_an_import_that_the_table_allows_is_let_through(module, source):
    assert violations(module, source) == []


@pytest.mark.parametrize("module", sorted(STANDARD_LIBRARY_ONLY))
def test_the_records_need_the_standard_library_only(module):
    tops = {name.partition(":")[0].split(".")[0] for name in imports(module, modules()[module])}
    assert tops <= sys.stdlib_module_names | {"trl_unlearn"}


@pytest.mark.skipif(not RECIPES.is_dir(), reason="the recipes stand in the checkout only")
def test_recipes_import_scripts_only():
    paths = sorted(RECIPES.glob("*.py"))
    assert paths
    for path in paths:
        for name in imports("recipe", path.read_text(encoding="utf-8")):
            if name.startswith("trl_unlearn"):
                assert name.startswith("trl_unlearn.scripts"), path.name


@pytest.mark.parametrize(
    "statement",
    ["import trl_unlearn", "from trl_unlearn import EvaluationResult, UnlearningRun", "import trl_unlearn.hub.push"],
)
def test_the_package_its_records_and_the_push_load_without_torch(statement):
    heavy = ("torch", "transformers", "trl", "datasets")
    code = f"import sys\n{statement}\nprint([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", trl_unlearn.__all__)
def test_every_public_name_resolves(name):
    assert getattr(trl_unlearn, name).__name__ == name


def test_a_name_that_is_not_public_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'Trainer'"):
        trl_unlearn.Trainer  # noqa: B018

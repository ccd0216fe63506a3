# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0


"""The commands of the READMEs and of docs/, run in their order in one folder, on tiny models and data."""

import ast
import functools
import importlib
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from trl import TrlParser

from trl_unlearn import cli
from trl_unlearn.data.archive import ArchivePaths
from trl_unlearn.evaluation import tofu
from trl_unlearn.hub.push import PushedRepo
from trl_unlearn.scripts import arguments, compare, demo, evaluate, sources, unlearn


ROOT = Path(__file__).parents[2]
# A reader goes from the lab to rows of their own, and so do the folders that the commands write and read.
OTHERS = ["recipes/README.md", "docs/index.md", "docs/your-data.md"]
OTHERS += sorted({path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")} - set(OTHERS))
OTHERS += ["trl_unlearn/evaluation/README.md"]
# The others take minutes.
PAGES = [pytest.param(["README.md"], id="README"), pytest.param(OTHERS, id="docs", marks=pytest.mark.slow)]
# Programs of others, which need a network or are what runs this test.
ELSEWHERE = {"pip install -e .", 'pip install -e ".[dev]"', "pytest", "hf auth login", "uv run recipes/bs_s.py"}
JOB = "hf jobs uv run "
QUICK = [
    *("--max_steps", "1", "--per_device_train_batch_size", "2", "--num_beliefs", "1", "--max_completion_length", "8"),
    *("--report_to", "none", "--save_strategy", "no", "--gradient_checkpointing", "false"),
]
FEWER = {
    "compare": [
        *(*QUICK[2:], "--num_train_epochs", "1", "--max_eval_rows", "2"),
        *("--methods", '{"ga": {"forget_loss_type": "ga"}}', "--seeds", "42"),
    ],
    "sequence": [*QUICK, "--requests", '{"one": {"forget_split": "train[:1]"}}'],
    "evaluate": ["--max_eval_rows", "2"],
    "push": ["--dry_run"],
    "show": ["--num_samples", "1"],
    "demo": [],
}


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.S | re.M)


def commands(page: str) -> Iterator[str]:
    """Each command of the blocks of a page, on one line."""
    for block in blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            yield from (" ".join(command.split()) for command in line.split("&&"))


def our_command(command: str) -> tuple[str, list[str]]:
    """The sub-command of `trl-unlearn` that a command line runs, directly or by a recipe, and its arguments."""
    if command.startswith(JOB):
        # Behind what the job needs stands the command that it runs.
        command = command[command.index("trl-unlearn ") :]
    program, *words = shlex.split(command)
    if program == "trl-unlearn":
        return words[0], words[1:]
    assert (program, words.pop(0)) == ("accelerate", "launch")
    while words[0].startswith("--"):
        option, value = words.pop(0), words.pop(0)
        assert option in ("--config_file", "--num_processes")
        assert option != "--config_file" or (ROOT / value).is_file()
    recipe = ROOT / words.pop(0)
    name = recipe.stem.replace("_", "-")
    assert f'run("{name}")' in recipe.read_text(encoding="utf-8")
    return name, words


@pytest.fixture
def here(checkpoint, tofu_folder, own_files, tmp_path, monkeypatch):
    """A folder with the recipes and each file that the commands name, where the lab is tiny."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    # The tiny model has nothing to forget by extraction strength.
    requests = folder / "recipes/archive/sequence.yaml"
    requests.write_text(re.sub("stop_.*\n", "", requests.read_text(encoding="utf-8")), encoding="utf-8")
    for name, path in zip(("forget", "retain"), own_files("prompt-completion"), strict=True):
        (folder / f"{name}.jsonl").write_bytes(Path(path).read_bytes())
    # The tiny model knows none of its rows.
    (folder / "rows.jsonl").write_bytes((folder / "forget.jsonl").read_bytes())
    (folder / "forget2.jsonl").write_bytes((folder / "forget.jsonl").read_bytes())
    readme = Path(tofu_folder, "README.md")
    names = re.sub(r"(config_name: forget)", r"\g<1>10", readme.read_text(encoding="utf-8"))
    names = re.sub(r"(config_name: retain)", r"\g<1>90", names)
    holdout = "configs:\n- config_name: holdout10\n  data_files: world_facts_perturbed.json"
    readme.write_text(names.replace("configs:", holdout), encoding="utf-8")
    settings = {"model_name_or_path": checkpoint, "forget_dataset": "forget.jsonl", "retain_dataset": "retain.jsonl"}
    (folder / "my_run.yaml").write_text(yaml.safe_dump(settings | {"output_dir": "mine"}), encoding="utf-8")
    paths = ArchivePaths(data=Path(tofu_folder), target=Path(checkpoint), retrained=Path(checkpoint))
    for module in (arguments, sources):
        monkeypatch.setattr(module, "build_archive", lambda: paths)
    short = {"max_completion_length": 8, "num_squeezing_beliefs": 1}
    evaluate_models = functools.partial(tofu.evaluate_models, **short)
    monkeypatch.setattr(unlearn, "evaluate_models", evaluate_models)
    monkeypatch.setitem(evaluate.SUITES, "tofu", (evaluate_models, "rows"))
    monkeypatch.setattr(compare, "Suite", functools.partial(tofu.Suite, **short))
    # Nobody asks, and nothing is sent.
    monkeypatch.setattr(demo, "wait", lambda: None)
    monkeypatch.setattr(demo, "push_space", lambda repo_id, files, **_: PushedRepo(repo_id, "Space", {}, {}))
    return folder


@pytest.mark.parametrize("pages", PAGES)
def test_the_commands_of_pages_run_one_after_another(pages, here, checkpoint, tofu_folder):
    replaced = {"locuslab/TOFU": tofu_folder, "org/model": checkpoint, "org/retrained": checkpoint}
    ran = []
    for command in (command for page in pages for command in commands(page)):
        if command in ELSEWHERE or command.startswith(JOB):
            continue
        name, words = our_command(command)
        words = [checkpoint if word.startswith("open-unlearning/") else replaced.get(word, word) for word in words]
        if name == "push" and "--forget_dataset" not in words:
            # A run names the lab's data, which is built again for the search for leaks; not so the tiny one's.
            words += ["--dataset_name", tofu_folder, "--forget_config", "forget10"]
        cli.main([name, *words, *FEWER.get(name, QUICK)])
        ran.append(name)
    assert {"bs-s", "evaluate", "push"} <= set(ran)
    assert (here / "unlearned" / "eval_results.json").is_file()


class Parsed(Exception):
    """Ends a command that has read its options."""


@pytest.mark.parametrize("page", ["README.md", *OTHERS])
def test_a_command_on_a_page_has_options_and_files_that_exist(page, tmp_path, monkeypatch):
    parse = TrlParser.parse_args_and_config

    def parse_only(*args, **kwargs):
        parse(*args, **kwargs)
        raise Parsed

    monkeypatch.setattr(TrlParser, "parse_args_and_config", parse_only)
    monkeypatch.chdir(tmp_path)
    # The configs that commands name.
    Path("recipes").symlink_to(ROOT / "recipes")
    Path("my_run.yaml").write_text("output_dir: mine\n", encoding="utf-8")
    for command in commands(page):
        if command not in ELSEWHERE:
            name, words = our_command(command)
            with pytest.raises(Parsed):
                cli.main([name, *words])


def test_no_block_of_code_is_left_out_by_its_language():
    texts = [(ROOT / page).read_text(encoding="utf-8") for page in ["README.md", *OTHERS]]
    assert {name for text in texts for name in re.findall(r"^ *```(\w+)", text, re.M)} == {"bash", "python"}
    assert not [text for text in texts if re.search(r"^ +```", text, re.M)]
    assert sum(len(list(commands(page))) for page in ["README.md", *OTHERS]) > 30


@pytest.mark.parametrize("page", ["README.md", *OTHERS])
def test_python_on_a_page_compiles_and_imports_names_that_exist(page):
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                assert [name.name for name in node.names if not hasattr(module, name.name)] == []

# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""A command in several processes, and the recipes as scripts that bring their own environment."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from trl_unlearn.scripts import launch

from .conftest import QUICK


RECIPES = Path(__file__).parents[2] / "recipes"
DDP = str(launch.recipes() / "accelerate/ddp.yaml")


@pytest.fixture
def launched(monkeypatch):
    """Function of a command line: the arguments of `accelerate launch` that replaces the process."""

    class ReplacedError(Exception):
        pass

    def execv(program, argv):
        assert program == argv[0] == sys.executable and argv[1:3] == ["-m", "accelerate.commands.launch"]
        raise ReplacedError(argv[3:])

    monkeypatch.setattr(os, "execv", execv)

    def call(*argv):
        with pytest.raises(ReplacedError) as replaced:
            launch.run("bs-s", list(argv), "trl-unlearn bs-s")
        return replaced.value.args[0]

    return call


def test_processes_and_a_config_are_those_of_accelerate_launch_and_the_rest_is_the_command_s(launched, tmp_path):
    rest = ["--lambda_bss", "0.3", "--no_evaluate"]
    tail = ["-m", "trl_unlearn", "bs-s", *rest]
    # On a CPU, it would run one process without a config.
    assert launched("--num_processes", "2", *rest) == ["--num_processes", "2", "--config_file", DDP, *tail]
    assert launched(*rest, "--num_processes=1") == ["--num_processes", "1", *tail]
    zero = str(launch.recipes() / "accelerate/zero2.yaml")
    assert launched("--accelerate_config", "zero2", *rest) == ["--config_file", zero, *tail]
    own = tmp_path / "own.yaml"
    own.write_text("{}")
    assert launched("--accelerate_config", str(own)) == ["--config_file", str(own), *tail[:3]]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--num_processes", "0"], "`num_processes` is 0. Give at least 1."),
        (["--accelerate_config", "dp"], "no file and none of ddp, fsdp2, zero2, zero3."),
        (["--num_processes", "two"], "invalid int value: 'two'"),
    ],
)
def test_what_cannot_be_launched_is_refused_in_a_sentence(argv, said, capsys):
    with pytest.raises(SystemExit) as refused:
        launch.run("bs-s", argv, "trl-unlearn bs-s")
    error = capsys.readouterr().err
    assert refused.value.code == 2 and said in error and error.startswith("trl-unlearn bs-s: error: ")


@pytest.mark.slow
def test_two_processes_share_a_run(own, tmp_path):
    options = [*own, *QUICK, "--no_evaluate", "--output_dir", str(tmp_path / "out"), "--num_processes", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "trl_unlearn", "bs-s", *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out/run.json").read_text())["world_size"] == 2


@pytest.mark.skipif(not RECIPES.is_dir(), reason="the recipes stand in the checkout only")
@pytest.mark.parametrize("recipe", sorted(path.name for path in RECIPES.glob("*.py")))
def test_a_recipe_names_the_environment_that_it_needs(recipe):
    # The form of PEP 723.
    lines = (RECIPES / recipe).read_text(encoding="utf-8").splitlines()
    start = lines.index("# /// script")
    block = lines[start + 1 : lines.index("# ///", start)]
    needed = tomllib.loads("\n".join(line.removeprefix("#").removeprefix(" ") for line in block))
    project = tomllib.loads((RECIPES.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert needed["dependencies"] == [project["name"]] and needed["requires-python"] == project["requires-python"]
    assert (RECIPES / needed["tool"]["uv"]["sources"][project["name"]]["path"]).resolve() == RECIPES.parent

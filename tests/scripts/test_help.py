# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""The help of each command, and of the entries under recipes/ as a user starts them."""

import dataclasses
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from trl import SFTConfig

from trl_unlearn.scripts import arguments, help, launch
from trl_unlearn.trainer.bootstrap_unlearn_config import BootstrapUnlearnConfig


FOLDER = Path(__file__).parents[2] / "recipes"


@pytest.mark.parametrize("script", ["bs_s.py", "bs_t.py", "compare.py", "sequence.py"])
def test_help_names_the_method_and_the_data_from_any_folder(script, tmp_path):
    ended = subprocess.run(
        [sys.executable, str(FOLDER / script), "--help"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert f"usage: {script}" in ended.stdout
    assert "--lambda_bss" in ended.stdout
    assert "--forget_dataset" in ended.stdout
    assert not list(tmp_path.iterdir())


def test_help_of_evaluate_shows_that_it_does_not_hide_the_library_of_its_name(tmp_path):
    ended = subprocess.run(
        [sys.executable, str(FOLDER / "evaluate.py"), "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "usage: evaluate.py" in ended.stdout
    assert "--unlearned_model_name_or_path" in ended.stdout
    assert not list(tmp_path.iterdir())


class ParserBuiltError(Exception):
    pass


@pytest.fixture
def types_of(monkeypatch):
    """Function of a command: the dataclasses that its parser is built from."""

    def parser(types, **_):
        raise ParserBuiltError(types)

    def call(command):
        monkeypatch.setattr(arguments, "TrlParser", parser)
        with pytest.raises(ParserBuiltError) as built:
            launch.run(command, [])
        return built.value.args[0]

    return call


@pytest.mark.parametrize("command", help.TYPES)
def test_the_help_has_the_options_of_the_parser_with_their_defaults_and_texts(types_of, command):
    types = [one for cls in types_of(command) for one in cls.__mro__ if one.__module__.startswith("trl_unlearn")]
    assert {one.__name__ for one in types} == {name for _, name in help.TYPES[command]}
    expected = {}
    for one in types:
        for field in dataclasses.fields(one):
            if field.name in vars(one)["__annotations__"]:
                default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
                expected[field.name] = (default, field.metadata["help"])
    assert {one.name: (one.default, one.text) for one in help.own_options(command)} == expected


@pytest.mark.parametrize("cls", [BootstrapUnlearnConfig, arguments.UnlearnModelConfig])
def test_inherited_options_have_the_defaults_of_the_parser(cls):
    defaults = {field.name: field.default for field in dataclasses.fields(cls)}
    assert all(defaults[one.name] == one.default for one in help.INHERITED[cls.__name__])


def test_each_option_of_this_project_stands_under_one_topic():
    listed = Counter(name for parts in help.TOPICS.values() for part in parts for name in part)
    assert max(listed.values()) == 1
    own = {one.name for command in help.TYPES for one in help.own_options(command)}
    assert own <= set(listed)
    # What else is listed is inherited, and is shown with its text.
    assert set(listed) - own <= {name for explained, _ in help.TOPICS.values() for name in explained}


@pytest.mark.parametrize("command", help.TYPES)
def test_the_help_fits_120_lines_of_80_columns_and_describes_inherited_options(command, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    launch.run(command, ["--help"], f"trl-unlearn {command}")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 120 and max(map(len, lines)) <= 80
    assert lines[0].startswith(f"usage: trl-unlearn {command} ")
    if command != "push":
        assert any(line.startswith("  --model_name_or_path     The target, which knows") for line in lines)
    # The default of the command: that of the class is 0.5.
    if command == "bs-t":
        assert "[0.0]" in " ".join(lines).partition("--lambda_bss ")[2].partition("--num_beliefs")[0]


def test_the_help_of_forget_leaves_out_what_it_chooses_itself(capsys):
    launch.run("forget", ["--help"], "trl-unlearn forget")
    printed = capsys.readouterr().out
    assert "--max_minutes" in printed and "--subject" in printed and "--learning_rate" not in printed
    assert "forget chooses itself: data, method, training" in " ".join(printed.split())


def test_all_options_are_those_of_the_parser(capsys):
    with pytest.raises(SystemExit):
        launch.run("bs-s", ["--help-all"])
    words = set(capsys.readouterr().out.split())
    assert {f"--{field.name}" for field in dataclasses.fields(SFTConfig)} <= words

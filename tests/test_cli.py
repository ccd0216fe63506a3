# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""The command `trl-unlearn`: what it says, and with which code it ends."""

import subprocess
import sys

import pytest

from trl_unlearn.cli import COMMANDS, main


@pytest.fixture
def ended(capsys, monkeypatch):
    """Function of a command line: exit code, what was printed, and what was printed as an error."""
    monkeypatch.setenv("COLUMNS", "80")

    def call(*argv: str) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            main(list(argv))
            code = 0
        except SystemExit as error:
            code = error.code
        return code, *capsys.readouterr()

    return call


def test_the_help_has_a_line_for_each_command_and_each_exit_code_within_80_columns(ended):
    code, printed, _ = ended("--help")
    lines = printed.splitlines()
    assert code == 0
    assert max(map(len, lines)) < 80
    for start in (*COMMANDS, "0", "1", "2", "3"):
        assert len([line for line in lines if line.startswith(f"  {start}  ")]) == 1, start


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_names_what_was_typed(ended, command):
    code, printed, _ = ended(command, "--help")
    assert code == 0
    assert printed.startswith(f"usage: trl-unlearn {command} ")


@pytest.mark.parametrize(
    ("typed", "meant"), [("bs_s", "bs-s"), ("evalaute", "evaluate"), ("compair", "compare"), ("PUSH", "push")]
)
def test_a_mistyped_command_is_answered_with_the_nearest_one(ended, typed, meant):
    code, printed, error = ended(typed, "--seed", "1")
    assert (code, printed) == (2, "")
    assert error.endswith(f"trl-unlearn: error: there is no command `{typed}`. Did you mean `{meant}`?\n")


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [(["xyz"], "there is no command `xyz`"), (["--bs-s"], "unrecognized arguments: --bs-s")],
)
def test_where_nothing_is_near_all_commands_are_named(ended, argv, sentence):
    code, _, error = ended(*argv)
    assert code == 2
    assert sentence in error
    assert argv == ["--bs-s"] or "Give one of forget, bs-s, bs-t" in error


def test_no_argument_is_answered_with_what_to_type_first(ended):
    code, _, error = ended()
    assert code == 2 and "a command is missing" in error
    assert error.index("trl-unlearn bs-s ") < error.index("trl-unlearn --help")


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["evaluate", "--max_evl_rows", "2"], "no option `--max_evl_rows` (did you mean `--max_eval_rows`?)."),
        (["bs-s", "--zzz", "1", "--dataset_name", "x"], "There is no option `--zzz`. `--help-all` lists all."),
        (["evaluate", "tofu"], "`tofu` belongs to no option"),
        (["evaluate", "--max_eval_rows", "many"], "invalid int value: 'many'"),
        (["evaluate", "--max_eval_rows", "0", "--dataset_name", "x"], "`max_eval_rows` must be at least 1"),
        (["bs-t", "--config", "missing.yaml"], "The file `missing.yaml` of `--config` does not exist"),
        (["forget", "org/model"], "`org/model` belongs to no option"),
        (["forget", "--forgett", "x.jsonl"], "There is no option `--forgett` (did you mean `--forget`?)."),
        (["bs-t", "--config"], "without a file"),
        (["push", "--output_dir", "out"], "`hub_model_id` is missing"),
        (["card", "missing"], "`missing` does not exist"),
        (["card"], "the following arguments are required: output_dir"),
        (["show", "missing"], "`missing` does not exist"),
        (["show", "out", "--num_samples", "-1"], "`num_samples` must be at least 0"),
        (["env", "--verbose"], "unrecognized arguments: --verbose"),
        (["archive", "somewhere"], "unrecognized arguments: somewhere"),
    ],
)
def test_bad_usage_is_a_sentence_under_the_name_that_was_typed_and_exit_code_2(
    ended, tmp_path, monkeypatch, argv, sentence
):
    monkeypatch.chdir(tmp_path)
    code, printed, error = ended(*argv)
    assert (code, printed) == (2, "")
    last = error.splitlines()[-1]
    assert last.startswith(f"trl-unlearn {argv[0]}: error: ")
    assert sentence in last
    assert "Traceback" not in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", [["--config", "settings.yaml"], ["--config=settings.yaml"]])
@pytest.mark.parametrize("command", ["push", "card", "show"])
def test_options_can_stand_in_a_file(ended, tmp_path, monkeypatch, command, form):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "settings.yaml").write_text("output_dir: of-the-file\n", encoding="utf-8")
    beside = ["--hub_model_id", "me/unlearned"] if command == "push" else []
    code, _, error = ended(command, *form, *beside)
    assert code == 2
    assert "`of-the-file` does not exist" in error


def test_nothing_heavy_is_loaded_before_a_command_needs_it():
    heavy = ("torch", "transformers", "trl", "datasets", "matplotlib")
    code = (
        "import sys\nfrom trl_unlearn.cli import main\n"
        "for argv in (['--help'], ['--version'], ['bs_s'], ['env', '--help'], ['bs-s', '--help'], ['push', '-h']):\n"
        "    try:\n        main(argv)\n    except SystemExit:\n        pass\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_package_runs_as_a_module(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "trl_unlearn", "--version"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.split()[0]) == (0, "trl-unlearn")

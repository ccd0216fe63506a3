# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Every recipe is read by the script that it is for."""

from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from trl_unlearn.scripts import bs_s, bs_t, compare, evaluate, sequence, series, unlearn
from trl_unlearn.scripts.arguments import default_config


FOLDER = Path(__file__).parents[2] / "recipes"
LAUNCH_FILES = sorted((FOLDER / "accelerate").glob("*.yaml"))
RECIPES = [path.relative_to(FOLDER).as_posix() for path in sorted(set(FOLDER.rglob("*.yaml")) - set(LAUNCH_FILES))]
SCRIPTS = {"bs_s": bs_s, "bs_t": bs_t, "evaluate": evaluate, "compare": compare, "sequence": sequence}


class Parsed(Exception):
    """Carries what a script has parsed out of it, before it loads anything."""


@pytest.fixture
def parse(monkeypatch, tmp_path):
    """Function of a script and its command line that returns what it parsed: `DataArguments` first, then its own."""
    seen = {}

    def build_trainer(*arguments):
        raise Parsed(arguments)

    def check_models(*_):
        raise Parsed((seen["data"],))

    monkeypatch.setattr(unlearn, "use_archive", lambda *_: None)
    monkeypatch.setattr(unlearn, "check_models", lambda *_: None)
    monkeypatch.setattr(unlearn, "build_trainer", build_trainer)
    for module in (evaluate, series):
        monkeypatch.setattr(module, "use_archive", lambda data_args, *_: seen.update(data=data_args))
        monkeypatch.setattr(module, "check_models", check_models)
    monkeypatch.chdir(tmp_path)

    def call(script: str, argv: list[str]):
        with pytest.raises(Parsed) as parsed:
            SCRIPTS[script].main(argv)
        return parsed.value.args[0]

    return call


def script_of(recipe: str) -> str:
    named = ("evaluate", "compare", "sequence")
    return next((name for name in named if Path(recipe).stem.startswith(name)), "bs_s")


def test_there_is_a_recipe_of_the_lab_for_each_script():
    assert {f"archive/{script}.yaml" for script in SCRIPTS} <= set(RECIPES)


@pytest.mark.parametrize("path", LAUNCH_FILES, ids=lambda path: path.stem)
def test_a_launch_file_is_read_by_accelerate_and_the_readme_names_it(path):
    config = load_config_from_file(str(path))
    assert config.num_processes == 2
    assert f"accelerate/{path.name}" in (FOLDER / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_is_parsed_by_its_script_and_names_both_sets(parse, recipe):
    data_args, *_ = parse(script_of(recipe), ["--config", str(FOLDER / recipe)])
    assert data_args.forget_config and data_args.retain_config


@pytest.mark.parametrize("recipe", RECIPES)
def test_an_unknown_key_in_a_recipe_is_fatal(recipe, tmp_path, capsys):
    changed = tmp_path / "recipe.yaml"
    changed.write_text((FOLDER / recipe).read_text(encoding="utf-8") + "\nlambda_bsss: 0.5\n", encoding="utf-8")
    with pytest.raises(SystemExit) as refused:
        SCRIPTS[script_of(recipe)].main(["--config", str(changed)])
    assert refused.value.code == 2
    assert "lambda_bsss" in capsys.readouterr().err


@pytest.mark.parametrize("recipe", [recipe for recipe in RECIPES if Path(recipe).stem.startswith("bs_t")])
def test_a_recipe_of_bs_t_turns_sequence_beliefs_off_by_itself(parse, recipe):
    # Read by `bs_s`, whose default is not 0.
    _, training_args, _ = parse("bs_s", ["--config", str(FOLDER / recipe)])
    assert training_args.lambda_bss == 0


@pytest.mark.parametrize("recipe", [recipe for recipe in RECIPES if Path(recipe).stem.startswith("bs_s")])
def test_a_recipe_of_bs_s_has_sequence_beliefs(parse, recipe):
    _, training_args, _ = parse("bs_s", ["--config", str(FOLDER / recipe)])
    assert training_args.lambda_bss > 0
    assert training_args.num_beliefs > 0


@pytest.mark.parametrize("script", ["bs_s", "bs_t"])
@pytest.mark.parametrize("argv", [[], ["--seed", "7"], ["--max_steps=1"]])
def test_the_labs_recipe_runs_where_neither_model_nor_data_is_named(parse, script, argv):
    data_args, training_args, _ = parse(script, argv)
    assert data_args.dataset_name == "archive"
    assert (data_args.forget_config, data_args.retain_config) == ("forget10", "retain90")
    assert Path(training_args.output_dir) == Path(f"out/archive/{script}")
    assert training_args.lambda_bss == {"bs_s": 0.5, "bs_t": 0}[script]


def test_evaluate_runs_the_labs_recipe_without_an_argument(parse):
    assert parse("evaluate", [])[0].dataset_name == "archive"


def test_the_command_line_wins_over_the_recipe(parse):
    _, training_args, _ = parse("bs_s", ["--learning_rate", "0.5", "--output_dir", "elsewhere"])
    assert training_args.learning_rate == 0.5
    assert training_args.output_dir == "elsewhere"
    assert training_args.per_device_train_batch_size == 8


@pytest.mark.parametrize(
    "named",
    [
        ["--model_name_or_path", "org/model"],
        ["--model_name_or_path=org/model"],
        ["--model_name", "org/model"],
        ["--model-name-or-path", "org/model"],
        ["--forget-dataset=forget.jsonl"],
        ["--dataset_name", "org/data"],
        ["--forget_dataset", "forget.jsonl"],
        ["--config", "mine.yaml"],
        ["--help"],
    ],
)
def test_the_labs_recipe_stays_away_where_a_model_or_data_is_named(named):
    assert default_config(named, "archive/bs_s.yaml") == named


def test_bs_t_has_no_sequence_beliefs_without_a_recipe_either(parse):
    argv = ["--model_name_or_path", "org/model", "--forget_dataset", "forget.jsonl"]
    assert parse("bs_t", argv)[1].lambda_bss == 0
    assert parse("bs_s", argv)[1].lambda_bss == 0.5


@pytest.mark.parametrize("argv", [["--config={path}"], ["--config", "{path}"]])
def test_a_recipe_is_named_with_a_space_or_with_an_equals_sign(parse, argv):
    path = str(FOLDER / "archive" / "bs_s.yaml")
    data_args, *_ = parse("bs_s", [argument.format(path=path) for argument in argv])
    assert data_args.dataset_name == "archive"


def test_a_request_that_names_its_rows_is_read_with_the_labs_recipe(capsys):
    with pytest.raises(SystemExit):
        sequence.main(["--requests", '{"own": {"forget_dataset": "own.jsonl"}}'])
    assert "Both `dataset_name` (archive) and `forget_dataset` (own.jsonl) are given" in capsys.readouterr().err

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

"""Bad input gets a sentence on stderr and exit code 2, before any training and with nothing half-written."""

import json
import logging
from pathlib import Path

import pytest

from trl_unlearn.scripts import bs_s, bs_t, evaluate
from trl_unlearn.trainer.bootstrap_unlearn_trainer import BootstrapUnlearnTrainer


SCRIPTS = {"bs_s": bs_s, "bs_t": bs_t, "evaluate": evaluate}


@pytest.fixture
def refuse(tmp_path, monkeypatch, capsys):
    """Function of a script and its command line that returns the sentence with which it refused."""

    def train(*_, **__):
        raise AssertionError("training began")

    monkeypatch.setattr(BootstrapUnlearnTrainer, "train", train)
    monkeypatch.chdir(tmp_path)
    output = tmp_path / "out"

    def call(script: str, argv: list[str], output_dir: str | None = None) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as refused:
            SCRIPTS[script].main([*argv, "--output_dir", output_dir or str(output)])
        assert refused.value.code == 2
        printed = capsys.readouterr().err
        assert "Traceback" not in printed
        assert not [path for path in output.rglob("*") if path.is_file()]
        line = printed.rstrip().splitlines()[-1]
        assert line.startswith(f"{script}.py: error: ")
        return line

    return call


@pytest.fixture
def write(tmp_path):
    """Function that writes rows as a file of JSON lines and returns its path."""

    def call(name: str, rows: list[dict]) -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return call


@pytest.fixture
def good(checkpoint, own_files):
    """Command line that lacks nothing."""
    forget, retain = own_files("conversational")
    return [
        *("--model_name_or_path", checkpoint, "--forget_dataset", forget, "--retain_dataset", retain),
        *("--report_to", "none"),
    ]


def replaced(argv: list[str], **values: str | None) -> list[str]:
    """The command line with other values; `None` leaves an argument out."""
    pairs = dict(zip(argv[::2], argv[1::2], strict=True)) | {f"--{name}": value for name, value in values.items()}
    return [part for pair in pairs.items() if pair[1] is not None for part in pair]


def test_the_good_command_line_reaches_the_training(good, refuse, tmp_path):
    # What every refusal below is one change away from.
    with pytest.raises(AssertionError, match="training began"):
        bs_s.main([*good, "--output_dir", str(tmp_path / "good")])


@pytest.mark.parametrize("role", ["forget", "retain"])
@pytest.mark.parametrize("content", ["", "\n"], ids=["no byte", "an empty line"])
def test_an_empty_file(good, refuse, tmp_path, role, content):
    path = tmp_path / "empty.jsonl"
    path.write_text(content, encoding="utf-8")
    sentence = refuse("bs_s", replaced(good, **{f"{role}_dataset": str(path)}))
    assert "empty" in sentence


@pytest.mark.parametrize("role", ["forget", "retain"])
def test_a_split_without_rows(good, refuse, role):
    sentence = refuse("bs_s", [*good, f"--{role}_split", "train[:0]"])
    assert "empty" in sentence and role in sentence


@pytest.mark.parametrize("role", ["forget", "retain"])
def test_a_table_with_a_head_and_no_rows(good, refuse, tmp_path, role):
    path = tmp_path / "head.csv"
    path.write_text("prompt,completion\n", encoding="utf-8")
    sentence = refuse("bs_s", replaced(good, **{f"{role}_dataset": str(path)}))
    assert "empty" in sentence and role in sentence


@pytest.mark.parametrize("role", ["forget", "retain"])
def test_missing_columns_are_answered_with_those_that_were_found(good, refuse, write, role):
    path = write("columns.jsonl", [{"instruction": "Say hello.", "output": "Hello there."}])
    sentence = refuse("bs_s", replaced(good, **{f"{role}_dataset": path}))
    assert "instruction" in sentence and "output" in sentence
    assert "`prompt` and `completion`" in sentence
    assert role in sentence


def test_missing_columns_of_a_dataset_of_tofus_form(checkpoint, refuse, write, tmp_path):
    write("forget.jsonl", [{"query": "Say hello.", "reply": "Hello there."}])
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: forget\n  data_files: forget.jsonl\n---\n", encoding="utf-8"
    )
    argv = ["--model_name_or_path", checkpoint, "--dataset_name", str(tmp_path), "--forget_config", "forget"]
    sentence = refuse("bs_s", argv)
    assert "query" in sentence and "reply" in sentence and "question" in sentence


def test_a_config_that_the_dataset_does_not_have(checkpoint, tofu_folder, refuse):
    argv = ["--model_name_or_path", checkpoint, "--dataset_name", tofu_folder]
    sentence = refuse("bs_s", [*argv, "--forget_config", "forget99", "--retain_config", "retain"])
    assert "forget99" in sentence


def test_a_row_without_an_answer_is_named_by_its_index(good, refuse, write):
    rows = [{"prompt": "Who?", "completion": " Ada."}, {"prompt": "Where?", "completion": ""}]
    sentence = refuse("bs_s", replaced(good, forget_dataset=write("rows.jsonl", rows)))
    assert "Row 1 of the forget set" in sentence


def test_conversational_rows_need_a_chat_template(good, refuse, tiny_tokenizer, checkpoint):
    tiny_tokenizer.chat_template = None
    for template in Path(checkpoint).glob("chat_template*"):
        template.unlink()
    tiny_tokenizer.save_pretrained(checkpoint)
    sentence = refuse("bs_s", good)
    assert "chat template" in sentence and "Row 0 of the forget set" in sentence


@pytest.mark.parametrize(("field", "known"), [("forget_loss_type", "npo"), ("retain_loss_type", "kl")])
def test_an_unknown_loss_type(good, refuse, field, known):
    sentence = refuse("bs_s", [*good, f"--{field}", "ppo"])
    assert "ppo" in sentence and field in sentence and known in sentence


def test_an_unknown_loss_type_in_a_recipe(good, refuse, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("forget_loss_type: ppo\n", encoding="utf-8")
    sentence = refuse("bs_s", ["--config", str(recipe), *good])
    assert "`forget_loss_type`" in sentence and "ppo" in sentence and "bs_t" in sentence


@pytest.mark.parametrize("field", ["lambda_bst", "lambda_bss"])
@pytest.mark.parametrize("value", ["-0.1", "1.1"])
def test_a_lambda_outside_0_to_1(good, refuse, field, value):
    sentence = refuse("bs_s", [*good, f"--{field}={value}"])
    assert f"`{field}`" in sentence and value in sentence and "[0, 1]" in sentence


def test_no_beliefs_although_they_have_weight(good, refuse):
    sentence = refuse("bs_s", [*good, "--num_beliefs", "0"])
    assert "`num_beliefs`" in sentence and "`lambda_bss`" in sentence


def test_more_token_beliefs_than_the_vocabulary_has(good, refuse, tiny_tokenizer):
    size = len(tiny_tokenizer)
    sentence = refuse("bs_s", [*good, "--belief_top_k", str(size + 1)])
    assert "`belief_top_k`" in sentence and str(size + 1) in sentence and f"{size} tokens" in sentence


def test_a_retain_weight_without_a_retain_set(good, refuse):
    sentence = refuse("bs_s", replaced(good, retain_dataset=None))
    assert "retain" in sentence and "retain_loss_type" in sentence


def test_a_retain_file_alone(good, refuse):
    assert "`forget_dataset`" in refuse("bs_s", replaced(good, forget_dataset=None))


@pytest.mark.parametrize("script", ["bs_s", "bs_t", "evaluate"])
@pytest.mark.parametrize("field", ["model_name_or_path", "retrained_model_name_or_path"])
def test_a_model_folder_that_does_not_exist(good, refuse, tmp_path, script, field):
    argv = replaced(good, report_to=None) if script == "evaluate" else good
    missing = str(tmp_path / "missing")
    sentence = refuse(script, replaced(argv, **{field: missing}))
    assert missing in sentence and "does not exist" in sentence and f"`{field}`" in sentence


@pytest.mark.parametrize("script", ["bs_s", "evaluate"])
def test_an_adapter_folder_that_does_not_exist(good, refuse, tmp_path, script):
    argv = replaced(good, report_to=None) if script == "evaluate" else good
    missing = str(tmp_path / "missing")
    assert missing in refuse(script, [*argv, "--adapter_name_or_path", missing])


def test_an_unlearned_folder_that_does_not_exist(good, refuse, tmp_path):
    missing = str(tmp_path / "missing")
    sentence = refuse("evaluate", [*replaced(good, report_to=None), "--unlearned_model_name_or_path", missing])
    assert missing in sentence and "`unlearned_model_name_or_path`" in sentence


def test_no_model(good, refuse):
    assert "`model_name_or_path`" in refuse("bs_s", replaced(good, model_name_or_path=None))


@pytest.mark.parametrize("script", ["bs_s", "bs_t", "evaluate"])
def test_an_output_folder_that_cannot_be_written(good, refuse, tmp_path, script):
    argv = replaced(good, report_to=None) if script == "evaluate" else good
    (tmp_path / "file").write_text("", encoding="utf-8")
    folder = str(tmp_path / "file" / "out")
    sentence = refuse(script, argv, output_dir=folder)
    assert folder in sentence and "cannot be written" in sentence
    assert (tmp_path / "file").read_text(encoding="utf-8") == ""


def test_both_a_dataset_and_files(good, refuse):
    sentence = refuse("bs_s", [*good, "--dataset_name", "locuslab/TOFU"])
    assert "`dataset_name`" in sentence and "`forget_dataset`" in sentence


def test_an_unknown_argument(good, refuse):
    assert "lambda_bsss" in refuse("bs_s", [*good, "--lambda_bsss", "0.5"])


def test_an_unknown_key_of_a_recipe(good, refuse, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("lambda_bsss: 0.5\n", encoding="utf-8")
    assert "lambda_bsss" in refuse("bs_s", ["--config", str(recipe), *good])


@pytest.mark.parametrize("script", ["bs_s", "evaluate"])
def test_a_recipe_that_does_not_exist(refuse, script):
    assert "missing.yaml" in refuse(script, ["--config", "missing.yaml"])


def test_a_recipe_that_is_not_yaml(good, refuse, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("lambda_bss: [0.5\n", encoding="utf-8")
    assert "recipe.yaml" in refuse("bs_s", ["--config", str(recipe), *good])


@pytest.mark.parametrize("role", ["forget", "retain"])
def test_a_file_that_does_not_exist(good, refuse, tmp_path, role):
    missing = str(tmp_path / "missing.jsonl")
    assert missing in refuse("bs_s", replaced(good, **{f"{role}_dataset": missing}))


def test_a_file_that_is_not_json(good, refuse, tmp_path):
    path = tmp_path / "broken.jsonl"
    path.write_text('{"prompt": "Who?", "completion": \n', encoding="utf-8")
    assert "broken.jsonl" in refuse("bs_s", replaced(good, forget_dataset=str(path)))


def test_rows_that_only_the_evaluation_cannot_use(checkpoint, tofu_folder, refuse, write):
    # Without this the run would train for hours, and fail on the rows it is judged by.
    rows = [
        {"question": "Who?", "answer": "Ada Marlow.", "perturbed_answer": ["Bo."], "paraphrased_answer": "Ada."},
        {"question": "Where?", "answer": "In Veldt.", "perturbed_answer": ["Rome."], "paraphrased_answer": None},
    ]
    Path(tofu_folder, "forget_perturbed.json").write_text(
        "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
    )
    argv = ["--model_name_or_path", checkpoint, "--dataset_name", tofu_folder]
    sentence = refuse("bs_s", [*argv, "--forget_config", "forget", "--retain_config", "retain"])
    assert "Row 1 of the forget set" in sentence and "paraphrased_answer" in sentence


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["--stop_at", "soon"], "`stop_at` is 'soon'"),
        (["--stop_at", "1.5"], "a number in [0, 1)"),
        (["--stop_at", "nan"], "`stop_at` is 'nan'"),
        (["--stop_at=0.1", "--stop_metric", "forget_logp"], "a number below 0"),
        (["--stop_at", "0.1", "--stop_metric", "loss"], "Unknown `stop_metric`: 'loss'"),
        (["--stop_at", "0.1", "--stop_retain_floor", "1"], "`stop_retain_floor` is 1.0"),
        (["--stop_at", "0.1", "--stop_every_steps", "0"], "`stop_every_steps` is 0"),
        (["--stop_retain_floor", "0.5"], "`stop_retain_floor` is given without `stop_at`"),
        (["--stop_at", "retrained"], "`retrained_model_name_or_path` is missing"),
    ],
)
def test_a_goal_that_cannot_be_used(good, refuse, argv, complaint):
    assert complaint in refuse("bs_s", [*good, *argv])


def test_a_goal_needs_a_retain_set(good, refuse):
    argv = replaced(good, retain_dataset=None)
    sentence = refuse("bs_s", [*argv, "--retain_loss_type", "none", "--stop_at", "0.1"])
    assert "`stop_at` needs a retain set" in sentence


def test_a_row_in_both_sets_is_a_warning_with_the_count(good, write, tmp_path, monkeypatch, caplog, facts):
    rows = [
        {"prompt": question, "completion": answer} for question, answer in [*facts["retain"][:1], *facts["forget"][:2]]
    ]
    shared = [*rows[1:], {"prompt": "Who?", "completion": "Nobody."}]

    class Began(Exception):
        pass

    def train(*_, **__):
        raise Began

    monkeypatch.setattr(BootstrapUnlearnTrainer, "train", train)
    argv = replaced(good, forget_dataset=write("f.jsonl", rows), retain_dataset=write("r.jsonl", shared))
    with caplog.at_level(logging.WARNING), pytest.raises(Began):
        bs_s.main([*argv, "--output_dir", str(tmp_path / "out")])
    warned = [record.getMessage() for record in caplog.records if "retain set too" in record.getMessage()]
    assert len(warned) == 1
    assert warned[0].startswith("2 of 3 forget rows")

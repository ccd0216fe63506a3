# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Bad input gets a sentence on stderr and exit code 2, before any training and with nothing half-written."""

import json
import logging
import math
import shutil
import types
from pathlib import Path

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model

from trl_unlearn.hub.folder import RunFolder
from trl_unlearn.scripts import bs_s, bs_t, evaluate, push
from trl_unlearn.scripts.arguments import EvaluationArguments, UnlearnModelConfig
from trl_unlearn.scripts.models import _is_other_base, check_models
from trl_unlearn.scripts.series import refuse_for_several
from trl_unlearn.trainer.bootstrap_unlearn_trainer import BootstrapUnlearnTrainer

from .conftest import write_jsonl


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
        return write_jsonl(tmp_path / name, rows)

    return call


@pytest.fixture
def good(own):
    """Command line that lacks nothing."""
    return [*own, "--report_to", "none"]


def replaced(argv: list[str], **values: str | None) -> list[str]:
    """The command line with other values; `None` leaves an argument out."""
    pairs = dict(zip(argv[::2], argv[1::2], strict=True)) | {f"--{name}": value for name, value in values.items()}
    return [part for pair in pairs.items() if pair[1] is not None for part in pair]


def test_the_good_command_line_reaches_the_training(good, refuse, tmp_path):
    # What every refusal below is one change away from.
    with pytest.raises(AssertionError, match="training began"):
        bs_s.main([*good, "--output_dir", str(tmp_path / "good")])


def test_a_revision_that_only_the_training_would_read(good, refuse):
    sentence = refuse("bs_s", [*good, "--model_init_kwargs", '{"revision": "other"}'])
    assert "`model_init_kwargs` holds `revision`" in sentence and "`model_revision`" in sentence


@pytest.mark.parametrize("name", ["CHECKPOINT", "org/model", "missing.jinja"])
def test_a_chat_template_that_is_no_file_of_one(good, refuse, checkpoint, name):
    found = refuse("bs_s", [*good, "--chat_template_path", checkpoint if name == "CHECKPOINT" else name])
    assert "expected a file that ends in `.jinja`" in found


def test_a_quantised_model_whose_weights_would_all_be_trained(good, refuse):
    sentence = refuse("bs_s", [*good, "--load_in_8bit", "--no_use_peft"])
    assert "`load_in_8bit` is given, and all weights are trained, which quantised ones cannot be" in sentence


@pytest.mark.parametrize("role", ["forget", "retain"])
@pytest.mark.parametrize("content", ["", "\n"], ids=["no byte", "an empty line"])
def test_an_empty_file(good, refuse, tmp_path, role, content):
    path = tmp_path / "empty.jsonl"
    path.write_text(content, encoding="utf-8")
    sentence = refuse("bs_s", replaced(good, **{f"{role}_dataset": str(path)}))
    assert "is empty. Give at least one row." in sentence


@pytest.mark.parametrize("role", ["forget", "retain"])
def test_a_split_without_rows(good, refuse, role):
    sentence = refuse("bs_s", [*good, f"--{role}_split", "train[:0]"])
    assert f"The {role} set (" in sentence and "is empty. Give at least one row." in sentence


@pytest.mark.parametrize("role", ["forget", "retain"])
def test_a_table_with_a_head_and_no_rows(good, refuse, tmp_path, role):
    path = tmp_path / "head.csv"
    path.write_text("prompt,completion\n", encoding="utf-8")
    sentence = refuse("bs_s", replaced(good, **{f"{role}_dataset": str(path)}))
    assert f"The {role} set (" in sentence and "is empty. Give at least one row." in sentence


@pytest.mark.parametrize("role", ["forget", "retain"])
def test_missing_columns_are_answered_with_those_that_were_found(good, refuse, write, role):
    path = write("columns.jsonl", [{"query": "Say hello.", "reply": "Hello there."}])
    sentence = refuse("bs_s", replaced(good, **{f"{role}_dataset": path}))
    assert "query" in sentence and "reply" in sentence
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


def test_messages_that_the_chat_template_refuses(good, refuse, write, tiny_tokenizer, checkpoint):
    refusal = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('No system role.') }}{% endif %}"
    tiny_tokenizer.chat_template = refusal + tiny_tokenizer.chat_template
    tiny_tokenizer.save_pretrained(checkpoint)
    rows = write(
        "rows.jsonl", [chat(USER, ASSISTANT), chat({"role": "system", "content": "Zephyra"}, USER, ASSISTANT)]
    )
    sentence = refuse("bs_s", replaced(good, forget_dataset=rows))
    assert "Row 1 of the forget set has messages that the chat template refuses" in sentence
    assert "(roles: ['system', 'user', 'assistant']): No system role. Change" in sentence


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


@pytest.mark.parametrize(
    ("argument", "place"),
    [
        ("model_name_or_path", "merged"),
        ("adapter_name_or_path", ""),
        ("retrained_model_name_or_path", "checkpoint-3"),
        ("ignorant_model_name_or_path", ""),
    ],
)
def test_a_run_that_would_replace_one_of_its_own_models(good, refuse, tiny_model, tmp_path, argument, place):
    model = tmp_path / "models" / place
    if argument == "adapter_name_or_path":
        tiny_model = get_peft_model(tiny_model, LoraConfig(task_type="CAUSAL_LM"))
    tiny_model.save_pretrained(model)
    before = {path: path.read_bytes() for path in model.iterdir()}
    (tmp_path / "link").symlink_to(tmp_path / "models")
    argv = [*good, "--overwrite_output_dir", "true", "--forget_loss_type", "ignorance", f"--{argument}", str(model)]
    message = refuse("bs_s", argv, str(tmp_path / "link"))
    assert f"would replace the `{argument}`, `{model}`. Give another `output_dir`." in message
    assert {path: path.read_bytes() for path in model.iterdir()} == before


@pytest.mark.parametrize("name", ["README.md", "model.safetensors", "adapter_config.json"])
def test_a_folder_with_a_card_or_a_model_that_no_run_wrote(name, good, refuse, tmp_path):
    own = tmp_path / "mine" / name
    own.parent.mkdir()
    own.write_text("mine")
    message = refuse("bs_s", [*good, "--overwrite_output_dir", "true"], str(own.parent))
    assert f"holds files that no run wrote, and this one would replace them: `{name}`. Move them" in message
    assert own.read_text() == "mine" and list(own.parent.iterdir()) == [own]


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


@pytest.mark.parametrize("config", ["forget_config", "retain_config"])
def test_a_config_beside_files(good, refuse, config):
    assert f"`{config}` is given with `forget_dataset`" in refuse("bs_s", [*good, f"--{config}", "forget10"])


def test_a_holdout_config_of_no_dataset(good, refuse):
    sentence = refuse("evaluate", [*good[:-2], "--suites", "robustness", "--holdout_config", "holdout10"])
    assert "`holdout_config` is given without `dataset_name`" in sentence


def test_an_unknown_argument(good, refuse):
    assert "lambda_bsss" in refuse("bs_s", [*good, "--lambda_bsss", "0.5"])


def test_an_unknown_key_of_a_recipe(good, refuse, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("lambda_bsss: 0.5\n", encoding="utf-8")
    assert "lambda_bsss" in refuse("bs_s", ["--config", str(recipe), *good])


@pytest.mark.parametrize("script", ["bs_s", "evaluate"])
def test_a_recipe_that_does_not_exist(refuse, script):
    assert "The file `missing.yaml` of `--config` does not exist" in refuse(script, ["--config", "missing.yaml"])


def test_a_recipe_that_is_not_yaml(good, refuse, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("lambda_bss: [0.5\n", encoding="utf-8")
    assert "recipe.yaml" in refuse("bs_s", ["--config", str(recipe), *good])


@pytest.mark.parametrize("role", ["forget", "retain"])
def test_a_file_that_does_not_exist(good, refuse, tmp_path, role):
    missing = str(tmp_path / "missing.jsonl")
    assert f"`{missing}` does not exist" in refuse("bs_s", replaced(good, **{f"{role}_dataset": missing}))


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
    write_jsonl(Path(tofu_folder, "forget_perturbed.json"), rows)
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
        (["--stop_at", "0.1", "--stop_every_steps", "0"], "`stop_every_steps` must be at least 1"),
        (["--stop_retain_floor", "0.5"], "`stop_retain_floor` is given without `stop_at`"),
        (["--stop_metric", "forget_logp"], "`stop_metric` is given without `stop_at`"),
        (["--stop_at", "strangers", "--stop_metric", "forget_logp"], "a value of 'strangers_auc', but `stop_metric`"),
        (["--stop_at", "-1", "--stop_metric", "strangers_auc"], "a number in [0, 1) for the `stop_metric` 'stra"),
        (["--stop_at", "retrained"], "`retrained_model_name_or_path` is missing"),
        (["--stop_at", "teacher"], "`stop_at` is 'teacher', and no other model teaches"),
    ],
)
def test_a_goal_that_cannot_be_used(good, refuse, argv, complaint):
    assert complaint in refuse("bs_s", [*good, *argv])


def test_a_goal_needs_a_retain_set(good, refuse):
    argv = replaced(good, retain_dataset=None)
    sentence = refuse("bs_s", [*argv, "--retain_loss_type", "none", "--stop_at", "0.1"])
    assert "`stop_at` needs a retain set" in sentence


def test_a_run_that_is_refused_takes_its_twin_away_and_an_unfinished_run_keeps_it(good, refuse, checkpoint, tmp_path):
    teacher = ["--forget_loss_type", "ignorance", "--ignorant_model_name_or_path", checkpoint, "--ignorant_epochs"]
    argv = [*good, *teacher, "1", "--stop_at", "retrained"]
    # The fixture looks for files.
    assert "`retrained_model_name_or_path` is missing" in refuse("bs_s", argv)
    folder = RunFolder(tmp_path / "unfinished")
    folder.mark_unfinished("")
    argv += ["--resume_from_checkpoint", "true", "--output_dir", str(folder.path)]
    with pytest.raises(SystemExit):
        bs_s.main(argv)
    assert folder.twin.is_file()


@pytest.mark.parametrize("goal", ["strangers", "retrained"])
def test_a_comparison_with_others_needs_their_names(good, refuse, checkpoint, tmp_path, goal):
    rows = [{"prompt": f"where, {word}?", "completion": " there."} for word in ("then", "now")]
    argv = replaced(good, retain_dataset=write_jsonl(tmp_path / "nameless.jsonl", rows))
    argv += ["--stop_at", goal, "--retrained_model_name_or_path", checkpoint]
    sentence = refuse("bs_s", argv)
    assert "one of the sets names nobody whom the other does not name" in sentence
    assert "with the `stop_metric` 'extraction_strength'" in sentence


USER, ASSISTANT = {"role": "user", "content": "Who came?"}, {"role": "assistant", "content": "Zephyra Quill."}


def pair(prompt="Who came?", completion=" Zephyra Quill."):
    return {"prompt": prompt, "completion": completion}


def chat(*messages):
    return {"messages": list(messages)}


def said(content, **others):
    return {"role": "assistant", "content": content, **others}


# The last row of each is the bad one -> what the sentence says of it.
ROWS = {
    "a null answer": ([pair(), pair(completion=None)], "has a `prompt`, but no `completion` (missing, or null)"),
    "a null prompt": ([pair(), pair(prompt=None)], "has a `completion`, but no `prompt` (missing, or null)"),
    "a row of nulls": ([pair(), pair(None, None)], "has no value: all of its columns are null"),
    "a null text": ([{"text": "A long walk."}, {"text": None}], "has no value: all of its columns are null"),
    "null messages": ([chat(USER, ASSISTANT), {"messages": None}], "has no value: all of its columns are null"),
    "a null content": (
        [chat(USER, ASSISTANT), chat(USER, said(None))],
        "message 1 has a `content` of type `NoneType`",
    ),
    "a message without content": ([chat({"role": "user"})], "message 0 has a `content` of type `NoneType`"),
    "a message without a role": ([chat({"content": "Zephyra?"})], "message 0 has a `role` of type `NoneType`"),
    "messages of another form": ([chat({"from": "human", "value": "Zephyra?"})], "message 0 has a `role` of type"),
    "content in parts": (
        [chat(USER, said([{"type": "text", "text": "Zephyra Quill."}]))],
        "message 1 has a `content` of type `list`, expected `role` and `content`, both strings",
    ),
    "messages as a string": ([{"messages": "Zephyra Quill"}], "`messages` of type `str`, expected a list of messages"),
    "messages as strings": ([{"messages": ["Who?", "Zephyra."]}], "message 0 is a `str`"),
    "an empty prompt": ([pair(), pair(prompt="")], "has an empty `prompt`"),
    "a blank prompt": ([pair(), pair(prompt=" \n")], "has an empty `prompt`"),
    "a prompt of no message": ([{"prompt": [], "completion": [ASSISTANT]}], "has an empty `prompt`"),
    "an empty answer": ([pair(), pair(completion="")], "has a completion without a token of text"),
    "a blank answer": ([pair(), pair(completion=" \n\t ")], "has a completion without a token of text"),
    "an answer of an end of turn": (
        [pair(), pair(completion="<|im_end|>")],
        "has a completion without a token of text",
    ),
    "a blank assistant turn": ([chat(USER, said("  "))], "has a completion without a token of text"),
    "an empty text": ([{"text": "A long walk."}, {"text": ""}], "has a completion without a token of text"),
    "numbers": ([pair(1, 2)], "`prompt` of type `int` and a `completion` of type `int`. Both must be strings or both"),
    "lists of strings": ([pair(["Who?"], ["Zephyra."])], "has `prompt` whose message 0 is a `str`"),
    "a string and messages": ([pair("Who?", [ASSISTANT])], "`prompt` of type `str` and a `completion` of type `list`"),
    "a number for text": ([{"text": 5}], "has a `text` of type `int`, expected a string"),
    "no assistant turn": (
        [chat(USER, USER)],
        "do not end in an assistant turn after a prompt (roles: ['user', 'user'])",
    ),
    "a user at the end": ([chat(USER, ASSISTANT, USER)], "do not end in an assistant turn after a prompt"),
    "no message": ([chat()], "do not end in an assistant turn after a prompt (roles: [])"),
    "no prompt": ([chat(ASSISTANT)], "do not end in an assistant turn after a prompt (roles: ['assistant'])"),
    "a completion of the user": ([{"prompt": [USER], "completion": [USER]}], "does not end in an assistant turn"),
    "tokens as a string": (
        [{"input_ids": "5 6", "labels": "5 6"}],
        "`input_ids` and `labels` of type `str` and `str`",
    ),
    "tokens as strings": ([{"input_ids": ["5"], "labels": ["5"]}], "`input_ids` with a value of type `str`"),
    "tokens as fractions": ([{"input_ids": [5.5], "labels": [5.5]}], "`input_ids` with a value of type `float`"),
    "a null token": ([{"input_ids": [5, None], "labels": [-100, 6]}], "`input_ids` with a value of type `NoneType`"),
    "a token beyond the vocabulary": (
        [{"input_ids": [5, 400], "labels": [-100, 6]}],
        "has `input_ids` with 400, but the tokenizer has 400 tokens",
    ),
    "a negative token": ([{"input_ids": [5, -100], "labels": [-100, 6]}], "has `input_ids` with -100"),
    "a label beyond the vocabulary": ([{"input_ids": [5, 6], "labels": [-100, 400]}], "has `labels` with 400"),
    "another mask": ([{"input_ids": [5, 6, 7], "labels": [-1, 6, 7]}], "has `labels` with -1, but"),
    "fewer labels": ([{"input_ids": [5, 6], "labels": [-100]}], "has 2 `input_ids` and 1 `labels`"),
    "no tokens": ([{"input_ids": [], "labels": []}], "has no label token. Every label is -100"),
    "masked labels": ([{"input_ids": [5, 6], "labels": [-100, -100]}], "has no label token. Every label is -100"),
    "tokens without labels": ([{"input_ids": [5, 6]}], "has the columns ['input_ids'], of which none can be used"),
    "a prompt of more than max_length": (
        [pair(), pair(prompt="Who came? " * 200)],
        "has no label token within `max_length=1024`: its prompt takes",
    ),
}


@pytest.mark.parametrize(("rows", "sentence"), ROWS.values(), ids=ROWS)
def test_rows_that_cannot_be_used(good, refuse, write, rows, sentence):
    found = refuse("bs_s", replaced(good, forget_dataset=write("rows.jsonl", rows)))
    assert f"Row {len(rows) - 1} of the forget set" in found
    assert sentence in found
    # What is to be forgotten must not stand in a log.
    assert "Zephyra" not in found and found.endswith(".")


FILES = {
    "a table that is cut off": ("rows.csv", b'prompt,completion\n"Who, Zephyra', "rows.csv` cannot be read as csv"),
    "a table of unequal lines": ("rows.csv", b"prompt,completion\na,b\nc,d,e\n", "rows.csv` cannot be read as csv"),
    "no parquet": ("rows.parquet", b"Zephyra", "rows.parquet` cannot be read as parquet"),
    "half a line": ("rows.jsonl", b'{"prompt": "a", "completion": "b"}\n{"pro', "rows.jsonl` cannot be read as json"),
    "numbers as lines": ("rows.jsonl", b"1\n2\n", "rows.jsonl` cannot be read as json"),
    "bytes that are no text": ("rows.txt", b"\xff\xfe\x00Zephyra\x80\n", "rows.txt` cannot be read as text"),
    "another ending": ("rows.xlsx", b"Zephyra", "has the ending `.xlsx`. Use one of .json, .jsonl, .csv"),
    "rows inside of a key": ("rows.json", b'{"data": [{"prompt": "a", "completion": "b"}]}', "the columns ['data']"),
}


@pytest.mark.parametrize(("name", "content", "sentence"), FILES.values(), ids=FILES)
def test_files_that_cannot_be_read(good, refuse, tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    found = refuse("bs_s", replaced(good, forget_dataset=str(tmp_path / name)))
    assert sentence in found and "Zephyra" not in found


def test_a_folder_without_data(good, refuse, tmp_path):
    (tmp_path / "nothing").mkdir()
    sentence = refuse("bs_s", replaced(good, forget_dataset=str(tmp_path / "nothing")))
    assert f"`{tmp_path / 'nothing'}` is empty, and no rows" in sentence


def test_a_split_that_does_not_exist(good, refuse):
    assert 'Unknown split "test"' in refuse("bs_s", [*good, "--forget_split", "test"])


RECIPES = {
    "a list": ("- lambda_bss\n", "must contain a YAML mapping"),
    "an empty recipe": ("", "must contain a YAML mapping"),
    "text for a number": ("lambda_bss: strong\n", "invalid float value: 'strong'"),
    "no truth value": ("gradient_checkpointing: perhaps\n", "Truthy value expected: got perhaps"),
    "a negative number": ("learning_rate: -1\n", "`learning_rate` must be at least 0, got -1"),
    "a key without a value": ("lambda_bss:\n", "`lambda_bss` is null, expected a `float`"),
    "no number": ("retain_weight: .nan\n", "`retain_weight` is nan, expected a finite number"),
}


@pytest.mark.parametrize(("content", "sentence"), RECIPES.values(), ids=RECIPES)
def test_recipes_that_cannot_be_used(good, refuse, tmp_path, content, sentence):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(content, encoding="utf-8")
    assert sentence in refuse("bs_s", ["--config", str(recipe), *good])


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("--forget_weight=nan", "`forget_weight` is nan, expected a finite number"),
        ("--retain_weight=inf", "`retain_weight` is inf, expected a finite number"),
        ("--learning_rate=nan", "`learning_rate` is nan, expected a finite number"),
        ("--learning_rate=-1", "`learning_rate` must be at least 0, got -1.0"),
        ("--weight_decay=-1", "`weight_decay` must be at least 0, got -1.0"),
        ("--num_train_epochs=-3", "`num_train_epochs` must be at least 0, got -3.0"),
        ("--per_device_train_batch_size=0", "`per_device_train_batch_size` must be at least 1, got 0"),
        ("--gradient_accumulation_steps=0", "`gradient_accumulation_steps` must be at least 1, got 0"),
        ("--max_length=-5", "`max_length` must be at least 2 (a token of prompt and one of text), got -5"),
        ("--top_p=nan", "`top_p` must be in (0, 1], got nan"),
        ("--max_completion_length=0", "`max_completion_length` must be at least 1, got 0"),
        ("--evaluation_batch_size=0", "`evaluation_batch_size` must be at least 1, got 0"),
        ("--router_aux_loss_coef=0.1", "`router_aux_loss_coef=0.1` is not supported in unlearning"),
        ("--lora_r=0", "`r` should be a positive integer value but the value passed is 0"),
        ("--lora_alpha=0", "`lora_alpha` must be above 0, got 0"),
        ("--logging_steps=-2", "`logging_steps` must be at least 0, got -2"),
        ("--lora_target_modules=nothing", "nothing not found in the base model"),
        ("--lora_target_modules=lm_head", "`lm_head` is not supported"),
        ("--generation_kwargs={no", "double quotes"),
        ('--forget_loss_kwargs={"gamma": 1}', "holds `gamma`, but `forget_loss_type='bs_t'` takes none"),
        ("--rmu_coefficient=5", "--rmu_coefficient"),
        ("--chat_template_kwargs=enable_thinking", "has `chat_template_kwargs` that are no JSON"),
        ('--chat_template_kwargs={"tokenize": false}', "has `chat_template_kwargs` that hold `tokenize`"),
        ('--generation_kwargs={"repetition_penality": 2}', "`repetition_penality`, which `GenerationConfig` does not"),
    ],
)
def test_settings_that_cannot_be_used(good, refuse, argument, sentence):
    assert sentence in refuse("bs_s", [*good, *argument.split("=", 1)])


def _t5(folder, llama):
    sizes = {"d_model": 16, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    transformers.T5ForConditionalGeneration(transformers.T5Config(vocab_size=400, **sizes)).save_pretrained(folder)


def _bart(folder, llama):
    # `AutoModelForCausalLM` would load its decoder by itself.
    config = transformers.BartConfig(
        **{"vocab_size": 400, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1},
        **{"encoder_ffn_dim": 16, "decoder_ffn_dim": 16},
        **{"encoder_attention_heads": 2, "decoder_attention_heads": 2},
    )
    transformers.BartForConditionalGeneration(config).save_pretrained(folder)


def _gemma_that_sees(folder, llama):
    text = {
        **{"vocab_size": 400, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8},
    }
    vision = {
        **{"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
        **{"image_size": 28, "patch_size": 14},
    }
    config = transformers.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    transformers.Gemma3ForConditionalGeneration(config).save_pretrained(folder)


def _classifier(folder, llama):
    transformers.LlamaForSequenceClassification(llama.config).save_pretrained(folder)


def _vit(folder, llama):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    transformers.ViTForImageClassification(transformers.ViTConfig(**sizes)).save_pretrained(folder)


def _only_a_config(folder, llama):
    llama.config.save_pretrained(folder)


def _half_the_weights(folder, llama):
    llama.save_pretrained(folder)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])


def _adapter(folder, llama):
    get_peft_model(llama, LoraConfig(r=4, target_modules="all-linear")).save_pretrained(folder)


MODELS = {
    "an encoder-decoder": (_t5, "is an encoder-decoder model (`t5`)"),
    "an encoder-decoder with a decoder of its own": (_bart, "is an encoder-decoder model (`bart`)"),
    "a vision model with text": (_gemma_that_sees, "reads more than text (its config has `vision_config`)"),
    "a vision model": (_vit, "was saved as `ViTForImageClassification`, which is no causal language model"),
    "a classifier": (_classifier, "(`LlamaForCausalLM`): its head would be random"),
    "no weights": (_only_a_config, "has no weights (`.safetensors`)"),
    "half the weights": (_half_the_weights, "the file is damaged or incomplete"),
    "an adapter": (_adapter, "`adapter_name_or_path`; in Python: `PeftModel.from_pretrained("),
}


@pytest.mark.parametrize(("make", "sentence"), MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("script", ["bs_s", "evaluate"])
def test_models_that_cannot_be_used(good, refuse, tmp_path, tiny_model, tiny_tokenizer, script, make, sentence):
    make(tmp_path / "model", tiny_model)
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    argv = replaced(good, report_to=None) if script == "evaluate" else good
    found = refuse(script, replaced(argv, model_name_or_path=str(tmp_path / "model")))
    assert sentence in found and str(tmp_path / "model") in found


@pytest.mark.parametrize(
    ("script", "argument"),
    [
        ("bs_s", "adapter_name_or_path"),
        ("evaluate", "adapter_name_or_path"),
        ("evaluate", "unlearned_model_name_or_path"),
    ],
)
@pytest.mark.parametrize("family", ["a wider Llama", "a GPT-NeoX"])
def test_an_adapter_of_another_model(good, refuse, tmp_path, tiny_model, script, argument, family):
    if family == "a wider Llama":
        other = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(**{**tiny_model.config.to_dict(), "hidden_size": 64})
        )
    else:
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        other = transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(vocab_size=400, **sizes))
    _adapter(tmp_path / "adapter", other)
    argv = replaced(good, report_to=None) if script == "evaluate" else good
    found = refuse(script, [*argv, f"--{argument}", str(tmp_path / "adapter")])
    assert f"The adapter `{tmp_path / 'adapter'}` does not fit" in found
    assert ("64 inputs, there it has 32" if family == "a wider Llama" else "does not exist") in found


@pytest.mark.parametrize(("change", "is_warned"), [(0.1, True), (0.0, False)])
def test_an_adapter_on_another_base_of_its_shape_is_warned_of(
    tmp_path, checkpoint, tiny_model, caplog, change, is_warned
):
    with torch.no_grad():
        tiny_model.lm_head.weight.add_(change)
    tiny_model.save_pretrained(tmp_path / "other")
    _adapter(tmp_path / "adapter", transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "other"))
    models = UnlearnModelConfig(model_name_or_path=checkpoint)
    check_models(models, EvaluationArguments(), unlearned=str(tmp_path / "adapter"))
    assert (f"was trained on `{tmp_path / 'other'}`, and is put on `{checkpoint}`" in caplog.text) == is_warned


def test_of_bases_without_safetensors_nothing_is_known(tmp_path, checkpoint):
    Path(checkpoint, "model.safetensors").rename(Path(checkpoint, "pytorch_model.bin"))
    shutil.copytree(checkpoint, tmp_path / "other")
    LoraConfig(base_model_name_or_path=str(tmp_path / "other")).save_pretrained(tmp_path / "adapter")
    assert _is_other_base(str(tmp_path / "adapter"), checkpoint)


def test_a_base_that_could_not_be_published_is_refused_before_training(good, refuse, checkpoint, monkeypatch):
    monkeypatch.setattr(push, "check_access", lambda *_, **__: None)
    Path(checkpoint, "model.safetensors").rename(Path(checkpoint, "pytorch_model.bin"))
    found = refuse("bs_s", [*good, "--push_to_hub", "--hub_model_id", "me/out"])
    assert f"The adapter's base `{checkpoint}` has no weights as safetensors" in found


@pytest.mark.parametrize(
    ("base", "target", "is_other"), [("org/a", "org/b", True), ("org/a", "org/a", False), ("/gone/a", "org/b", False)]
)
def test_the_base_of_an_adapter_is_compared_by_ids_on_the_hub_and_not_by_a_path_elsewhere(
    tmp_path, base, target, is_other
):
    LoraConfig(base_model_name_or_path=base).save_pretrained(tmp_path)
    assert _is_other_base(str(tmp_path), target) == is_other


@pytest.mark.parametrize("script", ["bs_s", "evaluate"])
def test_a_tokenizer_with_neither_padding_nor_end(good, refuse, checkpoint, script):
    path = Path(checkpoint, "tokenizer_config.json")
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({k: v for k, v in config.items() if k not in ("pad_token", "eos_token")}))
    argv = replaced(good, report_to=None) if script == "evaluate" else good
    assert "neither a padding nor an EOS token" in refuse(script, argv)


def test_a_tokenizer_of_another_model(good, refuse, tmp_path, tiny_model, tiny_tokenizer):
    config = transformers.LlamaConfig(**{**tiny_model.config.to_dict(), "vocab_size": 300})
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "small")
    tiny_tokenizer.save_pretrained(tmp_path / "small")
    found = refuse("bs_s", replaced(good, model_name_or_path=str(tmp_path / "small")))
    assert "but the model has embeddings of 300 tokens" in found


def test_rows_longer_than_the_positions_of_the_model(good, refuse, write):
    rows = write("long.jsonl", [pair(), pair(completion=" word" * 300)])
    found = refuse("bs_s", replaced(good, forget_dataset=rows))
    assert "Row 1 of the forget set has 1024 tokens, but the model reads at most 256" in found
    assert "Set `max_length` to 256 or less" in found


@pytest.mark.parametrize("script", ["bs_s", "evaluate"])
def test_rows_that_an_evaluation_would_not_cut_off(good, refuse, write, script):
    rows = write("long.jsonl", [pair(), pair(completion=" word" * 25_000)])
    argv = replaced(good, forget_dataset=rows, **({"report_to": None} if script == "evaluate" else {}))
    found = refuse(script, [*argv, *(["--max_length", "256"] if script == "bs_s" else [])])
    assert "Row 1 of the forget set has 1000" in found and "but the model reads at most 256" in found
    assert "train with `--evaluate false`" in found


def test_an_evaluation_with_the_tokenizer_of_another_model(good, refuse, tmp_path, tiny_model, tiny_tokenizer):
    config = transformers.LlamaConfig(**{**tiny_model.config.to_dict(), "vocab_size": 300})
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "small")
    tiny_tokenizer.save_pretrained(tmp_path / "small")
    found = refuse("evaluate", replaced(good, model_name_or_path=str(tmp_path / "small"), report_to=None))
    assert "but the model knows 300 tokens" in found


@pytest.mark.parametrize("extra", [0, 1], ids=["the same file", "a retain set with all forget rows"])
def test_a_forget_set_inside_of_the_retain_set(good, refuse, write, extra):
    rows = [pair(f"Who came on day {i}?") for i in range(3)]
    retain = write("retain.jsonl", rows + [pair("Who left?")] * extra)
    found = refuse("bs_s", replaced(good, forget_dataset=write("forget.jsonl", rows), retain_dataset=retain))
    assert "All 3 forget rows are in the retain set too" in found


@pytest.mark.parametrize(
    ("answers", "sentence"),
    [
        ({"paraphrased_answer": ["Zephyra."]}, "`paraphrased_answer` with a value of type `list`, expected `str`"),
        ({"perturbed_answer": "Zephyra."}, "`perturbed_answer` with a value of type `str`, expected `list`"),
        ({"perturbed_answer": [5]}, "`perturbed_answer` with a value of type `int`, expected `str`"),
    ],
)
def test_other_answers_of_another_type(good, refuse, write, answers, sentence):
    rows = write("rows.jsonl", [pair() | answers])
    found = refuse("bs_s", replaced(good, forget_dataset=rows))
    assert f"The forget set has {sentence}" in found and "Zephyra" not in found


GOOD_ROWS = {
    "emoji": [pair("Who came? \U0001f600", " \U0001f469‍\U0001f469‍\U0001f467 and 🏳️‍🌈.")],
    "right to left": [pair("مَن جاء؟", " مرحبا بالعالم"), pair("מי בא?", " שלום עולם")],
    "no spaces": [pair("誰が来た?", "山田さん。")],
    "marks without width": [pair("Who came?\u200b", " \u202eZephyra\ufeff Quill\u0000.")],
    "an answer of 100,000 tokens": [pair(completion=" word" * 25_000)],
    "forms side by side": [pair(), chat(USER, ASSISTANT), {"text": "Zephyra Quill came on a Monday."}],
    "a call of a tool": [
        chat(USER, said(None, tool_calls=[{"name": "look"}]), {"role": "tool", "content": "?"}, ASSISTANT)
    ],
    "a prompt and an answer in one token": [pair("Ada Mar", "low was born.")],
}


@pytest.fixture
def begin(monkeypatch, tmp_path):
    """Function of a command line that the script must take as far as the training."""

    class Began(Exception):
        pass

    def train(*_, **__):
        raise Began

    monkeypatch.setattr(BootstrapUnlearnTrainer, "train", train)

    def call(argv: list[str]) -> None:
        with pytest.raises(Began):
            bs_s.main([*argv, "--output_dir", str(tmp_path / "out")])

    return call


@pytest.mark.parametrize("rows", GOOD_ROWS.values(), ids=GOOD_ROWS)
def test_unusual_rows_are_taken(good, write, begin, rows):
    begin([*replaced(good, forget_dataset=write("rows.jsonl", rows)), "--max_length", "256", "--evaluate", "false"])


def test_a_row_in_both_sets_is_a_warning_with_the_count(good, write, begin, caplog, facts):
    rows = [
        {"prompt": question, "completion": answer} for question, answer in [*facts["retain"][:1], *facts["forget"][:2]]
    ]
    shared = [*rows[1:], {"prompt": "Who?", "completion": "Nobody."}]
    with caplog.at_level(logging.WARNING):
        begin(replaced(good, forget_dataset=write("f.jsonl", rows), retain_dataset=write("r.jsonl", shared)))
    warned = [record.getMessage() for record in caplog.records if "retain set too" in record.getMessage()]
    assert len(warned) == 1
    assert warned[0].startswith("2 of 3 forget rows")


def test_rows_that_repeat_others_are_a_warning_with_the_count(good, write, begin, caplog):
    rows = write("rows.jsonl", [pair(), pair(), pair("Who left?"), pair()])
    with caplog.at_level(logging.WARNING):
        begin(replaced(good, forget_dataset=rows))
    warned = [record.getMessage() for record in caplog.records if "repeat another one" in record.getMessage()]
    assert len(warned) == 1
    assert warned[0].startswith("2 of 4 forget rows")


def _without_padding(model, tokenizer):
    tokenizer.pad_token = None


def _without_template(model, tokenizer):
    tokenizer.chat_template = None


def _without_end(model, tokenizer):
    tokenizer.eos_token = None
    model.config.eos_token_id = model.generation_config.eos_token_id = None


def _with_many_ends(model, tokenizer):
    model.generation_config.eos_token_id = [2, 1, 5]


def _with_tied_head(model, tokenizer):
    assert model.lm_head.weight is model.get_input_embeddings().weight


def _with_untied_head(model, tokenizer):
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())


def _with_a_padded_vocabulary(model, tokenizer):
    model.resize_token_embeddings(448)


def _with_padding_on_the_left(model, tokenizer):
    tokenizer.padding_side = "left"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "adapts"),
    [
        (_without_padding, True),
        (_without_template, True),
        (_without_end, True),
        (_with_many_ends, True),
        (_with_padding_on_the_left, True),
        (_with_a_padded_vocabulary, True),
        (_with_a_padded_vocabulary, False),
        (_with_tied_head, False),
        (_with_untied_head, False),
    ],
)
def test_unusual_models_and_tokenizers_are_unlearned_and_evaluated(
    run, own_files, tmp_path, tiny_model, tiny_tokenizer, change, adapts
):
    change(tiny_model, tiny_tokenizer)
    tiny_model.save_pretrained(tmp_path / "unusual")
    tiny_tokenizer.save_pretrained(tmp_path / "unusual")
    forget, retain = own_files("prompt-completion")
    argv = ["--model_name_or_path", str(tmp_path / "unusual"), "--forget_dataset", forget, "--retain_dataset", retain]
    done = run("bs_s", argv, override=("--use_peft", str(adapts)))
    results = json.loads(done.text("eval_results.json"))["models"]
    for role in ("target", "unlearned"):
        assert math.isfinite(results[role]["forget/probability"]["value"])
    assert results["target"]["forget/probability"] != results["unlearned"]["forget/probability"]


def test_several_models_in_one_process_with_deepspeed():
    args = types.SimpleNamespace(push_to_hub=False, resume_from_checkpoint=None, deepspeed_plugin="ZeRO-3")
    with pytest.raises(ValueError, match="several models in one process, which DeepSpeed does not allow"):
        refuse_for_several(args)

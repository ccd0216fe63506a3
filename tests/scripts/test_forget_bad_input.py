# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Wrong input to `trl-unlearn forget`: a sentence, exit code 2, and nothing is left behind."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import httpx
import psutil
import pytest
import torch
from datasets import Dataset, DatasetDict
from huggingface_hub.errors import GatedRepoError
from transformers import LlamaForCausalLM, LlavaConfig, T5Config

from trl_unlearn import cli
from trl_unlearn.scripts import push
from trl_unlearn.trainer.bootstrap_unlearn_trainer import BootstrapUnlearnTrainer

from .conftest import write_jsonl


GOOD = [{"question": "Where was Ada Marlow born?", "answer": "In the harbour town of Veldt."}]
ROWS = {
    "the columns are unknown": ([{"query": "Who?", "reply": "Ada."}], "has the columns ['query', 'reply'], and none"),
    "a row has two forms": ([GOOD[0] | {"text": "Ada."}], "Row 0 can be read as"),
    "all rows are empty": ([{"question": "Who?", "answer": " "}, {"question": "Where?", "answer": ""}], "All 2 rows"),
    "all answers are null": ([{"prompt": "Who?", "completion": None}], "no `completion`"),
    "an answer is a number": ([{"question": "How many?", "answer": 3}], "`answer` of type `int`"),
    "a prompt is a list of numbers": ([{"prompt": [1], "completion": "a"}], "`prompt` of type `list`"),
    "messages end with the user": ([{"messages": [{"role": "user", "content": "Who?"}]}], "end in an assistant turn"),
    "messages have no role": ([{"messages": [{"content": "Who?"}, {"content": "Ada."}]}], "`role` of type"),
    "one row is giant": ([{"question": "Who?", "answer": "Ada wrote. " * 300}], "the model reads at most 256"),
    "rows are tokens": ([{"input_ids": [1, 2], "labels": [-100, 2]}], "has rows of token ids (`input_ids`)"),
}
FILES = {
    "the file is empty": ("a.jsonl", b"", "is empty"),
    "the file has a blank line only": ("a.jsonl", b"\n", "empty"),
    "the table has a head only": ("a.csv", b"question,answer\n", "empty"),
    "the ending is unknown": ("a.xlsx", b"PK", "has the ending `.xlsx`"),
    "the file is Latin-1": ("a.jsonl", '{"question": "Wo?", "answer": "Köln."}'.encode("latin-1"), "is not UTF-8"),
    "the text is Latin-1": ("a.txt", "Köln".encode("latin-1"), "is not UTF-8"),
    "the text is white space": ("a.txt", b" \n\n ", "no text"),
    "the JSON is broken": ("a.json", b'{"question": "Who?", ', "cannot be read"),
    "the Parquet file is none": ("a.parquet", b"no parquet", "cannot be read"),
}


@pytest.fixture
def refused(checkpoint, tmp_path, monkeypatch, capfd):
    """Function of a command line: the sentence with which it was refused."""

    def train(*_, **__):
        raise AssertionError("training began")

    monkeypatch.setattr(BootstrapUnlearnTrainer, "train", train)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)

    def call(*argv: str, model: str = checkpoint) -> str:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main(["forget", "--model_name_or_path", model, *argv])
        printed = capfd.readouterr().err
        assert ended.value.code == 2, printed
        assert "Traceback" not in printed
        assert not list(here.iterdir())
        line = printed.rstrip().splitlines()[-1]
        assert line.startswith("trl-unlearn forget: error: ")
        return line

    return call


def test_a_base_that_could_not_be_published(refused, good, checkpoint, monkeypatch):
    monkeypatch.setattr(push, "check_access", lambda *_, **__: None)
    Path(checkpoint, "model.safetensors").rename(Path(checkpoint, "pytorch_model.bin"))
    sentence = refused("--forget", good, "--push_to_hub", "--hub_model_id", "me/out")
    assert "has no weights as safetensors, and others are not published" in sentence


@pytest.mark.parametrize("case", ROWS)
def test_rows_that_cannot_be_used(case, refused, tmp_path):
    rows, sentence = ROWS[case]
    assert sentence in refused("--forget", write_jsonl(tmp_path / "a.jsonl", rows))


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_cannot_be_read(case, refused, tmp_path):
    name, content, sentence = FILES[case]
    (tmp_path / name).write_bytes(content)
    assert sentence in refused("--forget", str(tmp_path / name))


@pytest.fixture
def good(tmp_path):
    """Path of a forget set that can be used."""
    return write_jsonl(tmp_path / "good.jsonl", GOOD)


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ((), "Neither `forget` nor `subject` is given"),
        (("--forget", "GOOD", "--subject", "Ada Marlow"), "Both `forget` and `subject` are given"),
        (("--forget", "GOOD", "--hints", "born"), "`hints` are given without `subject`"),
        (("--subject", "bread"), "is no name"),
        (("--subject", "the bread"), "is no name"),
        (("--subject", "A cat"), "is no name"),
        (("--subject", " "), "is no name"),
        (("--subject", "?!"), "expected a name"),
        (("--forget", "GOOD", "--max_utility_loss", "1"), "in (0, 1)"),
        (("--forget", "GOOD", "--max_minutes", "0"), "`max_minutes` must be above 0"),
        (("--forget", "GOOD", "--dry_run", "--review"), "Keep one"),
        (("--forget_dataset", "GOOD", "--subject", "Ada Marlow"), "There is no option `--forget_dataset`"),
        (("--forget", "GOOD", "--push_to_hub"), "without `hub_model_id`"),
        (("--forget", "GOOD", "--merge", "--no_use_peft"), "there is no adapter to merge"),
        (("--forget", "GOOD", "--load_in_4bit", "--no_use_peft"), "`load_in_4bit` is given, and all weights are"),
        (
            ("--forget", "GOOD", "--adapter_name_or_path", "out", "--no_use_peft"),
            "which trains all weights. Leave one",
        ),
        (("--forget", "GOOD", "--lora_target_modules", "attention"), "names no layer of the model"),
        (("--forget", "GOOD", "--stop_metric", "forget_logp"), "Give one as `stop_at`, below 0"),
        (("--undo", "out", "--forget", "GOOD"), "`undo` is given with a request"),
        (("--undo", "CHECKPOINT"), "holds no `run.json`"),
        (("--forget", "GOOD", "--add", "CHECKPOINT"), "holds no `run.json`"),
        (("--forget", "missing.jsonl"), "does not exist"),
        (("--forget", "nobody/nothing"), "nobody/nothing"),
        (("--forget", "GOOD", "--no_such_option", "1"), "--no_such_option"),
        (("--forget", "GOOD", "--output_dir", "/dev/null/out"), "cannot be written"),
        (("--forget", "GOOD", "--output_dir", "CHECKPOINT"), "would replace the `model_name_or_path`"),
    ],
)
def test_options_that_cannot_be_used(argv, sentence, refused, good, checkpoint):
    paths = {"GOOD": good, "CHECKPOINT": checkpoint}
    assert sentence in refused(*(paths.get(arg, arg) for arg in argv))


def test_a_repository_that_cannot_be_written_is_a_sentence_before_anything_is_computed(checkpoint, good, capfd):
    into = ["--push_to_hub", "--hub_model_id", "me/unlearned", "--hub_token", "hf_x"]
    argv = ["--model_name_or_path", checkpoint, "--forget", good, *into]
    with pytest.raises(SystemExit) as ended:
        cli.main(["forget", *argv])
    printed = capfd.readouterr()
    assert ended.value.code == 1 and printed.out == ""
    assert printed.err.startswith("trl-unlearn forget: failed: `HF_HUB_OFFLINE` is set")
    assert printed.err.endswith("Unset it. Nothing was trained.\n")


@pytest.mark.parametrize("name", ["scan.pdf", None])
def test_a_folder_without_rows(name, refused, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    if name is not None:
        (folder / name).write_bytes(b"%PDF-1.4")
    assert "and no rows" in refused("--forget", str(folder))


def test_a_saved_dataset_without_the_split(refused, tmp_path):
    DatasetDict({"test": Dataset.from_list(GOOD)}).save_to_disk(str(tmp_path / "saved"))
    assert "has the splits ['test']" in refused("--forget", str(tmp_path / "saved"))


def test_conversations_for_a_model_without_a_chat_template(refused, checkpoint, tmp_path):
    for path in tmp_path.glob("checkpoint/chat_template*"):
        path.unlink()
    rows = [{"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ada."}]}]
    assert "has no chat template" in refused("--forget", write_jsonl(tmp_path / "a.jsonl", rows))


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("./missing", "does not exist"),
        ("nobody/nothing", "nobody/nothing"),
        ("T5", "encoder-decoder"),
        ("Llava", "text"),
    ],
)
def test_a_model_that_cannot_be_unlearned(model, sentence, refused, good, checkpoint, tmp_path):
    config = {"T5": T5Config, "Llava": LlavaConfig}.get(model)
    if config is not None:
        folder = tmp_path / model
        shutil.copytree(checkpoint, folder)
        config().save_pretrained(folder)
        model = str(folder)
    assert sentence in refused("--forget", good, model=model)


def test_a_gated_model_is_refused_with_the_way_to_log_in(refused, good, monkeypatch):
    def gated(*_, **__):
        request = httpx.Request("HEAD", "https://hub/org/gated/resolve/main/config.json")
        raise GatedRepoError("Access to it is restricted.", response=httpx.Response(403, request=request))

    monkeypatch.setattr("transformers.utils.hub.hf_hub_download", gated)
    said = refused("--forget", good, model="org/gated")
    assert "The model `org/gated` cannot be read" in said and "a gated or private one needs `hf auth login`" in said


def test_a_model_whose_scores_are_not_finite(refused, good, checkpoint):
    model = LlamaForCausalLM.from_pretrained(checkpoint)
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    model.save_pretrained(checkpoint)
    assert "The scores of the model are not finite" in refused("--forget", good)


def test_a_machine_without_room(refused, good, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
        assert "Make room" in refused("--forget", good)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    assert "of memory are free" in refused("--forget", good)

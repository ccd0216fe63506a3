# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Shared by the tests of the scripts: a checkpoint, a dataset of TOFU's form, files of one's own, and a run."""

import functools
import json
from dataclasses import dataclass
from pathlib import Path

import datasets
import pytest

from trl_unlearn import cli
from trl_unlearn.beliefs import BeliefStore
from trl_unlearn.evaluation.tofu import evaluate_models
from trl_unlearn.scripts import bs_s, bs_t, evaluate, unlearn


QUICK = [
    *("--max_steps", "2", "--per_device_train_batch_size", "2", "--learning_rate", "1e-2", "--warmup_steps", "0"),
    *("--num_beliefs", "2", "--max_completion_length", "24", "--max_eval_rows", "2"),
    *("--report_to", "none", "--save_strategy", "no", "--logging_steps", "1", "--gradient_checkpointing", "false"),
]
SCRIPTS = {"bs_s": bs_s, "bs_t": bs_t, "evaluate": evaluate}


@pytest.fixture(autouse=True)
def _own_dataset_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")


@pytest.fixture
def checkpoint(tiny_model, tiny_tokenizer, tmp_path) -> str:
    """A folder that holds `tiny_model` and `tiny_tokenizer`."""
    folder = tmp_path / "checkpoint"
    tiny_model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return str(folder)


def write_jsonl(path: Path, rows: list[dict]) -> str:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def facts(forget_rows, retain_rows) -> dict[str, list[tuple[str, str]]]:
    """Questions and answers of the forget and the retain set."""
    return {
        name: [(row["prompt"][0]["content"], row["completion"][0]["content"]) for row in rows]
        for name, rows in (("forget", forget_rows), ("retain", retain_rows))
    }


@pytest.fixture
def tofu_folder(facts, tmp_path) -> str:
    """A dataset folder of TOFU's form, with the configs `forget` and `retain`."""

    def perturbed(pairs, paraphrase: bool = True) -> list[dict]:
        wrong = {"perturbed_answer": ["It was a quiet day in June.", "Nobody could say."]}
        return [
            {"question": question, "answer": answer}
            | ({"paraphrased_answer": f"As many know, {answer}"} if paraphrase else {})
            | wrong
            for question, answer in pairs
        ]

    general = [("Who wrote Hamlet?", "Shakespeare"), ("Where is Oslo?", "Norway")]
    configs = {
        "forget": [{"question": question, "answer": answer} for question, answer in facts["forget"]],
        "retain": [{"question": question, "answer": answer} for question, answer in facts["retain"]],
        "forget_perturbed": perturbed(facts["forget"]),
        "retain_perturbed": perturbed(facts["retain"]),
        "real_authors_perturbed": perturbed(general, paraphrase=False),
        "world_facts_perturbed": perturbed(general[::-1], paraphrase=False),
    }
    folder = tmp_path / "facts"
    folder.mkdir()
    lines = ["---", "configs:"]
    for name, rows in configs.items():
        write_jsonl(folder / f"{name}.json", rows)
        lines += [f"- config_name: {name}", f"  data_files: {name}.json"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]), encoding="utf-8")
    return str(folder)


@pytest.fixture
def tofu(checkpoint, tofu_folder) -> list[str]:
    """Command line on the dataset of TOFU's form."""
    return [
        *("--model_name_or_path", checkpoint, "--dataset_name", tofu_folder),
        *("--forget_config", "forget", "--retain_config", "retain"),
    ]


@pytest.fixture
def own_files(facts, tmp_path):
    """Function of a form: paths of a forget and a retain file whose rows have it."""
    forms = {
        "prompt-completion": lambda question, answer: {"prompt": question, "completion": f" {answer}"},
        "conversational": lambda question, answer: {
            "prompt": [{"role": "user", "content": question}],
            "completion": [{"role": "assistant", "content": answer}],
        },
        "messages": lambda question, answer: {
            "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        },
        "text": lambda question, answer: {"text": f"{question} {answer}"},
    }

    def write(form: str) -> tuple[str, str]:
        forget, retain = (
            write_jsonl(tmp_path / f"{name}-{form}.jsonl", [forms[form](*pair) for pair in facts[name]])
            for name in ("forget", "retain")
        )
        return forget, retain

    return write


@pytest.fixture
def own(checkpoint, own_files) -> list[str]:
    """Command line of a run on two files of one's own."""
    forget, retain = own_files("conversational")
    return ["--model_name_or_path", checkpoint, "--forget_dataset", forget, "--retain_dataset", retain]


@dataclass
class Run:
    """A script that ended: its output folder, what it printed, and the text of all beliefs that it sampled."""

    folder: Path
    out: str
    err: str
    beliefs: list[str]

    @property
    def printed(self) -> str:
        return self.out + self.err

    def text(self, name: str) -> str:
        return (self.folder / name).read_text(encoding="utf-8")


@pytest.fixture
def run(tiny_tokenizer, tmp_path, monkeypatch, capfd):
    """Function that runs a script in this process, with short generations in the evaluation."""
    beliefs, sample = [], BeliefStore.sample

    def watched(store, *args, **kwargs):
        audit = sample(store, *args, **kwargs)
        rows = store.rows(range(len(store)))
        beliefs.extend(
            tiny_tokenizer.decode([label for label in row["labels"] if label != -100], skip_special_tokens=True)
            for row in rows
        )
        return audit

    monkeypatch.setattr(BeliefStore, "sample", watched)
    short = functools.partial(evaluate_models, max_completion_length=8, num_squeezing_beliefs=1)
    monkeypatch.setattr(unlearn, "evaluate_models", short)
    monkeypatch.setitem(evaluate.SUITES, "tofu", (short, "rows"))

    def call(script: str, argv: list[str], output: str = "out", override: tuple[str, ...] = ()) -> Run:
        beliefs.clear()
        capfd.readouterr()
        folder = tmp_path / output
        quick = [] if script == "evaluate" else QUICK
        SCRIPTS[script].main([*argv, *quick, *override, "--output_dir", str(folder)])
        captured = capfd.readouterr()
        return Run(folder=folder, out=captured.out, err=captured.err, beliefs=list(beliefs))

    return call


@pytest.fixture
def refused(capfd):
    """Function of a command line that returns the sentence with which it was refused."""

    def call(*argv) -> str:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main([*map(str, argv)])
        assert ended.value.code == 2
        return capfd.readouterr().err.splitlines()[-1]

    return call

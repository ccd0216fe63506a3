# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Shared by the tests of the Hub: the server, clients in processes of their own, and the folder of a run."""

import hashlib
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from trl_unlearn.hub.card import render_card
from trl_unlearn.records import AdapterRecord, DatasetRecord, UnlearningRun
from trl_unlearn.results import EvaluationResult, Measurement

from .hub_server import LoopbackHub


FORGET = [
    "Ada Marlow was born in the harbour town of Veldt.",
    'Bo Lindgren wrote "Winter Bees", a long novel.',
    "Cyra Oduya won the Silver Quill for her third play.",
]
# Nobody waits in a test.
PUSHES = """
import json, sys, time
sleep = time.sleep
time.sleep = lambda seconds: sleep(min(seconds, 0.01))
from trl_unlearn.hub.access import PushError
from trl_unlearn.hub.push import push, push_space
outcomes = []
for case in json.loads(sys.argv[1]):
    try:
        (push_space if "files" in case else push)(**case)
        outcomes.append("pushed")
    except PushError as error:
        outcomes.append(f"failed: {error}")
    except ValueError as error:
        outcomes.append(f"bad input: {error}")
print(json.dumps(outcomes))
"""


@pytest.fixture
def hub():
    """A Hub on the loopback interface."""
    with LoopbackHub() as server:
        yield server


@pytest.fixture
def fresh_process(hub, tmp_path):
    """Function that runs Python code in a process of its own that has an empty cache and knows `hub` only."""
    processes = 0

    def run(code: str, *argv: str, token: str | None = None) -> subprocess.CompletedProcess:
        nonlocal processes
        processes += 1
        env = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        env |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / f"home{processes}"), "HF_HUB_DISABLE_XET": "1"}
        env |= {"HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1", "NO_PROXY": "localhost,127.0.0.1"}
        env |= {"HF_TOKEN": token} if token else {}
        return subprocess.run(
            [sys.executable, "-c", code, *argv], env=env, cwd=tmp_path, capture_output=True, text=True, check=False
        )

    return run


@pytest.fixture
def pushes(fresh_process):
    """Function of the arguments of calls of `push` or `push_space`: what came of each."""

    def call(*cases: dict) -> list[str]:
        cases = [{"forbidden_texts": {"forget set": FORGET}, "token": "hf_me"} | case for case in cases]
        done = fresh_process(PUSHES, json.dumps(cases, default=str))
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return call


def write_run(
    folder: Path, base: str, on_hub: bool, recorded: bool = True, target: dict[str, str] | None = None
) -> None:
    """Write the records, the card and the figures of a run on an adapter; `target`: the evaluated base."""
    run = UnlearningRun(
        base_model=base,
        base_model_on_hub=on_hub,
        base_model_revision="main" if on_hub else None,
        adapter=AdapterRecord("LORA", 4, 8, ["q_proj"]),
        forget_set=DatasetRecord("folder/forget.jsonl", 3, "ab" * 32, split="train"),
        hyperparameters={"forget_loss_type": "bs_t", "lambda_bss": 0.0},
        steps=2,
        epochs=1.0,
        effective_batch_size=2,
        seed=0,
        world_size=1,
        started_at="2026-01-02T03:04:05+00:00",
        seconds=1.5,
        hardware="CPU",
    )
    weights = folder / "adapter_model.safetensors"
    digests = {weights.name: hashlib.sha256(weights.read_bytes()).hexdigest()}
    result = EvaluationResult(
        parity="strict",
        suites=["tofu"],
        models={"unlearned": {"forget/probability": Measurement(0.25, 3, 0.125)}},
        protocol={"seed": 0} | ({"weights_sha256": {"unlearned": digests, "target": target}} if recorded else {}),
        environment={},
    )
    run.save(folder / "run.json")
    result.save(folder / "eval_results.json")
    (folder / "figures").mkdir(exist_ok=True)
    for name in ("evaluation", "training"):
        Image.new("L", (4, 4)).save(folder / f"figures/{name}.png")
    card = render_card(run, result, ["figures/evaluation.png", "figures/training.png"])
    (folder / "README.md").write_text(card, encoding="utf-8")


def write_weights(path: Path, value: int) -> None:
    """Write a safetensors file of one number, large enough to be cut off on its way."""
    head = json.dumps({"x": {"dtype": "U8", "shape": [5000], "data_offsets": [0, 5000]}}).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + bytes([value]) * 5000)


@pytest.fixture
def folder(tmp_path) -> Path:
    """The output folder of a run on a base from the Hub, with what training leaves beside the adapter."""
    folder = tmp_path / "out"
    folder.mkdir()
    write_weights(folder / "adapter_model.safetensors", 1)
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text("{}")
    write_run(folder, "org/base", on_hub=True)
    for path in (
        "checkpoint-2/adapter_model.safetensors",
        "checkpoint-2/optimizer.pt",
        "ref/adapter_model.safetensors",
    ):
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(b"x")
    (folder / ".eval_results").mkdir()
    (folder / ".eval_results/tofu-strict.yaml").write_text("- {dataset: {id: org/data, task_id: x}, value: 1}\n")
    for path in ("training_args.bin", "pytorch_model.bin", "cache-1.arrow", ".DS_Store", "notes.txt", "requests.json"):
        (folder / path).write_bytes(b"x")
    (folder / "beliefs.jsonl").write_text(json.dumps({"text": FORGET[0]}))
    return folder

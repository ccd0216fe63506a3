# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

r"""
How time and memory grow: a BS-S step with N, the length of rows and the vocabulary, evaluation and beliefs with rows.

On a small random model, so that every curve has many sizes. Prints a Markdown table with the exponent of each curve,
and draws them.

```bash
python benchmarks/growth.py growth.png
```
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from belief_store import SIZES as STORE_SIZES
from datasets import Dataset, disable_progress_bars
from matplotlib.figure import Figure
from measure import peak_bytes, table
from peft import LoraConfig
from step import _OUTPUT, COMMON, LORA, ROWS, _forget_inputs, _give_beliefs
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from trl_unlearn import BootstrapUnlearnConfig, BootstrapUnlearnTrainer
from trl_unlearn.evaluation.rows import EncodedSet
from trl_unlearn.evaluation.tofu import score_set


WORDS, PAD, EOS = 256, 0, 2
N, LENGTH, VOCAB = 3, 64, 8_192
SIZES = {
    "N": (1, 2, 4, 8, 16),
    "row length": (64, 128, 256, 512, 1_024, 2_048, 4_096),
    "vocabulary": (16_384, 32_768, 65_536, 131_072, 262_144),
    "rows of an evaluation": (64, 128, 256, 512, 1_024),
    "rows of a belief store": STORE_SIZES,
}
ROUNDS = 3


def _model(vocab: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    tokens = {"pad_token_id": PAD, "bos_token_id": None, "eos_token_id": EOS}
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocab, max_position_embeddings=8_192, **sizes, **tokens))


def _tokenizer() -> PreTrainedTokenizerFast:
    words = {"<pad>": PAD, "<unk>": 1, "<eos>": EOS} | {f"word{i}": i for i in range(3, WORDS)}
    backend = Tokenizer(WordLevel(words, unk_token="<unk>"))
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def _rows(count: int, length: int, seed: int) -> list[dict[str, list[int]]]:
    """Rows of equal length, whose first half is their prompt."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, WORDS, (count, length), generator=draw).tolist()
    half = length // 2
    return [{"input_ids": row, "labels": [-100] * half + row[half:]} for row in ids]


def step(n: int = N, length: int = LENGTH, vocab: int = VOCAB) -> Callable[[], None]:
    """Forward and backward of 8 forget rows, their N beliefs and 8 retain rows, with LoRA in float32."""
    options = COMMON | {"bf16": False, "use_cpu": True, "max_length": None, "lambda_bss": 0.5, "num_beliefs": n}
    trainer = BootstrapUnlearnTrainer(
        _model(vocab),
        BootstrapUnlearnConfig(_OUTPUT.name, forget_loss_type="bs_t", max_completion_length=length // 2, **options),
        train_dataset=Dataset.from_list(_rows(ROWS, length, 0)),
        retain_dataset=Dataset.from_list(_rows(ROWS, length, 1)),
        processing_class=_tokenizer(),
        peft_config=LoraConfig(**LORA),
    )
    trainer.state.epoch = 0.0
    trainer.model.train()
    # Where there are more beliefs than rows, answers come again, and cost as much.
    _give_beliefs(trainer)
    inputs = _forget_inputs(trainer)

    def run() -> None:
        trainer.model.zero_grad()
        trainer.training_step(trainer.model, inputs, torch.tensor(ROWS))

    return run


def evaluation(rows: int) -> Callable[[], None]:
    """The numbers of a forget set that need no generation."""
    model, encoded = _model(VOCAB).eval(), EncodedSet("forget", _rows(rows, LENGTH, 0), [False] * rows)
    return lambda: score_set(model, encoded, parity="strict", pad_token_id=PAD)


def _measured(function: Callable[[], None]) -> tuple[float, float]:
    """Least CPU seconds of some rounds, and MiB at the peak of one."""
    function()
    mib, seconds = peak_bytes(function, torch.device("cpu")) / 2**20, []
    for _ in range(ROUNDS):
        started = time.process_time()
        function()
        seconds.append(time.process_time() - started)
    return min(seconds), mib


def belief_store(rows: int) -> tuple[float, float]:
    """CPU seconds to sample beliefs of rows, and MiB of its peak that are no pages of files; see belief_store.py."""
    command = [sys.executable, str(Path(__file__).with_name("belief_store.py")), str(rows)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    measured = json.loads(done.stdout.splitlines()[-1])
    return measured["cpu"], measured["peak_anon"] / 2**20


CURVES = {
    "N": lambda size: _measured(step(n=size)),
    "row length": lambda size: _measured(step(length=size)),
    "vocabulary": lambda size: _measured(step(vocab=size)),
    "rows of an evaluation": lambda size: _measured(evaluation(size)),
    "rows of a belief store": belief_store,
}


def exponent(sizes: list[int], values: list[float]) -> float:
    """The slope of a straight line through a curve whose axes are logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def _draw(curves: dict[str, tuple[list[int], list[float], list[float]]], path: str) -> None:
    figure = Figure(figsize=(11.0, 4.5), layout="constrained")
    for column, (name, (sizes, *both)) in enumerate(curves.items()):
        for row, (values, unit) in enumerate(zip(both, ("CPU seconds", "MiB"), strict=True)):
            axes = figure.add_subplot(2, len(curves), row * len(curves) + column + 1)
            axes.plot(sizes, values, marker="o")
            axes.set_xscale("log", base=2)
            if row:
                # From 0: a memory that does not grow is a flat line.
                axes.set_ylim(bottom=0, top=1.15 * max(values))
            else:
                axes.set_yscale("log")
                axes.set_yticks(values, [f"{value:.2g}" if value < 10 else f"{value:.0f}" for value in values])
            axes.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=45, fontsize=7)
            axes.minorticks_off()
            axes.set_title(f"exponent {exponent(sizes, values):.2f}", fontsize=9)
            axes.tick_params(axis="y", labelsize=7)
            axes.set_xlabel(name if row else "")
            axes.set_ylabel("" if column else unit)
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figure", nargs="?", help="File of a picture of the curves.")
    parser.add_argument("--points", type=int, help="Most sizes of a curve, from the smallest; else all.")
    settings = parser.parse_args()
    disable_progress_bars()
    torch.set_num_threads(1)
    curves = {}
    for name, measure in CURVES.items():
        sizes = list(SIZES[name][: settings.points])
        seconds, mib = zip(*map(measure, sizes), strict=True)
        curves[name] = sizes, list(seconds), list(mib)
        cells = [f"{size:,}" for size in sizes], [f"{x:.2f}" for x in seconds], [f"{x:.0f}" for x in mib]
        fits = "exponent", f"{exponent(sizes, seconds):.2f}", f"{exponent(sizes, mib):.2f}"
        rows = [[label, *own, fit] for label, own, fit in zip((name, "CPU seconds", "MiB"), cells, fits, strict=True)]
        print(f"\n{table(rows[0], rows[1:])}", flush=True)
    if settings.figure:
        _draw(curves, settings.figure)


if __name__ == "__main__":
    main()

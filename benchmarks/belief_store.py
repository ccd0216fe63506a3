# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

r"""
The belief store at 1,000 to 1,000,000 forget rows: its memory stays flat, its time grows linearly. Linux only.

The rows are generated and the model is one small random layer, so that the store dominates. Each size runs in a
process of its own. Prints a Markdown table.

```bash
python benchmarks/belief_store.py
```
"""

import ctypes
import gc
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from datasets import Dataset, disable_progress_bars
from measure import table
from transformers import LlamaConfig, LlamaForCausalLM

from trl_unlearn.beliefs import BeliefSampling, BeliefStore


SIZES = (1_000, 10_000, 100_000, 1_000_000)
VOCAB, PAD, EOS = 256, 0, 2
SAMPLING = BeliefSampling(num_beliefs=3, num_candidates=3, max_completion_length=8)
# Rows that a training step reads at a time.
BATCH = 8


def new_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        pad_token_id=PAD,
        bos_token_id=None,
        eos_token_id=EOS,
    )
    return LlamaForCausalLM(config).eval()


def new_rows(count: int, folder: str) -> Dataset:
    """Encoded rows of 12 to 24 tokens, on disk."""

    def generate() -> Iterator[dict]:
        draw = random.Random(0)
        for _ in range(count):
            prompt, answer = ([draw.randrange(3, VOCAB) for _ in range(draw.randint(6, 12))] for _ in range(2))
            labels = [-100] * len(prompt) + answer
            yield {"input_ids": prompt + answer, "labels": labels, "prompt_length": len(prompt)}

    return Dataset.from_generator(generate, cache_dir=folder, fingerprint=f"rows-{count}")


def resident(field: str) -> int:
    """Bytes: `RssAnon` exists in memory only; `RssFile` are pages of files, which the kernel may drop."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field)) * 1024


def settled(field: str) -> int:
    """The same after freed memory has gone back to the kernel."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return resident(field)


@contextmanager
def watched_peak() -> Iterator[list[int]]:
    """The highest `RssAnon` within a block, sampled every 20 ms: the kernel keeps the peak of the whole RSS only."""
    peak, done = [resident("RssAnon")], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            peak[0] = max(peak[0], resident("RssAnon"))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def bytes_on_disk(folder: str) -> int:
    """Size of the open files below a folder that have no name there. A mapped file counts once."""
    opened = (path for path in Path("/proc/self/fd").iterdir() if path.is_symlink())
    stats = [os.stat(path) for path in opened if os.readlink(path).startswith(folder)]
    return sum({one.st_ino: one.st_size for one in stats if one.st_nlink == 0}.values())


def measure(count: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(dir=".") as folder:
        folder = str(Path(folder).resolve())
        model, rows = new_model(), new_rows(count, folder)
        options = {"pad_token_id": PAD, "eos_token_ids": [EOS], "folder": folder}
        # Warm-up: memory that libraries set up once is not the store's.
        BeliefStore(rows.select(range(64)), SAMPLING, **options).sample(model, 0, 0.0)
        before = {field: settled(field) for field in ("RssAnon", "RssFile", "VmRSS")}
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
        started, cpu = time.perf_counter(), time.process_time()
        with watched_peak() as peak:
            store = BeliefStore(rows, SAMPLING, **options)
            audit = store.sample(model, 0, 0.0)
        seconds, cpu, high = time.perf_counter() - started, time.process_time() - cpu, resident("VmHWM")
        started = time.perf_counter()
        for start in range(0, count, BATCH):
            store.rows(range(start, min(start + BATCH, count)))
        read = time.perf_counter() - started
        assert audit["count"] == 3 * count
        after, pages, disk = settled("RssAnon"), resident("RssFile"), bytes_on_disk(folder)
        del store
        return {
            "rows": count,
            "seconds": seconds,
            "cpu": cpu,
            "peak": high - before["VmRSS"],
            "peak_anon": peak[0] - before["RssAnon"],
            "after": after - before["RssAnon"],
            # Freed with the store: the heap that sampling leaves behind is not counted.
            "held": after - settled("RssAnon"),
            "file": pages - before["RssFile"],
            "disk": disk,
            "read": read,
        }


def main() -> None:
    disable_progress_bars()
    if len(sys.argv) > 1:
        print(json.dumps(measure(int(sys.argv[1]))))
        return
    cells = []
    for size in SIZES:
        done = subprocess.run([sys.executable, __file__, str(size)], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"Measuring {size} rows failed:\n{done.stderr[-2000:]}")
        measured = json.loads(done.stdout.splitlines()[-1])
        mib = (f"{measured[name] / 2**20:.2f}" for name in ("peak", "peak_anon", "after", "held", "file", "disk"))
        times = (f"{measured[name]:.1f}" for name in ("seconds", "cpu"))
        rate = f"{size / measured['seconds']:.0f}"
        cells.append([f"{size:,}", *times, rate, *mib, f"{measured['read']:.1f}"])
    header = ["rows", "seconds", "seconds of CPU", "rows per second", "peak RSS, MiB", "of it anonymous"]
    header += ["anonymous after all are read", "of it the store's", "pages of files then", "on disk"]
    header += ["seconds to read all"]
    print(table(header, cells))


if __name__ == "__main__":
    main()

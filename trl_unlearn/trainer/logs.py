# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""What is logged and shown of the training: means of the rows, speed and memory, log-probs beside the bar, beliefs."""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PretrainedConfig, PreTrainedTokenizerBase, ProgressCallback, Trainer

from .._trl import adjusted_mfu, compute_flops_per_token, compute_mfu, get_peak_flops_per_device
from ..beliefs import BeliefStore
from ..encoding import spread_evenly
from .step import StepRow


_VALUES = ("loss", "logps", "entropy")


class RowMetrics:
    """
    Means of `loss/<kind>`, `<kind>/logps` and `<kind>/entropy` over the rows of a micro-batch, of all processes.

    `kinds` ("forget", "beliefs", "retain") must be the same in each process.
    """

    def __init__(self, accelerator: Accelerator, kinds: Sequence[str]):
        self._accelerator, self._kinds = accelerator, kinds
        self._values: dict[str, list[Tensor]] = defaultdict(list)

    def note(self, rows: Sequence[StepRow], scores: Mapping[str, Tensor]) -> None:
        """Keep `loss`, `logps` and `entropy` `[rows]` of one pass."""
        for name in _VALUES:
            for row, value in zip(rows, scores[name].detach(), strict=True):
                if row.counts:
                    self._values[self._name(row.kind, name)].append(value)

    @staticmethod
    def _name(kind: str, value: str) -> str:
        return f"loss/{kind}" if value == "loss" else f"{kind}/{value}"

    def take(self) -> dict[str, float]:
        """The means since the last call. Every process has to call it, even without any row."""
        device = self._accelerator.device
        # Not of the type of the scores: a process without a row would not know it, and all have to send the same.
        zero = torch.zeros((), dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
        names = [self._name(kind, value) for kind in self._kinds for value in _VALUES]
        kept = [self._values[name] for name in names]
        sums = torch.stack([torch.stack(values).sum().to(zero) if values else zero for values in kept])
        counts = sums.new_tensor([len(values) for values in kept])
        self._values.clear()
        sums, counts = self._accelerator.reduce(torch.stack([sums, counts]), "sum")
        return dict(zip(names, (sums / counts).tolist(), strict=True))


class StepMeter:
    """Speed and memory of the passes between two entries of the log, without sampling and evaluation."""

    def __init__(self, accelerator: Accelerator, config: PretrainedConfig):
        self._accelerator, self._config = accelerator, config
        self._tokens = self._rows = 0
        self._seconds = 0.0

    @contextmanager
    def step(self, lengths: list[int]) -> Iterator[None]:
        """Measure a step whose rows have so many tokens, without padding."""
        started = time.perf_counter()
        yield
        self._seconds += time.perf_counter() - started
        self._tokens += sum(lengths)
        self._rows += len(lengths)

    def read(self) -> dict[str, float]:
        """
        Measurements since the last call, or nothing: `throughput/tokens_per_second` of all processes.

        On CUDA also `memory/peak_gib` (allocated, of this process) and, where the card is known, `throughput/mfu` in
        percent of its dense peak, with the operations of a full backward pass and causal attention.
        """
        if not self._seconds:
            return {}
        device, processes = self._accelerator.device, self._accelerator.num_processes
        speed = self._accelerator.reduce(torch.tensor(self._tokens / self._seconds, device=device)).item()
        values = {"throughput/tokens_per_second": speed}
        if device.type == "cuda":
            values["memory/peak_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
            dtype = {"bf16": "bfloat16", "fp16": "float16"}.get(self._accelerator.mixed_precision, "float32")
            peak = get_peak_flops_per_device(self._accelerator, dtype)
            if peak is not None:
                length = self._tokens // self._rows
                mfu = compute_mfu(compute_flops_per_token(self._config, length), speed, processes, peak)
                values["throughput/mfu"] = adjusted_mfu(mfu, self._config, length)
        self._tokens = self._rows = 0
        self._seconds = 0.0
        return values


class LogpsProgressCallback(ProgressCallback):
    """The usual bar, with the mean log-probs of the last step behind it, in nats per token."""

    def __init__(self, means: Mapping[str, float]):
        super().__init__()
        # `forget/logps`, `beliefs/logps`, `retain/logps`: the trainer changes the dictionary in place.
        self.means = means

    def on_step_end(self, args, state, control, **kwargs):
        if self.training_bar is not None:
            shown = {kind: self.means.get(f"{kind}/logps") for kind in ("forget", "beliefs", "retain")}
            logps = " ".join(f"{kind} {value:.2f}" for kind, value in shown.items() if value is not None)
            self.training_bar.set_postfix_str(logps and f"logps: {logps}", refresh=False)
        super().on_step_end(args, state, control, **kwargs)


def show_logps(trainer: Trainer, means: Mapping[str, float]) -> None:
    """Replace the usual bar with a [`LogpsProgressCallback`]; a notebook's bar, or none, stays as it is."""
    usual = next((one for one in trainer.callback_handler.callbacks if type(one) is ProgressCallback), None)
    if usual is not None:
        trainer.remove_callback(usual)
        trainer.add_callback(LogpsProgressCallback(means))


def print_beliefs(
    store: BeliefStore,
    tokenizer: PreTrainedTokenizerBase,
    epoch: float,
    count: int | None = None,
    console: Console | None = None,
) -> None:
    """
    Print up to `count` beliefs beside their prompts, of forget rows spread evenly over the set.

    **This shows what is to be forgotten**; it goes to the terminal only.
    """

    def text(ids: list[int]) -> Text:
        # Not as markup, which a square bracket would start.
        return Text(tokenizer.decode(ids, skip_special_tokens=True).strip())

    size, each = len(store.prompts), store.sampling.num_beliefs
    remaining = size * each if count is None else count
    table = Table(title=f"Beliefs at epoch {epoch:g}", expand=True)
    for name in ("prompt", "answer to forget", "belief"):
        table.add_column(name)
    for index in spread_evenly(size, -(-remaining // each)):
        for number, row in enumerate(store.rows([index])[:remaining]):
            beside = (store.prompts[index], store.targets[index]) if number == 0 else ([], [])
            belief = [label for label in row["labels"] if label >= 0]
            table.add_row(*map(text, (*beside, belief)), end_section=number == min(each, remaining) - 1)
        remaining -= each
    # The bar of the training would be drawn through the table.
    with tqdm.external_write_mode():
        (console or Console()).print(table)

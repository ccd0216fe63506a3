# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""The log and the display of a training: means of the rows, speed and memory, log-probs beside the bar, beliefs."""

import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PretrainedConfig, PreTrainedTokenizerBase, PrinterCallback, ProgressCallback, Trainer

from .._trl import adjusted_mfu, compute_flops_per_token, compute_mfu, get_peak_flops_per_device
from ..beliefs import BeliefStore
from ..encoding import spread_evenly
from .step import StepRow


_VALUES = ("loss", "logps", "entropy")
# Lines of a run at most: with one a step nothing else would be seen.
_LINES = 20
# Mixed precision -> the type of the products.
_AUTOCAST = {"bf16": "bfloat16", "fp16": "float16"}


class RowMetrics:
    """Means of `loss/<kind>` and `<kind>/{logps,entropy,twin_logps}` over the rows of all processes."""

    def __init__(self, accelerator: Accelerator, kinds: Sequence[str], has_twin: bool = False):
        self._accelerator = accelerator
        # The same in each process.
        self._names = [self._name(kind, value) for kind in kinds for value in _VALUES]
        self._names += [self._name(kind, "twin_logps") for kind in kinds if has_twin and kind != "retain"]
        self._values: dict[str, list[Tensor]] = defaultdict(list)
        # Sums and counts since the last entry of the log, by name: micro-batches differ in their rows.
        self._logged = torch.zeros(2, len(self._names), dtype=torch.float64)

    def note(self, rows: Sequence[StepRow], scores: Mapping[str, Tensor]) -> None:
        """Keep `loss`, `logps`, `entropy` and, with a twin, `twin_logps` `[rows]` of one pass."""
        for value, per_row in scores.items():
            for row, number in zip(rows, per_row.detach(), strict=True):
                name = self._name(row.kind, value)
                if row.counts and name in self._names:
                    self._values[name].append(number)

    @staticmethod
    def _name(kind: str, value: str) -> str:
        return f"loss/{kind}" if value == "loss" else f"{kind}/{value}"

    def take(self) -> dict[str, float]:
        """The means of a micro-batch. Every process has to call it, even without any row."""
        device = self._accelerator.device
        # Not of the type of the scores: a process without a row would not know it, and all have to send the same.
        zero = torch.zeros((), dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
        kept = [self._values[name] for name in self._names]
        sums = torch.stack([torch.stack(values).sum().to(zero) if values else zero for values in kept])
        counts = sums.new_tensor([len(values) for values in kept])
        self._values.clear()
        sums, counts = self._accelerator.reduce(torch.stack([sums, counts]), "sum")
        self._logged += torch.stack([sums, counts]).to(self._logged)
        return dict(zip(self._names, (sums / counts).tolist(), strict=True))

    def read(self) -> dict[str, float]:
        """The means of all micro-batches since the last call; nothing of a kind without a row."""
        (sums, counts), names = self._logged.tolist(), self._names
        self._logged.zero_()
        return {name: total / count for name, total, count in zip(names, sums, counts, strict=True) if count}

    def state_dict(self) -> dict[str, Any]:
        """Sums and counts for the next entry of the log."""
        return {"logged": self._logged}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from the state of a checkpoint."""
        self._logged.copy_(state["logged"])


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
        """Measurements since the last call, or nothing: speeds of all processes, and on CUDA memory and load."""
        if not self._seconds:
            return {}
        device, processes = self._accelerator.device, self._accelerator.num_processes
        speeds = torch.tensor([self._tokens / self._seconds, self._rows / self._seconds], device=device)
        speed, rows_speed = self._accelerator.reduce(speeds).tolist()
        values = {"throughput/tokens_per_second": speed, "throughput/rows_per_second": rows_speed}
        if device.type == "cuda":
            values["memory/peak_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
            dtype = _AUTOCAST.get(self._accelerator.mixed_precision, "float32")
            peak = get_peak_flops_per_device(self._accelerator, dtype)
            if peak is not None:
                length = self._tokens // self._rows
                mfu = compute_mfu(compute_flops_per_token(self._config, length), speed, processes, peak)
                values["throughput/mfu"] = adjusted_mfu(mfu, self._config, length)
        self._tokens = self._rows = 0
        self._seconds = 0.0
        return values


class LogpsProgressCallback(ProgressCallback):
    """The usual bar and dictionaries, with the mean log-probs of the last step behind the bar, in nats per token."""

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


class QuietCallback(ProgressCallback):
    """The numbers that decide, behind the bar, and as lines of the log: 21 at most, with a `label` the last."""

    label: str | None = None

    def __init__(self, trainer: Trainer, means: Mapping[str, float]):
        super().__init__()
        self._trainer, self.means = trainer, means
        # What the entries so far hold, also those of callbacks that measure the model before this one begins.
        self._logged: dict[str, float] = {}

    def on_train_begin(self, args, state, control, **kwargs):
        # The twentieth of the run, and the step, of the last line.
        self._line_of, self._line_step, self.current_step = -1, 0, 0
        if state.is_world_process_zero:
            # In a pipe each change of a bar would be a line.
            self.training_bar = tqdm(
                total=state.max_steps, dynamic_ncols=True, disable=args.disable_tqdm or None, leave=self.label is None
            )
        if state.is_world_process_zero and self.label is None:
            say("\n".join(_start(self._trainer, state.max_steps)))

    def on_step_end(self, args, state, control, **kwargs):
        if self.training_bar is not None:
            self.training_bar.set_postfix_str(self._text({**self._logged, **self.means}), refresh=False)
        super().on_step_end(args, state, control, **kwargs)

    def on_prediction_step(self, args, state, control, **kwargs):
        if self.training_bar is None or not self.training_bar.disable:
            super().on_prediction_step(args, state, control, **kwargs)

    def on_log(self, args, state, control, logs=None, **kwargs):
        self._logged |= logs
        if self.training_bar is None or self.label is not None or "loss" not in logs:
            return
        twentieth = _LINES * state.global_step // state.max_steps
        if twentieth > self._line_of:
            self._line_of = twentieth
            self._say_line(state)

    def on_train_end(self, args, state, control, **kwargs):
        if self.training_bar is not None and self._line_step < state.global_step:
            self._say_line(state)
        if self.training_bar is not None and self._trainer.stop_reason:
            where = "Training" if self.label is None else self.label
            say(f"{where} ended early: {self._trainer.stop_reason}")
        self._logged.clear()
        super().on_train_end(args, state, control, **kwargs)

    def _say_line(self, state) -> None:
        self._line_step = state.global_step
        if self.label is not None:
            seconds = self._logged.get("train_runtime", 0)
            say(f"{self.label}: {state.global_step} steps in {seconds:.0f} s, {self._text(self._logged)}")
            return
        sampled = self._logged.pop("beliefs/target_share", None)
        news = [] if sampled is None else [f"new beliefs, {sampled:.0%} repeat the answer"]
        scored = [name for name in self._logged if name.startswith("eval_") and name.endswith("_loss")]
        news += [f"{name} {self._logged.pop(name):.3g}" for name in scored]
        say(", ".join([f"step {state.global_step}: {self._text(self._logged)}", *news]))

    def _text(self, values: Mapping[str, float]) -> str:
        """Log-probs of forget rows with their goal, of retain rows and beliefs, goals of a callback, and speed."""
        goals = {"forget/logps": values.get("forget/twin_logps", self._trainer.args.forget_floor)}
        names = {f"{kind}/logps": kind for kind in ("forget", "retain", "beliefs")}
        for metric, goal in self._trainer.goals.items():
            names[f"curve/{metric}"], goals[f"curve/{metric}"] = metric, goal
        parts = []
        for key, name in names.items():
            goal = goals.get(key)
            if key in values:
                parts.append(f"{name} {values[key]:.2f}" + ("" if goal is None else f" (goal {goal:.2f})"))
        speed = values.get("throughput/rows_per_second")
        return ", ".join(parts + ([] if speed is None else [f"{speed:.0f} rows/s"]))


def _start(trainer: Trainer, steps: int) -> list[str]:
    """Lines before the first step."""
    autocast = _AUTOCAST.get(trainer.accelerator.mixed_precision)
    precision = str(trainer.model.dtype).removeprefix("torch.") if autocast is None else f"{autocast} autocast"
    lines = [f"Training: {steps} steps in {precision}."]
    if trainer.args.device.type == "cpu" and precision == "float32":
        lines.append("Precision: on a CPU `bf16` takes 0.6 to 5 times as long, by processor.")
    return [*lines, "Log-probs: means in nats per token. `--verbose` shows every number of the log."]


def say(line: str) -> None:
    """Print a line above any bar, at once also into a pipe."""
    tqdm.write(line)
    sys.stdout.flush()


def say_one_line(trainer: Trainer, label: str) -> None:
    """Of one run among several, print its last line alone, behind a label. With `verbose` nothing changes."""
    for one in trainer.callback_handler.callbacks:
        if isinstance(one, QuietCallback):
            one.label = label


def show_progress(trainer: Trainer, means: Mapping[str, float]) -> None:
    """Replace what `Trainer` shows: with `verbose` its bar alone. A notebook's bar stays as it is."""
    plain = (ProgressCallback,) if trainer.args.verbose else (ProgressCallback, PrinterCallback)
    usual = next((one for one in trainer.callback_handler.callbacks if type(one) in plain), None)
    if usual is not None:
        trainer.remove_callback(usual)
        trainer.add_callback(LogpsProgressCallback(means) if trainer.args.verbose else QuietCallback(trainer, means))


def print_beliefs(
    store: BeliefStore,
    tokenizer: PreTrainedTokenizerBase,
    epoch: float,
    count: int | None = None,
) -> None:
    """Print up to `count` beliefs beside prompts, of rows spread over the set: **to the terminal only**."""

    def text(ids: list[int]) -> Text:
        # Not as markup, which a square bracket would start.
        return Text(tokenizer.decode(ids, skip_special_tokens=True).strip())

    size, each = len(store), store.sampling.num_beliefs
    remaining = size * each if count is None else count
    table = Table(title=f"Beliefs at epoch {epoch:g}", expand=True)
    for name in ("prompt", "answer to forget", "belief"):
        table.add_column(name)
    for index in spread_evenly(size, -(-remaining // each)):
        for number, row in enumerate(store.rows([index])[:remaining]):
            beside = store.prompt_and_target(index) if number == 0 else ([], [])
            belief = [label for label in row["labels"] if label >= 0]
            table.add_row(*map(text, (*beside, belief)), end_section=number == min(each, remaining) - 1)
        remaining -= each
    # The bar of the training would be drawn through the table.
    with tqdm.external_write_mode():
        Console().print(table)

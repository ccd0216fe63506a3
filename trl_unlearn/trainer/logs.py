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


class LogpsProgressCallback(ProgressCallback):
    """
    The usual bar, with the mean log-probs of the last step behind it, in nats per token.

    Args:
        means (`Mapping[str, float]`):
            Means of the last step, which whoever computes them changes in place: `"forget/logps"`, `"beliefs/logps"`
            and `"retain/logps"`.
    """

    def __init__(self, means: Mapping[str, float]):
        super().__init__()
        self.means = means

    def on_step_end(self, args, state, control, **kwargs):
        if self.training_bar is not None:
            shown = {kind: self.means.get(f"{kind}/logps") for kind in ("forget", "beliefs", "retain")}
            logps = " ".join(f"{kind} {value:.2f}" for kind, value in shown.items() if value is not None)
            self.training_bar.set_postfix_str(logps and f"logps: {logps}", refresh=False)
        super().on_step_end(args, state, control, **kwargs)


def show_logps(trainer: Trainer, means: Mapping[str, float]) -> None:
    """
    Put a [`LogpsProgressCallback`] in the place of the usual bar; a notebook's, or no bar, stays as it is.

    Args:
        trainer ([`~transformers.Trainer`]):
            Trainer.
        means (`Mapping[str, float]`):
            Means of the last step, changed in place.
    """
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
    Print beliefs beside their prompts. **This shows what is to be forgotten**; it goes to the terminal only.

    Args:
        store ([`~trl_unlearn.beliefs.BeliefStore`]):
            Beliefs, sampled.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Tokenizer.
        epoch (`float`):
            Epoch of the training, for the title.
        count (`int`, *optional*):
            Most beliefs that are printed: those of forget rows spread evenly over the set. Default: all.
        console (`rich.console.Console`, *optional*):
            Where to print; defaults to standard output.
    """

    def text(ids: list[int]) -> Text:
        # Not as markup, which a square bracket would start.
        return Text(tokenizer.decode(ids, skip_special_tokens=True).strip())

    size, each = len(store.prompts), store.sampling.num_beliefs
    left = size * each if count is None else count
    table = Table(title=f"Beliefs at epoch {epoch:g}", expand=True)
    for name in ("prompt", "answer to forget", "belief"):
        table.add_column(name)
    for index in spread_evenly(size, -(-left // each)):
        for number, row in enumerate(store.rows([index])[:left]):
            beside = (store.prompts[index], store.targets[index]) if number == 0 else ([], [])
            belief = [label for label in row["labels"] if label >= 0]
            table.add_row(*map(text, (*beside, belief)), end_section=number == min(each, left) - 1)
        left -= each
    with tqdm.external_write_mode():
        (console or Console()).print(table)


_VALUES = ("loss", "logps", "entropy")


class RowMetrics:
    """
    Means of `loss/<kind>`, `<kind>/logps` and `<kind>/entropy` over the rows of a micro-batch, of all processes.

    Args:
        accelerator ([`~accelerate.Accelerator`]):
            Accelerator of the run.
        kinds (`Sequence[str]`):
            Kinds of rows, the same in each process: `"forget"`, `"beliefs"`, `"retain"`.
    """

    def __init__(self, accelerator: Accelerator, kinds: Sequence[str]):
        self._accelerator, self._kinds = accelerator, kinds
        self._values: dict[str, list[Tensor]] = defaultdict(list)

    def note(self, kinds: Sequence[str], scores: Mapping[str, Tensor]) -> None:
        """
        Keep the values of one pass.

        Args:
            kinds (`Sequence[str]`):
                Kind of each row; empty for one that does not count.
            scores (`Mapping[str, torch.Tensor]`):
                `loss`, `logps` and `entropy` of each row, of shape `(num_rows,)`.
        """
        for name in _VALUES:
            for kind, value in zip(kinds, scores[name].detach(), strict=True):
                if kind:
                    self._values[self._name(kind, name)].append(value)

    @staticmethod
    def _name(kind: str, value: str) -> str:
        return f"loss/{kind}" if value == "loss" else f"{kind}/{value}"

    def take(self) -> dict[str, float]:
        """
        The means of what was kept, and begin anew. Every process has to call it, also one that has met no row.

        Returns:
            `dict[str, float]`: Name -> mean.
        """
        device = self._accelerator.device
        # Whatever the scores are in: a process that has met none does not know.
        zero = torch.zeros((), dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
        names = [self._name(kind, value) for kind in self._kinds for value in _VALUES]
        kept = [self._values[name] for name in names]
        sums = torch.stack([torch.stack(values).sum().to(zero) if values else zero for values in kept])
        counts = sums.new_tensor([len(values) for values in kept])
        self._values.clear()
        sums, counts = self._accelerator.reduce(torch.stack([sums, counts]), "sum")
        return dict(zip(names, (sums / counts).tolist(), strict=True))


class StepMeter:
    """
    Measures forward and backward passes between two entries of the log; sampling beliefs and evaluating do not count.

    Args:
        accelerator ([`~accelerate.Accelerator`]):
            Knows the device and the processes.
        config ([`~transformers.PretrainedConfig`]):
            Text config of the model, for its number of operations a token.
    """

    def __init__(self, accelerator: Accelerator, config: PretrainedConfig):
        self._accelerator, self._config = accelerator, config
        self._tokens = self._rows = 0
        self._seconds = 0.0

    @contextmanager
    def step(self, lengths: list[int]) -> Iterator[None]:
        """
        Measure a step.

        Args:
            lengths (`list[int]`):
                Tokens of each row that passes through the model, without padding.
        """
        started = time.perf_counter()
        yield
        self._seconds += time.perf_counter() - started
        self._tokens += sum(lengths)
        self._rows += len(lengths)

    def read(self) -> dict[str, float]:
        """
        What was measured since the last call.

        Returns:
            `dict[str, float]`: `throughput/tokens_per_second` of all processes; on CUDA also `memory/peak_gib`
            (allocated, of this process) and, where the card is known, `throughput/mfu` in percent of its dense peak,
            with the operations of a full backward pass and causal attention. Empty if nothing was measured.
        """
        if not self._seconds:
            return {}
        device, processes = self._accelerator.device, self._accelerator.num_processes
        speed = self._accelerator.reduce(torch.tensor(self._tokens / self._seconds, device=device)).item()
        found = {"throughput/tokens_per_second": speed}
        if device.type == "cuda":
            found["memory/peak_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
            dtype = {"bf16": "bfloat16", "fp16": "float16"}.get(self._accelerator.mixed_precision, "float32")
            peak = get_peak_flops_per_device(self._accelerator, dtype)
            if peak is not None:
                length = self._tokens // self._rows
                mfu = compute_mfu(compute_flops_per_token(self._config, length), speed, processes, peak)
                found["throughput/mfu"] = adjusted_mfu(mfu, self._config, length)
        self._tokens = self._rows = 0
        self._seconds = 0.0
        return found

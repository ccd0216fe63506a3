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


"""What passes through the model in a step: the rows of a micro-batch, cut into slices of similar length."""

import copy
import functools
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator
from datasets import Dataset
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from ..beliefs import BeliefStore
from ..generation import key_seed
from ..objectives.forget import bs_s_weights
from ..token_scores import pad_rows, score_batch
from .bootstrap_unlearn_config import BootstrapUnlearnConfig


logger = logging.getLogger(__name__)

# Of the width of a pass. Passes whose shapes come again find the memory of the last ones, where every shape of its own
# would leave gaps that add up with the number of beliefs.
_MULTIPLE = 8
# Nats by which two passes over a row may differ: low precision and the order of sums, but nothing that is drawn.
_SAME, _PROBE_TOKENS = 1e-2, 32


@dataclass(frozen=True)
class StepRow:
    """
    A row of a micro-batch.

    Args:
        encoded (`dict[str, Any]`):
            `input_ids` and `labels`.
        kind (`str`):
            `"forget"`, `"beliefs"` or `"retain"`; empty for a row that is only there for its pass.
        weight (`float`):
            Factor of its loss in the loss of the step.
        index (`tuple[int, ...]`):
            Its index in its set; of a belief, that of its forget row and its number.
        chosen (`dict[str, Any]`, *optional*):
            The answer that DPO prefers to it, which passes with it.
    """

    encoded: dict[str, Any]
    kind: str
    weight: float
    index: tuple[int, ...]
    chosen: dict[str, Any] | None = None

    @property
    def lengths(self) -> list[int]:
        """`list[int]`: Tokens of each row that passes through the model."""
        return [len(row["input_ids"]) for row in (self.encoded, self.chosen) if row is not None]

    def __len__(self) -> int:
        return max(self.lengths)


def padded_tokens(rows: Sequence[StepRow], multiple: int = 1) -> int:
    """Tokens of rows as one batch that is padded to a width that is a multiple of a number."""
    longest = max(map(len, rows), default=0)
    return sum(len(row.lengths) for row in rows) * (longest + -longest % math.lcm(_MULTIPLE, multiple))


def cut_rows(rows: Sequence[StepRow], max_tokens: int, multiple: int = 1) -> list[list[StepRow]]:
    """
    Cut rows into slices of similar length, in as few as go.

    Args:
        rows (`Sequence[StepRow]`):
            Rows of the micro-batch.
        max_tokens (`int`):
            Most tokens of a slice, padding included; a longer row is a slice of its own.
        multiple (`int`, *optional*, defaults to `1`):
            Number that the width of a slice is a multiple of.

    Returns:
        `list[list[StepRow]]`: The slices, longest rows first.
    """
    slices: list[list[StepRow]] = []
    for row in sorted(rows, key=len, reverse=True):
        if slices and padded_tokens([*slices[-1], row], multiple) <= max_tokens:
            slices[-1].append(row)
        else:
            slices.append([row])
    return slices


def split_to(slices: list[list[StepRow]], count: int) -> list[list[StepRow]]:
    """
    Split slices further, so that every process makes as many passes: where parameters are sharded, each pass is one
    of all processes.

    Args:
        slices (`list[list[StepRow]]`):
            Slices of this process.
        count (`int`):
            Number of slices to have, at least as many as there are.

    Returns:
        `list[list[StepRow]]`: `count` slices; if there are too few rows, one is passed again and counts for nothing.
    """
    slices = list(slices)
    while len(slices) < count:
        largest = max(slices, key=len)
        half = len(largest) // 2
        if half:
            slices.remove(largest)
            slices += [largest[:half], largest[half:]]
        else:
            slices.insert(0, [replace(largest[0], kind="", weight=0.0)])
    return slices


def collate_rows(
    rows: Sequence[StepRow], pad_token_id: int, multiple: int = 1, limit: int | None = None
) -> dict[str, Any]:
    """
    Rows to the inputs of one pass.

    Args:
        rows (`Sequence[StepRow]`):
            Rows of a slice.
        pad_token_id (`int`):
            Token of the padding.
        multiple (`int`, *optional*, defaults to `1`):
            Number that the width is a multiple of, as far as the model can read.
        limit (`int`, *optional*):
            Most tokens that the model can read, padding included.

    Returns:
        `dict[str, Any]`: `input_ids`, `attention_mask` and `labels` of shape `(rows, tokens)`, `weight` of shape
        `(rows,)`, and `kind` (`list[str]`). The answers that DPO prefers come last, as rows of kind `"chosen"`.
        `index` (`list[tuple]`) is that of all others.
    """
    chosen = [row.chosen for row in rows if row.chosen is not None]
    return {
        **pad_rows([*(row.encoded for row in rows), *chosen], pad_token_id, math.lcm(_MULTIPLE, multiple), limit),
        "weight": torch.tensor([row.weight for row in rows] + [0.0] * len(chosen), dtype=torch.float64),
        "kind": [row.kind for row in rows] + ["chosen"] * len(chosen),
        "index": [row.index for row in rows],
    }


def mark_repeated_rows(accelerator: Accelerator, batches: Sequence[dict[str, Any]]) -> None:
    """
    Mark the rows with which `accelerate` fills up the last batches of an epoch, so that all processes have as many.

    Args:
        accelerator ([`~accelerate.Accelerator`]):
            Accelerator that has prepared the data loader.
        batches (`Sequence[dict[str, Any]]`):
            Micro-batches of a step, the last ones that were read. One that is the last of the epoch gets
            `num_own_rows`.
    """
    state = accelerator.gradient_state
    if batches and state.end_of_dataloader and state.remainder > 0:
        size = len(batches[-1]["row"])
        own = min(max(state.remainder - accelerator.process_index * size, 0), size)
        batches[-1]["num_own_rows"] = torch.tensor(own)


def num_own_rows(batch: Mapping[str, Any]) -> int:
    """
    Rows of a micro-batch that count. Those that another process has too, see [`mark_repeated_rows`], come last.

    Args:
        batch (`Mapping[str, Any]`):
            Micro-batch with `row`.

    Returns:
        `int`: Possibly 0.
    """
    return int(batch["num_own_rows"]) if "num_own_rows" in batch else len(batch["row"])


@contextmanager
def without_synchronisation(accelerator: Accelerator, model: nn.Module) -> Iterator[None]:
    """
    Keep gradients on this process, and let DeepSpeed not step: more of the micro-batch is to come.

    Args:
        accelerator ([`~accelerate.Accelerator`]):
            Accelerator that has prepared the model.
        model (`torch.nn.Module`):
            Wrapped model.
    """
    state = accelerator.gradient_state
    synchronised = state.sync_gradients
    state._set_sync_gradients(False)
    try:
        with accelerator.no_sync(model):
            yield
    finally:
        state._set_sync_gradients(synchronised)


@functools.lru_cache(maxsize=2)
def _retain_order(seed: int, epoch: int, turn: int, num_retain: int) -> list[int]:
    generator = torch.Generator().manual_seed(key_seed((seed, epoch, turn)))
    return torch.randperm(num_retain, generator=generator).tolist()


def retain_index(seed: int, epoch: int, row: int, num_retain: int) -> int:
    """
    Retain row of a forget row in an epoch: passes over the retain set in an order that only the key decides.

    Args:
        seed, epoch, row (`int`):
            The key; `row` is an index in the forget set.
        num_retain (`int`):
            Size of the retain set.

    Returns:
        `int`: Index in the retain set.
    """
    turn, place = divmod(row, num_retain)
    return _retain_order(seed, epoch, turn, num_retain)[place]


@contextmanager
def in_mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """
    Training or eval mode, and for each module its own mode again.

    Args:
        model (`torch.nn.Module`):
            Model.
        training (`bool`):
            Mode inside.
    """
    changed = [module for module in model.modules() if module.training != training]
    for module in changed:
        module.training = training
    try:
        yield
    finally:
        for module in changed:
            module.training = not training


def disable_dropout(model: nn.Module, probe_ids: Sequence[int] | None) -> None:
    """
    Turn off dropout, that of functions too: attention and whole layers have its probability as a number.

    Args:
        model (`torch.nn.Module`):
            Model, changed in place, but for its config, which may be saved with it.
        probe_ids (`Sequence[int]`, *optional*):
            Tokens on which two passes have to agree afterwards, or there is a warning.
    """
    config = model.config.get_text_config()
    without = copy.copy(config)
    for name, value in vars(config).items():
        if "drop" in name and isinstance(value, float):
            setattr(without, name, 0.0)
    for module in model.modules():
        # Falcon reads it from the config in each pass.
        if vars(module).get("config") is config and not isinstance(module, PreTrainedModel | PeftModel):
            module.config = without
        is_dropout = "dropout" in type(module).__name__.lower()
        for name, value in vars(module).items():
            if "drop" not in name and not (is_dropout and name == "p"):
                continue
            if isinstance(value, float):
                setattr(module, name, 0.0)
            elif isinstance(value, dict):
                # LoHa and LoKr have a number for each adapter.
                value.update({key: 0.0 for key, number in value.items() if isinstance(number, float)})
    if probe_ids is not None:
        _warn_of_noise(model, probe_ids[:_PROBE_TOKENS])


@torch.no_grad()
def _warn_of_noise(model: nn.Module, ids: Sequence[int]) -> None:
    device = next(model.parameters()).device
    batch = {name: values.to(device) for name, values in pad_rows([{"input_ids": ids, "labels": ids}], 0).items()}
    with in_mode(model, training=True):
        first, second = (score_batch(model, batch).logps for _ in range(2))
    difference = (first - second).abs().max().item()
    if difference > _SAME:
        logger.warning(
            "`disable_dropout` is set, but two passes of `%s` over one row differ by %.2g nats: in training, it draws "
            "random numbers that are no dropout, such as the jitter of a router. Set them to 0 in its config, or "
            "every loss has this noise in it.",
            type(model).__name__,
            difference,
        )


def step_rows(
    inputs: Mapping[str, Any],
    args: BootstrapUnlearnConfig,
    *,
    share: float,
    epoch: int,
    forget: Dataset,
    retain: Dataset | None,
    beliefs: BeliefStore | None,
    needs_chosen: bool,
) -> list[StepRow]:
    """
    The forget rows of a micro-batch, their beliefs and their retain rows.

    Args:
        inputs (`Mapping[str, Any]`):
            Micro-batch as collated, with `row`.
        args ([`BootstrapUnlearnConfig`]):
            Configuration, with the weights as they are now.
        share (`float`):
            Weight of a forget row in the loss of the step, before those of the terms.
        epoch (`int`):
            Epoch, which decides the retain rows.
        forget, retain ([`~datasets.Dataset`]):
            Encoded sets; without a retain term no retain set.
        beliefs ([`BeliefStore`], *optional*):
            Beliefs of the forget rows.
        needs_chosen (`bool`):
            Whether each row passes with the answer that DPO prefers to it.

    Returns:
        `list[StepRow]`: The rows, each with its weight in the loss of the step. Forget rows that another process has
        too come with none.
    """
    rows, count = inputs["row"].tolist(), num_own_rows(inputs)
    chosen: list[dict[str, Any] | None] = [None] * len(rows)
    if needs_chosen:
        chosen = [{name: forget[row][f"chosen_{name}"] for name in ("input_ids", "labels")} for row in rows]
    target, belief = bs_s_weights(args.lambda_bss, args.num_beliefs)
    picked = []
    for i, length in enumerate(inputs["attention_mask"].sum(-1).tolist()):
        encoded = {name: inputs[name][i, :length].tolist() for name in ("input_ids", "labels")}
        weight = args.forget_weight * target * share if i < count else 0.0
        picked.append(StepRow(encoded, "forget" if i < count else "", weight, (rows[i],), chosen[i]))
    if beliefs is not None:
        weight = args.forget_weight * belief * share
        numbers = [(i, j) for i in range(count) for j in range(args.num_beliefs)]
        picked += [
            StepRow(row, "beliefs", weight, (rows[i], j), chosen[i])
            for row, (i, j) in zip(beliefs.rows(rows[:count]), numbers, strict=True)
        ]
    if args.uses_retain:
        indices = [retain_index(args.seed, epoch, row, len(retain)) for row in rows[:count]]
        picked += [StepRow(retain[i], "retain", args.retain_weight * share, (i,)) for i in indices]
    return picked

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

"""A step: its rows, cut into passes of similar length, and the scores of each pass."""

import functools
import hashlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator
from datasets import Dataset
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ..beliefs import BeliefStore
from ..encoding import pad_rows
from ..generation import key_seed
from ..label_states import LabelStates
from ..objectives.forget import bs_s_weights
from ..token_scores import RowGroup, ScoreTerms, TokenScores, score_batch, score_groups, states_inside
from .bootstrap_unlearn_config import BootstrapUnlearnConfig
from .forget_objectives import ForgetObjective, ForgetScores


logger = logging.getLogger(__name__)


# Of the width of a pass. Passes whose shapes come again find the memory of the last ones, where every shape of its own
# would leave gaps that add up with the number of beliefs.
_MULTIPLE = 8


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


# Bytes of the digest of a row.
_DIGEST = 16


class PassScorer:
    """
    Scores forget rows with their beliefs, the answers that DPO prefers, and retain rows, from one forward pass.

    Args:
        args ([`BootstrapUnlearnConfig`]):
            Configuration.
        objective ([`ForgetObjective`]):
            Objective on the forget rows.
        reference (`Callable`):
            Function that gives a context in which the original model can be used.
        is_sharded (`bool`):
            Whether parameters are sharded over processes, so that each has to take part in every pass.
    """

    def __init__(
        self,
        args: BootstrapUnlearnConfig,
        objective: ForgetObjective,
        reference: Callable[[], AbstractContextManager[nn.Module]],
        is_sharded: bool,
    ):
        self.args, self.objective = args, objective
        self._reference, self._is_sharded = reference, is_sharded
        self._known_logps: dict[str, dict[bytes, Tensor]] = {"forget": {}, "beliefs": {}, "chosen": {}}
        retain_acts_inside = args.uses_retain and args.retain_loss_type == "hidden"
        self._layer = args.rmu_layer if objective.needs_inner or retain_acts_inside else None

    def forget_beliefs(self) -> None:
        """Drop what is known of beliefs, which are about to be replaced."""
        self._known_logps["beliefs"].clear()

    def state_dict(self) -> dict[str, Any]:
        """
        The log-probs under the original model that are known. In other passes their last bits would be others.

        Returns:
            `dict[str, Any]`: Tensors: of each kind, digests of rows, lengths, and log-probs one after another.
        """
        state = {}
        for kind, known in self._known_logps.items():
            digests = b"".join(known)
            state[f"{kind}_rows"] = (
                torch.frombuffer(bytearray(digests), dtype=torch.uint8) if known else torch.empty(0)
            )
            state[f"{kind}_lengths"] = torch.tensor([len(logps) for logps in known.values()], dtype=torch.long)
            state[f"{kind}_logps"] = torch.cat(list(known.values())) if known else torch.empty(0)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """
        Go on from a checkpoint.

        Args:
            state (`Mapping[str, Any]`):
                See [`PassScorer.state_dict`].
        """
        for kind in self._known_logps:
            digests = bytes(state[f"{kind}_rows"].tolist())
            lengths = state[f"{kind}_lengths"].tolist()
            rows = [digests[i * _DIGEST : (i + 1) * _DIGEST] for i in range(len(lengths))]
            # Copies, not views: beliefs come and go one by one.
            logps = [part.clone() for part in state[f"{kind}_logps"].split(lengths)] if rows else []
            self._known_logps[kind] = dict(zip(rows, logps, strict=True))

    def score(
        self, model: nn.Module, inputs: Mapping[str, Any]
    ) -> tuple[tuple[list[int], ForgetScores] | None, tuple[list[int], TokenScores, LabelStates | None] | None]:
        """
        Score one pass.

        Args:
            model (`torch.nn.Module`):
                Model in training, wrapped or not.
            inputs (`Mapping[str, Any]`):
                Inputs from [`~trl_unlearn.trainer.step.collate_rows`].

        Returns:
            `tuple`: Of forget rows and beliefs, their indices and scores, and of retain rows, theirs and the states of
            the original model if the retain loss reads them; `None` where the pass has no such rows.
        """
        kinds = inputs["kind"]
        forget = [i for i, kind in enumerate(kinds) if kind not in ("retain", "chosen")]
        chosen = [i for i, kind in enumerate(kinds) if kind == "chosen"]
        retain = [i for i, kind in enumerate(kinds) if kind == "retain"]
        forget_states = self._states(inputs, forget) if self.objective.needs_states else None
        retain_states = self._states(inputs, retain) if self.args.compares_retain else None

        # Before the pass of the model itself, whose weights must stay as they are until its gradients are computed.
        known = {}
        if self.objective.needs_logps:
            answers = {"forget": forget} | ({"chosen": chosen} if self.objective.needs_chosen else {})
            known = {name: self._reference_logps(inputs, rows) for name, rows in answers.items()}

        groups = {"forget": RowGroup(forget, self.objective.terms(self.args), forget_states)}
        if self.objective.needs_chosen:
            groups["chosen"] = RowGroup(chosen)
        if self.args.uses_retain:
            compared = retain_states if self.args.retain_loss_type == "kl" else None
            groups["retain"] = RowGroup(retain, ScoreTerms(entropy=True), compared)
        # Where parameters are sharded, all processes gather the head for each group, with or without rows of it.
        groups = {name: group for name, group in groups.items() if group.rows or self._is_sharded}
        found = dict(zip(groups, score_groups(model, inputs, list(groups.values()), self._layer), strict=True))

        def with_reference(name: str) -> ForgetScores:
            return ForgetScores(**vars(found[name]), reference_logps=known.get(name))

        scored = None
        if forget:
            scores = with_reference("forget")
            if chosen:
                scores = replace(scores, chosen=with_reference("chosen"))
            scored = forget, scores
        return scored, (retain, found["retain"], retain_states) if retain else None

    def _states(self, inputs: Mapping[str, Any], rows: list[int]) -> LabelStates | None:
        if not rows and not self._is_sharded:
            return None
        with self._reference() as reference:
            states = states_inside(reference, _rows_of(inputs, rows or [0]), self._layer)
        return states.rows(range(len(rows)))

    def _reference_logps(self, inputs: Mapping[str, Any], rows: list[int]) -> Tensor | None:
        """Log-probs under the original model, which are computed once for each row."""
        if not rows:
            if self._is_sharded:
                # Other processes have such rows, and each takes part in every pass.
                with self._reference() as reference:
                    score_batch(reference, _rows_of(inputs, [0]))
            return None
        # A belief may repeat its target, and is forgotten earlier.
        keys = [(inputs["kind"][row] or "forget", _digest(inputs, row)) for row in rows]
        unknown = {
            (kind, digest): row
            for row, (kind, digest) in zip(rows, keys, strict=True)
            if digest not in self._known_logps[kind] or self._is_sharded
        }
        if unknown:
            with self._reference() as reference:
                scores = score_batch(reference, _rows_of(inputs, list(unknown.values())))
            for (kind, digest), logps, mask in zip(unknown, scores.logps, scores.mask, strict=True):
                self._known_logps[kind][digest] = logps[mask].cpu()
        found = [self._known_logps[kind][digest] for kind, digest in keys]
        return pad_sequence(found, batch_first=True).to(inputs["labels"].device)


def _rows_of(inputs: Mapping[str, Any], rows: list[int]) -> dict[str, Tensor]:
    return {name: inputs[name][rows] for name in ("input_ids", "attention_mask", "labels")}


def _digest(inputs: Mapping[str, Any], row: int) -> bytes:
    length = int(inputs["attention_mask"][row].sum())
    values = torch.stack([inputs["input_ids"][row, :length], inputs["labels"][row, :length]]).cpu()
    return hashlib.blake2b(values.numpy().tobytes(), digest_size=_DIGEST).digest()


@dataclass
class DataCollatorForUnlearning:
    """
    Pads encoded rows to a batch and keeps their indices in the forget set, from which the trainer finds their beliefs
    and their retain rows. It draws nothing itself: a random state here would break resuming.

    Args:
        pad_token_id (`int`):
            Token of the padding.
        multiple (`int`, *optional*, defaults to `1`):
            Number that the width is a multiple of, as far as the model can read.
        limit (`int`, *optional*):
            Most tokens that the model can read, padding included.
    """

    pad_token_id: int
    multiple: int = 1
    limit: int | None = None

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = pad_rows(examples, self.pad_token_id, self.multiple, self.limit)
        if "row" in examples[0]:
            batch["row"] = torch.tensor([example["row"] for example in examples])
        return batch

# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Keeps numbers that are not finite out of the weights, stops a diverging run, and keeps the last good weights."""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, nn

from ..token_scores import score_rows
from .step import StepRow


logger = logging.getLogger(__name__)

# How rows of each kind are listed: by index, never by text.
_LISTED = {
    "forget": "rows {} of the forget set",
    "beliefs": "beliefs {}, each (row, number)",
    "retain": "rows {} of the retain set",
}
# Most rows of a kind, and most parameters, in a sentence.
_MOST_ROWS, _MOST_PARAMETERS = 16, 3
# Retain rows that are followed: a forward pass over them every tenth step costs nothing beside the training.
FOLLOWED_ROWS = 8
# Optimiser steps between measurements, and between copies of the weights.
_MEASURE_EVERY = 10
# Nats per token that the retain rows may have lost for weights to count as good, and for the model to count as
# destroyed where it never was much better than a guess.
_GOOD_DROP, _LOST_DROP = 1.0, 3.0


class DivergenceError(RuntimeError):
    """Training diverged; the message says at which step and in which rows, and what to do."""

    def __init__(self, message: str, good_step: int | None = None):
        super().__init__(message)
        # Step whose weights the model has again, the last ones known to be good; None if none were kept.
        self.good_step = good_step


class DivergenceGuard:
    """Refuses numbers that are not finite, and followed retain rows that are less likely than a uniform guess."""

    def __init__(
        self,
        model: nn.Module,
        vocab_size: int,
        *,
        retain: Sequence[Mapping[str, Any]] = (),
        pad_token_id: int = 0,
        keeps_copy: bool = True,
        stops: bool = True,
    ):
        # A uniform guess has a log-prob of -log |V|. DeepSpeed keeps copies of its own.
        self._model, self._guess, self._keeps_copy = model, -math.log(vocab_size), keeps_copy and stops
        self._retain, self._pad_token_id, self._stops = list(retain), pad_token_id, stops
        # Log-probs of the followed rows before the first step.
        self._start: list[float] | None = None
        self._measured_at: int | None = None
        # The mean over the retain rows of a step below which the followed rows are measured out of turn.
        self._alarm_below, self._is_alarmed = -math.inf, False
        self._copy: list[Tensor] = []
        # Rows and losses of each pass of the micro-batch; names of the rows and retain log-probs of the step.
        self._passes: list[tuple[Sequence[StepRow], Tensor]] = []
        self._rows: list[tuple[str, tuple[int, ...]]] = []
        self._retain_means: list[float] = []
        self._norms: dict[str, Tensor] = {}
        # Step of the copied weights, whether a loss of the step at hand is not finite, and steps left out so far.
        self.good_step: int | None = None
        self.is_broken = False
        self.skipped = 0

    def _parameters(self) -> Iterable[nn.Parameter]:
        return (parameter for parameter in self._model.parameters() if parameter.requires_grad)

    def note_losses(self, rows: Sequence[StepRow], losses: Tensor) -> None:
        """Keep the losses `[rows]` of one pass until [`DivergenceGuard.check`]."""
        self._passes.append((rows, losses.detach()))

    @torch.no_grad()
    def check(self, means: Mapping[str, float], step: int, ends_step: bool = True) -> None:
        """Look at the losses of a micro-batch before the weights change; `means` are over rows of all processes."""
        passes, self._passes = self._passes, []
        for rows, _ in passes:
            self._rows += _row_names(rows)
        broken = [name for name, value in means.items() if name.startswith("loss/") and not math.isfinite(value)]
        if broken:
            self.is_broken = True
            what = ", ".join(f"`{name}` is {means[name]}" for name in broken)
            names = []
            for rows, losses in passes:
                is_finite = losses.isfinite().tolist()
                names += _row_names([row for row, fine in zip(rows, is_finite, strict=True) if not fine])
            self._refuse(f"{what} at step {step} ({_listed(names) or 'their mean overflows'}).")
        if "retain/logps" in means:
            self._retain_means.append(means["retain/logps"])
        # A micro-batch may draw unlikely retain rows only: the mean of the whole step decides.
        if not ends_step:
            return
        means_of_step, self._retain_means = self._retain_means, []
        if means_of_step and fmean(means_of_step) < self._alarm_below:
            # They may just be unlikely rows. Others as unlikely as these are no reason to measure again.
            self._is_alarmed, self._alarm_below = True, fmean(means_of_step)

    @torch.no_grad()
    def watch(self, model: nn.Module, step: int, is_over: bool = False) -> None:
        """If it is time (`is_over`: in any case), measure the followed rows, and copy the weights if they are good."""
        due = is_over or self._measured_at is None or self._is_alarmed or step % _MEASURE_EVERY == 0
        if not self._stops or not due or step == self._measured_at:
            return
        self._measured_at, self._is_alarmed = step, False
        is_good = not self._retain or self._are_good(model, step)
        if is_good and self._keeps_copy and not is_over:
            # In main memory: a second set of weights on the accelerator may not fit.
            self._copy = [parameter.detach().to("cpu", copy=True) for parameter in self._parameters()]
            self.good_step = step

    def _are_good(self, model: nn.Module, step: int) -> bool:
        scores = score_rows(model, self._retain, pad_token_id=self._pad_token_id)
        # One process decides for all: where their last bits differ, one would stop and the others wait for it.
        (now,) = broadcast_object_list([[fmean(row.logps) for row in scores]])
        if self._start is None:
            if not math.isfinite(fmean(now)):
                # The model is broken from the start: its losses will tell more.
                return False
            self._start = now
        # What each row would have in a lost model: a guess, or less where it never was much better than that.
        lost = fmean([min(self._guess, start - _LOST_DROP) for start in self._start])
        # Not `<`, which is false for NaN.
        if not fmean(now) >= lost:
            self._refuse(
                f"{len(now)} retain rows that are followed have a mean log-prob of {fmean(now):.2f} at step {step}, "
                f"where they had {fmean(self._start):.2f} at the start and a uniform guess has {self._guess:.2f}: the "
                "ascent has destroyed the model."
            )
        if self._alarm_below == -math.inf:
            self._alarm_below = lost
        return fmean(now) >= fmean(self._start) - _GOOD_DROP

    def state_dict(self) -> dict[str, Any]:
        """The start of the followed rows, and no copy of the weights: a checkpoint is one itself."""
        return {"start": self._start, "skipped": self.skipped}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from the state of a checkpoint."""
        self._start, self.skipped = state["start"], state["skipped"]

    @torch.no_grad()
    def note_gradients(self) -> None:
        """Keep the norm of each gradient, since clipping by a norm that is NaN makes them all NaN."""
        gradients = {name: p.grad for name, p in self._model.named_parameters() if p.grad is not None}
        # Of a sharded gradient the part of this process.
        self._norms = {
            name: (gradient.to_local() if hasattr(gradient, "to_local") else gradient).norm()
            for name, gradient in gradients.items()
        }

    def check_gradient(self, norm: Tensor | float | None, step: int, overflows: bool = False) -> bool:
        """Whether the optimizer may step; with `overflows`, the scale of fp16 may be why not, which is no error."""
        is_broken, self.is_broken = self.is_broken, False
        rows, self._rows = self._rows, []
        norms, self._norms = self._norms, {}
        is_finite = norm is None or math.isfinite(float(norm))
        if is_finite and not is_broken:
            return True
        self.skipped += 1
        if is_broken or overflows:
            return False
        broken = gather_object([name for name, value in norms.items() if not math.isfinite(float(value))])
        broken = list(dict.fromkeys(broken))
        of = f", that of {_shortened([f'`{name}`' for name in broken], _MOST_PARAMETERS)}" if broken else ""
        self._refuse(f"The norm of the gradient is {float(norm)} at step {step}{of} ({_listed(rows)}).")
        return False

    @torch.no_grad()
    def _refuse(self, what: str) -> None:
        """Warn, or put the last good weights back and raise."""
        if not self._stops:
            if PartialState().is_main_process:
                logger.warning(f"{what} The step is left out.")
            return
        if self._copy:
            for parameter, copy in zip(self._parameters(), self._copy, strict=True):
                parameter.copy_(copy)
            what += f" The model has the weights of step {self.good_step} again, the last ones known to be good."
        else:
            what += " No good weights were kept: go back to the last checkpoint."
        raise DivergenceError(
            f"{what} Lower `learning_rate`, raise `retain_weight`, set `forget_token_floor`, or choose a bounded "
            "`forget_loss_type` (npo, wga).",
            self.good_step,
        )


def _row_names(rows: Sequence[StepRow]) -> list[tuple[str, tuple[int, ...]]]:
    return [(row.kind, row.index) for row in rows if row.counts]


def _listed(names: Sequence[tuple[str, tuple[int, ...]]]) -> str:
    """Rows of all processes in words. Every process has to call it."""
    unique = sorted(set(gather_object(list(names))))
    parts = []
    for kind, words in _LISTED.items():
        indices = [str(index[0]) if len(index) == 1 else str(index) for name, index in unique if name == kind]
        if indices:
            parts.append(words.format(_shortened(indices, _MOST_ROWS)))
    return "; ".join(parts)


def _shortened(names: Sequence[str], most: int) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"

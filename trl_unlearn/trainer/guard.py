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

"""Stops a diverging run, and keeps the last weights that were good."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


# Optimiser steps between copies of the weights.
_COPY_EVERY = 10
# Nats per token that the retain rows may have lost for weights to count as good, and for the model to count as
# destroyed where it never was much better than a guess.
_GOOD_DROP, _LOST_DROP = 1.0, 3.0


class DivergenceError(RuntimeError):
    """
    Training diverged.

    Args:
        message (`str`):
            What went wrong, at which step and in which rows, and what to do.
        good_step (`int`, *optional*):
            Step whose weights the model has again, the last ones known to be good; `None` if none were kept.
    """

    def __init__(self, message: str, good_step: int | None = None):
        super().__init__(message)
        self.good_step = good_step


class DivergenceGuard:
    """
    Refuses numbers that are not finite, and retain rows that are less likely than a uniform guess.

    Every tenth step, and in the first one of a run that goes on, it copies the trainable parameters, if the retain
    rows of that step are at most a nat per token less likely than those of the first; with DeepSpeed, which has copies
    of its own, none.

    Args:
        model (`torch.nn.Module`):
            Model in training.
        vocab_size (`int`):
            Size of its vocabulary: a uniform guess has a log-prob of `-log(vocab_size)`.
        keeps_copy (`bool`, *optional*, defaults to `True`):
            Whether weights are copied.

    Attributes:
        good_step (`int` or `None`):
            Step after which the weights of the copy were reached; `None` without a copy.
    """

    def __init__(self, model: nn.Module, vocab_size: int, keeps_copy: bool = True):
        self._model, self._guess, self._keeps_copy = model, -math.log(vocab_size), keeps_copy
        self._first_retain: float | None = None
        self._copy: list[Tensor] = []
        self.good_step: int | None = None

    def _parameters(self) -> Iterable[nn.Parameter]:
        return (parameter for parameter in self._model.parameters() if parameter.requires_grad)

    @torch.no_grad()
    def check(self, means: Mapping[str, float], step: int, rows: Sequence[int]) -> None:
        """
        Look at the losses of a step, before its weights change.

        Args:
            means (`Mapping[str, float]`):
                `loss/forget`, `retain/logps`, ...: means over the rows of a micro-batch and over processes.
            step (`int`):
                Optimiser steps so far.
            rows (`Sequence[int]`):
                Indices of its forget rows, of this process.

        Raises:
            [`DivergenceError`]: If a loss is not finite, or the mean log-prob of the retain rows is below that of a
                uniform guess. The model has its last good weights then, if there is a copy.
        """
        broken = [name for name, value in means.items() if name.startswith("loss/") and not math.isfinite(value)]
        if broken:
            what = ", ".join(f"`{name}` is {means[name]}" for name in broken)
            self._stop(f"{what} at step {step} (rows {_listed(rows)} of the forget set).")
        retain = means.get("retain/logps")
        self._first_retain = retain if self._first_retain is None else self._first_retain
        if retain is not None and retain < min(self._guess, self._first_retain - _LOST_DROP):
            self._stop(
                f"The retain rows have a mean log-prob of {retain:.2f} at step {step}, where a uniform guess has "
                f"{self._guess:.2f}: the ascent has destroyed the model."
            )
        is_good = retain is None or retain >= self._first_retain - _GOOD_DROP
        due = self.good_step is None or (step % _COPY_EVERY == 0 and step != self.good_step)
        if self._keeps_copy and is_good and due:
            self._copy = [parameter.detach().to("cpu", copy=True) for parameter in self._parameters()]
            self.good_step = step

    def state_dict(self) -> dict[str, Any]:
        """
        What a checkpoint keeps: the start of the retain rows, and no copy of the weights, since it is one itself.

        Returns:
            `dict[str, Any]`: Values.
        """
        return {"first_retain": self._first_retain}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """
        Go on from a checkpoint.

        Args:
            state (`Mapping[str, Any]`):
                See [`DivergenceGuard.state_dict`].
        """
        self._first_retain = state["first_retain"]

    def check_gradient(self, norm: Tensor | float | None, step: int) -> None:
        """
        Look at the norm of the gradient of a step.

        Args:
            norm (`torch.Tensor` or `float`, *optional*):
                Norm over all parameters; `None` is not looked at.
            step (`int`):
                Optimiser steps so far.

        Raises:
            [`DivergenceError`]: If it is not finite, see [`DivergenceGuard.check`].
        """
        if norm is not None and not math.isfinite(float(norm)):
            self._stop(f"The norm of the gradient is {float(norm)} at step {step}.")

    @torch.no_grad()
    def _stop(self, what: str) -> None:
        if self._copy:
            for parameter, copy in zip(self._parameters(), self._copy, strict=True):
                parameter.copy_(copy)
            what += f" The model has the weights of step {self.good_step} again, the last ones known to be good."
        else:
            what += " No good weights were kept: go back to the last checkpoint."
        raise DivergenceError(
            f"{what} Lower `learning_rate`, raise `retain_weight`, or choose a bounded `forget_loss_type` (npo, wga).",
            self.good_step,
        )


def _listed(rows: Sequence[int], most: int = 8) -> str:
    shown = ", ".join(map(str, rows[:most]))
    return shown if len(rows) <= most else f"{shown}, ..."

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

"""Weights of the terms that change during training, and the drift of the model that they follow."""

import copy
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Self

from datasets import Dataset
from torch import nn

from ..beliefs import BeliefStore
from ..encoding import answer_row, spread_evenly
from ..token_scores import score_rows
from .bootstrap_unlearn_config import BootstrapUnlearnConfig


logger = logging.getLogger(__name__)


# Prompts that are followed, and samples of each, of which one is kept: the most likely one that is not the target.
MONITOR_PROMPTS, MONITOR_CANDIDATES = 16, 8


@dataclass
class Drift:
    """
    How far log-probs are from their start, in nats per token.

    Args:
        target (`float`):
            Of the answers to be forgotten.
        beliefs (`float`, *optional*):
            Of the frozen beliefs beside them; `None` if there are none.
        retain (`float`, *optional*):
            Of retain rows; `None` if there are none.
    """

    target: float
    beliefs: float | None
    retain: float | None


@dataclass
class DriftMonitor:
    """
    Rows that are frozen before unlearning, to follow how likely the model finds them.

    Args:
        target, beliefs, retain (`list[dict]`):
            Encoded rows; the last two may be empty.
        pad_token_id (`int`):
            Token of the padding.
    """

    target: list[dict[str, Any]]
    beliefs: list[dict[str, Any]]
    retain: list[dict[str, Any]]
    pad_token_id: int
    _start: list[float | None] | None = field(default=None, init=False)

    @classmethod
    def of(cls, forget: Dataset, retain: Dataset | None, pad_token_id: int) -> Self:
        """Rows spread over the sets, without beliefs yet: those are of the answers to the prompts of the targets."""
        target = [answer_row(row) for row in spread_rows(forget)]
        return cls(target, [], [] if retain is None else spread_rows(retain), pad_token_id)

    def measure(self, model: nn.Module) -> Drift:
        """
        Score every row. The first call is the start.

        Args:
            model (`torch.nn.Module`):
                Model in training, wrapped or not. Every process scores every row.

        Returns:
            [`Drift`]: Means over rows of the mean over tokens.
        """
        groups = (self.target, self.beliefs, self.retain)
        scores = iter(score_rows(model, [row for rows in groups for row in rows], pad_token_id=self.pad_token_id))
        means = [fmean([fmean(next(scores).logps) for _ in rows]) if rows else None for rows in groups]
        self._start = self._start or means
        return Drift(*[None if now is None else now - start for now, start in zip(means, self._start, strict=True)])

    def state_dict(self) -> dict[str, Any]:
        """
        The frozen beliefs, which no other model would give again, and the start.

        Returns:
            `dict[str, Any]`: Values.
        """
        return {"beliefs": self.beliefs, "start": self._start}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """
        Go on from a checkpoint.

        Args:
            state (`Mapping[str, Any]`):
                See [`DriftMonitor.state_dict`].
        """
        self.beliefs, self._start = state["beliefs"], state["start"]


def spread_rows(rows: Dataset, most: int = MONITOR_PROMPTS) -> list[dict[str, Any]]:
    """At most `most` rows, evenly spaced in their set."""
    return [rows[index] for index in spread_evenly(len(rows), most)]


def frozen_beliefs(store: BeliefStore) -> list[dict[str, Any]]:
    """
    The most likely belief of each prompt that does not repeat the target, whose fall is wanted anyway. Warns if there
    is none.

    Args:
        store ([`BeliefStore`]):
            Store that has been sampled.

    Returns:
        `list[dict]`: Encoded rows, at most one of each prompt.
    """
    beside = [store.apart_from_target(index) for index in range(len(store))]
    if not any(beside):
        logger.warning(
            "All samples of the model repeat the answers that are to be forgotten: `lambda_schedule='adaptive'` has "
            "no beliefs to follow, and the weights stay as they are. Raise `temperature`."
        )
    return [row for row in beside if row is not None]


# Optimiser steps between measurements of what the adaptive weights follow.
_ADAPT_EVERY = 2
_LARGEST_LOGIT = 4.0
# Largest change of the logarithm of the retain weight at one measurement.
_RETAIN_RATE = 0.2
# Nats per token that the target has to fall before what it is compared with says much.
_LEAST_FALL = 0.1
_RETAIN_MOST = 20.0
_SCHEDULED = ("lambda_bst", "lambda_bss", "retain_weight")


def linear_share(share: float, step: int, max_steps: int) -> float:
    r"""
    Share that grows from 0 to its value in the last step: \\(\lambda_s = \lambda (s + 1) / S\\).

    Args:
        share (`float`):
            \\(\lambda\\), the share at the end.
        step (`int`):
            s, optimiser steps so far.
        max_steps (`int`):
            S, optimiser steps of the training.

    Returns:
        `float`: The share.
    """
    return share * min(1.0, (step + 1) / max_steps)


def adapted_share(share: float, beliefs: float, target: float) -> float:
    r"""
    Share of the beliefs after a measurement:

    $$
    \operatorname{logit} \lambda \leftarrow \operatorname{logit} \lambda
        + \operatorname{clip}\Big(\frac{2 b - y}{\max(|y|, 0.1)}, -1, 1\Big).
    $$

    With a target that has fallen (y < 0), it grows at full speed while the frozen beliefs are above their start
    (b >= 0), falls at full speed where they have dropped as much as the target or more (b <= y), and rests where they
    have dropped half as much. It stays within [0.018, 0.982]; a share of 0 or 1 is left as it is.

    Args:
        share (`float`):
            \\(\lambda\\), in [0, 1].
        beliefs (`float`):
            b, mean log-prob of the frozen beliefs over its start, in nats per token.
        target (`float`):
            y, mean log-prob of the target over its start, in nats per token.

    Returns:
        `float`: The new share.
    """
    if share in (0, 1):
        return share
    pull = max(-1.0, min(1.0, (2 * beliefs - target) / max(abs(target), _LEAST_FALL)))
    # Not to a share that the next measurements could not bring back.
    logit = max(-_LARGEST_LOGIT, min(_LARGEST_LOGIT, math.log(share / (1 - share)) + pull))
    return 1 / (1 + math.exp(-logit))


def adapted_retain_weight(weight: float, least: float, retain: float, max_drop: float) -> float:
    r"""
    Retain weight after a measurement:

    $$
    \log w \leftarrow \log w + \tfrac15 \operatorname{clip}(-r / d - 1, -1, 1), \qquad w_0 \le w \le 20 w_0.
    $$

    Args:
        weight (`float`):
            w, the weight so far.
        least (`float`):
            \\(w_0\\), where it started.
        retain (`float`):
            r, mean log-prob of retain rows over its start, in nats per token.
        max_drop (`float`):
            d, nats per token that it may fall.

    Returns:
        `float`: The new weight.
    """
    pull = max(-1.0, min(1.0, -retain / max_drop - 1))
    return max(least, min(_RETAIN_MOST * least, weight * math.exp(_RETAIN_RATE * pull)))


class TermWeights:
    """
    The weights of the terms, as the schedules have them now.

    Args:
        args ([`BootstrapUnlearnConfig`]):
            Configuration, with the weights at the start (with `lambda_schedule="linear"`: at the end).

    Attributes:
        now ([`BootstrapUnlearnConfig`]):
            The configuration with `lambda_bst`, `lambda_bss` and `retain_weight` as they are now.
    """

    def __init__(self, args: BootstrapUnlearnConfig):
        self._args, self.now = args, copy.copy(args)
        self._measured_at: int | None = None
        self._drift: Drift | None = None

    @property
    def _follows(self) -> bool:
        return self._args.lambda_schedule == "adaptive" or self._args.retain_max_drop is not None

    def is_due(self, step: int) -> bool:
        """
        Whether a measurement is wanted.

        Args:
            step (`int`):
                Optimiser steps so far.

        Returns:
            `bool`: Once in a few steps, if a weight follows one.
        """
        return self._follows and (
            self._measured_at is None or (step % _ADAPT_EVERY == 0 and step != self._measured_at)
        )

    def advance(self, step: int, max_steps: int) -> None:
        """
        Go on with the linear schedule.

        Args:
            step, max_steps (`int`):
                Optimiser steps so far, and of the training.
        """
        if self._args.lambda_schedule == "linear":
            self.now.lambda_bst = linear_share(self._args.lambda_bst, step, max_steps)
            self.now.lambda_bss = linear_share(self._args.lambda_bss, step, max_steps)

    def adapt(self, drift: Drift, step: int) -> None:
        """
        Follow a measurement.

        Args:
            drift ([`Drift`]):
                What was measured.
            step (`int`):
                Optimiser steps so far.
        """
        args, now = self._args, self.now
        self._drift, self._measured_at = drift, step
        if args.lambda_schedule == "adaptive" and drift.beliefs is not None:
            now.lambda_bst = adapted_share(now.lambda_bst, drift.beliefs, drift.target)
            now.lambda_bss = adapted_share(now.lambda_bss, drift.beliefs, drift.target)
        if args.retain_max_drop is not None:
            now.retain_weight = adapted_retain_weight(
                now.retain_weight, args.retain_weight, drift.retain, args.retain_max_drop
            )

    def state_dict(self) -> dict[str, Any]:
        """
        The weights as they are now, and the last measurement.

        Returns:
            `dict[str, Any]`: Values.
        """
        drift = None if self._drift is None else vars(self._drift)
        return {name: getattr(self.now, name) for name in _SCHEDULED} | {
            "measured_at": self._measured_at,
            "drift": drift,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """
        Go on from a checkpoint.

        Args:
            state (`Mapping[str, Any]`):
                See [`TermWeights.state_dict`].
        """
        if not self._follows:
            # Weights that the steps alone decide are those of the config.
            return
        for name in _SCHEDULED:
            setattr(self.now, name, state[name])
        self._measured_at = state["measured_at"]
        self._drift = state["drift"] and Drift(**state["drift"])

    def logs(self) -> dict[str, float]:
        """
        What there is to log.

        Returns:
            `dict[str, float]`: `weights/lambda_bst`, `weights/lambda_bss` and `weights/retain_weight` as far as they
            change, and `drift/target`, `drift/beliefs`, `drift/retain` in nats per token.
        """
        args, found = self._args, {}
        if args.lambda_schedule != "constant":
            names = [*(["lambda_bst"] if args.forget_loss_type == "bs_t" else []), "lambda_bss"]
            found |= {f"weights/{name}": getattr(self.now, name) for name in names if getattr(args, name) > 0}
        if args.retain_max_drop is not None:
            found["weights/retain_weight"] = self.now.retain_weight
        if self._drift is not None:
            found |= {f"drift/{name}": value for name, value in vars(self._drift).items() if value is not None}
        return found

# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Weights of the terms that change during training, and the drift of the model that they follow."""

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

# Prompts that are followed, and samples drawn for each: the most likely one that is not the target is kept.
MONITOR_PROMPTS, MONITOR_CANDIDATES = 16, 8
# Optimiser steps between two measurements of the drift.
_ADAPT_EVERY = 2
_LARGEST_LOGIT = 4.0
# Largest change of the logarithm of the retain weight at one measurement.
_RETAIN_RATE = 0.2
# Nats per token that the target has to fall before its ratio to the beliefs says much.
_LEAST_FALL = 0.1
_RETAIN_MOST = 20.0


@dataclass
class Drift:
    """How far mean log-probs are from their start, in nats per token; None for a group without rows."""

    target: float
    beliefs: float | None
    retain: float | None


@dataclass
class DriftMonitor:
    """Rows that are frozen before unlearning, to follow how likely the model finds them."""

    target: list[dict[str, Any]]
    beliefs: list[dict[str, Any]]
    retain: list[dict[str, Any]]
    pad_token_id: int
    _start: list[float | None] | None = field(default=None, init=False)

    @classmethod
    def of(cls, forget: Dataset, retain: Dataset | None, pad_token_id: int) -> Self:
        """Rows spread evenly over the sets, without beliefs yet: those answer the prompts of the targets."""
        target = [answer_row(row) for row in spread_rows(forget)]
        return cls(target, [], [] if retain is None else spread_rows(retain), pad_token_id)

    def measure(self, model: nn.Module) -> Drift:
        """Means over rows of the mean over tokens, from the first call on. Every process scores every row."""
        groups = (self.target, self.beliefs, self.retain)
        scores = iter(score_rows(model, [row for rows in groups for row in rows], pad_token_id=self.pad_token_id))
        means = [fmean([fmean(next(scores).logps) for _ in rows]) if rows else None for rows in groups]
        self._start = self._start or means
        return Drift(*[None if now is None else now - start for now, start in zip(means, self._start, strict=True)])

    def state_dict(self) -> dict[str, Any]:
        """The start, and the frozen beliefs, which no later model would give again."""
        return {"beliefs": self.beliefs, "start": self._start}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from the state of a checkpoint."""
        self.beliefs, self._start = state["beliefs"], state["start"]


def spread_rows(rows: Dataset, most: int = MONITOR_PROMPTS) -> list[dict[str, Any]]:
    """Rows spread evenly over a set."""
    return [rows[index] for index in spread_evenly(len(rows), most)]


def frozen_beliefs(store: BeliefStore) -> list[dict[str, Any]]:
    """The most likely belief of each prompt that does not repeat the target, as encoded rows. Warns without any."""
    # A belief that repeats the target is meant to fall with it, and says nothing about squeezing.
    beside = [store.apart_from_target(index) for index in range(len(store))]
    if not any(beside):
        logger.warning(
            "All samples of the model repeat the answers that are to be forgotten: `lambda_schedule='adaptive'` has "
            "no beliefs to follow, and the weights stay as they are. Raise `temperature`."
        )
    return [row for row in beside if row is not None]


def linear_share(share: float, step: int, max_steps: int) -> float:
    r"""Share that grows from 0 to its value in the last step: \\(\lambda_s = \lambda (s + 1) / S\\)."""
    return share * min(1.0, (step + 1) / max_steps)


def adapted_share(share: float, beliefs: float, target: float) -> float:
    """Share s of beliefs that drift by b, the target by y: logit(s) + clip((2 b - y) / max(|y|, 0.1), -1, 1)."""
    if share in (0, 1):
        return share
    pull = max(-1.0, min(1.0, (2 * beliefs - target) / max(abs(target), _LEAST_FALL)))
    # Not so near to 0 or 1 that the next measurements could not bring it back.
    logit = max(-_LARGEST_LOGIT, min(_LARGEST_LOGIT, math.log(share / (1 - share)) + pull))
    return 1 / (1 + math.exp(-logit))


def adapted_retain_weight(weight: float, least: float, retain: float, max_drop: float) -> float:
    """Weight w of retain rows that drift by r and may fall by d: log(w) + clip(-r / d - 1, -1, 1) / 5."""
    pull = max(-1.0, min(1.0, -retain / max_drop - 1))
    return max(least, min(_RETAIN_MOST * least, weight * math.exp(_RETAIN_RATE * pull)))


@dataclass
class Weights:
    """The weights that a schedule may change."""

    lambda_bst: float
    lambda_bss: float
    retain_weight: float


class TermWeights:
    """The schedules: `now` holds the weights of the step at hand; the config, those of the start (linear: the end)."""

    def __init__(self, args: BootstrapUnlearnConfig):
        self._args, self.now = args, Weights(args.lambda_bst, args.lambda_bss, args.retain_weight)
        self._measured_at: int | None = None
        self._drift: Drift | None = None

    @property
    def _follows(self) -> list[str]:
        """Options by which weights follow the drift."""
        adapts, bounds = self._args.lambda_schedule == "adaptive", self._args.retain_max_drop is not None
        return ["lambda_schedule='adaptive'"] * adapts + ["retain_max_drop"] * bounds

    def is_due(self, step: int) -> bool:
        """Whether to measure the drift after so many optimiser steps."""
        # Not again for the other micro-batches of a step.
        return bool(self._follows) and (
            self._measured_at is None or (step % _ADAPT_EVERY == 0 and step != self._measured_at)
        )

    def advance(self, step: int, max_steps: int) -> None:
        """Move the linear schedule to an optimiser step."""
        if self._args.lambda_schedule == "linear":
            self.now.lambda_bst = linear_share(self._args.lambda_bst, step, max_steps)
            self.now.lambda_bss = linear_share(self._args.lambda_bss, step, max_steps)

    def adapt(self, drift: Drift, step: int) -> None:
        """Follow a measurement, made after so many optimiser steps."""
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
        """The weights as they are now, what they follow, and the last measurement."""
        drift = None if self._drift is None else vars(self._drift)
        return vars(self.now) | {"measured_at": self._measured_at, "drift": drift, "follows": self._follows}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from the state of a checkpoint."""
        if not self._follows:
            # Weights that the steps alone decide are those of the config, which may have changed.
            return
        if new := [f"`{option}`" for option in self._follows if option not in state.get("follows", ())]:
            raise ValueError(
                f"{' and '.join(new)} would follow what the model found likely before unlearning, but the interrupted "
                "run did not measure it. Leave this as it was, or train from the start."
            )
        self.now = Weights(**{name: state[name] for name in vars(self.now)})
        self._measured_at = state["measured_at"]
        self._drift = state["drift"] and Drift(**state["drift"])

    def logs(self) -> dict[str, float]:
        """`weights/<name>` of the weights that change, and `drift/<group>` in nats per token."""
        args, logs = self._args, {}
        if args.lambda_schedule != "constant":
            names = [*(["lambda_bst"] if args.forget_loss_type == "bs_t" else []), "lambda_bss"]
            logs |= {f"weights/{name}": getattr(self.now, name) for name in names if getattr(args, name) > 0}
        if args.retain_max_drop is not None:
            logs["weights/retain_weight"] = self.now.retain_weight
        if self._drift is not None:
            logs |= {f"drift/{name}": value for name, value in vars(self._drift).items() if value is not None}
        return logs

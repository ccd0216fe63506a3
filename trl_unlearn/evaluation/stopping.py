# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Ends training where enough is forgotten, and keeps the state that is closest to that."""

import logging
import math
import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import Trainer, TrainerCallback

from .callbacks import CannotBeginError, ForgettingCurveCallback
from .rows import EncodedSet


logger = logging.getLogger(__name__)

# Metric -> distance from its goal that counts as reached. An AUC of 24 rows has a standard error of 0.06.
STOP_METRICS = {"extraction_strength": 0.02, "forget_logp": 0.02, "strangers_auc": 0.05}
# Unlearning falls slowly and then all at once: so often is the way from the best state to one past the goals halved.
_HALVINGS = 7


class UnlearnUntil(ForgettingCurveCallback):
    """Ends training where all goals are reached or too little is kept, with the best state that was measured."""

    def __init__(
        self,
        trainer: Trainer,
        forget: EncodedSet,
        retain: EncodedSet,
        *,
        goals: Mapping[str, float],
        retain_floor: float | None = None,
        tolerances: Mapping[str, float] | None = None,
        **options: Any,
    ):
        super().__init__(trainer, forget, retain, **options)
        if trainer.is_deepspeed_enabled:
            raise ValueError(
                "`UnlearnUntil` changes the weights, and DeepSpeed has copies of its own. Train with DDP or FSDP, or "
                "set the number of steps."
            )
        if trainer.args.load_best_model_at_end:
            raise ValueError(
                "`load_best_model_at_end` would replace the state that `UnlearnUntil` keeps. Set one of the two."
            )
        self.goals, self.tolerances = dict(goals), STOP_METRICS | dict(tolerances or {})
        # 0 and not None: a probability that is NaN is below any floor.
        self.retain_floor = 0.0 if retain_floor is None else retain_floor
        # The entry of the history whose state is kept so far; those of a search have a `step` between two steps.
        self.kept: dict[str, float] | None = None
        self._parameters: list[Tensor] = []
        self._kept_weights: list[Tensor] = []
        self._ended = False

    def _keeps_enough(self, point: dict[str, float]) -> bool:
        return point["retain_probability"] >= self.retain_floor

    def _above(self, point: dict[str, float], metric: str) -> float:
        return (point[metric] - self.goals[metric]) / self.tolerances[metric]

    def _farthest_above(self, point: dict[str, float]) -> float:
        # NumPy's: it is NaN where one is.
        return float(np.max([self._above(point, metric) for metric in self.goals]))

    def _goes_on(self, point: dict[str, float]) -> bool:
        return self._keeps_enough(point) and self._farthest_above(point) > 1

    def _distance(self, point: dict[str, float]) -> float:
        return abs(self._farthest_above(point))

    def _reaches(self, point: dict[str, float]) -> bool:
        return self._keeps_enough(point) and self._distance(point) <= 1

    def _copy(self) -> list[Tensor]:
        return [_local(parameter).to("cpu", copy=True) for parameter in self._parameters]

    def _reshard(self) -> None:
        # FSDP2 may leave parameters gathered after a forward pass, and would not see that their shards change.
        for module in self.trainer.model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    @torch.no_grad()
    def _put(self, weights: Iterable[Tensor]) -> None:
        self._reshard()
        for parameter, weight in zip(self._parameters, weights, strict=True):
            _local(parameter).copy_(weight)

    def _measure(self, state, control) -> None:
        if self._ended:
            return
        super()._measure(state, control)
        point = self.history[-1]
        if self._goes_on(point):
            if self.kept is None or self._distance(point) < self._distance(self.kept):
                self.kept, self._kept_weights = point, self._copy()
            return
        if self.kept is None:
            self._refuse_start(point)
        self._ended = True
        if self._reaches(point):
            self.kept = point
        else:
            self._search(point)
            self._log(self.kept, control)
        self.trainer.stop_reason = self._reason(point)
        if self._farthest_above(self.kept) > 1:
            self.trainer.shortfall = f"The goal was not reached: {self.trainer.stop_reason}"
            self.trainer.missed = "overshot" if self._keeps_enough(point) else "floor"
        control.should_training_stop = True

    def _refuse_start(self, point: dict[str, float]) -> None:
        if any(map(math.isnan, point.values())):
            raise CannotBeginError(
                "The scores of the model are not finite before training, so there is no value of "
                f"{' and '.join(f'`{metric}`' for metric in self.goals)} that could come down to a goal. Check the "
                "weights, or load the model in another `dtype`."
            )
        if not self._keeps_enough(point):
            raise CannotBeginError(
                f"The retain probability is {point['retain_probability']:.3f} before training, below the floor of "
                f"{self.retain_floor:g}. Lower the floor."
            )
        values = [
            f"`{metric}` is {point[metric]:.3f} before training, where the goal is {goal:.3f} (tolerance "
            f"{self.tolerances[metric]:g})"
            for metric, goal in self.goals.items()
        ]
        raise CannotBeginError(
            f"{' and '.join(values)}: there is nothing to unlearn. Set a lower goal, or check that the model is one "
            "that knows the forget set."
        )

    def _search(self, passed: dict[str, float]) -> None:
        """Measure states between the kept one and the current one, which went too far, and keep the best of all."""
        start, start_weights, end_weights = self.kept, self._kept_weights, self._copy()

        def between(share: float) -> Iterable[Tensor]:
            # 0 * NaN is NaN: a share of 0 must not read the other end.
            if share == 0:
                return start_weights
            return (low.lerp(high, share) for low, high in zip(start_weights, end_weights, strict=True))

        # Share of the way from the kept state to the current one -> its entry.
        points, low, high = {0.0: start, 1.0: passed}, 0.0, 1.0
        for _ in range(_HALVINGS):
            share = (low + high) / 2
            self._put(between(share))
            where = {name: start[name] + share * (passed[name] - start[name]) for name in ("step", "epoch")}
            point = points[share] = where | self._current_values()
            if self._reaches(point):
                break
            low, high = (share, high) if self._goes_on(point) else (low, share)
        self.history = sorted([*self.history, *list(points.values())[2:]], key=lambda entry: entry["step"])
        enough = [share for share, point in points.items() if self._keeps_enough(point)]
        best = min(enough, key=lambda share: self._distance(points[share]))
        self._put(between(best))
        self.kept = points[best]

    def _values(self, point: dict[str, float], verb: str) -> str:
        """Each metric with its value and its goal."""
        parts = []
        for metric, goal in self.goals.items():
            to = f"past the goal of {goal:.3f}"
            if self._above(point, metric) >= -1:
                to = f"goal {goal:.3f}" + (f" ± {self.tolerances[metric]:g}" if verb == "reached" else "")
            parts.append(f"`{metric}` {'' if parts else verb + ' '}{point[metric]:.3f} ({to})")
        return " and ".join(parts)

    def _reason(self, passed: dict[str, float]) -> str:
        kept = self.kept
        if self._reaches(kept):
            return f"{self._values(kept, 'reached')} at step {kept['step']:g}."
        if not self._keeps_enough(passed):
            return (
                f"retain probability fell to {passed['retain_probability']:.3f}, below the floor of "
                f"{self.retain_floor:g}; kept is the state of step {kept['step']:g}, where {self._values(kept, 'is')}."
            )
        falls = [
            f"`{metric}` fell to {passed[metric]:.3f}, past the goal of {goal:.3f}"
            for metric, goal in self.goals.items()
        ]
        values = self._values(kept, "is") if len(falls) > 1 else f"it is {kept[next(iter(self.goals))]:.3f}"
        return f"{', and '.join(falls)}; kept is the closest state, of step {kept['step']:g}, where {values}."

    def _missing(self, steps: int) -> str:
        above = [metric for metric in self.goals if self._above(self.kept, metric) > 1]
        to_go = " and ".join(f"`{metric}` has {self.kept[metric] - self.goals[metric]:.3f} to go" for metric in above)
        return (
            f"The goal was not reached in {steps} steps: {self._values(self.kept, 'is')} in the state that is kept, "
            f"of step {self.kept['step']:g}. {to_go}."
        )

    def state_dict(self) -> dict[str, Any]:
        """The state for a checkpoint: the history, and the weights that are kept so far."""
        weights = {f"weight {i}": weight for i, weight in enumerate(self._kept_weights)}
        return super().state_dict() | {"kept": self.kept} | weights

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a checkpoint when training begins."""
        super().load_state_dict(state)
        self.kept = state["kept"]
        self._kept_weights = [state[f"weight {i}"] for i in range(sum(name.startswith("weight ") for name in state))]

    def on_step_end(self, args, state, control, **kwargs):
        super().on_step_end(args, state, control, **kwargs)
        self._save_nothing_after_the_end(control)

    def on_epoch_end(self, args, state, control, **kwargs):
        super().on_epoch_end(args, state, control, **kwargs)
        self._save_nothing_after_the_end(control)

    def _save_nothing_after_the_end(self, control) -> None:
        # The optimizer's state belongs to other weights than the kept ones.
        control.should_save = control.should_save and not self._ended

    def on_train_begin(self, args, state, control, **kwargs):
        self._reshard()
        self._parameters = [parameter for parameter in self.trainer.model.parameters() if parameter.requires_grad]
        self._ended, self.trainer.stop_reason = False, None
        self.trainer.shortfall = self.trainer.missed = None
        self.trainer.goals = self.goals
        if not self._is_resumed:
            self.kept = None
        super().on_train_begin(args, state, control, **kwargs)

    def on_train_end(self, args, state, control, **kwargs):
        if not self._ended:
            self._put(self._kept_weights)
            self.trainer.shortfall = self._missing(state.global_step)
            # Nobody but the limit of minutes ends a run that has a goal.
            self.trainer.missed = "minutes" if self.trainer.stop_reason else "steps"
            if state.is_world_process_zero:
                logger.warning(self.trainer.shortfall)
        self._parameters, self._kept_weights = [], []


class EndAfter(TrainerCallback):
    """Ends training after some minutes. A second call of `train` shares them; a resumed process has all of them."""

    def __init__(self, trainer: Trainer, minutes: float):
        self.trainer, self.minutes = trainer, minutes
        self._begun: float | None = None

    def is_over(self, share: float = 1.0) -> bool:
        """Whether this share of the time is over, for all processes alike: the first that says so decides."""
        is_over = torch.tensor(float(time.monotonic() - self._begun > share * 60 * self.minutes))
        return self.trainer.accelerator.reduce(is_over.to(self.trainer.args.device)) > 0

    def on_train_begin(self, args, state, control, **kwargs):
        if self._begun is None:
            self._begun = time.monotonic()

    def on_step_end(self, args, state, control, **kwargs):
        # All processes end at the same step.
        if self.is_over() and not control.should_training_stop:
            self.trainer.stop_reason = f"the limit of {self.minutes:g} minutes (`max_minutes`) was over."
            control.should_training_stop = True


def _local(parameter: Tensor) -> Tensor:
    """A parameter's values; under FSDP the shard of this process."""
    parameter = parameter.detach()
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter

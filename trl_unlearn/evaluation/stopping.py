# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Ends training where enough is forgotten, and keeps the state that is closest to that."""

import logging
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import Trainer

from .callbacks import CannotBeginError, ForgettingCurveCallback
from .rows import EncodedSet


logger = logging.getLogger(__name__)

STOP_METRICS = ("extraction_strength", "forget_logp")
_HALVINGS = 7


class UnlearnUntil(ForgettingCurveCallback):
    """
    Ends training when the forget set is forgotten as far as a goal, or when too little of the retain set is left.

    Unlearning falls slowly and then all at once: one measurement is far above the goal, and the next far below it.
    When a measurement is at the goal or below, or its retain probability is below the floor, the states between the
    best one so far and the current one are searched, by at most 7 halvings of the way between their weights (linear
    interpolation of each trained parameter), for a state within the tolerance.

    **What is kept**: of all measured states whose retain probability is not below the floor, those of the search
    included, the one whose metric is closest to the goal, and of equals the first. The model has its weights when
    training ends, also when it ends by itself before the goal is reached.

    Logs what [`ForgettingCurveCallback`] logs, and after a search the state that is kept, with its `curve/step`. Says
    in `trainer.stop_reason` why training has ended.

    Example:

    ```python
    goal = curve_point(retrained, forget, retain, pad_token_id=pad)["extraction_strength"]
    trainer.add_callback(UnlearnUntil(trainer, forget, retain, pad_token_id=pad, goal=goal, every_steps=3))
    trainer.train()
    ```

    Args:
        goal (`float`):
            Value of the metric to come down to, for instance the retrained model's.
        metric (`str`, *optional*, defaults to `"extraction_strength"`):
            `"extraction_strength"` (strict) or `"forget_logp"`, see [`curve_point`].
        retain_floor (`float`, *optional*):
            Mean retain probability to stay above, in (0, 1). `None` sets none.
        tolerance (`float`, *optional*, defaults to `0.02`):
            Distance from the goal that counts as reached, in units of the metric.
        every_steps (`int`, *optional*):
            Optimiser steps between measurements; few are better, since the search goes back to the last one. `None`
            measures once an epoch.

    Attributes:
        kept (`dict[str, float]` or `None`):
            Entry of the history whose state is kept so far. Entries of the search have a `step` between two steps.
    """

    def __init__(
        self,
        trainer: Trainer,
        forget: EncodedSet,
        retain: EncodedSet,
        *,
        pad_token_id: int,
        goal: float,
        metric: str = "extraction_strength",
        retain_floor: float | None = None,
        tolerance: float = 0.02,
        every_steps: int | None = None,
    ):
        super().__init__(trainer, forget, retain, pad_token_id=pad_token_id, every_steps=every_steps)
        if metric not in STOP_METRICS:
            raise ValueError(f"Unknown `metric`: {metric!r}. Set it to one of {', '.join(map(repr, STOP_METRICS))}.")
        if not tolerance > 0:
            raise ValueError(f"`tolerance` is {tolerance}. Give more than 0: a goal is never met exactly.")
        if retain_floor is not None and not 0 < retain_floor < 1:
            raise ValueError(f"`retain_floor` is {retain_floor}. Give a probability in (0, 1), or `None` for none.")
        if trainer.is_deepspeed_enabled:
            raise ValueError(
                "`UnlearnUntil` changes the weights, and DeepSpeed has copies of its own. Train with DDP or FSDP, or "
                "set the number of steps."
            )
        if trainer.args.load_best_model_at_end:
            raise ValueError(
                "`load_best_model_at_end` would replace the state that `UnlearnUntil` keeps. Set one of the two."
            )
        self.goal, self.metric, self.tolerance = goal, metric, tolerance
        # 0 and not None: a probability that is NaN is below any floor.
        self.retain_floor = 0.0 if retain_floor is None else retain_floor
        self.kept: dict[str, float] | None = None
        self._parameters: list[Tensor] = []
        self._kept_weights: list[Tensor] = []
        self._ended = False

    def _keeps_enough(self, point: dict[str, float]) -> bool:
        return point["retain_probability"] >= self.retain_floor

    def _goes_on(self, point: dict[str, float]) -> bool:
        return self._keeps_enough(point) and point[self.metric] > self.goal + self.tolerance

    def _distance(self, point: dict[str, float]) -> float:
        return abs(point[self.metric] - self.goal)

    def _reaches(self, point: dict[str, float]) -> bool:
        return self._keeps_enough(point) and self._distance(point) <= self.tolerance

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
        control.should_training_stop = True

    def _refuse_start(self, point: dict[str, float]) -> None:
        if any(map(math.isnan, point.values())):
            raise CannotBeginError(
                f"The scores of the model are not finite before training, so `{self.metric}` has no value that could "
                "come down to a goal. Check the weights, or load the model in another `dtype`."
            )
        if not self._keeps_enough(point):
            raise CannotBeginError(
                f"The retain probability is {point['retain_probability']:.3f} before training, below the floor of "
                f"{self.retain_floor:g}. Lower the floor."
            )
        raise CannotBeginError(
            f"`{self.metric}` is {point[self.metric]:.3f} before training, where the goal is {self.goal:.3f} "
            f"(tolerance {self.tolerance:g}): there is nothing to unlearn. Set a lower goal, or check that the model "
            "is one that knows the forget set."
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

    def _reason(self, passed: dict[str, float]) -> str:
        kept = self.kept
        value, goal = f"{kept[self.metric]:.3f}", f"{self.goal:.3f}"
        if self._reaches(kept):
            return f"`{self.metric}` reached {value} (goal {goal}) at step {kept['step']:g}."
        if not self._keeps_enough(passed):
            return (
                f"retain probability fell to {passed['retain_probability']:.3f}, below the floor of "
                f"{self.retain_floor:g}; kept is the state of step {kept['step']:g}, where `{self.metric}` is {value} "
                f"(goal {goal})."
            )
        return (
            f"`{self.metric}` fell to {passed[self.metric]:.3f}, past the goal of {goal}; kept is the closest state, "
            f"of step {kept['step']:g}, where it is {value}."
        )

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds: the history, and the state that is kept so far."""
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
        if not self._is_resumed:
            self.kept = None
        super().on_train_begin(args, state, control, **kwargs)

    def on_train_end(self, args, state, control, **kwargs):
        if not self._ended:
            self._put(self._kept_weights)
            if state.is_world_process_zero:
                logger.warning(
                    f"The goal was not reached in {state.global_step} steps: `{self.metric}` is "
                    f"{self.kept[self.metric]:.3f} (goal {self.goal:.3f}) in the state that is kept, of step "
                    f"{self.kept['step']:g}. Train for more epochs, or with a higher learning rate."
                )
        self._parameters, self._kept_weights = [], []


def _local(parameter: Tensor) -> Tensor:
    """A parameter's values; under FSDP the shard of this process."""
    parameter = parameter.detach()
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter

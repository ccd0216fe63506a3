# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Measurements of a model while it trains: its forgetting curve, and the squeezing panel."""

import functools
import math
import os
import sys
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, Trainer, TrainerCallback

from ..encoding import padding_token_id
from ..generation import whole_model
from ..records import json_text
from ..subjects import MovedAnswers
from .plots import draw, plot_squeezing
from .rows import EncodedSet, rows_as_trained
from .squeezing import SqueezingPanel, squeezing_index
from .tofu import compare_with_strangers, score_set


class CannotBeginError(ValueError):
    """Training needs no run, or what should be measured during it cannot be. Raised before the first step."""


class _MeasuringCallback(TrainerCallback):
    """Measures a model before training, at each interval and at the end; `history` has all measurements in order."""

    group: str

    def __init__(self, trainer: Trainer, every_steps: int | None):
        if every_steps is not None and every_steps < 1:
            raise ValueError(f"`every_steps` is {every_steps}. Give at least 1, or `None` to measure once an epoch.")
        self.trainer, self.every_steps = trainer, every_steps
        self.history: list[dict[str, float]] = []
        self._is_resumed = False

    @abstractmethod
    def values(self, model: PreTrainedModel) -> dict[str, float]:
        """Values of a model, not wrapped."""

    def logged(self, values: dict[str, float]) -> dict[str, float]:
        """Logged values of a measurement, which is in the history already."""
        return values

    def _current_values(self) -> dict[str, float]:
        trainer = self.trainer
        kwargs = trainer.args.gradient_checkpointing_kwargs
        with whole_model(trainer.model_wrapped, trainer.accelerator, kwargs) as model:
            return self.values(model)

    def _log(self, values: dict[str, float], control) -> None:
        # Not `trainer.log`: TRL's would put the means of the training steps into this entry. And logging lowers the
        # flag of an entry that is due at this step.
        due = control.should_log
        Trainer.log(self.trainer, {f"{self.group}/{name}": value for name, value in values.items()})
        control.should_log = due

    def _measure(self, state, control) -> None:
        values = self._current_values()
        self.history.append({"step": state.global_step, "epoch": state.epoch, **values})
        self._log(self.logged(values), control)

    def state_dict(self) -> dict[str, Any]:
        """The state for a checkpoint."""
        return {"history": self.history}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a checkpoint when training begins."""
        self.history, self._is_resumed = state["history"], True

    def on_train_begin(self, args, state, control, **kwargs):
        resumed, self._is_resumed = self._is_resumed, False
        if not resumed:
            self.history = []
            self._measure(state, control)
        elif abs(state.epoch - round(state.epoch)) < 1e-6 or state.global_step >= state.max_steps:
            # The checkpoint of an epoch's last step may be older than the end of the epoch, which does not come again.
            self._measure_at_end(state, control, is_last=state.global_step >= state.max_steps)

    def _measure_at_end(self, state, control, is_last: bool) -> None:
        due = self.every_steps is None or is_last
        if due and self.history[-1]["step"] < state.global_step:
            self._measure(state, control)

    def on_step_end(self, args, state, control, **kwargs):
        if self.every_steps is not None and state.global_step % self.every_steps == 0:
            self._measure(state, control)

    def on_epoch_end(self, args, state, control, **kwargs):
        # At the end of the last epoch and not of training, when reporters are closed and the best model may be loaded.
        self._measure_at_end(state, control, is_last=control.should_training_stop)


def _scores(model: PreTrainedModel, encoded: EncodedSet, **sizes: int) -> dict[str, list[float]]:
    """Metric -> value of each row of a set, as the points of all curves have them."""
    return score_set(model, encoded.true_answers(), parity="strict", **sizes)


def curve_point(
    model: PreTrainedModel,
    forget: EncodedSet,
    retain: EncodedSet,
    *,
    pad_token_id: int,
    moved: MovedAnswers | None = None,
) -> dict[str, float]:
    """Strict extraction strength, forget and retain probability, mean log-prob, and with `moved` answers the AUC."""
    values = {}
    for encoded in (forget, retain):
        values |= _scores(model, encoded, pad_token_id=pad_token_id)
    # The exponential of a log-prob below -708 underflows, and the logarithm of 0 is no number.
    logps = [math.log(max(probability, sys.float_info.min)) for probability in values["forget/probability"]]
    point = {
        "extraction_strength": fmean(values["forget/extraction_strength"]),
        "forget_probability": fmean(values["forget/probability"]),
        "forget_logp": fmean(logps),
        "retain_probability": fmean(values["retain/probability"]),
    }
    if moved is not None:
        compared = compare_with_strangers(model, moved, values["forget/probability"], pad_token_id=pad_token_id)
        point["strangers_auc"] = compared["strangers_auc"]
    return point


def sequence_point(
    model: PreTrainedModel,
    forget: Mapping[str, EncodedSet],
    retain: EncodedSet,
    *,
    pad_token_id: int,
    batch_size: int = 32,
) -> dict[str, Any]:
    """`requests` and `retain_probability` of a model, see [`~evaluation.tables.SequenceStage`]."""

    def score(encoded: EncodedSet) -> dict[str, float]:
        values = _scores(model, encoded, pad_token_id=pad_token_id, batch_size=batch_size)
        return {metric: fmean(row) for metric, row in values.items()}

    requests = {}
    for name, encoded in forget.items():
        means = score(encoded)
        requests[name] = {
            "extraction_strength": means["forget/extraction_strength"],
            "forget_probability": means["forget/probability"],
        }
    return {"requests": requests, "retain_probability": score(retain)["retain/probability"]}


class ForgettingCurveCallback(_MeasuringCallback):
    """
    Follows how much is forgotten and how much is kept: strict extraction strength and mean answer probability.

    Logs `curve/extraction_strength`, `curve/forget_probability`, `curve/forget_logp` and `curve/retain_probability`,
    and with `moved` answers `curve/strangers_auc` (see [`curve_point`]), every `every_steps` optimiser steps, or once
    an epoch (`None`).
    """

    group = "curve"

    def __init__(
        self,
        trainer: Trainer,
        forget: EncodedSet,
        retain: EncodedSet,
        *,
        pad_token_id: int,
        every_steps: int | None = None,
        moved: MovedAnswers | None = None,
    ):
        super().__init__(trainer, every_steps)
        self.sets, self.pad_token_id, self.moved = (forget, retain), pad_token_id, moved

    def values(self, model: PreTrainedModel) -> dict[str, float]:
        return curve_point(model, *self.sets, pad_token_id=self.pad_token_id, moved=self.moved)


class SqueezingPanelCallback(_MeasuringCallback):
    """
    Follows a [`SqueezingPanel`] before training, at each interval and at its end; it is frozen before the first one.

    Logs the bands as `squeezing/target`, `squeezing/high`, ... and `squeezing/index` so far, all in nats per token. A
    [`CannotBeginError`] says that the panel cannot be frozen, or that a resumed run has none.

    Example:

    ```python
    trainer.add_callback(SqueezingPanelCallback(trainer, rows, max_new_tokens=64, path="unlearned"))
    trainer.train()
    ```

    Args:
        rows (`Sequence[Mapping[str, Any]]`):
            Forget rows; these and the numbers as in [`SqueezingPanel.freeze`].
        every_steps (`int`, *optional*):
            Optimiser steps between measurements. `None` measures once an epoch.
        path (`str` or `os.PathLike`, *optional*):
            Folder of `squeezing.json` (the history) and `figures/squeezing.png`. `None` writes nothing.
    """

    group = "squeezing"

    def __init__(
        self,
        trainer: Trainer,
        rows: Sequence[Mapping[str, Any]],
        *,
        max_new_tokens: int,
        num_prompts: int = 16,
        num_candidates: int = 12,
        seed: int = 42,
        batch_size: int | None = None,
        every_steps: int | None = None,
        path: str | os.PathLike | None = None,
    ):
        super().__init__(trainer, every_steps)
        self.rows = rows
        self.settings = {
            "max_new_tokens": max_new_tokens,
            "num_prompts": num_prompts,
            "num_candidates": num_candidates,
            "seed": seed,
            "batch_size": batch_size,
        }
        self.path = None if path is None else Path(path)
        self.panel: SqueezingPanel | None = None

    def values(self, model: PreTrainedModel) -> dict[str, float]:
        if self.panel is None:
            tokenizer = self.trainer.processing_class
            try:
                rows, args = self.rows, self.trainer.args
                # Other trainers of transformers, too, whose arguments have no such fields.
                if hasattr(args, "prompt_length"):
                    rows = list(rows_as_trained(Dataset.from_list(list(rows)), tokenizer, args, name="forget"))
                self.panel = SqueezingPanel.freeze(model, tokenizer, rows, **self.settings)
            except ValueError as error:
                raise CannotBeginError(f"There is no squeezing panel. {error}") from error
        return self.panel.measure(model)

    def state_dict(self) -> dict[str, Any]:
        """The state for a checkpoint. **The bands hold forget text**, as token ids."""
        return super().state_dict() | {"bands": self.panel.bands, "batch_size": self.panel.batch_size}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a checkpoint when training begins."""
        super().load_state_dict(state)
        pad = padding_token_id(self.trainer.processing_class)
        self.panel = SqueezingPanel(state["bands"], pad_token_id=pad, batch_size=state["batch_size"])

    def logged(self, values: dict[str, float]) -> dict[str, float]:
        return values | {"index": squeezing_index(self.history)}

    def on_train_begin(self, args, state, control, **kwargs):
        if state.global_step > 0 and not self._is_resumed:
            raise CannotBeginError(
                f"Training resumes at step {state.global_step}, where the responses of the squeezing panel would be "
                "those of a model that has begun to forget, and the interrupted run had no panel. Train from the "
                "start, or leave `SqueezingPanelCallback` out."
            )
        super().on_train_begin(args, state, control, **kwargs)

    def on_train_end(self, args, state, control, **kwargs):
        if self.path is None or not state.is_world_process_zero:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / "squeezing.json").write_text(json_text(self.history, "squeezing.json"), encoding="utf-8")
        draw(self.path / "figures" / "squeezing.png", functools.partial(plot_squeezing, self.history))

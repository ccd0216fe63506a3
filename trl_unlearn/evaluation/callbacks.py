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

"""What is measured of a model while it trains."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback

from .._trl import unwrap_model_for_generation
from .plots import plot_squeezing
from .squeezing_panel import SqueezingPanel, squeezing_index


class SqueezingPanelCallback(TrainerCallback):
    """
    Follows a [`SqueezingPanel`] during training: before it, at each interval and at its end.

    Logs the bands as `squeezing/target`, `squeezing/high`, ... and `squeezing/index` so far, all in nats per token.

    Example:

    ```python
    trainer.add_callback(SqueezingPanelCallback(trainer, rows, max_new_tokens=64, path="unlearned"))
    trainer.train()
    ```

    Args:
        trainer ([`~transformers.Trainer`]):
            Trainer that the callback is added to.
        rows (`Sequence[Mapping[str, Any]]`):
            Forget rows, see [`SqueezingPanel.freeze`].
        max_new_tokens (`int`):
            Longest response, in tokens.
        num_prompts (`int`, *optional*, defaults to `16`):
            Number of prompts.
        num_candidates (`int`, *optional*, defaults to `12`):
            Number of samples a prompt, at least 3.
        seed (`int`, *optional*, defaults to `42`):
            Seed of the samples.
        batch_size (`int`, *optional*):
            Rows a forward pass and a `generate` call take. `None`: 32, and chosen from memory.
        every_steps (`int`, *optional*):
            Optimiser steps between measurements. `None` measures once an epoch.
        path (`str` or `os.PathLike`, *optional*):
            Folder of `squeezing.json` (the history) and `figures/squeezing.png`. `None` writes nothing.

    Attributes:
        history (`list[dict[str, float]]`):
            `step`, `epoch` and each band of every measurement, in order.

    Raises:
        `ValueError`: When training begins, if it goes on from a checkpoint, or the panel cannot be frozen.
    """

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
        if every_steps is not None and every_steps < 1:
            raise ValueError(f"`every_steps` is {every_steps}. Give at least 1, or `None` to measure once an epoch.")
        self.trainer, self.rows = trainer, rows
        self.settings = {
            "max_new_tokens": max_new_tokens,
            "num_prompts": num_prompts,
            "num_candidates": num_candidates,
            "seed": seed,
            "batch_size": batch_size,
        }
        self.every_steps = every_steps
        self.path = None if path is None else Path(path)
        self.panel: SqueezingPanel | None = None
        self.history: list[dict[str, float]] = []

    def _measure(self, state, control) -> None:
        trainer = self.trainer
        kwargs = trainer.args.gradient_checkpointing_kwargs
        with (
            unwrap_model_for_generation(
                trainer.model_wrapped, trainer.accelerator, gradient_checkpointing_kwargs=kwargs
            ) as model,
            trainer.accelerator.autocast(),
        ):
            if self.panel is None:
                tokenizer = trainer.processing_class
                pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
                self.panel = SqueezingPanel.freeze(model, tokenizer, self.rows, pad_token_id=pad, **self.settings)
            values = self.panel.measure(model)
        self.history.append({"step": state.global_step, "epoch": state.epoch, **values})
        values["index"] = squeezing_index(self.history)
        # Not `trainer.log`: TRL's would put the means of the training steps into this entry. And logging lowers the
        # flag of an entry that is due at this step.
        due = control.should_log
        Trainer.log(trainer, {f"squeezing/{name}": value for name, value in values.items()})
        control.should_log = due

    def on_train_begin(self, args, state, control, **kwargs):
        if state.global_step > 0:
            raise ValueError(
                f"Training goes on from step {state.global_step}, where the responses of the squeezing panel would be "
                "those of a model that forgets already. Train from the start, or leave `SqueezingPanelCallback` out."
            )
        self.panel, self.history = None, []
        self._measure(state, control)

    def on_step_end(self, args, state, control, **kwargs):
        if self.every_steps is not None and state.global_step % self.every_steps == 0:
            self._measure(state, control)

    def on_epoch_end(self, args, state, control, **kwargs):
        # At the end of the last epoch and not of training, when reporters are closed and the best model may be loaded.
        due = self.every_steps is None or control.should_training_stop
        if due and self.history[-1]["step"] < state.global_step:
            self._measure(state, control)

    def on_train_end(self, args, state, control, **kwargs):
        if self.path is None or not state.is_world_process_zero:
            return
        finite = [
            {name: value if math.isfinite(value) else None for name, value in entry.items()} for entry in self.history
        ]
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / "squeezing.json").write_text(json.dumps(finite, indent=2) + "\n", encoding="utf-8")
        plot_squeezing(self.history, self.path / "figures" / "squeezing.png")

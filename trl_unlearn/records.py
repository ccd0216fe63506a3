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

"""The typed record of a run: `run.json`. Standard library only."""

from dataclasses import dataclass, field
from typing import Any

from ._json_record import SCHEMA_VERSION, JsonRecord


_METHOD_LABELS = {"bs_t": "BS-T"}


@dataclass
class DatasetRecord:
    """
    A data set by name, size and hash; never its text.

    Args:
        name (`str`):
            The name or the path as it was given.
        rows (`int`):
            The number of rows that were used.
        sha256 (`str`):
            The hash of the encoded rows, hexadecimal.
        config (`str`, *optional*):
            The configuration, for instance `"forget10"`.
        split (`str`, *optional*):
            The split, for instance `"train[:100]"`.
        on_hub (`bool`, *optional*, defaults to `False`):
            Whether `name` is an id on the Hub. A relative path looks the same, so it has to be said.
    """

    name: str
    rows: int
    sha256: str
    config: str | None = None
    split: str | None = None
    on_hub: bool = False


@dataclass
class AdapterRecord:
    """
    The adapter that was trained.

    Args:
        type (`str`):
            PEFT's name of the kind, for instance `"LORA"`.
        r (`int`, *optional*):
            The rank, for kinds that have one.
        alpha (`float`, *optional*):
            The scale, for kinds that have one.
        target_modules (`list[str]` or `str`, *optional*):
            The modules it is on.
        continued_from (`str`, *optional*):
            The adapter that training went on from, name or path as given.
    """

    type: str
    r: int | None = None
    alpha: float | None = None
    target_modules: list[str] | str | None = None
    continued_from: str | None = None


@dataclass
class BeliefRefresh:
    """
    One sampling of the beliefs.

    Args:
        epoch (`float`):
            When, in epochs.
        count (`int`):
            The number of beliefs kept.
        mean_length (`float`):
            Their mean length, in tokens.
        mean_logp (`float`):
            The mean over beliefs of their mean log-probability a token, in nats, when they were sampled.
        target_share (`float`):
            The share that repeats the target.
        seconds (`float`):
            How long it took.
        sha256 (`str`):
            The hash of the beliefs, hexadecimal.
    """

    epoch: float
    count: int
    mean_length: float
    mean_logp: float
    target_share: float
    seconds: float
    sha256: str


@dataclass
class BeliefAudit:
    """
    What can be said of the beliefs without their text.

    Args:
        coverage (`float`):
            The share of forget rows that had beliefs of their own; must be 1.
        refreshes (`list[BeliefRefresh]`):
            Every sampling, in order.
    """

    coverage: float
    refreshes: list[BeliefRefresh]


@dataclass
class ChainLink:
    """
    One of several unlearning requests that were served one after another.

    Args:
        request (`str`):
            The name of the request.
        forget_set ([`DatasetRecord`]):
            What was to be forgotten.
        steps (`int`):
            The optimiser steps it took.
        seconds (`float`):
            How long it took.
    """

    request: str
    forget_set: DatasetRecord
    steps: int
    seconds: float


@dataclass(kw_only=True)
class UnlearningRun(JsonRecord):
    """
    What a training run was: `run.json`. No text of the data, no text of a belief.

    Args:
        schema_version (`int`, *optional*, defaults to 1):
            The version of this format.
        status (`str`, *optional*, defaults to `"trained"`):
            What was done to the model.
        base_model (`str`):
            Name or path of the model as given.
        base_model_on_hub (`bool`):
            Whether `base_model` is an id on the Hub. A relative path looks the same, so it has to be said.
        base_model_revision (`str`, *optional*):
            Its revision.
        adapter ([`AdapterRecord`], *optional*):
            The adapter; None for full fine-tuning.
        forget_set ([`DatasetRecord`]):
            What was to be forgotten.
        retain_set ([`DatasetRecord`], *optional*):
            What was to be kept; None if there was none.
        hyperparameters (`dict[str, Any]`):
            The fields of the training config, `forget_loss_type` and `lambda_bss` among them.
        steps (`int`), epochs (`float`), effective_batch_size (`int`), seed (`int`), world_size (`int`):
            What was realised.
        stopped (`str`, *optional*):
            Why training ended before its last step, in a sentence; None if it did not.
        chain (`list[ChainLink]`):
            The requests that were served before this one, in order.
        belief_audit ([`BeliefAudit`], *optional*):
            None for a method without sequence beliefs.
        training_log (`list[dict[str, float | None]]`):
            `step`, `epoch` and what was logged there. None stands for a number that was not finite.
        final_metrics (`dict[str, float | None]`):
            The metrics that training ended with.
        versions (`dict[str, str]`):
            Library -> version.
        started_at (`str`):
            ISO 8601.
        seconds (`float`):
            How long it took.
        hardware (`str`):
            In words.
    """

    schema_version: int = SCHEMA_VERSION
    status: str = "trained"
    base_model: str
    base_model_on_hub: bool
    base_model_revision: str | None = None
    adapter: AdapterRecord | None = None
    forget_set: DatasetRecord
    retain_set: DatasetRecord | None = None
    hyperparameters: dict[str, Any]
    steps: int
    epochs: float
    effective_batch_size: int
    seed: int
    world_size: int
    stopped: str | None = None
    chain: list[ChainLink] = field(default_factory=list)
    belief_audit: BeliefAudit | None = None
    training_log: list[dict[str, float | None]] = field(default_factory=list)
    final_metrics: dict[str, float | None] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    started_at: str
    seconds: float
    hardware: str

    def __post_init__(self):
        missing = [name for name in ("forget_loss_type", "lambda_bss") if name not in self.hyperparameters]
        if missing:
            raise ValueError(
                f"`hyperparameters` lacks {missing}; the method is named after them: record them also where the "
                f"default was used."
            )

    @property
    def is_adapter(self) -> bool:
        """`bool`: whether the model is an adapter, which one that is merged is no longer."""
        return self.adapter is not None and self.status != "merged"

    @property
    def method(self) -> str:
        """`str`: the method's name: `"BS-T"`, `"BS-S"`, `"NPO"`, or `"BS-S on NPO"`."""
        loss = self.hyperparameters["forget_loss_type"]
        label = _METHOD_LABELS.get(loss, loss.upper())
        if self.hyperparameters["lambda_bss"] == 0:
            return label
        return "BS-S" if loss == "bs_t" else f"BS-S on {label}"

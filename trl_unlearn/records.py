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

"""The typed record of a run, `run.json`, and what of its options decides it. Standard library only."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ._json_record import SCHEMA_VERSION, JsonRecord


_METHOD_LABELS = {"bs_t": "BS-T"}

# The options that do not change what a run makes, of the config and of the scripts. Any other one does: an unfinished
# run is gone on with, and a finished one taken over, only where the others are the same, and these are not recorded.
NO_SETTINGS = frozenset(
    (
        # Where things go, how a run goes on, and what else is made beside it or after it.
        *("output_dir", "resume_from_checkpoint", "restore_callback_states_from_checkpoint"),
        *("do_train", "do_eval", "do_predict", "evaluate", "methods", "seeds", "requests", "suites", "judge_replies"),
        # What is published.
        *("push_to_hub", "hub_model_id", "hub_revision", "hub_private_repo", "hub_strategy", "hub_always_push"),
        "hub_token",
        # What is shown and logged.
        *("run_name", "project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id", "report_to"),
        *("logging_strategy", "logging_steps", "logging_first_step", "logging_nan_inf_filter", "log_on_each_node"),
        *("log_level", "log_level_replica", "include_num_input_tokens_seen", "skip_memory_metrics", "debug"),
        *("disable_tqdm", "log_completions", "num_completions_to_print"),
        # Which checkpoints are kept.
        *("save_strategy", "save_steps", "save_total_limit", "save_only_model", "save_on_each_node"),
        *("enable_jit_checkpoint", "remove_belief_state"),
        # How rows come to the model, and how many a pass takes that trains nothing.
        *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers", "dataset_num_proc"),
        *("dataloader_prefetch_factor", "dataloader_multiprocessing_context"),
        *("belief_batch_size", "evaluation_batch_size", "torch_empty_cache_steps", "ddp_timeout", "local_rank"),
    )
)


def settings_digest(*arguments: Any) -> str:
    """
    A digest of what decides a run, to know whether an earlier one is the one that is asked for. It is of the arguments
    as they were parsed: take it before a script fills in what was left open.

    Args:
        *arguments (dataclasses):
            Arguments, of which `NO_SETTINGS` do not count.

    Returns:
        `str`: 16 hexadecimal digits.
    """
    names = [(one, field.name) for one in arguments for field in dataclasses.fields(one)]
    settings = {name: str(getattr(one, name)) for one, name in names if name not in NO_SETTINGS}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


@dataclass
class Truncation:
    """
    What a data set lost because its rows were too long.

    Args:
        rows (`int`):
            The number of rows that were cut off.
        tokens (`int`):
            The number of tokens that they lost.
        max_length (`int`):
            The number of tokens after which they were cut off.
    """

    rows: int
    tokens: int
    max_length: int


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
        truncation ([`Truncation`], *optional*):
            What was cut off, if anything was.
    """

    name: str
    rows: int
    sha256: str
    config: str | None = None
    split: str | None = None
    on_hub: bool = False
    truncation: Truncation | None = None


def quantization_label(config: Mapping[str, Any] | None) -> str | None:
    """
    A quantisation in words.

    Args:
        config (`Mapping[str, Any]`, *optional*):
            Its settings, as transformers writes them.

    Returns:
        `str` or None: for instance `"4 bits (nf4)"`; None for weights as they are.
    """
    if not config:
        return None
    if config.get("load_in_4bit"):
        return f"4 bits ({config.get('bnb_4bit_quant_type')})"
    return "8 bits" if config.get("load_in_8bit") else str(config.get("quant_method", "quantised"))


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
        base_quantization (`dict[str, Any]`, *optional*):
            How its weights were quantised in training, in the words of transformers; None if they were not.
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
    base_quantization: dict[str, Any] | None = None
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

# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""A trainer's run as an [`~trl_unlearn.records.UnlearningRun`]."""

import datetime
import enum
import hashlib
import json
import platform
import re
import time
from dataclasses import fields
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import DistributedType
from accelerate.utils import is_peft_model
from datasets import Dataset
from huggingface_hub import hf_hub_download, metadata_load
from trl import SFTConfig

from ..hub.access import is_on_hub
from ..records import (
    NO_SETTINGS,
    AdapterRecord,
    BeliefAudit,
    BeliefRefresh,
    DatasetRecord,
    Truncation,
    UnlearningRun,
    last_part,
    portable_name,
)


_LIBRARIES = ("trl-unlearn", "trl", "transformers", "peft", "accelerate", "datasets", "torch")
# Of licenses and languages on the Hub.
_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]*")
_URL = re.compile(r"https?://[\w.-]+/[\w./~%#?=&+-]*", re.ASCII)


class RunClock:
    """The begin of a run, and its seconds."""

    def __init__(self):
        self.started_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self._start = time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        """The values that a checkpoint keeps."""
        return {"started_at": self.started_at, "seconds": self.seconds()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a checkpoint: the time between the two runs does not count."""
        self.started_at = state["started_at"]
        self._start = time.perf_counter() - state["seconds"]

    def seconds(self) -> float:
        """Seconds since the run began."""
        return time.perf_counter() - self._start


@cache
def card_metadata(name: str) -> dict[str, Any]:
    """The metadata of the card of a model, in a folder or on the Hub; nothing without a card or a connection."""
    # Of a model that was not loaded from anywhere, the card would be a file of the working directory.
    if not name:
        return {}
    try:
        card = Path(name, "README.md") if Path(name).is_dir() else Path(hf_hub_download(name, "README.md"))
        return metadata_load(card) or {}
    except (OSError, ValueError, yaml.YAMLError):
        return {}


def _terms(metadata: dict[str, Any], given: str | None) -> dict[str, Any]:
    """Licence and language of a record: identifiers of the Hub, as a card or the config has them."""
    found = {"license": given} if given else metadata
    language = metadata.get("language") or []
    languages = [language] if isinstance(language, str) else language
    # A link to a file of the base's folder leads nowhere from another one.
    forms = {"license": _IDENTIFIER, "license_name": _IDENTIFIER, "license_link": _URL}
    return {
        **{
            name: found[name] if isinstance(found.get(name), str) and form.fullmatch(found[name]) else None
            for name, form in forms.items()
        },
        "language": [one for one in languages if isinstance(one, str) and _IDENTIFIER.fullmatch(one)],
    }


def tokens_digest(dataset: Dataset) -> str:
    """SHA-256 of the tokens and labels of a set: the same text under another tokenizer or template is another set."""
    digest = hashlib.sha256()
    for row in dataset.select_columns(["input_ids", "labels"]):
        digest.update(repr((row["input_ids"], row["labels"])).encode())
    return digest.hexdigest()


def _dataset_record(trainer, dataset: Dataset, role: str) -> DatasetRecord:
    source = {"name": "in memory"} | trainer.dataset_sources.get(role, {})
    truncated = [count for count in dataset["truncated_tokens"] if count]
    return DatasetRecord(
        rows=len(dataset),
        sha256=tokens_digest(dataset),
        truncation=Truncation(len(truncated), sum(truncated), trainer.args.max_length) if truncated else None,
        **(source | {"name": portable_name(source["name"])}),
    )


def _adapter_record(trainer) -> AdapterRecord | None:
    model = trainer.accelerator.unwrap_model(trainer.model)
    if not is_peft_model(model):
        return None
    config = model.peft_config[model.active_adapter]
    # Trained prompts have no target modules.
    modules = getattr(config, "target_modules", None)
    return AdapterRecord(
        type=str(config.peft_type.value),
        r=getattr(config, "r", None),
        alpha=getattr(config, "lora_alpha", None),
        target_modules=sorted(modules) if isinstance(modules, set | list) else modules,
        continued_from=portable_name(trainer.dataset_sources.get("adapter", {}).get("name", "in memory"))
        if trainer._continues_adapter
        else None,
    )


def _quantization(model) -> dict[str, Any] | None:
    """How the base was quantised when it was loaded: an evaluation has to load it the same way."""
    config = getattr(model.config, "quantization_config", None)
    if config is None:
        return None
    settings = config if isinstance(config, dict) else config.to_dict()
    return {name: value for name, value in settings.items() if isinstance(value, bool | int | float | str)}


def _hyperparameters(args) -> dict[str, Any]:
    """Every setting that `SFTConfig` does not have, and every other one that differs from its default there."""
    inherited = {field.name: field.default for field in fields(SFTConfig)}
    kept = {}
    for field in fields(args):
        value = getattr(args, field.name)
        if isinstance(value, enum.Enum):
            value = value.value
        plain = isinstance(value, bool | int | float | str | None)
        # Objects and lists among the inherited ones are filled in by the parents, with defaults of their own.
        if field.name in inherited and (not plain or value == inherited[field.name]):
            continue
        if isinstance(value, str) and (Path(value).is_absolute() or Path(value).exists()):
            # A published record shows neither the user's name nor those of their folders.
            value = "local" if Path(value).is_dir() else last_part(value)
        elif field.name == "forget_subjects" and value is not None:
            # Who is forgotten is what nobody may read in a record.
            value = f"{len(value)} given"
        elif isinstance(value, dict):
            # A JSON object; what JSON does not know in it, such as a dtype, is text.
            try:
                value = json.loads(json.dumps(value, default=str))
            except TypeError:
                # Of keys that JSON does not know: no record is worth a trained model.
                value = str(value)
        elif not plain:
            value = str(value)
        if field.name not in NO_SETTINGS:
            kept[field.name] = value
    return kept


def _hardware(trainer) -> str:
    """Processes, what each runs on, and how the model is sharded over them."""
    state = trainer.accelerator.state
    device = torch.cuda.get_device_name() if trainer.accelerator.device.type == "cuda" else "CPU"
    sharding = ""
    if state.distributed_type == DistributedType.DEEPSPEED:
        sharding = f", ZeRO-{state.deepspeed_plugin.zero_stage}"
    elif state.distributed_type == DistributedType.FSDP:
        sharding = f", FSDP{state.fsdp_plugin.fsdp_version}"
    return f"{trainer.args.world_size} x {device}{sharding}"


def build_run_record(trainer, clock: RunClock) -> UnlearningRun:
    """Record what a trainer did, without any text of the data."""
    args, state, store = trainer.args, trainer.state, trainer.belief_store
    base = trainer.accelerator.unwrap_model(trainer.model)
    base = base.get_base_model() if is_peft_model(base) else base
    path = base.config._name_or_path
    name = path or "in memory"
    history = [{k: v for k, v in entry.items() if isinstance(v, int | float)} for entry in state.log_history]
    audit = None
    if store is not None and store.audits:
        known = {field.name for field in fields(BeliefRefresh)}
        refreshes = [BeliefRefresh(**{k: v for k, v in one.items() if k in known}) for one in store.audits]
        audit = BeliefAudit(coverage=min(one["coverage"] for one in store.audits), refreshes=refreshes)
    return UnlearningRun(
        base_model=portable_name(name),
        base_model_on_hub=is_on_hub(name),
        base_model_revision=getattr(base.config, "_commit_hash", None),
        base_quantization=_quantization(base),
        **_terms(card_metadata(path), args.hub_license),
        adapter=_adapter_record(trainer),
        forget_set=_dataset_record(trainer, trainer.train_dataset, "forget"),
        retain_set=None
        if trainer.retain_dataset is None
        else _dataset_record(trainer, trainer.retain_dataset, "retain"),
        hyperparameters=_hyperparameters(args),
        steps=state.global_step,
        epochs=state.epoch or 0.0,
        effective_batch_size=args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size,
        seed=args.seed,
        world_size=args.world_size,
        stopped=trainer.stop_reason,
        shortfall=trainer.shortfall,
        missed=trainer.missed,
        first_attempt=trainer.first_attempt,
        chain=trainer.earlier_requests,
        belief_audit=audit,
        training_log=[entry for entry in history if "train_runtime" not in entry],
        final_metrics=next((entry for entry in reversed(history) if "train_runtime" in entry), {}),
        versions={library: version(library) for library in _LIBRARIES} | {"python": platform.python_version()},
        started_at=clock.started_at,
        seconds=clock.seconds(),
        hardware=_hardware(trainer),
    )

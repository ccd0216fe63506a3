# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Records as checked JSON files, `run.json`, and which options are no settings of a run. Standard library only."""

import hashlib
import json
import math
import numbers
import os
import re
import types
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Self, Union, get_args, get_origin, get_type_hints


SCHEMA_VERSION = 1


def _to_json(value: Any, where: str) -> Any:
    """Plain JSON data: numbers of any library become Python's, NaN and infinities become None."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise ValueError(f"`{where}` has the key {key!r}; JSON takes strings only: write it as a string.")
        return {key: _to_json(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(item, f"{where}[{i}]") for i, item in enumerate(value)]
    raise ValueError(
        f"`{where}` is a `{type(value).__name__}`, which JSON cannot hold; expected a number, a string, a bool, None, "
        f"or lists and dicts of these: convert it first."
    )


def json_text(value: Any, where: str) -> str:
    """Text of a readable JSON file that is no record. NaN and infinities become null, which every reader knows."""
    return json.dumps(_to_json(value, where), indent=2, allow_nan=False) + "\n"


def write_whole(path: str | os.PathLike, text: str, mode: int = 0o666) -> None:
    """Write a file, and its folder if needed: nobody sees half of it, and `mode` holds from the first byte on."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not `tempfile`: its files are readable by their owner only, and the mode would stay.
    unfinished = path.with_name(f".{path.name.lstrip('.')}.{os.getpid()}")
    # Of a process that was killed.
    unfinished.unlink(missing_ok=True)
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        # Half a surrogate pair, as in a path that is not UTF-8, becomes the escape that JSON reads back.
        with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _from_json(hint: Any, value: Any, where: str) -> Any:
    """`value`, read from JSON, checked against the type `hint`; null for a `float` comes back as NaN."""
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if value is None and types.NoneType in options:
        return None
    for option in options:
        origin, args = get_origin(option) or option, get_args(option)
        if option is Any:
            return value
        if is_dataclass(option) and isinstance(value, dict):
            return _record_from_json(option, value, where)
        if origin is dict and isinstance(value, dict):
            return {key: _from_json(args[1], item, f"{where}.{key}") for key, item in value.items()}
        if origin is list and isinstance(value, list):
            return [_from_json(args[0], item, f"{where}[{i}]") for i, item in enumerate(value)]
        # Some writers write 1.0 as 1. But a bool is an int in Python, and true must not pass for 1.0.
        if option is float and (value is None or (isinstance(value, int | float) and not isinstance(value, bool))):
            return math.nan if value is None else value
        if option in (int, str, bool) and type(value) is option:
            return value
    name = hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint).replace("NoneType", "None")
    raise ValueError(f"`{where}` is {value!r} (`{type(value).__name__}`), expected `{name}`: correct it.")


def _record_from_json(cls: type, data: dict[str, Any], where: str) -> Any:
    known = {item.name: item for item in fields(cls)}
    unknown = sorted(set(data) - set(known))
    if unknown:
        raise ValueError(
            f"`{where}` has the unknown keys {unknown}; a `{cls.__name__}` has {list(known)}: remove them, or read "
            f"the file with the version of trl-unlearn that wrote it."
        )
    required = (name for name, item in known.items() if item.default is MISSING and item.default_factory is MISSING)
    missing = [name for name in required if name not in data]
    if missing:
        raise ValueError(f"`{where}` lacks the keys {missing} of a `{cls.__name__}`: it is not a complete record.")
    hints = get_type_hints(cls)
    return cls(**{name: _from_json(hints[name], value, f"{where}.{name}") for name, value in data.items()})


class JsonRecord:
    """Parent of the records, which are dataclasses with a `schema_version`: their JSON form and their files."""

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON data; a number that is not finite is None."""
        return _to_json(asdict(self), type(self).__name__)

    def to_json(self) -> str:
        """The text of the record's file."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """
        The record that [`~JsonRecord.to_dict`] returned; None in place of a `float` is NaN.

        Raises:
            `ValueError`: On another `schema_version`, an unknown or missing key, or a value of another type.
        """
        version = data.get("schema_version") if isinstance(data, dict) else None
        if version != SCHEMA_VERSION:
            raise ValueError(
                f"`schema_version` is {version!r}, this version of trl-unlearn reads {SCHEMA_VERSION}: use the "
                f"version that wrote the record, or write it anew."
            )
        return _record_from_json(cls, data, cls.__name__)

    def save(self, path: str | os.PathLike) -> None:
        """Write the record's file, and its folder if needed. A reader never sees half a file."""
        write_whole(path, self.to_json())

    @classmethod
    def load(cls, path: str | os.PathLike) -> Self:
        """Read a file of [`~JsonRecord.save`]; a `ValueError` if it holds no JSON or another record."""
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"`{path}` is not JSON ({error}); expected a saved `{cls.__name__}`.") from error
        return cls.from_dict(data)


_METHOD_LABELS = {"bs_t": "BS-T", "ignorance": "ignorance"}

# Options, of the config and of the scripts, that do not change what a run makes. Every other option is a setting: an
# unfinished run is resumed, and a finished one taken over, only with the same settings. Options that stand here are
# not recorded either, and no card shows them. This is the only such list.
NO_SETTINGS = frozenset(
    (
        # Where things go, how a run is resumed, and what else is made beside it or after it.
        *("output_dir", "overwrite_output_dir", "resume_from_checkpoint", "restore_callback_states_from_checkpoint"),
        *("dry_run", "review", "merge", "undo"),
        *("do_train", "do_eval", "do_predict", "evaluate", "methods", "seeds", "requests", "suites", "judge_replies"),
        # What is published.
        *("push_to_hub", "hub_model_id", "hub_revision", "hub_private_repo", "hub_strategy", "hub_always_push"),
        *("hub_token", "hub_license"),
        # What is shown and logged.
        *("run_name", "project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id", "report_to"),
        *("logging_strategy", "logging_steps", "logging_first_step", "logging_nan_inf_filter", "log_on_each_node"),
        *("log_level", "log_level_replica", "include_num_input_tokens_seen", "skip_memory_metrics", "debug"),
        *("disable_tqdm", "verbose", "telemetry", "log_completions", "num_completions_to_print"),
        # Which checkpoints are kept.
        *("save_strategy", "save_steps", "save_total_limit", "save_only_model", "save_on_each_node"),
        *("enable_jit_checkpoint", "remove_belief_state"),
        # How rows come to the model, and the batches of passes that train nothing.
        *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers", "dataset_num_proc"),
        *("dataloader_prefetch_factor", "dataloader_multiprocessing_context"),
        *("belief_batch_size", "evaluation_batch_size", "torch_empty_cache_steps", "ddp_timeout", "local_rank"),
    )
)


def settings_digest(*arguments: Any) -> str:
    """Digest of the settings of a run, 16 hexadecimal digits: whether an earlier run is the same one."""
    # Of the arguments as they were parsed, before a script fills in what was left open: a default that is looked up
    # later, such as the folder of the embedded lab, may differ between machines and versions.
    names = [(one, field.name) for one in arguments for field in fields(one)]
    settings = {name: str(getattr(one, name)) for one, name in names if name not in NO_SETTINGS}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def last_part(name: str) -> str:
    """The public part of a path: its last part, but `"local"` for a home folder, which has its user's name."""
    name = name.rstrip("/\\")
    part = re.split(r"[/\\]", name)[-1]
    is_home = re.search(r"(?i)(^|[/\\])(home|users)[/\\][^/\\]+$|^~[^/\\]*$", name) or part == Path.home().name
    return "local" if is_home else part.lstrip("~.") or "local"


def portable_name(name: str) -> str:
    """A name, or the last part of a folder or file of this machine."""
    # Not of what a link leads to: that name is another one.
    return last_part(os.path.abspath(name)) if Path(name).exists() else name


@dataclass
class Truncation:
    """Tokens and rows that a data set lost because its rows were too long."""

    rows: int  # that were cut
    tokens: int  # cut off from these rows
    max_length: int  # tokens that a row may have


@dataclass
class DatasetRecord:
    """A data set by name, size and hash; never its text."""

    name: str  # as given; of a path its last part
    rows: int
    sha256: str  # of the encoded rows: input ids and labels
    config: str | None = None
    split: str | None = None
    # A relative path looks like an id on the Hub.
    on_hub: bool = False
    truncation: Truncation | None = None


def quantization_label(config: Mapping[str, Any] | None) -> str | None:
    """Transformers' settings of a quantisation in words, for instance `"4 bits (nf4)"`; None without any."""
    if not config:
        return None
    if config.get("load_in_4bit"):
        return f"4 bits ({config.get('bnb_4bit_quant_type')})"
    return "8 bits" if config.get("load_in_8bit") else str(config.get("quant_method", "quantised"))


@dataclass
class AdapterRecord:
    """The adapter that was trained. Some kinds have no rank, no scale or no modules."""

    type: str  # PEFT's name, for instance "LORA"
    r: int | None = None
    alpha: float | None = None
    target_modules: list[str] | str | None = None
    continued_from: str | None = None  # name or path of the adapter that training started from


@dataclass
class BeliefRefresh:
    """One sampling of the beliefs."""

    epoch: float
    count: int  # beliefs that were kept
    mean_length: float  # in tokens
    mean_logp: float  # nats per token, mean over beliefs, under the model that sampled them
    target_share: float  # of beliefs that repeat the target
    seconds: float
    sha256: str


@dataclass
class BeliefAudit:
    """Figures about the beliefs, without their text."""

    coverage: float  # share of forget rows that had beliefs of their own; must be 1
    refreshes: list[BeliefRefresh]


@dataclass
class ChainLink:
    """An unlearning request that was served before this run, on the same model."""

    request: str
    forget_set: DatasetRecord
    steps: int
    seconds: float

    @classmethod
    def of(cls, request: str, run: "UnlearningRun") -> Self:
        """A finished run, for the record of those behind it."""
        return cls(request=request, forget_set=run.forget_set, steps=run.steps, seconds=run.seconds)


@dataclass
class ServedRequest:
    """A request in the ledger of a folder, without any text of its rows."""

    sha256: str  # of the file of its rows in the folder's `request/`
    rows: int
    served_at: str  # UTC, ISO 8601
    weights_sha256: dict[str, str]  # file -> digest: the model that the numbers and the verdict are about
    target_strength: float | None  # mean strict extraction strength of the rows, before the request and now
    strength: float | None
    forgotten: bool | None  # None: not measured
    verdict: str  # the same as a sentence
    retrained_strength: float | None = None  # that of a retrained model, where one was measured


@dataclass(kw_only=True)
class RequestLedger(JsonRecord):
    """`requests.json`: which requests a model has served, for those who must show that they acted."""

    schema_version: int = SCHEMA_VERSION
    requests: list[ServedRequest] = field(default_factory=list)

    def put(self, request: ServedRequest) -> None:
        """Add a request, in the place of an earlier one of the same rows."""
        places = {one.sha256: place for place, one in enumerate(self.requests)}
        if (place := places.get(request.sha256)) is None:
            self.requests.append(request)
        else:
            self.requests[place] = request


# Why a goal was missed: the steps or the minutes were over; the rows to keep had fallen to their floor; the goal was
# overshot; training diverged. Seen after training: the answers are broken text; rows of earlier requests came back.
MISSED = ("steps", "minutes", "floor", "overshot", "diverged", "broken", "earlier")


@dataclass(kw_only=True)
class UnlearningRun(JsonRecord):
    """
    The record of a training run, `run.json`. It holds no text of the data and no text of a belief.

    Args:
        schema_version (`int`, *optional*, defaults to 1):
            Version of this format.
        status (`str`, *optional*, defaults to `"trained"`):
            `"trained"` or `"merged"`.
        base_model (`str`), base_model_on_hub (`bool`), base_model_revision (`str`, *optional*):
            Name or path as given; whether it is an id on the Hub, which a relative path looks like; its revision.
        license (`str`, *optional*), license_name (`str`, *optional*), license_link (`str`, *optional*), \
        language (`list[str]`):
            As the card of the base has them, or as the config says; None and empty where neither does. A license
            that is no identifier of the Hub (`other`) has a name and a link.
        base_quantization (`dict[str, Any]`, *optional*):
            How the base was quantised in training, in transformers' words; None if it was not.
        adapter ([`AdapterRecord`], *optional*):
            The adapter; None for full fine-tuning.
        forget_set ([`DatasetRecord`]), retain_set ([`DatasetRecord`], *optional*):
            The data.
        hyperparameters (`dict[str, Any]`):
            Settings of the training config, `forget_loss_type` and `lambda_bss` among them.
        steps (`int`), epochs (`float`), effective_batch_size (`int`), seed (`int`), world_size (`int`):
            As they were realised.
        stopped (`str`, *optional*):
            Why training ended before its last step, as a sentence.
        shortfall (`str`, *optional*):
            How much of the goal of the training was missing at its end, or why it diverged, as a sentence.
        missed (`str`, *optional*):
            Why the goal was missed, one of `MISSED`; None where it was reached, or there was none.
        first_attempt (`str`, *optional*):
            What a first attempt left of the goal, and what the second one, which this record is about, did in another
            way; None where there was one attempt.
        chain (`list[ChainLink]`):
            Requests that were served before this one, in order.
        belief_audit ([`BeliefAudit`], *optional*):
            None for a method without sequence beliefs.
        training_log (`list[dict[str, float | None]]`), final_metrics (`dict[str, float | None]`):
            Logged numbers with `step` and `epoch`, and those of the end. None: the number was not finite.
        versions (`dict[str, str]`), hardware (`str`), started_at (`str`), seconds (`float`):
            Library -> version; the devices in words; ISO 8601; the duration.
    """

    schema_version: int = SCHEMA_VERSION
    status: str = "trained"
    base_model: str
    base_model_on_hub: bool
    base_model_revision: str | None = None
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    language: list[str] = field(default_factory=list)
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
    shortfall: str | None = None
    missed: str | None = None
    first_attempt: str | None = None
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
    def stops_short(self) -> bool:
        """`bool`: Whether `shortfall` says why training ended early, too."""
        return self.missed in ("floor", "overshot", "diverged")

    @property
    def is_adapter(self) -> bool:
        """`bool`: Whether the model is an adapter. A merged one no longer is."""
        return self.adapter is not None and self.status != "merged"

    @property
    def method(self) -> str:
        """`str`: Name of the method, for instance `"BS-T"`, `"BS-S"`, `"NPO"` or `"BS-S on NPO"`."""
        loss = self.hyperparameters["forget_loss_type"]
        label = _METHOD_LABELS.get(loss, loss.upper())
        if self.hyperparameters["lambda_bss"] == 0:
            return label
        return "BS-S" if loss == "bs_t" else f"BS-S on {label}"

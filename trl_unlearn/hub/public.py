# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""What a published record shows: of a path its last part, and no name of a user or of a folder of theirs."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..escaping import visible
from ..records import NO_SETTINGS, DatasetRecord, UnlearningRun, last_part
from ..results import EvaluationResult
from .access import is_repo_id


# Secrets and paths: nobody is shown them, whatever a record of any version holds.
_HIDDEN_SETTINGS = re.compile(r"(^|_)(dir|token|path)$|^hub_")
# The place of an adapter's base, which a push replaces by its id.
_BASE = "base_model_name_or_path"
# Whose value is the name of a file or a folder, wherever that lay.
_PLACES = re.compile(r"(name_or_path|_file|_dir|_path)$")
_IN_HOME = r"(?i)~[\w.-]*[/\\]|\.\.?[/\\]\w|([a-z]:)?([/\\][^/\\\n]+)*[/\\](home|users)[/\\]|\\\\[\w.-]+\\|file://"


def public_name(name: str, on_hub: bool) -> tuple[str, bool]:
    """A name without a path, and whether it is an id on the Hub."""
    # A record may err: when it was written, a folder that had been moved looked like an id on the Hub.
    on_hub = on_hub and is_repo_id(name)
    # A folder may be called anything.
    return (name if on_hub else visible(last_part(name))), on_hub


def _public_dataset(dataset: DatasetRecord) -> DatasetRecord:
    name, on_hub = public_name(dataset.name, dataset.on_hub)
    parts = {part: visible(value) for part in ("config", "split") if (value := getattr(dataset, part)) is not None}
    return replace(dataset, name=name, on_hub=on_hub, **parts)


def public_run(run: UnlearningRun) -> UnlearningRun:
    """The run with every path cut to its last part, and without settings that may be one."""
    name, on_hub = public_name(run.base_model, run.base_model_on_hub)
    # It stands in the code of the card.
    is_revision = re.fullmatch(r"[\w./-]+", run.base_model_revision or "", re.ASCII)
    adapter = run.adapter
    if adapter is not None and adapter.continued_from:
        adapter = replace(adapter, continued_from=last_part(adapter.continued_from))
    return replace(
        run,
        base_model=name,
        base_model_on_hub=on_hub,
        base_model_revision=run.base_model_revision if is_revision else None,
        adapter=adapter,
        forget_set=_public_dataset(run.forget_set),
        retain_set=run.retain_set and _public_dataset(run.retain_set),
        chain=[
            replace(link, request=last_part(link.request), forget_set=_public_dataset(link.forget_set))
            for link in run.chain
        ],
        hyperparameters=public_settings(run.hyperparameters),
    )


def public_result(result: EvaluationResult) -> EvaluationResult:
    """The results with paths in their protocol cut to their last part; ids on the Hub stay."""
    protocol = {
        name: last_part(value) if isinstance(value, str) and _names_path(value) and not is_repo_id(value) else value
        for name, value in result.protocol.items()
    }
    return replace(result, protocol=protocol)


def public_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings without secrets and without values that may be a path; a value that is none stays None."""
    return {
        name: value
        for name, value in settings.items()
        if value is None or not (name in NO_SETTINGS or _HIDDEN_SETTINGS.search(name) or _names_path(value))
    }


def public_config(text: str) -> str:
    """A config of a model or tokenizer with each path of this machine cut to its last part; as it is without any."""
    config = json.loads(text)
    public = _without_paths(config)
    return text if public == config else json.dumps(public, indent=2, ensure_ascii=False) + "\n"


def _strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for pair in value.items() for part in pair for text in _strings(part)]
    if isinstance(value, list | tuple):
        return [text for part in value for text in _strings(part)]
    return [value] if isinstance(value, str) else []


def _names_path(value: Any) -> bool:
    """Whether a value holds text that looks like a path."""
    return any(re.search(r"[/\\]|^[~.]", text) for text in _strings(value))


def _without_paths(value: Any, is_place: bool = False) -> Any:
    if isinstance(value, dict):
        # The id of a base may be the name of a folder here as well.
        return {
            _without_paths(name): part if name == _BASE else _without_paths(part, bool(_PLACES.search(name)))
            for name, part in value.items()
        }
    if isinstance(value, list):
        return [_without_paths(part) for part in value]
    if not isinstance(value, str):
        return value
    is_absolute = is_place and re.match(r"([A-Za-z]:)?[/\\]+[^/\\]+[/\\]", value)
    return last_part(value) if is_absolute or _is_path(value) else value


def _is_path(text: str) -> bool:
    """Whether a text is a path in a home, or any path that exists here; tokens and templates have slashes, too."""
    return bool(re.match(_IN_HOME, text)) or (bool(re.search(r"[/\\].*\w", text)) and _exists(text))


def _exists(text: str) -> bool:
    try:
        return bool(text.strip()) and Path(text).expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        # Too long for a name, or with a null byte, or of a user whom nobody knows.
        return False

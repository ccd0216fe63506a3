# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Where the models and rows of a run lie, for commands that are given its folder alone."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..data.archive import ArchivePaths, build_archive
from ..hub.folder import RunFolder
from ..records import DatasetRecord, UnlearningRun
from .arguments import DataArguments, EvaluationArguments, UnlearnModelConfig


# Options that are kept, as they were when the run was made or judged.
MODEL_SOURCES = ("model_name_or_path", "model_revision", "adapter_name_or_path", "retrained_model_name_or_path")
ROW_SOURCES = ("dataset_name", "forget_config", "forget_split", "forget_dataset")


def keep_sources(
    folder: str | Path, data_args: DataArguments, eval_args: EvaluationArguments, model_args: UnlearnModelConfig
) -> None:
    """Keep the names of models and rows in a run's folder, where no push finds them: records have no whole path."""
    names, options = (*MODEL_SOURCES, *ROW_SOURCES), {}
    for args in (data_args, eval_args, model_args):
        given = {name: value for name in names if (value := getattr(args, name, None)) is not None}
        options |= {name: str(Path(one).resolve()) if Path(one).exists() else one for name, one in given.items()}
    RunFolder(folder).save_sources(options)


def _lab(name: str, part: Callable[[ArchivePaths], Path]) -> Path | None:
    """A part of the embedded lab, if a name in a record is one of its; built if it is not there."""
    if not re.fullmatch(r"archive-[0-9a-f]{16}/\w+", name):
        return None
    path = part(build_archive())
    if path.parent.name != name.split("/")[0]:
        raise ValueError("it is the embedded lab of another version.")
    return path


def recorded_forget_set(record: DatasetRecord, folder: str | Path) -> DataArguments:
    """The forget set by its name in the record, which has only the last two parts of a path; of a request, in it."""
    name, split = record.name, record.split or "train"
    if (own := RunFolder(folder).request / Path(name).name).is_file() and own.parts[-2:] == Path(name).parts:
        name = str(own)
    elif not record.on_hub and not Path(name).exists():
        data = _lab(name, lambda paths: paths.data)
        if data is None:
            raise ValueError("there is no such file or folder here.")
        name = str(data)
    if record.config is None:
        return DataArguments(forget_dataset=name, forget_split=split)
    return DataArguments(dataset_name=name, forget_config=record.config, forget_split=split)


def recorded_models(folder: Path, run: UnlearningRun) -> dict[str, Any]:
    """The options of `MODEL_SOURCES` as far as the folder and the record tell."""
    known: dict[str, Any] = dict(RunFolder(folder).sources())
    if "model_name_or_path" not in known:
        known |= _recorded_target(folder, run)
    if "retrained_model_name_or_path" not in known and not run.forget_set.on_hub:
        retrained = _lab(run.forget_set.name, lambda paths: paths.retrained)
        if retrained is not None:
            known["retrained_model_name_or_path"] = str(retrained)
    return {name: value for name, value in known.items() if name in MODEL_SOURCES}


def _recorded_target(folder: Path, run: UnlearningRun) -> dict[str, Any]:
    if run.adapter is not None and run.adapter.continued_from is not None:
        # Without that adapter, the base is no model that knew the rows.
        return {}
    name, revision = run.base_model, run.base_model_revision
    if run.is_adapter:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        name = config.get("base_model_name_or_path") or name
    if run.base_model_on_hub or Path(name).is_dir():
        return {"model_name_or_path": name} | ({"model_revision": revision} if revision else {})
    target = _lab(run.base_model, lambda paths: paths.target)
    return {} if target is None else {"model_name_or_path": str(target)}

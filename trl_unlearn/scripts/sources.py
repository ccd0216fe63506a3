# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Names and paths of the models and rows of a run, for commands that are given its folder alone."""

import json
import logging
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from datasets import Dataset
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from trl import SFTConfig, TrlParser

from ..data.archive import ArchivePaths, build_archive
from ..encoding import encode_dataset
from ..hub.access import is_on_hub
from ..hub.folder import RunFolder, differing
from ..records import DatasetRecord, UnlearningRun
from ..results import EvaluationResult
from ..row_forms import with_template_kwargs
from ..trainer.bootstrap_unlearn_config import BootstrapUnlearnConfig, option
from ..trainer.checks import refuse_missing_folder, refuse_model_name
from ..trainer.run_record import tokens_digest
from .arguments import DataArguments, EvaluationArguments, UnlearnModelConfig, as_options, silence_libraries
from .exits import one_line
from .models import evaluation_loaders, models_protocol, quantize_as_trained
from .rows import load_training_rows


logger = logging.getLogger(__name__)

# Options that are kept, as they were when the run was made or judged.
MODEL_SOURCES = ("model_name_or_path", "model_revision", "adapter_name_or_path", "retrained_model_name_or_path")
# Of an evaluation alone: commands that load the models of a run need no second one.
_SECOND = "second_retrained_model_name_or_path"
ROW_SOURCES = ("dataset_name", "forget_config", "forget_split", "forget_dataset")
_RETAIN_SOURCES = ("retain_config", "retain_split", "retain_dataset")
# Settings of a run that decide the tokens of its rows -> the value where its record leaves it out.
ROW_SETTINGS = {
    "chat_template_kwargs": {},
    "prompt_length": BootstrapUnlearnConfig.prompt_length,
    "dataset_text_field": SFTConfig.dataset_text_field,
}
# Of the sources, the options that name no file and no folder.
_NO_PLACES = ("model_revision", "forget_config", "forget_split", "retain_config", "retain_split")


@dataclass
class RowArguments:
    """The forget set of a run, where its folder does not name it, and whether its model may run code of its own."""

    dataset_name: str | None = option(
        None, "TOFU or a dataset of its form that has the forget set, with `forget_config`. Default: as in the run."
    )
    forget_config: str | None = option(None, "Its config, such as 'forget10'.")
    forget_split: str | None = option(None, "Split of the forget set. Default: 'train'.")
    forget_dataset: str | None = option(
        None, "The forget set as a file, a folder or an id on the Hub. Default: as in the run."
    )
    trust_remote_code: bool = option(False, "Whether code from the Hub may run.")

    def given(self, names: tuple[str, ...] = ROW_SOURCES) -> dict[str, Any]:
        """The options among `names` that were given."""
        return {name: value for name, value in asdict(self).items() if name in names and value is not None}


@dataclass
class SourceArguments(RowArguments):
    """Models and rows of a run, where its folder does not name them."""

    model_name_or_path: str | None = option(None, "The target. Default: as in the run.")
    model_revision: str | None = option(None, "Its revision on the Hub.")
    adapter_name_or_path: str | None = option(
        None, "Adapter that makes the target out of `model_name_or_path`. Default: as in the run."
    )
    retrained_model_name_or_path: str | None = option(
        None, "Reference model that was trained without the forget set. Default: that of the evaluation."
    )


Arguments = TypeVar("Arguments", bound=SourceArguments)


def parse_folder(
    arguments: type[Arguments], prog: str, description: str, argv: list[str] | None
) -> tuple[Arguments, Path]:
    """The options of a command that is given the folder of a run, and that folder."""
    parser = TrlParser(arguments, prog=prog, usage=f"{prog} FOLDER [--option VALUE ...]", description=description)
    parser.add_argument("output_dir", help="Output folder of a run that has ended.")
    args, place = parser.parse_args_and_config(args=sys.argv[1:] if argv is None else argv)
    silence_libraries()
    return args, Path(place.output_dir)


def dataset_sources(data_args: DataArguments) -> dict[str, dict[str, Any]]:
    """Role of a set -> where it comes from, for the record of the run."""
    sources = {}
    for role in ("forget", "retain"):
        # `config` belongs to `dataset_name`; files of one's own have none.
        own = getattr(data_args, f"{role}_dataset")
        name = own or data_args.dataset_name
        sources[role] = {
            "name": name,
            "config": None if own else getattr(data_args, f"{role}_config"),
            "split": getattr(data_args, f"{role}_split"),
            "on_hub": bool(name) and is_on_hub(name),
        }
    return sources


def keep_sources(
    folder: str | Path,
    data_args: DataArguments,
    eval_args: EvaluationArguments,
    model_args: UnlearnModelConfig,
    has_trained: bool = True,
    subjects: Sequence[str] | None = None,
) -> None:
    """Keep the names of models, rows and subjects in a run's folder, where no push finds them: records have none."""
    names, kept = (*MODEL_SOURCES, _SECOND), RunFolder(folder).sources()
    # A push searches for the rows that were trained on: an evaluation names others where those are gone.
    is_free = has_trained or not _is_there(kept)
    if is_free and (data_args.dataset_name or data_args.forget_dataset):
        # Rows have one source: a file, or a dataset with its config.
        rows = ROW_SOURCES + _RETAIN_SOURCES
        names += rows
        kept = {name: one for name, one in kept.items() if name not in rows}
    for args in (data_args, eval_args, model_args):
        given = {name: one for name in names if (one := getattr(args, name, None)) is not None}
        kept |= {
            name: str(Path(one).resolve()) if name not in _NO_PLACES and Path(one).exists() else one
            for name, one in given.items()
        }
    RunFolder(folder).save_sources(kept | ({"forget_subjects": list(subjects)} if subjects else {}))


def _is_there(sources: Mapping[str, str]) -> bool:
    """Whether the rows of kept sources can still be read: a file or folder that is there, or an id on the Hub."""
    name = sources.get("forget_dataset") or sources.get("dataset_name")
    return name is not None and (Path(name).exists() or not Path(name).is_absolute())


def evaluation_options(folder: str | Path) -> list[str]:
    """Options by which `evaluate` judges a run as before; of the embedded lab, the default, what it does not name."""
    run_folder = RunFolder(folder)
    if not run_folder.is_run:
        return []
    kept, earlier = run_folder.sources(), run_folder.results()
    # An evaluation reads them where it needs them.
    kept.pop("forget_subjects", None)
    if _is_lab(run_folder.run().forget_set.name):
        return as_options({name: one for name, one in kept.items() if name == _SECOND})
    for name in ("forget_dataset", "retain_dataset"):
        if (own := _own_rows(kept.get(name, ""), folder)) is not None:
            kept[name] = str(own.resolve())
    if "model_name_or_path" not in kept or not _is_there(kept):
        raise ValueError(
            f"`{folder}` does not say where its target and its rows are. Give `--model_name_or_path`, and "
            "`--forget_dataset` or `--dataset_name`."
        )
    if earlier is not None:
        # A quick evaluation has a number of rows of its own.
        names = ("dtype",) if "quick" in earlier.protocol else ("dtype", "parity", "max_eval_rows")
        kept |= {name: earlier.protocol[name] for name in names if name in earlier.protocol}
    return as_options(kept)


def _is_lab(name: str) -> bool:
    """Whether a name in a record is a part of the embedded lab."""
    return re.fullmatch(r"archive-[0-9a-f]{16}/\w+", name) is not None


def _lab(name: str, part: Callable[[ArchivePaths], Path]) -> Path | None:
    """A part of the embedded lab, if a name in a record is one of its; built if it is not there."""
    if not _is_lab(name):
        return None
    path = part(build_archive())
    if path.parent.name != name.split("/")[0]:
        raise ValueError("it is the embedded lab of another version.")
    return path


def _own_rows(name: str, folder: str | Path) -> Path | None:
    """The file in the folder's `request/` that a record or a kept path names."""
    # Whole, the path of a folder that was moved is that of another run's rows by now.
    own = RunFolder(folder).request / Path(name).name
    return own if own.is_file() and own.parts[-2:] == Path(name).parts[-2:] else None


def recorded_forget_set(record: DatasetRecord, folder: str | Path) -> DataArguments:
    """The forget set by its name in the record, which has only the last two parts of a path; of a request, in it."""
    name, split = record.name, record.split or "train"
    if (own := _own_rows(name, folder)) is not None:
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


def forget_rows(
    args: RowArguments, folder: str | Path, run: UnlearningRun, tokenizer: PreTrainedTokenizerBase
) -> Dataset:
    """The forget set of a run: as given, in its `request/`, as kept in its folder, or by its name in the record."""
    kept = {name: one for name, one in RunFolder(folder).sources().items() if name in ROW_SOURCES}
    is_kept = _own_rows(run.forget_set.name, folder) is None and _is_there(kept)
    if named := args.given() or (kept if is_kept else {}):
        data_args = DataArguments(**named)
    else:
        data_args = recorded_forget_set(run.forget_set, folder)
    rows = rows_of_run(data_args, run, tokenizer)
    remedy = "Give that one with `--forget_dataset`, or `--dataset_name` and `--forget_config`."
    if len(rows) != run.forget_set.rows:
        raise ValueError(f"it has {len(rows)} rows, and the run was trained on {run.forget_set.rows}. {remedy}")
    are_same = True if args.given() else _are_rows_of_run(rows, run, tokenizer)
    if are_same is None:
        logger.warning(
            f"Whether the {len(rows)} forget rows are those that the run was trained on cannot be told: the chat "
            "template writes the date, so that their tokens are others each day."
        )
    elif not are_same:
        raise ValueError(f"its {len(rows)} rows are others than those that the run was trained on. {remedy}")
    return rows


def _are_rows_of_run(rows: Dataset, run: UnlearningRun, tokenizer: PreTrainedTokenizerBase) -> bool | None:
    """Whether rows are those that a run was trained on; None: a template that writes the date hides it."""
    if len(rows) != run.forget_set.rows:
        return False
    if _digest(rows, run, tokenizer) == run.forget_set.sha256:
        return True
    return None if "strftime_now" in str(tokenizer.chat_template) else False


def refuse_rows_of_others(data_args: DataArguments, folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse to evaluate a run in its folder on another forget set than it unlearned: its card would speak of it."""
    run = RunFolder(folder).run()
    rows = rows_of_run(data_args, run, tokenizer)
    if _are_rows_of_run(rows, run, tokenizer) is False:
        name = data_args.forget_dataset or data_args.dataset_name
        raise ValueError(
            f"The {len(rows)} rows of `{name}` are others than the {run.forget_set.rows} that the run in `{folder}` "
            "unlearned, and its card would show numbers about them. Name the rows of the run, with their config and "
            "split, or give another `--output_dir`."
        )


def _digest(rows: Dataset, run: UnlearningRun, tokenizer: PreTrainedTokenizerBase) -> str:
    """Digest of rows as tokens of a run."""
    settings = row_settings(run)
    encoded = encode_dataset(
        with_template_kwargs(rows, settings["chat_template_kwargs"]),
        tokenizer,
        name="forget",
        max_length=settings["max_length"],
        prompt_length=settings["prompt_length"],
        text_field=settings["dataset_text_field"],
    )
    return tokens_digest(encoded)


def rows_of_run(data_args: DataArguments, run: UnlearningRun, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """A forget set, cut as in the training of a run."""
    return load_training_rows(data_args, tokenizer, row_settings(run)["max_length"])[0]


def row_settings(run: UnlearningRun) -> dict[str, Any]:
    """The `ROW_SETTINGS` of a run, and the `max_length` at which its rows were cut."""
    defaults = ROW_SETTINGS | {"max_length": SFTConfig.max_length}
    return {name: run.hyperparameters.get(name, default) for name, default in defaults.items()}


def refuse_models(args: SourceArguments) -> None:
    """Refuse models that were given and cannot be used. Those that the run names may be gone: the rest is shown."""
    for name, given in args.given(("model_name_or_path", "retrained_model_name_or_path")).items():
        refuse_missing_folder(name, given)
        refuse_model_name(given, trust_remote_code=args.trust_remote_code)
    if args.adapter_name_or_path is not None:
        refuse_missing_folder("adapter_name_or_path", args.adapter_name_or_path)


def run_tokenizer(folder: Path, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """The tokenizer in the folder of a run."""
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (ValueError, OSError) as error:
        raise ValueError(f"`{folder}` holds no tokenizer that can be loaded. Give the folder of a run.") from error


def run_loaders(
    args: SourceArguments, folder: Path, run: UnlearningRun, result: EvaluationResult | None, notes: list[str]
) -> Mapping[str, Callable[[], PreTrainedModel] | None]:
    """Role -> loader, or None with a note where a model is not known."""
    given, known = args.given(MODEL_SOURCES), {}
    try:
        known = recorded_models(folder, run)
    except (ValueError, OSError) as error:
        notes.append(f"The target is not known: {one_line(error)}")
    known |= given
    if "model_name_or_path" not in known:
        notes.append("The target is not known to the run. Name it with `--model_name_or_path`.")
    if "retrained_model_name_or_path" not in known:
        notes.append(
            "No retrained model is known to the run: how much is too much cannot be said. Name one with "
            "`--retrained_model_name_or_path`."
        )
    dtype = {} if result is None else {"dtype": result.protocol.get("dtype")}
    retrained = known.pop("retrained_model_name_or_path", None)
    model_args = UnlearnModelConfig(**known, **{name: value for name, value in dtype.items() if value})
    eval_args = EvaluationArguments(retrained_model_name_or_path=retrained)
    # An adapter needs its base; a whole model is loaded as it is, so that its name stands in for the base's.
    has_target = model_args.model_name_or_path is not None
    unlearned = str(folder) if has_target or not run.is_adapter else None
    if not has_target:
        model_args.model_name_or_path = str(folder)
    quantize_as_trained(model_args, unlearned)
    loaders = evaluation_loaders(eval_args, model_args, unlearned, args.trust_remote_code)
    if not has_target:
        loaders["target"] = None
    recorded = {} if result is None else result.protocol.get("weights_sha256") or {}
    weights = models_protocol(eval_args, model_args, unlearned)["weights_sha256"] if recorded else {}
    # The run's own weights were compared before.
    for role in ("target", "retrained"):
        if role in weights and role in recorded and weights[role] != recorded[role]:
            notes.append(
                f"The {role} model is another one than was evaluated: "
                f"{differing(recorded[role], weights[role])} differ. Name the one that was."
            )
    return loaders

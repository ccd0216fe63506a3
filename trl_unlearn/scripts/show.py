# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""
Look at a finished run: a private page with the verdict and every forget row, least forgotten first.

```bash
# Everything is found from the folder of the run
trl-unlearn show unlearned

# Models or rows that have moved since
trl-unlearn show unlearned --retrained_model_name_or_path retrained --forget_dataset forget.jsonl
```
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from trl import SFTConfig, TrlParser

from ..evaluation.row_views import RowView, view_rows
from ..evaluation.rows import rows_as_trained
from ..evaluation.show_page import RunPage, render_page
from ..hub.folder import RunFolder, differing
from ..records import UnlearningRun
from ..results import EvaluationResult
from ..trainer.bootstrap_unlearn_config import option
from ..trainer.checks import refuse_model_name
from .arguments import DataArguments, EvaluationArguments, UnlearnModelConfig
from .exits import interruptible, one_line, refusing
from .models import evaluation_loaders, models_protocol, quantize_as_trained, refuse_missing_folder
from .rows import load_training_rows, spread
from .sources import MODEL_SOURCES, ROW_SOURCES, recorded_forget_set, recorded_models


# Settings of a run that decide the tokens of its rows.
_ROW_SETTINGS = ("chat_template_kwargs", "prompt_length", "dataset_text_field")


@dataclass
class ShowArguments:
    """What is asked of the models, and where they and the rows are if the run does not tell."""

    num_samples: int = option(4, "Samples of each model for each row. 0 draws none, and shows no beliefs.")
    max_rows: int | None = option(None, "Highest number of forget rows, spread evenly over the set.")
    evaluation_batch_size: int | None = option(
        None, "Rows in a forward pass or a `generate` call. Default: from free memory."
    )
    model_name_or_path: str | None = option(None, "The target. Default: as in the run.")
    model_revision: str | None = option(None, "Its revision on the Hub.")
    adapter_name_or_path: str | None = option(
        None, "Adapter that makes the target out of `model_name_or_path`. Default: as in the run."
    )
    retrained_model_name_or_path: str | None = option(
        None, "Reference model that was trained without the forget set. Default: that of the evaluation."
    )
    dataset_name: str | None = option(
        None, "TOFU or a dataset of its form that has the forget set, with `forget_config`. Default: as in the run."
    )
    forget_config: str | None = option(None, "Its config, such as 'forget10'.")
    forget_split: str | None = option(None, "Split of the forget set. Default: 'train'.")
    forget_dataset: str | None = option(
        None, "The forget set as a file, a folder or an id on the Hub. Default: as in the run."
    )
    trust_remote_code: bool = option(False, "Whether code from the Hub may run.")

    def __post_init__(self):
        if self.num_samples < 0:
            raise ValueError(f"`num_samples` must not be negative, got {self.num_samples}. 0 draws none.")
        for name in ("max_rows", "evaluation_batch_size"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")

    def given(self, names: tuple[str, ...]) -> dict[str, Any]:
        """The options among `names` that were given."""
        return {name: value for name, value in asdict(self).items() if name in names and value is not None}


def main(argv: list[str] | None = None, prog: str = "trl-unlearn show") -> None:
    """Write the page of a run's folder; what cannot be loaded is said on it."""
    with interruptible(prog, "before the page was written: the same command starts again."):
        _run(argv, prog)


def _run(argv: list[str] | None, prog: str) -> None:
    parser = TrlParser(
        ShowArguments,
        prog=prog,
        usage=f"{prog} FOLDER [--option VALUE ...]",
        description="Write `show.html` into the output folder of a run: the verdict, the results, and every forget "
        "row with what the models say and believe. It needs no network, holds text of the forget set, and is never "
        "pushed.",
    )
    parser.add_argument("output_dir", help="Output folder of a run that has ended.")
    PartialState(cpu=not torch.accelerator.is_available())
    with refusing(prog):
        args, place = parser.parse_args_and_config(args=sys.argv[1:] if argv is None else argv)
        _refuse_models(args)
        folder = Path(place.output_dir)
        run, notes = RunFolder(folder).run(), []
        own = RunFolder(folder).own_results(run)
        if own.result is None:
            notes.append(f"No results: {own.missing}")
        rows, tokenizer = _rows(args, folder, run, notes)
        loaders = _loaders(args, folder, run, own.result, notes) if rows is not None else {}
    views: list[RowView] = []
    seed = 42 if own.result is None else own.result.protocol.get("seed", 42)
    if rows is not None:
        views, failures = view_rows(
            loaders,
            list(rows),
            tokenizer,
            num_samples=args.num_samples,
            batch_size=args.evaluation_batch_size,
            seed=seed,
        )
        notes += [f"The {role} model could not be loaded: {why}" for role, why in failures.items()]
    if PartialState().is_main_process:
        page = RunPage(run, own.result, views, notes, num_rows=run.forget_set.rows, seed=seed)
        path = RunFolder(folder).save_page(render_page(page))
        print("\n".join(f"{prog}: {note}" for note in notes), file=sys.stderr, end="\n" if notes else "")
        warning = " It quotes the forget set: keep it to yourself." if views else ""
        print(f"{path}: {len(views)} forget rows, {path.stat().st_size / 1e6:.1f} MB.{warning}")


def _refuse_models(args: ShowArguments) -> None:
    """Refuse models that were given and cannot be used. Those that the run names may be gone: the rest is shown."""
    for name, given in args.given(("model_name_or_path", "retrained_model_name_or_path")).items():
        refuse_missing_folder(name, given)
        refuse_model_name(given, trust_remote_code=args.trust_remote_code)
    if args.adapter_name_or_path is not None:
        refuse_missing_folder("adapter_name_or_path", args.adapter_name_or_path)


def _rows(
    args: ShowArguments, folder: Path, run: UnlearningRun, notes: list[str]
) -> tuple[Dataset | None, PreTrainedTokenizerBase | None]:
    """The forget rows, as they become tokens in the run, and the tokenizer; None and a note if they are not found."""
    given = args.given(ROW_SOURCES)
    try:
        tokenizer = _tokenizer(folder, args.trust_remote_code)
        if given:
            data_args = DataArguments(**given)
        elif kept := {name: one for name, one in RunFolder(folder).sources().items() if name in ROW_SOURCES}:
            data_args = DataArguments(**kept)
        else:
            data_args = recorded_forget_set(run.forget_set, folder)
        # Settings with their default are not recorded.
        max_length = run.hyperparameters.get("max_length", SFTConfig.max_length)
        rows = load_training_rows(data_args, tokenizer, max_length)[0]
        if len(rows) != run.forget_set.rows:
            raise ValueError(
                f"it has {len(rows)} rows, and the run was trained on {run.forget_set.rows}. Give that one with "
                "`--forget_dataset`, or `--dataset_name` and `--forget_config`."
            )
        trained = SimpleNamespace(**{name: run.hyperparameters.get(name) for name in _ROW_SETTINGS})
        return rows_as_trained(spread(rows, args.max_rows), tokenizer, trained, name="forget"), tokenizer
    except (ValueError, OSError) as error:
        why = f"The forget set (`{given.get('forget_dataset') or given.get('dataset_name') or run.forget_set.name}`)"
        if given:
            raise ValueError(f"{why} cannot be shown: {one_line(error)}") from error
        notes.append(f"No rows. {why} could not be loaded: {one_line(error)}")
        return None, None


def _tokenizer(folder: Path, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (ValueError, OSError) as error:
        raise ValueError(f"`{folder}` holds no tokenizer that can be loaded. Show the folder of a run.") from error


def _loaders(
    args: ShowArguments, folder: Path, run: UnlearningRun, result: EvaluationResult | None, notes: list[str]
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
            "No retrained model is known to the run: how much is too much cannot be said of a row. Name one with "
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
    if recorded:
        _compare_weights(models_protocol(eval_args, model_args, unlearned)["weights_sha256"], recorded, notes)
    return loaders


def _compare_weights(
    weights: Mapping[str, dict[str, str]], recorded: Mapping[str, dict[str, str]], notes: list[str]
) -> None:
    """Note models whose weights are not those that were evaluated; the run's own were compared before."""
    for role in ("target", "retrained"):
        if role in weights and role in recorded and weights[role] != recorded[role]:
            notes.append(
                f"The {role} model of these rows is another one than was evaluated: "
                f"{differing(recorded[role], weights[role])} differ. Name the one that was."
            )

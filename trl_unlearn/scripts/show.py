# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Look at a finished run: a private page with the verdict and every forget row, least forgotten first."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
from accelerate import PartialState
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from ..evaluation.row_views import RowView, view_rows
from ..evaluation.rows import rows_as_trained
from ..evaluation.show_page import render_page
from ..hub.folder import RunFolder
from ..records import UnlearningRun
from ..results import EvaluationResult
from ..trainer.bootstrap_unlearn_config import option
from ..trainer.checks import check_output_dir
from ..trainer.options import refuse_below
from .exits import interruptible, one_line, refusing
from .rows import spread
from .sources import (
    SourceArguments,
    forget_rows,
    parse_folder,
    refuse_models,
    row_settings,
    run_loaders,
    run_tokenizer,
)


_DESCRIPTION = (
    "Write `show.html` into the output folder of a run: the verdict, the results, and every forget row with what the "
    "models say and believe. It needs no network, holds text of the forget set, and is never pushed."
)


@dataclass
class ShowArguments(SourceArguments):
    """Questions to the models, and the place of models and rows where the record has none."""

    num_samples: int = option(4, "Samples of each model for each row. 0 draws none, and shows no beliefs.")
    max_rows: int | None = option(None, "Highest number of forget rows, spread evenly over the set.")
    evaluation_batch_size: int | None = option(
        None, "Rows in a forward pass (default: 32) or a `generate` call (default: from free memory)."
    )

    def __post_init__(self):
        refuse_below(0, self, "num_samples")
        refuse_below(1, self, "max_rows", "evaluation_batch_size")


def main(argv: list[str] | None = None, prog: str = "trl-unlearn show") -> None:
    """Write the page of a run's folder; what cannot be loaded is said on it."""
    with interruptible(prog, "before the page was written: the same command starts again."):
        PartialState(cpu=not torch.accelerator.is_available())
        with refusing(prog):
            args, folder = parse_folder(ShowArguments, prog, _DESCRIPTION, argv)
            refuse_models(args)
            run, notes = RunFolder(folder).run(), []
            # Refused now, and not when all models have answered.
            check_output_dir(folder)
            own = RunFolder(folder).own_results(run)
            if own.result is None:
                notes.append(f"No results: {own.missing}")
            rows, tokenizer = _rows(args, folder, run, notes)
            loaders = run_loaders(args, folder, run, own.result, notes) if rows is not None else {}
        views: list[RowView] = []
        seed = 42 if own.result is None else own.result.protocol.get("seed", 42)
        if rows is not None:
            views, failures = view_rows(
                loaders,
                list(rows),
                tokenizer,
                num_samples=args.num_samples,
                row_values=_row_values(folder, own.result, notes),
                batch_size=args.evaluation_batch_size,
                seed=seed,
            )
            notes += [f"The {role} model could not be loaded: {why}" for role, why in failures.items()]
        if PartialState().is_main_process:
            page = render_page(run, own.result, views, notes, run.forget_set.rows, seed)
            path = RunFolder(folder).save_page(page)
            print("\n".join(f"{prog}: {note}" for note in notes), file=sys.stderr, end="\n" if notes else "")
            warning = " It quotes the forget set: keep it to yourself." if views else ""
            print(f"{path}: {len(views)} forget rows, {path.stat().st_size / 1e6:.1f} MB.{warning}")


def _row_values(
    folder: Path, result: EvaluationResult | None, notes: list[str]
) -> dict[str, dict[str, dict[str, float]]]:
    """Effects of attacks on each row in the evaluation, or a note."""
    values = {} if result is None else RunFolder(folder).row_values(result)
    if result is not None and not any(values.values()):
        notes.append(
            "Which attack brings a row back is known of answers alone: `trl-unlearn evaluate --suites "
            f"robustness,elicitation --unlearned_model_name_or_path {shlex.quote(str(folder))}` measures changed "
            "weights and other questions."
        )
    return values


def _rows(
    args: ShowArguments, folder: Path, run: UnlearningRun, notes: list[str]
) -> tuple[Dataset | None, PreTrainedTokenizerBase | None]:
    """The forget rows, as they become tokens in the run, and the tokenizer; None and a note if they are not found."""
    given = args.given()
    try:
        tokenizer = run_tokenizer(folder, args.trust_remote_code)
        rows = spread(forget_rows(args, folder, run, tokenizer), args.max_rows)
        return rows_as_trained(rows, tokenizer, SimpleNamespace(**row_settings(run)), name="forget"), tokenizer
    except (ValueError, OSError) as error:
        why = f"The forget set (`{given.get('forget_dataset') or given.get('dataset_name') or run.forget_set.name}`)"
        if given:
            raise ValueError(f"{why} cannot be shown: {one_line(error)}") from error
        notes.append(f"No rows. {why} could not be loaded: {one_line(error)}")
        return None, None

# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Serve unlearning requests one after another, each on top of those before, and see whether these stay forgotten."""

import dataclasses
import gc
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..evaluation.callbacks import MovedAnswers, sequence_point
from ..evaluation.plots import attempted, draw
from ..evaluation.rows import EncodedSet
from ..evaluation.series_plots import plot_sequence
from ..evaluation.tables import (
    SequenceStage,
    markdown_table,
    print_sequence,
    print_shortfall,
    sequence_dict,
    sequence_rows,
)
from ..hub.folder import RunFolder
from ..records import ChainLink, json_text
from ..row_forms import naming
from ..trainer.bootstrap_unlearn_config import BootstrapUnlearnConfig, option
from ..trainer.checks import check_output_dir
from .arguments import RETRAINED, EvaluationArguments, StoppingArguments, refuse_goal_without_reference
from .evaluate import content_digest
from .exits import interruptible, refusing
from .models import evaluation_loaders, take_as_target
from .rows import load_evaluation_rows, load_training_rows, refuse_without_retain
from .series import Job, Series, folder_name, train_and_save
from .unlearn import build_trainer, moved_for, unlearn_until


# Options that name the forget rows of a request.
_FORGET = ("forget_config", "forget_split", "forget_dataset")


@dataclass
class SequenceArguments:
    """The requests, in their order."""

    requests: dict[str, Any] | str | None = option(
        None,
        "Name of a request -> its forget rows (`forget_split`, `forget_config` or `forget_dataset`) and fields of the "
        "config in which it differs, in the order of serving (a mapping in the YAML file). The names stand in "
        "run.json and on the card.",
    )

    def __post_init__(self):
        self.requests = _checked(self.requests)


def _checked(requests: Any) -> dict[str, dict[str, Any]]:
    """The requests by name; raises `ValueError` if one cannot be served."""
    if isinstance(requests, str):
        requests = json.loads(requests)
    if not requests:
        raise ValueError("`requests` is missing. Give at least one: name -> its forget rows, in the order of serving.")
    if not isinstance(requests, Mapping) or not all(isinstance(fields, Mapping) for fields in requests.values()):
        raise ValueError(
            "`requests` must give each request its fields. Write it as `first: {forget_split: 'train[:20]'}`."
        )
    # `output_dir` is the script's: each request has a folder of its own.
    known = {*_FORGET, *(f.name for f in dataclasses.fields(BootstrapUnlearnConfig))} - {"output_dir"}
    # Two names may become one folder, such as `a b` and `a-b`.
    by_folder: dict[str, str] = {}
    for name, fields in requests.items():
        other = by_folder.setdefault(folder_name(name), name)
        if other != name:
            raise ValueError(f"Requests `{other}` and `{name}` have one name, `{folder_name(name)}`. Rename one.")
        for key in fields:
            if key not in known:
                raise ValueError(
                    f"Request `{name}` sets `{key}`, but a request sets its forget rows and fields of the training "
                    "config. Check its name, or set it for all, outside `requests`."
                )
        if not any(key in fields for key in _FORGET):
            raise ValueError(
                f"Request `{name}` has no forget rows of its own. Give it `forget_split`, `forget_config` or "
                "`forget_dataset`."
            )
    return {str(name): dict(fields) for name, fields in requests.items()}


def _row_sets(
    series: Series, stop_args: StoppingArguments, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig
) -> tuple[dict[str, EncodedSet], EncodedSet, dict[str, MovedAnswers | None], dict[str, str]]:
    """Evaluated rows of each request, retain rows, which all share; answers about others, and digest of each."""
    forget, moved, digests = {}, {}, {}
    for job in series.jobs:
        with naming(f"Request `{job.name}`:"):
            # Training rows are only checked: what is missing, or has changed, must show before the first request.
            trained, retain = load_training_rows(job.data_args, tokenizer)
            refuse_without_retain(retain)
            digests[job.name] = content_digest({"forget": trained, "retain": retain})
            max_rows = series.eval_args.max_eval_rows
            rows = load_evaluation_rows(job.data_args, max_rows, tokenizer, config, job.training_args)
            forget[job.name], kept = (rows.encoded(name, tokenizer) for name in ("forget", "retain"))
            moved[job.name] = moved_for(stop_args, job.training_args, forget[job.name], kept, tokenizer)
    # Of the last request, as of any other: a request cannot name retain rows.
    return forget, kept, moved, digests


def main(argv: list[str] | None = None, prog: str = "sequence.py") -> None:
    with interruptible(prog, "before all requests were done: what is finished is kept, and the same command resumes."):
        with refusing(prog):
            types = (StoppingArguments, SequenceArguments)
            series = Series(types, prog, __doc__, argv, "archive/sequence.yaml", finished="stage.json")
            stop_args, args = series.own_args
            for number, (request, fields) in enumerate(args.requests.items(), 1):
                series.add(request, f"request `{request}`", f"{number}-{folder_name(request)}", fields)
            tokenizer, config = series.prepare()
            refuse_goal_without_reference(stop_args, series.eval_args)
            plain = EvaluationArguments()
            for name in ("parity", "fluency_classifier"):
                if getattr(series.eval_args, name) != getattr(plain, name):
                    raise ValueError(
                        f"`{name}` is given, but a sequence measures no fluency, and extraction strength by strict "
                        "definitions alone. Leave it out."
                    )
            forget, retain, moved, digests = _row_sets(series, stop_args, tokenizer, config)
            # After each request the rows of all of them are measured.
            measured = content_digest({name: encoded.answers for name, encoded in (*forget.items(), ("", retain))})
            rows = [{"training rows": digests[job.name], "measured rows": measured} for job in series.jobs]
            goal = series.eval_args.retrained_model_name_or_path if stop_args.stop_at == RETRAINED else None
            series.identify(rows, goal)
            check_output_dir(series.folder)

        sequence = _Sequence(series, stop_args, tokenizer.pad_token_id, forget, retain, moved)
        # `chained`: a request builds on the model of the one before, so a lost model stops all that follow.
        stages = [SequenceStage(**record) for record in series.run(sequence.serve, "Requests", chained=True)]
        if PartialState().is_main_process:
            write_sequence(series.folder, stages, sequence.baselines)
            for stage in stages:
                if stage.shortfall:
                    print_shortfall(f"Request `{stage.request}`: {stage.shortfall}")


class _Sequence:
    """Shared by all requests: the measured rows, and the target and the retrained model on them."""

    def __init__(self, series: Series, stop_args: StoppingArguments, pad_token_id, forget, retain, moved):
        self.series, self.stop_args = series, stop_args
        self.pad_token_id, self.forget, self.retain, self.moved = pad_token_id, forget, retain, moved
        self.baselines = {role: self._point(load) for role, load in self._loaders(None).items() if load is not None}

    def _loaders(self, unlearned: str | None) -> dict[str, Callable[[], PreTrainedModel] | None]:
        series, trust_remote_code = self.series, self.series.training_args.trust_remote_code
        # The target of the series: `serve` changes only the arguments of its job.
        return evaluation_loaders(series.eval_args, series.model_args, unlearned, trust_remote_code)

    def _point(self, load: Callable[[], PreTrainedModel]) -> dict[str, Any]:
        return sequence_point(
            load(),
            self.forget,
            self.retain,
            pad_token_id=self.pad_token_id,
            batch_size=self.series.eval_args.evaluation_batch_size or 32,
        )

    def serve(self, job: Job) -> None:
        """Unlearn one request on top of the earlier ones, and measure it."""
        if job.earlier:
            take_as_target(job.model_args, job.earlier[-1].folder)
        trainer = build_trainer(job.data_args, job.training_args, job.model_args)
        trainer.earlier_requests = [ChainLink.of(one.name, RunFolder(one.folder).run()) for one in job.earlier]
        if self.stop_args.stop_at:
            sets = self.forget[job.name], self.retain, self.moved[job.name]
            trainer.add_callback(unlearn_until(self.stop_args, trainer, *sets, self._loaders(None)["retrained"]))
        steps, seconds = train_and_save(trainer, job)
        shortfall = trainer.shortfall
        # Free the model and its optimizer before the saved one is loaded.
        del trainer
        gc.collect()
        point = self._point(self._loaders(str(job.folder))["unlearned"])
        training = {"settings": job.settings, "steps": steps, "seconds": seconds, "shortfall": shortfall}
        stage = SequenceStage(request=job.name, **training, **point)
        if PartialState().is_main_process:
            job.keep(run=dataclasses.asdict(stage))


def write_sequence(folder: Path, stages: list[SequenceStage], baselines: dict[str, dict[str, Any]]) -> None:
    """Write `sequence.json`, `sequence.md` and the figure, and print the table."""
    record = sequence_dict(stages, baselines)
    header, rows = sequence_rows(stages, baselines)
    (folder / "sequence.json").write_text(json_text(record, "sequence.json"), encoding="utf-8")
    (folder / "sequence.md").write_text(markdown_table(header, rows), encoding="utf-8")
    attempted("The table", lambda: print_sequence(header, rows))
    draw(folder / "figures/sequence.png", partial(plot_sequence, record["stages"], baselines))
    print(f"A folder a request, table, numbers and figure: {folder}")

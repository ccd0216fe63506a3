# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""All that comes before a weight moves: the request is checked, rows to keep are made, and settings are chosen."""

import gc
import json
import shlex
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml
from accelerate import PartialState
from datasets import Dataset
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..data.overlap import OverlapFilter, question_and_answer
from ..data.retain_source import ModelRetainSource, RetainSource, as_table
from ..data.subject_rows import believed_rows, hold_out
from ..data.tofu import EVALUATION_COLUMNS
from ..evaluation.rows import encode_set
from ..evaluation.tables import print_checks
from ..hub.folder import RunFolder
from ..records import NO_SETTINGS, write_whole
from ..trainer.bootstrap_unlearn_config import BootstrapUnlearnConfig
from ..trainer.checks import check_output_dir
from .arguments import EvaluationArguments, ForgetArguments, UnlearnModelConfig, plain
from .chain import FORGET, RETAIN, Predecessor
from .models import evaluation_loaders
from .plan import MOST_EVALUATED, plan, retain_count, retain_spare, step_settings
from .preflight import Knowledge, fit_base, knowledge, machine_checks
from .request import READ_COLUMNS, ForgetRows, best_form, json_lines, read_request, scored
from .rows import spread


# Files of a request in its run's folder, beside those of `chain.py`.
HELD_OUT, CONFIG = "held-out.jsonl", "config.yaml"
# Numbers of the rows to keep by kind, and of those that were left out by reason.
_REPORT = "retain-report.json"
NOT_WRITTEN = {"overwrite_output_dir", "hub_token"}
_NOTHING = (
    "There is nothing to forget: the model says none of these rows, and finds their answers no likelier than a model "
    "that never saw them. Nothing was changed. If it knows the facts in other words, give rows in its words, or "
    "the name as `--subject`."
)
# Why a row that the model made is not kept; for any other reason, it repeats the forget set.
_REASONS = {"unfinished": "do not end", "unsure": "are babble", "repeated": "repeat each other"}
# Rows that are shown of those that were made.
_SHOWN = 5
# Mean extraction strength of beliefs below which they may be made up: .85 and more on the embedded lab, which has its
# facts in many words; .15 on a 135M model that has them in other words, and .06 about a famous person.
_BY_HEART = 0.3


@dataclass
class Request:
    """A parsed command line with its rows, and the folder of its run."""

    args: ForgetArguments
    model_args: UnlearnModelConfig
    eval_args: EvaluationArguments
    training_args: BootstrapUnlearnConfig
    # Options of `bs-s` that the user gave, with their values.
    given: dict[str, Any]
    overwrites: bool
    tokenizer: PreTrainedTokenizerBase
    config: PretrainedConfig
    # None: only a subject is given.
    rows: ForgetRows | None
    # None: the model makes them.
    retain: ForgetRows | RetainSource | None
    # The run that this one resumes from.
    earlier: Predecessor | None
    # Of the settings and the rows: the same command resumes the same run.
    digest: str
    publishes: bool

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.training_args.output_dir)

    def loaders(self, unlearned: Path | None = None) -> dict[str, Callable[[], PreTrainedModel] | None]:
        """Role -> function that loads the model."""
        name, trusts = unlearned and str(unlearned), self.training_args.trust_remote_code
        return evaluation_loaders(self.eval_args, self.model_args, name, trusts)

    @property
    def learns_retain(self) -> bool:
        """Whether rows to keep are learned: the user's, and those of an earlier run, whose model knew more."""
        return self.retain is not None or self.earlier is not None

    @property
    def subjects(self) -> list[str] | None:
        """Names that the rows are about, if they are given."""
        return self.given.get("forget_subjects") or ([self.args.subject] if self.args.subject else None)


def is_prepared(request: Request) -> bool:
    """Whether a run can resume with the files that are there."""
    ends = request.args.dry_run or request.args.review
    return not ends and request.folder.has_request(request.digest)


def prepare(request: Request, state: PartialState) -> bool:
    """Check, choose and write all that a run needs; returns whether there is one."""
    if not request.overwrites:
        if is_prepared(request):
            if state.is_main_process:
                _update_settings(request)
            return True
        # A look at a request whose run is there is none at another one.
        if not request.folder.has_request(request.digest):
            _refuse_taken(request)
    if request.args.review:
        _refuse_edited(request.folder.review)
    if state.is_main_process:
        _refuse_unwritable(request.folder.path)
    model = request.loaders()["target"]().eval()
    if request.rows is None and not _ask_about_subject(request, model, state):
        return False
    form = best_form(request.rows, model, request.tokenizer)
    every = request.rows.forms[form]
    known = knowledge(model, request.tokenizer, every, request.subjects, request.training_args.seed)
    checks = _checks(request, every, form, known)
    if state.is_main_process:
        print_checks(checks, title=f"Before a weight moves: {Path(request.model_args.model_name_or_path).name}")
    if not _begins(request, model, every, form, known, state):
        return False
    forget, held_out = _to_unlearn(request, every, known, state)
    if len(forget) < len(every):
        known = knowledge(model, request.tokenizer, forget, request.subjects, request.training_args.seed)
    retain, report = _retain_rows(request, model, every, form, known.is_by_heart, state)
    settings = _settings(request, model, known, forget, retain, state)
    # The run loads it anew.
    del model
    gc.collect()
    if state.is_main_process:
        texts = {
            FORGET: json_lines(forget),
            RETAIN: json_lines(retain),
            _REPORT: json.dumps(report, indent=2) + "\n",
            CONFIG: yaml.safe_dump(settings, sort_keys=False),
        }
        texts |= {} if held_out is None else {HELD_OUT: json_lines(held_out)}
        texts |= {} if request.earlier is None else request.earlier.texts()
        request.folder.save_request(texts, request.digest)
    return True


def _refuse_taken(request: Request) -> None:
    """Refuse a folder with the run of another request."""
    folder = request.folder
    if held := folder.earlier_run() or ("an unfinished run" if folder.is_unfinished else ""):
        raise ValueError(
            f"`{folder.path}` holds {held} of another request. Give another `--output_dir`, or replace it with "
            "`--overwrite_output_dir true`."
        )


def _refuse_edited(review: Path) -> None:
    """Refuse to write rows over those that a user may have edited, even where a run may be replaced."""
    if review.exists():
        raise ValueError(f"`{review}` is there, and may hold what you have edited. Give it as `--forget`, or move it.")


def _checks(request: Request, forget: Dataset, form: str, known: Knowledge) -> list[tuple[str, str]]:
    """The rows, the knowledge and the machine; a `ValueError` says why the machine does not suffice."""
    checks = [("forget set", request.rows.words()), ("the model knows it", form), known.check()]
    machine = request.model_args, request.training_args, request.config, request.tokenizer
    step = step_settings(request.given, len(forget))
    # The twin, and the original model where no adapter can be taken off for it.
    copies = int(known.is_by_heart) + int(not (request.learns_retain or request.model_args.use_peft))
    checks += machine_checks(*machine, forget, step, copies, request.args.merge)
    if request.publishes:
        checks.append(("Hub", f"`{request.training_args.hub_model_id}` may be written"))
    return checks


def _begins(
    request: Request, model: PreTrainedModel, forget: Dataset, form: str, known: Knowledge, state: PartialState
) -> bool:
    """Whether there is something to forget, and more than a look at it is asked for; says why not."""
    args, review = request.args, request.folder.review
    if args.subject is not None and (strength := fmean(known.strengths)) < _BY_HEART:
        state.print(
            f"The model hardly has these answers by heart (extraction strength {strength:.2f}) and may have made them "
            "up. What it learned in other words stays: give rows with `--forget`, or such questions as `--hints`."
        )
    elif args.subject is None and not known.is_known:
        state.print(_NOTHING)
        return False
    if args.dry_run:
        # A source of one's own may take as long to make its rows as a run does.
        if isinstance(request.retain, ForgetRows):
            _retain_rows(request, model, forget, form, known.is_by_heart, state)
        state.print("Nothing was changed: this is a dry run. Without `--dry_run` the same command forgets the rows.")
    elif args.review:
        if state.is_main_process:
            write_whole(review, json_lines(forget), 0o600)
        state.print(
            f"{len(forget)} rows: {review}. Edit them, and give them as `--forget {shlex.quote(str(review))}`."
        )
    return not (args.dry_run or args.review)


def _to_unlearn(
    request: Request, forget: Dataset, known: Knowledge, state: PartialState
) -> tuple[Dataset, Dataset | None]:
    """The rows that are trained on, and those that are held out; None where only a subject has such rows."""
    if request.args.subject is not None:
        rows, held_out = hold_out(forget)
        state.print(f"{len(held_out)} of {len(forget)} answers are held out of training, and measured at its end.")
        return rows, held_out
    if len(known.to_unlearn) < len(forget):
        state.print(f"Only the {len(known.to_unlearn)} rows that the model knows are unlearned.")
        forget = forget.select(known.to_unlearn)
    return forget, None


def _settings(
    request: Request,
    model: PreTrainedModel,
    known: Knowledge,
    forget: Dataset,
    retain: Dataset,
    state: PartialState,
) -> dict[str, Any]:
    """Every option of the run; says why those that were chosen are as they are."""
    floor = _retain_floor(request, model, retain)
    chosen = plan(request, known, forget, retain, retain_floor=floor, base=_teacher(request, model, forget))
    for reason in chosen.reasons:
        state.print(f"- {reason}")
    place = request.folder.request.absolute()
    settings = {
        "model_name_or_path": request.model_args.model_name_or_path,
        "forget_dataset": str(place / FORGET),
        "retain_dataset": str(place / RETAIN),
        "output_dir": request.training_args.output_dir,
        **{name: value for name, value in chosen.settings.items() if name not in NOT_WRITTEN},
    }
    return {name: plain(value) for name, value in settings.items()}


def _retain_floor(request: Request, model: PreTrainedModel, retain: Dataset) -> float:
    """The retain probability that ends the run, of the rows that its goal is measured on."""
    measured = spread(retain, request.given.get("max_eval_rows", MOST_EVALUATED))
    encoded = encode_set(measured, request.tokenizer, name="retain")
    return (1 - request.args.max_utility_loss) * fmean(scored(model, encoded, request.tokenizer)["retain/probability"])


def _update_settings(request: Request) -> None:
    """Put the options that a resumed run may have anew into the file of its settings."""
    path = request.folder.request / CONFIG
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    names = NO_SETTINGS & request.given.keys() - NOT_WRITTEN
    settings |= {name: plain(request.given[name]) for name in names}
    write_whole(path, yaml.safe_dump(settings, sort_keys=False), 0o600)


def _refuse_unwritable(path: Path) -> None:
    """Refuse an output folder that cannot be written, and leave none behind: nothing may be to be done."""
    made = [one for one in (path, *path.parents) if not one.exists()]
    check_output_dir(path)
    for one in made:
        one.rmdir()


def _ask_about_subject(request: Request, model: PreTrainedModel, state: PartialState) -> bool:
    """Take for the rows what the model believes about the subject; returns whether it believes anything."""
    args, seed = request.args, request.training_args.seed
    if " " in args.subject and (args.subject.islower() or args.subject.isupper()):
        state.print(
            f"`{args.subject}` is written in one case, and a name is found as it is written: texts with "
            f"`{args.subject.title()}`, or with the last name alone, may be missed. Give the name as texts write it."
        )
    rows = believed_rows(model, request.tokenizer, args.subject, hints=args.hints or (), seed=seed)
    if len(rows) == 0:
        state.print(
            f"There is nothing to forget: the model gives no answer about `{args.subject}` again and again that it "
            "does not give about strangers. Nothing was changed. Facts that it was not asked about are not known; "
            "give questions or topics as `--hints`."
        )
        return False
    state.print(f"{len(rows)} answers are what the model believes about `{args.subject}`. The first {_SHOWN}:")
    for row in rows.select(range(min(_SHOWN, len(rows)))):
        state.print(f"  {row['agreement']:.0%}  {' -> '.join(question_and_answer(row))}")
    state.print(
        "Facts that it was not asked about are not among them (`--hints` asks more, `--review` lets you edit them)."
    )
    if len(args.subject.split()) == 1:
        state.print(
            f"`{args.subject}` is a single word: rows with it, in any case and any sense, count as being about the "
            "subject. A full name is safer."
        )
    request.rows = ForgetRows({"as it answers": rows.remove_columns("agreement")}, "what the model believes")
    return True


def _retain_rows(
    request: Request, model: PreTrainedModel, forget: Dataset, form: str, is_by_heart: bool, state: PartialState
) -> tuple[Dataset, dict[str, Any]]:
    """The rows to keep, none of which repeats the forget set, and the numbers of those kept and of the others."""
    tokenizer, given = request.tokenizer, request.retain
    count = retain_count(len(forget), is_by_heart)
    if given is None:
        source = ModelRetainSource(model, tokenizer, forget, request.subjects, seed=request.training_args.seed)
        rows, report = source.rows(count, retain_spare(is_by_heart)), source.report
        reasons = Counter()
        for reason, number in report["dropped"].items():
            reasons[_REASONS.get(reason, "repeat the forget set")] += number
        kinds, others = (
            ", ".join(f"{number} {name}" for name, number in part.items() if number)
            for part in (report["kinds"], reasons)
        )
        state.print(
            f"Rows to keep: {len(rows)}, made by the model ({kinds}). Of others, {others or 'none was left out'}."
        )
    else:
        if isinstance(given, RetainSource):
            given = read_request("retain", given.rows(count), tokenizer, request.config)
        rows, repeated = OverlapFilter(forget, request.subjects).split(given.forms.get(form, given.rows))
        report = {"kept": len(rows), "dropped": dict(Counter(repeated["reason"]))}
        state.print(f"Rows to keep: {given.words()}; {len(repeated)} repeat the forget set, and are left out.")
    if request.earlier is not None:
        rows = _with_earlier(request, rows, forget, state)
    if len(rows) == 0:
        raise ValueError("There are no rows to keep. Give some that do not repeat the forget set as `--retain`.")
    return rows, report


def _with_earlier(request: Request, rows: Dataset, forget: Dataset, state: PartialState) -> Dataset:
    """Rows to keep of this request, none of which repeats an earlier forget set, and those of earlier requests."""
    rows, _ = OverlapFilter(request.earlier.rows()).split(rows)
    before, _ = OverlapFilter(forget, request.subjects).split(request.earlier.retain())
    state.print(f"Rows to keep of earlier requests: {len(before)}.")
    both = [*rows, *before]
    # Columns that one of them lacks, and those that nobody reads, such as ids, may not go together.
    read = READ_COLUMNS | {name for name in EVALUATION_COLUMNS if all(row.get(name) is not None for row in both)}
    return as_table([{name: value for name, value in row.items() if name in read} for row in both])


def _teacher(request: Request, model: PreTrainedModel, forget: Dataset) -> str | None:
    """A model that never knew the rows: the one that is given, or the one that the target was tuned from."""
    given = request.given
    is_taught = given.get("forget_loss_type", "ignorance") == "ignorance"
    if not is_taught or {"forget_subjects", "forget_aliases", "ignorant_model_name_or_path"} & given.keys():
        return given.get("ignorant_model_name_or_path")
    return fit_base(model, request.tokenizer, forget, request.training_args.trust_remote_code)

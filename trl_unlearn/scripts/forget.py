# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Make a model forget rows, or what it knows about a name. All settings are chosen for you."""

import gc
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import yaml
from accelerate import PartialState
from datasets import Dataset
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..data.files import load_rows
from ..data.overlap import OverlapFilter, question_and_answer
from ..data.retain_source import ModelRetainSource, RetainSource, as_table
from ..data.subject_rows import believed_rows, hold_out
from ..evaluation.rows import encode_set
from ..evaluation.tables import print_checks
from ..hub.folder import RunFolder
from ..hub.push import save_merged
from ..records import NO_SETTINGS, write_whole
from ..results import Measurement
from ..trainer.bootstrap_unlearn_config import BootstrapUnlearnConfig
from ..trainer.checks import check_output_dir
from ..verdict import broken_text, has_forgotten
from . import unlearn
from .arguments import (
    RETRAINED,
    DataArguments,
    EvaluationArguments,
    ForgetArguments,
    UnlearnModelConfig,
    as_options,
    given_options,
    parse,
)
from .chain import FORGET, RETAIN, Predecessor, earlier_now, is_in_ledger, mean_strength, way_back, write_ledger
from .exits import clearing, interruptible, miss, on_interrupt, refusing
from .models import check_models, evaluation_loaders, load_config, load_tokenizer, refuse_replaced
from .plan import Fault, advice, plan, retain_count, retain_spare, second_attempt, step_settings
from .preflight import Check, Knowledge, fit_base, knowledge, machine_checks
from .push import fail_late, forget_texts, may_publish, publish, push_command
from .request import ForgetRows, best_form, json_lines, read_request, scored
from .sources import RowArguments


# Files of a request in its run's folder, beside those of `chain.py`.
_HELD_OUT, _CONFIG = "held-out.jsonl", "config.yaml"
# Numbers of the rows to keep by kind, and of those that were left out by reason.
_REPORT = "retain-report.json"
_NOT_WRITTEN = {"overwrite_output_dir", "hub_token"}
_NOTHING = (
    "There is nothing to forget: the model says none of these rows, and finds their answers no likelier than a model "
    "does that never saw them. Nothing was changed. If it knows the facts in other words, give rows in its words, or "
    "the name as `--subject`."
)
# Why a row that the model made is not kept; for any other reason, it repeats the forget set.
_REASONS = {"unfinished": "do not end", "unsure": "are babble", "repeated": "repeat each other"}
# Rows that are shown of those that were made.
_SHOWN = 5
# Mean extraction strength of beliefs below which they may be made up: .85 and more on the embedded lab, which has its
# facts in many words; .15 on a 135M model that has them in other words, and .06 about a famous person.
_BY_HEART = 0.3


# The order: `_read` parses the command line; `given` are the options that the user typed, which win. `_prepare` looks
# at the model, makes the rows to keep, lets `plan` choose the rest, and writes rows and settings to `request/`. `bs-s`
# runs on the `config.yaml` there. `_finish` merges, measures earlier requests and writes the ledger, which marks a
# finished run.


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


def main(argv: list[str] | None = None, prog: str = "trl-unlearn forget") -> None:
    """Run the command; `argv` is that of the process if not given."""
    with interruptible(prog):
        outcome = run(sys.argv[1:] if argv is None else argv, prog)
        if outcome.shortfall is not None:
            sentence = f"{outcome.shortfall} The model is in `{outcome.folder}`."
            miss(prog, sentence, speaks=outcome.speaks)


@dataclass(frozen=True)
class Outcome:
    """Folder of a run, None without one, and its distance to the goal in words, None if that was reached."""

    folder: Path | None
    shortfall: str | None = None
    # Whether this is the main process.
    speaks: bool = True
    trust_remote_code: bool = False


def run(argv: list[str], prog: str, **in_memory: Any) -> Outcome:
    """Plan, unlearn, evaluate and merge; `in_memory` are rows in the place of the files of `forget` and `retain`."""
    with refusing(prog):
        request = _read(argv, prog, in_memory)
        if request is None:
            return Outcome(None)
        state = PartialState(cpu=not torch.accelerator.is_available())
        before = request.folder.request_files()
        # Every process measures, and the main one speaks and writes.
        goes_on = _prepare(request, state)
        state.wait_for_everyone()
    if not goes_on:
        return Outcome(None)
    folder = request.folder
    if not _is_trained(request):
        state.print(f"The same as: trl-unlearn bs-s --config {folder.request / _CONFIG}\n")
        # Files of a run that is to be replaced are in the place of these until training begins.
        place = folder.next_request if request.overwrites else folder.request
        config = ["--config", str(place / _CONFIG)]
        # What the file of the settings must not say: it is used again, and read by others.
        config += as_options({name: request.given[name] for name in _NOT_WRITTEN & request.given.keys()})
        links = [] if request.earlier is None else request.earlier.links
        options = {"argv": config, "earlier_requests": links, "try_again": second_attempt, "rows_in": place}
        with clearing(lambda: state.is_main_process and _take_back(request, before)):
            unlearn.main(prog, __doc__, "", **options)
    # No process waits for another any more: the run has ended their group.
    on_interrupt(lambda: "when the model was saved: the same command does the rest.")
    fault = _finish(request) if state.is_main_process else None
    run, result = folder.run(), folder.results()
    forgotten, figures = (None, "") if result is None else has_forgotten(result)
    shortfall = run.shortfall or (figures if forgotten is False else None)
    if shortfall is not None:
        shortfall = f"{shortfall} {advice(run, request.retain is not None, fault)}"
    if request.publishes and state.is_main_process:
        if shortfall is None:
            _push(request, prog)
        else:
            shortfall += f" It was not pushed: {push_command(request.training_args, force=True)} does that."
    return Outcome(folder.path, shortfall, state.is_main_process, request.training_args.trust_remote_code)


def _is_trained(request: Request) -> bool:
    """Whether the run has ended, and was cut off before what follows it."""
    folder = request.folder
    has_run = _is_prepared(request) and folder.is_run and not folder.is_unfinished
    # `bs-s` may have replaced it with a run of other rows.
    has_run = has_run and folder.sources().get("forget_dataset") == str((folder.request / FORGET).resolve())
    return has_run and not request.overwrites and not is_in_ledger(folder)


def _take_back(request: Request, before: Mapping[str, bytes]) -> None:
    """Put back the files that lay in `request/` before those of a request that `bs-s` refuses."""
    # An unfinished run of this request resumes with them.
    if not (request.folder.is_unfinished and request.folder.has_request(request.digest)):
        request.folder.restore_request(before)


def _finish(request: Request) -> Fault | None:
    """Merge, measure what no run trained on, and write the ledger; returns a fault that training did not see."""
    folder, args = request.folder, request.args
    run = folder.run()
    if args.merge:
        trusts = request.training_args.trust_remote_code
        save_merged(folder.path, run, folder.path / "merged", trust_remote_code=trusts)
        request.tokenizer.save_pretrained(folder.path / "merged")
        print(f"Merged model: {folder.path / 'merged'}")
    model, result = None, folder.results()
    held_out = folder.request / _HELD_OUT
    # Too few answers are not divided, and the file is empty.
    has_held_out = args.subject is not None and held_out.stat().st_size > 0 and result is not None
    if has_held_out or (request.earlier is not None and result is not None):
        loaders = request.loaders(folder.path)
        model = loaders["unlearned"]().eval()
    if has_held_out:
        rows = load_rows(str(held_out))
        models = {"unlearned": model, "target": loaders["target"]().eval()}
        strengths = {role: mean_strength(one, rows, request.tokenizer) for role, one in models.items()}
        measured = {role: Measurement(strength, len(rows)) for role, strength in strengths.items()}
        folder.save_results(result.with_measured("held_out/extraction_strength", measured))
        print(
            f"Held out: of {len(rows)} answers about `{args.subject}` that were not trained on, the extraction "
            f"strength is {strengths['unlearned']:.3f}, and was {strengths['target']:.3f}."
        )
    entries = []
    if request.earlier is not None:
        entries = earlier_now(folder, request.earlier, model, request.tokenizer)
    for number, entry in enumerate(entries, 1):
        print(f"Request {number}, of {entry.rows} rows, now: {entry.verdict}")
    back = [str(number) for number, entry in enumerate(entries, 1) if entry.forgotten is False]
    fault = broken = None
    if result is not None and has_forgotten(result)[0] is not False:
        broken = broken_text(result)
    if run.shortfall is None and broken is not None:
        fault, run = Fault.BROKEN, replace(run, shortfall=broken)
        folder.save_run(run)
    elif run.shortfall is None and back:
        # The ledger has these by themselves, and the rows of this request are forgotten.
        fault, sentence = Fault.COME_BACK, f"Rows of earlier requests are not forgotten: of request {', '.join(back)}."
        folder.save_run(replace(run, shortfall=sentence))
    if has_held_out or fault is not None:
        folder.write_card()
    # Last: a run that is not in it is finished by the same command.
    write_ledger(folder, run, entries)
    return fault


def _push(request: Request, prog: str) -> None:
    """Publish a finished run; no file may hold the rows of any request, nor a belief."""
    on_interrupt(lambda: f"while the run was pushed: {push_command(request.training_args)} does that.")
    args = request.training_args
    try:
        texts = forget_texts(RowArguments(trust_remote_code=args.trust_remote_code), request.folder.path, prog)
    except (ValueError, OSError) as error:
        fail_late(prog, args, error)
    publish(prog, args, texts | {"beliefs": request.folder.belief_texts()})


def _read(argv: list[str], prog: str, in_memory: Mapping[str, Any]) -> Request | None:
    """Parse the command line, and read the rows; None where all was said."""
    # Goal and objective are chosen, so that what belongs to them may be given without them.
    chosen = {"stop_at": RETRAINED, "forget_loss_type": "ignorance"}
    # The rows have options of their own.
    types = (ForgetArguments, *(one for one in unlearn.TYPES if one is not DataArguments))
    arguments, settings = parse(types, prog, __doc__, argv, **chosen)
    args, eval_args, *_, training_args, model_args, output_args = arguments
    if args.undo is not None:
        print("\n".join(way_back(args.undo)))
        return None
    # Before the options are noted down: what is made of them does not push.
    publishes = may_publish(prog, training_args)
    names = given_options(argv, types)
    given = {name: getattr(one, name) for one in arguments[1:] for name in sorted(names) if hasattr(one, name)}
    if given.get("stop_metric") == "forget_logp" and "stop_at" not in given:
        raise ValueError(
            "`stop_metric` is 'forget_logp', of which no value is chosen. Give one as `stop_at`, below 0 (nats per "
            "token), or leave it out."
        )
    earlier = None
    if args.add is not None:
        earlier, typed = Predecessor.of(args.add), dict(vars(model_args))
        earlier.refuse_beside(names, training_args)
        earlier.take_model(model_args)
        given |= {name: value for name, value in vars(model_args).items() if value != typed[name]}
        given.pop("model_name_or_path", None)
    if args.merge and not model_args.use_peft:
        raise ValueError("`merge` is given, and all weights are trained: there is no adapter to merge. Leave it out.")
    check_models(model_args, eval_args, training_args.trust_remote_code)
    if "output_dir" in names:
        refuse_replaced(training_args.output_dir, model_args, eval_args, training_args.ignorant_model_name_or_path)
    tokenizer = load_tokenizer(model_args, training_args.trust_remote_code)
    config = load_config(model_args, training_args.trust_remote_code)
    sources = {name: in_memory.get(name, getattr(args, name)) for name in ("forget", "retain")}
    rows, retain = (
        one if one is None or isinstance(one, RetainSource) else read_request(role, one, tokenizer, config)
        for role, one in sources.items()
    )
    parts = (one.digest() for one in (rows, retain, earlier) if one is not None)
    digest = hashlib.sha256(" ".join([settings, *parts]).encode()).hexdigest()[:16]
    if "output_dir" not in names:
        # One folder for each request: the same command finds its own run.
        model = Path(model_args.model_name_or_path).absolute().name
        training_args.output_dir = str(Path("unlearned", f"{model}-{digest[:8]}"))
    whole = (args, model_args, eval_args, training_args, given, output_args.overwrite_output_dir)
    return Request(*whole, tokenizer, config, rows, retain, earlier, digest, publishes)


def _is_prepared(request: Request) -> bool:
    """Whether a run can resume with the files that are there."""
    ends = request.args.dry_run or request.args.review
    return not ends and request.folder.has_request(request.digest)


def _prepare(request: Request, state: PartialState) -> bool:
    """Check, choose and write all that a run needs; returns whether there is one."""
    if not request.overwrites:
        if _is_prepared(request):
            if state.is_main_process:
                _update_settings(request)
            return True
        _refuse_taken(request)
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
            _CONFIG: yaml.safe_dump(settings, sort_keys=False),
        }
        texts |= {} if held_out is None else {_HELD_OUT: json_lines(held_out)}
        texts |= {} if request.earlier is None else request.earlier.texts()
        request.folder.save_request(texts, request.digest)
    return True


def _refuse_taken(request: Request) -> None:
    """Refuse a folder with the run of another request, or with rows that a user may have edited."""
    folder = request.folder
    if held := folder.earlier_run() or ("an unfinished run" if folder.is_unfinished else ""):
        raise ValueError(
            f"`{folder.path}` holds {held} of another request. Give another `--output_dir`, or replace it with "
            "`--overwrite_output_dir true`."
        )
    if request.args.review and folder.review.exists():
        raise ValueError(
            f"`{folder.review}` is there, and may hold what you have edited. Give it as `--forget`, or move it."
        )


def _checks(request: Request, forget: Dataset, form: str, known: Knowledge) -> list[Check]:
    """The rows, the knowledge and the machine; a `ValueError` says why the machine does not suffice."""
    checks = [Check("forget set", request.rows.words()), Check("the model knows it", form), known.check()]
    machine = request.model_args, request.training_args, request.config, request.tokenizer
    step = step_settings(request.given, len(forget))
    # The twin, and the original model where no adapter can be taken off for it.
    copies = int(known.is_by_heart) + int(not (request.learns_retain or request.model_args.use_peft))
    checks += machine_checks(*machine, forget, step, copies, request.args.merge)
    if request.publishes:
        checks.append(Check("Hub", f"`{request.training_args.hub_model_id}` may be written"))
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
        state.print(f"{len(forget)} rows: {review}. Edit them, and give them as `--forget {review}`.")
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
    tokenizer = request.tokenizer
    kept = scored(model, encode_set(retain, tokenizer, name="retain"), tokenizer)["retain/probability"]
    floor = (1 - request.args.max_utility_loss) * fmean(kept)
    chosen = plan(request, known, forget, retain, retain_floor=floor, base=_teacher(request, model, forget))
    for reason in chosen.reasons:
        state.print(f"- {reason}")
    place = request.folder.request.absolute()
    settings = {
        "model_name_or_path": request.model_args.model_name_or_path,
        "forget_dataset": str(place / FORGET),
        "retain_dataset": str(place / RETAIN),
        "output_dir": request.training_args.output_dir,
        **{name: value for name, value in chosen.settings.items() if name not in _NOT_WRITTEN},
    }
    return {name: _plain(value) for name, value in settings.items()}


def _update_settings(request: Request) -> None:
    """Put the options that a resumed run may have anew into the file of its settings."""
    path = request.folder.request / _CONFIG
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    names = NO_SETTINGS & request.given.keys() - _NOT_WRITTEN
    settings |= {name: _plain(request.given[name]) for name in names}
    write_whole(path, yaml.safe_dump(settings, sort_keys=False), 0o600)


def _plain(value: Any) -> Any:
    """The value of an option as YAML has it: of the types of Transformers, words and mappings."""
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value.to_dict() if hasattr(value, "to_dict") else getattr(value, "value", value)


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
    return as_table([*rows, *before])


def _teacher(request: Request, model: PreTrainedModel, forget: Dataset) -> str | None:
    """A model that never knew the rows: the one that is given, or the one that the target was tuned from."""
    given = request.given
    if {"forget_loss_type", "forget_subjects", "forget_aliases", "ignorant_model_name_or_path"} & given.keys():
        return given.get("ignorant_model_name_or_path")
    return fit_base(model, request.tokenizer, forget, request.training_args.trust_remote_code)

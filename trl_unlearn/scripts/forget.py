# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Make a model forget rows, or what it knows about a name. All settings are chosen for you."""

import hashlib
import shlex
import sys
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from ..data.files import load_rows
from ..data.retain_source import RetainSource
from ..forgetting import has_forgotten, lacks_scores
from ..hub.push import save_merged
from ..questions import broken_text
from ..results import Measurement
from . import unlearn
from .arguments import RETRAINED, DataArguments, ForgetArguments, as_options, given_options, parse
from .chain import FORGET, Predecessor, earlier_now, is_in_ledger, mean_strength, way_back, write_ledger
from .exits import clearing, interruptible, miss, on_interrupt, refusing
from .models import check_models, load_config, load_tokenizer, refuse_replaced, refuse_whole_quantized
from .plan import advice, second_attempt
from .prepare import CONFIG, HELD_OUT, NOT_WRITTEN, Request, is_prepared, prepare
from .push import fail_late, forget_texts, may_publish, publish, push_command, refuse_unpublished_base
from .request import read_request
from .sources import RowArguments


# The order: `_read` parses the command line; `given` are the options that the user typed, which win. `prepare` looks
# at the model, makes the rows to keep, lets `plan` choose the rest, and writes rows and settings to `request/`. `bs-s`
# runs on the `config.yaml` there. `_finish` merges, measures earlier requests and writes the ledger, which marks a
# finished run.


def main(argv: list[str] | None = None, prog: str = "trl-unlearn forget") -> None:
    """Run the command; `argv` is that of the process if not given."""
    with interruptible(prog):
        outcome = run(sys.argv[1:] if argv is None else argv, prog)
        # The others end first, and with 0: a code of theirs lets the launcher end the one that writes.
        if outcome.shortfall is not None and outcome.speaks:
            miss(prog, f"{outcome.shortfall} The model is in `{outcome.folder}`.")


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
        goes_on = prepare(request, state)
        state.wait_for_everyone()
    if not goes_on:
        return Outcome(None)
    folder = request.folder
    if not _is_trained(request):
        state.print(f"The same as: trl-unlearn bs-s --config {shlex.quote(str(folder.request / CONFIG))}\n")
        # Files of a run that is to be replaced are in the place of these until training begins.
        place = folder.next_request if request.overwrites else folder.request
        config = ["--config", str(place / CONFIG)]
        # What the file of the settings must not say: it is used again, and read by others.
        config += as_options({name: request.given[name] for name in NOT_WRITTEN & request.given.keys()})
        links = [] if request.earlier is None else request.earlier.links
        options = {"argv": config, "earlier_requests": links, "try_again": second_attempt, "rows_in": place}
        with clearing(lambda: state.is_main_process and _take_back(request, before)):
            unlearn.main(prog, __doc__, "", **options)
    # No process waits for another any more: the run has ended their group.
    again = f"the same command{' without `--overwrite_output_dir`' if request.overwrites else ''}"
    on_interrupt(lambda: f"when the model was saved: {again} does the rest.")
    if state.is_main_process:
        _finish(request)
    run, result = folder.run(), folder.results()
    forgotten, figures = (None, "") if result is None else has_forgotten(result)
    shortfall = run.shortfall or (figures if forgotten is False else None)
    if shortfall is not None and not (result is not None and lacks_scores(result) is not None):
        shortfall = f"{shortfall} {advice(run, request.retain is not None)}"
    if forgotten is None and figures:
        state.print(f"WARNING: {figures}")
    if request.publishes and state.is_main_process:
        if shortfall is None:
            _push(request, prog)
        else:
            shortfall += f" It was not pushed: {push_command(request.training_args, force=True)} does that."
    return Outcome(folder.path, shortfall, state.is_main_process, request.training_args.trust_remote_code)


def refuse_none(options: Mapping[str, Any]) -> None:
    """Refuse a None that means something other than the default: a command line has none."""
    options_of = {one.name: one for kind in (ForgetArguments, *unlearn.TYPES) for one in fields(kind)}
    for name in [name for name, value in options.items() if value is None and name in options_of]:
        one = options_of[name]
        default = one.default if one.default_factory is MISSING else one.default_factory()
        if default not in (None, MISSING, []):
            raise ValueError(
                f"`{name}` is None, which a call cannot set. Leave it out for the default, {default!r}, or give a "
                "value."
            )


def _is_trained(request: Request) -> bool:
    """Whether the run has ended, and was cut off before what follows it."""
    folder = request.folder
    has_run = is_prepared(request) and folder.is_run and not folder.is_unfinished
    # `bs-s` may have replaced it with a run of other rows.
    has_run = has_run and folder.sources().get("forget_dataset") == str((folder.request / FORGET).resolve())
    return has_run and not request.overwrites and not is_in_ledger(folder)


def _take_back(request: Request, before: Mapping[str, bytes]) -> None:
    """Put back the files that lay in `request/` before those of a request that `bs-s` refuses."""
    # An unfinished run of this request resumes with them.
    if not (request.folder.is_unfinished and request.folder.has_request(request.digest)):
        request.folder.restore_request(before)


def _finish(request: Request) -> None:
    """Merge, measure what no run trained on, note a fault that training did not see, and write the ledger."""
    folder, args = request.folder, request.args
    run = folder.run()
    if args.merge:
        trusts = request.training_args.trust_remote_code
        save_merged(folder.path, run, folder.path / "merged", trust_remote_code=trusts)
        request.tokenizer.save_pretrained(folder.path / "merged")
        print(f"Merged model: {folder.path / 'merged'}")
    model, result = None, folder.results()
    held_out = folder.request / HELD_OUT
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
    before = noted = run
    # Both faults are of this function, which may have been interrupted before the ledger was written.
    if run.shortfall is None or run.missed in ("broken", "earlier"):
        has_own = result is not None and has_forgotten(result)[0] is not False
        broken = broken_text(result) if has_own else None
        noted = run = replace(run, shortfall=broken, missed=broken and "broken")
        if broken is None and back:
            # Not for the ledger: it has earlier requests by themselves, and the rows of this one are forgotten.
            comes_back = f"Rows of earlier requests are not forgotten: of request {', '.join(back)}."
            noted = replace(run, shortfall=comes_back, missed="earlier")
    if noted != before:
        folder.save_run(noted)
    if has_held_out or noted != before:
        folder.write_card()
    # Last: a run that is not in it is finished by the same command.
    write_ledger(folder, run, entries)


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
    if "adapter_name_or_path" in names and not model_args.use_peft:
        raise ValueError(
            "`adapter_name_or_path` is given, whose adapter is trained further, and `no_use_peft`, which trains all "
            "weights. Leave one of them out."
        )
    if args.merge and not model_args.use_peft:
        raise ValueError("`merge` is given, and all weights are trained: there is no adapter to merge. Leave it out.")
    check_models(model_args, eval_args, training_args.trust_remote_code)
    refuse_whole_quantized(model_args)
    if publishes:
        refuse_unpublished_base(model_args)
    if "output_dir" in names:
        refuse_replaced(training_args.output_dir, model_args, eval_args, training_args.ignorant_model_name_or_path)
    tokenizer = load_tokenizer(model_args, training_args.trust_remote_code, training_args.chat_template_path)
    if training_args.chat_template_kwargs:
        # All that is measured and written before the training reads prompts as it does; a row's own variables win.
        templated = partial(tokenizer.apply_chat_template, **training_args.chat_template_kwargs)
        tokenizer.apply_chat_template = templated
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

# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Judge an unlearned model beside the target and a retrained reference."""

import hashlib
import json
import math
import shlex
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from peft import PeftConfig
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..data.benchmarks import load_muse, load_rwku
from ..evaluation.depth import measure_depth
from ..evaluation.distribution import measure_distribution
from ..evaluation.elicitation import measure_elicitation
from ..evaluation.judge import measure_judge, refuse_replies_file
from ..evaluation.judge_models import FluencyClassifier, Judge, JudgeError, load_fluency_classifier, load_judge
from ..evaluation.muse import MuseRows, measure_muse, muse_tokens
from ..evaluation.privacy import measure_privacy
from ..evaluation.relearning import QUICK_STEPS, measure_few_steps
from ..evaluation.robustness import measure_robustness
from ..evaluation.rows import EvaluationRows, rows_protocol
from ..evaluation.rwku import RwkuRows, measure_rwku, rwku_tokens
from ..evaluation.tofu import evaluate_models
from ..evaluation.together import FixedModel, SuiteSetting
from ..evaluation.wmdp import WMDP_TASKS, WmdpTasks, load_wmdp_tasks, measure_wmdp
from ..hub.folder import RESULTS_FILE, RUN_FILE, RunFolder, holds_adapter
from ..records import write_whole
from ..results import SuiteOutcome, library_versions
from ..row_forms import configured_template_kwargs
from ..trainer.bootstrap_unlearn_config import option
from ..trainer.checks import check_output_dir
from ..trainer.options import refuse_below
from .arguments import DataArguments, EvaluationArguments, UnlearnModelConfig, names_model_or_data, parse, use_archive
from .exits import fail, interruptible, refusing
from .models import check_models, evaluation_loaders, load_config, load_tokenizer, quantize_as_trained
from .results import evaluation_result, with_earlier, write_results
from .rows import check_tokens, load_evaluation_rows, load_holdout_rows, refuse_other_tokens, spread
from .sources import (
    ROW_SETTINGS,
    RowArguments,
    evaluation_options,
    forget_rows,
    keep_sources,
    refuse_rows_of_others,
    row_settings,
    run_tokenizer,
)


# Suites that change the weights of every model, and so need weights that are not packed.
_CHANGING = ("robustness", "distribution")
# `--quick`: the highest number of rows of a set, and suite -> the options by which it takes seconds. The attack on
# weights is `measure_few_steps`.
QUICK_ROWS = 40
QUICK_SUITES = {
    "tofu": {"answers_only": True},
    "privacy": {"scores_only": True},
    "robustness": {},
    "depth": {"patches": False},
}
# Endings of the files that decide what a local model, tokenizer or task of one's own does.
_CONTENT = (".safetensors", ".bin", ".json", ".jinja", ".model", ".yaml", ".py")


@dataclass
class SuiteArguments:
    """Suites to run, and their needs beside the models and the rows."""

    suites: list[str] | None = option(
        None,
        "Suites to run, separated by commas or spaces: tofu (the default), privacy, robustness, distribution, depth, "
        "elicitation, muse, rwku, wmdp, judge.",
    )
    quick: bool = option(
        False,
        "Whether to answer the five questions of the verdict in minutes, from 40 rows of a set and without "
        "generation. `max_eval_rows` sets another number; of the retain set half as many are read. It takes a logit "
        "lens, 2 steps of relearning and, where rows are given that no model was trained on, membership attacks. "
        "Without an unlearned model `model_name_or_path` is judged itself.",
    )
    holdout_config: str | None = option(
        None,
        "Config of `dataset_name` with rows that no model was trained on, for the suites privacy and robustness. "
        "Default: 'holdout10' for 'forget10', or 'holdout_perturbed', if there is one.",
    )
    holdout_dataset: str | None = option(
        None, "Your own rows that no model was trained on: a file, a folder or an id on the Hub."
    )
    muse_dataset: str | None = option(
        None,
        "MUSE ('muse-bench/MUSE-News', 'muse-bench/MUSE-Books') or a dataset of its form, for the suite muse: an id "
        "on the Hub or a folder.",
    )
    rwku_dataset: str | None = option(
        None, "RWKU ('jinzhuoran/RWKU') or a dataset of its form, for the suite rwku: an id on the Hub or a folder."
    )
    rwku_subjects: list[str] | None = option(
        None, "People of the suite rwku, each a name in quotes. Default: all of the dataset."
    )
    wmdp_tasks: list[str] = option(
        list(WMDP_TASKS), "Multiple-choice tasks of lm-evaluation-harness for the suite wmdp."
    )
    wmdp_include_path: str | None = option(
        None, "Folder of YAML tasks of your own for the suite wmdp; a `!function` in them is run."
    )
    wmdp_limit: int | None = option(
        None, "Highest number of rows of a task of the suite wmdp, spread evenly; of each task in a group."
    )
    judge_model: str | None = option(
        None,
        "Judge of the suite judge: a chat model's folder or id, or with `judge_base_url` the name under which the "
        "server knows it. Default: none, the suite has its stand-in only.",
    )
    judge_base_url: str | None = option(
        None,
        "Address of an OpenAI-compatible server, such as http://localhost:8000/v1. A key goes into the environment "
        "variable JUDGE_API_KEY. Questions and answers of the forget set are sent there.",
    )
    judge_replies: str | None = option(
        None, "Private file (JSON lines) that keeps every reply of the judge. It may quote the forget set."
    )

    def __post_init__(self):
        if self.suites is None:
            has_holdout = self.holdout_config is not None or self.holdout_dataset is not None
            quick = [name for name in QUICK_SUITES if name != "privacy" or has_holdout]
            self.suites = quick if self.quick else ["tofu"]
        named = _split_names(self.suites)
        unknown = [name for name in named if name not in SUITES]
        if unknown or not named:
            raise ValueError(f"Unknown `suites`: {unknown}. Give some of {', '.join(SUITES)}, separated by commas.")
        # In the order of the table: the settings do not depend on the order in which suites are named.
        self.suites = [name for name in SUITES if name in named]
        if self.quick and not set(self.suites) <= set(QUICK_SUITES):
            raise ValueError(
                f"`quick` is given with `suites` {[name for name in self.suites if name not in QUICK_SUITES]}, which "
                f"have no quick form. Leave `quick` out, or give some of {', '.join(QUICK_SUITES)}."
            )
        self.wmdp_tasks = _split_names(self.wmdp_tasks)
        if self.holdout_config is not None and self.holdout_dataset is not None:
            raise ValueError("Both `holdout_config` and `holdout_dataset` are given. Keep one.")
        needed_by = {
            # A quick `robustness` relearns forget rows alone.
            ("privacy",) if self.quick else ("privacy", "robustness"): ("holdout_config", "holdout_dataset"),
            ("muse",): ("muse_dataset",),
            ("rwku",): ("rwku_dataset", "rwku_subjects"),
            ("wmdp",): ("wmdp_include_path", "wmdp_limit"),
            ("judge",): ("judge_model", "judge_base_url", "judge_replies"),
        }
        for suites, options in needed_by.items():
            for name in options:
                if getattr(self, name) is not None and not set(suites) & set(self.suites):
                    raise ValueError(
                        f"`{name}` is given without a suite that needs it. Add "
                        f"{' or '.join(f'`{suite}`' for suite in suites)} to `suites`."
                    )
        if self.judge_replies is not None and self.judge_model is None:
            raise ValueError("`judge_replies` is given, but there is no judge. Give `judge_model`, or leave it out.")
        ids = {"muse": "'muse-bench/MUSE-News', 'muse-bench/MUSE-Books'", "rwku": "'jinzhuoran/RWKU'"}
        for suite, examples in ids.items():
            if suite in self.suites and getattr(self, f"{suite}_dataset") is None:
                raise ValueError(
                    f"The suite `{suite}` has no data. Give `--{suite}_dataset`: {examples} or a folder of that form."
                )

    def holdout(self) -> dict[str, str]:
        """The options of rows that no model was trained on, for the record: files of one's own have no name there."""
        name = self.holdout_dataset
        if name is not None:
            return {"holdout_dataset": "..." if Path(name).exists() else name}
        return {} if self.holdout_config is None else {"holdout_config": self.holdout_config}


@dataclass
class EvaluateArguments:
    """The model to evaluate, the encoding of its rows, and the place of the results."""

    chat_template_kwargs: dict[str, Any] | str | None = option(
        None,
        "Variables of the chat template, such as `enable_thinking`, as in training. A row's own "
        "`chat_template_kwargs` win. Default: those of the judged run.",
    )
    prompt_length: int | None = option(
        None, "First tokens of a raw text that are its prompt. Default: as in the judged run, or 64."
    )
    dataset_text_field: str | None = option(None, "Column of raw text. Default: that of the judged run, or 'text'.")
    seed: int = option(42, "Seed of all random draws: of beliefs, in the suites, and of the bootstrap.")
    unlearned_model_name_or_path: str | None = option(None, "Unlearned model, or its adapter on the target's base.")
    output_dir: str | None = option(
        None,
        "Folder of eval_results.json and the figures. Default: the folder of the judged run, whose card is written "
        "anew, or 'evaluation' if the unlearned model is not in the folder of a run.",
    )
    trust_remote_code: bool = option(False, "Whether code from the Hub may run.")
    verbose: bool = option(False, "Whether to show all warnings of libraries, and their bars.")
    # No option: those of the judged run.
    forget_subjects = None

    def __post_init__(self):
        self.chat_template_kwargs = configured_template_kwargs(self.chat_template_kwargs)
        refuse_below(1, self, "prompt_length")


def main(argv: list[str] | None = None, prog: str = "evaluate.py") -> None:
    progress = "before all suites were done: what is finished is kept, and the same command resumes."
    with interruptible(prog, progress), ending_without_judge(prog):
        _run(argv, prog)


@contextmanager
def ending_without_judge(prog: str) -> Iterator[None]:
    """End with a sentence where the judge no longer answers."""
    try:
        yield
    except JudgeError as error:
        fail(prog, f"{error} What is finished is kept, and the same command resumes.")


def _run(argv: list[str] | None, prog: str) -> None:
    types = (DataArguments, EvaluationArguments, SuiteArguments, EvaluateArguments, UnlearnModelConfig)
    with refusing(prog):
        argv = sys.argv[1:] if argv is None else argv
        judged = None if names_model_or_data(argv) else _judged(argv)
        of_run = [] if judged is None else evaluation_options(judged)
        arguments, settings = parse(types, prog, __doc__, [*of_run, *argv], "archive/evaluate.yaml")
        data_args, eval_args, suite_args, args, model_args = arguments
        # Without `cpu=True`, `PartialState` on a machine without a GPU makes each process the main one.
        with PartialState(cpu=not torch.accelerator.is_available()).main_process_first():
            use_archive(data_args, eval_args, model_args)
        unlearned = args.unlearned_model_name_or_path
        if of_run:
            PartialState().print(f"As the run in `{unlearned}` names them: {shlex.join(of_run)}")
        elif judged is not None and not RunFolder(judged).is_run:
            PartialState().print(
                f"`{judged}` is not the folder of a run, and neither a model nor data is named: judged as one of "
                "the embedded lab. For others give `--model_name_or_path` and `--forget_dataset` or `--dataset_name`."
            )
        check_models(model_args, eval_args, args.trust_remote_code, unlearned)
        if eval_args.second_retrained_model_name_or_path is not None and unlearned is None:
            raise ValueError(
                "`second_retrained_model_name_or_path` says how far an unlearned model could come. Give one as "
                "`unlearned_model_name_or_path`, or leave it out."
            )
        folder = _output_folder(args.output_dir, unlearned)
        # Refused now, and not when hours of results are to be written.
        check_output_dir(folder)
        if of_run:
            # The file may have other rows by now.
            run = RunFolder(judged)
            forget_rows(RowArguments(), judged, run.run(), run_tokenizer(run.path, args.trust_remote_code))
        if suite_args.quick:
            _make_quick(eval_args, folder)
        _refuse_other_rows(eval_args.max_eval_rows, suite_args, RunFolder(folder))
        _evaluate_as_trained(args, model_args, unlearned)
        refuse_quantized(suite_args.suites, model_args, eval_args.retrained_model_name_or_path)
        if unlearned is not None and holds_adapter(unlearned):
            _refuse_prompt_learning(suite_args.suites, eval_args.retrained_model_name_or_path, unlearned)
        tokenizer = _tokenizer(model_args, args.trust_remote_code, unlearned)
        if not of_run and RunFolder(folder).is_run and (data_args.dataset_name or data_args.forget_dataset):
            refuse_rows_of_others(data_args, folder, tokenizer)
        loaders = evaluation_loaders(eval_args, model_args, unlearned, args.trust_remote_code)
        is_alone = suite_args.quick and unlearned is None
        if is_alone:
            loaders |= {"unlearned": loaders["target"], "target": None}
        elif suite_args.quick and loaders["retrained"] is not None and not RunFolder(folder).is_run:
            # The card of a run, and a push, read the target.
            loaders["target"] = None
            PartialState().print("The target is not measured: beside a retrained model `quick` reads none of it.")
        # All suites measure the same models: none generates what another one has generated.
        loaders = {role: load and FixedModel(load) for role, load in loaders.items()}
        config = load_config(model_args, args.trust_remote_code)
        inputs = load_suite_inputs(data_args, eval_args, suite_args, args, loaders, tokenizer, config)
        if unlearned is not None and inputs.rows is not None:
            refuse_other_tokens(inputs.rows, tokenizer, unlearned, args.trust_remote_code)
    names = [model_args.model_name_or_path, model_args.adapter_name_or_path, unlearned]
    names += [*eval_args.references.values(), eval_args.fluency_classifier]
    names += [suite_args.judge_model, suite_args.wmdp_include_path]
    # The default classifier changes when the published one is downloaded, although no option does; rows have other
    # tokens when a tokenizer on the Hub is another one, and numbers are others with other versions.
    unnamed = inputs.classifier and inputs.classifier.name, inputs.digests(), library_versions()
    stages = _Stages(folder / "stages", f"{settings} {content_digest(inputs.row_sets, *names)} {unnamed}")
    finished = stages.finished(suite_args.suites)
    outcomes = {
        name: finished[name] if name in finished else stages.keep(name, measure_suite(name, inputs))
        for name in suite_args.suites
    }
    if PartialState().is_main_process:
        # The options of all suites: what a later call measures with others belongs to the same evaluation.
        quick = {"rows": eval_args.max_eval_rows, "steps": QUICK_STEPS, "options": QUICK_SUITES}
        protocol = suite_args.holdout() | ({"quick": quick} if suite_args.quick else {})
        result = evaluation_result(outcomes, eval_args, model_args, unlearned, protocol)
        weights = result.protocol["weights_sha256"]
        if loaders["target"] is None and (digest := weights.pop("target", None)) and is_alone:
            weights["unlearned"] = digest
        write_results(folder, with_earlier(result, RunFolder(folder), list(SUITES)))
        if RunFolder(folder).is_run:
            RunFolder(folder).save_row_values([outcome.row_values for outcome in outcomes.values()], result)
            keep_sources(folder, data_args, eval_args, model_args, has_trained=False)
        if unlearned is not None and RunFolder(unlearned).is_run and not RunFolder(folder).is_run:
            print(f"The card of the run in {unlearned} is as it was: without `--output_dir` it gets these results.")
        # A later call measures anew: models and data may have changed.
        stages.clear()


def _judged(argv: list[str]) -> str | None:
    """The unlearned model that a command line names."""
    finder = ArgumentParser(add_help=False)
    finder.add_argument("--unlearned_model_name_or_path", "--unlearned-model-name-or-path", nargs="?")
    return finder.parse_known_args(argv)[0].unlearned_model_name_or_path


def _make_quick(eval_args: EvaluationArguments, folder: Path) -> None:
    """Fill in the rows of a quick evaluation; refuse what contradicts it."""
    if eval_args.fluency_classifier is not None:
        raise ValueError(
            "`fluency_classifier` is given with `quick`, which generates no answers to judge. Leave one of them out."
        )
    earlier = RunFolder(folder).results()
    if earlier is not None and "quick" not in earlier.protocol:
        raise ValueError(
            f"`{folder / RESULTS_FILE}` holds a whole evaluation, which the numbers of `quick` would replace. Give "
            "another `--output_dir`."
        )
    eval_args.max_eval_rows = eval_args.max_eval_rows or QUICK_ROWS


def _refuse_other_rows(max_rows: int | None, args: SuiteArguments, folder: RunFolder) -> None:
    """Refuse to add suites to those that were measured on another number of rows."""
    earlier = folder.results()
    # A whole evaluation replaces a quick one.
    if earlier is None or ("quick" in earlier.protocol) != args.quick:
        return
    kept = [name for name in earlier.suites if name not in args.suites]
    most = max(earlier.protocol.get("rows", {}).values(), default=math.inf)
    # A limit above the rows that there are cuts nothing.
    both = earlier.protocol.get("max_eval_rows"), max_rows
    if kept and len({None if limit is None or limit > most else limit for limit in both}) > 1:
        raise ValueError(
            f"`{folder.path / RESULTS_FILE}` holds {', '.join(kept)} with `max_eval_rows` {both[0]}, and this call "
            f"has {max_rows}: one record would mix them. Give the same number, name all suites, or give another "
            "`--output_dir`."
        )


def _evaluate_as_trained(args: EvaluateArguments, model_args: UnlearnModelConfig, unlearned: str | None) -> None:
    """Fill options that decide tokens and base from the record of the run; print where a given one differs."""
    quantize_as_trained(model_args, unlearned)
    if unlearned is None or not RunFolder(unlearned).is_run:
        return
    path, run = Path(unlearned, RUN_FILE), RunFolder(unlearned).run()
    args.forget_subjects = RunFolder(unlearned).sources().get("forget_subjects")
    settings = row_settings(run)
    for name, default in ROW_SETTINGS.items():
        trained, given = settings[name] or default, getattr(args, name)
        if given is None:
            setattr(args, name, trained)
            if trained != default:
                PartialState().print(f"`{name}` is {trained!r}, as `{path}` says that the model was trained.")
        elif given != trained:
            PartialState().print(
                f"`{name}` is {given!r}, but `{path}` says that the model was trained with {trained!r}: other tokens "
                "are scored than were trained. Leave the option out to score the same."
            )


def _tokenizer(
    model_args: UnlearnModelConfig, trust_remote_code: bool, unlearned: str | None
) -> PreTrainedTokenizerBase:
    """Tokenizer of the target, with the chat template of the unlearned model's run if it was trained with its own."""
    tokenizer = load_tokenizer(model_args, trust_remote_code)
    folder = RunFolder(unlearned or "")
    if unlearned is not None and folder.is_run and "chat_template_path" in folder.run().hyperparameters:
        tokenizer.chat_template = run_tokenizer(folder.path, trust_remote_code).chat_template
        PartialState().print(
            f"All models are asked by the chat template of `{unlearned}`, with which it was trained "
            "(`chat_template_path`), and not by the target's."
        )
    return tokenizer


def _changing(suites: list[str], retrained: str | None) -> list[str]:
    """Suites that change or merge weights."""
    return [name for name in suites if name in _CHANGING or (name == "privacy" and retrained is not None)]


def refuse_quantized(suites: list[str], model_args: UnlearnModelConfig, retrained: str | None) -> None:
    """Refuse suites that change weights if those of the base are packed."""
    changing = _changing(suites, retrained)
    if changing and (model_args.load_in_4bit or model_args.load_in_8bit):
        raise ValueError(
            f"The base is quantised, and the suites {changing} change weights (privacy with a retrained model, for "
            "SPV-MIA), which packed ones do not allow. Leave these suites out, or merge the adapter and give the "
            "merged model as `--unlearned_model_name_or_path` with an unquantised target."
        )


def _refuse_prompt_learning(suites: list[str], retrained: str | None, unlearned: str) -> None:
    """Refuse suites that merge the weights of an adapter, if it has none but those of a prompt."""
    changing = _changing(suites, retrained)
    if changing and PeftConfig.from_pretrained(unlearned).is_prompt_learning:
        raise ValueError(
            f"`{unlearned}` is an adapter that learned a prompt, and the suites {changing} change or merge weights, "
            "of which it has none. Leave these suites out."
        )


def _output_folder(given: str | None, unlearned: str | None) -> Path:
    """The folder of the results: given, that of the judged run, or `evaluation`."""
    run = Path(unlearned) if unlearned is not None and RunFolder(unlearned).is_run else None
    folder = Path(given or run or "evaluation")
    # The card of a run shows results of its own model only.
    if RunFolder(folder).is_run and (run is None or not folder.samefile(run)):
        raise ValueError(
            f"`output_dir` is `{folder}`, the folder of a run, whose card would show results of another model. Judge "
            f"that run with `--unlearned_model_name_or_path {folder}`, or give another `--output_dir`."
        )
    return folder


def content_digest(row_sets: Mapping[str, Iterable[Mapping[str, Any]]], *names: str | None) -> str:
    """16 hexadecimal digits of what the names do not identify: the rows, and the files of local folders."""
    folders = [Path(name) for name in names if name is not None]
    files = sorted(
        path for folder in folders if folder.is_dir() for path in folder.iterdir() if path.suffix in _CONTENT
    )
    sets = {name: list(rows) for name, rows in row_sets.items()}
    # By size and time: to hash the weights takes longer than many suites.
    stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(json.dumps([sets, stats], default=str).encode()).hexdigest()[:16]


class _Stages:
    """Finished suites of an evaluation, kept in a folder until all are finished: the same command resumes."""

    def __init__(self, folder: Path, settings: str):
        self.folder, self.settings = folder, settings

    def finished(self, suites: list[str]) -> dict[str, SuiteOutcome]:
        """Suite -> outcome, from an interrupted call with the same settings."""
        outcomes = {}
        for name in suites:
            path = self.folder / f"{name}.json"
            stage = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            if stage.get("settings") == self.settings:
                outcomes[name] = SuiteOutcome.from_dict(stage["outcome"])
        # Every process must skip the same suites: none writes a stage before all have read.
        PartialState().wait_for_everyone()
        return outcomes

    def keep(self, suite: str, outcome: SuiteOutcome) -> SuiteOutcome:
        """Write the outcome of a suite, whole or not at all; returns it."""
        if PartialState().is_main_process:
            stage = {"settings": self.settings, "outcome": outcome.to_dict()}
            # It has values of single rows.
            write_whole(self.folder / f"{suite}.json", json.dumps(stage, indent=2) + "\n", 0o600)
        return outcome

    def clear(self) -> None:
        """Remove the outcomes, and the folder if it holds nothing else."""
        for name in SUITES:
            (self.folder / f"{name}.json").unlink(missing_ok=True)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()


def _split_names(names: list[str] | str) -> list[str]:
    """Names that were separated by commas or spaces; YAML gives a single one as a string."""
    parts = [names] if isinstance(names, str) else names
    return [name for part in parts for name in part.split(",") if name]


@dataclass
class SuiteInputs:
    """Models, rows and judges of the suites."""

    loaders: Mapping[str, Callable[[], PreTrainedModel] | None]
    setting: SuiteSetting
    eval_args: EvaluationArguments
    args: SuiteArguments
    rows: EvaluationRows | None = None
    muse: MuseRows | None = None
    rwku: RwkuRows | None = None
    classifier: FluencyClassifier | None = None
    wmdp: WmdpTasks | None = None
    judge: Judge | None = None

    @property
    def row_sets(self) -> dict[str, Any]:
        """Name -> rows, of all loaded sets."""
        groups = {"rows": self.rows and self.rows.sets(), "muse": self.muse, "rwku": self.rwku}
        groups["wmdp"] = self.wmdp and self.wmdp.questions()
        return {f"{group}/{name}": rows for group, sets in groups.items() for name, rows in (sets or {}).items()}

    def digests(self) -> dict[str, Any]:
        """Digests of the tokens of the rows."""
        tokenizer, names = self.setting.tokenizer, [] if self.rows is None else self.rows.sets()
        return rows_protocol(*(self.rows.encoded(name, tokenizer) for name in names), seed=self.setting.seed)

    def options(self, suite: str) -> dict[str, Any]:
        """Options of a suite."""
        own = {
            "tofu": {"parity": self.eval_args.parity, "fluency_classifier": self.classifier},
            "judge": {"judge": self.judge, "replies_path": self.args.judge_replies},
        }
        quick = QUICK_SUITES[suite] if self.args.quick else {}
        return own.get(suite, {}) | quick


def load_suite_inputs(
    data_args: DataArguments,
    eval_args: EvaluationArguments,
    args: SuiteArguments,
    trained: Any,
    loaders: Mapping[str, Callable[[], PreTrainedModel] | None],
    tokenizer: PreTrainedTokenizerBase,
    config: PretrainedConfig,
) -> SuiteInputs:
    """Load the rows of all suites, made tokens as `trained` says, and check them before any model is loaded."""
    setting = SuiteSetting(tokenizer, eval_args.evaluation_batch_size, trained.seed, trained.forget_subjects)
    inputs, max_rows = SuiteInputs(loaders, setting, eval_args, args), eval_args.max_eval_rows
    if "wmdp" in args.suites:
        inputs.wmdp = load_wmdp_tasks(args.wmdp_tasks, args.wmdp_include_path, args.wmdp_limit)
    if "muse" in args.suites:
        sets = load_muse(args.muse_dataset)
        # Few-shot examples (`_icl`) stay whole: all of them stand in front of every question.
        inputs.muse = {name: one if name.endswith("_icl") else spread(one, max_rows) for name, one in sets.items()}
    if "rwku" in args.suites:
        sets = load_rwku(args.rwku_dataset, args.rwku_subjects)
        inputs.rwku = {name: spread(rows, max_rows) for name, rows in sets.items()}
    muse, rwku = muse_tokens(inputs.muse or {}, tokenizer), rwku_tokens(inputs.rwku or {}, tokenizer)
    for name, tokens in (muse | rwku).items():
        check_tokens(name, tokens, config)
    if any(SUITES[name][1] == "rows" for name in args.suites):
        inputs.rows = load_evaluation_rows(data_args, max_rows, tokenizer, config, trained)
        if args.quick and inputs.rows.retain is not None:
            inputs.rows.retain = spread(inputs.rows.retain, max(1, max_rows // 2))
    for name in ("elicitation", "judge"):
        if name in args.suites:
            inputs.rows.asked(name, tokenizer)
    # Unlearning with control needs no retrained model.
    can_control = loaders.get("unlearned") is not None and inputs.rows is not None and inputs.rows.retain is not None
    if "distribution" in args.suites and loaders["retrained"] is None and not can_control:
        raise ValueError(
            "The suite `distribution` has nothing to compare with. Give `--retrained_model_name_or_path`, or for "
            "unlearning with control an unlearned model and a retain set."
        )
    if "tofu" in args.suites and not args.quick:
        inputs.classifier = load_fluency_classifier(eval_args.fluency_classifier)
    if "judge" in args.suites:
        # It answers after hours of other suites.
        refuse_replies_file(args.judge_replies)
        inputs.judge = load_judge(args.judge_model, args.judge_base_url, batch_size=eval_args.evaluation_batch_size)
    if "privacy" in args.suites or ("robustness" in args.suites and not args.quick):
        names = args.holdout_config, args.holdout_dataset
        inputs.rows.holdout = load_holdout_rows(data_args, max_rows, tokenizer, config, *names, trained)
    if "privacy" in args.suites and inputs.rows.holdout is None:
        raise ValueError(
            "The suite `privacy` has no non-members. Give rows that no model was trained on: `--holdout_config` "
            "with `--dataset_name`, or `--holdout_dataset`."
        )
    return inputs


# Suite -> what measures it, and the field of [`SuiteInputs`] that has its rows; in the order of tables.
SUITES: dict[str, tuple[Callable[..., SuiteOutcome], str]] = {
    "tofu": (evaluate_models, "rows"),
    "privacy": (measure_privacy, "rows"),
    "robustness": (measure_robustness, "rows"),
    "distribution": (measure_distribution, "rows"),
    "depth": (measure_depth, "rows"),
    "elicitation": (measure_elicitation, "rows"),
    "muse": (measure_muse, "muse"),
    "rwku": (measure_rwku, "rwku"),
    "wmdp": (measure_wmdp, "wmdp"),
    "judge": (measure_judge, "rows"),
}


def measure_suite(name: str, inputs: SuiteInputs) -> SuiteOutcome:
    """Run a suite."""
    measure, rows = SUITES[name]
    if inputs.args.quick and name == "robustness":
        measure = measure_few_steps
    return measure(inputs.loaders, getattr(inputs, rows), inputs.setting, **inputs.options(name))

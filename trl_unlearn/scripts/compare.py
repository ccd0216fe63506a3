# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0


"""Compare methods on the same target, with the same number of optimiser steps, over several seeds."""

import dataclasses
import gc
import json
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from accelerate import PartialState

from ..evaluation.callbacks import ForgettingCurveCallback, SqueezingPanelCallback, curve_point
from ..evaluation.plots import attempted, draw, plot_squeezing_comparison
from ..evaluation.series_plots import plot_answers, plot_comparison, plot_curves
from ..evaluation.squeezing import squeezing_index
from ..evaluation.tables import (
    ComparedRun,
    Judged,
    answer_rows,
    by_method,
    comparison_dict,
    comparison_notes,
    comparison_rows,
    goal_of,
    judged,
    markdown_table,
    print_comparison,
    print_ranking,
    ranked,
    reference_name,
)
from ..evaluation.tofu import Suite
from ..evaluation.together import FixedModel
from ..hub.folder import RESULTS_FILE, OwnResults, RunFolder
from ..records import json_text
from ..results import MEASURED_ROLES, EvaluationResult
from ..trainer.bootstrap_unlearn_config import BootstrapUnlearnConfig, option
from ..trainer.checks import check_output_dir
from ..trainer.options import refuse_below
from .arguments import UnlearnModelConfig
from .evaluate import (
    SUITES,
    SuiteArguments,
    SuiteInputs,
    content_digest,
    ending_without_judge,
    load_suite_inputs,
    measure_suite,
    refuse_quantized,
)
from .exits import interruptible, refusing
from .models import check_models, evaluation_loaders, identities
from .results import evaluation_result
from .rows import load_evaluation_rows, load_training_rows, refuse_without_retain
from .series import Job, Series, folder_name, train_and_save
from .unlearn import build_trainer


# Option -> what all methods have the same of.
_SHARED = dict.fromkeys(
    ("num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps"),
    "at the same number of optimiser steps",
) | dict.fromkeys(("model_name_or_path", "model_revision", "adapter_name_or_path"), "on the same target")
_SHARED |= {"chat_template_path": "by the same prompts"}
# Suites that read rows that no model was trained on.
_WITH_HOLDOUT = ("privacy", "robustness")
# Suite -> options that no row shows.
_OPTIONS = {"wmdp": ("wmdp_tasks", "wmdp_include_path", "wmdp_limit"), "judge": ("judge_model", "judge_base_url")}


@dataclass
class CompareArguments:
    """Methods and seeds to compare, and how often they are measured during training."""

    methods: dict[str, Any] | str | None = option(
        None, "Name of a method -> fields in which it differs (a mapping in the YAML file)."
    )
    seeds: list[int] = option([42], "Seeds of each method.")
    curve_steps: int | None = option(
        None, "Optimiser steps between measurements during training. Once an epoch if not set."
    )
    panel_prompts: int = option(16, "Forget prompts of the squeezing panel.")

    def __post_init__(self):
        # JSON on the command line, a mapping in a YAML file.
        if isinstance(self.methods, str):
            self.methods = json.loads(self.methods)
        if self.panel_prompts < 1:
            raise ValueError(
                f"`panel_prompts` must be at least 1, got {self.panel_prompts}: the squeezing index of every method "
                "comes from the panel."
            )
        refuse_below(1, self, "curve_steps")
        if not self.methods or not isinstance(self.methods, dict):
            raise ValueError(
                f"`methods` is {self.methods!r}, expected at least one: name -> fields in which it differs."
            )
        if not isinstance(self.seeds, list) or not self.seeds:
            raise ValueError(f"`seeds` is {self.seeds!r}, expected at least one seed, in a list: [42].")
        # Not the options of data and evaluation: all methods forget the same rows.
        known = {f.name for cls in (BootstrapUnlearnConfig, UnlearnModelConfig) for f in dataclasses.fields(cls)}
        for name, fields in self.methods.items():
            for key in fields or {}:
                if key in _SHARED:
                    raise ValueError(
                        f"Method `{name}` sets `{key}`, but methods are compared {_SHARED[key]}. Set it for all, "
                        "outside `methods`."
                    )
                if key in ("seed", "output_dir"):
                    raise ValueError(f"Method `{name}` sets `{key}`, but each seed of it has its own. Give `seeds`.")
                if key not in known:
                    raise ValueError(f"Method `{name}` sets `{key}`, which is no field of the config. Check its name.")


def main(argv: list[str] | None = None, prog: str = "compare.py") -> None:
    progress = "before all runs were done: what is finished is kept, and the same command resumes."
    with interruptible(prog, progress), ending_without_judge(prog):
        _run(argv, prog)


def _run(argv: list[str] | None, prog: str) -> None:
    with refusing(prog):
        types = (SuiteArguments, CompareArguments)
        series = Series(types, prog, __doc__, argv, "archive/compare.yaml", finished="compared.json")
        suite_args, args = series.own_args
        if suite_args.quick:
            raise ValueError("`quick` is an option of `trl-unlearn evaluate`. A comparison takes `--max_eval_rows`.")
        # Seed by seed: an interrupted comparison has every method with the first seeds.
        for seed in args.seeds:
            for method, fields in args.methods.items():
                label, folder = f"method `{method}`, seed {seed}", f"{folder_name(method)}/seed-{seed}"
                series.add(method, label, folder, {**(fields or {}), "seed": seed})
        tokenizer, config = series.prepare()
        eval_args, training_args = series.eval_args, series.training_args
        for one in (series, *series.jobs):
            refuse_quantized(suite_args.suites, one.model_args, eval_args.retrained_model_name_or_path)
        loaders = evaluation_loaders(eval_args, series.model_args, None, training_args.trust_remote_code)
        inputs = load_suite_inputs(series.data_args, eval_args, suite_args, training_args, loaders, tokenizer, config)
        if inputs.rows is None:
            # The curves have rows, whatever the suites have.
            max_rows = eval_args.max_eval_rows
            inputs.rows = load_evaluation_rows(series.data_args, max_rows, tokenizer, config, training_args)
        refuse_without_retain(inputs.rows.retain)
        forget, retain = load_training_rows(series.data_args, tokenizer)
        rows = {
            "training rows": content_digest({"forget": forget, "retain": retain or []}),
            "measured rows": content_digest({"forget": inputs.rows.forget, "retain": inputs.rows.retain}),
        }
        series.identify([rows] * len(series.jobs))
        conditions = _conditions(series, inputs)
        for job in series.jobs:
            _refuse_other_conditions(job, conditions)
            if job.finished.is_file() and _lacking(job, _own_results(job).result, suite_args.suites):
                # It is measured without training, if its weights are still there.
                check_models(job.model_args, eval_args, training_args.trust_remote_code, str(job.folder))
        check_output_dir(series.folder)

    comparison = _Comparison(series, args, inputs, conditions)
    records = series.run(comparison.train, "Runs")
    results, runs = [], []
    for job, record in zip(series.jobs, records, strict=True):
        results.append(comparison.evaluate(job))
        runs.append(ComparedRun(**{**record, **vars(judged(results[-1], "unlearned"))}))
    if PartialState().is_main_process:
        # They are the same in all results; the last may have been written by a newer version.
        roles = [role for role in MEASURED_ROLES if role != "unlearned" and results[-1].models.get(role) is not None]
        references = {role: judged(results[-1], role) for role in roles}
        brief = not training_args.verbose
        write_comparison(series.folder, runs, references, comparison.baselines, is_brief=brief)


def _conditions(series: Series, inputs: SuiteInputs) -> dict[str | None, dict[str, Any]]:
    """Suite -> the options, rows and models behind its numbers, beside those of the run; None -> those of all."""
    args, eval_args = inputs.args, series.eval_args
    models = {f"{reference_name(role)} model": name for role, name in eval_args.references.items()}
    shared = {"`parity`": eval_args.parity, "`seed`": inputs.setting.seed} | identities(models)
    conditions = {None: shared}
    for suite in args.suites:
        kind, left_out = SUITES[suite][1], () if suite in _WITH_HOLDOUT else ("rows/holdout",)
        sets = {name: rows for name, rows in inputs.row_sets.items() if name.startswith(f"{kind}/")}
        digest = content_digest({name: rows for name, rows in sets.items() if name not in left_out})
        options = {f"`{name}`": getattr(args, name) for name in _OPTIONS.get(suite, ())}
        conditions[suite] = shared | options | {"measured rows": digest}
    if "tofu" in conditions:
        conditions["tofu"]["`fluency_classifier`"] = inputs.classifier and inputs.classifier.name
    return conditions


def _own_results(job: Job) -> OwnResults:
    """The results of the weights of a run; none before it is trained."""
    folder = RunFolder(job.folder)
    return folder.own_results(folder.run()) if folder.is_run else OwnResults(None)


def _measured(job: Job, result: EvaluationResult | None) -> dict[str, dict[str, Any]]:
    """Suite of the results of a run -> its conditions."""
    kept = job.kept().get("suites", {})
    return {} if result is None else {name: kept[name] for name in result.suites if name in kept}


def _lacking(job: Job, result: EvaluationResult | None, suites: list[str]) -> list[str]:
    """Suites that the results of a run do not have, or have from another command."""
    measured = _measured(job, result)
    return [name for name in suites if name not in measured]


def _refuse_other_conditions(job: Job, conditions: dict[str | None, dict[str, Any]]) -> None:
    """Refuse results of a finished run that stood beside others with other options, rows or models."""
    for suite, earlier in _measured(job, _own_results(job).result).items():
        now, shared = conditions.get(suite, conditions[None]), conditions[None]
        if changed := [name for name, one in now.items() if earlier.get(name) != one]:
            kept = "" if set(changed) & set(shared) else f" Or leave `{suite}` out of `--suites`: its numbers stay."
            raise ValueError(
                f"`{job.folder}` has results of the suite `{suite}`, and since then its {' and '.join(changed)} "
                f"changed. Put back what was there, or delete `{RESULTS_FILE}` in the folders of all runs: the same "
                f"command measures them again, and trains nothing.{kept}"
            )


class _Comparison:
    """Shared by all runs: rows, and the target and the retrained model on them."""

    def __init__(self, series: Series, args: CompareArguments, inputs: SuiteInputs, conditions: dict[str | None, Any]):
        self.series, self.args, self.inputs, self.conditions = series, args, inputs, conditions
        tokenizer = inputs.setting.tokenizer
        self.forget, self.retain = (inputs.rows.encoded(name, tokenizer) for name in ("forget", "retain"))
        self.pad_token_id = tokenizer.pad_token_id
        self._fixed = {role: load and FixedModel(load) for role, load in inputs.loaders.items()}
        # Measured as the points of the curves are: they become lines in the same figure.
        self.baselines = {
            role: curve_point(load(), self.forget, self.retain, pad_token_id=self.pad_token_id)
            for role, load in self._fixed.items()
            if load is not None
        }

    def train(self, job: Job) -> None:
        """Train one run, with what is measured during training."""
        trainer = build_trainer(self.series.data_args, job.training_args, job.model_args)
        every_steps = self.args.curve_steps
        curve = ForgettingCurveCallback(
            trainer, self.forget, self.retain, pad_token_id=self.pad_token_id, every_steps=every_steps
        )
        # Without `seed`: the panel shows the same prompts for every seed of a method.
        panel = SqueezingPanelCallback(
            trainer,
            list(self.inputs.rows.forget),
            max_new_tokens=job.training_args.max_completion_length,
            num_prompts=self.args.panel_prompts,
            every_steps=every_steps,
            path=job.folder,
        )
        trainer.add_callback(curve)
        trainer.add_callback(panel)
        steps, seconds = train_and_save(trainer, job)
        if PartialState().is_main_process:
            record = {"method": job.name, "seed": job.training_args.seed, "settings": job.settings}
            record |= {"steps": steps, "seconds": seconds, "curve": curve.history, "squeezing": panel.history}
            job.keep(run=record | {"squeezing_index": squeezing_index(panel.history)})
        # Free the model and its optimizer before the evaluation loads the saved one; the callbacks refer to them.
        curve.trainer = panel.trainer = None
        del trainer
        gc.collect()

    def evaluate(self, job: Job) -> EvaluationResult:
        """Measure a trained run with the suites that its results lack; returns all of its results."""
        folder, eval_args = RunFolder(job.folder), self.series.eval_args
        result, missing = _own_results(job)
        lacking = _lacking(job, result, self.inputs.args.suites)
        if result is None and folder.results() is not None:
            PartialState().print(f"`{job.folder}` is measured again: {missing}")
        # Every process must measure the same suites: none writes a result before all have read.
        PartialState().wait_for_everyone()
        for name in lacking:
            loaders = self._loaders(job)
            if name == "tofu":
                outcome = self._tofu.evaluate(loaders["unlearned"])
            else:
                outcome = measure_suite(name, dataclasses.replace(self.inputs, loaders=loaders))
            protocol = self.inputs.args.holdout()
            measured = evaluation_result({name: outcome}, eval_args, job.model_args, str(job.folder), protocol)
            # Of the same run under the same conditions, or the folder would have been refused.
            others = [] if result is None else [one for one in result.suites if one != name]
            result = measured.with_suites_of(result, others, list(SUITES)) if others else measured
            if PartialState().is_main_process:
                job.keep(suites=job.kept().get("suites", {}) | {name: self.conditions[name]})
                folder.save_results(result)
        return result

    def _loaders(self, job: Job) -> dict[str, Any]:
        """The unlearned model of a run, beside what all runs are compared with."""
        trust_remote_code = self.series.training_args.trust_remote_code
        own = evaluation_loaders(self.series.eval_args, job.model_args, str(job.folder), trust_remote_code)
        return self._fixed | {"unlearned": own["unlearned"]}

    @cached_property
    def _tofu(self) -> Suite:
        """The suite `tofu`, which measures the models that all runs share only once."""
        inputs = self.inputs
        return Suite(self._loaders(self.series.jobs[0]), inputs.rows, inputs.setting, **inputs.options("tofu"))


def write_comparison(
    folder: Path,
    runs: list[ComparedRun],
    references: dict[str, Judged],
    baselines: dict[str, dict[str, float]],
    *,
    is_brief: bool = False,
) -> None:
    """Write `comparison.json`, `comparison.md` and the figures; print the tables, or the columns that decide."""
    goal, notes = goal_of(baselines), comparison_notes(runs, references)
    tables = [comparison_rows(runs, references, goal), answer_rows(runs, references)]
    text = json_text(comparison_dict(runs, references, baselines), "comparison.json")
    (folder / "comparison.json").write_text(text, encoding="utf-8")
    parts = [*(markdown_table(*table) for table in tables), *(f"- {note}\n" for note in notes)]
    (folder / "comparison.md").write_text("\n".join(parts[:2]) + "\n" + "".join(parts[2:]), encoding="utf-8")
    if is_brief:
        attempted("The table", lambda: print_ranking(tables[0], str(folder / "comparison.md")))
    else:
        attempted("The table", lambda: print_comparison(tables, notes))
    methods = by_method(runs)
    draw(folder / "figures/comparison.png", partial(plot_comparison, methods, references))
    draw(folder / "figures/answers.png", partial(plot_answers, dict(ranked(runs)), references))
    curves = {name: [run.curve for run in seeds] for name, seeds in methods.items()}
    draw(folder / "figures/curves.png", partial(plot_curves, curves, baselines=baselines, goal=goal))
    # One seed a method: lines of several would hide one another.
    histories = {name: seeds[0].squeezing for name, seeds in methods.items()}
    draw(folder / "figures/squeezing.png", partial(plot_squeezing_comparison, histories))
    print(f"Tables, numbers and figures: {folder}")

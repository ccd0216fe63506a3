# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0


"""
Compare methods on the same target, with the same number of optimiser steps, over several seeds.

```bash
# The embedded lab: eleven methods, three seeds
accelerate launch recipes/compare.py

# Methods and seeds of your own; the same command resumes an interrupted comparison with its unfinished runs
accelerate launch recipes/compare.py --config my_comparison.yaml --output_dir out/mine
```

The YAML file is that of a single run, with `methods` (name -> fields that differ) and `seeds`.
"""

import dataclasses
import gc
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import PartialState

from ..evaluation.callbacks import ForgettingCurveCallback, SqueezingPanelCallback, curve_point
from ..evaluation.judge_models import load_fluency_classifier
from ..evaluation.plots import attempted, draw, plot_curves, plot_squeezing_comparison
from ..evaluation.squeezing import squeezing_index
from ..evaluation.tables import (
    ComparedRun,
    comparison_dict,
    comparison_rows,
    goal_of,
    markdown_table,
    print_comparison,
)
from ..evaluation.tofu import Suite
from ..hub.folder import RunFolder
from ..records import json_text
from ..trainer.bootstrap_unlearn_config import BootstrapUnlearnConfig
from ..trainer.checks import check_output_dir
from .arguments import UnlearnModelConfig, option
from .exits import interruptible, refusing
from .models import evaluation_loaders
from .rows import load_evaluation_rows
from .series import Job, Series, folder_name, train_and_save
from .unlearn import build_trainer, evaluation_result


# Options that decide the number of optimiser steps: a method that had more of them would not be comparable.
_BUDGET = ("num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps")


@dataclass
class CompareArguments:
    """What is compared: methods, seeds, and how often it is measured during training."""

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
        if not self.methods:
            raise ValueError("`methods` is missing. Give at least one: name -> fields in which it differs.")
        # Not the options of data and evaluation: all methods forget the same rows.
        known = {f.name for cls in (BootstrapUnlearnConfig, UnlearnModelConfig) for f in dataclasses.fields(cls)}
        for name, fields in self.methods.items():
            for key in fields or {}:
                if key in _BUDGET:
                    raise ValueError(
                        f"Method `{name}` sets `{key}`, but methods are compared at the same number of optimiser "
                        "steps. Set it for all, outside `methods`."
                    )
                if key not in known:
                    raise ValueError(f"Method `{name}` sets `{key}`, which is no field of the config. Check its name.")


def main(argv: list[str] | None = None, prog: str = "compare.py") -> None:
    with interruptible(prog, "before all runs were done: what is finished is kept, and the same command resumes."):
        _run(argv, prog)


def _run(argv: list[str] | None, prog: str) -> None:
    with refusing(prog):
        series = Series((CompareArguments,), prog, __doc__, argv, "archive/compare.yaml", finished="compared.json")
        (args,) = series.own_args
        # Seed by seed: an interrupted comparison has every method with the first seeds.
        for seed in args.seeds:
            for method, fields in args.methods.items():
                label, folder = f"method `{method}`, seed {seed}", f"{folder_name(method)}/seed-{seed}"
                series.add(method, label, folder, {**(fields or {}), "seed": seed})
        tokenizer, config = series.prepare()
        eval_args = series.eval_args
        rows = load_evaluation_rows(series.data_args, eval_args.max_eval_rows, tokenizer, config, series.training_args)
        classifier = load_fluency_classifier(eval_args.fluency_classifier)
        check_output_dir(series.folder)

    comparison = _Comparison(series, args, tokenizer, rows, classifier)
    runs = [ComparedRun(**record) for record in series.run(comparison.run, "Runs")]
    if PartialState().is_main_process:
        write_comparison(series.folder, runs, comparison.baselines)


class _Comparison:
    """What all runs share: the suite, which measures target and retrained model once, and their baselines."""

    def __init__(self, series: Series, args: CompareArguments, tokenizer, rows, classifier):
        self.args, self.rows = args, rows
        self.data_args, self.eval_args = series.data_args, series.eval_args
        self.trust_remote_code = series.training_args.trust_remote_code
        loaders = evaluation_loaders(self.eval_args, series.model_args, None, self.trust_remote_code)
        loaders = {role: load for role, load in loaders.items() if load is not None}
        self.suite = Suite(
            loaders,
            rows,
            tokenizer,
            parity=self.eval_args.parity,
            batch_size=self.eval_args.evaluation_batch_size,
            fluency_classifier=classifier,
            seed=series.training_args.seed,
        )
        # Measured as the points of the curves are: they become lines in the same figure.
        self.baselines = {role: self._point(load()) for role, load in loaders.items()}

    def _point(self, model) -> dict[str, float]:
        sets = self.suite.setting.sets
        return curve_point(model, sets["forget"], sets["retain"], pad_token_id=self.suite.setting.pad_token_id)

    def run(self, job: Job) -> None:
        """Train and evaluate one run."""
        setting = self.suite.setting
        trainer = build_trainer(self.data_args, job.training_args, job.model_args)
        curve = ForgettingCurveCallback(
            trainer,
            setting.sets["forget"],
            setting.sets["retain"],
            pad_token_id=setting.pad_token_id,
            every_steps=self.args.curve_steps,
        )
        # Without `seed`: the panel shows the same prompts for every seed of a method.
        panel = SqueezingPanelCallback(
            trainer,
            list(self.rows.forget),
            max_new_tokens=job.training_args.max_completion_length,
            num_prompts=self.args.panel_prompts,
            every_steps=self.args.curve_steps,
            path=job.folder,
        )
        trainer.add_callback(curve)
        trainer.add_callback(panel)
        steps, seconds = train_and_save(trainer)
        # Free the model and its optimizer before the evaluation loads the saved one; the callbacks refer to them.
        curve.trainer = panel.trainer = None
        del trainer
        gc.collect()
        load = evaluation_loaders(self.eval_args, job.model_args, str(job.folder), self.trust_remote_code)["unlearned"]
        outcome = self.suite.evaluate(load)
        run = ComparedRun(
            method=job.name,
            seed=job.training_args.seed,
            settings=job.settings,
            steps=steps,
            seconds=seconds,
            curve=curve.history,
            squeezing=panel.history,
            squeezing_index=squeezing_index(panel.history),
            metrics={name: measured.value for name, measured in outcome.models["unlearned"].items()},
        )
        if PartialState().is_main_process:
            result = evaluation_result({"tofu": outcome}, self.eval_args, job.model_args, str(job.folder))
            RunFolder(job.folder).save_results(result)
            job.finish(dataclasses.asdict(run))


def write_comparison(folder: Path, runs: list[ComparedRun], baselines: dict[str, dict[str, float]]) -> None:
    """Write `comparison.json`, `comparison.md` and the figures, and print the table."""
    goal = goal_of(baselines)
    header, rows = comparison_rows(runs, goal)
    text = json_text(comparison_dict(runs, baselines), "comparison.json")
    (folder / "comparison.json").write_text(text, encoding="utf-8")
    (folder / "comparison.md").write_text(markdown_table(header, rows), encoding="utf-8")
    attempted("The table", lambda: print_comparison(header, rows))
    curves: dict[str, list[list[dict[str, float]]]] = {}
    for run in runs:
        curves.setdefault(run.method, []).append(run.curve)
    draw(folder / "figures/curves.png", partial(plot_curves, curves, baselines=baselines, goal=goal))
    # One seed a method: lines of several would hide one another.
    first = {run.method: run.squeezing for run in reversed(runs)}
    histories = {name: first[name] for name in curves}
    draw(folder / "figures/squeezing.png", partial(plot_squeezing_comparison, histories))
    print(f"Table, numbers and figures: {folder}")

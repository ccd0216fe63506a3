# Copyright 2026 The trl-unlearn authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.


"""
Compare methods on the same target, with the same number of optimiser steps, over several seeds.

```bash
# The embedded lab: eleven methods, three seeds
accelerate launch recipes/compare.py

# Methods and seeds of your own; a run that was cut off goes on where it stopped
accelerate launch recipes/compare.py --config my_comparison.yaml --output_dir out/mine
```

The YAML file is that of a single run, with `methods` (name -> fields that differ) and `seeds`.
"""

import dataclasses
import gc
import json
import re
import shutil
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import PartialState
from tqdm.auto import tqdm

from .._json_record import json_text
from ..evaluation.callbacks import CannotBeginError, ForgettingCurveCallback, SqueezingPanelCallback, curve_point
from ..evaluation.judge_models import load_fluency_classifier
from ..evaluation.plots import attempted, draw, plot_curves, plot_squeezing_comparison
from ..evaluation.squeezing import squeezing_index
from ..evaluation.tables import (
    ComparedRun,
    comparison_dict,
    comparison_markdown,
    comparison_rows,
    goal_of,
    print_comparison,
)
from ..evaluation.tofu import Suite
from ..hub.folder import RunFolder
from ..records import settings_digest
from ..trainer.bootstrap_unlearn_config import BootstrapUnlearnConfig
from ..trainer.checks import check_output_dir
from ..trainer.guard import DivergenceError
from .arguments import DataArguments, UnlearnModelConfig, script_parser
from .exits import interruptible, refusing
from .models import (
    check_model_names,
    default_config,
    evaluation_loaders,
    load_config,
    load_tokenizer,
    models_protocol,
    use_archive,
)
from .rows import load_evaluation_rows
from .series import end_series, refuse_for_several, refuse_other_settings
from .unlearn import build_trainer


# What decides the number of optimiser steps, and so is the same for every method.
_BUDGET = ("num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps")
_FINISHED = "compared.json"


@dataclass
class CompareArguments(DataArguments):
    """
    What is compared.

    Args:
        methods (`dict[str, dict[str, Any]]`):
            Name of a method -> fields of the config and of the model arguments in which it differs.
        seeds (`list[int]`, *optional*, defaults to `[42]`):
            Seeds of each method.
        curve_steps (`int`, *optional*):
            Optimiser steps between measurements during training. Once an epoch if not set.
        panel_prompts (`int`, *optional*, defaults to `16`):
            Forget prompts of the squeezing panel.
    """

    methods: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Name of a method -> fields in which it differs (a mapping in the YAML file)."}
    )
    seeds: list[int] = field(default_factory=lambda: [42], metadata={"help": "Seeds of each method."})
    curve_steps: int | None = field(
        default=None,
        metadata={"help": "Optimiser steps between measurements during training. Once an epoch if not set."},
    )
    panel_prompts: int = field(default=16, metadata={"help": "Forget prompts of the squeezing panel."})

    def __post_init__(self):
        super().__post_init__()
        if isinstance(self.methods, str):
            self.methods = json.loads(self.methods)
        if not self.methods:
            raise ValueError("`methods` is missing. Give at least one: name -> fields in which it differs.")
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


@dataclass
class _Job:
    """One method with one seed, parsed."""

    method: str
    seed: int
    folder: Path
    training_args: BootstrapUnlearnConfig
    model_args: UnlearnModelConfig
    settings: str


def _parse(argv: list[str], prog: str) -> tuple[CompareArguments, BootstrapUnlearnConfig, UnlearnModelConfig]:
    parser = script_parser((CompareArguments, BootstrapUnlearnConfig, UnlearnModelConfig), prog, __doc__)
    return parser.parse_args_and_config(args=list(argv))


def _jobs(argv: list[str], prog: str, data_args: CompareArguments, folder: Path) -> list[_Job]:
    """Every run, parsed before the first one starts, so that a mistake in the last is found now."""
    jobs = []
    for seed in data_args.seeds:
        for method, fields in data_args.methods.items():
            own = folder / re.sub(r"[^\w.-]+", "-", method) / f"seed-{seed}"
            flags = [part for key, value in (fields or {}).items() for part in (f"--{key}", str(value))]
            own_argv = [*argv, *flags, "--seed", str(seed), "--output_dir", str(own)]
            _, training_args, model_args = _parse(own_argv, prog)
            settings = settings_digest(data_args, training_args, model_args)
            jobs.append(_Job(method, seed, own, training_args, model_args, settings))
    return jobs


def main(argv: list[str] | None = None, prog: str = "compare.py") -> None:
    """
    Run the script.

    Args:
        argv (`list[str]`, *optional*):
            Command line; that of the process if not given.
        prog (`str`, *optional*, defaults to `"compare.py"`):
            Name of the program in its help and its messages.
    """
    with interruptible(prog, "before all runs were done: what is finished is kept, and the same command goes on."):
        _run(argv, prog)


def _run(argv: list[str] | None, prog: str) -> None:
    with refusing(prog):
        argv = default_config(sys.argv[1:] if argv is None else argv, "archive/compare.yaml")
        data_args, training_args, model_args = _parse(argv, prog)
        refuse_for_several(training_args)
        folder = Path(training_args.output_dir)
        jobs = _jobs(argv, prog, data_args, folder)
        with training_args.main_process_first(desc="the embedded lab"):
            use_archive(data_args, model_args)
        for job in jobs:
            job.model_args.model_name_or_path = model_args.model_name_or_path
            refuse_other_settings(job.folder / _FINISHED, job.settings)
        check_model_names(
            revision=model_args.model_revision,
            trust_remote_code=training_args.trust_remote_code,
            model_name_or_path=model_args.model_name_or_path,
            adapter_name_or_path=model_args.adapter_name_or_path,
            retrained_model_name_or_path=data_args.retrained_model_name_or_path,
        )
        tokenizer = load_tokenizer(model_args, training_args.trust_remote_code)
        config = load_config(model_args, training_args.trust_remote_code)
        rows = load_evaluation_rows(data_args, tokenizer, config, training_args)
        classifier = load_fluency_classifier(data_args.fluency_classifier)
        check_output_dir(folder)

    comparison = _Comparison(data_args, model_args, training_args, tokenizer, rows, classifier)
    runs = []
    for job in tqdm(jobs, desc="Runs", disable=not PartialState().is_main_process):
        finished = job.folder / _FINISHED
        if not finished.is_file():
            try:
                comparison.run(job)
            except (CannotBeginError, DivergenceError) as error:
                end_series(prog, error, f"method `{job.method}`, seed {job.seed}")
            PartialState().wait_for_everyone()
        runs.append(ComparedRun(**json.loads(finished.read_text(encoding="utf-8"))))
    if PartialState().is_main_process:
        write_comparison(folder, runs, comparison.baselines)


class _Comparison:
    """What all runs share: the suite with target and retrained model measured once, and their baselines."""

    def __init__(self, data_args, model_args, training_args, tokenizer, rows, classifier):
        self.data_args, self.tokenizer, self.rows = data_args, tokenizer, rows
        self.trust_remote_code = training_args.trust_remote_code
        loaders = evaluation_loaders(data_args, model_args, None, self.trust_remote_code)
        self.loaders = {role: load for role, load in loaders.items() if load is not None}
        self.suite = Suite(
            self.loaders,
            rows,
            tokenizer,
            parity=data_args.parity,
            batch_size=data_args.evaluation_batch_size,
            fluency_classifier=classifier,
            seed=training_args.seed,
        )
        self.baselines = {role: self._point(load()) for role, load in self.loaders.items()}

    def _point(self, model) -> dict[str, float]:
        sets = self.suite.setting.sets
        return curve_point(model, sets["forget"], sets["retain"], pad_token_id=self.suite.setting.pad_token_id)

    def run(self, job: _Job) -> None:
        """Train and judge one run; its last file says that it is complete."""
        if PartialState().is_main_process and job.folder.exists():
            # What a run left that was cut off.
            shutil.rmtree(job.folder)
        PartialState().wait_for_everyone()
        data_args, setting = self.data_args, self.suite.setting
        trainer = build_trainer(data_args, job.training_args, job.model_args)
        curve = ForgettingCurveCallback(
            trainer,
            setting.sets["forget"],
            setting.sets["retain"],
            pad_token_id=setting.pad_token_id,
            every_steps=data_args.curve_steps,
        )
        panel = SqueezingPanelCallback(
            trainer,
            list(self.rows.forget),
            max_new_tokens=job.training_args.max_completion_length,
            num_prompts=data_args.panel_prompts,
            every_steps=data_args.curve_steps,
            path=job.folder,
        )
        trainer.add_callback(curve)
        trainer.add_callback(panel)
        started = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - started
        trainer.save_model()
        steps = trainer.state.global_step
        trainer.accelerator.wait_for_everyone()
        # The model and its optimizer, before the next one is loaded.
        curve.trainer = panel.trainer = None
        del trainer
        gc.collect()
        load = evaluation_loaders(data_args, job.model_args, str(job.folder), self.trust_remote_code)["unlearned"]
        result = self.suite.evaluate(load).result
        run = ComparedRun(
            method=job.method,
            seed=job.seed,
            settings=job.settings,
            steps=steps,
            seconds=seconds,
            curve=curve.history,
            squeezing=panel.history,
            squeezing_index=squeezing_index(panel.history),
            metrics={name: found.value for name, found in result.models["unlearned"].items()},
        )
        if PartialState().is_main_process:
            result.protocol |= models_protocol(data_args, job.model_args, str(job.folder))
            RunFolder(job.folder).save_results(result)
            text = json.dumps(run.to_dict(), indent=2) + "\n"
            (job.folder / _FINISHED).write_text(text, encoding="utf-8")


def write_comparison(folder: Path, runs: list[ComparedRun], baselines: dict[str, dict[str, float]]) -> None:
    """
    Write `comparison.json`, `comparison.md` and the figures, and print the table.

    Args:
        folder (`Path`):
            Output folder.
        runs (`list[ComparedRun]`):
            Finished runs.
        baselines (`dict[str, dict[str, float]]`):
            Points of the target and of the retrained model.
    """
    goal = goal_of(baselines)
    header, rows = comparison_rows(runs, goal)
    text = json_text(comparison_dict(runs, baselines), "comparison.json")
    (folder / "comparison.json").write_text(text, encoding="utf-8")
    (folder / "comparison.md").write_text(comparison_markdown(header, rows), encoding="utf-8")
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


if __name__ == "__main__":
    main()

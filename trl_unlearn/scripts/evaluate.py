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
Judge an unlearned model beside the target and a retrained reference.

```bash
# The embedded lab: target and retrained model
accelerate launch recipes/evaluate.py

# An adapter or a model that was unlearned from a target
accelerate launch recipes/evaluate.py \
    --model_name_or_path org/target --unlearned_model_name_or_path unlearned \
    --retrained_model_name_or_path org/retrained \
    --dataset_name locuslab/TOFU --forget_config forget10 --retain_config retain90

# With membership attacks, and attacks that bring knowledge back; an evaluation that was cut off goes on with the suite
# where it stopped
accelerate launch recipes/evaluate.py --suites tofu privacy robustness
```
"""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from accelerate import PartialState
from trl import TrlParser

from ..evaluation.privacy import measure_privacy
from ..evaluation.robustness import measure_robustness
from ..evaluation.suite import evaluate_models
from ..evaluation.tofu import EvaluationRows
from ..records import EvaluationResult
from ..trainer.checks import check_output_dir
from .arguments import DataArguments, UnlearnModelConfig
from .loading import (
    check_model_names,
    content_digest,
    default_config,
    evaluation_loaders,
    load_evaluation_rows,
    load_holdout_rows,
    load_tokenizer,
    refusing,
    settings_digest,
    use_archive,
)
from .unlearn import write_results


# What can be measured beside TOFU's metrics: name -> function of models, rows and tokenizer, with `batch_size` and
# `seed`, that returns role -> metric name -> measurement. `METRICS` groups a suite's metrics under its name.
SUITES: dict[str, Callable[..., dict[str, dict[str, Any]]]] = {
    "privacy": measure_privacy,
    "robustness": measure_robustness,
}


@dataclass
class EvaluateArguments:
    """
    What is evaluated and where the results go.

    Args:
        unlearned_model_name_or_path (`str`, *optional*):
            Unlearned model, or its adapter on the target's base.
        output_dir (`str`, *optional*):
            Folder of `eval_results.json` and the figures. Default: that of the unlearned model, whose card is written
            anew, or `evaluation`.
        suites (`list[str]`, *optional*, defaults to `["tofu"]`):
            What is measured: `tofu`, which always is, and any of [`SUITES`].
        holdout_config (`str`, *optional*):
            Config of `dataset_name` with rows that no model was trained on, for the suite `privacy`. Default:
            `holdout10` for `forget10`, or `holdout_perturbed`, if there is one.
        holdout_dataset (`str`, *optional*):
            File, folder or id of such rows of your own.
        seed (`int`, *optional*, defaults to `42`):
            Seed of the frozen beliefs and of what other suites draw.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Whether code from the Hub may run.
    """

    unlearned_model_name_or_path: str | None = field(
        default=None, metadata={"help": "Unlearned model, or its adapter on the target's base."}
    )
    output_dir: str | None = field(
        default=None,
        metadata={
            "help": "Folder of eval_results.json and the figures. Default: that of the unlearned model, whose card is "
            "written anew, or 'evaluation'."
        },
    )
    suites: list[str] = field(
        default_factory=lambda: ["tofu"],
        metadata={"help": f"What is measured: tofu, which always is, and any of: {', '.join(SUITES)}."},
    )
    holdout_config: str | None = field(
        default=None,
        metadata={
            "help": "Config of `dataset_name` with rows that no model was trained on, for the suite privacy. Default: "
            "'holdout10' for 'forget10', or 'holdout_perturbed', if there is one."
        },
    )
    holdout_dataset: str | None = field(
        default=None, metadata={"help": "Such rows of your own: a file, a folder or an id on the Hub."}
    )
    seed: int = field(
        default=42, metadata={"help": "Seed of the frozen beliefs of squeezing, and of what other suites draw."}
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Whether code from the Hub may run."})

    def __post_init__(self):
        # A single name in a YAML file is no list.
        self.suites = [self.suites] if isinstance(self.suites, str) else self.suites
        known = ["tofu", *SUITES]
        unknown = [name for name in self.suites if name not in known]
        if unknown:
            raise ValueError(f"Unknown `suites`: {unknown}. Give some of {', '.join(known)}, separated by spaces.")
        self.suites = [name for name in known if name in ("tofu", *self.suites)]
        given = [name for name in ("holdout_config", "holdout_dataset") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError("Both `holdout_config` and `holdout_dataset` are given. Keep one.")
        if given and "privacy" not in self.suites:
            raise ValueError(f"`{given[0]}` is given without the suite that needs it. Add `privacy` to `suites`.")


def main(argv: list[str] | None = None) -> None:
    """
    Run the script.

    Args:
        argv (`list[str]`, *optional*):
            Command line; that of the process if not given.
    """
    parser = TrlParser((DataArguments, EvaluateArguments, UnlearnModelConfig), prog="evaluate.py")
    with refusing("evaluate.py"):
        data_args, args, model_args = parser.parse_args_and_config(
            args=default_config(sys.argv[1:] if argv is None else argv, "archive/evaluate.yaml")
        )
        with PartialState().main_process_first():
            use_archive(data_args, model_args)
        unlearned = args.unlearned_model_name_or_path
        check_model_names(
            model_name_or_path=model_args.model_name_or_path,
            adapter_name_or_path=model_args.adapter_name_or_path,
            unlearned_model_name_or_path=unlearned,
            retrained_model_name_or_path=data_args.retrained_model_name_or_path,
        )
        local = unlearned if unlearned is not None and Path(unlearned).is_dir() else None
        folder = Path(args.output_dir or local or "evaluation")
        check_output_dir(folder)
        tokenizer = load_tokenizer(model_args, args.trust_remote_code)
        rows = load_evaluation_rows(data_args, tokenizer)
        if "privacy" in args.suites:
            rows.holdout = load_holdout_rows(data_args, tokenizer, args.holdout_config, args.holdout_dataset)
        loaders = evaluation_loaders(data_args, model_args, unlearned, args.trust_remote_code)
    models = [model_args.model_name_or_path, model_args.adapter_name_or_path, unlearned]
    models.append(data_args.retrained_model_name_or_path)
    stages = _Stages(folder / "stages", settings_digest(data_args, args, model_args) + content_digest(rows, *models))
    found = stages.finished(args.suites)
    given = {"batch_size": data_args.evaluation_batch_size, "seed": args.seed}
    if "tofu" not in found:
        outcome = evaluate_models(loaders, rows, tokenizer, parity=data_args.parity, **given)
        found["tofu"] = stages.keep("tofu", outcome.result)
    for name in args.suites[1:]:
        if name not in found:
            measured = SUITES[name](loaders, rows, tokenizer, **given)
            found[name] = stages.keep(name, replace(found["tofu"], suites=[name], models=measured))
    if PartialState().is_main_process:
        write_results(folder, _merged([found[name] for name in args.suites], rows))
        # Of no use any more: a later call measures anew what may have been changed since.
        shutil.rmtree(stages.folder)


class _Stages:
    """The suites of an evaluation that are done, in a folder, until all are."""

    def __init__(self, folder: Path, settings: str):
        self.folder, self.settings = folder, settings

    def finished(self, suites: list[str]) -> dict[str, EvaluationResult]:
        """What a call with the same settings left that was cut off, by suite."""
        found = {}
        for name in suites:
            path = self.folder / f"{name}.json"
            stage = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            if stage.get("settings") == self.settings:
                found[name] = EvaluationResult.from_dict(stage["result"])
        # No process writes a stage before all have looked.
        PartialState().wait_for_everyone()
        return found

    def keep(self, suite: str, result: EvaluationResult) -> EvaluationResult:
        """Write the result of a suite, whole or not at all."""
        if PartialState().is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / f"{suite}.json"
            unfinished = path.with_suffix(".tmp")
            stage = {"settings": self.settings, "result": result.to_dict()}
            unfinished.write_text(json.dumps(stage, indent=2) + "\n", encoding="utf-8")
            unfinished.replace(path)
        return result


def _merged(results: list[EvaluationResult], rows: EvaluationRows) -> EvaluationResult:
    """The results of several suites as one, in what the first says of the protocol."""
    first = results[0]
    models = {
        role: {name: found for result in results for name, found in (result.models[role] or {}).items()}
        for role, measured in first.models.items()
        if measured is not None
    }
    protocol = dict(first.protocol)
    if rows.holdout is not None:
        protocol["rows"] = {**protocol["rows"], "holdout": len(rows.holdout)}
    return replace(
        first, suites=[name for result in results for name in result.suites], models=models, protocol=protocol
    )


if __name__ == "__main__":
    main()

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
accelerate launch recipes/evaluate.py --suites tofu,privacy,robustness

# Hazardous knowledge, and what is left of the general one
accelerate launch recipes/evaluate.py --suites wmdp \
    --model_name_or_path org/target --unlearned_model_name_or_path unlearned
```
"""

import ast
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import PartialState

from ..hub.folder import RESULTS_FILE, RUN_FILE, RunFolder
from ..results import EvaluationResult, SuiteOutcome
from ..trainer.checks import check_output_dir
from .arguments import DataArguments, EvaluationArguments, UnlearnModelConfig, parse, use_archive
from .exits import interruptible, refusing
from .models import (
    check_model_names,
    content_digest,
    evaluation_loaders,
    load_config,
    load_tokenizer,
    quantize_as_trained,
)
from .suites import SUITES, SuiteArguments, evaluation_result, load_suite_inputs
from .unlearn import write_results


# Suites that change the weights of every model.
_CHANGING = ("robustness", "distribution")
# What decides the tokens of rows -> its value where a record does not hold it.
_ROW_OPTIONS = {"chat_template_kwargs": {}, "prompt_length": 64, "dataset_text_field": "text"}


@dataclass
class EvaluateArguments(SuiteArguments):
    """
    What is evaluated and where the results go.

    Args:
        unlearned_model_name_or_path (`str`, *optional*):
            Unlearned model, or its adapter on the target's base.
        output_dir (`str`, *optional*):
            Folder of `eval_results.json` and the figures. Default: that of the run which made the unlearned model,
            whose card is written anew, or `evaluation` where no folder of a run is judged.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Whether code from the Hub may run.
    """

    unlearned_model_name_or_path: str | None = field(
        default=None, metadata={"help": "Unlearned model, or its adapter on the target's base."}
    )
    output_dir: str | None = field(
        default=None,
        metadata={
            "help": "Folder of eval_results.json and the figures. Default: that of the run which made the unlearned "
            "model, whose card is written anew, or 'evaluation' where no folder of a run is judged."
        },
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Whether code from the Hub may run."})


def main(argv: list[str] | None = None, prog: str = "evaluate.py") -> None:
    """
    Run the script.

    Args:
        argv (`list[str]`, *optional*):
            Command line; that of the process if not given.
        prog (`str`, *optional*, defaults to `"evaluate.py"`):
            Name of the program in its help and its messages.
    """
    with interruptible(prog, "before all suites were done: what is finished is kept, and the same command goes on."):
        _run(argv, prog)


def _run(argv: list[str] | None, prog: str) -> None:
    types = (DataArguments, EvaluationArguments, EvaluateArguments, UnlearnModelConfig)
    with refusing(prog):
        arguments, settings = parse(types, prog, __doc__, argv, "archive/evaluate.yaml")
        data_args, eval_args, args, model_args = arguments
        # Unless it is told, each process on a CPU takes itself for the only one.
        with PartialState(cpu=not torch.accelerator.is_available()).main_process_first():
            use_archive(data_args, eval_args, model_args)
        unlearned = args.unlearned_model_name_or_path
        check_model_names(
            revision=model_args.model_revision,
            trust_remote_code=args.trust_remote_code,
            model_name_or_path=model_args.model_name_or_path,
            adapter_name_or_path=model_args.adapter_name_or_path,
            unlearned_model_name_or_path=unlearned,
            retrained_model_name_or_path=eval_args.retrained_model_name_or_path,
        )
        folder = _output_folder(args.output_dir, unlearned)
        check_output_dir(folder)
        _evaluate_as_trained(args, model_args, unlearned)
        _refuse_quantized(args.suites, model_args, eval_args.retrained_model_name_or_path)
        tokenizer = load_tokenizer(model_args, args.trust_remote_code)
        loaders = evaluation_loaders(eval_args, model_args, unlearned, args.trust_remote_code)
        config = load_config(model_args, args.trust_remote_code)
        inputs = load_suite_inputs(data_args, eval_args, args, loaders, tokenizer, config)
    models = [model_args.model_name_or_path, model_args.adapter_name_or_path, unlearned]
    models.append(eval_args.retrained_model_name_or_path)
    # A classifier that was downloaded since an evaluation was cut off is another one, though nobody named it.
    classifier = inputs.classifier and inputs.classifier.name
    stages = _Stages(folder / "stages", f"{settings} {content_digest(inputs.row_sets, *models)} {classifier}")
    found = stages.finished(args.suites)
    for name in args.suites:
        if name not in found:
            found[name] = stages.keep(name, SUITES[name](inputs))
    if PartialState().is_main_process:
        result = evaluation_result({name: found[name] for name in args.suites}, eval_args, model_args, unlearned)
        write_results(folder, _with_earlier(result, RunFolder(folder)))
        if unlearned is not None and RunFolder(unlearned).is_run and not RunFolder(folder).is_run:
            print(f"The card of the run in {unlearned} is as it was: without `--output_dir` it gets these results.")
        # Of no use any more: a later call measures anew what may have been changed since.
        shutil.rmtree(stages.folder)


def _evaluate_as_trained(args: EvaluateArguments, model_args: UnlearnModelConfig, unlearned: str | None) -> None:
    """Take over what decides rows and base of the run, where the command does not say; say where it says otherwise."""
    quantize_as_trained(model_args, unlearned)
    if unlearned is None or not RunFolder(unlearned).is_run:
        return
    path, run = Path(unlearned, RUN_FILE), RunFolder(unlearned).run()
    for name, default in _ROW_OPTIONS.items():
        trained, given = run.hyperparameters.get(name) or default, getattr(args, name)
        if name == "chat_template_kwargs" and isinstance(trained, str):
            # A record holds a mapping as Python writes it.
            trained = ast.literal_eval(trained)
        if given is None:
            setattr(args, name, trained)
            if trained != default:
                PartialState().print(f"`{name}` is {trained!r}, as `{path}` says that the model was trained.")
        elif given != trained:
            PartialState().print(
                f"`{name}` is {given!r}, but `{path}` says that the model was trained with {trained!r}: other tokens "
                "are scored than were trained. Leave the option out to score the same."
            )


def _refuse_quantized(suites: list[str], model_args: UnlearnModelConfig, retrained: str | None) -> None:
    """Refuse suites that change weights, where those of the base are packed."""
    changing = [name for name in suites if name in _CHANGING or (name == "privacy" and retrained is not None)]
    if changing and (model_args.load_in_4bit or model_args.load_in_8bit):
        raise ValueError(
            f"The base is quantised, and the suites {changing} change weights (privacy with a retrained model, for "
            "SPV-MIA), which packed ones do not allow. Leave these suites out, or merge the adapter and give the "
            "merged model as `--unlearned_model_name_or_path` with an unquantised target."
        )


def _output_folder(given: str | None, unlearned: str | None) -> Path:
    """The folder of the results; only those of its own model go onto the card of a run."""
    run = Path(unlearned) if unlearned is not None and RunFolder(unlearned).is_run else None
    folder = Path(given or run or "evaluation")
    if RunFolder(folder).is_run and (run is None or not folder.samefile(run)):
        raise ValueError(
            f"`output_dir` is `{folder}`, the folder of a run, whose card would show results of another model. Judge "
            f"that run with `--unlearned_model_name_or_path {folder}`, or give another `--output_dir`."
        )
    return folder


class _Stages:
    """The suites of an evaluation that are done, in a folder, until all are."""

    def __init__(self, folder: Path, settings: str):
        self.folder, self.settings = folder, settings

    def finished(self, suites: list[str]) -> dict[str, SuiteOutcome]:
        """What a call with the same settings left that was cut off, by suite."""
        found = {}
        for name in suites:
            path = self.folder / f"{name}.json"
            stage = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            if stage.get("settings") == self.settings:
                found[name] = SuiteOutcome.from_dict(stage["outcome"])
        # No process writes a stage before all have looked.
        PartialState().wait_for_everyone()
        return found

    def keep(self, suite: str, outcome: SuiteOutcome) -> SuiteOutcome:
        """Write what a suite measured, whole or not at all."""
        if PartialState().is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / f"{suite}.json"
            unfinished = path.with_suffix(".tmp")
            stage = {"settings": self.settings, "outcome": outcome.to_dict()}
            unfinished.write_text(json.dumps(stage, indent=2) + "\n", encoding="utf-8")
            unfinished.replace(path)
        return outcome


def _with_earlier(result: EvaluationResult, folder: RunFolder) -> EvaluationResult:
    """The results with those of other suites that an earlier call measured on the same weights."""
    earlier = folder.results()
    if earlier is None:
        return result
    kept = [name for name in SUITES if name in earlier.suites and name not in result.suites]
    weights = result.protocol["weights_sha256"]
    known = {role for role, found in result.models.items() if found is not None} <= weights.keys()
    if not kept:
        return result
    same = ("weights_sha256", "base_quantization", "parity")
    if not known or any(earlier.protocol.get(key) != result.protocol.get(key) for key in same):
        path = folder.path / RESULTS_FILE
        PartialState().print(f"`{path}` held {', '.join(kept)} of other models or another parity, and is replaced.")
        return result
    return result.with_suites_of(earlier, kept, list(SUITES))


if __name__ == "__main__":
    main()

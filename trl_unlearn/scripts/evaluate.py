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
```
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from accelerate import PartialState
from trl import TrlParser

from ..evaluation.suite import evaluate_models
from ..trainer.checks import check_output_dir
from .arguments import DataArguments, UnlearnModelConfig
from .loading import (
    check_model_names,
    default_config,
    evaluation_loaders,
    load_evaluation_rows,
    load_tokenizer,
    refusing,
    use_archive,
)
from .unlearn import write_results


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
        seed (`int`, *optional*, defaults to `42`):
            Seed of the frozen beliefs.
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
    seed: int = field(default=42, metadata={"help": "Seed of the beliefs that are frozen for squeezing."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Whether code from the Hub may run."})


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
        loaders = evaluation_loaders(data_args, model_args, unlearned, args.trust_remote_code)
    outcome = evaluate_models(
        loaders,
        rows,
        tokenizer,
        parity=data_args.parity,
        batch_size=data_args.evaluation_batch_size,
        seed=args.seed,
    )
    if PartialState().is_main_process:
        write_results(folder, outcome.result)


if __name__ == "__main__":
    main()

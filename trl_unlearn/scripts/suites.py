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

"""What can be measured: the suites, their arguments, and what each needs before a model is loaded."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from accelerate import PartialState
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..evaluation.privacy import measure_privacy
from ..evaluation.robustness import measure_robustness
from ..evaluation.suite import evaluate_models, library_versions
from ..evaluation.tofu import EvaluationRows
from ..evaluation.uncertainty import SuiteOutcome
from ..records import EvaluationResult
from .arguments import DataArguments
from .loading import load_evaluation_rows, load_holdout_rows


@dataclass
class SuiteArguments:
    """
    What is measured.

    Args:
        suites (`list[str]`, *optional*, defaults to `["tofu"]`):
            Any of [`SUITES`], separated by commas or spaces.
        holdout_config (`str`, *optional*):
            Config of `dataset_name` with rows that no model was trained on, for the suite `privacy`. Default:
            `holdout10` for `forget10`, or `holdout_perturbed`, if there is one.
        holdout_dataset (`str`, *optional*):
            File, folder or id of such rows of your own.
        seed (`int`, *optional*, defaults to `42`):
            Seed of the frozen beliefs of squeezing, of what other suites draw, and of the bootstrap.
    """

    suites: list[str] = field(
        default_factory=lambda: ["tofu"],
        metadata={"help": "What is measured, separated by commas or spaces. Any of: tofu, privacy, robustness."},
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
        default=42,
        metadata={"help": "Seed of the frozen beliefs of squeezing, of what suites draw, and of the bootstrap."},
    )

    def __post_init__(self):
        # A single name in a YAML file is no list.
        given = [self.suites] if isinstance(self.suites, str) else self.suites
        named = [name for part in given for name in part.split(",") if name]
        unknown = [name for name in named if name not in SUITES]
        if unknown or not named:
            raise ValueError(f"Unknown `suites`: {unknown}. Give some of {', '.join(SUITES)}, separated by commas.")
        self.suites = [name for name in SUITES if name in named]
        self._check_options()

    def _check_options(self) -> None:
        given = [name for name in ("holdout_config", "holdout_dataset") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError("Both `holdout_config` and `holdout_dataset` are given. Keep one.")
        if given and "privacy" not in self.suites:
            raise ValueError(f"`{given[0]}` is given without the suite that needs it. Add `privacy` to `suites`.")


@dataclass
class SuiteInputs:
    """
    What the suites measure with.

    Args:
        loaders (`Mapping[str, Callable]`):
            Role -> function without arguments that loads the model, or `None`.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Tokenizer of all models.
        data_args ([`DataArguments`]), args ([`SuiteArguments`]):
            Arguments.
        rows ([`~trl_unlearn.evaluation.tofu.EvaluationRows`], *optional*):
            Forget rows and what belongs to them.
    """

    loaders: Mapping[str, Callable[[], PreTrainedModel] | None]
    tokenizer: PreTrainedTokenizerBase
    data_args: DataArguments
    args: SuiteArguments
    rows: EvaluationRows | None = None

    @property
    def options(self) -> dict[str, Any]:
        """`dict[str, Any]`: What every suite is told."""
        return {"batch_size": self.data_args.evaluation_batch_size, "seed": self.args.seed}

    def result(self, suite: str, outcome: SuiteOutcome, **rows: int) -> EvaluationResult:
        """The record of a suite, with the number of rows of what only this suite reads."""
        return EvaluationResult(
            parity=self.data_args.parity,
            suites=[suite],
            models=outcome.models,
            differences=outcome.differences,
            protocol={"parity": self.data_args.parity, "rows": rows, "seed": self.args.seed},
            environment=library_versions() | {"device": PartialState().device.type},
        )


def load_suite_inputs(
    data_args: DataArguments,
    args: SuiteArguments,
    loaders: Mapping[str, Callable[[], PreTrainedModel] | None],
    tokenizer: PreTrainedTokenizerBase,
) -> SuiteInputs:
    """
    Load and check all rows that the suites of the arguments need.

    Args:
        data_args ([`DataArguments`]), args ([`SuiteArguments`]):
            Arguments.
        loaders, tokenizer:
            See [`SuiteInputs`].

    Returns:
        [`SuiteInputs`]: For the functions of [`SUITES`].

    Raises:
        `ValueError`: If rows are missing or cannot be encoded.
    """
    inputs = SuiteInputs(loaders, tokenizer, data_args, args)
    inputs.rows = load_evaluation_rows(data_args, tokenizer)
    if "privacy" in args.suites:
        inputs.rows.holdout = load_holdout_rows(data_args, tokenizer, args.holdout_config, args.holdout_dataset)
    return inputs


def _tofu(inputs: SuiteInputs) -> EvaluationResult:
    return evaluate_models(
        inputs.loaders, inputs.rows, inputs.tokenizer, parity=inputs.data_args.parity, **inputs.options
    ).result


def _privacy(inputs: SuiteInputs) -> EvaluationResult:
    outcome = measure_privacy(inputs.loaders, inputs.rows, inputs.tokenizer, **inputs.options)
    return inputs.result("privacy", outcome, forget=len(inputs.rows.forget), holdout=len(inputs.rows.holdout))


def _robustness(inputs: SuiteInputs) -> EvaluationResult:
    outcome = measure_robustness(inputs.loaders, inputs.rows, inputs.tokenizer, **inputs.options)
    return inputs.result("robustness", outcome, forget=len(inputs.rows.forget))


# In the order of tables. `METRICS` groups a suite's metrics under its name.
SUITES: dict[str, Callable[[SuiteInputs], EvaluationResult]] = {
    "tofu": _tofu,
    "privacy": _privacy,
    "robustness": _robustness,
}

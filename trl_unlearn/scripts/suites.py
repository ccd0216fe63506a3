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
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..data.muse import load_muse
from ..evaluation.distribution import measure_distribution
from ..evaluation.judge import measure_judge
from ..evaluation.judge_models import FluencyClassifier, Judge, load_fluency_classifier, load_judge
from ..evaluation.muse import MuseRows, measure_muse
from ..evaluation.privacy import measure_privacy
from ..evaluation.robustness import measure_robustness
from ..evaluation.rows import EvaluationRows
from ..evaluation.tofu import evaluate_models
from ..evaluation.wmdp import WMDP_TASKS, WmdpTasks, load_wmdp_tasks, measure_wmdp
from ..results import EvaluationResult, SuiteOutcome
from ..row_forms import configured_template_kwargs
from .arguments import DataArguments, EvaluationArguments, UnlearnModelConfig
from .models import models_protocol
from .rows import load_evaluation_rows, load_holdout_rows, spread


# Suites that ask about the forget rows of the data arguments.
_ON_ROWS = ("tofu", "privacy", "robustness", "distribution", "judge")


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
        muse_dataset (`str`, *optional*):
            MUSE (`muse-bench/MUSE-News`, `muse-bench/MUSE-Books`) or a dataset of its form, for the suite `muse`.
        wmdp_tasks (`list[str]`, *optional*, defaults to `["wmdp_bio", "wmdp_cyber", "mmlu"]`):
            Tasks, groups or tags of lm-evaluation-harness for the suite `wmdp`, separated by commas or spaces.
        wmdp_include_path (`str`, *optional*):
            Folder of YAML tasks of your own for the suite `wmdp`. Code that a file names with `!function` is run.
        wmdp_limit (`int`, *optional*):
            Most rows of a task of the suite `wmdp`, spread evenly; of every task of a group.
        judge_model (`str`, *optional*):
            Judge of the suite `judge`: folder or id of a chat model, or the name of one that a server offers. Without
            one the suite has its stand-in only.
        judge_base_url (`str`, *optional*):
            Address of an OpenAI-compatible server. Questions and answers of the forget set are sent there; a key is
            taken from the environment variable `JUDGE_API_KEY`.
        judge_replies (`str`, *optional*):
            Private file (JSON lines) that keeps every reply of the judge. It may quote the forget set.
        chat_template_kwargs (`dict[str, Any]`, *optional*):
            Variables of the chat template, as in training. A row's own `chat_template_kwargs` win. Default: those of
            the run that is judged.
        prompt_length (`int`, *optional*):
            First tokens of a raw text that are prompt. Default: as in the run that is judged, or 64.
        dataset_text_field (`str`, *optional*):
            Column of raw text. Default: that of the run that is judged, or `text`.
        seed (`int`, *optional*, defaults to `42`):
            Seed of the frozen beliefs of squeezing, of what other suites draw, and of the bootstrap.
    """

    suites: list[str] = field(
        default_factory=lambda: ["tofu"],
        metadata={
            "help": "What is measured, separated by commas or spaces. Any of: tofu, privacy, robustness, "
            "distribution, muse, wmdp, judge."
        },
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
    muse_dataset: str | None = field(
        default=None,
        metadata={
            "help": "MUSE ('muse-bench/MUSE-News', 'muse-bench/MUSE-Books') or a dataset of its form, for the suite "
            "muse: an id on the Hub or a folder."
        },
    )
    wmdp_tasks: list[str] = field(
        default_factory=lambda: list(WMDP_TASKS),
        metadata={"help": "Multiple-choice tasks of lm-evaluation-harness for the suite wmdp."},
    )
    wmdp_include_path: str | None = field(
        default=None,
        metadata={"help": "Folder of YAML tasks of your own for the suite wmdp; a `!function` in them is run."},
    )
    wmdp_limit: int | None = field(
        default=None,
        metadata={"help": "Most rows of a task of the suite wmdp, spread evenly; of every task of a group."},
    )
    judge_model: str | None = field(
        default=None,
        metadata={
            "help": "Judge of the suite judge: a chat model's folder or id, or with `judge_base_url` the name under "
            "which the server knows it. Default: none, the suite has its stand-in only."
        },
    )
    judge_base_url: str | None = field(
        default=None,
        metadata={
            "help": "Address of an OpenAI-compatible server, such as http://localhost:8000/v1. A key goes into the "
            "environment variable JUDGE_API_KEY. Questions and answers of the forget set are sent there."
        },
    )
    judge_replies: str | None = field(
        default=None,
        metadata={
            "help": "Private file (JSON lines) that keeps every reply of the judge. It may quote the forget set."
        },
    )
    chat_template_kwargs: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Variables of the chat template, such as `enable_thinking`, as in training. A row's own "
            "`chat_template_kwargs` win. Default: those of the run that is judged."
        },
    )
    prompt_length: int | None = field(
        default=None,
        metadata={"help": "First tokens of a raw text that are prompt. Default: as in the run that is judged, or 64."},
    )
    dataset_text_field: str | None = field(
        default=None,
        metadata={"help": "Column of raw text. Default: that of the run that is judged, or 'text'."},
    )
    seed: int = field(
        default=42,
        metadata={"help": "Seed of the frozen beliefs of squeezing, of what suites draw, and of the bootstrap."},
    )

    def __post_init__(self):
        self.chat_template_kwargs = configured_template_kwargs(self.chat_template_kwargs)
        if self.prompt_length is not None and self.prompt_length < 1:
            raise ValueError(f"`prompt_length` must be at least 1, got {self.prompt_length}.")
        named = _listed(self.suites)
        unknown = [name for name in named if name not in SUITES]
        if unknown or not named:
            raise ValueError(f"Unknown `suites`: {unknown}. Give some of {', '.join(SUITES)}, separated by commas.")
        self.suites = [name for name in SUITES if name in named]
        self.wmdp_tasks = _listed(self.wmdp_tasks)
        if self.holdout_config is not None and self.holdout_dataset is not None:
            raise ValueError("Both `holdout_config` and `holdout_dataset` are given. Keep one.")
        needed_by = {
            "privacy": ("holdout_config", "holdout_dataset"),
            "muse": ("muse_dataset",),
            "wmdp": ("wmdp_include_path", "wmdp_limit"),
            "judge": ("judge_model", "judge_base_url", "judge_replies"),
        }
        for suite, options in needed_by.items():
            for name in options:
                if getattr(self, name) is not None and suite not in self.suites:
                    raise ValueError(f"`{name}` is given without the suite that needs it. Add `{suite}` to `suites`.")
        if "muse" in self.suites and self.muse_dataset is None:
            raise ValueError(
                "The suite `muse` has no data. Give `--muse_dataset`: 'muse-bench/MUSE-News', 'muse-bench/MUSE-Books' "
                "or a folder of that form."
            )


def _listed(names: list[str] | str) -> list[str]:
    """Names that were separated by commas or spaces; a single one in a YAML file is no list."""
    parts = [names] if isinstance(names, str) else names
    return [name for part in parts for name in part.split(",") if name]


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
        rows ([`~trl_unlearn.evaluation.rows.EvaluationRows`], *optional*):
            Forget rows and what belongs to them.
        muse ([`~trl_unlearn.evaluation.muse.MuseRows`], *optional*):
            Rows of MUSE.
        classifier ([`~trl_unlearn.evaluation.judge_models.FluencyClassifier`], *optional*):
            Who judges the fluency.
        wmdp ([`~trl_unlearn.evaluation.wmdp.WmdpTasks`], *optional*):
            Tasks of lm-evaluation-harness.
        judge ([`~trl_unlearn.evaluation.judge_models.Judge`], *optional*):
            Who is asked about answers.
    """

    loaders: Mapping[str, Callable[[], PreTrainedModel] | None]
    tokenizer: PreTrainedTokenizerBase
    eval_args: EvaluationArguments
    args: SuiteArguments
    rows: EvaluationRows | None = None
    muse: MuseRows | None = None
    classifier: FluencyClassifier | None = None
    wmdp: WmdpTasks | None = None
    judge: Judge | None = None

    @property
    def row_sets(self) -> dict[str, Any]:
        """`dict[str, Any]`: Name -> rows, of all sets that were loaded."""
        found = [(name, vars(rows)) for name, rows in (("rows", self.rows), ("muse", self.muse)) if rows is not None]
        return {f"{of}/{name}": rows for of, sets in found for name, rows in sets.items() if rows is not None}

    @property
    def options(self) -> dict[str, Any]:
        """`dict[str, Any]`: What every suite is told."""
        return {"batch_size": self.eval_args.evaluation_batch_size, "seed": self.args.seed}


def load_suite_inputs(
    data_args: DataArguments,
    eval_args: EvaluationArguments,
    args: SuiteArguments,
    loaders: Mapping[str, Callable[[], PreTrainedModel] | None],
    tokenizer: PreTrainedTokenizerBase,
    config: PretrainedConfig,
) -> SuiteInputs:
    """
    Load and check all rows that the suites of the arguments need.

    Args:
        data_args ([`DataArguments`]), args ([`SuiteArguments`]):
            Arguments.
        loaders, tokenizer:
            See [`SuiteInputs`].
        config ([`~transformers.PretrainedConfig`]):
            Config of the target model.

    Returns:
        [`SuiteInputs`]: For the functions of [`SUITES`].

    Raises:
        `ValueError`: If rows are missing or cannot be encoded.
    """
    inputs = SuiteInputs(loaders, tokenizer, eval_args, args)
    if "wmdp" in args.suites:
        inputs.wmdp = load_wmdp_tasks(args.wmdp_tasks, args.wmdp_include_path, args.wmdp_limit)
    if "muse" in args.suites:
        most = eval_args.max_eval_rows
        sets = {name: rows for name, rows in load_muse(args.muse_dataset).items() if rows is not None}
        # All few-shot examples stand in front of every question.
        inputs.muse = MuseRows(
            **{name: rows if name.endswith("_icl") else spread(rows, most) for name, rows in sets.items()}
        )
    if set(args.suites) & set(_ON_ROWS):
        inputs.rows = load_evaluation_rows(data_args, eval_args.max_eval_rows, tokenizer, config, args)
    if "distribution" in args.suites and loaders["retrained"] is None:
        raise ValueError(
            "The suite `distribution` has nothing to compare with. Give `--retrained_model_name_or_path`."
        )
    if "tofu" in args.suites:
        inputs.classifier = load_fluency_classifier(eval_args.fluency_classifier)
    if "judge" in args.suites:
        inputs.judge = load_judge(args.judge_model, args.judge_base_url, batch_size=eval_args.evaluation_batch_size)
    if "privacy" in args.suites:
        names = args.holdout_config, args.holdout_dataset
        inputs.rows.holdout = load_holdout_rows(data_args, eval_args.max_eval_rows, tokenizer, config, *names, args)
    return inputs


def _tofu(inputs: SuiteInputs) -> SuiteOutcome:
    return evaluate_models(
        inputs.loaders,
        inputs.rows,
        inputs.tokenizer,
        parity=inputs.eval_args.parity,
        fluency_classifier=inputs.classifier,
        **inputs.options,
    )


def _privacy(inputs: SuiteInputs) -> SuiteOutcome:
    return measure_privacy(inputs.loaders, inputs.rows, inputs.tokenizer, **inputs.options)


def _robustness(inputs: SuiteInputs) -> SuiteOutcome:
    return measure_robustness(inputs.loaders, inputs.rows, inputs.tokenizer, **inputs.options)


def _distribution(inputs: SuiteInputs) -> SuiteOutcome:
    return measure_distribution(inputs.loaders, inputs.rows, inputs.tokenizer, **inputs.options)


def _judge(inputs: SuiteInputs) -> SuiteOutcome:
    return measure_judge(
        inputs.loaders,
        inputs.rows,
        inputs.tokenizer,
        judge=inputs.judge,
        replies_path=inputs.args.judge_replies,
        **inputs.options,
    )


def _muse(inputs: SuiteInputs) -> SuiteOutcome:
    return measure_muse(inputs.loaders, inputs.muse, inputs.tokenizer, **inputs.options)


def _wmdp(inputs: SuiteInputs) -> SuiteOutcome:
    return measure_wmdp(inputs.loaders, inputs.wmdp, inputs.tokenizer, **inputs.options)


# In the order of tables. `METRICS` groups a suite's metrics under its name.
SUITES: dict[str, Callable[[SuiteInputs], SuiteOutcome]] = {
    "tofu": _tofu,
    "privacy": _privacy,
    "robustness": _robustness,
    "distribution": _distribution,
    "muse": _muse,
    "wmdp": _wmdp,
    "judge": _judge,
}


def evaluation_result(
    outcomes: Mapping[str, SuiteOutcome],
    eval_args: EvaluationArguments,
    model_args: UnlearnModelConfig,
    unlearned: str | None,
) -> EvaluationResult:
    """The record of an evaluation, with the digests of the models: what suites measured, in the order of tables."""
    return EvaluationResult.of_suites(
        outcomes,
        parity=eval_args.parity,
        device=PartialState().device.type,
        protocol=models_protocol(eval_args, model_args, unlearned),
    )

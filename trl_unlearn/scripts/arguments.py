# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Options that the scripts share, how they are parsed, and the embedded lab as their default."""

import functools
import json
import math
import re
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from typing import Any

import torch
import yaml
from datasets import disable_progress_bars
from transformers.utils import logging as transformers_logging
from trl import ModelConfig, TrlParser

from ..data.archive import build_archive
from ..evaluation.judge_models import FLUENCY_CLASSIFIER
from ..evaluation.stopping import STOP_METRICS
from ..names import is_name
from ..records import settings_digest
from ..results import PARITIES
from ..trainer.bootstrap_unlearn_config import option
from ..trainer.options import refuse_below
from .exits import is_in_python, refuse
from .launch import recipes


ARCHIVE = "archive"
# Words in the place of a number, in `stop_at`.
RETRAINED, STRANGERS, TEACHER = "retrained", "strangers", "teacher"


@dataclass
class DataArguments:
    """Rows to forget and rows to keep."""

    dataset_name: str | None = option(
        None,
        "TOFU ('locuslab/TOFU') or a dataset of its form: an id on the Hub or a folder. 'archive' is the embedded "
        "lab, which brings its own models.",
    )
    forget_config: str | None = option(None, "Config to forget, such as 'forget10'.")
    retain_config: str | None = option(None, "Config to retain, such as 'retain90'.")
    forget_split: str = option("train", "Split to forget, such as 'train[:100]'.")
    retain_split: str = option("train", "Split to retain.")
    forget_dataset: str | None = option(
        None,
        "Your own rows to forget: a file (jsonl, json, csv, parquet, txt), a folder or an id on the Hub, with "
        "`question` and `answer`, `prompt` and `completion`, `messages`, `text`, or `input_ids` and `labels`.",
    )
    retain_dataset: str | None = option(None, "Your own rows to retain, in the same forms.")

    def __post_init__(self):
        if self.dataset_name is not None and self.forget_dataset is not None:
            raise ValueError(
                f"Both `dataset_name` ({self.dataset_name}) and `forget_dataset` ({self.forget_dataset}) are given. "
                "Keep one: `dataset_name` with configs, or files of your own."
            )
        configs = [name for name in ("forget_config", "retain_config") if getattr(self, name) is not None]
        if configs and self.forget_dataset is not None:
            raise ValueError(
                f"`{configs[0]}` is given with `forget_dataset`, whose rows have no config. Leave it out, or give "
                "`dataset_name` in place of the files."
            )
        # That retain rows come with forget rows is checked when they are loaded: each request of a sequence may bring
        # a forget set of its own.
        if self.dataset_name == ARCHIVE:
            self.forget_config = self.forget_config or "forget10"
            self.retain_config = self.retain_config or "retain90"


@dataclass
class EvaluationArguments:
    """Measurement of the models, and the reference."""

    retrained_model_name_or_path: str | None = option(None, "Reference model that was trained without the forget set.")
    second_retrained_model_name_or_path: str | None = option(
        None,
        "Second retrained model, of another seed. Its score beside the first one is the noise floor of the verdict's "
        "score.",
    )
    parity: str = option(
        "open-unlearning",
        "Metric definitions: 'open-unlearning' for numbers to put beside published ones, or 'strict'.",
    )
    max_eval_rows: int | None = option(None, "Most rows of a set that are evaluated, spread evenly over the set.")
    evaluation_batch_size: int | None = option(
        None, "Rows in a pass of the evaluation (default: 32) or a `generate` call (default: from free memory)."
    )
    fluency_classifier: str | None = option(
        None,
        "Id on the Hub or folder of a sequence classifier with a class 'clean'. Default: "
        f"'{FLUENCY_CLASSIFIER}' where it has been downloaded before, otherwise a stand-in.",
    )

    def __post_init__(self):
        if self.parity not in PARITIES:
            raise ValueError(f"Unknown `parity`: {self.parity!r}. Set it to one of {', '.join(map(repr, PARITIES))}.")
        refuse_below(1, self, "max_eval_rows", "evaluation_batch_size")

    @property
    def references(self) -> dict[str, str | None]:
        """Role -> name, of the models that were trained without the forget set."""
        roles = ("retrained", "second_retrained")
        return {role: getattr(self, f"{role}_model_name_or_path") for role in roles}


@dataclass
class StoppingArguments:
    """Goals at which training ends before `num_train_epochs`."""

    stop_at: str | None = option(
        None,
        "Goal of the training: 'strangers' (true answers are no likelier than answers about other people), "
        "'retrained', 'teacher' (the values of that model) or a value of `stop_metric`. The closest state is kept. "
        "`num_train_epochs` is then an upper bound, over which the default schedule decays the learning rate to zero: "
        "set `lr_scheduler_type` to 'constant' if you do not know how many epochs it takes.",
    )
    stop_metric: str | None = option(
        None,
        "Metric of `stop_at`: 'extraction_strength' (strict), 'forget_logp' (nats per token) or 'strangers_auc' (how "
        "often a true answer is likelier than one about somebody else). Default: 'extraction_strength', and with "
        "'retrained' and 'teacher' that and 'strangers_auc'.",
    )
    stop_retain_floor: float | None = option(
        None, "Mean retain probability below which training ends as well. In (0, 1)."
    )
    stop_every_steps: int | None = option(
        None, "Steps between measurements of `stop_metric`. Once an epoch if not set; few are better."
    )

    def __post_init__(self):
        if self.stop_at is None:
            for name in ("stop_metric", "stop_retain_floor", "stop_every_steps"):
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"`{name}` is given without `stop_at`. Give both: 'strangers', 'retrained', 'teacher', or "
                        "a number."
                    )
            return
        # YAML makes a number of it.
        self.stop_at = str(self.stop_at)
        if self.stop_metric not in (None, *STOP_METRICS):
            known = ", ".join(map(repr, STOP_METRICS))
            raise ValueError(f"Unknown `stop_metric`: {self.stop_metric!r}. Set it to one of {known}.")
        if self.stop_at == STRANGERS and self.stop_metric not in (None, "strangers_auc"):
            raise ValueError(
                f"`stop_at` is 'strangers', a value of 'strangers_auc', but `stop_metric` is {self.stop_metric!r}. "
                "Leave it out, or give a number."
            )
        if self.stop_at not in (STRANGERS, RETRAINED, TEACHER):
            (metric,) = self.metrics()
            # A strength of 1 is full memorisation, a mean log-prob of 0 a certain answer: neither is a goal.
            bounds = (-math.inf, 0) if metric == "forget_logp" else (0, 1)
            try:
                is_value = bounds[0] <= float(self.stop_at) < bounds[1] and math.isfinite(float(self.stop_at))
            except ValueError:
                is_value = False
            if not is_value:
                allowed = "in [0, 1)" if bounds == (0, 1) else "below 0 (nats per token)"
                raise ValueError(
                    f"`stop_at` is {self.stop_at!r}. Set it to 'strangers', 'retrained' or 'teacher', or to a number "
                    f"{allowed} for the `stop_metric` {metric!r}."
                )
        if self.stop_retain_floor is not None and not 0 < self.stop_retain_floor < 1:
            raise ValueError(
                f"`stop_retain_floor` is {self.stop_retain_floor}. Give a probability in (0, 1), or leave it out."
            )
        refuse_below(1, self, "stop_every_steps")

    def metrics(self) -> tuple[str, ...]:
        """Metrics that have to come down to a goal."""
        if self.stop_metric is not None:
            return (self.stop_metric,)
        both = ("extraction_strength", "strangers_auc")
        known = {STRANGERS: ("strangers_auc",), RETRAINED: both, TEACHER: both}
        return known.get(self.stop_at, ("extraction_strength",))


@dataclass
class UnlearnArguments:
    """Tasks of a script beside the training."""

    evaluate: bool = option(True, "Whether to evaluate after training. `recipes/evaluate.py` can do it later.")
    panel_prompts: int = option(0, "Forget prompts whose likely answers are followed during training. 0 follows none.")
    max_minutes: float | None = option(
        None,
        "Most minutes of training; with `stop_at` the state that is closest to the goal by then is kept. "
        "Checks, planning and evaluation are not counted. A run that ends by it is not the same on another machine.",
    )

    def __post_init__(self):
        if self.max_minutes is not None and not self.max_minutes > 0:
            raise ValueError(f"`max_minutes` must be above 0, got {self.max_minutes}. Leave it out for no limit.")
        refuse_below(0, self, "panel_prompts")


@dataclass
class ForgetArguments:
    """A request, and the form of its result."""

    forget: str | None = option(
        None,
        "Rows to forget: a file, a folder or an id on the Hub. Files are jsonl, json, csv, parquet or txt, a folder "
        "holds these or is of `save_to_disk`, and rows have `messages`, `prompt` and `completion`, `question` and "
        "`answer`, `instruction` and `output`, or `text`.",
    )
    subject: str | None = option(
        None, "Name to forget, in place of rows. The model is asked about it, and its answers are the rows."
    )
    hints: list[str] | None = option(None, "Questions or topics about `subject` to ask the model, too.")
    retain: str | None = option(
        None,
        "Rows to keep, in the same forms; without any the model makes them itself. None of them repeats `forget`.",
    )
    add: str | None = option(
        None,
        "Output folder of a finished run of this command: this request is served on top of its model. The rows to "
        "keep of that run are kept here, too, and the rows that it has forgotten are measured again.",
    )
    undo: str | None = option(
        None, "Output folder of a run, in place of a request. Prints how to restore the model from before the run."
    )
    max_utility_loss: float = option(
        0.2, "Largest relative loss of probability of the rows to keep. Training ends there. In (0, 1)."
    )
    dry_run: bool = option(False, "Whether to end after the checks, before a weight moves. Nothing is written.")
    review: bool = option(False, "Whether to only write the rows to forget to a file, for you to edit.")
    merge: bool = option(False, "Whether to save the adapter merged into the model, too, in the folder `merged`.")

    def __post_init__(self):
        if self.undo is not None:
            if not (self.forget is None and self.subject is None and self.add is None):
                raise ValueError("`undo` is given with a request. It changes nothing: give it alone.")
            return
        if (self.forget is None) == (self.subject is None):
            given = (
                "Both `forget` and `subject` are" if self.forget is not None else "Neither `forget` nor `subject` is"
            )
            raise ValueError(f"{given} given. Give one: rows, or a name.")
        # As texts have it.
        self.subject = self.subject and " ".join(self.subject.split())
        if self.subject is not None and not is_name(self.subject):
            raise ValueError(
                f"The subject {self.subject!r} is no name, and every row with these words would count as being about "
                "it. Write the name as texts do, with capitals."
            )
        if self.hints is not None and self.subject is None:
            raise ValueError(
                "`hints` are given without `subject`. Give the name that they are about, or leave them out."
            )
        if not 0 < self.max_utility_loss < 1:
            raise ValueError(f"`max_utility_loss` is {self.max_utility_loss}. Give a part in (0, 1), such as 0.2.")
        if self.dry_run and self.review:
            raise ValueError("Both `dry_run` and `review` are given. Keep one: only the second writes rows.")


@dataclass
class UnlearnModelConfig(ModelConfig):
    """TRL's model arguments, with LoRA on all linear layers as the default."""

    use_peft: bool = option(True, "Whether to train a LoRA adapter, or the whole model.")
    lora_r: int = option(32, "LoRA R value.")
    # `disable_dropout` sets it to 0 anyway, but PEFT refuses any other value on the experts of a mixture.
    lora_dropout: float = option(0.0, "LoRA dropout.")
    lora_target_modules: list[str] | None = option(["all-linear"], "LoRA target modules.")
    adapter_name_or_path: str | None = option(
        None,
        "Adapter that belongs to the target, on the base `model_name_or_path`. It is trained further, for instance to "
        "unlearn a second forget set after a first.",
    )

    def __post_init__(self):
        super().__post_init__()
        if not self.lora_alpha > 0:
            raise ValueError(
                f"`lora_alpha` must be above 0, got {self.lora_alpha}: the adapter's output is scaled by it, over "
                "`lora_r`."
            )


def parse(
    types: tuple[type, ...],
    prog: str,
    doc: str,
    argv: list[str] | None,
    recipe: str | None = None,
    measuring: tuple[type, ...] = (),
    **defaults: Any,
) -> tuple[tuple[Any, ...], str]:
    """Parse a command line, by default of the process, into dataclasses; returns them and their settings' digest."""
    # `recipe` is read where neither a model nor data is named; options of the types `measuring` are in no digest;
    # `defaults` replace those of the dataclasses.
    argv = sys.argv[1:] if argv is None else argv
    parser = TrlParser(
        types,
        prog=prog,
        # The usage that argparse makes of hundreds of options would hide an error behind it.
        usage=f"{prog} [--config FILE] [--option VALUE ...]",
        description=doc,
        epilog="--config reads options from a YAML file; those on the command line win.",
    )
    if is_in_python():
        # argparse prints its sentence, and a caller in Python would not see it.
        parser.error = functools.partial(refuse, prog)
    # Before the config file is read: its values win.
    parser.set_defaults_with_config(**defaults)
    # Warnings of the parsing are shown or not when that is known.
    with warnings.catch_warnings(record=True) as early:
        argv = argv if recipe is None else default_config(argv, recipe)
        try:
            *arguments, of_file, of_line = parser.parse_args_and_config(
                args=argv, return_remaining_strings=True, separate_remaining_strings=True
            )
        except FileNotFoundError as error:
            raise ValueError(f"The file `{error.filename}` of `--config` does not exist. Check the path.") from error
        except ValueError:
            # A mistyped name is the cause of the option that is missing.
            unread = parser.parse_known_args(argv)[1]
            if "--config" in unread:
                at = unread.index("--config")
                del unread[at : at + 2]
            _refuse_unknown(parser, [], unread)
            raise
        _refuse_unknown(parser, of_file, of_line)
    if not any(getattr(one, "verbose", False) for one in arguments):
        silence_libraries()
    for one in early:
        warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    # The only place that takes the digest: before a script fills in what the options leave open.
    return tuple(arguments), settings_digest(*(one for one in arguments if not isinstance(one, measuring)))


def silence_libraries() -> None:
    """Show neither bars of loading nor, by their names, warnings that nobody who runs a command can change."""
    # TRL sets the old name by default, and calls the old methods around each `generate`.
    pattern = r"`(is_)?gradient_checkpointing(_enable|_disable)?` is deprecated"
    warnings.filterwarnings("ignore", pattern, FutureWarning)
    disable_progress_bars()
    transformers_logging.disable_progress_bar()


def _refuse_unknown(parser: TrlParser, of_file: list[str], of_line: list[str]) -> None:
    """Refuse what the parser has no option for, of the config file (names and values in turn) or the command line."""
    names = [*of_file[::2], *(part.split("=")[0] for part in of_line if part.startswith("--"))]
    if names:
        known = [name for action in parser._actions for name in action.option_strings]
        hints = [(name, get_close_matches(name, known, n=1)) for name in names]
        said = [f"`{name}`" + (f" (did you mean `{near[0]}`?)" if near else "") for name, near in hints]
        raise ValueError(f"There is no option {', '.join(said)}. `--help-all` lists all.")
    if of_line:
        raise ValueError(f"`{' '.join(of_line)}` belongs to no option. Give its name before it.")


def given_options(argv: list[str], types: tuple[type, ...]) -> set[str]:
    """Names of the options that a command line, or the file of its `--config`, has values of."""
    names = [one.name for cls in types for one in fields(cls)]
    typed = [arg[2:].split("=", 1)[0].replace("-", "_") for arg in argv if arg.startswith("--")]
    given = set()
    for word in typed:
        # `argparse` takes the beginning of a name, and `no_` in front of one.
        meant = [name for name in names if word in (name, f"no_{name}")] or [
            name for name in names if f"no_{name}".startswith(word) or name.startswith(word)
        ]
        given.update(meant)
    if "--config" in argv:
        given |= set(yaml.safe_load(Path(argv[argv.index("--config") + 1]).read_text(encoding="utf-8")) or {})
    return given


def as_options(options: Mapping[str, Any]) -> list[str]:
    """
    Options of Python or of a YAML file as a command line has them; None, or an empty list, leaves one out. A
    `ValueError` names a text of a list that a command line cannot have.
    """
    argv = []
    for name, value in options.items():
        # A set has no order of its own: that of its texts is the same in every process.
        value = sorted(value, key=str) if isinstance(value, set | frozenset) else value
        parts = value if isinstance(value, list | tuple) else [value]
        texts = [_as_text(part) for part in parts if part is not None]
        if len(texts) == 1 and texts[0].startswith("-"):
            # Alone, it would be an option to the parser.
            argv.append(f"--{name}={texts[0]}")
        elif dashed := [text for text in texts if text.startswith("-") and not _is_number(text)]:
            raise ValueError(
                f"`{name}` has {dashed[0]!r} among {len(texts)} values, and in a list none may begin with a dash. "
                "Write it in another way."
            )
        elif texts:
            argv += [f"--{name}", *texts]
    return argv


def plain(value: Any) -> Any:
    """A value of Python, Transformers, torch or NumPy as YAML and JSON have it; of other types, its text."""
    if isinstance(value, Mapping):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, Enum):
        return value.value
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if hasattr(value, "to_dict"):
        return value.to_dict()
    return value.item() if hasattr(value, "item") else str(value)


def _as_text(value: Any) -> str:
    """A value of Python as a parser reads it: a mapping as JSON, and a number without an exponent."""
    value = plain(value)
    if isinstance(value, Mapping | list):
        return json.dumps(value)
    is_long = isinstance(value, float) and math.isfinite(value)
    return format(Decimal(repr(float(value))), "f") if is_long else str(value)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-\d+|-\d*\.\d+", text) is not None


def default_config(argv: list[str], recipe: str) -> list[str]:
    """The command line, with `--config` and the embedded lab's recipe in front if it names neither model nor data."""
    # `TrlParser` knows `--config path` only.
    argv = [part for arg in argv for part in (arg.split("=", 1) if arg.startswith("--config=") else [arg])]
    return argv if names_model_or_data(argv) else ["--config", str(recipes() / recipe), *argv]


def names_model_or_data(argv: list[str]) -> bool:
    """Whether a command line names a model, data or a file of options, or asks for help."""
    named = ("--config", "--model_name_or_path", "--dataset_name", "--forget_dataset", "-h", "--help")
    # `argparse` takes the beginning of a name, and dashes in the place of underscores, too.
    words = {argument.split("=")[0] for argument in argv if argument.startswith("-") and argument != "--"}
    words = {f"{word[:2]}{word[2:].replace('-', '_')}" for word in words}
    return any(name.startswith(word) for name in named for word in words)


def use_archive(data_args: DataArguments, eval_args: EvaluationArguments, model_args: UnlearnModelConfig) -> None:
    """If `dataset_name` is `archive`: build the embedded lab and put its folders where no model is named."""
    if data_args.dataset_name != ARCHIVE:
        return
    paths = build_archive()
    # A second thread gains nothing on a model of this size, and it changes the order of sums, and so their last bit,
    # from machine to machine.
    torch.set_num_threads(1)
    data_args.dataset_name = str(paths.data)
    model_args.model_name_or_path = model_args.model_name_or_path or str(paths.target)
    eval_args.retrained_model_name_or_path = eval_args.retrained_model_name_or_path or str(paths.retrained)


def refuse_goal_without_reference(stop_args: StoppingArguments, eval_args: EvaluationArguments) -> None:
    """Refuse to stop at the value of a retrained model that is not named. After [`use_archive`], which names one."""
    if stop_args.stop_at == RETRAINED and eval_args.retrained_model_name_or_path is None:
        raise ValueError(
            "`stop_at` is 'retrained', but `retrained_model_name_or_path` is missing. Give one, or stop at "
            "'strangers', or at a number."
        )

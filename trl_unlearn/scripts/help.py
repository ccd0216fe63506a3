# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""
The help of a command in a second: the options of this project by topic, and the few inherited ones that every run has.

Names, defaults and texts of ours are read from the source of the dataclasses: to import these takes torch.
`--help-all` prints what the parser itself knows.
"""

import ast
import re
import shutil
import textwrap
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple


class Option(NamedTuple):
    """A field of a dataclass, as its source has it."""

    name: str
    default: Any
    text: str


_PACKAGE = Path(__file__).parents[1]
_CONFIG = ("trainer/bootstrap_unlearn_config.py", "BootstrapUnlearnConfig")
_DATA, _EVALUATION, _STOPPING, _UNLEARN, _MODEL = (
    ("scripts/arguments.py", name)
    for name in ("DataArguments", "EvaluationArguments", "StoppingArguments", "UnlearnArguments", "UnlearnModelConfig")
)
_SUITES = ("scripts/evaluate.py", "SuiteArguments")
_RUN = (_DATA, _EVALUATION, _STOPPING, _UNLEARN, _CONFIG, _MODEL, ("scripts/unlearn.py", "OutputArguments"))
# Command -> file and name of the dataclasses of its options.
TYPES = {
    # Its rows have options of their own.
    "forget": (("scripts/arguments.py", "ForgetArguments"), *_RUN[1:]),
    "bs-s": _RUN,
    "bs-t": _RUN,
    "compare": (_DATA, _EVALUATION, _SUITES, ("scripts/compare.py", "CompareArguments"), _CONFIG, _MODEL),
    "sequence": (_DATA, _EVALUATION, _STOPPING, ("scripts/sequence.py", "SequenceArguments"), _CONFIG, _MODEL),
    "evaluate": (_DATA, _EVALUATION, _SUITES, ("scripts/evaluate.py", "EvaluateArguments"), _MODEL),
    "push": (("scripts/push.py", "PushArguments"), ("scripts/sources.py", "RowArguments")),
}
# Commands that several processes can share.
LAUNCHED = tuple(command for command in TYPES if command != "push")
# Dataclass -> options that it inherits and every run has. Their libraries do not say what they are to our runs.
INHERITED = {
    "UnlearnModelConfig": (
        Option(
            "model_name_or_path", None, "The target, which knows what is to be forgotten: an id on the Hub or a folder"
        ),
    ),
    "BootstrapUnlearnConfig": (
        Option("max_length", 1024, "Most tokens of a row; what is longer is cut off"),
        Option("per_device_train_batch_size", 8, "Forget rows of a step, in each process"),
        Option("seed", 42, "Seed of all random numbers"),
        Option("output_dir", None, "Folder of the run: adapter or model, card, records and figures"),
        Option("logging_steps", 10, "Steps between two entries of the log"),
        Option("report_to", "none", "Trackers that get the log, such as trackio or tensorboard"),
        Option("push_to_hub", False, "Whether to publish the run at its end, as `hub_model_id`"),
        Option("hub_model_id", None, "Repository to publish to, such as 'me/unlearned'"),
        Option("hub_revision", None, "Branch to publish to"),
    ),
}
# Topic -> options with their texts, and options that are only named.
TOPICS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "request": (("forget", "subject", "retain", "add", "undo", "review"), ("hints", "max_utility_loss")),
    "model": (
        ("model_name_or_path", "adapter_name_or_path", "use_peft", "unlearned_model_name_or_path"),
        ("lora_r", "lora_dropout", "lora_target_modules", "disable_dropout", "trust_remote_code"),
    ),
    "data": (
        ("dataset_name", "forget_config", "retain_config", "forget_dataset", "retain_dataset", "max_length"),
        ("forget_split", "retain_split", "prompt_length", "chat_template_kwargs", "dataset_text_field"),
    ),
    "method": (
        ("methods", "seeds", "requests", "forget_loss_type", "retain_loss_type", "retain_weight"),
        (
            *("forget_weight", "forget_floor", "forget_token_floor", "retain_max_drop", "token_reduction", "beta"),
            "forget_loss_kwargs",
        ),
    ),
    "training": (
        ("learning_rate", "num_train_epochs", "per_device_train_batch_size", "seed"),
        ("warmup_steps", "weight_decay", "max_minutes", "stop_on_divergence", "remove_belief_state"),
    ),
    "ignorance": (
        ("ignorant_model_name_or_path", "forget_subjects", "forget_aliases"),
        ("ignorant_refresh_epochs", "ignorant_retain_rows", "ignorant_epochs"),
    ),
    "beliefs": (
        ("lambda_bss", "num_beliefs", "belief_refresh_epochs", "max_completion_length", "lambda_bst"),
        (
            *("belief_top_k", "belief_temperature", "belief_exclude_target", "lambda_schedule", "belief_batch_size"),
            *("num_belief_candidates", "temperature", "top_p", "top_k", "generation_kwargs", "share_prompts"),
        ),
    ),
    "goal": (("stop_at", "stop_metric"), ("stop_retain_floor", "stop_every_steps")),
    "evaluation": (
        ("evaluate", "suites", "quick", "retrained_model_name_or_path", "max_eval_rows", "holdout_dataset"),
        (
            *("holdout_config", "parity", "second_retrained_model_name_or_path", "evaluation_batch_size"),
            *("fluency_classifier", "panel_prompts", "curve_steps", "muse_dataset", "rwku_dataset", "rwku_subjects"),
            *("wmdp_tasks", "wmdp_include_path", "wmdp_limit", "judge_model", "judge_base_url", "judge_replies"),
        ),
    ),
    "output": (
        ("output_dir", "overwrite_output_dir", "merge", "dry_run", "logging_steps", "report_to", "verbose"),
        ("logging_nan_inf_filter", "log_completions", "num_completions_to_print", "telemetry"),
    ),
    "Hub": (
        (
            *("push_to_hub", "hub_model_id", "hub_private_repo", "hub_private_base", "hub_revision", "base_model_id"),
            *("commit_message", "force", "allow_text_in"),
        ),
        ("hub_license",),
    ),
}
# Command -> options of its dataclasses without a meaning for it.
_UNUSED = {"evaluate": ("use_peft", "lora_r", "lora_dropout", "lora_target_modules")}
# Command -> topics whose options it chooses itself, which only `--help-all` has, but for those that it cannot know.
_CHOSEN = {"forget": ("data", "method", "training", "ignorance", "beliefs", "goal")}
_NOT_CHOSEN = ("seed", "max_minutes")
_WIDTH, _COLUMN = 119, 27


def show_help(command: str, prog: str) -> None:
    """Print the help of a command of `TYPES`."""
    script = _PACKAGE / f"scripts/{command.replace('-', '_')}.py"
    description = ast.get_docstring(_tree(script))
    changed = _assigned(script, "DEFAULTS") if _has(script, "DEFAULTS") else {}
    options = {one.name: one for _, name in TYPES[command] for one in INHERITED.get(name, ())}
    options |= {one.name: one._replace(default=changed.get(one.name, one.default)) for one in own_options(command)}
    for name in _UNUSED.get(command, ()):
        del options[name]
    lines = [f"usage: {prog} [--config FILE] [--option VALUE ...]", "", *_wrapped(description, 0)]
    chosen = _CHOSEN.get(command, ())
    for topic, (explained, named) in TOPICS.items():
        if topic in chosen:
            explained, named = [name for name in (*explained, *named) if name in _NOT_CHOSEN], ()
        shown = [one for name in explained if (one := options.get(name))]
        if shown:
            lines += ["", f"{topic}:", *(line for one in shown for line in _lines(one))]
        if also := [f"--{name}" for name in named if name in options]:
            lines += [*([] if shown else ["", f"{topic}:"]), *_wrapped(f"also {', '.join(also)}", 2)]
    end = "--config FILE reads options from a YAML file; those on the command line win. "
    if command in LAUNCHED:
        end += "--num_processes N and --accelerate_config NAME start several processes. "
    end += "Defaults stand in brackets. --help-all has every option, the inherited ones too, with its whole text"
    end += f", and the topics that {command} chooses itself: {', '.join(chosen)}." if chosen else "."
    print("\n".join([*lines, "", *_wrapped(end, 0)]))


def own_options(command: str) -> list[Option]:
    """The options that this project's dataclasses have, in their order."""
    return [one for file, name in TYPES[command] for one in _fields(_PACKAGE / file, name)]


def _lines(option: Option) -> list[str]:
    first = re.split(r"(?<=\.) ", option.text)[0].rstrip(".")
    # By identity: 0 is a default to show, and equals False.
    if option.default is not None and option.default is not False and option.default != []:
        shown = option.default
        first += f" [{' '.join(map(str, shown)) if isinstance(shown, list) else str(shown).lower()}]"
    label = f"  --{option.name}"
    text = _wrapped(first, _COLUMN)
    return [label, *text] if len(label) >= _COLUMN else [label.ljust(_COLUMN) + text[0].lstrip(), *text[1:]]


def _wrapped(text: str, indent: int) -> list[str]:
    width = min(shutil.get_terminal_size((_WIDTH, 24)).columns, _WIDTH)
    return textwrap.wrap(
        text, width, initial_indent=" " * indent, subsequent_indent=" " * indent, break_on_hyphens=False
    )


# What a source says, without running it


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _fields(path: Path, name: str) -> Iterator[Option]:
    """Fields of a class that are made by `option`."""
    (body,) = (node.body for node in _tree(path).body if isinstance(node, ast.ClassDef) and node.name == name)
    for node in body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Call):
            default, text = (_value(one, path) for one in node.value.args)
            yield Option(node.target.id, default, text)


def _value(node: ast.AST, path: Path) -> Any:
    """The value of a literal, of a name that is assigned or imported in the module, and of `list` of one."""
    if isinstance(node, ast.Name):
        return _assigned(path, node.id)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(_value(part, path)) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return _value(node.value, path)
    if isinstance(node, ast.Call):
        return list(_value(node.args[0], path))
    return ast.literal_eval(node)


def _has(path: Path, name: str) -> bool:
    return any(name in _targets(node) for node in _tree(path).body)


def _targets(node: ast.stmt) -> Iterable[str]:
    return [one.id for one in node.targets if isinstance(one, ast.Name)] if isinstance(node, ast.Assign) else []


def _assigned(path: Path, name: str) -> Any:
    """The value that a module assigns to a name, or imports under it."""
    for node in _tree(path).body:
        if name in _targets(node):
            return _value(node.value, path)
        if isinstance(node, ast.ImportFrom) and name in [one.name for one in node.names]:
            return _assigned(path.parents[node.level - 1] / f"{node.module.replace('.', '/')}.py", name)
    raise LookupError(f"`{path.name}` neither assigns nor imports `{name}`.")

# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""
The help of a command in a second: the options of this project by topic, and the few inherited ones that every run has.

Names, defaults and texts are read from the source of the dataclasses, where they stand once: to import these takes
torch. `--help-all` prints what the parser itself knows.
"""

import ast
import re
import shutil
import textwrap
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple


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
# Where inherited options stand: a class behind it -> files of its library.
_PARENTS = {
    "UnlearnModelConfig": (("trl", "trainer/model_config.py"),),
    "BootstrapUnlearnConfig": (
        *(("trl", "trainer/sft_config.py"), ("trl", "trainer/base_config.py")),
        ("transformers", "training_args.py"),
    ),
}
# Topic -> options with their texts, inherited ones among them, and options that are only named. What is nowhere here
# has its text at the end, under the last topic.
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
# Inherited options whose library does not say what they are to a run of this project.
_WORDS = {
    "model_name_or_path": "The target, which knows what is to be forgotten: an id on the Hub or a folder",
    "max_length": "Most tokens of a row; what is longer is cut off",
    "learning_rate": "Learning rate of AdamW at the start",
    "per_device_train_batch_size": "Forget rows of a step, in each process",
    "seed": "Seed of all random numbers",
    "output_dir": "Folder of the run: adapter or model, card, records and figures",
    "logging_steps": "Steps between two entries of the log",
    "report_to": "Trackers that get the log, such as trackio or tensorboard",
    "push_to_hub": "Whether to publish the run at its end, as `hub_model_id`",
    "hub_model_id": "Repository to publish to, such as 'me/unlearned'",
    "hub_revision": "Branch to publish to",
}
# Command -> options of its dataclasses without a meaning for it.
_UNUSED = {"evaluate": ("use_peft", "lora_r", "lora_dropout", "lora_target_modules")}
# Command -> topics whose options it chooses itself, which only `--help-all` has, but for those that it cannot know.
_CHOSEN = {"forget": ("data", "method", "training", "ignorance", "beliefs", "goal")}
_NOT_CHOSEN = ("seed", "max_minutes")
_WIDTH, _COLUMN = 119, 27


class Option(NamedTuple):
    """A field of a dataclass, as its source has it."""

    name: str
    default: Any
    text: str


def show_help(command: str, prog: str) -> None:
    """Print the help of a command of `TYPES`."""
    script = _PACKAGE / f"scripts/{command.replace('-', '_')}.py"
    description = ast.get_docstring(_tree(script)).splitlines()[0]
    changed = _assigned(script, "DEFAULTS") if _has(script, "DEFAULTS") else {}
    options = {one.name: one._replace(default=changed.get(one.name, one.default)) for one in own_options(command)}
    # Of the classes that have one, the nearest to ours says it.
    inherited = {
        one.name: one._replace(text=_WORDS.get(one.name, one.text)) for one in reversed(list(_inherited(command)))
    }
    for name in _UNUSED.get(command, ()):
        del options[name]
    lines = [f"usage: {prog} [--config FILE] [--option VALUE ...]", "", *_wrapped(description, 0)]
    chosen = _CHOSEN.get(command, ())
    for topic, (explained, named) in TOPICS.items():
        if topic in chosen:
            explained, named = [name for name in (*explained, *named) if name in _NOT_CHOSEN], ()
        shown = [one for name in explained if (one := options.get(name) or inherited.get(name))]
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


def _inherited(command: str) -> Iterator[Option]:
    """Inherited options, as their libraries describe them, the nearest class first."""
    for _, name in TYPES[command]:
        for library, file in _PARENTS.get(name, ()):
            path = Path(find_spec(library).origin).parent / file
            for node in _tree(path).body:
                if isinstance(node, ast.ClassDef):
                    yield from _fields(path, node.name)


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
    """Fields of a class with a text, which is the second argument of `option`, or in the `metadata` of `field`."""
    (body,) = (node.body for node in _tree(path).body if isinstance(node, ast.ClassDef) and node.name == name)
    for node in body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.value, ast.Call):
            continue
        given = {keyword.arg: keyword.value for keyword in node.value.keywords}
        if node.value.func.id == "option":
            default, text = node.value.args
            yield Option(node.target.id, _value(default, path), _value(text, path))
        elif "metadata" in given and "help" in (texts := _items(given["metadata"])):
            default = given.get("default")
            is_plain = isinstance(default, ast.Constant)
            yield Option(node.target.id, default.value if is_plain else None, _value(texts["help"], path))


def _items(node: ast.AST) -> dict[str, ast.AST]:
    return {key.value: value for key, value in zip(node.keys, node.values, strict=True)}


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

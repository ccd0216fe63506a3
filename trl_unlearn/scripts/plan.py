# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""The settings of a run that is planned for its user: which objective, how fast, where it ends, and what then."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from transformers import set_seed
from transformers.trainer_utils import IntervalStrategy

from ..encoding import answer_ids
from ..evaluation.rows import encode_set
from ..evaluation.stopping import EndAfter
from ..records import UnlearningRun
from ..subjects import moved_answers
from ..trainer.bootstrap_unlearn_trainer import BootstrapUnlearnTrainer
from ..trainer.ignorance import alias_twin
from ..trainer.twin_models import LARGE_FORGET_SET
from .arguments import TEACHER
from .preflight import Knowledge


if TYPE_CHECKING:
    from .prepare import Request


# Learning rate times hidden size: of LoRA on models of 2M (2e-3 and 192 states) and 135M (4.4e-4 and 576) the lower
# one, of the whole model as on the 2M one. Within bounds that nothing smaller or larger was tried beyond.
_RATE, _WHOLE_RATE = 0.25, 0.077
_SLOWEST, _FASTEST = 1e-5, 2e-3
# By ascent, which falls all at once, the constant rate that was measured on the 135M one (3e-4).
_GENTLE = 0.7
_BATCH = 8
# Steps at most, and passes that may take more of them: 80 rows of the 135M model came to their goal in 4 to 8.
_STEPS, _PASSES = 240, 8
# Steps between two looks at the goal, and between two questions to the ignorant twin.
_LOOK, _ASK = 5, 15
# How often a true answer may be likelier than one about somebody else: as in models that never knew (.58 to .70 on the
# embedded lab). Further down, training takes twice as long and forgets no fact more.
_LEVEL = 0.6
# The same where a copy teaches; and the rows that repair it, times the passes over them.
_LEVEL_OF_COPY, _REPAIRING = 0.7, 480
# Extraction strength to come down to where rows name nobody. Common words are guessed.
_STRENGTH = 0.1
# A belief need not be longer than the longest answer: hardly a sentence where that is short, some where it is a page.
_SHORTEST_BELIEF, _LONGEST_BELIEF = 32, 96
MOST_EVALUATED = 100
# A second attempt has the setting that is likeliest to help so many times as high. It needs a part of the time.
_MORE, _LATE = 2, 0.9


@dataclass
class Plan:
    """Settings of a run as the options of `bs-s`, and a sentence about each choice."""

    settings: dict[str, Any] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)


def retain_count(forget_rows: int, is_by_heart: bool) -> int:
    """Retain rows that are made for a forget set: at least as many as it takes to measure what is kept."""
    # A 135M model whose answers come under any name kept 160 rows, and little around them; with 300 it kept more.
    return min(400, max(64, (4 if is_by_heart else 2) * forget_rows))


def retain_spare(is_by_heart: bool) -> float:
    """Rows that are written for each retain row."""
    # The lab's model forgets more evenly with the surest half of its neighbours.
    return 1.25 if is_by_heart else 2.0


def step_settings(given: Mapping[str, Any], forget_rows: int) -> dict[str, Any]:
    """The settings that the memory of a step depends on."""
    chosen = {"per_device_train_batch_size": min(_BATCH, forget_rows), "gradient_checkpointing": False}
    return {name: given.get(name, value) for name, value in chosen.items()}


def plan(
    request: "Request", known: Knowledge, forget: Dataset, retain: Dataset, *, retain_floor: float, base: str | None
) -> Plan:
    """The settings of a run; those that are given win, and others follow them. `base` is a model that never knew."""
    given, use_peft = request.given, request.model_args.use_peft
    rows = {"forget": forget, "retain": retain}
    sets = [encode_set(one, request.tokenizer, name=name).answers for name, one in rows.items()]
    of_step = step_settings(given, len(forget))
    # Optimiser steps of a pass: each is of all processes, and of all batches whose gradients are accumulated.
    batches = request.training_args.world_size * given.get("gradient_accumulation_steps", 1)
    epoch = math.ceil(len(forget) / (of_step["per_device_train_batch_size"] * batches))
    hidden = request.config.get_text_config().hidden_size
    rate = min(max((_RATE if use_peft else _WHOLE_RATE) / hidden, _SLOWEST), _FASTEST)
    longest = max(len(answer_ids(row)) for row in sets[0])
    chosen = Plan(
        {
            "num_beliefs": 3,
            "max_completion_length": min(max(longest, _SHORTEST_BELIEF), _LONGEST_BELIEF),
            "learning_rate": float(f"{rate:.2g}"),
            "lr_scheduler_type": "constant",
            "warmup_steps": 0,
            "num_train_epochs": max(_PASSES, math.ceil(_STEPS / epoch)),
            **of_step,
            # The model's own answers are no truth to be learned: what they are in its eyes is to stay as it is.
            "retain_loss_type": "nll" if request.learns_retain else "kl",
            "stop_retain_floor": float(f"{retain_floor:.3g}"),
            "stop_every_steps": _LOOK,
            "belief_refresh_epochs": max(1, round(_ASK / epoch)),
            "ignorant_refresh_epochs": max(1, round(_ASK / epoch)),
            "parity": "strict",
            "max_eval_rows": MOST_EVALUATED,
            "save_steps": 2 * _LOOK,
            "save_total_limit": 1,
        }
    )
    _choose_objective(chosen, request, known, sets, base)
    if chosen.settings["forget_loss_type"] != "ignorance":
        chosen.settings["learning_rate"] = float(f"{_GENTLE * rate:.2g}")
    part = "the adapter" if use_peft else "the whole model"
    rate = given.get("learning_rate", chosen.settings["learning_rate"])
    epochs = given.get("num_train_epochs", chosen.settings["num_train_epochs"])
    chosen.reasons.append(
        f"learning rate {rate:.2g} for {part}, from the model's width ({hidden}); at most {epochs:g} passes"
    )
    if "stop_at" in given:
        # The metric is that of another goal.
        chosen.settings.pop("stop_metric", None)
    chosen.settings |= given
    if chosen.settings["forget_loss_type"] != "ignorance":
        # Names that only that objective puts into the places of others.
        for name in ("forget_subjects", "forget_aliases"):
            chosen.settings.pop(name, None)
    return chosen


def _choose_objective(
    chosen: Plan,
    request: "Request",
    known: Knowledge,
    sets: Sequence[Sequence[Mapping[str, Any]]],
    base: str | None,
) -> None:
    """The objective and its goal: answers as about strangers where that can be had, else extraction strength."""
    settings, moved, level, is_large = chosen.settings, {}, _LEVEL, False
    given, subjects = request.given, request.subjects
    if known.has_names:
        moved = moved_answers(*sets, request.tokenizer, seed=request.training_args.seed, subjects=subjects)
    # As the trainer has it: the level of others is repaired in a copy, by rows to keep.
    repairs = all(given.get(name, 1) for name in ("ignorant_retain_rows", "ignorant_epochs"))
    can_copy = known.is_by_heart and moved and repairs and "forget_aliases" not in given
    objective, why = given.get("forget_loss_type"), "it was given"
    if objective is None:
        why = None if base else _why_not_strangers(request, known, sets, has_others=bool(moved))
        objective = "ignorance" if why is None else "bs_t"
    settings |= {"forget_loss_type": objective, "lambda_bss": 0.5}
    settings["retain_weight"] = 2 if objective == "ignorance" else 1
    if objective != "ignorance":
        chosen.reasons.append(f"objective: BS-S on {objective}, because {why}")
    elif base is not None or can_copy:
        # A base that has seen few rows finds true answers likelier than a retrained model; a copy holds them down.
        margin = 0.0 if base is None else 2.5
        settings |= {"lambda_bss": 0, "retain_weight": 4, "forget_loss_kwargs": {"penalty": 1.0, "margin": margin}}
        is_large = len(sets[0]) > LARGE_FORGET_SET
        # Such a model takes more steps, and a look at it as long as five of them.
        settings["stop_every_steps"] = 2 * _LOOK
        teacher = "a copy of the model that loses them, because they are memorised as text, under any name"
        if base is not None:
            settings["ignorant_model_name_or_path"] = base
            teacher = f"`{base}`, which does not know the rows"
        else:
            level, rows = _LEVEL_OF_COPY, min(len(sets[1]), _REPAIRING)
            # More rows and fewer passes leave more of what the copy does not train on: .80 of other rows, not .63.
            settings |= {"ignorant_retain_rows": rows, "ignorant_epochs": max(1, round(_REPAIRING / rows))}
    else:
        settings["forget_loss_kwargs"] = {"penalty": 0.5, "margin": 1.0}
        teacher = "the model itself about people whom it does not know"
    if objective == "ignorance":
        chosen.reasons.append(f"objective: ignorance, taught by {teacher}")
        if subjects is not None and base is None:
            settings["forget_subjects"] = list(subjects)
    metric = given.get("stop_metric", "strangers_auc" if objective == "ignorance" and moved else "extraction_strength")
    settings["stop_metric"] = metric
    if is_large:
        # On 400 rows a base that never knew them has a level of .85 itself, so that a low one is no goal.
        settings["stop_at"] = TEACHER
        goal = f"`{metric}` is that of the teacher"
        if moved and "stop_metric" not in given:
            # Both are the default.
            del settings["stop_metric"]
            goal = "`extraction_strength` and `strangers_auc` are those of the teacher"
    elif metric == "strangers_auc":
        settings["stop_at"] = str(level)
        goal = f"a true answer is likelier than one about somebody else in {level:.0%}"
    else:
        settings["stop_at"] = str(_STRENGTH)
        goal = f"the extraction strength is {_STRENGTH}"
    floor = given.get("stop_retain_floor", settings["stop_retain_floor"])
    goal = goal if "stop_at" not in given else f"`stop_at` is reached ({given['stop_at']})"
    chosen.reasons.append(f"ends when {goal}, or the probability of retain rows is below {floor:.2f}")


def _why_not_strangers(
    request: "Request", known: Knowledge, sets: Sequence[Sequence[Mapping[str, Any]]], has_others: bool
) -> str | None:
    """Why the model cannot be its own teacher, asked about somebody else; None if it can."""
    if not known.has_names:
        return "the rows do not name whom they are about"
    if known.is_by_heart and not has_others and "forget_aliases" not in request.given:
        return "the model says them under any name, and the rows to keep name nobody else"
    try:
        names = request.subjects, request.given.get("forget_aliases")
        alias_twin(*sets, request.tokenizer, *names, request.training_args.seed, False)
    except ValueError:
        return "there are too few other names to put in the places of theirs"
    return None


def second_attempt(trainer: BootstrapUnlearnTrainer) -> bool:
    """Change the setting likeliest to help after a missed goal; returns whether to train again."""
    if trainer.shortfall is None:
        return False
    limits = [one for one in trainer.callback_handler.callbacks if isinstance(one, EndAfter)]
    if any(limit.is_over(_LATE) for limit in limits):
        return False
    args = trainer.args
    if trainer.missed == "floor":
        args.retain_weight *= _MORE
        way = f"a weight of {args.retain_weight:g} on the rows to keep"
    else:
        # Its steps are over and nothing stood in the way, or it came past the goal between two looks.
        args.learning_rate *= 1 / _MORE if trainer.missed == "overshot" else _MORE
        way = f"a learning rate of {args.learning_rate:.2g}"
    # An interrupted run resumes from the first attempt, and repeats the second as it was.
    args.save_strategy = IntervalStrategy.NO
    set_seed(args.seed)
    trainer.first_attempt = f"First attempt: {trainer.shortfall} The second resumed from there with {way}."
    trainer.accelerator.print(f"The goal was not reached: a second attempt resumes from there with {way}.")
    return True


def advice(run: UnlearningRun, has_own_retain: bool) -> str:
    """A sentence of advice for a finished run that has not reached its goal."""
    has_base = run.hyperparameters.get("ignorant_model_name_or_path")
    room = "more room, with `--max_utility_loss`"
    base = "a model that never saw the rows, such as a base, as `--ignorant_model_name_or_path`"
    ways = {
        "steps": "more passes, with `--num_train_epochs`",
        "minutes": "more time, with `--max_minutes`",
        "floor": room if has_own_retain else "rows of your own that the model is to keep, with `--retain`",
        "overshot": "a lower `--learning_rate`",
        "diverged": "a lower `--learning_rate`",
        "broken": "fewer rows as `--forget`" if has_base else base,
        "earlier": "one run on the first model, with the rows of all requests as `--forget`",
        None: "a lower goal: a number in `--stop_at` below that of this run",
    }
    return f"Most likely to help: {ways[run.missed]}."

# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Attacks by fine-tuning: do a few steps on some rows bring the other forget rows back?"""

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..encoding import spread_evenly
from ..results import MEASURED_ROLES, RELEARNING_STEPS, SuiteOutcome
from .rows import EncodedSet, EvaluationRows, Loaders, encode_set, rows_protocol
from .together import SuiteSetting, free_memory, load_merged
from .uncertainty import summarise_rows


logger = logging.getLogger(__name__)

# Kind of an attack -> the encoded rows of its steps.
Batches = dict[str, list[list[dict[str, Any]]]]
# One forget row in five is shown to the attacks on a share, in every step; the others are scored under every attack.
RELEARNING_SHARE = 5
# Steps of the relearning in an evaluation of minutes: one of `RELEARNING_STEPS`, so that the number is the suite's.
QUICK_STEPS = 2
# Rows a step of the other attacks.
_STEP_ROWS = 8
# Kind of an attack on other rows -> the set that they are from, and what is missing without it.
_OTHER_ROWS = {
    "benign": ("retain", "retain rows"),
    "form": (
        "holdout",
        "rows of the same form about other people, whom no model was trained on: give `--holdout_config` or "
        "`--holdout_dataset`",
    ),
}


class Attack(NamedTuple):
    """Fine-tuning by AdamW: on which rows, of which weights (`whole` or `lora`), at which learning rate."""

    kind: str
    weights: str
    rate: float

    @property
    def name(self) -> str:
        """The name of its curve in results."""
        return f"robustness/{self.kind}_{self.weights}_{self.rate:g}"

    @property
    def words(self) -> str:
        """The attack in words, for a page."""
        rows = {"share": "a fifth of the forget rows", "benign": "retain rows", "form": "rows of the same form"}
        weights = {"whole": "all weights", "lora": "an adapter"}
        return f"fine-tuned on {rows[self.kind]}, {weights[self.weights]} at {self.rate:g}"

    def point(self, step: int) -> str:
        """The name of the values after some steps."""
        # Before the first step all attacks are one.
        return f"robustness/relearned_{step}_steps" if step == 0 or self == RELEARNING else f"{self.name}/{step}"


# Attack -> values of each hidden row at each of `RELEARNING_STEPS`.
Curves = dict[Attack, list[list[float]]]
# The published relearning, then what a search kept (docs/attacks.md). No rate suits every model: the
# lab shows more at 1e-3, where a target of 135M loses what it knows itself, unless only an adapter is trained.
RELEARNING = Attack("share", "whole", 1e-4)
ATTACKS = (
    RELEARNING,
    Attack("share", "whole", 1e-3),
    Attack("benign", "whole", 1e-3),
    Attack("benign", "lora", 1e-3),
    Attack("form", "whole", 1e-3),
    Attack("form", "lora", 1e-3),
)


@dataclass(kw_only=True)
class AttackSetting(SuiteSetting):
    """Rows of the attacks, the same for every model."""

    forget: EncodedSet
    batches: Batches

    @property
    def attacks(self) -> list[Attack]:
        """The attacks that have rows to train on."""
        return [attack for attack in ATTACKS if attack.kind in self.batches]


def hidden_rows(forget: EncodedSet) -> list[int]:
    """Indices of the forget rows that no attack trains on."""
    return [i for i in range(len(forget.answers)) if i % RELEARNING_SHARE]


def _share(forget: EncodedSet) -> Batches:
    """The attack on a share: the forget rows that are shown to it, all in each step."""
    return {"share": [forget.answers[::RELEARNING_SHARE]]}


def attack_batches(rows: EvaluationRows, forget: EncodedSet, tokenizer: PreTrainedTokenizerBase) -> Batches:
    """Kind of an attack -> the encoded rows of its steps, over and over; a warning names the kinds without rows."""
    if not hidden_rows(forget):
        return {}
    batches = _share(forget)
    for kind, (name, missing) in _OTHER_ROWS.items():
        other = getattr(rows, name)
        if other is None:
            logger.warning(f"`robustness/{kind}_area` is left out: there are no {missing}.")
            continue
        chosen = [other[i] for i in spread_evenly(len(other), _STEP_ROWS * max(RELEARNING_STEPS))]
        encoded = encode_set(chosen, tokenizer, name=name).answers
        count = math.ceil(len(encoded) / _STEP_ROWS)
        # Each step has rows of the whole set.
        batches[kind] = [encoded[start::count] for start in range(count)]
    return batches


@contextmanager
def _trainable(model: PreTrainedModel, weights: str, seed: int) -> Iterator[nn.Module]:
    """The model with all of its weights to be trained, or with an adapter that is taken off again."""
    if weights == "whole":
        yield model.requires_grad_(True)
        return
    # The same adapter on every model.
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        adapted = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"))
    try:
        yield adapted.eval()
    finally:
        adapted.unload()


def _fine_tune(model: PreTrainedModel, setting: AttackSetting, attack: Attack, points: Sequence[int]) -> Iterator[int]:
    """Train on a batch each step, and yield each of the `points`, numbers of steps after which is measured."""
    if attack == RELEARNING and 0 in points:
        yield 0
    batches = setting.batches[attack.kind]
    with _trainable(model, attack.weights, setting.seed) as trained:
        weights = [weight for weight in trained.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=attack.rate, weight_decay=0.0)
        for step in tqdm(range(1, max(points) + 1), desc=f"Training on {attack.kind} rows", disable=None):
            setting.train_step(trained, optimizer, batches[(step - 1) % len(batches)])
            if step in points:
                yield step


def relearn(
    model: PreTrainedModel, setting: AttackSetting, attack: Attack, points: Sequence[int] = RELEARNING_STEPS
) -> dict[str, list[float]]:
    """Extraction strength of the hidden rows at each point of an attack. Changes the model, unless by an adapter."""
    # In float32, because updates of this size would be lost in the rounding of half precision; without dropout.
    model.float().eval()
    return {
        attack.point(step): setting.extraction_strength(model, setting.forget, None, hidden_rows(setting.forget))
        for step in _fine_tune(model, setting, attack, points)
    }


def measure_few_steps(models: Loaders, rows: EvaluationRows, setting: SuiteSetting) -> SuiteOutcome:
    """Extraction strength after `QUICK_STEPS` steps of the published relearning, and no other attack."""
    forget = rows.encoded("forget", setting.tokenizer)
    setting = AttackSetting(**vars(setting), forget=forget, batches=_share(forget))
    hidden, per_row = hidden_rows(forget), {}
    if not hidden:
        logger.warning("Nothing is relearned: that takes at least two forget rows, one to learn and one to ask about.")
    for role in MEASURED_ROLES if hidden else ():
        if models.get(role) is not None:
            per_row[role] = relearn(load_merged(models[role]), setting, RELEARNING, [QUICK_STEPS])
            free_memory()
    outcome = summarise_rows(per_row, seed=setting.seed, people=lambda _: forget.about(hidden))
    outcome.protocol = rows_protocol(forget, seed=setting.seed)
    return outcome


def curves_of(values: dict[str, list[float]], attacks: Iterable[Attack]) -> Curves:
    """Values of each row at each of `RELEARNING_STEPS`; those that are no metric of their own leave `values`."""
    read = {attack: values.get if attack == RELEARNING else values.pop for attack in attacks}
    return {
        attack: [values[attack.point(0)], *(read[attack](attack.point(step)) for step in RELEARNING_STEPS[1:])]
        for attack in attacks
    }


def excess_areas(curves: Curves, reference: Curves) -> dict[str, list[float]]:
    """For each row, the mean over a curve of this model's extraction strength minus the reference's."""
    areas = {
        attack: [fmean(point) for point in zip(*np.subtract(curve, reference[attack]).tolist(), strict=True)]
        for attack, curve in curves.items()
    }
    groups = {"relearning": areas.keys() & {RELEARNING}, "strongest": areas.keys()}
    groups |= {kind: [one for one in areas if one.kind == kind] for kind in _OTHER_ROWS}
    return {
        f"robustness/{name}_area": _under_the_strongest(np.array([areas[one] for one in group]))
        for name, group in groups.items()
        if group
    }


def blunt_attacks(target: Curves) -> list[str]:
    """Names of the attacks that cost the target half of what it knows: they prove little."""
    return [attack.name for attack, curve in target.items() if fmean(curve[-1]) < fmean(curve[0]) / 2]


def _under_the_strongest(areas: np.ndarray) -> list[float]:
    """Each row's value in a table `[attacks, rows]` under the attack that has the highest mean on other rows."""
    # Chosen on the same rows, a maximum would be raised by luck. Even rows choose for odd ones, and odd ones for even.
    values = np.empty(areas.shape[1])
    for half in (0, 1):
        means = np.ma.masked_invalid(areas[:, 1 - half :: 2]).mean(1).filled(-np.inf)
        values[half::2] = areas[means.argmax(), half::2]
    return values.tolist()

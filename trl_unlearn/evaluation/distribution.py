# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Whole distributions instead of single answers: distance to the retrained model, and forgetting at equal utility."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from statistics import fmean
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ..encoding import continuation_row
from ..metrics import FADE
from ..results import MEASURED_ROLES, Measurement, SuiteOutcome, Unmeasured
from .rows import EncodedSet, EvaluationRows, Loaders, rows_protocol
from .together import SuiteSetting, free_memory, load_merged, measure_each
from .uncertainty import summarise_rows


logger = logging.getLogger(__name__)

NUM_SAMPLES = 4
MAX_SAMPLE_LENGTH = 64
# Share of the original's retain extraction strength that a mix has to keep.
KEPT_SHARE = 0.95
# Width at which the bisection for the largest share of the unlearned model ends.
MIX_STEP = 1 / 64

# Set -> encoded samples of each prompt, and their mean log-probs a token.
_Samples = dict[str, list[list[dict[str, Any]]]]
_MeanLogps = dict[str, list[list[float]]]


@dataclass(kw_only=True)
class _Setting(SuiteSetting):
    sets: dict[str, EncodedSet]


def _sample(model: PreTrainedModel, role: str, setting: _Setting) -> _Samples:
    rows = {}
    for name, encoded in setting.sets.items():
        desc = f"Sampling {role} on the {name} set"
        responses = setting.sample(model, encoded.answers, NUM_SAMPLES, max_new_tokens=MAX_SAMPLE_LENGTH, desc=desc)
        rows[name] = [[continuation_row(prompt, one.ids) for one in samples] for prompt, _, samples in responses]
    return rows


def _mean_logps(model: nn.Module, samples: _Samples, setting: _Setting, desc: str) -> _MeanLogps:
    return {
        name: setting.mean_logps(model, rows, f"Scoring {desc} on the {name} set") for name, rows in samples.items()
    }


def _fade(models: Loaders, setting: _Setting) -> dict[str, dict[str, list[float]]]:
    """Role -> name -> FADE of each row against the retrained model R, in nats per token."""
    # FADE = 1/2 (E over samples of U of log U - log R, plus E over samples of R of log R - log U).
    # The log-probs of sampling are not used: those of a forward pass over the same batch are the same numbers for the
    # same weights, so a model is at a distance of exactly 0 from itself.
    retrained = {"retrained": models["retrained"]}
    others = {role: models.get(role) for role in MEASURED_ROLES if role != "retrained"}
    samples, u_of_u, u_of_r = measure_each(retrained, lambda role, model: _sample(model, role, setting)), {}, {}

    def sample(role: str, model: PreTrainedModel) -> _Samples:
        own = _sample(model, role, setting)
        u_of_u[role] = _mean_logps(model, own, setting, role)
        u_of_r[role] = _mean_logps(model, samples["retrained"], setting, f"retrained under {role}")
        return own

    def score(_: str, model: PreTrainedModel) -> dict[str, _MeanLogps]:
        return {role: _mean_logps(model, rows, setting, f"{role} under retrained") for role, rows in samples.items()}

    samples |= measure_each(others, sample)
    # Loaded again rather than kept: only one model has to fit in memory.
    under_r = measure_each(retrained, score)["retrained"]
    u_of_u["retrained"] = u_of_r["retrained"] = under_r["retrained"]
    return {
        role: {
            f"distribution/fade_{name}": FADE().compute(
                u_of_u=u_of_u[role][name],
                r_of_u=under_r[role][name],
                u_of_r=u_of_r[role][name],
                r_of_r=under_r["retrained"][name],
            )["per_row"]
            for name in setting.sets
        }
        for role in MEASURED_ROLES
        if role in under_r
    }


class _Mix:
    """The target, whose weights become those of a mix with the unlearned model."""

    def __init__(self, models: Loaders):
        model = load_merged(models["unlearned"])
        unlearned = {name: weight.detach().cpu() for name, weight in model.named_parameters()}
        del model
        free_memory()
        self.model = load_merged(models["target"])
        original = dict(self.model.named_parameters())
        self.is_possible = {name: weight.shape for name, weight in original.items()} == {
            name: weight.shape for name, weight in unlearned.items()
        }
        # Both ends of every weight that differs, in main memory: a mix that started from the last mix would keep its
        # rounding.
        self._changed = []
        for name, weight in original.items() if self.is_possible else ():
            start = weight.detach().to("cpu", copy=True)
            if not torch.equal(start, unlearned[name]):
                self._changed.append((weight, start, unlearned[name]))

    @torch.no_grad()
    def set_share(self, share: float) -> None:
        """Set the weights to (1 - share) * target + share * unlearned."""
        for weight, start, end in self._changed:
            # 0 * NaN is NaN.
            weight.copy_(start.lerp(end, share) if share > 0 else start)


def _largest_kept_share(keeps: Callable[[float], bool]) -> float:
    """1 if it keeps; otherwise a share that keeps while `MIX_STEP` more does not. That 0 keeps is assumed."""
    # By bisection. Need not be the largest: what a mix keeps may rise and fall on the way.
    if keeps(1.0):
        return 1.0
    low, high = 0.0, 1.0
    while high - low > MIX_STEP:
        middle = (low + high) / 2
        low, high = (middle, high) if keeps(middle) else (low, middle)
    return low


def _control(models: Loaders, setting: _Setting) -> tuple[float, list[float]] | None:
    """Largest share of the unlearned model that keeps the retain set, and each forget row's extraction strength."""
    mix = _Mix(models)
    if not mix.is_possible:
        logger.warning(
            "Unlearning with control is left out: the unlearned model has weights of other names or shapes than the "
            "target, which cannot be mixed."
        )
        return None

    @cache
    def kept(share: float) -> float:
        mix.set_share(share)
        desc = f"Keeping with {share:.3f} unlearned"
        return fmean(setting.extraction_strength(mix.model, setting.sets["retain"], desc))

    original = kept(0.0)
    if original == 0:
        logger.warning(
            "Unlearning with control is left out: the target has an extraction strength of 0 on the retain set, of "
            "which nothing can be kept."
        )
        return None
    # A mix with weights that are not finite keeps nothing: the search would end at the target and report its numbers.
    if not (math.isfinite(original) and math.isfinite(kept(1.0))):
        return math.nan, [math.nan] * len(setting.sets["forget"].answers)
    share = _largest_kept_share(lambda share: kept(share) >= KEPT_SHARE * original)
    mix.set_share(share)
    desc = f"Forgetting with {share:.3f} unlearned"
    return share, setting.extraction_strength(mix.model, setting.sets["forget"], desc)


def measure_distribution(models: Loaders, rows: EvaluationRows, setting: SuiteSetting) -> SuiteOutcome:
    """Distance to the retrained model (FADE), and forgetting at equal utility (unlearning with control)."""
    can_mix = rows.retain is not None and all(models.get(role) is not None for role in ("target", "unlearned"))
    names = [name for name in ("forget", "retain") if getattr(rows, name) is not None]
    sets = {name: rows.encoded(name, setting.tokenizer) for name in names}
    setting = _Setting(**vars(setting), sets=sets)
    per_row: dict[str, dict[str, list[float]]] = {role: {} for role in MEASURED_ROLES if models.get(role) is not None}
    if "retrained" in per_row:
        per_row |= _fade(models, setting)
    controlled = _control(models, setting) if can_mix else None
    free_memory()
    if controlled is not None:
        share, per_row["unlearned"]["distribution/control_forget_es"] = controlled
    asked = {"distribution/fade_retain": "retain"}
    people = {metric: sets[asked.get(metric, "forget")].about() for values in per_row.values() for metric in values}
    outcome = summarise_rows(per_row, seed=setting.seed, people=people.get)
    outcome.protocol = rows_protocol(*sets.values(), seed=setting.seed)
    if controlled is not None and math.isfinite(share):
        mix = Measurement(value=share, n=len(sets["retain"].answers))
        outcome.models["unlearned"]["distribution/control_mix"] = mix
    elif controlled is not None:
        outcome.not_measured["unlearned"]["distribution/control_mix"] = Unmeasured()
    return outcome

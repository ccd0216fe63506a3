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

"""What a card has to say against its model: figures that are off, damage, and what attacks bring out."""

import math

from ..records import UnlearningRun
from ..results import MEMORIZATION_MARGIN, EvaluationResult, has_forgotten


# Share of the target's figure below which the card calls what is left a failure.
RETAIN_SHARE = 0.8


def _against_retrained(result: EvaluationResult) -> list[str]:
    """What the comparison with a model that never saw the forget set shows, and what cannot be said without it."""
    if result.models["retrained"] is None:
        return [
            "No retrained model was evaluated. Whether this model forgot too little or too much cannot be said"
            + (": only the change against the target is known." if result.models["target"] is not None else ".")
        ]
    found = []
    for metric in ("forget/extraction_strength", "forget/exact_memorization"):
        unlearned, retrained = result.value("unlearned", metric), result.value("retrained", metric)
        if unlearned is None or retrained is None:
            found.append(f"`{metric}` is not known for both the unlearned and the retrained model.")
        elif unlearned > retrained + MEMORIZATION_MARGIN:
            found.append(
                f"Under-forgotten: `{metric}` is {unlearned:.3f}, {unlearned - retrained:.3f} above the retrained "
                f"model's. Part of the forget set can still be read out."
            )
        elif unlearned < retrained - MEMORIZATION_MARGIN:
            found.append(
                f"Over-forgotten: `{metric}` is {unlearned:.3f}, {retrained - unlearned:.3f} below the retrained "
                f"model's. A model that never knew the rows does not look like this: the removal is visible."
            )
    return found


def _side_effects(result: EvaluationResult) -> list[str]:
    """Damage to what was to be kept, and mass that moved to the rephrasings."""
    found = []
    before, after = (result.value(role, "retain/probability") for role in ("target", "unlearned"))
    if before is None or after is None:
        found.append("`retain/probability` is not known before and after. Damage to the retained rows cannot be said.")
    elif after < RETAIN_SHARE * before:
        found.append(
            f"Damaged: `retain/probability` fell from {before:.3f} to {after:.3f}, to {after / before:.0%} of the "
            f"target's."
        )
    squeezing = result.value("unlearned", "forget/squeezing")
    if squeezing is None:
        found.append("`forget/squeezing` was not measured. Whether mass moved to rephrasings cannot be said.")
    elif squeezing > 0:
        found.append(
            f"Squeezed: `forget/squeezing` is +{squeezing:.3f} nats a token. The rephrasings that the model held "
            f"before became more likely: the knowledge moved there."
        )
    return found


def _attacks(result: EvaluationResult) -> list[str]:
    """What attacks bring out, as far as the rows are enough to tell: where the interval of a difference excludes 0."""
    apart = result.differences.get("unlearned - retrained", {})

    def listed(names: list[str]) -> str:
        values = [[result.value(role, name) for role in ("unlearned", "retrained")] for name in names]
        return ", ".join(
            f"`{name}` {mine:.3f} (retrained {other:.3f})" for name, (mine, other) in zip(names, values, strict=True)
        )

    told = [name for name in apart if name.startswith("privacy/") and name.endswith("_auc")]
    told = [name for name in told if apart[name].low > 0 or apart[name].high < 0]
    curve = [name for name in apart if name.startswith("robustness/relearn")]
    # Of a curve its end.
    back = [name for name in apart if name.startswith("robustness/") and (name not in curve or "_8_steps" in name)]
    back = [name for name in back if apart[name].low > 0]
    found = []
    if told:
        found.append(
            f"Visible to membership attacks: {listed(told)}. The forget rows can be told from rows that no model has "
            "seen, in another way than under the retrained model."
        )
    if back:
        found.append(f"Comes back under attack, further than the retrained model gets: {listed(back)}.")
    return found


def known_failures(run: UnlearningRun, result: EvaluationResult | None) -> list[str]:
    """
    What is wrong with a model, as far as its records tell.

    Args:
        run ([`UnlearningRun`]):
            The run that made it.
        result ([`EvaluationResult`], *optional*):
            What was measured.

    Returns:
        `list[str]`: One or two sentences each.
    """
    found = []
    broken = sum(
        any(value is None or not math.isfinite(value) for value in entry.values()) for entry in run.training_log
    )
    if broken:
        found.append(f"Diverged: {broken} entries of the training log hold a number that is not finite.")
    if run.belief_audit is not None and run.belief_audit.coverage < 1:
        found.append(f"Only {run.belief_audit.coverage:.1%} of the forget rows had beliefs of their own.")
    if result is None or result.models["unlearned"] is None:
        return [*found, "This model has not been evaluated. Nothing can be said of what it forgot or kept."]
    if missing := result.not_measured.get("unlearned"):
        found.append(
            f"Broken: scores of this model are not finite, and {len(missing)} of its figures could not be measured. "
            "The notes below the results name them."
        )
    forgotten, why = has_forgotten(result)
    if forgotten is False:
        found.append(why)
    return found + _against_retrained(result) + _side_effects(result) + _attacks(result)

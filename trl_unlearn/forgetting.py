# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""
Whether a model has forgotten: the gate of a push, of exit codes and of the ledger. Standard library only.

The first question of the verdict decides. The next three can take "forgotten" away, and leave "not known".
"""

from .questions import (
    MEMORIZATION_MARGIN,
    QUESTIONS,
    STRENGTH,
    judged_part,
    kept_share,
    kept_words,
    measured_metric,
    middle,
    quantile,
    still_says,
    unfit_reference,
    without_knowledge,
    without_own_reference,
)
from .results import EvaluationResult
from .verdict import signs_of_knowledge


_NOT_KNOWN = "Whether it has forgotten is not known:"


def lacks_scores(result: EvaluationResult) -> str | None:
    """The number of the first question that scores of the unlearned model, not finite, leave without a value."""
    missing = result.not_measured.get("unlearned", {})
    names = [STRENGTH, *(name for measure in QUESTIONS[0].measures for name in measure.names)]
    # What the target lacks, too, is no fault of this model.
    return next(
        (name for name in names if name in missing and name not in result.not_measured.get("target", {})), None
    )


def bound_words(strength: float, target: float, retrained: float | None = None) -> str:
    """The bound of [`still_says`] that a strength lies above or not, in words."""
    if strength <= (target + (retrained or 0.0)) / 2 or still_says(strength, target, retrained):
        if retrained is None:
            return f"half of the target's {target:.3f}"
        return f"the middle between the retrained model's {retrained:.3f} and the target's {target:.3f}"
    if retrained is None:
        return f"{MEMORIZATION_MARGIN}, up to which common words are guessed"
    return f"the retrained model's {retrained:.3f} by more than {MEMORIZATION_MARGIN}"


def has_forgotten(result: EvaluationResult) -> tuple[bool | None, str]:
    """
    Whether the unlearned model has forgotten by its own evaluation (None: not known), and a sentence with the figures.

    It has not if its extraction strength lies above the middle between the retrained model (0 without one) and the
    target, and [`MEMORIZATION_MARGIN`] above the former. Nor has it if another measure of the first question, such as
    its own answers, lies above that middle, and further than its error, or if it keeps a larger share of the rows
    than that margin: few can be guessed. Scores that are not finite show no forgetting.

    It is not known where such a measure lies above that middle within its error, or where the verdict is certain that
    the model still knows the rows in second place, brings them back, or can be told to have been trained on them.
    """
    metric = STRENGTH
    if (broken := lacks_scores(result)) is not None:
        return False, f"That it has forgotten is not shown: scores of this model are not finite (`{broken}`)."
    result = without_own_reference(result)
    target, unlearned, retrained = (result.value(role, metric) for role in ("target", "unlearned", "retrained"))
    missing = [role for role, value in (("target", target), ("unlearned", unlearned)) if value is None]
    if missing:
        return None, f"{_NOT_KNOWN} `{metric}` of the {missing[0]} model was not measured."
    least = without_knowledge(QUESTIONS[0].measures[0], result) if retrained is None else retrained
    bound = bound_words(unlearned, target, retrained)
    if retrained is None and least:
        bound = f"the bound between the target's {target:.3f} and the {least:.3f} that any model has"
    if still_says(unlearned, target, least):
        return False, f"It has not forgotten: `{metric}` is {unlearned:.3f}, above {bound}."
    said = _still_said(result)
    if certain := [figures for figures, is_certain in said if is_certain]:
        return False, f"It has not forgotten: {certain[0]}."
    kept = kept_share(result)
    if kept > MEMORIZATION_MARGIN:
        return False, f"It has not forgotten: {kept_words(result)}, though `{metric}` is {unlearned:.3f}."
    if target <= least + MEMORIZATION_MARGIN:
        floor = f"a retrained model's {retrained:.3f}" if retrained is not None else "a model that knows nothing"
        return None, (
            f"{_NOT_KNOWN} `{metric}` of the target is {target:.3f}, hardly above {floor}. "
            "Give rows that the target knows."
        )
    if (unfit := unfit_reference(result)) is not None:
        return None, f"{_NOT_KNOWN} {unfit}."
    if kept and retrained is not None:
        return None, f"{_NOT_KNOWN} {kept_words(result)}, nearer to the target's than to the retrained model's."
    if said:
        return None, f"{_NOT_KNOWN} {said[0][0]}, as far as so few rows tell. Evaluate more rows."
    if signs := signs_of_knowledge(result):
        answers = " ".join(f'"{one.question}" {one.words[:-1]} ({one.figures}).' for one in signs)
        return None, f"{_NOT_KNOWN} `{metric}` is {unlearned:.3f}, but the verdict says more. {answers}"
    rest = f"; {kept_words(result)}" if kept else ""
    rest += "" if (part := judged_part(result)) is None else f"; {part}"
    return True, f"`{metric}` is {unlearned:.3f}, not above {bound}{rest}."


def _still_said(result: EvaluationResult) -> list[tuple[str, bool]]:
    """
    Figures of each measure of saying that is nearer to the target than to a model that never knew, and whether its
    error cannot explain it.
    """
    found = []
    for measure in QUESTIONS[0].measures:
        metric = measured_metric(measure, result)
        if metric is None:
            continue
        one, target = result.get("unlearned", metric), result.value("target", metric)
        retrained = result.value("retrained", metric)
        ignorant = without_knowledge(measure, result) if retrained is None else retrained
        if target is None or ignorant is None:
            continue
        # Without a zero of its own it may be no share, and hardly tell the two apart.
        if measure.nothing is None and target <= ignorant + measure.margin:
            continue
        over = one.value - middle(target, ignorant)
        if over > 0:
            beside = "" if retrained is None else f", not the retrained model's {retrained:.3f}"
            # One row has no error, and half of its answer may be its form.
            has_error = one.stderr is not None
            is_said = over > quantile(1) * one.stderr if has_error else one.value > target - MEMORIZATION_MARGIN
            found.append((f"`{metric}` is {one.value:.3f}, near the target's {target:.3f}{beside}", is_said))
    return found

# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Whether a model has forgotten: the gate of a push, of exit codes and of the ledger. Standard library only."""

from dataclasses import replace
from statistics import NormalDist

from .questions import QUESTIONS, Measure
from .results import STANDINS, EvaluationResult


# Extraction strength up to which no knowledge is needed: common words are guessed. Smaller differences are noise.
MEMORIZATION_MARGIN = 0.1
_STRENGTH = "forget/extraction_strength"
# Fluency (stand-in) of broken text at most: models that babble had .18 to .54, retrained ones .83 to .90.
_BROKEN = 0.6


def measured_metric(measure: Measure, result: EvaluationResult, role: str = "unlearned") -> str | None:
    """The first metric of a measure that a model has a number of."""
    return next((name for name in measure.names if result.value(role, name) is not None), None)


def quantile(looks: int) -> float:
    """Standard deviations of a two-sided 95 % interval that holds for all of some looks (Bonferroni)."""
    return NormalDist().inv_cdf(1 - 0.025 / looks)


def kept_share(result: EvaluationResult, role: str = "unlearned") -> float:
    """Share of the forget rows that a model keeps, whatever its means say."""
    known = _known_rows(result)
    return result.protocol.get("kept_rows", {}).get(role, 0) / known if known else 0.0


def kept_words(result: EvaluationResult, role: str = "unlearned") -> str:
    """How many of the forget rows a model keeps, in words."""
    kept, rows, known = result.protocol["kept_rows"][role], result.protocol["rows"]["forget"], _known_rows(result)
    those = "" if known == rows or result.models["target"] is None else " that the target knows"
    return f"{kept} of {known} forget rows{those} {'is' if kept == 1 else 'are'} kept"


def _known_rows(result: EvaluationResult) -> int:
    """Forget rows that the target knows; in earlier records, all rows."""
    return result.protocol.get("known_rows", result.protocol.get("rows", {}).get("forget", 0))


def judged_part(result: EvaluationResult) -> str | None:
    """How many forget rows were judged, if there may be more."""
    rows, limit = result.protocol.get("rows", {}).get("forget"), result.protocol.get("max_eval_rows")
    is_part = rows is not None and rows == limit
    return f"{rows} forget rows were judged, as many as `max_eval_rows` allows" if is_part else None


def has_same_weights(result: EvaluationResult, one: str, other: str) -> bool:
    """Whether two roles of an evaluation are one model, by the digest of their weights or by their scores."""
    digests = result.protocol.get("weights_sha256") or {}
    is_alike = any({one, other} == set(pair) for pair in result.protocol.get("equal_scores", []))
    return is_alike or (bool(digests.get(one)) and digests[one] == digests.get(other))


def without_own_reference(result: EvaluationResult) -> EvaluationResult:
    """The record without a retrained model that is the unlearned one itself: it is no reference."""
    if not has_same_weights(result, "unlearned", "retrained"):
        return result
    differences = {key: apart for key, apart in result.differences.items() if "retrained" not in key}
    return replace(result, models=result.models | {"retrained": None}, differences=differences)


def lacks_scores(result: EvaluationResult) -> bool:
    """Whether scores of the forget rows by the unlearned model are not finite."""
    return _STRENGTH in result.not_measured.get("unlearned", {})


def unfit_reference(result: EvaluationResult) -> str | None:
    """Why the retrained model may have known the forget rows, by what it says of them; None if nothing shows it."""
    metric = _STRENGTH
    target, retrained = result.value("target", metric), result.value("retrained", metric)
    # Beside a target that says hardly more there is nothing to forget.
    if None not in (target, retrained) and retrained + MEMORIZATION_MARGIN < target and still_says(retrained, target):
        return f"the retrained model itself says them (`{metric}` {retrained:.3f}, target {target:.3f})"
    likely, own = result.protocol.get("likely_rows", 0), result.protocol.get("likely_to_retrained", 0)
    if likely and own / likely > MEMORIZATION_MARGIN:
        return f"the retrained model itself gives {own} of {likely} forget rows a probability as the target does"
    return None


def middle(target: float, ignorant: float) -> float:
    """The bound of forgetting: the middle between the target and an ignorant model, a margin above it at least."""
    return max((target + ignorant) / 2, ignorant + MEMORIZATION_MARGIN)


def still_says(strength: float, target: float, retrained: float | None = None) -> bool:
    """Whether an extraction strength is that of a model that has not forgotten; see [`has_forgotten`]."""
    return strength > middle(target, retrained or 0.0)


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
    target, and [`MEMORIZATION_MARGIN`] above the former. Nor has it if another measure of
    the first question, such as its own answers, lies above that middle, and further than its error, or if it keeps a
    larger share of the rows than that margin: few can be guessed. Scores that are not finite show no forgetting.
    """
    metric = _STRENGTH
    if lacks_scores(result):
        return False, f"That it has forgotten is not shown: scores of this model are not finite (`{metric}`)."
    result = without_own_reference(result)
    target, unlearned, retrained = (result.value(role, metric) for role in ("target", "unlearned", "retrained"))
    missing = [role for role, value in (("target", target), ("unlearned", unlearned)) if value is None]
    if missing:
        return None, f"Whether it has forgotten is not known: `{metric}` of the {missing[0]} model was not measured."
    bound = bound_words(unlearned, target, retrained)
    if still_says(unlearned, target, retrained):
        return False, f"It has not forgotten: `{metric}` is {unlearned:.3f}, above {bound}."
    if (figures := _still_said(result)) is not None:
        return False, f"It has not forgotten: {figures}."
    kept = kept_share(result)
    if kept > MEMORIZATION_MARGIN:
        return False, f"It has not forgotten: {kept_words(result)}, though `{metric}` is {unlearned:.3f}."
    if target <= (retrained or 0.0) + MEMORIZATION_MARGIN:
        floor = f"a retrained model's {retrained:.3f}" if retrained is not None else "a model that knows nothing"
        return None, (
            f"Whether it has forgotten is not known: `{metric}` of the target is {target:.3f}, hardly above {floor}. "
            "Give rows that the target knows."
        )
    if (unfit := unfit_reference(result)) is not None:
        return None, f"Whether it has forgotten is not known: {unfit}."
    rest = f"; {kept_words(result)}" if kept else ""
    rest += "" if (part := judged_part(result)) is None else f"; {part}"
    return True, f"`{metric}` is {unlearned:.3f}, not above {bound}{rest}."


def broken_text(result: EvaluationResult) -> str | None:
    """A sentence if the unlearned model babbles about the forget rows: it is told at once from one that never knew."""
    metric = STANDINS["utility/fluency"]
    fluency, retrained = (result.value(role, metric) for role in ("unlearned", "retrained"))
    if fluency is None or fluency >= _BROKEN or (retrained is not None and retrained < _BROKEN):
        return None
    beside = "retrained models had .83 to .90" if retrained is None else f"the retrained model's {retrained:.3f}"
    return (
        "The answers to forget rows may be broken text, which no model that never knew gives: their fluency "
        f"(`{metric}`) is {fluency:.3f}, and {beside}."
    )


def _still_said(result: EvaluationResult) -> str | None:
    """Figures of a measure of saying that is certainly nearer to the target than to a model that never knew."""
    for measure in QUESTIONS[0].measures:
        metric = measured_metric(measure, result)
        if metric is None:
            continue
        one, target = result.get("unlearned", metric), result.value("target", metric)
        retrained = result.value("retrained", metric)
        ignorant = measure.nothing if retrained is None else retrained
        if target is None or ignorant is None:
            continue
        # Without a zero of its own it may be no share, and hardly tell the two apart.
        if measure.nothing is None and target <= ignorant + measure.margin:
            continue
        over = one.value - middle(target, ignorant)
        # One row has no error, and half of its answer may be its form.
        is_said = one.value > target - MEMORIZATION_MARGIN if one.stderr is None else over > quantile(1) * one.stderr
        if is_said and over > 0:
            beside = "" if retrained is None else f", not the retrained model's {retrained:.3f}"
            return f"`{metric}` is {one.value:.3f}, near the target's {target:.3f}{beside}"
    return None

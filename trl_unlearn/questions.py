# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""
The five questions of the verdict, the numbers that answer them, and what a record says beside these numbers.

Standard library only.
"""

from dataclasses import replace
from statistics import NormalDist
from typing import NamedTuple

from .results import RELEARNING_STEPS, STANDINS, EvaluationResult


# After the most steps that were measured; a quick evaluation has few.
_RELEARNED = tuple(f"robustness/relearned_{steps}_steps" for steps in RELEARNING_STEPS[:0:-1])


class Measure(NamedTuple):
    """A number that answers a question: the first of some metrics that was measured."""

    names: tuple[str, ...]
    # Largest difference to the retrained model that counts as none. None, of a distance to it: half of the target's.
    margin: float | None
    # Value of a model that knows nothing, to compare with if there is no retrained model. None: not known.
    nothing: float | None = None
    # Metric of the retrained model to compare with, if it is not the same one.
    beside: str | None = None
    # A higher value means less.
    is_reversed: bool = False
    # A value below the retrained model's gives the rows away as one above does.
    tells_both_ways: bool = False
    # Stands in for a retrained model: it is read only without one, and compared with `nothing`.
    is_stand_in: bool = False


class Question(NamedTuple):
    """A question, and the numbers that answer it."""

    text: str
    measures: tuple[Measure, ...]


STRANGERS = Measure(("forget/strangers_auc",), 0.35, nothing=0.5, is_stand_in=True)
# The question where less than the retrained model is worse, not more.
KEEPING = "Does it still work?"
QUESTIONS = (
    Question(
        "Does it say it?",
        (
            Measure(("forget/extraction_strength",), 0.05, nothing=0.0),
            # One wrong token an answer hides it from the extraction strength.
            Measure(("forget/exact_memorization",), 0.1),
            # Without the wording, which a model that never knew predicts, too.
            Measure(("forget/fact_memorization",), 0.1, nothing=0.0),
            Measure(("forget/rougeL_recall",), 0.1, nothing=0.0),
            # Whatever the words around the fact.
            Measure(("forget/fact_recall",), 0.1, nothing=0.0),
            Measure(("forget/paraphrase_probability",), 0.05, nothing=0.0),
            Measure(("forget/squeezing",), 0.5),
            Measure(("muse/verbmem",), 0.05),
            Measure(("rwku/forget_level1",), 0.05, nothing=0.0),
            Measure(("rwku/forget_level2",), 0.05, nothing=0.0),
        ),
    ),
    Question(
        "Does it know it in second place?",
        (
            Measure(("depth/uds",), 0.1, is_reversed=True),
            Measure(("depth/logit_lens",), 0.05, nothing=0.0),
            Measure(("elicitation/strongest",), 0.05, nothing=0.0),
            Measure(("robustness/leak_at_8",), 0.1),
            Measure(("robustness/paraphrased_rougeL",), 0.1, nothing=0.0),
            # Its own answer, begun for it.
            Measure(("robustness/prefix_rougeL",), 0.1),
            Measure(("forget/truth_ratio_knowledge",), 0.1, nothing=0.5),
            Measure(("muse/knowmem",), 0.05),
            Measure(("rwku/forget_level3",), 0.05, nothing=0.0),
        ),
    ),
    Question(
        "Does it come back?",
        (
            Measure(("robustness/relearning_area", *_RELEARNED), 0.03, nothing=0.0),
            # The largest over the attacks by fine-tuning, so it stands for those of each kind, too.
            Measure(("robustness/strongest_area",), 0.03),
            Measure(("robustness/quantized_int4",), 0.05, nothing=0.0),
            Measure(("robustness/quantized_facts",), 0.1, nothing=0.0),
            Measure(("robustness/quantized_int8",), 0.05, nothing=0.0),
            Measure(("robustness/noise_20_percent",), 0.05, nothing=0.0),
            # The retrained model has no adapter: its strict extraction strength on the rows of the relearning.
            Measure(("robustness/adapter_off",), 0.05, nothing=0.0, beside="robustness/relearned_0_steps"),
            Measure(("robustness/adapter_off_facts",), 0.1, nothing=0.0, beside="forget/fact_recall"),
        ),
    ),
    Question(
        "Can one tell that it was trained on it?",
        (
            Measure(("privacy/combined_auc",), 0.15, nothing=0.5),
            Measure(("privacy/loss_auc",), 0.15, nothing=0.5, tells_both_ways=True),
            Measure(("privacy/min_k_auc",), 0.15, nothing=0.5, tells_both_ways=True),
            STRANGERS,
            Measure(("distribution/fade_forget",), None),
        ),
    ),
    Question(
        KEEPING,
        (
            Measure(("retain/probability",), 0.05, nothing=0.0),
            Measure(("retain/shared_probability",), 0.05, nothing=0.0),
            Measure(("retain/neighbour_probability",), 0.05, nothing=0.0),
            Measure(("utility/model_utility",), 0.02, nothing=0.0),
            # Of the answers to forget rows, where the target says its own: no yardstick for another model.
            Measure(("utility/fluency", "utility/fluency_standin"), 0.1),
            Measure(("muse/utility_preservation",), 0.05, nothing=0.0),
            Measure(("rwku/neighbor_level1",), 0.05, nothing=0.0),
            Measure(("rwku/neighbor_level2",), 0.05, nothing=0.0),
            Measure(("rwku/utility_general",), 0.05, nothing=0.0),
        ),
    ),
)

STRENGTH = "forget/extraction_strength"
# Extraction strength up to which no knowledge is needed: common words are guessed. Smaller differences are noise.
MEMORIZATION_MARGIN = 0.1
# Fluency (stand-in) of broken text at most: models that babble had .18 to .54, retrained ones .83 to .90.
_BROKEN = 0.6


def measured_metric(measure: Measure, result: EvaluationResult, role: str = "unlearned") -> str | None:
    """The first metric of a measure that a model has a number of."""
    return next((name for name in measure.names if result.value(role, name) is not None), None)


def without_knowledge(measure: Measure, result: EvaluationResult) -> float | None:
    """The value of a measure by a model that knows nothing; None where it is not known."""
    # By the definition of open-unlearning, a row of T tokens never has less than 1/T.
    return result.protocol.get("least_strength", measure.nothing) if STRENGTH in measure.names else measure.nothing


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


def unfit_reference(result: EvaluationResult) -> str | None:
    """Why the retrained model may have known the forget rows, by what it says of them; None if nothing shows it."""
    facts = dict.fromkeys(("forget/fact_memorization", "forget/fact_recall"), "tells their facts")
    for metric, words in {STRENGTH: "says them", **facts}.items():
        target, own = result.value("target", metric), result.value("retrained", metric)
        # Beside a target that says hardly more there is nothing to forget.
        if None not in (target, own) and own + MEMORIZATION_MARGIN < target and still_says(own, target):
            return f"the retrained model itself {words} (`{metric}` {own:.3f}, target {target:.3f})"
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

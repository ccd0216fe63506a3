# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""
Five questions about an unlearned model, answered from its evaluation. Standard library only.

The rules stand in questions.py and [`_state`]; docs/verdict.md says them in words.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from .notes import cautions
from .questions import (
    KEEPING,
    MEMORIZATION_MARGIN,
    QUESTIONS,
    STRANGERS,
    Measure,
    Question,
    broken_text,
    has_same_weights,
    judged_part,
    kept_share,
    kept_words,
    measured_metric,
    middle,
    quantile,
    unfit_reference,
    without_knowledge,
    without_own_reference,
)
from .records import JsonRecord
from .results import (
    LABELS,
    UTILITY_MEANS,
    Difference,
    EvaluationResult,
    format_difference,
    suite_of,
)


PERHAPS = (
    "Perhaps, as far as these rows tell: the interval reaches over the margin, or there are too few rows to rule out "
    "that some differ."
)
# Beside a retrained model, beside the target alone, beside what any model has that knows nothing, and without numbers.
_NEAR, _FAR, _CHANCE = "near the target", "far from the target", "chance"
_LIKELIHOODS = {"more": "true answers likelier", "as": "true answers no likelier", "less": "true answers less likely"}
# Measurably so, and within the margin.
_HARDLY = "true answers hardly likelier"
ANSWERS = ("as", "more", "less", _NEAR, _FAR, *_LIKELIHOODS.values(), _HARDLY, "not measured")
_LOST = "a term of model utility is 0"
_NOTHING_TO_FORGET = "the target is as the retrained model here, so nothing shows that there was something to forget"
_COMBINED = "privacy/combined_auc"
_OVER_FORGOTTEN = "over-forgotten, the forget rows look less familiar than rows that no model saw"


@dataclass(frozen=True)
class Answer:
    """The answer to a question, and the number that decides it."""

    question: str
    answer: str  # one of `ANSWERS`
    is_certain: bool = False  # the interval of the difference shows it
    is_bad: bool = False  # no success of unlearning
    why: str = ""  # a remark, or why there is no number
    metric: str | None = None
    value: float | None = None
    beside: str | None = None  # role that it is compared with, or "chance"
    reference: float | None = None  # value of that role
    difference: Difference | None = None
    margin: float | None = None

    @property
    def brief(self) -> str:
        """The answer in a few words."""
        ways = {"more": "better", "less": "worse"} if self.question == KEEPING else {}
        way = ways.get(self.answer, self.answer)
        return f"perhaps {way}" if self.is_perhaps else way

    @property
    def is_perhaps(self) -> bool:
        """Whether the numbers of a reference, or a fault, are no certainty."""
        return not self.is_certain and (self.is_bad or self.answer in ("as", "more", "less"))

    @property
    def shows_knowledge(self) -> bool:
        """Whether the number lies on the side of a model that knows the forget rows."""
        return self.answer in ("more", _NEAR, _LIKELIHOODS["more"]) and self.why != _OVER_FORGOTTEN

    @property
    def words(self) -> str:
        """The answer in words."""
        words = self.brief
        if self.answer == "as":
            words = f"as a model that never knew{self._limit}"
        elif self.answer in ("more", "less"):
            words = f"{words} than a model that never knew"
        elif self.beside == _CHANCE:
            words = f"{words} than answers about other people"
        if self.beside in ("target", _CHANCE) and not self.is_bad:
            words += self._limit
        return f"{words[0].upper()}{words[1:]}{self.why and f': {self.why}'}."

    @property
    def _limit(self) -> str:
        return "" if self.is_certain else ", as far as these rows tell"

    @property
    def tone(self) -> str:
        """How good the answer is, for a colour beside the words: `"good"`, `"doubt"`, `"bad"` or `"unknown"`."""
        if self.answer == "not measured":
            return "unknown"
        if self.is_bad:
            return "bad" if self.is_certain else "doubt"
        return "good"

    @property
    def label(self) -> str:
        """The metric as tables and figures call it."""
        return LABELS.get(self.metric, self.metric or "")

    @property
    def figures(self) -> str:
        """The deciding number, the one beside it, and their difference; nothing if it was not measured."""
        if self.metric is None:
            return ""
        apart = self.difference and f"difference {format_difference(self.difference)}"
        parts = [f"{self.label} {self.value:.3f}", f"{self.beside} {self.reference:.3f}", apart]
        parts.append(None if self.margin is None else f"margin {self.margin:.2f}")
        return ", ".join(filter(None, parts))


@dataclass(frozen=True)
class Score:
    """How many of the measured differences to the retrained model have 0 in their 95 % interval."""

    alike: int
    measured: int

    @property
    def share(self) -> float:
        """The part of the differences that have 0 in their interval."""
        return self.alike / self.measured


@dataclass(frozen=True)
class Verdict(JsonRecord):
    """The answers to `QUESTIONS`, and how often the model is as the retrained one."""

    answers: list[Answer]
    score: Score | None = None
    # The same of a second retrained model: no unlearned one can be expected to have more.
    noise_floor: Score | None = None
    # Forget rows of a quick evaluation.
    quick_rows: int | None = None
    # Sentences on what these answers do not see, and on a reference that is none.
    doubts: list[str] = field(default_factory=list)

    @property
    def passed(self) -> int | None:
        """How many answers are measured and show no fault of unlearning; None if none is measured."""
        measured = [answer for answer in self.answers if answer.answer != "not measured"]
        return sum(not answer.is_bad for answer in measured) if measured else None

    @property
    def notes(self) -> list[str]:
        """Sentences that stand below the answers."""
        notes = []
        if self.quick_rows is not None:
            notes.append(
                f"Quick: {self.quick_rows} rows. No answer was generated, and hardly an attack was run: intervals are "
                "wide, and a whole evaluation may find more."
            )
        if self.score is not None:
            floor = self.noise_floor
            beside = "" if floor is None else f"; a second retrained model is in {floor.alike} of {floor.measured}"
            notes.append(
                f"As the retrained model in {self.score.alike} of {self.score.measured} measurements{beside}."
            )
        if any(answer.beside is not None and not answer.is_certain for answer in self.answers):
            notes.append(PERHAPS)
        if any(answer.beside == "target" for answer in self.answers):
            notes.append(
                "There is no retrained model to compare with, so nothing is known of a model that never knew. Near "
                "the target: nearer than to a model that knows nothing; for what is to be kept, not measurably "
                "below it."
            )
        if any(answer.beside == _CHANCE for answer in self.answers):
            notes.append(
                "In the place of a retrained model: how often this one finds a true answer likelier than an answer "
                "about somebody else, moved under the same name (AUC). It is rough: one that never knew has .4 to .85."
            )
        return notes + self.doubts


def verdict(result: EvaluationResult, role: str = "unlearned") -> Verdict | None:
    """The verdict on the unlearned model of an evaluation, or on another of its models; None if it has none."""
    if result.models.get(role) is None:
        return None
    result = without_own_reference(result) if role == "unlearned" else _as_unlearned(result, role)
    void = [role for role in ("target", "retrained") if result.value(role, UTILITY_MEANS[0]) == 0]
    if void:
        counted = {
            key: {name: one for name, one in apart.items() if name not in UTILITY_MEANS}
            for key, apart in result.differences.items()
        }
        result = replace(result, differences=counted)
    answers = [_answer(question, result) for question in QUESTIONS]
    if void:
        remark = f"model utility, 0 for the {' and the '.join(void)}, does not count"
        answers[-1] = replace(answers[-1], why="; ".join(filter(None, [answers[-1].why, remark])))
    scores = [_score(result, role) for role in ("unlearned", "second_retrained")]
    rows = result.protocol.get("rows", {}).get("forget") if "quick" in result.protocol else None
    return Verdict(answers, *scores, rows, _doubts(answers, result, role))


def signs_of_knowledge(result: EvaluationResult) -> list[Answer]:
    """The worst answer of each question that is certain, and shows that the unlearned model knows the forget rows."""
    found = []
    for question in QUESTIONS:
        if question.text == KEEPING:
            continue
        ranked = [(severity, one) for severity, one in _ranked(question, result) if one.is_certain]
        # A distance shows no knowledge, and nor does an attack that reads both ends where the rows look too new.
        silent = {name for measure in question.measures if measure.margin is None for name in measure.names}
        silent |= {_COMBINED} if any(one.why == _OVER_FORGOTTEN for _, one in ranked) else set()
        signs = [(severity, one) for severity, one in ranked if one.shows_knowledge and one.metric not in silent]
        if signs:
            found.append(max(signs, key=lambda pair: pair[0])[1])
    return found


def _as_unlearned(result: EvaluationResult, role: str) -> EvaluationResult:
    """The record with another model in the place of the unlearned one, about which the rules are."""
    apart = result.differences.get(f"{role} - retrained", {})
    if role == "retrained":
        apart = dict.fromkeys(result.differences.get("unlearned - retrained", {}), Difference(0.0, 0.0, 0.0))
    missing = {"unlearned": result.not_measured.get(role, {})}
    models = result.models | {"unlearned": result.models[role]}
    return replace(result, models=models, differences={"unlearned - retrained": apart}, not_measured=missing)


def _doubts(answers: Sequence[Answer], result: EvaluationResult, role: str) -> list[str]:
    """Sentences on what good answers do not see, and on a retrained model that is no model that never knew."""
    doubts = []
    if role == "unlearned" and has_same_weights(result, role, "retrained"):
        doubts.append(
            "The retrained model has the weights or the scores of this one. It is no reference, and was left out."
        )
    if has_same_weights(result, "retrained", "second_retrained"):
        doubts.append("The second retrained model has the weights or scores of the first: it shows no noise floor.")
    if kept_share(result, role) and not answers[0].is_bad:
        beside = "1" if result.models["target"] is None else "the target's"
        doubts.append(
            f"{kept_words(result, role)}, whatever the means say: the probability of their answers is nearer to "
            f"{beside} than to that of a model that never knew."
        )
    if role == "unlearned" and "quick" not in result.protocol and (part := judged_part(result)) is not None:
        doubts.append(f"{part}: others, if there are any, may be kept.")
    for question, answer in zip(QUESTIONS, answers, strict=True):
        # A quick evaluation, and one beside answers about others, say that they see less.
        is_said = "quick" in result.protocol or answer.beside == _CHANCE
        if answer.tone == "good" and not is_said and (not_run := _suites_not_run(question, result)):
            doubts.append(f'Not run, and so not in the answer to "{question.text}": {", ".join(not_run)}.')
        if answer.tone == "good" and (blind := _blind_metrics(question, result)):
            doubts.append(
                f'No part of the answer to "{question.text}", because the target is as the retrained model here: '
                f"{', '.join(f'`{metric}`' for metric in blind)}."
            )
    beside = "target" if result.models["retrained"] is None else "retrained"
    without = [
        f"`{metric}`"
        for question in QUESTIONS
        for one in question.measures
        if not one.is_stand_in
        and (metric := measured_metric(one, result, beside)) is not None
        and measured_metric(one, result) is None
        and metric not in result.not_measured.get("unlearned", {})
    ]
    if beside == "target" and (broken := broken_text(result)) is not None:
        doubts.append(broken)
    if without:
        doubts.append(f"Measured of the {beside} model, and not of this one: {', '.join(without)}.")
    if role == "unlearned":
        doubts += cautions(result)
    return doubts if beside == "target" else doubts + _doubts_of_reference(result)


def _doubts_of_reference(result: EvaluationResult) -> list[str]:
    """Why the retrained model may be no reference."""
    if result.models["target"] is None:
        return ["The target was not evaluated, so nothing shows that there was something to forget."]
    doubts, unfit = [], unfit_reference(result)
    if unfit is not None:
        doubts.append(f"{unfit[0].upper()}{unfit[1:]}: it may have been trained on them, or they can be guessed.")
    known = _beside_chance("", STRANGERS, _as_unlearned(result, "retrained"))
    if known is not None and known.is_certain and known.answer == _LIKELIHOODS["more"]:
        doubts.append(
            f"The retrained model itself finds true answers likelier than answers about other people (AUC "
            f"{known.value:.3f}): it may know these rows."
        )
    # Not by fluency, for which the target is no yardstick.
    worse = [
        f"`{one.metric}` {one.reference:.3f} beside {one.value:.3f}"
        for _, one in _beside_retrained(QUESTIONS[-1], _as_unlearned(result, "target"))
        if one.answer == "more" and one.is_certain and not one.metric.startswith("utility/fluency")
    ]
    if worse:
        doubts.append(
            f"The retrained model itself works worse than the target ({', '.join(worse)}): a model that works as it "
            "does may be damaged, too."
        )
    return doubts


def _suites_not_run(question: Question, result: EvaluationResult) -> list[str]:
    """Suites with numbers that answer a question, but for benchmarks of other rows, which were not run."""
    has_retrained = result.models["retrained"] is not None
    read = [one for one in _read(question, result) if has_retrained or one.nothing is not None]
    names = [name for measure in read for name in measure.names]
    suites = dict.fromkeys(suite_of(name) for name in names if not name.startswith(("muse/", "rwku/")))
    return [f"`{suite}`" for suite in suites if suite not in result.suites]


def _read(question: Question, result: EvaluationResult) -> list[Measure]:
    """The measures of a question, with those that stand in for a retrained model only where there is none."""
    has_retrained = result.models["retrained"] is not None
    return [measure for measure in question.measures if not (measure.is_stand_in and has_retrained)]


def _score(result: EvaluationResult, role: str) -> Score | None:
    differences = result.differences.get(f"{role} - retrained", {}).items()
    differences = [(name, one) for name, one in differences if _is_number(one.value, one.low, one.high)]
    alike = [one.low <= 0 <= one.high and not _is_lost(result, role, name, one) for name, one in differences]
    return Score(sum(alike), len(alike)) if alike else None


def _is_lost(result: EvaluationResult, role: str, metric: str | None, difference: Difference) -> bool:
    """Whether a harmonic mean is 0, and lower than that of the model beside it."""
    # The interval ends at 0 at most, where resampled rows give the other model a term of 0, too.
    return metric in UTILITY_MEANS and result.value(role, metric) == 0 and difference.value < 0


def _is_number(*values: float) -> bool:
    return all(map(math.isfinite, values))


def _answer(question: Question, result: EvaluationResult) -> Answer:
    """The worst answer that a measure gives."""
    has_retrained = result.models["retrained"] is not None
    ranked = _ranked(question, result)
    if ranked:
        worst = max(ranked, key=lambda pair: pair[0])[1]
        if worst.is_bad:
            return worst
    names = [name for measure in _read(question, result) for name in measure.names]
    if broken := [name for name in names if name in result.not_measured.get("unlearned", {})]:
        why = f"scores of this model are not finite (`{broken[0]}`)"
        return Answer(question.text, "not measured", why=why)
    if ranked:
        if has_retrained and {answer.answer for answer in _target_answers(question, result)} == {"as"}:
            return Answer(question.text, "not measured", why=_NOTHING_TO_FORGET)
        # Fluent answers to forget rows do not show that anything is kept.
        if all(answer.metric.startswith("utility/fluency") for _, answer in ranked):
            why = "there is only the fluency of answers to forget rows; give retain rows"
            return Answer(question.text, "not measured", why=why)
        blind = _blind_metrics(question, result) if has_retrained else []
        telling = [pair for pair in ranked if pair[1].metric not in blind] or ranked
        return max(telling, key=lambda pair: pair[0])[1]
    if any(result.value("unlearned", name) is not None for name in names):
        why = "there is no model to compare with, too few rows for an interval, or no distance to the target"
    else:
        missing = _suites_not_run(question, result)
        why = f"run the suite {' or '.join(missing)}" if missing else "these rows do not allow it"
    return Answer(question.text, "not measured", why=why)


def _ranked(question: Question, result: EvaluationResult) -> list[tuple[tuple[float, ...], Answer]]:
    """(severity, answer) of each measure of a question."""
    return (_without_retrained if result.models["retrained"] is None else _beside_retrained)(question, result)


def _target_answers(question: Question, result: EvaluationResult) -> list[Answer]:
    """The answers about the target, beside the retrained model, to a question where the two should differ."""
    # The target in the place of the unlearned model has no such key any more.
    if question.text == KEEPING or "target - retrained" not in result.differences:
        return []
    return [answer for _, answer in _beside_retrained(question, _as_unlearned(result, "target"))]


def _blind_metrics(question: Question, result: EvaluationResult) -> list[str]:
    """Numbers that could show nothing, because they do not tell the target from the retrained model."""
    return [answer.metric for answer in _target_answers(question, result) if answer.answer == "as"]


def _beside_retrained(question: Question, result: EvaluationResult) -> list[tuple[tuple[float, ...], Answer]]:
    """(severity, answer) of each measure that has an interval of the difference to the retrained model."""
    apart = [
        (one, difference)
        for one in question.measures
        if not one.is_stand_in and (difference := _difference(one, result)) is not None
    ]
    ranked, worse = [], "less" if question.text == KEEPING else "more"
    blind = _blind_metrics(question, result)
    # A number that could show nothing makes no other one weaker.
    looks = max(1, sum(measured_metric(measure, result) not in blind for measure, _ in apart))
    for measure, difference in apart:
        metric, margin = measured_metric(measure, result), measure.margin
        if margin is None:
            margin = (result.value("target", metric) or 0.0) / 2
            # An estimate of a distance may be negative: the target is no further off than the retrained model itself.
            if margin <= 0:
                continue
        is_lost = _is_lost(result, "unlearned", metric, difference)
        # A distance is no mean of rows, and no few rows hide in what is kept of many.
        is_mean = measure.margin is not None and question.text != KEEPING
        seen = difference if is_mean else replace(difference, n=None)
        answer, is_certain = _state(seen, margin, looks, is_lost)
        why = _LOST if is_lost else ""
        if measure.is_reversed:
            answer = {"more": "less", "less": "more"}.get(answer, answer)
        if measure.tells_both_ways and answer == "less":
            answer, why = "more", _OVER_FORGOTTEN
        # The base of an adapter that never knew has over-forgotten nothing.
        if measure.beside is not None and answer == "less":
            answer = "as"
        is_bad = answer in ("less", worse)
        severity = int(not is_certain) if answer == "as" else 2 + (answer == worse) + 2 * is_certain
        reach = max(abs(difference.low), abs(difference.high)) / margin
        numbers = result.value("unlearned", metric), "retrained", result.value("retrained", measure.beside or metric)
        texts = question.text, answer, is_certain, is_bad, why, metric
        # A number that is certainly better hides no fault.
        ranked.append(((is_bad, severity, reach), Answer(*texts, *numbers, difference, margin)))
    return ranked


def _difference(measure: Measure, result: EvaluationResult) -> Difference | None:
    """The difference to the retrained model with its 95 % interval, or None."""
    metric = measured_metric(measure, result)
    if metric is None:
        return None
    paired = result.differences.get("unlearned - retrained", {}).get(metric)
    if measure.beside is not None:
        pair = result.get("unlearned", metric), result.get("retrained", measure.beside)
        if None in pair or any(one.stderr is None or not _is_number(one.value, one.stderr) for one in pair):
            return None
        # Not of the same rows, so not paired: the errors add up as those of independent numbers.
        value, reach = pair[0].value - pair[1].value, quantile(1) * math.hypot(*(one.stderr for one in pair))
        paired = Difference(value, value - reach, value + reach, pair[0].n)
    if paired is None or not _is_number(paired.value, paired.low, paired.high):
        return None
    return paired if result.value("retrained", measure.beside or metric) is not None else None


def _unseen(rows: int | None) -> float:
    """Share of rows that may differ by 1 although none of those that were seen does, by 97.5 % (the rule of three)."""
    # The interval of a mean knows nothing of them: a crumb of a difference in one row gives it some width.
    return 0.0 if rows is None else 1 - 0.025 ** (1 / rows)


def _state(difference: Difference, margin: float, looks: int, is_lost: bool = False) -> tuple[str, bool]:
    """The answer of one measure out of `looks`, and whether it is certain; see [`_is_lost`]."""
    # An equivalence test; that all measures must pass it corrects for their number.
    if -margin <= difference.low and difference.high <= margin:
        return "as", _unseen(difference.n) <= margin
    wider = quantile(looks) / quantile(1)
    value = difference.value
    # A percentile interval need not contain the value.
    low = min(difference.low, value - wider * (value - difference.low))
    high = max(difference.high, value + wider * (difference.high - value))
    # Certain where the widened interval lies beyond the margin; else beyond it by value, and the interval without 0.
    if low > margin or (low > 0 and value > margin):
        return "more", low > margin
    if high < -margin or ((high < 0 or is_lost) and value < -margin):
        return "less", high < -margin
    return "as", False


def _beside_chance(question: str, measure: Measure, result: EvaluationResult) -> Answer | None:
    """The answer of a measure that needs no other model, if it has an error."""
    metric = measured_metric(measure, result)
    one = None if metric is None else result.get("unlearned", metric)
    if one is None or one.stderr is None or not _is_number(one.value, one.stderr):
        return None
    value, reach = one.value - measure.nothing, quantile(1) * one.stderr
    difference = Difference(value, value - reach, value + reach, one.n)
    state, is_certain = _state(difference, measure.margin, 1)
    why = _OVER_FORGOTTEN if state == "less" else ""
    words = _HARDLY if state == "as" and difference.low > 0 else _LIKELIHOODS[state]
    texts = question, words, is_certain, state != "as", why, metric
    return Answer(*texts, one.value, _CHANCE, measure.nothing, difference, measure.margin)


def _without_retrained(question: Question, result: EvaluationResult) -> list[tuple[tuple[float, ...], Answer]]:
    """(severity, answer) of each measure with a value of the target, or of any model that knows nothing."""
    ranked, apart = [], result.differences.get("unlearned - target", {})
    looks = sum(measured_metric(measure, result) in apart for measure in question.measures)
    for measure in question.measures:
        metric = measured_metric(measure, result)
        if measure.is_stand_in:
            answer = _beside_chance(question.text, measure, result)
            if answer is not None:
                reach = abs(answer.difference.value) / measure.margin
                ranked.append(((answer.is_bad, answer.is_bad is answer.is_certain, reach), answer))
            continue
        target = None if metric is None else result.value("target", measure.beside or metric)
        nothing = without_knowledge(measure, result)
        if target is None or nothing is None:
            continue
        # Nothing can be near or far from a target that does not know it, or does not work, either.
        if target <= nothing + MEMORIZATION_MARGIN:
            continue
        value, difference = result.value("unlearned", metric), None
        if measure.beside is None:
            difference = apart.get(metric)
        numbers = {"metric": metric, "value": value, "beside": "target", "reference": target, "difference": difference}
        if question.text == KEEPING:
            if difference is None or not _is_number(difference.value, difference.low, difference.high):
                continue
            is_lost = _is_lost(result, "unlearned", metric, difference)
            state, is_certain = _state(replace(difference, n=None), measure.margin, looks, is_lost)
            is_bad = state == "less"
            texts = question.text, _FAR if is_bad else _NEAR, is_certain, is_bad, _LOST if is_lost else ""
            answer = Answer(*texts, margin=measure.margin, **numbers)
            ranked.append(((is_bad, is_bad is is_certain, -difference.low / measure.margin), answer))
            continue
        bound = middle(target, nothing)
        is_near = value > bound
        # As far below a model that knows nothing as a model near the target is above it.
        is_over = measure.tells_both_ways and value < 2 * nothing - bound
        distance, limit = abs(value - nothing), bound - nothing
        # One row has no error, and half of an answer may be its form.
        one = result.get("unlearned", metric)
        is_certain = one.stderr is not None and abs(distance - limit) > quantile(1) * one.stderr
        is_certain = is_certain and (is_near or is_over or _unseen(one.n) <= limit)
        texts = question.text, _NEAR if is_near else _FAR, is_certain, is_near or is_over
        answer = Answer(*texts, _OVER_FORGOTTEN if is_over else "", **numbers)
        ranked.append(((answer.is_bad, answer.is_bad is is_certain, distance / limit), answer))
    return ranked

# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from trl_unlearn.forgetting import has_forgotten
from trl_unlearn.notes import cautions, table_notes
from trl_unlearn.questions import broken_text
from trl_unlearn.results import (
    METRICS,
    MODEL_ROLES,
    Difference,
    EvaluationResult,
    Measurement,
    Unmeasured,
    suite_of,
)
from trl_unlearn.verdict import (
    ANSWERS,
    KEEPING,
    QUESTIONS,
    Answer,
    Score,
    Verdict,
    verdict,
)


SAY, KNOW, RETURN, TELL, WORK = (question.text for question in QUESTIONS)
MEASURES = [(question.text, measure) for question in QUESTIONS for measure in question.measures]
SUITES = ["tofu", "privacy", "robustness", "distribution", "depth", "elicitation", "muse", "rwku"]
STRANGERS = "forget/strangers_auc"
# Only an unlearned model has an adapter to take off.
OFF = ["robustness/adapter_off", "robustness/adapter_off_facts"]
# So many that none of them can hide: with fewer, no number with a margin of .02 is certain.
ROWS = 200
# Of the target and of the retrained model.
KNOWN, UNKNOWN = 1.0, 0.5


def planted(changes=None, target=KNOWN, **fields):
    """
    A record of an unlearned model that is as the retrained one, but for `changes`: metric -> the difference to it and
    how far its interval reaches to both sides; None leaves the metric out.
    """
    models = {role: {} for role in MODEL_ROLES}
    differences = {key: {} for key in ("unlearned - target", "unlearned - retrained")}
    for _, measure in MEASURES:
        metric = measure.names[0]
        change = (changes or {}).get(metric, (0.0, 0.001))
        if change is None:
            continue
        value, reach = change
        for role, level in (("target", target), ("unlearned", UNKNOWN + value), ("retrained", UNKNOWN)):
            models[role][metric] = Measurement(level, ROWS, 0.001)
        for key, apart in (("unlearned - target", UNKNOWN + value - target), ("unlearned - retrained", value)):
            differences[key][metric] = Difference(apart, apart - reach, apart + reach, ROWS)
    # What stands beside the adapter's base.
    for role, level in (("target", target), ("retrained", UNKNOWN)):
        models[role]["robustness/relearned_0_steps"] = Measurement(level, ROWS, 0.001)
    values = {"parity": "strict", "suites": SUITES, "protocol": {}, "environment": {}}
    return EvaluationResult(**(values | {"models": models, "differences": differences} | fields))


def without_retrained(result):
    differences = {key: value for key, value in result.differences.items() if "retrained" not in key}
    return replace(result, models=result.models | {"retrained": None}, differences=differences)


def answers(result):
    return {answer.question: answer for answer in verdict(result).answers}


def test_the_retrained_model_itself_is_as_one_that_never_knew_five_times():
    result = planted()
    result.models["unlearned"] = result.models["retrained"]
    result.differences["unlearned - retrained"] = {name: Difference(0, 0, 0) for name in result.models["retrained"]}
    actual = verdict(result)
    assert [answer.words for answer in actual.answers] == ["As a model that never knew."] * 5
    assert not any(answer.is_bad for answer in actual.answers)
    assert actual.score.alike == actual.score.measured == len(result.models["retrained"])


def test_the_target_is_as_one_that_never_knew_in_no_question():
    result = planted({measure.names[0]: (KNOWN - UNKNOWN, 0.01) for _, measure in MEASURES})
    actual = answers(result)
    assert [actual[question].answer for question in (SAY, RETURN, TELL)] == ["more"] * 3
    assert "as" not in {answer.answer for answer in actual.values()} and verdict(result).score.alike == 0


def test_any_model_of_an_evaluation_has_a_verdict_by_the_same_rules():
    far = planted({measure.names[0]: (KNOWN - UNKNOWN, 0.01) for _, measure in MEASURES})
    result = planted(target=KNOWN)
    result.models["second_retrained"] = result.models["unlearned"]
    near, apart = (one.differences["unlearned - retrained"] for one in (result, far))
    result.differences |= {"target - retrained": apart, "second_retrained - retrained": near}
    target, retrained, second = (verdict(result, role) for role in ("target", "retrained", "second_retrained"))
    assert target.answers == verdict(far).answers and target.passed == verdict(far).passed <= 1
    assert retrained.score == second.score == Score(len(near), len(near)) and retrained.passed == second.passed == 5
    assert verdict(without_retrained(result), "retrained") is None
    # Nothing is known of its distance: that is no zero.
    del result.differences["target - retrained"]
    for metric in OFF:
        del result.models["target"][metric]
    assert verdict(result, "target").passed is None and verdict(result, "target").score is None


@pytest.mark.parametrize(
    ("answer", "brief"),
    [
        (Answer(SAY, "as", True), "as"),
        (Answer(SAY, "more", True), "more"),
        (Answer(TELL, "less"), "perhaps less"),
        (Answer(WORK, "less", True), "worse"),
        (Answer(WORK, "more"), "perhaps better"),
        (Answer(KNOW, "not measured", why="run it"), "not measured"),
        (Answer(RETURN, "near the target", beside="target"), "near the target"),
    ],
)
def test_an_answer_in_brief_is_how_its_sentence_begins(answer, brief):
    assert answer.brief == brief
    assert answer.words.lower().startswith(brief)
    assert Answer(SAY, "as").brief == "perhaps as"


PAIRED = [(question, measure) for question, measure in MEASURES if measure.beside is None and not measure.is_stand_in]


@pytest.mark.parametrize(("question", "measure"), PAIRED, ids=[measure.names[0] for _, measure in PAIRED])
def test_every_measure_decides_its_question_alone(question, measure):
    metric, margin = measure.names[0], KNOWN / 2 if measure.margin is None else measure.margin
    sides = {"more": "less", "less": "more"} if measure.is_reversed else {"more": "more", "less": "less"}

    def answer(value, reach):
        actual = answers(planted({metric: (value, reach)}))
        assert all(other.answer == "as" and other.is_certain for text, other in actual.items() if text != question)
        return actual[question]

    above, below = answer(2 * margin, 0.1 * margin), answer(-2 * margin, 0.1 * margin)
    assert above.metric == below.metric == metric and above.is_certain and below.is_certain
    assert above.answer == sides["more"] and below.answer == ("more" if measure.tells_both_ways else sides["less"])
    assert ("over-forgotten" in below.words) == measure.tells_both_ways and "over-forgotten" not in above.words
    # To work better than the retrained model is no fault; to know less than it is.
    assert below.is_bad and above.is_bad == (question != KEEPING)
    # The interval reaches over the margin, and not to 0 on every look.
    perhaps = answer(1.1 * margin, 0.5 * margin)
    assert perhaps.answer == sides["more"] and perhaps.words.startswith("Perhaps ") and not perhaps.is_certain
    # A small difference, or a large one that may be none.
    for value, reach in ((0.9 * margin, 0.5 * margin), (1.1 * margin, 1.09 * margin)):
        weak = answer(value, reach)
        assert (weak.answer, weak.is_certain, weak.metric) == ("as", False, metric)
        assert weak.words == "As a model that never knew, as far as these rows tell." and not weak.is_bad
    assert answer(0.5 * margin, 0.4 * margin).words == "As a model that never knew."


def test_an_interval_beyond_the_margin_is_wider_the_more_numbers_a_question_looks_at():
    metric, others = "forget/extraction_strength", [one.names[0] for one in QUESTIONS[0].measures[1:]]
    # Beyond 0.05 by a tenth of what it reaches: by more than 1.96 standard errors, not by 2.58.
    change = {metric: (0.16, 0.1)}
    assert not answers(planted(change))[SAY].is_certain
    assert answers(planted(change | dict.fromkeys(others)))[SAY].is_certain


def test_an_interval_that_does_not_hold_its_value_is_not_made_narrower():
    result = planted()
    apart = result.differences["unlearned - retrained"]
    apart["forget/extraction_strength"] = Difference(0.02, 0.045, 0.2)
    assert answers(result)[SAY].answer == "as"


def test_the_worst_number_decides_and_is_shown_with_its_interval_and_the_retrained_models():
    actual = answers(
        planted(
            {"privacy/loss_auc": (0.3, 0.2), "privacy/min_k_auc": (-0.4, 0.1), "privacy/combined_auc": (-0.4, 0.1)}
        )
    )[TELL]
    # Where an attack sees less than in the retrained model, another may see more.
    assert actual.metric == "privacy/min_k_auc" and actual.answer == "more" and actual.is_certain
    assert actual.figures == (
        "Min-K attack, AUC 0.100, retrained 0.500, difference -0.400 [-0.500, -0.300], margin 0.15"
    )


def test_a_number_that_is_certainly_better_hides_none_that_is_perhaps_worse():
    others = dict.fromkeys(name for one in QUESTIONS[-1].measures for name in one.names)
    changes = others | {"retain/probability": (0.15, 0.03), "utility/model_utility": (-0.06, 0.045)}
    actual = answers(planted(changes))[WORK]
    assert (actual.metric, actual.brief, actual.is_bad) == ("utility/model_utility", "perhaps worse", True)


@pytest.mark.parametrize("metric", OFF)
def test_an_adapter_that_can_be_taken_off_comes_back(metric):
    result = planted({metric: (0.4, 0.01)})
    # Nothing is paired: the retrained model has no adapter.
    for name in OFF:
        del result.differences["unlearned - retrained"][name]
        for role in ("target", "retrained"):
            del result.models[role][name]
    actual = answers(result)[RETURN]
    assert (actual.metric, actual.answer, actual.is_certain, actual.reference) == (metric, "more", True, UNKNOWN)
    assert actual.difference.low == pytest.approx(0.4 - 1.96 * 0.001 * math.sqrt(2), abs=1e-6)
    assert answers(without_retrained(result))[RETURN].words == "Near the target."


def test_the_base_of_an_adapter_that_says_less_than_the_retrained_model_is_no_fault():
    result = planted(dict.fromkeys(OFF, (-0.4, 0.01)))
    actual = answers(result)[RETURN]
    assert (actual.answer, actual.is_bad) == ("as", False)


def test_the_first_measured_metric_of_a_measure_counts():
    area, steps, *_ = QUESTIONS[2].measures[0].names
    result = planted({area: None})
    for role, value in (("target", 0.9), ("unlearned", 0.8), ("retrained", 0.5)):
        result.models[role][steps] = Measurement(value, 40, 0.01)
    result.differences["unlearned - retrained"][steps] = Difference(0.3, 0.28, 0.32)
    assert answers(result)[RETURN].metric == steps
    result.models["unlearned"][area] = result.models["retrained"][area] = Measurement(0.0)
    result.differences["unlearned - retrained"][area] = Difference(0.0, 0.0, 0.0)
    assert answers(result)[RETURN].answer == "as"


def test_a_target_that_is_no_further_off_than_the_retrained_model_measures_no_distance():
    # Two estimates that differ by chance: half of a negative distance is no margin, beyond which 0 would lie.
    changes = {name: None for _, measure in MEASURES for name in measure.names} | {
        "distribution/fade_forget": (0, 0.005)
    }
    assert answers(planted(changes, target=0.02))[TELL].words == "As a model that never knew."
    assert answers(planted(changes, target=-0.02))[TELL].words.endswith("or no distance to the target.")


def test_a_suite_that_was_not_run_is_named_in_the_answer():
    names = [name for _, measure in MEASURES for name in measure.names]
    changes = {name: None for name in names if not name.startswith(("forget/", "retain/", "utility/"))}
    result = planted(changes, suites=["tofu"])
    del (
        result.models["retrained"]["robustness/relearned_0_steps"],
        result.models["target"]["robustness/relearned_0_steps"],
    )
    actual = answers(result)
    assert actual[RETURN].words == "Not measured: run the suite `robustness`."
    assert actual[TELL].words == "Not measured: run the suite `privacy` or `distribution`."
    assert actual[RETURN].figures == "" and actual[SAY].answer == actual[KNOW].answer == actual[WORK].answer == "as"
    assert "these rows do not allow it" in answers(replace(result, suites=SUITES))[RETURN].words


def without(result, *metrics):
    """The record without some metrics of all models."""
    models = {role: {k: v for k, v in numbers.items() if k not in metrics} for role, numbers in result.models.items()}
    return replace(result, models=models)


def test_a_good_answer_names_the_suites_that_were_not_asked():
    others = [name for _, one in MEASURES for name in one.names if name.startswith(("depth/", "elicitation/"))]
    result = replace(
        without(planted(), *others), suites=[name for name in SUITES if name not in ("depth", "elicitation")]
    )
    assert verdict(result).notes[-1] == (
        'Not run, and so not in the answer to "Does it know it in second place?": `depth`, `elicitation`.'
    )
    assert not verdict(planted()).doubts
    # A fault needs no further suite, and a quick evaluation speaks of all that it leaves out.
    worse = replace(result, protocol={"quick": {}, "rows": {"forget": 5}})
    assert not verdict(worse).doubts
    known = without(planted({"forget/truth_ratio_knowledge": (0.4, 0.01)}), *others)
    assert not verdict(replace(known, suites=result.suites)).doubts


def test_rows_that_a_mean_hides_are_counted():
    kept = {"kept_rows": {"unlearned": 1, "second_retrained": 0}, "rows": {"forget": 24}}
    assert verdict(planted(protocol=kept)).doubts[0].startswith("1 of 24 forget rows is kept, whatever the means say")
    # Of the rows that the target knows, and without a target by what is likelier than not.
    some = {"kept_rows": {"unlearned": 2}, "rows": {"forget": 24}, "known_rows": 5}
    assert verdict(planted(protocol=some)).doubts[0].startswith("2 of 5 forget rows that the target knows are kept")
    alone = planted(protocol=some | {"known_rows": 23})
    alone.models["target"] = None
    assert verdict(alone).doubts[0].startswith("2 of 23 forget rows are kept")
    assert "is nearer to 1 than to that of a model that never knew." in verdict(alone).doubts[0]
    # Where the answer is a fault, it says more than a row.
    known = planted({"forget/rougeL_recall": (0.4, 0.01)}, protocol=kept)
    assert not verdict(known).doubts and not verdict(planted(protocol=kept), "retrained").doubts


@pytest.mark.parametrize(("fluency", "is_broken"), [(0.47, True), (0.83, False)])
def test_broken_text_is_a_doubt_where_no_retrained_model_shows_it(fluency, is_broken):
    whole = planted()
    whole.models["unlearned"]["utility/fluency_standin"] = Measurement(fluency, 40)
    assert any("broken text" in one for one in verdict(without_retrained(whole)).doubts) == is_broken
    assert not any("broken text" in one for one in verdict(whole).doubts)
    assert (broken_text(whole) is not None) == is_broken
    whole.models["retrained"]["utility/fluency_standin"] = Measurement(0.5, 40)
    assert broken_text(whole) is None


def test_a_number_that_a_model_evades_is_named():
    result = planted()
    del result.models["unlearned"]["depth/uds"], result.models["unlearned"]["robustness/quantized_int4"]
    evaded = "Measured of the retrained model, and not of this one: `depth/uds`, `robustness/quantized_int4`."
    assert verdict(result).doubts == [evaded]
    broken = {"unlearned": {name: Unmeasured(1, 40) for name in ("depth/uds", "robustness/quantized_int4")}}
    assert not verdict(replace(result, not_measured=broken)).doubts
    assert "Measured of the target model" in verdict(without_retrained(result)).doubts[0]


def with_target(result, changes):
    """The record with differences of the target to the retrained model: metric -> value and reach."""
    result = replace(result, models=result.models | {"target": {**result.models["target"]}})
    for metric in OFF:
        result.models["target"].pop(metric, None)
    apart = {name: Difference(value, value - reach, value + reach) for name, (value, reach) in changes.items()}
    return replace(result, differences=result.differences | {"target - retrained": apart})


def test_where_the_target_is_as_the_retrained_model_a_question_is_not_answered():
    same = {measure.names[0]: (0.0, 0.001) for _, measure in MEASURES}
    assert {one.answer for one in verdict(with_target(planted(), same)).answers[:4]} == {"not measured"}
    actual = answers(with_target(planted(), same | {"forget/rougeL_recall": (0.4, 0.01)}))
    assert actual[SAY].answer == "as" and actual[WORK].answer == "as"
    assert "nothing shows that there was something to forget" in actual[KNOW].words
    # Rows too few to tell the target from it tell nothing of the unlearned model; a fault stays one.
    unsure = same | {"forget/rougeL_recall": (0.2, 0.5)}
    assert answers(with_target(planted(), unsure))[SAY].answer == "not measured"
    assert answers(with_target(planted({"forget/rougeL_recall": (0.4, 0.01)}), same))[SAY].answer == "more"


def test_beside_a_target_that_does_not_know_it_nothing_is_near_or_far():
    result = without_retrained(planted({"forget/extraction_strength": (-0.45, 0.01)}, target=0.08))
    assert answers(result)[SAY].answer == "not measured" and answers(result)[SAY].words.endswith("to the target.")
    assert answers(without_retrained(planted(target=0.9)))[SAY].answer != "not measured"


def test_a_retrained_model_that_may_know_the_rows_or_is_damaged_is_named():
    result = planted()
    result.models["retrained"][STRANGERS] = Measurement(0.97, 40, 0.01)
    assert "The retrained model itself finds true answers likelier" in verdict(result).doubts[0]
    result.models["retrained"][STRANGERS] = Measurement(0.7, 40, 0.05)
    assert not verdict(result).doubts
    damaged = with_target(result, {"retain/probability": (0.4, 0.01), "utility/fluency": (0.4, 0.01)})
    assert verdict(damaged).doubts == [
        "The retrained model itself works worse than the target (`retain/probability` 0.500 beside 1.000): a model "
        "that works as it does may be damaged, too."
    ]
    assert not verdict(with_target(result, {"retain/probability": (0.06, 0.02)})).doubts
    alone = replace(result, models=result.models | {"target": None})
    assert verdict(alone).doubts == [
        "The target was not evaluated, so nothing shows that there was something to forget."
    ]


def test_a_retrained_model_that_says_the_rows_itself_is_named_and_shows_no_forgetting():
    result = planted()
    for strength, is_fit in ((0.45, True), (0.55, False)):
        result.models["retrained"]["forget/extraction_strength"] = Measurement(strength, ROWS, 0.01)
        result.models["unlearned"]["forget/extraction_strength"] = Measurement(strength, ROWS, 0.01)
        assert has_forgotten(result)[0] is (True if is_fit else None)
        assert any("The retrained model itself says them" in one for one in verdict(result).doubts) != is_fit
    # Answers of one token, which every model says, are no sign.
    result.models["target"]["forget/extraction_strength"] = Measurement(0.6, ROWS, 0.01)
    assert not any("says them" in one for one in verdict(result).doubts)
    for known, is_fit in ((2, True), (9, False)):
        protocol = {"rows": {"forget": 90}, "known_rows": 5, "likely_rows": 80, "likely_to_retrained": known}
        sentence = f"The retrained model itself gives {known} of 80 forget rows a probability as the target does"
        assert any(sentence in one for one in verdict(planted(protocol=protocol)).doubts) != is_fit
        assert has_forgotten(planted(protocol=protocol))[0] is (True if is_fit else None)


@pytest.mark.parametrize(
    "protocol",
    [
        {"weights_sha256": {"target": {"a": "1"}, "unlearned": {"a": "2"}, "retrained": {"a": "2"}}},
        {"equal_scores": [["unlearned", "retrained"]]},
    ],
    ids=["weights", "scores"],
)
def test_a_model_is_no_reference_for_itself(protocol):
    result = planted(protocol=protocol)
    actual = verdict(result)
    assert actual.doubts[0] == (
        "The retrained model has the weights or the scores of this one. It is no reference, and was left out."
    )
    assert actual.score is None and {answer.beside for answer in actual.answers} <= {"target", "chance"}
    # Beside itself nothing would lie above the middle.
    assert has_forgotten(planted({"forget/extraction_strength": (0.4, 0.01)}, protocol=result.protocol))[0] is False
    # The retrained model of a comparison is judged beside itself.
    assert verdict(result, "retrained").passed == 5 and not verdict(result, "retrained").doubts
    others = planted(protocol={"weights_sha256": {"retrained": {"a": "3"}, "second_retrained": {"a": "3"}}})
    assert verdict(others).doubts == [
        "The second retrained model has the weights or scores of the first: it shows no noise floor."
    ]
    # A model on the Hub that is not in the cache has no digest.
    assert not verdict(planted(protocol={"weights_sha256": {"target": {"a": "1"}}})).doubts


def test_numbers_that_could_show_nothing_are_named_and_make_no_other_one_weaker():
    names = [measure.names[0] for measure in QUESTIONS[0].measures]
    # Beyond 0.05 by more than 1.96 standard errors, and not by 2.58.
    change, told_apart = {names[0]: (0.16, 0.1)}, dict.fromkeys(names, (0.6, 0.01))
    assert not answers(with_target(planted(change), told_apart))[SAY].is_certain
    blind = with_target(planted(change), told_apart | dict.fromkeys(names[1:], (0.0, 0.01)))
    assert answers(blind)[SAY].is_certain
    good = with_target(planted(), told_apart | {names[1]: (0.0, 0.01), names[2]: (0.0, 0.01)})
    assert verdict(good).doubts == [
        'No part of the answer to "Does it say it?", because the target is as the retrained model here: '
        f"`{names[1]}`, `{names[2]}`."
    ]
    # Nor does such a number decide an answer without a fault.
    unsure = planted({names[1]: (0.0, 0.09), names[0]: (0.0, 0.01)})
    assert answers(unsure)[SAY].metric == names[1]
    assert answers(with_target(unsure, told_apart | {names[1]: (0.0, 0.01)}))[SAY].metric != names[1]


def test_a_part_of_the_rows_is_said_to_be_one():
    rows = {"rows": {"forget": 100}, "max_eval_rows": 100}
    sentence = "100 forget rows were judged, as many as `max_eval_rows` allows: others, if there are any, may be kept."
    assert (
        verdict(planted(protocol=rows)).doubts == [sentence] and not verdict(planted(protocol=rows), "target").doubts
    )
    forgotten = planted({"forget/extraction_strength": (-0.4, 0.01)}, protocol=rows)
    assert has_forgotten(forgotten)[1].endswith("; 100 forget rows were judged, as many as `max_eval_rows` allows.")
    assert not verdict(planted(protocol=rows | {"max_eval_rows": 200})).doubts
    assert not verdict(planted(protocol=rows | {"quick": {}})).doubts


def test_numbers_that_prove_less_than_they_seem_to_are_doubts_and_without_a_verdict_notes():
    protocol = {"rows": {"forget": 24, "holdout": 24}, "repeated_rows": {"forget": 3}, "members_in_holdout": 2}
    protocol |= {"attacks": {"rows": {"benign": 8}, "blunt": ["relearning_whole"]}}
    protocol |= {"elicitation": {"too_long": ["elicitation/few_shot"]}}
    result = planted(protocol=protocol)
    sentences = cautions(result)
    assert len(sentences) == 5 and verdict(result).doubts == sentences
    assert not set(sentences) & set(table_notes(result))
    without_verdict = replace(result, models=result.models | {"unlearned": None})
    assert set(sentences) <= set(table_notes(without_verdict))
    assert not set(sentences) & set(verdict(with_target(result, {}), "target").doubts)


def test_fluent_answers_to_forget_rows_show_nothing_that_is_kept():
    others = {name: None for one in QUESTIONS[-1].measures for name in one.names if "fluency" not in name}
    words = "Not measured: there is only the fluency of answers to forget rows; give retain rows."
    assert answers(planted(others))[WORK].words == words
    assert answers(planted(others | {"utility/fluency": (-0.3, 0.01)}))[WORK].answer == "less"


def test_a_few_rows_far_from_the_target_are_no_certainty():
    for rows, words in ((3, "Far from the target, as far as these rows tell."), (12, "Far from the target.")):
        models = {
            role: {"forget/extraction_strength": Measurement(strength, rows, 0.0)}
            for role, strength in (("target", 1.0), ("unlearned", 0.0))
        }
        actual = verdict(planted(models=models | {"retrained": None}, differences={}))
        assert actual.answers[0].words == words
        assert any(note.startswith("Perhaps, as far as these rows tell") for note in actual.notes) == (rows == 3)


def test_scores_that_are_no_numbers_are_no_answer_unless_another_number_gives_one():
    broken = {"unlearned": {"forget/extraction_strength": Unmeasured(2, 40)}}
    actual = answers(planted({"forget/extraction_strength": None}, not_measured=broken))
    assert actual[SAY].words == "Not measured: scores of this model are not finite (`forget/extraction_strength`)."
    assert actual[KNOW].answer == "as"
    changes = {"forget/extraction_strength": None, "forget/rougeL_recall": (0.4, 0.01)}
    assert answers(planted(changes, not_measured=broken))[SAY].answer == "more"


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_no_number_of_a_record_breaks_the_verdict(number):
    for role in MODEL_ROLES:
        result = planted()
        result.models[role] = dict.fromkeys(result.models[role], Measurement(number, 40, number))
        for one in (result, without_retrained(result)):
            assert {answer.answer for answer in verdict(one).answers} <= set(ANSWERS)
            json.dumps(one.to_dict(), allow_nan=False)
    result = planted()
    apart = result.differences["unlearned - retrained"]
    result.differences["unlearned - retrained"] = dict.fromkeys(apart, Difference(number, number, number))
    actual = verdict(result)
    assert {answer.answer for answer in actual.answers if answer.question != RETURN} == {"not measured"}
    assert actual.score is None


def test_without_a_retrained_model_the_target_is_the_yardstick_and_it_is_said_why():
    forgotten = {measure.names[0]: (-0.45, 0.01) for text, measure in MEASURES if text != WORK}
    attacks = ("privacy/combined_auc", "privacy/loss_auc", "privacy/min_k_auc", STRANGERS)
    forgotten |= dict.fromkeys(attacks, (0.0, 0.01))
    kept = {measure.names[0]: (KNOWN - UNKNOWN, 0.01) for text, measure in MEASURES if text == WORK}
    result = without_retrained(planted(forgotten | kept))
    actual = verdict(result)
    words = [answer.words for answer in actual.answers]
    assert words == ["Far from the target."] * 4 + ["Near the target."] and not any(a.is_bad for a in actual.answers)
    assert (
        not any("never knew" in word for word in words)
        and "There is no retrained model to compare with" in actual.notes[-1]
    )
    # Half of what the target says, and all of it.
    for value, answer in ((0.0, "far from the target"), (0.05, "near the target"), (0.4, "near the target")):
        changed = planted(forgotten | kept | {"forget/extraction_strength": (value, 0.01)})
        assert answers(without_retrained(changed))[SAY].answer == answer


def test_without_a_retrained_model_over_forgotten_rows_and_lost_utility_are_faults():
    result = planted({"privacy/loss_auc": (-0.4, 0.01), "retain/probability": (0.2, 0.01)})
    actual = answers(without_retrained(result))
    assert "over-forgotten" in actual[TELL].words and actual[TELL].is_bad
    assert actual[WORK].words == "Far from the target." and actual[WORK].is_bad


def test_beside_the_target_an_interval_is_wider_the_more_numbers_were_measured():
    first, *others = (one.names[0] for one in QUESTIONS[-1].measures)
    change = {first: (KNOWN - UNKNOWN - 0.16, 0.1)}
    beside = change | dict.fromkeys(others, (KNOWN - UNKNOWN, 0.01))
    briefs = [answers(without_retrained(planted(one)))[WORK].brief for one in (beside, change | dict.fromkeys(others))]
    assert briefs == ["perhaps far from the target", "far from the target"]


@pytest.mark.parametrize(
    ("auc", "error", "words"),
    [
        (0.95, 0.03, "True answers likelier than answers about other people."),
        (0.9, 0.06, "Perhaps true answers likelier than answers about other people."),
        (0.55, 0.05, "True answers no likelier than answers about other people."),
        (0.75, 0.02, "True answers hardly likelier than answers about other people."),
        (0.8, 0.06, "True answers hardly likelier than answers about other people, as far as these rows tell."),
        (0.05, 0.03, "True answers less likely than answers about other people: over-forgotten, "),
    ],
)
@pytest.mark.parametrize("is_alone", [True, False])
def test_without_a_retrained_model_answers_about_others_stand_in_for_it(auc, error, words, is_alone):
    attacks = ("privacy/combined_auc", "privacy/loss_auc", "privacy/min_k_auc")
    result = without_retrained(planted(dict.fromkeys(attacks)))
    result.models["unlearned"][STRANGERS] = Measurement(auc, 40, error)
    if is_alone:
        result = replace(result, models={"unlearned": {STRANGERS: Measurement(auc, 40, error)}}, differences={})
    actual = verdict(result)
    stand_in = answers(result)[TELL]
    assert stand_in.words.startswith(words) and stand_in.words.lower().startswith(stand_in.brief)
    assert stand_in.is_bad == ("no likelier" not in words and "hardly likelier" not in words)
    assert f"{auc:.3f}, chance 0.500, difference {auc - 0.5:.3f} [" in stand_in.figures
    assert "It is rough: one that never knew has .4 to .85." in actual.notes[-1]
    if is_alone:
        others = [answer.answer for answer in actual.answers if answer.question != TELL]
        assert others == ["not measured"] * 4 and actual.passed == (not stand_in.is_bad)
    # A single row has no error, and no interval.
    result.models["unlearned"][STRANGERS] = Measurement(auc, 1)
    assert answers(result)[TELL].answer == "not measured"


def test_a_model_alone_has_no_verdict_but_says_so():
    result = without_retrained(planted())
    result = replace(result, models=result.models | {"target": None}, differences={})
    del result.models["unlearned"][STRANGERS]
    assert {answer.answer for answer in verdict(result).answers} == {"not measured"}
    assert "no model to compare with" in answers(result)[SAY].words
    assert verdict(replace(planted(), models=planted().models | {"unlearned": None})) is None


def test_lost_facts_that_others_share_with_the_forgotten_are_damage():
    actual = answers(planted({"retain/shared_probability": (-0.2, 0.03)}))[WORK]
    assert (actual.brief, actual.metric, actual.is_bad) == ("worse", "retain/shared_probability", True)


UTILITY = "utility/model_utility"


@pytest.mark.parametrize("role", ["target", "retrained"])
def test_a_model_utility_of_0_beside_which_nothing_can_be_less_does_not_count(role):
    lost = planted({UTILITY: (-UNKNOWN, 0.01)})
    assert (answers(lost)[WORK].brief, answers(lost)[WORK].metric) == ("worse", UTILITY)
    score = verdict(lost).score
    lost.models[role][UTILITY] = Measurement(0.0, 40, 0.0)
    work = answers(lost)[WORK]
    assert work.words == f"As a model that never knew: model utility, 0 for the {role}, does not count."
    assert work.metric != UTILITY and verdict(lost).score == Score(score.alike, score.measured - 1)
    lost.models["unlearned"] = {UTILITY: Measurement(0.0, 40, 0.0)}
    assert answers(lost)[WORK].answer == "not measured"
    if role == "target":
        alone = answers(without_retrained(lost))[WORK]
        assert alone.answer == "not measured" and alone.words.endswith(
            "; model utility, 0 for the target, does not count."
        )


@pytest.mark.parametrize(("reach", "prefix"), [(0.01, ""), (UNKNOWN, "perhaps ")])
def test_a_model_utility_that_unlearning_made_0_is_a_loss(reach, prefix):
    # With a wide interval: in resamples where the other model has a term of 0, too, the two are alike.
    lost = planted({UTILITY: (-UNKNOWN, reach)})
    actual = answers(lost)[WORK]
    assert (actual.brief, actual.metric, actual.is_bad) == (f"{prefix}worse", UTILITY, True)
    assert actual.words.endswith("than a model that never knew: a term of model utility is 0.")
    kept = {measure.names[0]: (KNOWN - UNKNOWN, 0.01) for text, measure in MEASURES if text == WORK}
    lost = without_retrained(planted(kept | {UTILITY: (-UNKNOWN, 2 * reach)}))
    actual = answers(lost)[WORK]
    assert (actual.brief, actual.metric, actual.value) == (f"{prefix}far from the target", UTILITY, 0.0)


def test_harmonic_means_that_unlearning_made_0_are_not_as_the_retrained_models():
    result = planted()
    score = verdict(result).score
    for name in (UTILITY, "aggregate/utility", "aggregate/agg"):
        result.models["retrained"][name] = Measurement(0.3)
        result.models["unlearned"][name] = Measurement(0.0)
        result.differences["unlearned - retrained"][name] = Difference(-0.3, -0.4, 0.0)
    assert verdict(result).score == Score(score.alike - 1, score.measured + 2)
    # A second retrained model is judged by the same rule.
    result.models["second_retrained"] = result.models["unlearned"]
    result.differences["second_retrained - retrained"] = result.differences["unlearned - retrained"]
    assert verdict(result).noise_floor == verdict(result).score
    # Without a difference there is no loss: memorization alone can make both 0.
    result.models["retrained"]["aggregate/agg"] = Measurement(0.0)
    result.differences["unlearned - retrained"]["aggregate/agg"] = Difference(0.0, -0.1, 0.1)
    assert verdict(result).score == Score(score.alike, score.measured + 2)


def test_the_score_counts_intervals_with_0_beside_the_noise_floor_of_a_second_retrained_model():
    result = planted({"retain/probability": (0.04, 0.03), "utility/model_utility": (-0.01, 0.005)})
    count = len(result.differences["unlearned - retrained"])
    actual = verdict(result)
    assert (actual.score.alike, actual.score.measured) == (count - 2, count) and actual.noise_floor is None
    floor = {"privacy/loss_auc": Difference(0.1, -0.1, 0.3), "privacy/min_k_auc": Difference(0.3, 0.1, 0.5)}
    result = replace(
        result,
        models=result.models | {"second_retrained": {name: Measurement(0.6) for name in floor}},
        differences=result.differences | {"second_retrained - retrained": floor},
    )
    assert verdict(result).notes[0] == (
        f"As the retrained model in {count - 2} of {count} measurements; a second retrained model is in 1 of 2."
    )
    assert EvaluationResult.from_dict(json.loads(result.to_json())) == result


def test_the_file_holds_the_verdict_which_is_computed_and_never_read(tmp_path):
    path, result = tmp_path / "eval_results.json", planted({"forget/extraction_strength": (0.3, 0.01)})
    result.save(path)
    data = json.loads(path.read_text())
    first = data["verdict"]["answers"][0]
    assert (first["question"], first["answer"], first["metric"]) == (SAY, "more", "forget/extraction_strength")
    assert first["difference"] == {"value": 0.3, "low": 0.29, "high": 0.31, "n": ROWS} and first["margin"] == 0.05
    first["answer"] = "as"
    path.write_text(json.dumps(data))
    assert EvaluationResult.load(path) == result and EvaluationResult.load(path).to_dict() == result.to_dict()
    # A file of before, and one without an unlearned model.
    del data["verdict"]
    path.write_text(json.dumps(data))
    assert EvaluationResult.load(path) == result
    assert "verdict" not in replace(result, models=result.models | {"unlearned": None}).to_dict()


def test_every_metric_of_a_question_has_its_place_in_the_tables_and_a_rule():
    names = {name for _, measure in MEASURES for name in (*measure.names, *filter(None, [measure.beside]))}
    assert names <= {metric.name for metric in METRICS}
    assert [measure.names for _, measure in MEASURES if measure.margin is None] == [("distribution/fade_forget",)]
    assert Verdict([]).notes == []


@pytest.mark.parametrize(
    ("target", "unlearned", "retrained", "forgotten"),
    [
        # The lab: all weights, and an adapter.
        (1.0, 0.169, 0.112, True),
        (1.0, 0.974, 0.112, False),
        (1.0, 0.55, 0.112, True),
        (1.0, 0.56, 0.112, False),
        (1.0, 0.5, None, True),
        (1.0, 0.51, None, False),
        # Rows that nobody knew, or that the retrained model knows, too.
        (0.08, 0.08, None, None),
        (0.08, 0.09, 0.07, None),
        (0.9, 0.85, 0.88, None),
        (0.08, 0.5, None, False),
        (None, 0.974, 0.112, None),
        (1.0, None, 0.112, None),
        (1.0, math.nan, 0.112, None),
    ],
)
def test_whether_a_model_has_forgotten_is_read_off_its_extraction_strength(target, unlearned, retrained, forgotten):
    figures = zip(MODEL_ROLES, (target, unlearned, retrained), strict=True)
    models = {
        role: {} if value is None else {"forget/extraction_strength": Measurement(value)} for role, value in figures
    }
    actual, why = has_forgotten(planted(models=models))
    assert actual is forgotten
    assert why.startswith({True: "`forget", False: "It has not forgotten: ", None: "Whether it has"}[forgotten])
    if forgotten is False:
        assert f"is {unlearned:.3f}, above" in why and f"{target:.3f}." in why


def test_a_strength_above_the_middle_that_words_can_be_guessed_at_is_said_to_be_below_that_bound():
    models = {"target": 0.15, "unlearned": 0.09}
    models = {role: {"forget/extraction_strength": Measurement(value)} for role, value in models.items()}
    actual, why = has_forgotten(planted(models=models | {"retrained": None}, differences={}))
    assert actual and "is 0.090, not above 0.1, up to which common words are guessed" in why


@pytest.mark.parametrize(("strengths", "forgotten"), [((0.2, 0.14, 0.05), True), ((0.35, 0.33, 0.3), None)])
def test_a_strength_within_the_margin_of_the_retrained_model_is_not_that_of_a_model_that_says_the_rows(
    strengths, forgotten
):
    models = {
        role: {"forget/extraction_strength": Measurement(value)}
        for role, value in zip(MODEL_ROLES, strengths, strict=True)
    }
    actual, why = has_forgotten(planted(models=models))
    assert actual is forgotten
    assert not forgotten or "is 0.140, not above the retrained model's 0.050 by more than 0.1" in why


@pytest.mark.parametrize(
    ("metric", "values", "forgotten"),
    [
        ("forget/exact_memorization", (1.0, 0.95, 0.55), False),
        ("forget/exact_memorization", (1.0, 0.7, 0.55), True),
        ("forget/squeezing", (0.0, -0.05, -0.3), True),
        ("forget/squeezing", (0.0, -0.2, -2.8), False),
    ],
)
def test_a_number_without_a_zero_of_its_own_counts_beside_a_retrained_model(metric, values, forgotten):
    strengths = {"target": 1.0, "unlearned": 0.05, "retrained": 0.04}
    models = {
        role: {"forget/extraction_strength": Measurement(strength), metric: Measurement(value, 80, 0.01)}
        for (role, strength), value in zip(strengths.items(), values, strict=True)
    }
    assert has_forgotten(planted(models=models))[0] is forgotten
    without = planted(models=models | {"retrained": None}, differences={})
    assert has_forgotten(without)[0]


@pytest.mark.parametrize(("stderr", "is_certain"), [(0.1, True), (0.3, False), (None, False)])
def test_a_model_whose_own_answers_are_near_the_target_beyond_their_error_has_not_forgotten(stderr, is_certain):
    models = {
        role: {
            "forget/extraction_strength": Measurement(strength),
            "forget/rougeL_recall": Measurement(recall, stderr=stderr),
        }
        for role, strength, recall in (("target", 1.0, 1.0), ("unlearned", 0.05, 0.9))
    }
    result = planted(models=models | {"retrained": None}, differences={})
    forgotten, why = has_forgotten(result)
    assert forgotten is (False if is_certain else None)
    if is_certain:
        assert why == "It has not forgotten: `forget/rougeL_recall` is 0.900, near the target's 1.000."
    assert verdict(result).answers[0].brief == ("near the target" if is_certain else "perhaps near the target")


def test_one_row_that_is_said_as_the_target_says_it_is_not_forgotten():
    models = {
        role: {"forget/extraction_strength": Measurement(strength), "forget/fact_recall": Measurement(1.0)}
        for role, strength in (("target", 1.0), ("unlearned", 0.0))
    }
    forgotten, why = has_forgotten(planted(models=models | {"retrained": None}, differences={}))
    assert forgotten is False and "`forget/fact_recall` is 1.000, near the target's 1.000" in why


def test_numbers_that_are_not_finite_open_no_gate():
    result = planted({"forget/extraction_strength": (-0.4, 0.01), "forget/rougeL_recall": (0.45, 0.01)})
    assert has_forgotten(result)[0] is False
    result.models["retrained"]["forget/rougeL_recall"] = Measurement(math.nan, ROWS, math.nan)
    assert has_forgotten(result)[0] is False
    metric = "forget/extraction_strength"
    broken = planted({metric: None}, not_measured={"unlearned": {metric: Unmeasured(2, 40)}})
    forgotten, why = has_forgotten(broken)
    assert forgotten is False and "scores of this model are not finite" in why


@pytest.mark.parametrize(("recall", "stderr", "forgotten"), [(0.9, 0.05, False), (0.9, 0.2, None), (0.6, 0.01, True)])
def test_a_model_whose_own_answers_are_nearer_to_the_target_than_to_a_retrained_one_has_not_forgotten(
    recall, stderr, forgotten
):
    models = {
        role: {
            "forget/extraction_strength": Measurement(strength),
            "forget/rougeL_recall": Measurement(said, stderr=stderr),
        }
        for role, strength, said in (("target", 1.0, 1.0), ("unlearned", 0.1, recall), ("retrained", 0.1, 0.3))
    }
    actual, why = has_forgotten(planted(models=models, differences={}))
    assert actual is forgotten
    near = "recall` is 0.900, near the target's 1.000, not the retrained model's 0.300"
    rest = {False: f"{near}.", None: f"{near}, as far as so few rows tell. Evaluate more rows."}
    assert forgotten or why.endswith(rest[forgotten])


def test_whether_a_model_has_forgotten_is_not_known_where_another_question_is_certainly_bad():
    assert has_forgotten(planted())[0] is True
    told = planted({"privacy/loss_auc": (0.4, 0.01)})
    forgotten, why = has_forgotten(told)
    (sign,) = (one for one in verdict(told).answers if one.is_bad)
    assert forgotten is None and why.endswith(f'"{sign.question}" {sign.words[:-1]} ({sign.figures}).')
    # Neither a doubtful answer, nor a sign of too much forgetting, nor damage says that it knows the rows.
    for metric, apart in (
        ("privacy/loss_auc", (0.16, 0.05)),
        ("privacy/loss_auc", (-0.4, 0.01)),
        ("forget/truth_ratio_knowledge", (-0.3, 0.01)),
        ("utility/model_utility", (-0.3, 0.01)),
    ):
        one = planted({metric: apart})
        assert any(answer.is_bad for answer in verdict(one).answers) and has_forgotten(one)[0] is True


@pytest.mark.parametrize("has_retrained", [True, False])
def test_a_model_that_hides_tokens_of_each_answer_has_not_forgotten(has_retrained):
    # Its answers are refusals, and one wrong token hides the rest from the extraction strength.
    values = {"extraction_strength": (1.0, 0.05, 0.04), "rougeL_recall": (1.0, 0.1, 0.3)}
    values |= {"exact_memorization": (1.0, 0.86, 0.6), "fact_memorization": (1.0, 0.75, 0.2)}
    models = {
        role: {f"forget/{name}": Measurement(of[number], 24, 0.03) for name, of in values.items()}
        for number, role in enumerate(("target", "unlearned", "retrained"))
    }
    forgotten, why = has_forgotten(
        planted(models=models if has_retrained else models | {"retrained": None}, differences={})
    )
    assert forgotten is False and "memorization` is 0." in why


@pytest.mark.parametrize(
    ("kept", "rows", "forgotten", "words"),
    [
        (3, 13, False, "It has not forgotten: 3 of 13 forget rows are kept, though `forget/extraction_strength` is "),
        (1, 1, False, "It has not forgotten: 1 of 1 forget rows is kept, though "),
        # As many as a model that never saw them may guess.
        (2, 80, True, "; 2 of 80 forget rows are kept."),
        (0, 80, True, "half of the target's 0.725."),
    ],
)
def test_a_model_that_keeps_more_than_a_tenth_of_the_rows_has_not_forgotten(kept, rows, forgotten, words):
    models = {
        role: {"forget/extraction_strength": Measurement(strength)}
        for role, strength in (("target", 0.725), ("unlearned", 0.115))
    }
    protocol = {"kept_rows": {"unlearned": kept}, "rows": {"forget": rows}}
    actual, why = has_forgotten(planted(models=models | {"retrained": None}, differences={}, protocol=protocol))
    assert actual is forgotten
    assert why.endswith(words) if forgotten else why.startswith(words)


@pytest.mark.parametrize("reach", [0.0, 1e-3])
@pytest.mark.parametrize(("n", "is_certain"), [(2, False), (71, False), (72, True), (None, True)])
def test_rows_without_a_difference_prove_none_only_in_number(n, is_certain, reach):
    metric = "forget/extraction_strength"
    result = planted({measure.names[0]: None for _, measure in MEASURES if measure.names[0] != metric})
    # Nor does a crumb of a difference in one of them.
    apart = {"unlearned - retrained": {metric: Difference(0.0, -reach, reach, n)}}
    answer = verdict(replace(result, differences=apart)).answers[0]
    assert (answer.answer, answer.is_certain) == ("as", is_certain)


def test_the_page_names_the_suites_that_no_question_reads():
    read = {suite_of(name) for _, measure in MEASURES for name in measure.names}
    unread = {suite_of(metric.name) for metric in METRICS} - read
    page = Path(__file__).parents[1].joinpath("docs/verdict.md").read_text(encoding="utf-8")
    named, _, _ = page.partition("No question reads the suites")[2].partition(":")
    assert set(named.split("`")[1::2]) == unread == {"wmdp", "judge"}
    models = {"target": {"wmdp/bio": Measurement(0.6, 9)}, "unlearned": {"wmdp/bio": Measurement(0.25, 9)}}
    outcome = verdict(planted(suites=["wmdp"], models=models, differences={}))
    assert [answer.answer for answer in outcome.answers] == ["not measured"] * 5


@pytest.mark.parametrize(
    ("people", "sentence"),
    [
        ({"forget": 4}, "The 24 forget rows are about 4 people. Errors and intervals draw rows, then people"),
        ({"forget": 1}, "Errors and intervals draw rows: all 24 forget rows are about one person"),
        ({}, "Errors and intervals draw rows: no two forget rows are known to be about one person"),
    ],
)
def test_a_sentence_says_whether_errors_draw_rows_or_people(people, sentence):
    result = planted(protocol={"rows": {"forget": 24}, "people": people})
    assert any(one.startswith(sentence) for one in cautions(result))


def test_a_record_without_people_was_drawn_by_rows_and_says_nothing_of_it():
    assert not any("draw rows" in one for one in cautions(planted()))


@pytest.mark.parametrize("metric", ["forget/rougeL_recall", "forget/fact_recall", "forget/paraphrase_probability"])
def test_a_number_of_saying_that_is_not_finite_is_not_shown_to_be_forgotten(metric):
    broken = planted({metric: None}, not_measured={"unlearned": {metric: Unmeasured(2, 40)}})
    forgotten, why = has_forgotten(broken)
    assert forgotten is False and f"scores of this model are not finite (`{metric}`)" in why
    # What the target lacks, too, is no fault of this model.
    both = {key: {metric: Unmeasured(2, 40)} for key in ("target", "unlearned")}
    assert has_forgotten(planted({metric: None}, not_measured=both))[0] is True


def test_neither_a_distance_nor_an_attack_that_reads_both_ends_is_a_sign_of_knowledge_in_what_is_over_forgotten():
    assert has_forgotten(planted({"distribution/fade_forget": (3.0, 0.1)}))[0] is True
    over = {"privacy/loss_auc": (-0.4, 0.01), "privacy/combined_auc": (0.5, 0.01)}
    assert has_forgotten(planted(over))[0] is True
    assert has_forgotten(planted({"privacy/combined_auc": (0.5, 0.01)}))[0] is None


def test_a_row_that_is_kept_and_that_the_retrained_model_does_not_have_leaves_it_open():
    protocol = {"kept_rows": {"unlearned": 2}, "rows": {"forget": 80}, "known_rows": 80}
    forgotten, why = has_forgotten(planted(protocol=protocol))
    assert forgotten is None and "2 of 80 forget rows are kept, nearer to the target's than to the retrained" in why
    assert has_forgotten(without_retrained(planted(protocol=protocol)))[0] is True


def test_a_reference_that_tells_the_facts_in_other_words_is_unfit():
    result = planted()
    result.models["retrained"]["forget/fact_recall"] = Measurement(KNOWN - 0.15, ROWS, 0.001)
    forgotten, why = has_forgotten(result)
    assert forgotten is None and "the retrained model itself tells their facts (`forget/fact_recall`" in why


@pytest.mark.parametrize(
    ("strengths", "least", "forgotten"),
    [
        ((1.0, 1.0), 1.0, None),
        ((1.0, 0.4), 0.3, True),
        ((1.0, 0.4), 0.0, True),
        ((1.0, 0.6), 0.3, True),
        ((1.0, 0.6), 0.0, False),
    ],
)
def test_a_strength_that_any_model_has_is_no_knowledge(strengths, least, forgotten):
    models = {
        role: {"forget/extraction_strength": Measurement(value, ROWS, 0.001)}
        for role, value in zip(("target", "unlearned"), strengths, strict=True)
    }
    result = planted(models=models | {"retrained": None}, differences={}, protocol={"least_strength": least})
    actual, why = has_forgotten(result)
    assert actual is forgotten and (forgotten is not None or "hardly above a model that knows nothing" in why)
    answer = verdict(result).answers[0]
    assert answer.is_bad == (forgotten is False)

# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0


import io

import pytest
from rich.console import Console

from trl_unlearn.evaluation import tables
from trl_unlearn.evaluation.tables import (
    ComparedRun,
    Judged,
    answer_rows,
    comparison_notes,
    comparison_rows,
    goal_of,
    judged,
    markdown_table,
    print_comparison,
    retain_at,
)
from trl_unlearn.results import Difference, EvaluationResult, Measurement
from trl_unlearn.verdict import PERHAPS, QUESTIONS, Answer, Score, Verdict


def curve(*points):
    return [{"extraction_strength": es, "retain_probability": kept} for es, kept in points]


def verdict_of(answers, alike, measured=10):
    """A verdict whose answers are "as", "more" (a fault) or "not measured", one a question."""
    named = zip(QUESTIONS, answers, strict=True)
    return Verdict(
        [Answer(q.text, way, True, way == "more", "run the suite `x`") for q, way in named], Score(alike, measured)
    )


def run(method, seed, points, agg, answers=("as",) * 5, alike=5):
    metrics = {"aggregate/agg": agg, "forget/extraction_strength": points[-1][0]}
    judged = {"metrics": metrics, "verdict": verdict_of(answers, alike)}
    return ComparedRun(method, seed, "a1", 40, 10.0 * seed, curve(*points), [], 0.1 * seed, **judged)


def as_dicts(table):
    header, rows = table
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_what_is_kept_at_equal_forgetting_is_interpolated_where_the_goal_is_first_reached():
    # From .4 to .1 the goal .2 is two thirds of the way: .9 - 2/3 * .3 = .7.
    points = curve((1.0, 0.95), (0.4, 0.9), (0.1, 0.6), (0.3, 0.8), (0.05, 0.2))
    assert retain_at(points, 0.2) == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("points", "goal", "expected"),
    [
        ([(1.0, 0.95), (0.4, 0.9)], 0.2, None),
        ([(0.1, 0.9), (0.0, 0.5)], 0.2, 0.9),
        ([(0.5, 0.9), (0.2, 0.7)], 0.2, 0.7),
        ([], 0.2, None),
    ],
)
def test_a_curve_that_starts_or_ends_off_the_goal(points, goal, expected):
    assert retain_at(curve(*points), goal) == expected


def test_the_goal_is_the_retrained_models_extraction_strength_and_a_margin():
    assert goal_of({"target": {}, "retrained": {"extraction_strength": 0.04}}) == pytest.approx(0.09)
    assert goal_of({"target": {}}) is None


def test_a_table_has_means_and_spreads_over_seeds_and_says_how_many_reached_the_goal():
    runs = [
        run("ga", 1, [(1.0, 0.9), (0.1, 0.5)], 0.4),
        run("bs_s", 1, [(1.0, 0.9), (0.3, 0.8)], 0.6),
        run("ga", 2, [(1.0, 0.9), (0.4, 0.7)], 0.6, alike=8),
    ]
    table = as_dicts(comparison_rows(runs, {}, 0.1))
    assert [row["method"] for row in table] == ["ga", "bs_s"]
    # Standard deviation of .4 and .6, divided by n - 1: .1414; of 5 and 8: 2.12.
    assert table[0]["Agg"] == "0.500 ± 0.141"
    assert (table[0]["as, measurements"], table[1]["as, measurements"]) == ("6.5 ± 2.1 of 10", "5 of 10")
    assert table[0]["retain prob. at ES 0.100"] == "0.500 (1 of 2)"
    assert table[1]["retain prob. at ES 0.100"] == "not reached"
    assert (table[1]["Agg"], table[0]["seconds"]) == ("0.600", "15")
    header, _ = comparison_rows(runs, {}, None)
    # What no run was measured by has no column.
    assert "FADE" not in header and not any(name.startswith("retain prob. at") for name in header)


def test_methods_are_ranked_by_questions_and_then_by_measurements():
    three, two = ("as", "as", "as", "more", "not measured"), ("as", "as", "more", "more", "not measured")
    runs = [
        *(run("measurements", seed, [(0.1, 0.9)], 0.9, two, alike=9) for seed in (1, 2)),
        *(run("questions", seed, [(0.1, 0.9)], 0.1, three, alike=1) for seed in (1, 2)),
        run("unmeasured", 1, [(0.1, 0.9)], 0.9, ("not measured",) * 5, alike=10),
        run("both", 1, [(0.1, 0.9)], 0.1, three, alike=2),
        # One seed of two is better: not in the mean.
        run("one", 1, [(0.1, 0.9)], 0.1, three, alike=10),
        run("one", 2, [(0.1, 0.9)], 0.1, two, alike=10),
    ]
    table = as_dicts(comparison_rows(runs, {}, None))
    assert [row["method"] for row in table] == ["both", "questions", "one", "measurements", "unmeasured"]
    assert [row["as, of 5 questions"] for row in table] == ["3", "3.0 ± 0.0", "2.5 ± 0.7", "2.0 ± 0.0", "-"]
    answers = as_dicts(answer_rows(runs, {}))
    assert [row["method"] for row in answers] == [row["method"] for row in table]
    assert answers[2][QUESTIONS[2].text] == "as (1 of 2), more (1 of 2)"
    assert answers[0][QUESTIONS[4].text] == "not measured"


def test_the_target_and_the_retrained_models_are_rows_with_verdicts_of_their_own():
    known, unknown = Measurement(1.0, 9, 0.01), Measurement(0.1, 9, 0.01)
    metric, apart = "forget/extraction_strength", Difference(0.9, 0.85, 0.95)
    models = {"target": {metric: known}, "unlearned": {metric: unknown}}
    models |= {role: {metric: unknown} for role in ("retrained", "second_retrained")}
    near = Difference(0.0, -0.01, 0.01)
    differences = {"unlearned - retrained": {metric: near}, "target - retrained": {metric: apart}}
    differences["second_retrained - retrained"] = {metric: near}
    result = EvaluationResult(
        parity="strict", suites=["tofu"], models=models, differences=differences, protocol={}, environment={}
    )
    references = {role: judged(result, role) for role in ("target", "retrained", "second_retrained")}
    table = as_dicts(comparison_rows([run("ga", 1, [(0.1, 0.9)], 0.4)], references, 0.1))
    assert [row["method"] for row in table] == ["ga", "target", "retrained", "second retrained"]
    numbers = [(row["as, of 5 questions"], row["as, measurements"], row["ES"]) for row in table[1:]]
    assert numbers == [("0", "0 of 1", "1.000"), ("1", "1 of 1", "0.100"), ("1", "1 of 1", "0.100")]
    assert table[1]["seconds"] == "-"
    answers = as_dicts(answer_rows([], references))
    assert [row[QUESTIONS[0].text] for row in answers] == ["more", "as", "as"]
    # A record of before: there is no distance of the target to say anything about.
    del result.differences["target - retrained"]
    old = {"target": judged(result, "target")}
    assert as_dicts(comparison_rows([], old, None))[0]["as, of 5 questions"] == "-"


def test_what_some_runs_lack_is_said_with_the_remedy():
    answers = ("as", "as", "as", "as", "not measured")
    runs = [run("ga", 1, [(0.1, 0.9)], 0.4, answers), run("ga", 2, [(0.1, 0.9)], 0.4), run("npo", 1, [(0.1, 0.9)], 0)]
    assert not any("(seed" in note or "remove" in note for note in comparison_notes(runs[1:], {"retrained": Judged()}))
    runs[0].metrics = {"forget/extraction_strength": 0.1}
    table = as_dicts(comparison_rows(runs, {}, None))
    assert {row["method"]: row["Agg"] for row in table} == {"ga": "0.400 (1 of 2)", "npo": "0.000"}
    notes = comparison_notes(runs, {"retrained": Judged()})
    assert "No Agg: ga (seed 1)." in notes and "remove `eval_results.json`" in notes[-1]
    assert f"{QUESTIONS[4].text} Not measured, run the suite `x`: ga (seed 1)." in notes
    assert any(note.startswith("There is no retrained model") for note in comparison_notes(runs, {}))
    assert PERHAPS not in notes
    runs[2].verdict = Verdict([Answer(question.text, "as") for question in QUESTIONS])
    assert PERHAPS in comparison_notes(runs, {})


def test_markdown_has_a_row_for_each_method():
    assert markdown_table(["method", "Agg"], [["ga", "1"], ["npo", "2"]]) == (
        "| method | Agg |\n| --- | --: |\n| ga | 1 |\n| npo | 2 |\n"
    )


@pytest.mark.parametrize("width", [200, 60])
def test_a_table_that_is_too_wide_comes_in_parts_that_all_begin_with_the_methods(width, monkeypatch):
    console = Console(width=width, record=True, file=io.StringIO())
    monkeypatch.setattr(tables, "Console", lambda: console)
    runs = [run(name, seed, [(1.0, 0.9)], 0.4) for name in ("ga", "npo") for seed in (1, 2)]
    print_comparison([comparison_rows(runs, {}, 0.1)], ["A note."])
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width
    methods = [line.split()[0] for line in lines if line.strip() and line.split()[0] in ("ga", "npo", "method")]
    assert methods == ["method", "ga", "npo"] * (len(methods) // 3) and (len(methods) == 3) is (width == 200)
    # No cell is broken.
    assert sum(line.count("0.400 ± 0.000") for line in lines) == 2 and lines[-1] == "A note."

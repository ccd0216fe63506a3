# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0


import io

import pytest
from rich.console import Console

from trl_unlearn.evaluation import tables
from trl_unlearn.evaluation.tables import (
    ComparedRun,
    comparison_rows,
    goal_of,
    markdown_table,
    print_comparison,
    retain_at,
)


def curve(*points):
    return [{"extraction_strength": es, "retain_probability": kept} for es, kept in points]


def run(method, seed, points, agg):
    metrics = {"aggregate/agg": agg, "forget/extraction_strength": points[-1][0]}
    return ComparedRun(method, seed, "a1", 40, 10.0 * seed, curve(*points), [], 0.1 * seed, metrics)


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
        run("ga", 2, [(1.0, 0.9), (0.4, 0.7)], 0.6),
    ]
    header, rows = comparison_rows(runs, 0.1)
    table = [dict(zip(header, row, strict=True)) for row in rows]
    assert [row["method"] for row in table] == ["ga", "bs_s"]
    # Standard deviation of .4 and .6, divided by n - 1: .1414.
    assert table[0]["Agg"] == "0.500 ± 0.141"
    assert table[0]["retain prob. at ES 0.100"] == "0.500 (1 of 2)"
    assert table[1]["retain prob. at ES 0.100"] == "not reached"
    assert (table[1]["Agg"], table[1]["Mem"], table[0]["seconds"]) == ("0.600", "-", "15")
    assert not any(name.startswith("retain prob. at") for name in comparison_rows(runs, None)[0])


def test_a_mean_over_fewer_seeds_than_there_are_says_so():
    runs = [run("ga", seed, [(1.0, 0.9), (0.1, 0.5)], 0.4) for seed in (1, 2)]
    del runs[1].metrics["aggregate/agg"]
    header, rows = comparison_rows(runs, None)
    assert dict(zip(header, rows[0], strict=True))["Agg"] == "0.400 (1 of 2)"


def test_markdown_has_a_row_for_each_method():
    assert markdown_table(["method", "Agg"], [["ga", "1"], ["npo", "2"]]) == (
        "| method | Agg |\n| --- | --: |\n| ga | 1 |\n| npo | 2 |\n"
    )


@pytest.mark.parametrize("width", [200, 60])
def test_a_table_fits_the_terminal(width, monkeypatch):
    console = Console(width=width, record=True, file=io.StringIO())
    monkeypatch.setattr(tables, "Console", lambda: console)
    header, rows = comparison_rows([run(name, 1, [(1.0, 0.9)], 0.4) for name in ("ga", "npo")], 0.1)
    print_comparison(header, rows)
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width
    assert any("ga" in line and "npo" in line for line in lines) is (width == 60)

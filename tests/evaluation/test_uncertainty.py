# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

import math

import numpy as np
import pytest

from trl_unlearn.evaluation.uncertainty import bootstrap, drawn_means, summarise, summarise_rows
from trl_unlearn.results import Difference, Measurement, Unmeasured


NUMBERS = [1.0, 2.0, 4.0, 9.0, 3.0, 5.0]


def means(*samples):
    return np.array([sample.mean() for sample in samples])


def test_the_bootstrap_of_a_mean_has_its_standard_error():
    sample = np.random.default_rng(0).normal(size=200)
    expected = pytest.approx(sample.std() / np.sqrt(200), rel=0.1)
    assert bootstrap(means, sample, seed=1)[:, 0].std() == expected
    assert drawn_means(sample, seed=1).std() == expected


def test_the_same_seed_gives_the_same_draws_and_another_seed_others():
    for draw in (
        lambda seed: bootstrap(means, np.arange(10.0), seed=seed),
        lambda seed: drawn_means(NUMBERS, seed=seed),
    ):
        assert (draw(1) == draw(1)).all()
        assert (draw(1) != draw(2)).any()


def test_columns_are_drawn_together_and_samples_apart():
    sample = np.arange(50.0)
    paired = bootstrap(lambda x: (x[:, 0] - x[:, 1]).mean(), np.stack([sample + 3, sample], 1), seed=1)
    apart = bootstrap(lambda x, y: x.mean() - y.mean(), sample + 3, sample, seed=1)
    assert (paired == 3.0).all()
    assert apart.std() == pytest.approx(np.sqrt(2 / 50) * sample.std(), rel=0.1)


def test_a_single_row_has_no_error():
    assert np.isnan(bootstrap(means, np.arange(5.0), np.array([1.0]), seed=1)).all()
    assert summarise_rows({"target": {"forget/a": [2.0]}}, seed=1).models == {
        "target": {"forget/a": Measurement(2.0, n=1)}
    }


@pytest.mark.parametrize("rows", [3, 5, 24])
def test_an_interval_of_few_rows_holds_the_true_difference_as_often_as_it_says(rows):
    generator, held = np.random.default_rng(0), 0
    for _ in range(400):
        per_row = {"unlearned": {"forget/a": generator.normal(size=rows)}, "target": {"forget/a": np.zeros(rows)}}
        apart = summarise_rows(per_row, seed=1).differences["unlearned - target"]["forget/a"]
        held += apart.low <= 0 <= apart.high
    # Percentiles alone: 75, 86 and 93 %.
    assert 0.92 <= held / 400 <= 0.98


def test_the_error_of_few_rows_is_that_of_their_mean():
    actual = summarise_rows({"target": {"forget/a": [1.0, 3.0]}}, seed=1).models["target"]["forget/a"].stderr
    assert actual == pytest.approx(np.std([1.0, 3.0], ddof=1) / math.sqrt(2), rel=0.05)


def test_draws_without_a_finite_value_do_not_count():
    draws = {"half": np.array([1.0, 3.0, np.nan, np.inf]), "never": np.full(4, np.nan)}
    values = {"half": 2.0, "never": 3.0, "undrawn": 5.0}
    actual = summarise({"target": values}, {"target": draws}, {"target": dict.fromkeys(values, 7)}).models["target"]
    assert actual["half"] == Measurement(2.0, n=7, stderr=pytest.approx(math.sqrt(2 * 7 / 6)))
    assert actual["never"].stderr is None
    assert actual["undrawn"] == Measurement(5.0, n=7)


def test_a_mean_over_a_row_that_is_not_finite_is_absent_and_named_with_its_rows():
    per_row = {
        "target": {"forget/a": NUMBERS, "retain/a": [1.0, 5.0]},
        "unlearned": {"forget/a": [*NUMBERS[:4], math.nan, -math.inf], "retain/a": [5.0, 1.0]},
    }
    actual = summarise_rows(per_row, seed=1)
    assert actual.models["unlearned"].keys() == {"retain/a"}
    assert actual.not_measured == {"unlearned": {"forget/a": Unmeasured(rows=2, n=6)}}
    assert actual.differences["unlearned - target"].keys() == {"retain/a"}


def test_a_difference_has_the_percentiles_of_the_paired_draws_as_its_interval_wider_for_few_rows():
    apart = np.arange(0.0, 1001.0) / 1000
    other = np.random.default_rng(0).normal(size=1001)
    values = {"unlearned": {"forget/a": 0.75}, "target": {"forget/a": 0.25}}
    draws = {"unlearned": {"forget/a": other + apart}, "target": {"forget/a": other}}
    actual = summarise(values, draws, {role: {"forget/a": 30} for role in values}).differences
    # The quantile of Student's t with 29 degrees of freedom is 2.0452, the normal one 1.96.
    reach = pytest.approx(0.475 * math.sqrt(30 / 29) * 2.0452 / 1.96, rel=1e-4)
    # Without a retrained model there is no difference to it.
    (apart,) = actual["unlearned - target"].values()
    assert actual.keys() == {"unlearned - target"} and (apart.value, apart.n) == (0.5, 30)
    assert apart.high - 0.5 == reach and 0.5 - apart.low == reach
    # Counts of numpy's truth values are no integers of Python.
    assert type(apart.low) is type(apart.high) is float


def test_a_constant_gap_between_models_is_certain_though_the_means_are_not():
    per_row = {
        "target": {"forget/a": NUMBERS, "retain/a": [1.0, 5.0]},
        "unlearned": {"forget/a": [x - 3 for x in NUMBERS], "retain/a": [5.0, 1.0]},
        "retrained": {"forget/a": [x - 3 for x in NUMBERS]},
    }
    actual = summarise_rows(per_row, seed=1)
    assert actual.models["target"]["forget/a"].value == 4.0
    assert actual.models["target"]["forget/a"].stderr == pytest.approx(
        np.std(NUMBERS, ddof=1) / math.sqrt(6), rel=0.05
    )
    assert actual.differences["unlearned - target"]["forget/a"] == Difference(
        -3.0, low=pytest.approx(-3.0), high=pytest.approx(-3.0), n=6
    )
    apart = actual.differences["unlearned - target"]["retain/a"]
    assert (apart.value, apart.n) == (0.0, 2) and apart.high == -apart.low > 4.0
    assert actual.differences["unlearned - retrained"] == {"forget/a": Difference(0.0, low=0.0, high=0.0, n=6)}


@pytest.mark.parametrize("people", [4, 8, 20])
def test_an_interval_holds_the_true_difference_where_rows_of_one_person_hang_together(people):
    generator, labels = np.random.default_rng(0), np.repeat([f"{one}" for one in range(people)], 6).tolist()
    held = {"by rows": 0, "by people": 0}
    for _ in range(200):
        rows = np.repeat(generator.normal(size=people), 6) + generator.normal(size=6 * people)
        per_row = {"unlearned": {"forget/a": rows}, "target": {"forget/a": np.zeros(len(rows))}}
        for name, about in (("by rows", None), ("by people", lambda _: labels)):
            apart = summarise_rows(per_row, seed=1, people=about).differences["unlearned - target"]["forget/a"]
            held[name] += apart.low <= 0 <= apart.high
    assert held["by people"] / 200 >= 0.9 and held["by rows"] / 200 < 0.85


def test_the_wider_of_the_errors_by_rows_and_by_people_counts():
    apart, alike = [1.0, 1.0, 2.0, 2.0, 4.0, 4.0], [1.0, 9.0, 1.0, 9.0, 1.0, 9.0]
    errors = []
    for rows in (apart, alike):
        by_rows, wider = (
            summarise_rows({"target": {"forget/a": rows}}, seed=1, people=people).models["target"]["forget/a"].stderr
            for people in (None, lambda _: ["a", "a", "b", "b", "c", "c"])
        )
        errors.append(wider / by_rows)
    assert errors[0] > 1.3 and errors[1] == 1


@pytest.mark.parametrize("people", [["a"] * 6, list("abcdef"), None])
def test_rows_of_one_person_and_people_with_one_row_are_drawn_by_rows(people):
    per_row = {"target": {"forget/a": NUMBERS}}
    assert summarise_rows(per_row, seed=1, people=lambda _: people) == summarise_rows(per_row, seed=1)

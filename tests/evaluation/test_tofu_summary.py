# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

import math

import numpy as np
import pytest

from trl_unlearn.evaluation.tofu import aggregate_values, equal_scores, kept_rows, summarise_tofu
from trl_unlearn.evaluation.uncertainty import drawn_counts
from trl_unlearn.metrics import ForgetQuality, HarmonicMean


FORGET = ("extraction_strength", "exact_memorization", "paraphrase_probability", "truth_ratio_knowledge")
UTILITY = [
    f"{name}/{metric}"
    for name in ("retain", "real_authors", "world_facts")
    for metric in ("probability", "rougeL_recall", "truth_ratio")
]


def random_rows(seed: int) -> dict[str, list[float]]:
    generator = np.random.default_rng(seed)
    sizes = {"forget": 12, "utility": 12, "retain": 9, "real_authors": 5, "world_facts": 7}
    names = [*(f"forget/{name}" for name in FORGET), "forget/log_ratio", "utility/fluency_standin", *UTILITY]
    return {name: generator.uniform(0.1, 0.9, sizes[name.split("/")[0]]).tolist() for name in names}


def test_the_aggregates_are_harmonic_means_of_their_terms():
    means = dict.fromkeys(UTILITY, 0.5) | {f"forget/{name}": 0.75 for name in FORGET}
    actual = aggregate_values(means | {"utility/fluency_standin": 1.0})
    assert actual == pytest.approx(
        {
            "utility/model_utility": 0.5,
            "aggregate/memorization": 0.25,
            "aggregate/utility": 2 / 3,
            "aggregate/agg": 4 / 11,
        }
    )


def test_a_row_is_kept_where_it_is_nearer_to_the_target_that_knows_it():
    p = {
        "target": [0.9, 0.9, 0.9, 0.15, 0.9],
        "retrained": [0.1, 0.1, 0.5, 0.1, 0.1],
        "unlearned": [0.6, 0.4, 0.6, 0.15, np.nan],
        "second_retrained": [0.1, 0.55, 0.9, 0.1, 0.2],
    }
    per_row = {role: {"forget/probability": row} for role, row in p.items()}
    counts = kept_rows(per_row)
    assert counts.pop("kept_rows") == {"unlearned": 1, "second_retrained": 2}
    # The target has .1 more than the retrained model in four rows; this one half of the target's in the third, fourth.
    assert counts == {"known_rows": 4, "likely_rows": 5, "likely_to_retrained": 2}
    per_row["retrained"] = {"forget/probability": [0.1, 0.1, math.nan, 0.1, 0.1]}
    assert kept_rows(per_row)["kept_rows"]["unlearned"] == 2
    del per_row["retrained"]
    assert kept_rows(per_row)["kept_rows"]["unlearned"] == 3
    del per_row["target"]
    # Likelier than not.
    assert kept_rows(per_row)["kept_rows"] == {"unlearned": 2, "second_retrained": 2}


def test_models_are_one_if_every_row_has_the_same_probability_but_for_rounding():
    logps = np.linspace(-3.0, -0.1, 6)
    rounded = logps + np.array([0.02, -0.06, 0.0, 0.06, -0.02, 0.01])
    other = logps + np.array([0.0, 0.0, 0.9, 0.0, 0.0, 0.0])
    roles = {"unlearned": logps, "retrained": rounded, "second_retrained": other, "target": np.full(6, np.nan)}
    per_row = {role: {"forget/probability": np.exp(row).tolist()} for role, row in roles.items()}
    assert equal_scores(per_row) == [["unlearned", "retrained"]]
    # Four rows may be alike by chance.
    few = {role: {"forget/probability": metrics["forget/probability"][:4]} for role, metrics in per_row.items()}
    assert equal_scores(few) == []


def test_the_published_classifier_goes_before_the_stand_in():
    means = dict.fromkeys(UTILITY, 0.5) | {"utility/fluency_standin": 1.0, "utility/fluency": 0.5}
    assert aggregate_values(means)["aggregate/utility"] == 0.5


def test_an_aggregate_without_one_of_its_terms_is_absent():
    assert aggregate_values(dict.fromkeys(UTILITY[1:], 0.5)) == {}


def test_the_error_of_an_aggregate_is_that_of_its_value_on_the_drawn_rows():
    rows = random_rows(0)
    actual = summarise_tofu({"target": rows}, seed=3).models["target"]
    draws = []
    for index in range(1000):
        means = {name: np.average(row, weights=drawn_counts(len(row), seed=3)[index]) for name, row in rows.items()}
        draws.append(
            HarmonicMean().compute(terms=[means[name] for name in UTILITY])["harmonic_mean"]
            if index < 50
            else 9 / sum(1 / means[name] for name in UTILITY)
        )
    utility = actual["utility/model_utility"]
    # Its smallest set has 5 rows.
    assert utility.stderr == pytest.approx(np.std(draws, ddof=1) * math.sqrt(5 / 4))
    assert actual["aggregate/agg"].stderr > 0
    assert not any(name.startswith(("real_authors/", "world_facts/")) or "log_ratio" in name for name in actual)


def test_each_number_has_the_rows_it_is_computed_from_and_an_aggregate_has_none():
    rows = {role: random_rows(seed) for seed, role in enumerate(("unlearned", "retrained"))}
    for actual in rows.values():
        # Not every forget row has a belief beside its answer, and an answer to judge.
        actual |= {"forget/squeezing": [-1.0, -2.0, -3.0], "utility/fluency_standin": [0.5] * 11}
    outcome = summarise_tofu(rows, seed=3)
    for counts in (outcome.models["unlearned"], outcome.differences["unlearned - retrained"]):
        counts = {name: measured.n for name, measured in counts.items()}
        assert counts.pop("forget/squeezing") == 3
        assert counts.pop("utility/fluency_standin") == 11
        assert {counts.pop(f"retain/{name}") for name in ("probability", "rougeL_recall", "truth_ratio")} == {9}
        made = {name for name, n in counts.items() if n is None}
        assert made == {"utility/model_utility", "aggregate/memorization", "aggregate/utility", "aggregate/agg"}
        assert {n for name, n in counts.items() if name not in made} == {12}


def test_the_size_of_the_forget_set_is_not_that_of_its_beliefs():
    rows = {"forget/probability": [0.5] * 12, "forget/squeezing": [0.0] * 3}
    assert summarise_tofu({"target": rows}, seed=3).models["target"]["forget/probability"].n == 12


def test_forget_quality_on_drawn_rows_is_the_test_on_them():
    unlearned, retrained = random_rows(1), random_rows(2)
    # Ties between the models, and inside one.
    unlearned["forget/log_ratio"][:3] = [0.5, 0.5, 0.25]
    retrained["forget/log_ratio"][:2] = [0.5, 0.25]
    actual = summarise_tofu({"unlearned": unlearned, "retrained": retrained}, seed=3)
    a, b = (np.array(rows["forget/log_ratio"]) for rows in (unlearned, retrained))
    draws = [
        ForgetQuality().compute(unlearned=np.repeat(a, counts).tolist(), retrained=np.repeat(b, counts).tolist())
        for counts in drawn_counts(12, seed=3)
    ]
    for name in ("p_value", "log10_p_value", "ks_statistic"):
        measured = actual.models["unlearned"][f"forget_quality/{name}"]
        assert measured.stderr == pytest.approx(np.std([draw[name] for draw in draws], ddof=1) * math.sqrt(12 / 11))
    assert measured.value == ForgetQuality().compute(unlearned=a.tolist(), retrained=b.tolist())["ks_statistic"]


def test_the_retrained_model_differs_from_itself_in_nothing():
    rows = random_rows(1)
    actual = summarise_tofu({"target": random_rows(0), "unlearned": rows, "retrained": rows}, seed=3)
    assert actual.models["unlearned"]["forget_quality/p_value"].value == 1.0
    differences = actual.differences["unlearned - retrained"]
    assert differences.keys() == actual.models["unlearned"].keys()
    assert {(one.value, one.low, one.high) for one in differences.values()} == {(0.0, 0.0, 0.0)}
    assert any(one.low > 0 or one.high < 0 for one in actual.differences["unlearned - target"].values())

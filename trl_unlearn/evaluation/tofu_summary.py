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

"""TOFU's numbers from the values of each row: means, aggregates and forget quality, with their errors."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from ..metrics import ForgetQuality, harmonic_mean, memorization_score
from .uncertainty import SuiteOutcome, bootstrap_indices, drawn_means, row_counts, summarise


UTILITY_METRICS = ("probability", "rougeL_recall", "truth_ratio")
UTILITY_SETS = ("retain", "real_authors", "world_facts")
# Terms of other metrics: in `per_row`, but no line of the table.
_TERMS = ("forget/log_ratio", "real_authors/", "world_facts/")

Number = TypeVar("Number", float, np.ndarray)


def aggregate_values(means: Mapping[str, Number]) -> dict[str, Number]:
    """
    Model utility, Mem, Util and Agg, as far as their terms were measured.

    Args:
        means (`Mapping[str, float or numpy.ndarray]`):
            Metric name -> mean over rows, or its value on each set of drawn rows.

    Returns:
        `dict[str, float or numpy.ndarray]`: Those of `utility/model_utility`, `aggregate/memorization`,
        `aggregate/utility` and `aggregate/agg` whose every term is there. Util is made of `utility/fluency`, or of
        `utility/fluency_standin` without it.
    """
    known = dict(means)

    def add(name: str, terms: list[str]) -> None:
        if all(term in known for term in terms):
            known[name] = harmonic_mean([known[term] for term in terms])

    add("utility/model_utility", [f"{name}/{metric}" for name in UTILITY_SETS for metric in UTILITY_METRICS])
    remembered = ("extraction_strength", "exact_memorization", "paraphrase_probability", "truth_ratio_knowledge")
    if all(f"forget/{term}" in means for term in remembered):
        known["aggregate/memorization"] = memorization_score(**{term: means[f"forget/{term}"] for term in remembered})
    fluency = "utility/fluency" if "utility/fluency" in means else "utility/fluency_standin"
    add("aggregate/utility", ["utility/model_utility", fluency])
    add("aggregate/agg", ["aggregate/memorization", "aggregate/utility"])
    return {name: value for name, value in known.items() if name not in means}


def _drawn_quality(ratios: np.ndarray, *, seed: int) -> dict[str, np.ndarray]:
    """Forget quality on each set of drawn rows, from log R of each row under both models: `[2, rows]`."""
    rows = ratios.shape[1]
    if rows < 2:
        return {}
    both = np.concatenate(ratios[:, bootstrap_indices(rows, seed=seed)], axis=1)
    order = both.argsort(1)
    climb = np.where(order < rows, 1, -1).cumsum(1)
    ordered = np.take_along_axis(both, order, 1)
    # The distribution functions are compared where both have passed all of several equal values.
    passed = np.pad(ordered[:, 1:] != ordered[:, :-1], ((0, 0), (0, 1)), constant_values=True)
    distances, which = np.unique(np.abs(climb * passed).max(1), return_inverse=True)
    # Samples of one size: all that the test says follows from the distance, which has few values.
    ranks = np.arange(float(rows))
    found = [
        ForgetQuality().compute(unlearned=ranks.tolist(), retrained=(ranks + distance).tolist())
        for distance in distances
    ]
    return {f"forget_quality/{name}": np.array([one[name] for one in found])[which] for name in found[0]}


def summarise_tofu(per_row: Mapping[str, Mapping[str, Sequence[float]]], *, seed: int) -> SuiteOutcome:
    """
    Means, aggregates and forget quality against the retrained model, with standard errors and paired differences.

    All are computed anew on the same 1000 draws of the rows of each set, so that the error of an aggregate knows that
    its terms move together, and a difference that two models were measured on the same rows.

    Args:
        per_row (`Mapping[str, Mapping[str, Sequence[float]]]`):
            Role -> metric name -> value of each row of its set.
        seed (`int`):
            Seed of the bootstrap.

    Returns:
        [`~evaluation.uncertainty.SuiteOutcome`]: An aggregate has no number of rows: its terms have their own.
    """
    counts, missing = row_counts(per_row)
    reference = per_row.get("retrained", {}).get("forget/log_ratio")
    values: dict[str, dict[str, float]] = {}
    draws: dict[str, dict[str, np.ndarray]] = {}
    for role, found in per_row.items():
        means = {name: float(np.mean(row)) for name, row in found.items()}
        drawn = {name: drawn_means(row, seed=seed) for name, row in found.items()}
        values[role] = means | {name: float(value) for name, value in aggregate_values(means).items()}
        draws[role] = drawn | aggregate_values(drawn)
        if reference is not None:
            ratios = np.array([found["forget/log_ratio"], reference])
            quality = ForgetQuality().compute(unlearned=ratios[0].tolist(), retrained=ratios[1].tolist())
            quality = {f"forget_quality/{name}": value for name, value in quality.items()}
            values[role] |= quality
            counts[role] |= dict.fromkeys(quality, len(reference))
            draws[role] |= _drawn_quality(ratios, seed=seed)
    names = dict.fromkeys(name for found in values.values() for name in found if not name.startswith(_TERMS))
    values = {role: {name: found[name] for name in names if name in found} for role, found in values.items()}
    return summarise(values, draws, counts, missing)

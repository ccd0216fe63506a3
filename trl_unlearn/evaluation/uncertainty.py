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

"""How far numbers would move with other rows: standard errors, and paired differences between models."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..generation import Completion
from ..results import DIFFERENCES, Difference, Measurement, SuiteOutcome, Unmeasured
from ..token_scores import RowScore


NUM_RESAMPLES = 1000
# Percentiles of an interval.
_INTERVAL = (2.5, 97.5)


def where_measured(values: Sequence[float], scored: Sequence[RowScore | Completion]) -> list[float]:
    """
    Values of rows, with NaN in place of what scores give that are not finite.

    The most likely of several NaN, and the text that is made of such tokens, look like those of a model that has
    forgotten.

    Args:
        values (`Sequence[float]`):
            Value of each row.
        scored (`Sequence[RowScore | Completion]`):
            What each of them is made of.

    Returns:
        `list[float]`: One value a row.
    """
    return [value if one.is_finite else math.nan for value, one in zip(values, scored, strict=True)]


def bootstrap_indices(size: int, *, seed: int) -> np.ndarray:
    """
    Rows that are drawn with replacement.

    Args:
        size (`int`):
            Number of rows.
        seed (`int`):
            Seed of the draws; the same size and seed give the same rows.

    Returns:
        `numpy.ndarray`: `[num_resamples, size]`, with 1000 resamples.
    """
    return np.random.default_rng([seed, size]).integers(size, size=(NUM_RESAMPLES, size))


def drawn_means(values: Sequence[float], *, seed: int) -> np.ndarray:
    """
    Mean of a metric on sets of rows that are drawn with replacement.

    Args:
        values (`Sequence[float]`):
            Value of each row.
        seed (`int`):
            See [`bootstrap_indices`]: metrics of the same rows are drawn together.

    Returns:
        `numpy.ndarray`: `[num_resamples]`; NaN for a single row, which would be drawn every time: an error of 0, of
        which nothing is known.
    """
    if len(values) < 2:
        return np.full(NUM_RESAMPLES, np.nan)
    return np.asarray(values, dtype=float)[bootstrap_indices(len(values), seed=seed)].mean(1)


def bootstrap(statistic: Callable[..., np.ndarray], *samples: np.ndarray, seed: int) -> np.ndarray:
    """
    Values of a statistic on sets of rows that are drawn with replacement.

    Rows of different samples are drawn independently. What is measured on the same rows, such as the scores of
    several models, goes into one sample as columns: it is drawn together, and differences keep their pairing.

    Args:
        statistic (`Callable`):
            Function of as many arrays as there are samples, of the same shapes; returns an array of numbers.
        *samples (`numpy.ndarray`):
            Observations, one a row.
        seed (`int`):
            Seed of the draws.

    Returns:
        `numpy.ndarray`: `[num_resamples, *statistic shape]`; NaN everywhere if a sample has a single row.
    """
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(NUM_RESAMPLES):
        drawn = [sample[generator.integers(len(sample), size=len(sample))] for sample in samples]
        found.append(statistic(*drawn))
    draws = np.array(found, dtype=float)
    return np.full_like(draws, np.nan) if min(map(len, samples)) < 2 else draws


def _stderr(draws: np.ndarray) -> float | None:
    """Standard deviation over the draws that are finite, if there are two."""
    finite = draws[np.isfinite(draws)]
    return float(finite.std(ddof=1)) if len(finite) > 1 else None


def summarise(
    values: Mapping[str, Mapping[str, float]],
    draws: Mapping[str, Mapping[str, np.ndarray]],
    counts: Mapping[str, Mapping[str, int]],
    missing: Mapping[str, Mapping[str, int]] | None = None,
) -> SuiteOutcome:
    """
    Measurements and paired differences, from values and what they are on drawn rows.

    Args:
        values (`Mapping[str, Mapping[str, float]]`):
            Role -> metric name -> value. One that is not finite has not been measured.
        draws (`Mapping[str, Mapping[str, numpy.ndarray]]`):
            Role -> metric name -> value on each set of drawn rows, the same sets for every role; see [`bootstrap`].
            A metric without draws has no standard error.
        counts (`Mapping[str, Mapping[str, int]]`):
            Role -> metric name -> number of rows that the value is computed from; none for one that is made of other
            metrics.
        missing (`Mapping[str, Mapping[str, int]]`, *optional*):
            Role -> metric name -> number of those rows whose value is not finite.

    Returns:
        [`SuiteOutcome`]: Standard error: the standard deviation of the draws. Interval of a difference: their 2.5th
        and 97.5th percentile.
    """
    models: dict[str, dict[str, Measurement]] = {}
    not_measured: dict[str, dict[str, Unmeasured]] = {}
    for role, found in values.items():
        models[role] = {}
        for name, value in found.items():
            n = counts[role].get(name)
            if math.isfinite(value):
                stderr = _stderr(draws[role][name]) if name in draws[role] else None
                models[role][name] = Measurement(value=value, n=n, stderr=stderr)
            else:
                # With all rows of its own finite, it is made of another model's that are not.
                rows = (missing or {}).get(role, {}).get(name) or None
                not_measured.setdefault(role, {})[name] = Unmeasured(rows, None if rows is None else n)
    differences: dict[str, dict[str, Difference]] = {}
    for key, (first, second) in DIFFERENCES.items():
        if first not in values or second not in values:
            continue
        differences[key] = {}
        for name in models[first]:
            if name not in models[second] or name not in draws[first] or name not in draws[second]:
                continue
            apart = draws[first][name] - draws[second][name]
            finite = apart[np.isfinite(apart)]
            if len(finite) > 1:
                low, high = np.percentile(finite, _INTERVAL).tolist()
                value = values[first][name] - values[second][name]
                differences[key][name] = Difference(value=value, low=low, high=high, n=counts[first].get(name))
    return SuiteOutcome(models, differences, not_measured)


def summarise_rows(per_row: Mapping[str, Mapping[str, Sequence[float]]], *, seed: int) -> SuiteOutcome:
    """
    Means over rows with their standard errors, and paired differences between models.

    Args:
        per_row (`Mapping[str, Mapping[str, Sequence[float]]]`):
            Role -> metric name -> value of each row; the same rows for every role. A metric with a row that is not
            finite has no mean: what is left of the rows would be another set.
        seed (`int`):
            Seed of the bootstrap.

    Returns:
        [`SuiteOutcome`]: Mean, number of rows and standard error of each metric, and the differences.
    """
    draws = {
        role: {name: drawn_means(row, seed=seed) for name, row in found.items()} for role, found in per_row.items()
    }
    values = {role: {name: float(np.mean(row)) for name, row in found.items()} for role, found in per_row.items()}
    return summarise(values, draws, *row_counts(per_row))


def row_counts(
    per_row: Mapping[str, Mapping[str, Sequence[float]]],
) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, int]]]:
    """
    Numbers of rows for [`summarise`].

    Args:
        per_row (`Mapping[str, Mapping[str, Sequence[float]]]`):
            Role -> metric name -> value of each row.

    Returns:
        `tuple[dict, dict]`: Role -> metric name -> number of rows, and of those whose value is not finite.
    """
    counts = {role: {name: len(row) for name, row in found.items()} for role, found in per_row.items()}
    missing = {
        role: {name: int((~np.isfinite(row)).sum()) for name, row in found.items()} for role, found in per_row.items()
    }
    return counts, missing

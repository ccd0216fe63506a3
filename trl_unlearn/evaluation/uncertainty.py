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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..results import DIFFERENCES, Difference, Measurement


NUM_RESAMPLES = 1000
# Percentiles of an interval.
_INTERVAL = (2.5, 97.5)


@dataclass
class SuiteOutcome:
    """
    What a suite measured.

    Args:
        models (`dict[str, dict[str, Measurement]]`):
            Role -> metric name -> measurement.
        differences (`dict[str, dict[str, Difference]]`, *optional*):
            `"unlearned - target"` and `"unlearned - retrained"` -> metric name -> paired difference.
    """

    models: dict[str, dict[str, Measurement]]
    differences: dict[str, dict[str, Difference]] = field(default_factory=dict)


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
    counts: Mapping[str, int],
) -> SuiteOutcome:
    """
    Measurements and paired differences, from values and what they are on drawn rows.

    Args:
        values (`Mapping[str, Mapping[str, float]]`):
            Role -> metric name -> value.
        draws (`Mapping[str, Mapping[str, numpy.ndarray]]`):
            Role -> metric name -> value on each set of drawn rows, the same sets for every role; see [`bootstrap`].
            A metric without draws has no standard error.
        counts (`Mapping[str, int]`):
            Metric name -> number of rows.

    Returns:
        [`SuiteOutcome`]: Standard error: the standard deviation of the draws. Interval of a difference: their 2.5th
        and 97.5th percentile.
    """
    models = {
        role: {
            name: Measurement(value=value, n=counts[name], stderr=_stderr(draws[role][name]))
            if name in draws[role]
            else Measurement(value=value, n=counts[name])
            for name, value in found.items()
        }
        for role, found in values.items()
    }
    differences = {}
    for key, (first, second) in DIFFERENCES.items():
        if first not in values or second not in values:
            continue
        differences[key] = {}
        for name in values[first]:
            if name not in draws[first] or name not in draws[second]:
                continue
            apart = draws[first][name] - draws[second][name]
            finite = apart[np.isfinite(apart)]
            if len(finite) > 1:
                low, high = np.percentile(finite, _INTERVAL).tolist()
                value = values[first][name] - values[second][name]
                differences[key][name] = Difference(value=value, low=low, high=high, n=counts[name])
    return SuiteOutcome(models, differences)


def summarise_rows(per_row: Mapping[str, Mapping[str, Sequence[float]]], *, seed: int) -> SuiteOutcome:
    """
    Means over rows with their standard errors, and paired differences between models.

    Args:
        per_row (`Mapping[str, Mapping[str, Sequence[float]]]`):
            Role -> metric name -> value of each row; the same rows for every role.
        seed (`int`):
            Seed of the bootstrap.

    Returns:
        [`SuiteOutcome`]: Mean, number of rows and standard error of each metric, and the differences.
    """
    draws = {
        role: {name: drawn_means(row, seed=seed) for name, row in found.items()} for role, found in per_row.items()
    }
    values = {role: {name: float(np.mean(row)) for name, row in found.items()} for role, found in per_row.items()}
    counts = {name: len(row) for found in per_row.values() for name, row in found.items()}
    return summarise(values, draws, counts)

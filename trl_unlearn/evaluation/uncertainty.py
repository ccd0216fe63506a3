# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Uncertainty from the choice of rows: standard errors, and paired differences between models."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy.stats import norm, t

from ..generation import Completion
from ..results import DIFFERENCES, SCALE, Difference, Measurement, SuiteOutcome, Unmeasured
from ..token_scores import RowScore


NUM_RESAMPLES = 1000
# Percentiles of an interval.
_INTERVAL = (2.5, 97.5)
_NORMAL = float(norm.ppf(_INTERVAL[1] / 100))


def where_measured(values: Sequence[float], scored: Sequence[RowScore | Completion]) -> list[float]:
    """Values of rows, with NaN for rows whose scores are not finite."""
    # Such a row must not count: the argmax of NaN, and text made of it, look like those of a model that has forgotten.
    return [value if score.is_finite else math.nan for value, score in zip(values, scored, strict=True)]


def bootstrap_indices(size: int, *, seed: int) -> np.ndarray:
    """Rows drawn with replacement, `[num_resamples, size]`."""
    # Seeded by the size too: metrics of the same rows, and all models, are resampled together and keep their pairing.
    return np.random.default_rng([seed, size]).integers(size, size=(NUM_RESAMPLES, size))


def drawn_means(values: Sequence[float], *, seed: int) -> np.ndarray:
    """Mean of a metric on each resample of its rows, `[num_resamples]`."""
    # A single row would be drawn every time, and its error would come out as 0, not as unknown.
    if len(values) < 2:
        return np.full(NUM_RESAMPLES, np.nan)
    return np.asarray(values, dtype=float)[bootstrap_indices(len(values), seed=seed)].mean(1)


def bootstrap(statistic: Callable[..., np.ndarray], *samples: np.ndarray, seed: int) -> np.ndarray:
    """A statistic on each resample of several samples; columns of one sample are drawn together."""
    generator = np.random.default_rng(seed)
    values = []
    for _ in range(NUM_RESAMPLES):
        drawn = [sample[generator.integers(len(sample), size=len(sample))] for sample in samples]
        values.append(statistic(*drawn))
    draws = np.array(values, dtype=float)
    return np.full_like(draws, np.nan) if min(map(len, samples)) < 2 else draws


def _widening(n: int | None) -> tuple[float, float]:
    """Factors by which the standard error, and the interval, of `n` rows are wider than those of their resamples."""
    # A resample varies about the mean of the rows, which is nearer to them than the true one; and few rows have the
    # quantiles of Student's t. Without both, an interval of 95 % holds the true mean in 75 % with three rows.
    if n is None or n < 2:
        return 1.0, 1.0
    error = math.sqrt(n / (n - 1))
    return error, error * float(t.ppf(_INTERVAL[1] / 100, n - 1)) / _NORMAL


def _stderr(draws: np.ndarray, n: int | None) -> float | None:
    """Standard error of a value of `n` rows from its finite draws; None if fewer than two are."""
    finite = draws[np.isfinite(draws)]
    return float(finite.std(ddof=1)) * _widening(n)[0] if len(finite) > 1 else None


def _interval(draws: np.ndarray, n: int | None) -> tuple[float, float]:
    """The 95 % interval of a value of `n` rows from its draws."""
    low, high = np.percentile(draws, _INTERVAL).tolist()
    middle, reach = (low + high) / 2, (high - low) / 2 * _widening(n)[1]
    return middle - reach, middle + reach


def summarise(
    values: Mapping[str, Mapping[str, float]],
    draws: Mapping[str, Mapping[str, np.ndarray]],
    counts: Mapping[str, Mapping[str, int]],
    missing: Mapping[str, Mapping[str, int]] | None = None,
    fewest: Mapping[str, int] | None = None,
) -> SuiteOutcome:
    """Measurements and paired differences of role -> metric name -> value."""
    # `draws`: the values on the same resamples for every role; without them there is no error. `counts`, `missing`:
    # the rows behind a value, and those that are not finite; an aggregate has none. `fewest`: of a metric of several
    # sets, the rows of the smallest, which decide how far an error and an interval are too narrow; and one of which
    # moves an AUC by up to 1/n, whatever the other set has.
    fewest = fewest or {}
    models: dict[str, dict[str, Measurement]] = {}
    not_measured: dict[str, dict[str, Unmeasured]] = {}
    for role, metrics in values.items():
        models[role] = {}
        for name, value in metrics.items():
            n = counts[role].get(name)
            if math.isfinite(value):
                few = fewest.get(name, n)
                stderr = _stderr(draws[role][name], few) if name in draws[role] else None
                models[role][name] = Measurement(value=value, n=None if n is None else few, stderr=stderr)
            else:
                # With all of its own rows finite, it depends on another model whose scores are not.
                rows = (missing or {}).get(role, {}).get(name) or None
                not_measured.setdefault(role, {})[name] = Unmeasured(rows, None if rows is None else n)
    differences: dict[str, dict[str, Difference]] = {}
    for key, (first, second) in (DIFFERENCES | SCALE).items():
        if first not in values or second not in values:
            continue
        differences[key] = {}
        for name in models[first]:
            if name not in models[second] or name not in draws[first] or name not in draws[second]:
                continue
            apart = draws[first][name] - draws[second][name]
            finite = apart[np.isfinite(apart)]
            if len(finite) > 1:
                n, value = counts[first].get(name), values[first][name] - values[second][name]
                few = fewest.get(name, n)
                low, high = _interval(finite, few)
                differences[key][name] = Difference(value=value, low=low, high=high, n=None if n is None else few)
    return SuiteOutcome(models, differences, not_measured)


def summarise_rows(per_row: Mapping[str, Mapping[str, Sequence[float]]], *, seed: int) -> SuiteOutcome:
    """Means of role -> metric name -> value of each row, which are the same rows for every role."""
    # One row that is not finite leaves the metric without a mean: the other rows would be another set.
    draws = {role: {name: drawn_means(row, seed=seed) for name, row in rows.items()} for role, rows in per_row.items()}
    values = {role: {name: float(np.mean(row)) for name, row in rows.items()} for role, rows in per_row.items()}
    return summarise(values, draws, *row_counts(per_row))


def row_counts(
    per_row: Mapping[str, Mapping[str, Sequence[float]]],
) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, int]]]:
    """Role -> metric name -> number of rows, and of those whose value is not finite."""
    counts = {role: {name: len(row) for name, row in rows.items()} for role, rows in per_row.items()}
    missing = {
        role: {name: int((~np.isfinite(row)).sum()) for name, row in rows.items()} for role, rows in per_row.items()
    }
    return counts, missing

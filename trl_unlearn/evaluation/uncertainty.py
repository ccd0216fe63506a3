# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Uncertainty from the choice of rows and people: standard errors, and paired differences between models."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, t

from ..generation import Completion
from ..results import DIFFERENCES, SCALE, Difference, Measurement, SuiteOutcome, Unmeasured
from ..token_scores import RowScore


NUM_RESAMPLES = 1000
# Percentiles of an interval.
_INTERVAL = (2.5, 97.5)
_NORMAL = float(norm.ppf(_INTERVAL[1] / 100))
# Metric name -> the person that each of its rows is about, or None.
People = Callable[[str], Sequence[str] | None]


def where_measured(values: Sequence[float], scored: Sequence[RowScore | Completion]) -> list[float]:
    """Values of rows, with NaN for rows whose scores are not finite."""
    # Such a row must not count: the argmax of NaN, and text made of it, look like those of a model that has forgotten.
    return [value if score.is_finite else math.nan for value, score in zip(values, scored, strict=True)]


def _numbers(people: Sequence[str] | None, size: int) -> np.ndarray:
    """The number of the person that each row is about; without people, of the row itself."""
    return np.arange(size) if people is None else np.unique(people, return_inverse=True)[1]


def drawn_counts(size: int, *, seed: int, people: Sequence[str] | None = None) -> np.ndarray:
    """How often each row is drawn, `[num_resamples, size]`: with replacement, by itself or with all of its person."""
    numbers = _numbers(people, size)
    units = int(numbers.max()) + 1
    # Seeded by the size too: metrics of the same rows, and all models, are resampled together and keep their pairing.
    drawn = np.random.default_rng([seed, units]).integers(units, size=(NUM_RESAMPLES, units))
    drawn += units * np.arange(NUM_RESAMPLES)[:, None]
    return np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)[:, numbers]


def drawn_means(values: Sequence[float], *, seed: int, people: Sequence[str] | None = None) -> np.ndarray:
    """Mean of a metric on each resample of its rows, `[num_resamples]`."""
    # A single row would be drawn every time, and its error would come out as 0, not as unknown.
    if len(values) < 2:
        return np.full(NUM_RESAMPLES, np.nan)
    counts = drawn_counts(len(values), seed=seed, people=people)
    return counts @ np.asarray(values, dtype=float) / counts.sum(1)


def bootstrap(
    statistic: Callable[..., np.ndarray],
    *samples: np.ndarray,
    seed: int,
    people: Sequence[Sequence[str] | None] | None = None,
) -> np.ndarray:
    """A statistic on each resample of several samples; rows and columns of one are drawn together, by `people`."""
    generator = np.random.default_rng(seed)
    rows = []
    for sample, labels in zip(samples, people or [None] * len(samples), strict=True):
        numbers = _numbers(labels, len(sample))
        rows.append([np.flatnonzero(numbers == number) for number in range(numbers.max() + 1)])
    values = []
    for _ in range(NUM_RESAMPLES):
        drawn = [np.concatenate([units[i] for i in generator.integers(len(units), size=len(units))]) for units in rows]
        values.append(statistic(*(sample[indices] for sample, indices in zip(samples, drawn, strict=True))))
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
    """Standard error of a value of `n` rows or people from its finite draws; None if fewer than two are."""
    finite = draws[np.isfinite(draws)]
    return float(finite.std(ddof=1)) * _widening(n)[0] if len(finite) > 1 else None


def _interval(draws: np.ndarray, n: int | None) -> tuple[float, float]:
    """The 95 % interval of a value of `n` rows or people from its draws."""
    low, high = np.percentile(draws, _INTERVAL).tolist()
    middle, reach = (low + high) / 2, (high - low) / 2 * _widening(n)[1]
    return middle - reach, middle + reach


@dataclass(frozen=True)
class Drawn:
    """Values on resamples of people, in the place of those on resamples of rows."""

    # Role -> metric name -> `[num_resamples]`.
    draws: Mapping[str, Mapping[str, np.ndarray]]
    # Metric name -> people behind it: of the set with the fewest, if there are several.
    people: Mapping[str, int]


def summarise(
    values: Mapping[str, Mapping[str, float]],
    draws: Mapping[str, Mapping[str, np.ndarray]],
    counts: Mapping[str, Mapping[str, int]],
    missing: Mapping[str, Mapping[str, int]] | None = None,
    fewest: Mapping[str, int] | None = None,
    by_people: Drawn | None = None,
) -> SuiteOutcome:
    """Measurements and paired differences of role -> metric name -> value."""
    # `draws`: the values on the same resamples for every role; without them there is no error. `counts`, `missing`:
    # the rows behind a value, and those that are not finite; an aggregate has none. `fewest`: of a metric of several
    # sets, the rows of the smallest, which decide how far an error and an interval are too narrow; and one of which
    # moves an AUC by up to 1/n, whatever the other set has. `by_people`: rows of one person are no independent ones,
    # and few people say little of rows that vary within each: the wider error and the hull of both intervals count.
    fewest, by_people = fewest or {}, by_people or Drawn({}, {})
    models: dict[str, dict[str, Measurement]] = {}
    not_measured: dict[str, dict[str, Unmeasured]] = {}
    for role, metrics in values.items():
        models[role] = {}
        for name, value in metrics.items():
            n = counts[role].get(name)
            if math.isfinite(value):
                few = fewest.get(name, n)
                errors = [_stderr(draws[role][name], few)] if name in draws[role] else []
                if name in by_people.people and errors:
                    errors.append(_stderr(by_people.draws[role][name], by_people.people[name]))
                stderr = max((one for one in errors if one is not None), default=None)
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
            n, value = counts[first].get(name), values[first][name] - values[second][name]
            few = fewest.get(name, n)
            drawn = [(draws, few)]
            if name in by_people.people:
                drawn.append((by_people.draws, by_people.people[name]))
            apart = [(one[first][name] - one[second][name], units) for one, units in drawn]
            apart = [(finite, units) for one, units in apart if len(finite := one[np.isfinite(one)]) > 1]
            if apart:
                lows, highs = zip(*(_interval(*one) for one in apart), strict=True)
                few = None if n is None else few
                differences[key][name] = Difference(value=value, low=min(lows), high=max(highs), n=few)
    return SuiteOutcome(models, differences, not_measured)


def summarise_rows(
    per_row: Mapping[str, Mapping[str, Sequence[float]]],
    *,
    seed: int,
    people: People | None = None,
) -> SuiteOutcome:
    """Means of role -> metric -> value of each row, which are the same rows for every role; `people` by metric."""
    # One row that is not finite leaves the metric without a mean: the other rows would be another set.
    draws = {role: {name: drawn_means(row, seed=seed) for name, row in rows.items()} for role, rows in per_row.items()}
    values = {role: {name: float(np.mean(row)) for name, row in rows.items()} for role, rows in per_row.items()}
    return summarise(values, draws, *row_counts(per_row), by_people=drawn_by_people(per_row, people, seed=seed))


def drawn_by_people(
    per_row: Mapping[str, Mapping[str, Sequence[float]]], people: People | None, *, seed: int
) -> Drawn:
    """Means on resamples of people, of the metrics with fewer people than rows; rows of one person have no such."""
    names = dict.fromkeys(name for rows in per_row.values() for name in rows)
    labels = {name: found for name in names if people is not None and (found := people(name)) is not None}
    counts = {name: len(set(found)) for name, found in labels.items()}
    counts = {name: count for name, count in counts.items() if 1 < count < len(labels[name])}
    draws = {
        role: {name: drawn_means(row, seed=seed, people=labels[name]) for name, row in rows.items() if name in counts}
        for role, rows in per_row.items()
    }
    return Drawn(draws, counts)


def row_counts(
    per_row: Mapping[str, Mapping[str, Sequence[float]]],
) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, int]]]:
    """Role -> metric name -> number of rows, and of those whose value is not finite."""
    counts = {role: {name: len(row) for name, row in rows.items()} for role, rows in per_row.items()}
    missing = {
        role: {name: int((~np.isfinite(row)).sum()) for name, row in rows.items()} for role, rows in per_row.items()
    }
    return counts, missing

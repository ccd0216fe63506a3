# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""One number of several, which a single bad one pulls down."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Features
from numpy.typing import ArrayLike

from ._base import NUMBER, UnlearningMetric


def harmonic_mean(terms: Sequence[ArrayLike]) -> np.ndarray:
    """Harmonic mean of terms in [0, 1] (numbers, or arrays of one shape); 0 where one is 0 or below, NaN where NaN."""
    stacked = np.stack([np.asarray(term, dtype=float) for term in terms])
    with np.errstate(divide="ignore"):
        mean = 1 / np.mean(1 / stacked, axis=0)
    return np.where(np.isnan(stacked).any(0), np.nan, np.where((stacked <= 0).any(0), 0.0, mean))


class HarmonicMean(UnlearningMetric):
    """
    Harmonic mean of terms that are better the higher they are; 0 if any of them is 0 or below.

    Model utility is this mean of nine terms, Util of model utility and fluency, Agg of Mem and Util.

    Args:
        terms (`list[float]`):
            The terms, in [0, 1].

    Returns:
        `dict`: `harmonic_mean` (`float`) and `per_row` (`list[float]`, the terms).

    Source: TOFU (https://huggingface.co/papers/2401.06121), section 2.2; OpenUnlearning
    (https://huggingface.co/papers/2506.12618).
    """

    inputs = Features({"terms": NUMBER})

    def _compute(self, terms: list[float]) -> dict[str, Any]:
        return {"harmonic_mean": float(harmonic_mean(terms)), "per_row": terms}


def memorization_score(
    *,
    extraction_strength: ArrayLike,
    exact_memorization: ArrayLike,
    paraphrase_probability: ArrayLike,
    truth_ratio_knowledge: ArrayLike,
) -> np.ndarray:
    """
    Mem: how little is left of the forget set, in [0, 1], as the harmonic mean of the complements of four means.

    Source: OpenUnlearning (https://huggingface.co/papers/2506.12618).
    """
    remembered = [extraction_strength, exact_memorization, paraphrase_probability, truth_ratio_knowledge]
    return harmonic_mean([1 - np.asarray(value) for value in remembered])

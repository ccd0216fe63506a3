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

"""How far a number that is no mean over rows would move with other rows."""

from collections.abc import Callable

import numpy as np


NUM_RESAMPLES = 1000


def bootstrap_stderr(
    statistic: Callable[..., np.ndarray], *samples: np.ndarray, seed: int, num_resamples: int = NUM_RESAMPLES
) -> np.ndarray:
    """
    Bootstrap standard errors of a statistic: its standard deviation over sets of rows that are drawn with replacement.

    Rows of different samples are drawn independently. What is measured on the same rows, such as the scores of
    several models, goes into one sample as columns: it is drawn together, and differences keep their pairing.

    Args:
        statistic (`Callable`):
            Function of the samples that returns an array of values.
        *samples (`numpy.ndarray`):
            Arrays with one entry a row along the first axis.
        seed (`int`):
            Seed of the draws.
        num_resamples (`int`, *optional*, defaults to `1000`):
            Number of draws.

    Returns:
        `numpy.ndarray`: Standard error of each value, of the shape that `statistic` returns. Draws in which a value is
        not finite do not count for it; NaN where fewer than two are left, or a sample has a single row.
    """
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(num_resamples):
        drawn = [sample[generator.integers(len(sample), size=len(sample))] for sample in samples]
        found.append(statistic(*drawn))
    values = np.ma.masked_invalid(found)
    errors = np.ma.filled(values.std(0, ddof=1).astype(float), np.nan)
    # A single row would be drawn every time: an error of 0, of which nothing is known.
    return np.full_like(errors, np.nan) if min(map(len, samples)) < 2 else errors

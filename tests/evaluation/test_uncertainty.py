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

import numpy as np
import pytest

from trl_unlearn.evaluation.uncertainty import bootstrap_stderr


def means(*samples):
    return np.array([sample.mean() for sample in samples])


def test_the_bootstrap_of_a_mean_is_its_standard_error():
    sample = np.random.default_rng(0).normal(size=200)
    (error,) = bootstrap_stderr(means, sample, seed=1)
    assert error == pytest.approx(sample.std() / np.sqrt(200), rel=0.1)


def test_the_same_seed_gives_the_same_error_and_another_seed_another():
    sample = np.arange(10.0)
    assert bootstrap_stderr(means, sample, seed=1) == bootstrap_stderr(means, sample, seed=1)
    assert bootstrap_stderr(means, sample, seed=1) != bootstrap_stderr(means, sample, seed=2)


def test_columns_are_drawn_together_and_samples_apart():
    sample = np.arange(50.0)
    paired = bootstrap_stderr(lambda x: (x[:, 0] - x[:, 1]).mean(), np.stack([sample + 3, sample], 1), seed=1)
    apart = bootstrap_stderr(lambda x, y: x.mean() - y.mean(), sample + 3, sample, seed=1)
    assert paired == 0.0
    assert apart == pytest.approx(np.sqrt(2 / 50) * sample.std(), rel=0.1)


def test_a_single_row_has_no_error():
    assert np.isnan(bootstrap_stderr(means, np.arange(5.0), np.array([1.0]), seed=1)).all()


def test_draws_without_a_finite_value_do_not_count():
    # 1 / 0 where all four draws are zero.
    def inverse(sample):
        with np.errstate(divide="ignore"):
            return np.array([1 / sample.sum(), np.nan])

    finite, never = bootstrap_stderr(inverse, np.array([0.0, 0.0, 0.0, 1.0]), seed=1)
    assert 0 < finite < 1
    assert np.isnan(never)

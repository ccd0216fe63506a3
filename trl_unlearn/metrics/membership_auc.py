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

"""How well an attack tells the rows that were trained on from rows that were not."""

from typing import Any, ClassVar

import numpy as np
from datasets import Features, List, Value
from scipy.stats import rankdata

from ._base import UnlearningMetric, check_filled


def separation(members: np.ndarray, non_members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    See [`MembershipAUC`], for one or several attacks at once.

    Args:
        members (`numpy.ndarray`):
            Scores of the rows that were trained on, of shape `(num_members, ...)`.
        non_members (`numpy.ndarray`):
            Scores of rows that were not, of shape `(num_non_members, ...)`.

    Returns:
        `tuple[numpy.ndarray, numpy.ndarray]`: AUC, and true-positive rate at 1 % false positives; NaN where a score
        is.
    """
    n, m = len(members), len(non_members)
    ranks = rankdata(np.concatenate([members, non_members]), axis=0)
    auc = (ranks[:n].sum(0) - n * (n + 1) / 2) / (n * m)
    # Of rows with the same score all are accepted or none: beyond this one, one non-member too many would be.
    limit = np.sort(non_members, axis=0)[m - 1 - m // 100]
    rate = np.where(np.isnan(auc), np.nan, (members > limit).mean(0))
    return auc, rate


class MembershipAUC(UnlearningMetric):
    """
    Area under the ROC curve of a membership attack, and its true-positive rate at 1 % false positives.

    The area is the probability that a member scores higher than a non-member; a tie counts one half. The rate is the
    largest share of members above a threshold that at most 1 % of the non-members reach; rows with the same score are
    on the same side of it. With fewer than 100 non-members none may reach it.

    Args:
        members (`list[list[float]]`):
            One list an attack: the score of each row that was trained on, higher for a member.
        non_members (`list[list[float]]`):
            The same of rows that were not; their number may differ.

    Returns:
        `dict`: `auc` and `tpr_at_1_fpr` (`float`, means over attacks, in [0, 1]) and `per_row`, a `dict` of the lists
        under the same names.

    Source: Carlini et al., Membership Inference Attacks From First Principles
    (https://huggingface.co/papers/2112.03570).
    """

    inputs: ClassVar[Features] = Features({name: List(Value("float64")) for name in ("members", "non_members")})

    def _compute(self, members: list[list[float]], non_members: list[list[float]]) -> dict[str, Any]:
        check_filled(members, self, "members")
        check_filled(non_members, self, "non-members")
        found = [separation(np.array(a), np.array(b)) for a, b in zip(members, non_members, strict=True)]
        auc, rate = ([float(value) for value in values] for values in zip(*found, strict=True))
        return {
            "auc": float(np.mean(auc)),
            "tpr_at_1_fpr": float(np.mean(rate)),
            "per_row": {"auc": auc, "tpr_at_1_fpr": rate},
        }

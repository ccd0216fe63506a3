# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Losses of rows that must stay: pure functions of per-token scores, of the shapes that forget.py names."""

from torch import Tensor

from .forget import reduce_tokens


def nll(logps: Tensor, mask: Tensor, reduction: str = "mean") -> Tensor:
    r"""Negative log-likelihood: \\(-\log \pi_y\\)."""
    return -reduce_tokens(logps, mask, reduction)


def kl(token_kl: Tensor, mask: Tensor, reduction: str = "mean") -> Tensor:
    r"""Divergence from the original model: \\(KL(\pi_{ref} \| \pi)\\) at each label token."""
    return reduce_tokens(token_kl, mask, reduction)

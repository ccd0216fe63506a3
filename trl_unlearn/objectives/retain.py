# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Losses of rows that must stay: pure functions of per-token scores, one loss a row; other shapes are refused."""

from torch import Tensor

from .forget import reduce_tokens


def nll(logps: Tensor, mask: Tensor, reduction: str = "mean") -> Tensor:
    r"""
    Negative log-likelihood: \\(-\log \pi_y\\).

    Args:
        logps (`torch.Tensor`):
            log pi_y of each label token, in nats, of shape `(num_rows, max_labels)`.
        mask (`torch.Tensor`):
            `True` at label tokens, of the same shape.
        reduction (`str`, *optional*, defaults to `"mean"`):
            `"mean"` or `"sum"` over the label tokens of a row.

    Returns:
        `torch.Tensor`: Loss of each row, of shape `(num_rows,)`.
    """
    return -reduce_tokens(logps, mask, reduction)


def kl(token_kl: Tensor, mask: Tensor, reduction: str = "mean") -> Tensor:
    r"""
    Divergence from the original model: \\(KL(\pi_{ref} \| \pi)\\) at each label token.

    Args:
        token_kl (`torch.Tensor`):
            KL divergence over the vocabulary at each label position, in nats, of shape `(num_rows, max_labels)` (see
            [`~trl_unlearn.token_scores.TokenScores`]).
        mask, reduction:
            See [`nll`].

    Returns:
        `torch.Tensor`: Loss of each row, of shape `(num_rows,)`.
    """
    return reduce_tokens(token_kl, mask, reduction)

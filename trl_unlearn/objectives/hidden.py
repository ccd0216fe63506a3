# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Losses of RMU on the hidden states of one layer, one loss a row. Shapes that do not fit are refused."""

import torch
from torch import Tensor

from .forget import reduce_tokens


def _distance(hidden: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    if hidden.dim() != 3 or mask.shape != hidden.shape[:2]:
        raise ValueError(
            f"`hidden` has shape {tuple(hidden.shape)} and `mask` {tuple(mask.shape)}. Pass hidden states of shape "
            "`(num_rows, max_tokens, hidden_size)` and a mask of shape `(num_rows, max_tokens)`."
        )
    # Masked before the square, whose gradient at a NaN would be NaN.
    difference = (hidden - target).masked_fill(~mask[..., None], 0)
    # As for all scores, sums are in float32 at least.
    difference = difference.to(torch.promote_types(difference.dtype, torch.float32))
    return reduce_tokens(difference.square().mean(-1), mask)


def rmu_forget(hidden: Tensor, direction: Tensor, coefficient: float, mask: Tensor) -> Tensor:
    r"""
    Representation misdirection on rows that must go: \\(\frac{1}{d} \|h - c u\|^2\\), averaged over tokens, with
    hidden states h `(num_rows, max_tokens, hidden_size)` and a fixed random unit vector u. The paper has no 1 / d; its
    code has.

    Source: The WMDP Benchmark (https://huggingface.co/papers/2403.03218).
    """
    if direction.shape != hidden.shape[-1:]:
        raise ValueError(
            f"`direction` has shape {tuple(direction.shape)} and `hidden` {tuple(hidden.shape)}. Pass one direction "
            "of shape `(hidden_size,)`."
        )
    return _distance(hidden, coefficient * direction, mask)


def rmu_retain(hidden: Tensor, reference_hidden: Tensor, mask: Tensor) -> Tensor:
    r"""
    Representation misdirection on rows that must stay: \\(\frac{1}{d} \|h - h_{ref}\|^2\\), averaged over tokens.

    Source: The WMDP Benchmark (https://huggingface.co/papers/2403.03218).
    """
    if reference_hidden.shape != hidden.shape:
        raise ValueError(
            f"`reference_hidden` has shape {tuple(reference_hidden.shape)} and `hidden` {tuple(hidden.shape)}. Pass "
            "the states of both models on the same batch."
        )
    return _distance(hidden, reference_hidden, mask)

# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

import math

import pytest
import torch

from trl_unlearn.objectives import hidden


MASK = torch.tensor([[True, True, False], [True, False, False]])
DIRECTION = torch.tensor([0.6, 0.8], dtype=torch.float64)


def _hidden(value: float = 0.0) -> torch.Tensor:
    """Two rows of hidden size 2; `value` at what does not count."""
    rows = [[[3.0, 4.0], [0.0, 1.0], [value] * 2], [[1.0, 1.0], [value] * 2, [value] * 2]]
    return torch.tensor(rows, dtype=torch.float64)


def test_rmu_forget_matches_a_hand_worked_value():
    # Target (3, 4). Row 1: 0 and (9 + 9) / 2 over two tokens; row 2: (4 + 9) / 2.
    loss = hidden.rmu_forget(_hidden(), DIRECTION, 5.0, MASK)
    torch.testing.assert_close(loss, torch.tensor([4.5, 6.5], dtype=torch.float64))


def test_rmu_retain_matches_a_hand_worked_value_and_is_zero_for_an_unchanged_model():
    # Off by (1, 3) at every token: (1 + 9) / 2.
    reference = _hidden() - torch.tensor([1.0, 3.0], dtype=torch.float64)
    torch.testing.assert_close(
        hidden.rmu_retain(_hidden(), reference, MASK), torch.tensor([5.0, 5.0], dtype=torch.float64)
    )
    assert hidden.rmu_retain(_hidden(), _hidden(), MASK).tolist() == [0, 0]


@pytest.mark.parametrize("value", [7.0, math.nan, math.inf])
@pytest.mark.parametrize(
    "loss",
    [
        lambda x: hidden.rmu_forget(x, DIRECTION, 2.0, MASK),
        lambda x: hidden.rmu_retain(x, _hidden() - 1, MASK),
        lambda x: hidden.rmu_retain(x, x.detach() - 1, MASK),
    ],
)
def test_a_token_that_does_not_count_changes_neither_a_loss_nor_its_gradient(loss, value):
    zero, other = (_hidden(x).requires_grad_(True) for x in (0.0, value))
    torch.testing.assert_close(loss(other), loss(zero))
    loss(zero).sum().backward()
    loss(other).sum().backward()
    torch.testing.assert_close(other.grad, zero.grad)


@pytest.mark.parametrize(
    "loss",
    [
        lambda x: hidden.rmu_forget(x, DIRECTION, 2.0, MASK),
        lambda x: hidden.rmu_retain(x, _hidden() - 0.5, MASK),
    ],
)
def test_gradients_agree_with_finite_differences_in_float64(loss):
    assert torch.autograd.gradcheck(loss, _hidden().requires_grad_(True))


def test_distances_of_half_precision_states_are_summed_in_float32():
    # (2025 + 2025) / 2 and (2304 + 0) / 2, over two tokens; 2025 and the result are no bfloat16 numbers.
    states = torch.tensor([[[45.0, 45.0], [48.0, 0.0]]], dtype=torch.bfloat16)
    loss = hidden.rmu_retain(states, torch.zeros_like(states), torch.ones(1, 2, dtype=torch.bool))
    torch.testing.assert_close(loss, torch.tensor([1588.5]))


@pytest.mark.parametrize(
    "call",
    [
        lambda: hidden.rmu_forget(_hidden(), torch.ones(3), 1.0, MASK),
        lambda: hidden.rmu_forget(_hidden(), torch.ones(1), 1.0, MASK),
        lambda: hidden.rmu_retain(_hidden(), _hidden()[:1], MASK),
    ],
)
def test_shapes_that_do_not_fit_are_refused_with_both_shapes(call):
    with pytest.raises(ValueError, match=r"\(\d.*\(\d"):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: hidden.rmu_forget(_hidden(), torch.ones(2), 1.0, MASK[:, :1]),
        lambda: hidden.rmu_forget(_hidden()[0], torch.ones(2), 1.0, MASK[0]),
        lambda: hidden.rmu_retain(_hidden(), _hidden(), MASK[:1]),
        lambda: hidden.rmu_retain(_hidden()[..., 0], _hidden()[..., 0], MASK),
    ],
)
def test_states_and_a_mask_that_do_not_fit_are_refused_before_anything_is_computed(call):
    with pytest.raises(ValueError, match=r"`hidden` has shape \(.*`mask` \(.*Pass hidden states of shape"):
        call()

# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

import math

import pytest
import torch

from trl_unlearn.label_states import LabelStates, LogitHead
from trl_unlearn.objectives import retain
from trl_unlearn.token_scores import token_scores


LOGPS = torch.tensor([[-1.0, -3.0, 0.0], [-2.0, -4.0, -6.0]], dtype=torch.float64)
MASK = torch.tensor([[True, True, False], [True, True, True]])


def test_nll_is_minus_the_mean_log_probability_of_the_label_tokens():
    torch.testing.assert_close(retain.nll(LOGPS, MASK), torch.tensor([2.0, 4.0], dtype=torch.float64))


def test_kl_of_two_coins_matches_a_hand_worked_value():
    head, label = LogitHead(torch.eye(2).double()), torch.tensor([0])
    reference = LabelStates(torch.tensor([[0.75, 0.25]]).double().log(), label, [1], head)
    current = LabelStates(torch.tensor([[0.5, 0.5]]).double().log(), label, [1], head)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    scores = token_scores(current, reference=reference)
    loss = retain.kl(scores.kl, scores.mask)
    assert loss.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("value", [50.0, math.nan, math.inf])
def test_kl_ignores_what_is_not_a_label(value):
    token_kl = torch.tensor([[1.0, 3.0, value]], requires_grad=True)
    loss = retain.kl(token_kl, torch.tensor([[True, True, False]]))
    torch.testing.assert_close(loss, torch.tensor([2.0]))
    loss.sum().backward()
    torch.testing.assert_close(token_kl.grad, torch.tensor([[0.5, 0.5, 0.0]]))


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        retain.nll(LOGPS, MASK[:, :2])


def test_the_gradient_of_nll_agrees_with_finite_differences_in_float64():
    assert torch.autograd.gradcheck(lambda x: retain.nll(x, MASK), LOGPS.clone().requires_grad_(True))

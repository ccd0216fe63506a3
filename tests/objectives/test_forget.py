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

import math

import pytest
import torch

from trl_unlearn.objectives import forget
from trl_unlearn.token_scores import LabelStates, LogitHead, ScoreTerms, token_scores


LOGPS = torch.tensor([[-1.0, -3.0, 0.0], [-2.0, -4.0, -6.0]], dtype=torch.float64)
MASK = torch.tensor([[True, True, False], [True, True, True]])


def _logits(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3), requires_grad=False)


def _states(logits, labels, lengths):
    """Logits as hidden states of a head that changes nothing."""
    return LabelStates(logits, labels, lengths, LogitHead(torch.eye(logits.size(-1), dtype=logits.dtype)))


def _bs_t_gradient(logits, label, **kwargs):
    """Gradient of BS-T on one token with respect to its logits."""
    lambda_bst = kwargs.pop("lambda_bst")
    logits = logits.clone().requires_grad_(True)
    scores = token_scores(_states(logits[None], torch.tensor([label]), [1]), ScoreTerms(**kwargs))
    forget.bs_t(scores.logps, scores.beliefs, scores.mask, lambda_bst).sum().backward()
    return logits.grad


def _ga_gradient(logits, label):
    logits = logits.clone().requires_grad_(True)
    logits.log_softmax(-1)[label].backward()
    return logits.grad


def test_ga_is_the_mean_log_probability_of_the_label_tokens():
    torch.testing.assert_close(forget.ga(LOGPS, MASK), torch.tensor([-2.0, -4.0], dtype=torch.float64))


def test_ga_sums_over_label_tokens_when_asked():
    torch.testing.assert_close(forget.ga(LOGPS, MASK, "sum"), torch.tensor([-4.0, -12.0], dtype=torch.float64))


def test_padding_with_a_value_that_is_not_zero_does_not_count():
    torch.testing.assert_close(forget.ga(LOGPS.masked_fill(~MASK, 7.0), MASK), forget.ga(LOGPS, MASK))


def test_npo_of_an_unchanged_model_is_two_log_two_over_beta():
    loss = forget.npo(LOGPS, LOGPS, MASK, beta=0.5)
    torch.testing.assert_close(loss, torch.full((2,), 2 / 0.5 * math.log(2), dtype=torch.float64))


def test_npo_matches_a_hand_worked_value():
    # Sums -4 against -3: log-ratio -1; -2/0.1 * log(sigmoid(0.1)) = 20 * log(1 + exp(-0.1)).
    reference = torch.tensor([[-1.0, -2.0, 0.0]], dtype=torch.float64)
    loss = forget.npo(LOGPS[:1], reference, MASK[:1], beta=0.1)
    assert loss.item() == pytest.approx(20 * math.log1p(math.exp(-0.1)), abs=1e-12)


def test_the_gradient_of_npo_becomes_that_of_summed_ga_as_beta_goes_to_zero():
    logps = LOGPS.clone().requires_grad_(True)
    forget.npo(logps, LOGPS - 0.3, MASK, beta=1e-9).sum().backward()
    torch.testing.assert_close(logps.grad, MASK.double(), atol=1e-8, rtol=0)


def test_bs_t_with_lambda_zero_is_ga_and_with_lambda_one_the_belief_term_alone():
    beliefs = LOGPS - 1
    torch.testing.assert_close(forget.bs_t(LOGPS, beliefs, MASK, 0.0), forget.ga(LOGPS, MASK))
    torch.testing.assert_close(forget.bs_t(LOGPS, beliefs, MASK, 1.0), forget.ga(beliefs, MASK))


@pytest.mark.parametrize("temperature", [1.0, 0.25])
@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize("k", [1, 4, 11])
def test_bs_t_equals_a_plain_implementation_with_the_full_target_vector(k, exclude, temperature):
    vocab, lambda_bst, lengths = 11, 0.3, [2, 3]
    logits = _logits(5, vocab)
    labels = torch.tensor([0, 3, 10, 5, 5])
    k = min(k, vocab - 1) if exclude else k

    ours = logits.clone().requires_grad_(True)
    scores = token_scores(_states(ours, labels, lengths), ScoreTerms(k, temperature, exclude))
    loss = forget.bs_t(scores.logps, scores.beliefs, scores.mask, lambda_bst)
    loss.sum().backward()

    plain = logits.clone().requires_grad_(True)
    tokens = []
    for z, y in zip(plain, labels.tolist(), strict=True):
        candidates = [v for v in range(vocab) if not (exclude and v == y)]
        top = sorted(candidates, key=lambda v: -z[v].item())[:k]
        weights = [math.exp(z[v].item() / temperature) for v in top]
        target = torch.zeros(vocab, dtype=torch.float64)
        target[y] = 1 - lambda_bst
        for v, weight in zip(top, weights, strict=True):
            target[v] += lambda_bst * weight / sum(weights)
        tokens.append((target * z.log_softmax(-1)).sum())
    expected = torch.stack([torch.stack(tokens[:2]).mean(), torch.stack(tokens[2:]).mean()])
    expected.sum().backward()

    torch.testing.assert_close(loss, expected, atol=1e-9, rtol=0)
    torch.testing.assert_close(ours.grad, plain.grad, atol=1e-9, rtol=0)


def test_a_likely_token_is_moved_by_ga_times_one_minus_lambda_over_s_and_another_as_by_ga():
    logits, label, k, lambda_bst = _logits(9), 2, 4, 0.2
    top = logits.topk(k).indices.tolist()
    mass = logits.softmax(-1)[top].sum()
    assert lambda_bst < mass
    ours, ga = _bs_t_gradient(logits, label, lambda_bst=lambda_bst, belief_top_k=k), _ga_gradient(logits, label)
    for token in range(9):
        if token != label:
            factor = 1 - lambda_bst / mass if token in top else 1.0
            torch.testing.assert_close(ours[token], factor * ga[token], atol=1e-12, rtol=0)


def test_bs_t_over_the_whole_vocabulary_is_ga_with_weight_one_minus_lambda():
    logits = _logits(9)
    ours = _bs_t_gradient(logits, 2, lambda_bst=0.35, belief_top_k=9)
    torch.testing.assert_close(ours, 0.65 * _ga_gradient(logits, 2), atol=1e-12, rtol=0)


@pytest.mark.parametrize("temperature", [0.25, 0.5, 1.0, 2.0])
def test_a_likely_token_is_pushed_down_if_and_only_if_lambda_q_exceeds_pi(temperature):
    logits, label, k, lambda_bst = _logits(12), 7, 5, 0.5
    gradient = _bs_t_gradient(logits, label, lambda_bst=lambda_bst, belief_top_k=k, belief_temperature=temperature)
    top_logits, top = logits.topk(k)
    q, pi = (top_logits / temperature).softmax(-1), logits.softmax(-1)
    # Descent on the loss lowers a logit whose gradient is positive.
    signs = {
        bool(gradient[token] > 0) == bool(lambda_bst * q_u > pi[token])
        for q_u, token in zip(q, top.tolist(), strict=True)
        if token != label
    }
    assert signs == {True}


def test_with_a_sharp_temperature_the_update_starts_as_that_of_ga_and_bites_once_the_target_is_not_the_most_likely():
    lambda_bst, rival = 0.5, 1
    dominant = torch.tensor([8.0, 2.0, 1.0, 0.0], dtype=torch.float64)
    fallen = torch.tensor([2.0, 4.0, 1.0, 0.0], dtype=torch.float64)
    kwargs = {"lambda_bst": lambda_bst, "belief_top_k": 4, "belief_temperature": 0.1}
    torch.testing.assert_close(_bs_t_gradient(dominant, 0, **kwargs), _ga_gradient(dominant, 0), atol=1e-9, rtol=0)
    assert _ga_gradient(fallen, 0)[rival] < 0
    assert _bs_t_gradient(fallen, 0, **kwargs)[rival] > _ga_gradient(fallen, 0)[rival]


@pytest.mark.parametrize(("top_logit", "raised"), [(6.0, True), (0.5, False)])
def test_leaving_the_target_out_raises_it_only_while_its_probability_is_above_one_minus_lambda(top_logit, raised):
    logits, lambda_bst = torch.tensor([top_logit, 0.0, -0.5, -1.0], dtype=torch.float64), 0.2
    gradient = _bs_t_gradient(logits, 0, lambda_bst=lambda_bst, belief_top_k=2, belief_exclude_target=True)
    assert bool(logits.softmax(-1)[0] > 1 - lambda_bst) is raised
    assert bool(gradient[0] < 0) is raised


def test_bs_s_shares_its_weight_among_the_beliefs_of_a_row():
    assert forget.bs_s_weights(0.25, 3) == (0.75, pytest.approx(0.25 / 3))
    assert forget.bs_s_weights(0.0, 0) == (1.0, 0.0)


@pytest.mark.parametrize(
    "call",
    [
        lambda: forget.ga(LOGPS, MASK[:1]),
        lambda: forget.ga(LOGPS[0], MASK[0]),
        lambda: forget.npo(LOGPS, LOGPS[:, :2], MASK),
        lambda: forget.bs_t(LOGPS, LOGPS[:1], MASK),
    ],
)
def test_shapes_that_do_not_fit_are_refused_with_both_shapes(call):
    with pytest.raises(ValueError, match=r"\(\d"):
        call()


def test_an_unknown_reduction_is_refused():
    with pytest.raises(ValueError, match="'median'"):
        forget.ga(LOGPS, MASK, "median")


@pytest.mark.parametrize(
    "loss",
    [
        lambda x: forget.ga(x, MASK),
        lambda x: forget.npo(x, LOGPS - 0.5, MASK, beta=0.3),
        lambda x: forget.bs_t(x, 2 * x - 1, MASK, 0.4),
    ],
)
def test_gradients_agree_with_finite_differences_in_float64(loss):
    assert torch.autograd.gradcheck(loss, LOGPS.clone().requires_grad_(True))

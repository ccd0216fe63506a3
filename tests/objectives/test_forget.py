# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

import math

import pytest
import torch

from trl_unlearn.objectives import forget
from trl_unlearn.token_scores import ScoreTerms, token_scores

from ..teaching import states_of


LOGPS = torch.tensor([[-1.0, -3.0, 0.0], [-2.0, -4.0, -6.0]], dtype=torch.float64)
MASK = torch.tensor([[True, True, False], [True, True, True]])


def _logits(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3), requires_grad=False)


def _bs_t_gradient(logits, label, **kwargs):
    """Gradient of BS-T on one token with respect to its logits."""
    lambda_bst = kwargs.pop("lambda_bst")
    logits = logits.clone().requires_grad_(True)
    scores = token_scores(states_of(logits[None], torch.tensor([label]), [1]), ScoreTerms(**kwargs))
    forget.bs_t(scores.logps, scores.beliefs, scores.mask, lambda_bst).sum().backward()
    return logits.grad


def _ga_gradient(logits, label):
    logits = logits.clone().requires_grad_(True)
    logits.log_softmax(-1)[label].backward()
    return logits.grad


def test_ga_is_the_mean_log_probability_of_the_label_tokens():
    torch.testing.assert_close(forget.ga(LOGPS, MASK), torch.tensor([-2.0, -4.0], dtype=torch.float64))


@pytest.mark.parametrize(
    ("loss", "inputs", "published"),
    [
        (forget.npo, (LOGPS, LOGPS / 2, MASK), {"beta": 0.1}),
        (forget.simnpo, (LOGPS, MASK), {"beta": 4.5, "gamma": 0.0}),
        (forget.wga, (LOGPS, MASK), {"beta": 1.0}),
        (forget.tnpo, (LOGPS, LOGPS / 2, MASK), {"beta": 1.0}),
        (forget.satimp, (LOGPS, MASK), {"beta1": 5.0, "beta2": 1.0}),
        (forget.dpo, (LOGPS, LOGPS / 2, MASK, LOGPS / 4, LOGPS / 8, MASK), {"beta": 0.1}),
        (forget.bs_t, (LOGPS, LOGPS / 2, MASK), {"lambda_bst": 0.2}),
    ],
)
def test_the_parameters_that_are_not_given_are_the_published_ones(loss, inputs, published):
    assert torch.equal(loss(*inputs), loss(*inputs, **published))


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


def test_simnpo_matches_a_hand_worked_value_without_a_reference():
    # Mean -2: -2/0.5 * log(sigmoid(0.5 * 2 - 0.25)) = 4 * log(1 + exp(-0.75)).
    loss = forget.simnpo(LOGPS[:1], MASK[:1], beta=0.5, gamma=0.25)
    assert loss.item() == pytest.approx(4 * math.log1p(math.exp(-0.75)), abs=1e-12)


def test_simnpo_does_not_depend_on_how_often_an_answer_is_repeated():
    twice = forget.simnpo(LOGPS.repeat(1, 2), MASK.repeat(1, 2))
    torch.testing.assert_close(twice, forget.simnpo(LOGPS, MASK))


def test_wga_weighs_log_pi_by_a_power_of_pi():
    # pi 1/4 and 1/2, beta 2: weights 1/16 and 1/4 on -2 log 2 and -log 2.
    logps = torch.tensor([[0.25, 0.5]], dtype=torch.float64).log()
    loss = forget.wga(logps, torch.ones_like(logps, dtype=torch.bool), beta=2.0, reduction="sum")
    assert loss.item() == pytest.approx(-(1 / 8 + 1 / 4) * math.log(2), abs=1e-12)


def test_tnpo_matches_a_hand_worked_value():
    # pi 1/4 against 3/4 and 1/2 against 1/4, beta 1: weights 2 * 1/4 = 1/2 and 2 * 2/3 = 4/3.
    logps = torch.tensor([[0.25, 0.5]], dtype=torch.float64).log()
    reference = torch.tensor([[0.75, 0.25]], dtype=torch.float64).log()
    loss = forget.tnpo(logps, reference, torch.ones_like(logps, dtype=torch.bool), beta=1.0)
    assert loss.item() == pytest.approx(-(1 + 4 / 3) / 2 * math.log(2), abs=1e-12)


def test_the_gradient_of_tnpo_is_that_of_npo_on_each_token_alone():
    logps, tokens = LOGPS.clone().requires_grad_(True), LOGPS.reshape(-1, 1).clone().requires_grad_(True)
    reference = LOGPS.flip(-1) - 0.3
    forget.tnpo(logps, reference, MASK, beta=0.7, reduction="sum").sum().backward()
    forget.npo(tokens, reference.reshape(-1, 1), MASK.reshape(-1, 1), beta=0.7).sum().backward()
    torch.testing.assert_close(logps.grad, tokens.grad.view_as(logps), atol=1e-12, rtol=0)


def test_satimp_weighs_log_pi_by_powers_of_pi_and_of_the_rest():
    # pi 1/4 and 1/2, beta 2 and 1: weights 1/16 * 3/4 and 1/4 * 1/2 on -2 log 2 and -log 2.
    logps = torch.tensor([[0.25, 0.5]], dtype=torch.float64).log()
    loss = forget.satimp(logps, torch.ones_like(logps, dtype=torch.bool), 2.0, 1.0, "sum")
    assert loss.item() == pytest.approx(-(3 / 32 + 1 / 8) * math.log(2), abs=1e-12)


def test_satimp_leaves_a_token_that_is_certain_alone():
    logps = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    forget.satimp(logps, torch.ones(1, 1, dtype=torch.bool)).sum().backward()
    assert logps.grad.item() == 0


@pytest.mark.parametrize(
    "loss",
    [
        lambda x: forget.wga(x, MASK, 0.0),
        lambda x: forget.tnpo(x, LOGPS - 0.3, MASK, 0.0),
        lambda x: forget.satimp(x, MASK, 0.0, 0.0),
    ],
)
def test_weighted_objectives_with_exponents_of_zero_are_ga(loss):
    ours, ga = (LOGPS.clone().requires_grad_(True) for _ in range(2))
    torch.testing.assert_close(loss(ours), forget.ga(ga, MASK))
    loss(ours).sum().backward()
    forget.ga(ga, MASK).sum().backward()
    torch.testing.assert_close(ours.grad, ga.grad)


@pytest.mark.parametrize(
    ("loss", "weight"),
    [
        (lambda x, r: forget.wga(x, MASK, 0.4, "sum"), lambda x, r: x.exp() ** 0.4),
        (lambda x, r: forget.tnpo(x, r, MASK, 0.4, "sum"), lambda x, r: 2 / (1 + (r.exp() / x.exp()) ** 0.4)),
        (lambda x, r: forget.satimp(x, MASK, 3.0, 0.5, "sum"), lambda x, r: x.exp() ** 3 * (1 - x.exp()) ** 0.5),
    ],
)
def test_the_gradient_of_a_weighted_objective_is_its_weight_and_the_reference_has_none(loss, weight):
    logps, reference = LOGPS.clone().requires_grad_(True), (LOGPS - 0.3).requires_grad_(True)
    loss(logps, reference).sum().backward()
    expected = weight(LOGPS, LOGPS - 0.3).masked_fill(~MASK, 0)
    torch.testing.assert_close(logps.grad, expected, atol=1e-12, rtol=0)
    assert reference.grad is None


def test_dpo_of_an_unchanged_model_is_two_log_two_over_beta():
    loss = forget.dpo(LOGPS, LOGPS, MASK, LOGPS[:, :2], LOGPS[:, :2], MASK[:, :2], beta=0.5)
    torch.testing.assert_close(loss, torch.full((2,), 2 / 0.5 * math.log(2), dtype=torch.float64))


def test_dpo_matches_a_hand_worked_value_for_answers_of_other_lengths():
    # Rejected: -4 against -3, log-ratio -1; chosen: -2 against -5, log-ratio 3. 2/0.5 * log(1 + exp(-0.5 * 4)).
    reference = torch.tensor([[-1.0, -2.0, 0.0]], dtype=torch.float64)
    chosen, chosen_reference = (torch.tensor([[x]], dtype=torch.float64) for x in (-2.0, -5.0))
    loss = forget.dpo(LOGPS[:1], reference, MASK[:1], chosen, chosen_reference, MASK[:1, :1], beta=0.5)
    assert loss.item() == pytest.approx(4 * math.log1p(math.exp(-2)), abs=1e-12)


def test_dpo_with_a_chosen_answer_that_stays_as_it_was_is_npo():
    reference = LOGPS - 0.3
    loss = forget.dpo(LOGPS, reference, MASK, LOGPS, LOGPS, MASK, beta=0.2)
    torch.testing.assert_close(loss, forget.npo(LOGPS, reference, MASK, beta=0.2))


def test_dpo_refuses_another_number_of_chosen_answers_than_rows():
    with pytest.raises(ValueError, match="2 rows and `chosen_logps` 1"):
        forget.dpo(LOGPS, LOGPS, MASK, LOGPS[:1], LOGPS[:1], MASK[:1])


def test_undial_is_the_cross_entropy_with_the_reference_whose_label_was_lowered():
    # A reference of (3/4, 1/4) with log 3 off the label is (1/2, 1/2).
    reference, pi = (torch.tensor([x], dtype=torch.float64).log() for x in ([0.75, 0.25], [0.8, 0.2]))
    pi.requires_grad_(True)
    label = torch.tensor([0])
    scores = token_scores(
        states_of(pi, label, [1]), ScoreTerms(reference_shift=math.log(3)), states_of(reference, label, [1])
    )
    loss = forget.undial(scores.kl, scores.reference_entropy, scores.mask)
    assert loss.item() == pytest.approx(-0.5 * math.log(0.8) - 0.5 * math.log(0.2), abs=1e-12)
    loss.sum().backward()
    torch.testing.assert_close(pi.grad, torch.tensor([[0.3, -0.3]], dtype=torch.float64), atol=1e-12, rtol=0)


def test_ignorance_matches_a_hand_worked_value():
    kl = torch.tensor([[0.5, 0.1, 9.0], [0.2, 0.0, 0.4]], dtype=torch.float64)
    twin = torch.tensor([[-3.0, -0.1, 0.0], [-2.0, -9.0, -6.5]], dtype=torch.float64)
    # Row 1: 0.5 + 2 * (-1 + 3 + 1.5) and 0.1 + 2 * |-3 + 0.1|, without a margin where the twin is sure.
    # Row 2: 0.2 + 2 * (0 + 1.5), 0 + 2 * (5 + 1.5) and 0.4 + 2 * (0.5 + 1.5).
    loss = forget.ignorance(LOGPS, kl, twin, MASK, penalty=2.0, margin=1.5)
    torch.testing.assert_close(loss, torch.tensor([13.4 / 2, 20.6 / 3], dtype=torch.float64))


def test_ignorance_of_a_model_that_is_its_twin_is_zero_without_a_margin():
    zeros = torch.zeros_like(LOGPS)
    assert torch.equal(forget.ignorance(LOGPS, zeros, LOGPS, MASK, margin=0.0), torch.zeros(2, dtype=torch.float64))


def test_ignorance_leaves_a_row_alone_that_the_twin_cannot_teach():
    logps, kl = LOGPS.clone().requires_grad_(True), LOGPS.abs().requires_grad_(True)
    taught = torch.tensor([[False] * 3, [True] * 3])
    loss = forget.ignorance(logps, kl, LOGPS - 1, taught)
    assert loss[0] == 0 and loss[1] > 0
    loss.sum().backward()
    assert not logps.grad[0].any() and not kl.grad[0].any() and logps.grad[1].all()


def test_ceu_is_the_cross_entropy_with_pi_without_the_label():
    # pi (0.5, 0.3, 0.2) and label 0: q = (0, 0.6, 0.4), and the gradient of a cross-entropy is pi - q.
    logits = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64).log().requires_grad_(True)
    scores = token_scores(states_of(logits, torch.tensor([0]), [1]), ScoreTerms(others=True))
    loss = forget.ceu(scores.others, scores.mask)
    assert loss.item() == pytest.approx(-0.6 * math.log(0.3) - 0.4 * math.log(0.2), abs=1e-12)
    loss.sum().backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[0.5, -0.3, -0.2]], dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.parametrize("value", [7.0, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "loss",
    [
        lambda x: forget.simnpo(x, MASK),
        lambda x: forget.wga(x, MASK),
        lambda x: forget.tnpo(x, x.detach() - 0.3, MASK),
        lambda x: forget.satimp(x, MASK),
        lambda x: forget.dpo(x, LOGPS - 0.3, MASK, x, LOGPS, MASK),
        lambda x: forget.undial(x, x.detach(), MASK),
        lambda x: forget.ignorance(x, -x, LOGPS - 1, MASK),
        lambda x: forget.ceu(x, MASK),
    ],
)
def test_what_is_no_label_changes_neither_a_loss_nor_its_gradient(loss, value):
    zero, other = (LOGPS.masked_fill(~MASK, x).requires_grad_(True) for x in (0.0, value))
    torch.testing.assert_close(loss(other), loss(zero), atol=0, rtol=0)
    loss(zero).sum().backward()
    loss(other).sum().backward()
    torch.testing.assert_close(other.grad, zero.grad, atol=0, rtol=0)


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
    scores = token_scores(states_of(ours, labels, lengths), ScoreTerms(k, temperature, exclude))
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
        lambda: forget.simnpo(LOGPS, MASK[:1]),
        lambda: forget.wga(LOGPS, MASK[:, :1]),
        lambda: forget.tnpo(LOGPS, LOGPS[:1], MASK),
        lambda: forget.satimp(LOGPS, MASK[:, :1]),
        lambda: forget.dpo(LOGPS, LOGPS[:1], MASK, LOGPS, LOGPS, MASK),
        lambda: forget.dpo(LOGPS, LOGPS, MASK, LOGPS, LOGPS[:, :2], MASK),
        lambda: forget.undial(LOGPS, LOGPS[:1], MASK),
        lambda: forget.ignorance(LOGPS, LOGPS, LOGPS[:1], MASK),
        lambda: forget.ceu(LOGPS, MASK[:1]),
    ],
)
def test_shapes_that_do_not_fit_are_refused_with_both_shapes(call):
    with pytest.raises(ValueError, match=r"\(\d.*\(\d"):
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
        lambda x: forget.simnpo(x, MASK, beta=0.7, gamma=0.2),
        lambda x: forget.dpo(x, LOGPS - 0.5, MASK, 2 * x[:, :2], LOGPS[:, :2], MASK[:, :2], beta=0.3),
        lambda x: forget.undial(x, LOGPS.abs(), MASK),
        lambda x: forget.ignorance(x, x.square(), LOGPS - 0.3, MASK),
        lambda x: forget.ceu(x, MASK, "sum"),
    ],
)
def test_gradients_agree_with_finite_differences_in_float64(loss):
    assert torch.autograd.gradcheck(loss, LOGPS.clone().requires_grad_(True))

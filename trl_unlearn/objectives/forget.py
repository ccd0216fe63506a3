# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""
Losses of rows that must go: pure functions of per-token scores, one loss a row. Shapes that differ are refused.

The scores have the shape `(num_rows, max_labels)` and are in nats: `logps` is log pi_y of each label token,
`reference_logps` the same of the model before unlearning, and the others are those of
[`~trl_unlearn.token_scores.TokenScores`]. `mask` is `True` at label tokens, `reduction` the `"mean"` or `"sum"` over
them. A loss has the shape `(num_rows,)`.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def _check_shapes(**tensors: Tensor) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 2 for shape in shapes.values()):
        raise ValueError(
            "Per-token scores must all have one shape `(num_rows, max_labels)`, got "
            + ", ".join(f"`{name}` {shape}" for name, shape in shapes.items())
            + "."
        )


def reduce_tokens(values: Tensor, mask: Tensor, reduction: str = "mean") -> Tensor:
    """Values `(num_rows, max_labels)` to one a row: their `"mean"` or `"sum"` over its label tokens."""
    _check_shapes(values=values, mask=mask)
    if reduction not in ("mean", "sum"):
        raise ValueError(f"`reduction` must be 'mean' or 'sum', got '{reduction}'.")
    total = values.masked_fill(~mask, 0).sum(-1)
    return total / mask.sum(-1) if reduction == "mean" else total


def ga(logps: Tensor, mask: Tensor, reduction: str = "mean") -> Tensor:
    r"""Gradient ascent on the negative log-likelihood: \\(\log \pi_y\\), to be minimised; unbounded below."""
    return reduce_tokens(logps, mask, reduction)


def npo(logps: Tensor, reference_logps: Tensor, mask: Tensor, beta: float = 0.1) -> Tensor:
    r"""
    Negative preference optimisation:
    \\(-\frac{2}{\beta} \log \sigma(-\beta \log \frac{\pi(y|x)}{\pi_{ref}(y|x)})\\), with log-probabilities summed over
    a row. Towards a beta of 0 the gradient becomes that of [`ga`] (summed over tokens).

    Source: Negative Preference Optimization (https://huggingface.co/papers/2404.05868), Eq. 3.
    """
    _check_shapes(logps=logps, reference_logps=reference_logps, mask=mask)
    log_ratio = (logps - reference_logps).masked_fill(~mask, 0).sum(-1)
    return -F.logsigmoid(-beta * log_ratio) * 2 / beta


def simnpo(logps: Tensor, mask: Tensor, beta: float = 4.5, gamma: float = 0.0) -> Tensor:
    r"""
    Simple negative preference optimisation, without a reference:
    \\(-\frac{2}{\beta} \log \sigma(-\frac{\beta}{|y|} \log \pi(y|x) - \gamma)\\). The margin gamma stands outside of
    beta, as in the paper: OpenUnlearning's `delta` is gamma / beta.

    Source: Simplicity Prevails (https://huggingface.co/papers/2410.07163).
    """
    return -F.logsigmoid(-beta * reduce_tokens(logps, mask) - gamma) * 2 / beta


def _weighted_ga(weights: Tensor, logps: Tensor, mask: Tensor, reduction: str) -> Tensor:
    # A weight of 0 in the padding: the gradient of a NaN there is then 0 too.
    return reduce_tokens(weights.detach().masked_fill(~mask, 0) * logps, mask, reduction)


def wga(logps: Tensor, mask: Tensor, beta: float = 1.0, reduction: str = "mean") -> Tensor:
    r"""
    Weighted gradient ascent: \\(sg(\pi_y^\beta) \log \pi_y\\). The weight has no gradient; it takes a token that is
    already unlikely out of the ascent. A beta of 0 is [`ga`].

    Source: Rethinking LLM Unlearning Objectives (https://huggingface.co/papers/2502.19301).
    """
    _check_shapes(logps=logps, mask=mask)
    return _weighted_ga((beta * logps).exp(), logps, mask, reduction)


def tnpo(logps: Tensor, reference_logps: Tensor, mask: Tensor, beta: float = 1.0, reduction: str = "mean") -> Tensor:
    r"""
    Token-wise NPO: \\(sg(w) \log \pi_y\\) with
    \\(w = \frac{2 \pi_y^\beta}{\pi_y^\beta + \pi_{ref,y}^\beta} = 2 \sigma(\beta \log \frac{\pi_y}{\pi_{ref,y}})\\).

    The weight has no gradient, as in the authors' code; the gradient is that of [`npo`] on each token alone. A beta of
    0 is [`ga`].

    Source: Rethinking LLM Unlearning Objectives (https://huggingface.co/papers/2502.19301).
    """
    _check_shapes(logps=logps, reference_logps=reference_logps, mask=mask)
    return _weighted_ga(2 * (beta * (logps - reference_logps)).sigmoid(), logps, mask, reduction)


def satimp(logps: Tensor, mask: Tensor, beta1: float = 5.0, beta2: float = 1.0, reduction: str = "mean") -> Tensor:
    r"""
    Saturation and importance: \\(sg(\pi_y^{\beta_1} (1 - \pi_y)^{\beta_2}) \log \pi_y\\). The weight has no gradient:
    with beta1 an unlikely token counts less, with beta2 a sure one. With both 0 this is [`ga`], with beta2 0 [`wga`].

    Source: Exploring Criteria of Loss Reweighting (https://huggingface.co/papers/2505.11953).
    """
    _check_shapes(logps=logps, mask=mask)
    return _weighted_ga((beta1 * logps).exp() * (-torch.expm1(logps)) ** beta2, logps, mask, reduction)


def dpo(
    logps: Tensor,
    reference_logps: Tensor,
    mask: Tensor,
    chosen_logps: Tensor,
    chosen_reference_logps: Tensor,
    chosen_mask: Tensor,
    beta: float = 0.1,
) -> Tensor:
    r"""
    Direct preference optimisation of an "I don't know" answer over the answer to forget, which is rejected:
    \\(-\frac{2}{\beta} \log \sigma(\beta \log \frac{\pi(y_c|x)}{\pi_{ref}(y_c|x)} -
    \beta \log \frac{\pi(y|x)}{\pi_{ref}(y|x)})\\), with log-probabilities summed over a row. Scores of the chosen
    answer have the shape `(num_rows, max_chosen_labels)`.

    Of the scales in use (NPO's paper 1 / beta, its code and OpenUnlearning 2 / beta, TOFU's code 1) this is 2 / beta:
    [`npo`] is then the same loss with the chosen answer left out.

    Source: Negative Preference Optimization (https://huggingface.co/papers/2404.05868), Eq. 2, and its code.
    """
    _check_shapes(logps=logps, reference_logps=reference_logps, mask=mask)
    _check_shapes(chosen_logps=chosen_logps, chosen_reference_logps=chosen_reference_logps, chosen_mask=chosen_mask)
    if len(logps) != len(chosen_logps):
        raise ValueError(
            f"`logps` has {len(logps)} rows and `chosen_logps` {len(chosen_logps)}. Pass one chosen answer a row."
        )
    rejected = reduce_tokens(logps - reference_logps, mask, "sum")
    chosen = reduce_tokens(chosen_logps - chosen_reference_logps, chosen_mask, "sum")
    return -F.logsigmoid(beta * (chosen - rejected)) * 2 / beta


def undial(kl: Tensor, reference_entropy: Tensor, mask: Tensor, reduction: str = "mean") -> Tensor:
    r"""
    Self-distillation on adjusted logits: the cross-entropy \\(KL(t \| \pi) + H(t)\\) with the reference t, whose
    logit of the label was lowered (`ScoreTerms(reference_shift=strength)`). Only label tokens count; OpenUnlearning
    averages over prompt and padding as well.

    Source: UNDIAL (https://huggingface.co/papers/2402.10052).
    """
    _check_shapes(kl=kl, reference_entropy=reference_entropy, mask=mask)
    return reduce_tokens(kl + reference_entropy, mask, reduction)


def ceu(others: Tensor, mask: Tensor, reduction: str = "mean") -> Tensor:
    r"""
    Cross-entropy unlearning: \\(-\sum_{v \ne y} sg(q_v) \log \pi_v\\), where q is pi without the label, renormalised.
    Every label token counts, where the authors leave out the first of an answer.

    Source: CE-U (https://huggingface.co/papers/2503.01224).
    """
    return -reduce_tokens(others, mask, reduction)


def bs_t(logps: Tensor, beliefs: Tensor, mask: Tensor, lambda_bst: float = 0.2, reduction: str = "mean") -> Tensor:
    r"""
    Bootstrapping on tokens: \\(\langle t, \log \pi \rangle\\) with the target
    \\(t = \lambda\, sg(q) + (1 - \lambda) e_y\\), where q is pi on the k most likely tokens \\(H_k\\), renormalised;
    `beliefs` is \\(\sum_{v \in H_k} q_v \log \pi_v\\). Unbounded below. The authors' code takes the mean over the
    tokens of a row, the paper the sum.

    In logit space the update of a token u is \\(\pi_u - t_u\\). With S the mass of \\(H_k\\) and temperature 1, a
    non-target token of \\(H_k\\) is moved by [`ga`]'s update times \\(1 - \lambda / S\\), a token outside by exactly
    [`ga`]'s: for \\(\lambda < S\\) squeezing is attenuated, not reversed, and at k = |V| this *is*
    \\((1 - \lambda)\\) times [`ga`]. In general a non-target token of \\(H_k\\) is pushed down if and only if
    \\(\lambda q_u > \pi_u\\).

    Source: LLM Unlearning with LLM Beliefs (https://huggingface.co/papers/2510.19422), Eq. 5-6.
    """
    _check_shapes(logps=logps, beliefs=beliefs, mask=mask)
    # (1 - lambda) log pi_y + lambda <q, log pi>: linear in the target, so that t is never built.
    return reduce_tokens(torch.lerp(logps, beliefs, lambda_bst), mask, reduction)


def bs_s_weights(lambda_bss: float, num_beliefs: int) -> tuple[float, float]:
    r"""
    Bootstrapping on sequences: \\((1 - \lambda) L(y) + \lambda \frac{1}{N} \sum_j L(\hat y_j)\\), for any forget
    objective L: the weight of the loss of a forget row, and of that of each of its N beliefs. It is linear in the
    losses of rows, so that beliefs can be passed in slices.

    Source: LLM Unlearning with LLM Beliefs (https://huggingface.co/papers/2510.19422), Eq. 7.
    """
    return 1 - lambda_bss, (lambda_bss / num_beliefs if lambda_bss else 0.0)


def ignorance(
    logps: Tensor,
    kl: Tensor,
    twin_logps: Tensor,
    mask: Tensor,
    penalty: float = 0.25,
    margin: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    r"""
    Distillation of an ignorant twin t, a model that never knew:
    \\(KL(t || \pi) + \mu |\log \pi_y - \log t_y + m [t_y < 1/2]|\\) per token, with the penalty \\(\mu\\) and the
    margin m in nats; not negative. Tokens without a twin's distribution are `False` in `mask`; a row of only these
    has loss 0.

    The divergence makes the model say what the twin says. The second term brings each token of the answer to the
    twin's probability, however small its share of the divergence is, and from both sides: with a bound from above
    alone, true answers fall until the removal can be seen. A token that the answer alone decides (t_y < 1/2) ends the
    margin below the twin's.

    Source: the divergence is that of Revisiting Who's Harry Potter (https://huggingface.co/papers/2407.16997); the
    second term is ours.
    """
    _check_shapes(logps=logps, kl=kl, twin_logps=twin_logps, mask=mask)
    distance = (logps - twin_logps + margin * (twin_logps < math.log(0.5))).abs()
    return torch.where(
        mask.any(-1), reduce_tokens(kl + penalty * distance, mask | ~mask.any(-1, keepdim=True), reduction), 0.0
    )

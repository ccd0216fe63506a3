# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Losses of rows that must go: pure functions of per-token scores, one loss a row. Shapes that differ are refused."""

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
    """
    Per-token values to one value a row.

    Args:
        values (`torch.Tensor`):
            Values of shape `(num_rows, max_labels)`.
        mask (`torch.Tensor`):
            `True` at label tokens, of the same shape.
        reduction (`str`, *optional*, defaults to `"mean"`):
            `"mean"` or `"sum"` over the label tokens of a row.

    Returns:
        `torch.Tensor`: Of shape `(num_rows,)`.
    """
    _check_shapes(values=values, mask=mask)
    if reduction not in ("mean", "sum"):
        raise ValueError(f"`reduction` must be 'mean' or 'sum', got '{reduction}'.")
    total = values.masked_fill(~mask, 0).sum(-1)
    return total / mask.sum(-1) if reduction == "mean" else total


def ga(logps: Tensor, mask: Tensor, reduction: str = "mean") -> Tensor:
    r"""
    Gradient ascent on the negative log-likelihood: \\(\log \pi_y\\), to be minimised.

    Args:
        logps (`torch.Tensor`):
            log pi_y of each label token, in nats, of shape `(num_rows, max_labels)`.
        mask (`torch.Tensor`):
            `True` at label tokens, of the same shape.
        reduction (`str`, *optional*, defaults to `"mean"`):
            `"mean"` or `"sum"` over the label tokens of a row.

    Returns:
        `torch.Tensor`: Loss of each row, of shape `(num_rows,)`; unbounded below.
    """
    return reduce_tokens(logps, mask, reduction)


def npo(logps: Tensor, reference_logps: Tensor, mask: Tensor, beta: float = 0.1) -> Tensor:
    r"""
    Negative preference optimisation:
    \\(-\frac{2}{\beta} \log \sigma(-\beta \log \frac{\pi(y|x)}{\pi_{ref}(y|x)})\\), with log-probabilities summed over
    a row.

    Args:
        logps, mask:
            See [`ga`].
        reference_logps (`torch.Tensor`):
            log pi_y under the model before unlearning, of the same shape.
        beta (`float`, *optional*, defaults to `0.1`):
            Inverse temperature; towards 0 the gradient becomes that of [`ga`] (summed over tokens).

    Returns:
        `torch.Tensor`: Loss of each row, of shape `(num_rows,)`.

    Source: Negative Preference Optimization (https://huggingface.co/papers/2404.05868), Eq. 3.
    """
    _check_shapes(logps=logps, reference_logps=reference_logps, mask=mask)
    log_ratio = (logps - reference_logps).masked_fill(~mask, 0).sum(-1)
    return -F.logsigmoid(-beta * log_ratio) * 2 / beta


def simnpo(logps: Tensor, mask: Tensor, beta: float = 4.5, gamma: float = 0.0) -> Tensor:
    r"""
    Simple negative preference optimisation, without a reference:
    \\(-\frac{2}{\beta} \log \sigma(-\frac{\beta}{|y|} \log \pi(y|x) - \gamma)\\).

    Args:
        logps, mask:
            See [`ga`]. log pi_y is averaged over the label tokens of a row.
        beta (`float`, *optional*, defaults to `4.5`):
            Inverse temperature.
        gamma (`float`, *optional*, defaults to `0.0`):
            Margin, as in the paper: outside of beta. OpenUnlearning's `delta` is gamma / beta.

    Returns:
        `torch.Tensor`: Loss of each row, of shape `(num_rows,)`.

    Source: Simplicity Prevails (https://huggingface.co/papers/2410.07163).
    """
    return -F.logsigmoid(-beta * reduce_tokens(logps, mask) - gamma) * 2 / beta


def _weighted_ga(weights: Tensor, logps: Tensor, mask: Tensor, reduction: str) -> Tensor:
    # A weight of 0 in the padding: the gradient of a NaN there is then 0 too.
    return reduce_tokens(weights.detach().masked_fill(~mask, 0) * logps, mask, reduction)


def wga(logps: Tensor, mask: Tensor, beta: float = 1.0, reduction: str = "mean") -> Tensor:
    r"""
    Weighted gradient ascent: \\(sg(\pi_y^\beta) \log \pi_y\\). The weight has no gradient; it takes a token that is
    already unlikely out of the ascent.

    Args:
        logps, mask, reduction:
            See [`ga`].
        beta (`float`, *optional*, defaults to `1.0`):
            Exponent; 0 is [`ga`].

    Returns:
        `torch.Tensor`: Loss of each row, of shape `(num_rows,)`.

    Source: Rethinking LLM Unlearning Objectives (https://huggingface.co/papers/2502.19301).
    """
    _check_shapes(logps=logps, mask=mask)
    return _weighted_ga((beta * logps).exp(), logps, mask, reduction)


def tnpo(logps: Tensor, reference_logps: Tensor, mask: Tensor, beta: float = 1.0, reduction: str = "mean") -> Tensor:
    r"""
    Token-wise NPO: \\(sg(w) \log \pi_y\\) with
    \\(w = \frac{2 \pi_y^\beta}{\pi_y^\beta + \pi_{ref,y}^\beta} = 2 \sigma(\beta \log \frac{\pi_y}{\pi_{ref,y}})\\).

    The weight has no gradient, as in the authors' code; the gradient is that of [`npo`] on each token alone.

    Args:
        logps, mask, reduction:
            See [`ga`].
        reference_logps (`torch.Tensor`):
            log pi_y under the model before unlearning, of the same shape.
        beta (`float`, *optional*, defaults to `1.0`):
            Inverse temperature; 0 is [`ga`].

    Returns:
        `torch.Tensor`: Loss of each row, of shape `(num_rows,)`.

    Source: Rethinking LLM Unlearning Objectives (https://huggingface.co/papers/2502.19301).
    """
    _check_shapes(logps=logps, reference_logps=reference_logps, mask=mask)
    return _weighted_ga(2 * (beta * (logps - reference_logps)).sigmoid(), logps, mask, reduction)


def satimp(logps: Tensor, mask: Tensor, beta1: float = 5.0, beta2: float = 1.0, reduction: str = "mean") -> Tensor:
    r"""
    Saturation and importance: \\(sg(\pi_y^{\beta_1} (1 - \pi_y)^{\beta_2}) \log \pi_y\\). The weight has no gradient.

    Args:
        logps, mask, reduction:
            See [`ga`].
        beta1 (`float`, *optional*, defaults to `5.0`):
            Exponent of the saturation: an unlikely token counts less.
        beta2 (`float`, *optional*, defaults to `1.0`):
            Exponent of the importance: a sure token counts less. With both 0 this is [`ga`], with only this 0
            [`wga`].

    Returns:
        `torch.Tensor`: Loss of each row, of shape `(num_rows,)`.

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
    Direct preference optimisation of an "I don't know" answer over the answer to forget:
    \\(-\frac{2}{\beta} \log \sigma(\beta \log \frac{\pi(y_c|x)}{\pi_{ref}(y_c|x)} -
    \beta \log \frac{\pi(y|x)}{\pi_{ref}(y|x)})\\), with log-probabilities summed over a row.

    Of the scales in use (NPO's paper 1 / beta, its code and OpenUnlearning 2 / beta, TOFU's code 1) this is 2 / beta:
    [`npo`] is then the same loss with the chosen answer left out.

    Args:
        logps, reference_logps, mask:
            The answer to forget, which is rejected; see [`npo`].
        chosen_logps, chosen_reference_logps, chosen_mask (`torch.Tensor`):
            The same of the chosen answer, of shape `(num_rows, max_chosen_labels)`.
        beta (`float`, *optional*, defaults to `0.1`):
            Inverse temperature.

    Returns:
        `torch.Tensor`: Loss of each row, of shape `(num_rows,)`.

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
    logit of the label was lowered. Only label tokens count; OpenUnlearning averages over prompt and padding as well.

    Args:
        kl (`torch.Tensor`):
            KL(t || pi) of each label token, in nats, of shape `(num_rows, max_labels)` (see
            [`~trl_unlearn.token_scores.TokenScores`], with `ScoreTerms(reference_shift=strength)`).
        reference_entropy (`torch.Tensor`):
            Entropy of t, in nats, of the same shape.
        mask, reduction:
            See [`ga`].

    Returns:
        `torch.Tensor`: Loss of each row, of shape `(num_rows,)`.

    Source: UNDIAL (https://huggingface.co/papers/2402.10052).
    """
    _check_shapes(kl=kl, reference_entropy=reference_entropy, mask=mask)
    return reduce_tokens(kl + reference_entropy, mask, reduction)


def ceu(others: Tensor, mask: Tensor, reduction: str = "mean") -> Tensor:
    r"""
    Cross-entropy unlearning: \\(-\sum_{v \ne y} sg(q_v) \log \pi_v\\), where q is pi without the label, renormalised.
    Every label token counts, where the authors leave out the first of an answer.

    Args:
        others (`torch.Tensor`):
            \\(\sum_{v \ne y} q_v \log \pi_v\\) of each label token, in nats, of shape `(num_rows, max_labels)` (see
            [`~trl_unlearn.token_scores.TokenScores`]).
        mask, reduction:
            See [`ga`].

    Returns:
        `torch.Tensor`: Loss of each row, of shape `(num_rows,)`.

    Source: CE-U (https://huggingface.co/papers/2503.01224).
    """
    return -reduce_tokens(others, mask, reduction)


def bs_t(logps: Tensor, beliefs: Tensor, mask: Tensor, lambda_bst: float = 0.2, reduction: str = "mean") -> Tensor:
    r"""
    Bootstrapping on tokens: \\(\langle t, \log \pi \rangle\\) with the target
    \\(t = \lambda\, sg(q) + (1 - \lambda) e_y\\), where q is pi on the k most likely tokens \\(H_k\\), renormalised.

    In logit space the update of a token u is \\(\pi_u - t_u\\). With S the mass of \\(H_k\\) and temperature 1, a
    non-target token of \\(H_k\\) is moved by [`ga`]'s update times \\(1 - \lambda / S\\), a token outside by exactly
    [`ga`]'s: for \\(\lambda < S\\) squeezing is attenuated, not reversed, and at k = |V| this *is*
    \\((1 - \lambda)\\) times [`ga`]. In general a non-target token of \\(H_k\\) is pushed down if and only if
    \\(\lambda q_u > \pi_u\\).

    Args:
        logps, mask:
            See [`ga`].
        beliefs (`torch.Tensor`):
            Belief term \\(\sum_{v \in H_k} q_v \log \pi_v\\) of each label token (see
            [`~trl_unlearn.token_scores.token_scores`]), of the same shape.
        lambda_bst (`float`, *optional*, defaults to `0.2`):
            Weight of the beliefs, in [0, 1]; 0 is [`ga`].
        reduction (`str`, *optional*, defaults to `"mean"`):
            `"mean"` (the authors' code) or `"sum"` (the paper) over the label tokens of a row.

    Returns:
        `torch.Tensor`: Loss of each row, of shape `(num_rows,)`; unbounded below.

    Source: LLM Unlearning with LLM Beliefs (https://huggingface.co/papers/2510.19422), Eq. 5-6.
    """
    _check_shapes(logps=logps, beliefs=beliefs, mask=mask)
    # (1 - lambda) log pi_y + lambda <q, log pi>: linear in the target, so that t is never built.
    return reduce_tokens(torch.lerp(logps, beliefs, lambda_bst), mask, reduction)


def bs_s_weights(lambda_bss: float, num_beliefs: int) -> tuple[float, float]:
    r"""
    Bootstrapping on sequences: \\((1 - \lambda) L(y) + \lambda \frac{1}{N} \sum_j L(\hat y_j)\\), for any forget
    objective L. It is linear in the losses of rows, so that beliefs can be passed in slices.

    Args:
        lambda_bss (`float`):
            \\(\lambda\\), weight of the beliefs, in [0, 1].
        num_beliefs (`int`):
            N, beliefs of each row.

    Returns:
        `tuple[float, float]`: Weight of the loss of a forget row, and of the loss of each of its beliefs.

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
    \(KL(t || \pi) + \mu |\log \pi_y - \log t_y + m [t_y < 1/2]|\) per token.

    The divergence makes the model say what the twin says. The second term brings each token of the answer to the
    twin's probability, however small its share of the divergence is, and from both sides: with a bound from above
    alone, true answers fall until the removal can be seen. A token that the answer alone decides (t_y < 1/2) ends the
    margin below the twin's.

    Args:
        logps, mask, reduction:
            See [`ga`]; tokens without a twin's distribution are `False` in `mask`. A row of only these has loss 0.
        kl (`torch.Tensor`):
            KL(t || pi) at each label token, of the shape of `logps`.
        twin_logps (`torch.Tensor`):
            log t_y, of the same shape.
        penalty (`float`, *optional*, defaults to `0.25`):
            mu, the weight of the second term.
        margin (`float`, *optional*, defaults to `0.0`):
            m, in nats.

    Returns:
        `torch.Tensor`: Loss of each row, of shape `(num_rows,)`; not negative.

    Source: the divergence is that of Revisiting Who's Harry Potter (https://huggingface.co/papers/2407.16997); the
    second term is ours.
    """
    _check_shapes(logps=logps, kl=kl, twin_logps=twin_logps, mask=mask)
    distance = (logps - twin_logps + margin * (twin_logps < math.log(0.5))).abs()
    return torch.where(
        mask.any(-1), reduce_tokens(kl + penalty * distance, mask | ~mask.any(-1, keepdim=True), reduction), 0.0
    )

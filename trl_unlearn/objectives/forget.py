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

"""What is minimised on rows that must go: pure functions of per-token scores, one loss an example."""

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
    Per-token values to one value an example.

    Args:
        values (`torch.Tensor`):
            Values of shape `(num_rows, max_labels)`.
        mask (`torch.Tensor`):
            `True` at label tokens, of the same shape.
        reduction (`str`, *optional*, defaults to `"mean"`):
            `"mean"` or `"sum"` over the label tokens of a row.

    Returns:
        `torch.Tensor`: Of shape `(num_rows,)`.

    Raises:
        `ValueError`: If the shapes differ or the reduction is neither.
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

    Raises:
        `ValueError`: If the shapes differ.
    """
    return reduce_tokens(logps, mask, reduction)


def npo(logps: Tensor, reference_logps: Tensor, mask: Tensor, beta: float = 0.1) -> Tensor:
    r"""
    Negative preference optimisation:
    \\(-\frac{2}{\beta} \log \sigma(-\beta \log \frac{\pi(y|x)}{\pi_{ref}(y|x)})\\), with log-probabilities summed over
    a row.

    Args:
        logps (`torch.Tensor`):
            log pi_y of each label token, in nats, of shape `(num_rows, max_labels)`.
        reference_logps (`torch.Tensor`):
            The same under the model as it was passed in, of the same shape.
        mask (`torch.Tensor`):
            `True` at label tokens, of the same shape.
        beta (`float`, *optional*, defaults to `0.1`):
            Inverse temperature; towards 0 the gradient becomes that of [`ga`] (summed over tokens).

    Returns:
        `torch.Tensor`: Loss of each row, of shape `(num_rows,)`.

    Raises:
        `ValueError`: If the shapes differ.

    Source: Negative Preference Optimization (https://huggingface.co/papers/2404.05868), Eq. 3.
    """
    _check_shapes(logps=logps, reference_logps=reference_logps, mask=mask)
    log_ratio = (logps - reference_logps).masked_fill(~mask, 0).sum(-1)
    return -F.logsigmoid(-beta * log_ratio) * 2 / beta


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
        logps (`torch.Tensor`):
            log pi_y of each label token, in nats, of shape `(num_rows, max_labels)`.
        beliefs (`torch.Tensor`):
            Belief term \\(\sum_{v \in H_k} q_v \log \pi_v\\) of each label token (see
            [`~trl_unlearn.token_scores.token_scores`]), of the same shape.
        mask (`torch.Tensor`):
            `True` at label tokens, of the same shape.
        lambda_bst (`float`, *optional*, defaults to `0.2`):
            Weight of the beliefs, in [0, 1]; 0 is [`ga`].
        reduction (`str`, *optional*, defaults to `"mean"`):
            `"mean"` (the authors' code) or `"sum"` (the paper) over the label tokens of a row.

    Returns:
        `torch.Tensor`: Loss of each row, of shape `(num_rows,)`; unbounded below.

    Raises:
        `ValueError`: If the shapes differ.

    Source: LLM Unlearning with LLM Beliefs (https://huggingface.co/papers/2510.19422), Eq. 5-6.
    """
    _check_shapes(logps=logps, beliefs=beliefs, mask=mask)
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

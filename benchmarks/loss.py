# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0


"""BS-T's loss alone, forward and backward: our scores against logits over the whole vocabulary."""

from collections.abc import Callable

import torch
from settings import Settings

from trl_unlearn.label_states import LabelStates, LogitHead
from trl_unlearn.objectives import forget
from trl_unlearn.token_scores import ScoreTerms, token_scores


ROWS, TOKENS, HIDDEN, VOCAB = 16, 96, 576, 49_152
TOP_K, LAMBDA = 20, 0.2


def _inputs(settings: Settings, trains_head: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(ROWS, TOKENS, HIDDEN, generator=generator).to(settings.device).requires_grad_()
    weight = (torch.randn(VOCAB, HIDDEN, generator=generator) * HIDDEN**-0.5 * 3).to(settings.device)
    labels = torch.randint(VOCAB, (ROWS, TOKENS), generator=generator).to(settings.device)
    # The first half of each row is its prompt.
    mask = (torch.arange(TOKENS) >= TOKENS // 2).expand(ROWS, TOKENS).to(settings.device)
    return hidden, weight.requires_grad_(trains_head), labels, mask


def _forget_leaves(*leaves: torch.Tensor) -> None:
    for leaf in leaves:
        leaf.grad = None


def dense_bs_t(logits: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """BS-T from the logits of every position, with a target vector of the size of the vocabulary."""
    logps = logits.float().log_softmax(-1)
    with torch.no_grad():
        probabilities = logps.exp()
        top, index = probabilities.topk(TOP_K, dim=-1)
        beliefs = torch.zeros_like(probabilities).scatter(-1, index, top / top.sum(-1, keepdim=True))
        onehot = torch.zeros_like(probabilities).scatter(-1, labels[..., None], 1.0)
        target = LAMBDA * beliefs + (1 - LAMBDA) * onehot
    return (((target * logps).sum(-1) * mask).sum(-1) / mask.sum(-1)).mean()


def dense(settings: Settings, trains_head: bool) -> Callable[[], None]:
    """As public code does it: the logits of every position, and a target vector of the size of the vocabulary."""
    hidden, weight, labels, mask = _inputs(settings, trains_head)

    def run() -> None:
        _forget_leaves(hidden, weight)
        dense_bs_t(hidden @ weight.t(), labels, mask).backward()

    return run


def fused(settings: Settings, trains_head: bool) -> Callable[[], None]:
    """Ours: label positions only, in tiles."""
    hidden, weight, labels, mask = _inputs(settings, trains_head)

    def run() -> None:
        _forget_leaves(hidden, weight)
        states = LabelStates(hidden[mask], labels[mask], mask.sum(1).tolist(), LogitHead(weight))
        scores = token_scores(states, ScoreTerms(belief_top_k=TOP_K))
        forget.bs_t(scores.logps, scores.beliefs, scores.mask, LAMBDA).mean().backward()

    return run


CASES = {
    "loss/dense, frozen head": lambda settings: dense(settings, False),
    "loss/fused, frozen head": lambda settings: fused(settings, False),
    "loss/dense, trainable head": lambda settings: dense(settings, True),
    "loss/fused, trainable head": lambda settings: fused(settings, True),
}
# Our case -> the cases that it is measured against.
COMPARED = {
    "loss/fused, frozen head": ["loss/dense, frozen head"],
    "loss/fused, trainable head": ["loss/dense, trainable head"],
}

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

"""From label tokens to per-token scores: the only label shift and the only mask."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm


@dataclass
class LabelLogits:
    """
    Logits at the label positions of a batch.

    Args:
        logits (`torch.Tensor`):
            Logits of the model that predict a label token, in float32 (float64 stays), of shape
            `(num_labels, vocab_size)`.
        labels (`torch.Tensor`):
            The label tokens, of shape `(num_labels,)`.
        lengths (`list[int]`):
            Number of label tokens of each row; they sum to `num_labels`.
    """

    logits: torch.Tensor
    labels: torch.Tensor
    lengths: list[int]

    def to_rows(self, values: torch.Tensor) -> torch.Tensor:
        """Values of shape `(num_labels,)` as one row an example, `(num_rows, max_labels)`, zero padded."""
        return pad_sequence(values.split(self.lengths), batch_first=True)


@dataclass
class TokenScores:
    """
    Per-token scores of a batch; a row holds its label tokens only, so that no prompt token can count.

    Args:
        logps (`torch.Tensor`):
            log pi_y of each label token, in nats, of shape `(num_rows, max_labels)`; 0 in the padding.
        mask (`torch.Tensor`):
            `True` at label tokens, of the same shape.
        beliefs (`torch.Tensor`, *optional*):
            The belief term of BS-T, `sum_{v in H_k} q_v log pi_v`, of the same shape.
    """

    logps: torch.Tensor
    mask: torch.Tensor
    beliefs: torch.Tensor | None = None


def batch_logits(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> LabelLogits:
    """
    Run a model on right-padded rows and keep the logits that predict a label.

    Args:
        model (`torch.nn.Module`):
            Causal language model, wrapped or not.
        batch (`Mapping[str, torch.Tensor]`):
            `input_ids`, `attention_mask` and `labels` (-100 where nothing is to be scored), of shape `(rows, tokens)`.

    Returns:
        [`LabelLogits`]: The logits, with the label tokens that they predict.
    """
    targets = batch["labels"][:, 1:]
    mask = targets != -100
    # Leading columns that predict no label in any row need no projection to the vocabulary.
    first = int(mask.any(0).nonzero()[0])
    kept = batch["input_ids"].size(1) - first
    outputs = model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False, logits_to_keep=kept
    )
    # Prompt-learning adapters prepend virtual tokens: count from the end.
    logits = outputs.logits[:, -kept:-1]
    mask, targets = mask[:, first:], targets[:, first:]
    logits = logits[mask]
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return LabelLogits(logits=logits, labels=targets[mask], lengths=mask.sum(1).tolist())


def token_scores(
    label_logits: LabelLogits,
    *,
    belief_top_k: int | None = None,
    belief_temperature: float = 1.0,
    belief_exclude_target: bool = False,
) -> TokenScores:
    r"""
    Log-probability of each label token and, if asked, the belief term of BS-T.

    With \\(H_k\\) the `belief_top_k` most likely tokens and \\(q = softmax(z_H / \tau)\\) without gradient, the belief
    term is \\(\sum_{v \in H_k} q_v z_v - logsumexp(z)\\): no target of the size of the vocabulary is built.

    Args:
        label_logits ([`LabelLogits`]):
            Logits at the label positions.
        belief_top_k (`int`, *optional*):
            Size of \\(H_k\\). `None` leaves the belief term out.
        belief_temperature (`float`, *optional*, defaults to `1.0`):
            \\(\tau\\), which sharpens (below 1) or flattens q.
        belief_exclude_target (`bool`, *optional*, defaults to `False`):
            Whether the label is taken out of \\(H_k\\) (the k most likely *other* tokens).

    Returns:
        [`TokenScores`]: Scores of shape `(num_rows, max_labels)`.

    Source: LLM Unlearning with LLM Beliefs (https://huggingface.co/papers/2510.19422), Eq. 5-6.
    """
    logits, labels = label_logits.logits, label_logits.labels[:, None]
    log_normaliser = logits.logsumexp(-1)
    logps = logits.gather(-1, labels)[:, 0] - log_normaliser
    mask = label_logits.to_rows(torch.ones_like(labels[:, 0], dtype=torch.bool))
    beliefs = None
    if belief_top_k is not None:
        candidates = logits.detach()
        if belief_exclude_target:
            candidates = candidates.scatter(-1, labels, float("-inf"))
        top_logits, top = candidates.topk(belief_top_k, dim=-1)
        q = (top_logits / belief_temperature).softmax(-1)
        # With k = |V| the excluded target is among the top with weight 0; 0 x its finite logit is 0.
        beliefs = label_logits.to_rows((q * logits.gather(-1, top)).sum(-1) - log_normaliser)
    return TokenScores(logps=label_logits.to_rows(logps), mask=mask, beliefs=beliefs)


def token_kl(reference: LabelLogits, current: LabelLogits) -> torch.Tensor:
    """
    KL(reference || current) over the vocabulary at each label position.

    Args:
        reference ([`LabelLogits`]):
            Logits of the original model, without gradient.
        current ([`LabelLogits`]):
            Logits of the model in training on the same batch.

    Returns:
        `torch.Tensor`: KL divergence in nats, of shape `(num_rows, max_labels)`; 0 in the padding.
    """
    reference_logps, logps = reference.logits.log_softmax(-1), current.logits.log_softmax(-1)
    return current.to_rows((reference_logps.exp() * (reference_logps - logps)).sum(-1))


@dataclass
class RowScore:
    """
    Teacher-forced scores of one row.

    Args:
        logps (`list[float]`):
            log pi_y of each label token, in nats, the end-of-turn token included.
        is_top1 (`list[bool]`):
            Whether each label token is the most likely one.
    """

    logps: list[float]
    is_top1: list[bool]


def pad_rows(rows: Sequence[Mapping[str, Any]], pad_token_id: int) -> dict[str, torch.Tensor]:
    """
    Encoded rows to one right-padded batch.

    Args:
        rows (`Sequence[Mapping[str, Any]]`):
            Rows with `input_ids` and `labels`.
        pad_token_id (`int`):
            Token of the padding.

    Returns:
        `dict[str, torch.Tensor]`: `input_ids`, `attention_mask` and `labels`, of shape `(rows, tokens)`.
    """
    ids = [torch.tensor(row["input_ids"]) for row in rows]
    labels = [torch.tensor(row["labels"]) for row in rows]
    return {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=pad_token_id),
        "attention_mask": pad_sequence([torch.ones_like(x) for x in ids], batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=-100),
    }


@torch.no_grad()
def score_rows(
    model: nn.Module,
    rows: Sequence[Mapping[str, Any]],
    *,
    pad_token_id: int,
    batch_size: int = 32,
    desc: str | None = None,
) -> list[RowScore]:
    """
    Score rows with teacher forcing, in batches of similar length.

    Args:
        model (`torch.nn.Module`):
            Causal language model; its training mode is put back afterwards.
        rows (`Sequence[Mapping[str, Any]]`):
            Encoded rows (`input_ids` and `labels`).
        pad_token_id (`int`):
            Token of the padding.
        batch_size (`int`, *optional*, defaults to `32`):
            Rows a forward pass takes.
        desc (`str`, *optional*):
            Label of the progress bar. `None` shows none.

    Returns:
        `list[RowScore]`: In the order of the rows.
    """
    device = next(model.parameters()).device
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]["input_ids"]))
    scores: list[RowScore | None] = [None] * len(rows)
    was_training = model.training
    model.eval()
    try:
        with tqdm(total=len(rows), desc=desc, disable=None if desc else True) as progress:
            for start in range(0, len(rows), batch_size):
                indices = order[start : start + batch_size]
                batch = pad_rows([rows[i] for i in indices], pad_token_id)
                found = batch_logits(model, {key: value.to(device) for key, value in batch.items()})
                logps = token_scores(found).logps.tolist()
                is_top1 = found.to_rows(found.logits.argmax(-1) == found.labels).tolist()
                for i, length, row_logps, row_top1 in zip(indices, found.lengths, logps, is_top1, strict=True):
                    scores[i] = RowScore(logps=row_logps[:length], is_top1=row_top1[:length])
                progress.update(len(indices))
    finally:
        model.train(was_training)
    return scores

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

"""From hidden states and labels to per-token scores, a row's label tokens only: the only mask."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from ._fused_scores import FusedScores, ScoreTerms, gathered
from .encoding import pad_rows
from .label_states import LabelStates, label_states


_LOGPS_ONLY = ScoreTerms()


@dataclass
class RowGroup:
    """
    Rows of a batch that are scored alike.

    Args:
        rows (`Sequence[int]`):
            Indices in the batch.
        terms ([`ScoreTerms`], *optional*):
            What is computed beside log pi_y.
        reference ([`LabelStates`], *optional*):
            States of the reference on these rows, for the divergence.
    """

    rows: Sequence[int]
    terms: ScoreTerms = _LOGPS_ONLY
    reference: LabelStates | None = None


@dataclass
class TokenScores:
    """
    Per-token scores of a batch; a row holds its label tokens only, so that no prompt token can count.

    Args:
        logps (`torch.Tensor`):
            log pi_y of each label token, in nats, of shape `(num_rows, max_labels)`; 0 in the padding, as everywhere
            below.
        mask (`torch.Tensor`):
            `True` at label tokens, of the same shape.
        beliefs (`torch.Tensor`, *optional*):
            The belief term of BS-T, `sum_{v in H_k} q_v log pi_v`.
        others (`torch.Tensor`, *optional*):
            The same over all tokens but the label, with q = pi renormalised.
        kl (`torch.Tensor`, *optional*):
            KL(reference || pi), in nats.
        entropy (`torch.Tensor`, *optional*):
            Entropy of pi in nats, without gradient.
        reference_entropy (`torch.Tensor`, *optional*):
            Entropy of the reference in nats.
        is_top1 (`torch.Tensor`, *optional*):
            Whether the label is the most likely token.
        log_variance (`torch.Tensor`, *optional*):
            Variance of log pi under pi, in squared nats, without gradient.
        inner (`torch.Tensor`, *optional*):
            Hidden states after an inner layer where the label is predicted, of shape `(num_rows, max_labels,
            hidden_size)`.
    """

    logps: Tensor
    mask: Tensor
    beliefs: Tensor | None = None
    others: Tensor | None = None
    kl: Tensor | None = None
    entropy: Tensor | None = None
    reference_entropy: Tensor | None = None
    is_top1: Tensor | None = None
    log_variance: Tensor | None = None
    inner: Tensor | None = None


def _flat_scores(states: LabelStates, terms: ScoreTerms, reference: LabelStates | None) -> dict[str, Tensor]:
    kind = states.hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else states.hidden.dtype
    given = None if reference is None else (reference.hidden.detach(), reference.head)
    parameters = [p for head in (states.head, given and given[1]) if head for p in (head.weight, head.bias)]
    with torch.autocast(kind, enabled=False), gathered(*parameters):
        values = FusedScores.apply(
            states.hidden, states.head.weight, states.head.bias, states.head, states.labels, given, terms, dtype
        )
    names = ("logps", "beliefs", "others", "kl", "entropy", "reference_entropy", "is_top1", "log_variance")
    found = dict(zip(names, values, strict=True)) | {"inner": states.inner}
    return {name: value for name, value in found.items() if value is not None}


def _in_rows(flat: Mapping[str, Tensor], lengths: list[int]) -> TokenScores:
    mask = torch.ones_like(flat["logps"], dtype=torch.bool)
    return TokenScores(
        **{
            name: pad_sequence(values.split(lengths), batch_first=True)
            for name, values in {**flat, "mask": mask}.items()
        }
    )


def token_scores(
    states: LabelStates, terms: ScoreTerms = _LOGPS_ONLY, reference: LabelStates | None = None
) -> TokenScores:
    r"""
    Log-probability of each label token and, if asked, sums over the vocabulary.

    With \\(H_k\\) the `belief_top_k` most likely tokens and \\(q = softmax(z_H / \tau)\\) without gradient, the belief
    term of BS-T is \\(\sum_{v \in H_k} q_v z_v - logsumexp(z)\\): no target of the size of the vocabulary is built,
    and the logits only in tiles.

    Args:
        states ([`LabelStates`]):
            Hidden states at the label positions.
        terms ([`ScoreTerms`], *optional*):
            What is computed beside log pi_y.
        reference ([`LabelStates`], *optional*):
            Those of the reference on the same batch, for the divergence.

    Returns:
        [`TokenScores`]: Scores of shape `(num_rows, max_labels)`.

    Source: LLM Unlearning with LLM Beliefs (https://huggingface.co/papers/2510.19422), Eq. 5-6.
    """
    return _in_rows(_flat_scores(states, terms, reference), states.lengths)


def _run_inside(wrapper: nn.Module, model: nn.Module, function: Callable[..., Any], inputs: dict[str, Tensor]) -> Any:
    """Call a function in place of the forward of a wrapped model, so that the wrapper's hooks run around it."""
    patch = vars(model).get("forward")

    def restore() -> None:
        vars(model).pop("forward", None)
        if patch is not None:
            model.forward = patch

    def forward(**inputs: Tensor) -> Any:
        restore()
        return function(**inputs)

    model.forward = forward
    try:
        return wrapper(**inputs)
    finally:
        restore()


def score_groups(
    model: nn.Module, batch: Mapping[str, Tensor], groups: Sequence[RowGroup], layer: int | None = None
) -> list[TokenScores | None]:
    """
    [`token_scores`] of groups of rows from one forward pass, inside the forward of whatever wraps the model (DDP,
    FSDP, DeepSpeed).

    Args:
        model (`torch.nn.Module`):
            Causal language model, wrapped or not.
        batch (`Mapping[str, torch.Tensor]`):
            See [`label_states`].
        groups (`Sequence[RowGroup]`):
            Rows that are scored alike.
        layer (`int`, *optional*):
            Inner layer whose hidden states are kept too.

    Returns:
        `list[TokenScores | None]`: One a group, its rows in the order of `RowGroup.rows`; None for a group without
        rows, whose head is gathered all the same where it is sharded.

    Raises:
        `ValueError`: If the model's head cannot be used.
    """
    unwrapped, lengths, trained = extract_model_from_parallel(model), [], {}

    def forward(**batch: Tensor) -> dict[str, Tensor]:
        states = label_states(unwrapped, batch, layer)
        flat = {}
        for index, group in enumerate(groups):
            chosen = states.rows(group.rows)
            lengths.append(chosen.lengths)
            scores = _flat_scores(chosen, group.terms, group.reference)
            flat |= {f"{index}/{name}": values for name, values in scores.items()}
        # Tensors in a dictionary with text as keys, where every wrapper looks for what needs a gradient: one of them,
        # because ZeRO-3 wants as many from each process, and a process may have rows of one group only in its pass.
        trained.update({name: values for name, values in flat.items() if values.requires_grad})
        given = {name: values for name, values in flat.items() if name not in trained}
        return given | {"trained": torch.cat([values.flatten() for values in trained.values()])} if trained else given

    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
    flat = _run_inside(model, unwrapped, forward, inputs)
    if trained:
        parts = flat.pop("trained").split([values.numel() for values in trained.values()])
        for (name, values), part in zip(trained.items(), parts, strict=True):
            flat[name] = part.view_as(values).to(values.dtype)
    found: list[dict[str, Tensor]] = [{} for _ in groups]
    for key, values in flat.items():
        index, name = key.split("/")
        found[int(index)][name] = values
    return [_in_rows(scores, of_rows) if of_rows else None for scores, of_rows in zip(found, lengths, strict=True)]


@torch.no_grad()
def states_inside(model: nn.Module, batch: Mapping[str, Tensor], layer: int | None = None) -> LabelStates:
    """
    [`label_states`] without gradient, inside the forward of whatever wraps the model.

    Args:
        model, batch, layer:
            See [`score_groups`].

    Returns:
        [`LabelStates`]: States, and a head, that stay when the wrapper takes back what it has gathered.
    """
    unwrapped, found = extract_model_from_parallel(model), []

    def forward(**batch: Tensor) -> Tensor:
        states = label_states(unwrapped, batch, layer)
        # FSDP2 frees them after its forward, and a bias that trains may have another value in a reference.
        for name in ("weight", "bias"):
            values = getattr(states.head, name)
            if values is not None and (isinstance(unwrapped, FSDPModule) or (name == "bias" and values.requires_grad)):
                states.head = replace(states.head, **{name: values.clone()})
        found.append(states)
        return states.hidden

    _run_inside(model, unwrapped, forward, dict(batch))
    return found[0]


def score_batch(model: nn.Module, batch: Mapping[str, Tensor], terms: ScoreTerms = _LOGPS_ONLY) -> TokenScores:
    """
    [`token_scores`] of every row of a batch.

    Args:
        model, batch:
            See [`score_groups`].
        terms ([`ScoreTerms`], *optional*):
            What is computed beside log pi_y.

    Returns:
        [`TokenScores`]: Scores of shape `(num_rows, max_labels)`.

    Raises:
        `ValueError`: If the model's head cannot be used.
    """
    return score_groups(model, batch, [RowGroup(range(len(batch["labels"])), terms)])[0]


@dataclass
class RowScore:
    """
    Teacher-forced scores of one row.

    Args:
        logps (`list[float]`):
            log pi_y of each label token, in nats, the end-of-turn token included; all NaN if one is not finite.
        is_top1 (`list[bool]`):
            Whether each label token is the most likely one.
        entropy (`list[float]`, *optional*):
            Entropy of pi where each label token is predicted, in nats.
        log_variance (`list[float]`, *optional*):
            Variance of log pi under pi there, in squared nats.
    """

    logps: list[float]
    is_top1: list[bool]
    entropy: list[float] | None = None
    log_variance: list[float] | None = None

    def __post_init__(self):
        # A mean over the lowest scores, or a maximum, would go on without the token that has none.
        if not self.is_finite:
            self.logps = [math.nan] * len(self.logps)

    @property
    def is_finite(self) -> bool:
        """`bool`: Whether the model gives every label token a log-prob. If not, `is_top1` says nothing."""
        return all(map(math.isfinite, self.logps))


@torch.no_grad()
def score_rows(
    model: nn.Module,
    rows: Sequence[Mapping[str, Any]],
    *,
    pad_token_id: int,
    batch_size: int = 32,
    moments: bool = False,
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
        moments (`bool`, *optional*, defaults to `False`):
            Whether entropy and variance of log pi are kept too.
        desc (`str`, *optional*):
            Label of the progress bar. `None` shows none.

    Returns:
        `list[RowScore]`: In the order of the rows.
    """
    device = next(model.parameters()).device
    names = ("logps", "is_top1", *(("entropy", "log_variance") if moments else ()))
    terms = ScoreTerms(is_top1=True, entropy=moments, log_variance=moments)
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]["input_ids"]))
    scores: list[RowScore | None] = [None] * len(rows)
    was_training = model.training
    model.eval()
    try:
        with tqdm(total=len(rows), desc=desc, disable=None if desc else True) as progress:
            for start in range(0, len(rows), batch_size):
                indices = order[start : start + batch_size]
                batch = pad_rows([rows[i] for i in indices], pad_token_id)
                found = score_batch(model, {key: value.to(device) for key, value in batch.items()}, terms)
                lengths = found.mask.sum(-1).tolist()
                columns = {name: getattr(found, name).tolist() for name in names}
                for row, (i, length) in enumerate(zip(indices, lengths, strict=True)):
                    scores[i] = RowScore(**{name: values[row][:length] for name, values in columns.items()})
                progress.update(len(indices))
    finally:
        model.train(was_training)
    return scores

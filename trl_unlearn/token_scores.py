# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""
From hidden states and labels to per-token scores, a row's label tokens only: the only mask.

The path of a batch: the wrapper (DDP, FSDP, DeepSpeed) -> our forward in place of the model's (`_run_inside`) ->
`label_states`, which runs the model and keeps the states that predict a label -> `FusedScores` -> scores with a
gradient as one tensor, "trained", by which a wrapper finds them -> `score_groups`, which cuts it into scores of rows.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from ._fused_scores import SCORES, FusedScores, Reference, ScoreTerms, gathered
from .encoding import pad_rows, without_end
from .label_states import LabelStates, in_mode, label_states, replaced_forward, sharing_obstacle
from .prompt_sharing import is_worth_sharing, lay_out, pass_cost, row_shape, widest


_LOGPS_ONLY = ScoreTerms()


@dataclass
class RowGroup:
    """Rows of a batch, by index, that are scored alike; `reference` holds the reference's states on these rows."""

    rows: Sequence[int]
    terms: ScoreTerms = _LOGPS_ONLY
    reference: LabelStates | None = None


@dataclass
class TokenScores:
    """
    Per-token scores of a batch, `[rows, labels]`: label tokens only, so that no prompt token can count. Padding is 0.

    See [`~trl_unlearn._fused_scores.ScoreTerms`] for what is computed. Log-probs and entropies are in nats.
    """

    # log pi_y of each label token.
    logps: Tensor
    # True at label tokens, False in the padding.
    mask: Tensor
    # sum_{v in H_k} q_v log pi_v, the belief term of BS-T, and the same over all tokens but the label (q = pi without
    # it, renormalised).
    beliefs: Tensor | None = None
    others: Tensor | None = None
    # KL(reference || pi).
    kl: Tensor | None = None
    # From here on without gradient.
    entropy: Tensor | None = None
    # log t_y and entropy of the reference t.
    reference_logps: Tensor | None = None
    reference_entropy: Tensor | None = None
    # Whether the label is the most likely token.
    is_top1: Tensor | None = None
    # Variance of log pi under pi, in squared nats.
    log_variance: Tensor | None = None
    # Hidden states after an inner layer where the label is predicted, [rows, labels, hidden size]; with gradient.
    inner: Tensor | None = None


def _flat_scores(states: LabelStates, terms: ScoreTerms, reference: LabelStates | None) -> dict[str, Tensor]:
    # Autocast chooses the dtype of the products here, and would round the sums in float32 inside.
    kind = states.hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else states.hidden.dtype
    given = None if reference is None else Reference(reference.hidden.detach(), reference.head, reference.swaps)
    parameters = [p for head in (states.head, given and given.head) if head for p in (head.weight, head.bias)]
    with torch.autocast(kind, enabled=False), gathered(*parameters):
        values = FusedScores.apply(
            states.hidden, states.head.weight, states.head.bias, states.head, states.labels, given, terms, dtype
        )
    scores = dict(zip(SCORES, values, strict=True)) | {"inner": states.inner}
    return {name: value for name, value in scores.items() if value is not None}


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

    Source: LLM Unlearning with LLM Beliefs (https://huggingface.co/papers/2510.19422), Eq. 5-6.
    """
    return _in_rows(_flat_scores(states, terms, reference), states.lengths)


def _run_inside(wrapper: nn.Module, model: nn.Module, function: Callable[..., Any], inputs: dict[str, Tensor]) -> Any:
    """Call a function in place of the forward of a wrapped model, so that the wrapper's hooks run around it."""
    with ExitStack() as stack:

        def forward(**inputs: Tensor) -> Any:
            # Restored now: the function calls the forward itself.
            stack.close()
            return function(**inputs)

        stack.enter_context(replaced_forward(model, forward))
        return wrapper(**inputs)


def score_groups(
    model: nn.Module,
    batch: Mapping[str, Tensor],
    groups: Sequence[RowGroup],
    layer: int | None = None,
    share_prompts: bool = False,
) -> list[TokenScores | None]:
    """[`token_scores`] of groups of rows from one pass, inside any wrapper; None for a group without rows."""
    unwrapped, lengths, trained = extract_model_from_parallel(model), [], {}

    def forward(**batch: Tensor) -> dict[str, Tensor]:
        states = label_states(unwrapped, batch, layer, share_prompts)
        flat = {}
        for index, group in enumerate(groups):
            chosen = states.rows(group.rows)
            lengths.append(chosen.lengths)
            scores = _flat_scores(chosen, group.terms, group.reference)
            flat |= {f"{index}/{name}": values for name, values in scores.items()}
        # Wrappers look for gradients in a str-keyed dict; ZeRO-3 needs the same number on every rank, and a rank may
        # have rows of one group only: concatenate.
        trained.update({name: values for name, values in flat.items() if values.requires_grad})
        given = {name: values for name, values in flat.items() if name not in trained}
        return given | {"trained": torch.cat([values.flatten() for values in trained.values()])} if trained else given

    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
    flat = _run_inside(model, unwrapped, forward, inputs)
    if trained:
        parts = flat.pop("trained").split([values.numel() for values in trained.values()])
        for (name, values), part in zip(trained.items(), parts, strict=True):
            flat[name] = part.view_as(values).to(values.dtype)
    by_group: list[dict[str, Tensor]] = [{} for _ in groups]
    for key, values in flat.items():
        index, name = key.split("/")
        by_group[int(index)][name] = values
    # A group without rows went through the head all the same, which every process gathers where it is sharded.
    return [_in_rows(scores, sizes) if sizes else None for scores, sizes in zip(by_group, lengths, strict=True)]


@torch.no_grad()
def states_inside(
    model: nn.Module, batch: Mapping[str, Tensor], layer: int | None = None, share_prompts: bool = False
) -> LabelStates:
    """[`label_states`] without gradient, inside the forward of any wrapper; states and head outlive it."""
    unwrapped, collected = extract_model_from_parallel(model), []

    def forward(**batch: Tensor) -> Tensor:
        states = label_states(unwrapped, batch, layer, share_prompts)
        # FSDP2 frees both after its forward, and a bias that trains may have another value in a reference.
        for name in ("weight", "bias"):
            values = getattr(states.head, name)
            if values is not None and (isinstance(unwrapped, FSDPModule) or (name == "bias" and values.requires_grad)):
                states.head = replace(states.head, **{name: values.clone()})
        collected.append(states)
        return states.hidden

    _run_inside(model, unwrapped, forward, dict(batch))
    return collected[0]


def score_batch(
    model: nn.Module, batch: Mapping[str, Tensor], terms: ScoreTerms = _LOGPS_ONLY, share_prompts: bool = False
) -> TokenScores:
    """[`token_scores`] of every row of a batch, see [`score_groups`]."""
    group = RowGroup(range(len(batch["labels"])), terms)
    return score_groups(model, batch, [group], share_prompts=share_prompts)[0]


@dataclass
class RowScore:
    """Teacher-forced scores of one row, one value for each label token, the end-of-turn token included."""

    # log pi_y in nats; all NaN if one is not finite.
    logps: list[float]
    # Whether the label token is the most likely one.
    is_top1: list[bool]
    # Entropy of pi, in nats, and variance of log pi under pi.
    entropy: list[float] | None = None
    log_variance: list[float] | None = None

    def __post_init__(self):
        # A mean over the lowest scores, or a maximum, would silently leave out the token that has none.
        if not self.is_finite:
            self.logps = [math.nan] * len(self.logps)

    @property
    def is_finite(self) -> bool:
        """`bool`: Whether every label token has a log-prob. If not, `is_top1` says nothing."""
        return all(map(math.isfinite, self.logps))


def answer_matches(scores: Sequence[RowScore], closed: Sequence[bool]) -> list[list[bool]]:
    """Whether each token of each answer is the most likely one, without the end-of-turn token."""
    return [without_end(score.is_top1, ends) for score, ends in zip(scores, closed, strict=True)]


def gains_by_sharing(model: nn.Module, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether encoded rows have so many prompts in common that a model, whole and not wrapped, should share them."""
    # In half precision another order of sums moves numbers in their third digit, also those of earlier evaluations.
    first = next(model.parameters())
    if first.dtype in (torch.float16, torch.bfloat16) or torch.is_autocast_enabled(first.device.type):
        return False
    shapes = [row_shape(row["input_ids"], row["labels"]) for row in rows]
    hidden_size = model.config.get_text_config().hidden_size
    alone = sum(pass_cost(shape.length, shape.length, hidden_size) for shape in shapes)
    if not is_worth_sharing(lay_out(shapes, hidden_size).cost, alone):
        return False
    longest = max(shape.length for shape in shapes)
    return not isinstance(model, FSDPModule) and sharing_obstacle(model, longest, widest(shapes)) is None


def _by_length(rows: Sequence[Mapping[str, Any]], share_prompts: bool) -> list[list[int]]:
    """Indices of equal rows, longest first; with `share_prompts`, those of a prompt one after another."""
    # Models give the same answers again and again: equal rows are scored once.
    places: dict[tuple[Any, ...], list[int]] = {}
    for i, row in enumerate(rows):
        places.setdefault((tuple(row["input_ids"]), tuple(row["labels"])), []).append(i)
    if not share_prompts:
        return sorted(places.values(), key=lambda own: -len(rows[own[0]]["input_ids"]))
    by_prompt: dict[Any, list[list[int]]] = {}
    for (ids, labels), own in sorted(places.items(), key=lambda one: -len(one[0][0])):
        by_prompt.setdefault(row_shape(ids, labels).prompt, []).append(own)
    return [own for group in by_prompt.values() for own in group]


@torch.no_grad()
def score_rows(
    model: nn.Module,
    rows: Sequence[Mapping[str, Any]],
    *,
    pad_token_id: int,
    batch_size: int = 32,
    moments: bool = False,
    share_prompts: bool = False,
    desc: str | None = None,
) -> list[RowScore]:
    """Score encoded rows with teacher forcing, in eval mode; `moments` keeps entropy and variance of log pi, too."""
    device = next(model.parameters()).device
    names = ("logps", "is_top1", *(("entropy", "log_variance") if moments else ()))
    terms = ScoreTerms(is_top1=True, entropy=moments, log_variance=moments)
    # Longest first: if memory is short, the first batch fails.
    order = _by_length(rows, share_prompts)
    scores: list[RowScore | None] = [None] * len(rows)
    bar = tqdm(total=len(rows), desc=desc, disable=None if desc else True, leave=False)
    with in_mode(model, training=False), bar as progress:
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = pad_rows([rows[own[0]] for own in chosen], pad_token_id)
            batch = {key: value.to(device) for key, value in batch.items()}
            scored = score_batch(model, batch, terms, share_prompts)
            if share_prompts and not scored.logps.isfinite().all():
                # 0 x NaN is NaN: of rows in one sequence, one that is not finite would take the others with it.
                scored = score_batch(model, batch, terms)
            lengths = scored.mask.sum(-1).tolist()
            columns = {name: getattr(scored, name).tolist() for name in names}
            for row, (own, length) in enumerate(zip(chosen, lengths, strict=True)):
                score = RowScore(**{name: values[row][:length] for name, values in columns.items()})
                for i in own:
                    scores[i] = score
            progress.update(sum(map(len, chosen)))
    return scores

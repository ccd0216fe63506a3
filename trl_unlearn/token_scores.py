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

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import torch
from accelerate.utils import extract_model_from_parallel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from ._fused_scores import FusedScores, LogitHead, ScoreTerms
from ._trl import maybe_gather_lm_head_ctx


_LOGPS_ONLY = ScoreTerms()


@dataclass
class LabelStates:
    """
    Hidden states at the label positions of a batch, before the head.

    Args:
        hidden (`torch.Tensor`):
            Hidden states that predict a label token, of shape `(num_labels, hidden_size)`.
        labels (`torch.Tensor`):
            The label tokens, of shape `(num_labels,)`.
        lengths (`list[int]`):
            Number of label tokens of each row; they sum to `num_labels`.
        head ([`LogitHead`]):
            From hidden states to logits.
        inner (`torch.Tensor`, *optional*):
            Hidden states after an inner layer at the same positions, of shape `(num_labels, hidden_size)`.
    """

    hidden: Tensor
    labels: Tensor
    lengths: list[int]
    head: LogitHead
    inner: Tensor | None = None

    def rows(self, indices: Sequence[int]) -> "LabelStates":
        """The states of some rows, by index."""
        if list(indices) == list(range(len(self.lengths))):
            return self

        def chosen(values: Tensor) -> Tensor:
            parts = values.split(self.lengths)
            return torch.cat([parts[i] for i in indices])

        return LabelStates(
            hidden=chosen(self.hidden),
            labels=chosen(self.labels),
            lengths=[self.lengths[i] for i in indices],
            head=self.head,
            inner=None if self.inner is None else chosen(self.inner),
        )


@dataclass
class RowGroup:
    """
    Rows of a batch that are scored alike.

    Args:
        rows (`Sequence[int]`):
            Indices in the batch, at least one.
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
    inner: Tensor | None = None


# Models whose head was seen to do to its product what `LogitHead` says.
_probed_models: WeakSet[nn.Module] = WeakSet()
_PROBE = (1.0, 40.0)


def _logit_transform(config: Any) -> tuple[float, float | None]:
    """Scale and soft cap of the logits, from the names that model families give to them."""
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        scale = getattr(config, name, None)
        if scale is not None:
            break
    if scale is None and getattr(config, "logits_scaling", None) is not None:
        # HyperCLOVA X multiplies by what the others divide by.
        scale = config.logits_scaling if config.model_type == "hyperclovax" else 1 / config.logits_scaling
    return 1.0 if scale is None else float(scale), getattr(config, "final_logit_softcapping", None)


def _head_module(model: nn.Module) -> nn.Module:
    head = model.get_output_embeddings()
    if isinstance(head, BaseTunerLayer | ModulesToSaveWrapper):
        raise ValueError(
            "The model has an adapter on its LM head (`lm_head`), whose weight the scores need as one matrix. Take it "
            "out of `target_modules` and `modules_to_save`, or merge the adapter first (`model.merge_and_unload()`)."
        )
    if not isinstance(head, nn.Linear):
        raise ValueError(
            f"The model's output embedding is a `{type(head).__name__}`, expected a `Linear` layer over the "
            "vocabulary. Only causal language models with one can be scored."
        )
    return head


def check_head(model: nn.Module) -> None:
    """
    Refuse a model whose head cannot be used.

    Args:
        model (`torch.nn.Module`):
            Causal language model, not wrapped.

    Raises:
        `ValueError`: If the LM head is missing or carries an adapter.
    """
    _head_module(model)


def _logit_head(model: nn.Module, module: nn.Module) -> LogitHead:
    weight, bias = module.weight, module.bias
    if isinstance(weight, DTensor):
        weight, bias = weight.full_tensor(), None if bias is None else bias.full_tensor()
    scale, softcap = _logit_transform(model.config.get_text_config())
    return LogitHead(weight, bias, scale, softcap)


def _check_probe(model: nn.Module, head: LogitHead, logits: Tensor) -> None:
    """What the model does to logits after its head must be what the scores do: seen on two numbers."""
    if model in _probed_models:
        return
    probe = torch.tensor(_PROBE) * head.scale
    expected = probe if head.softcap is None else head.softcap * torch.tanh(probe / head.softcap)
    found = logits.detach()[0, 0].float().cpu()
    if not torch.allclose(found, expected, rtol=2e-2):
        raise ValueError(
            f"`{type(model).__name__}` turns logits {list(_PROBE)} into {[round(x, 4) for x in found.tolist()]}, but "
            f"its config says {[round(x, 4) for x in expected.tolist()]}: it changes its logits in a way that is not "
            "supported. Please report this model."
        )
    _probed_models.add(model)


@contextmanager
def _captured_head(module: nn.Module, seen: list[Tensor]) -> Iterator[None]:
    """Let the head of a model hand out what it is given, in place of logits."""

    def forward(hidden: Tensor) -> Tensor:
        seen.append(hidden)
        return hidden.new_tensor(_PROBE).expand(*hidden.shape[:-1], len(_PROBE))

    module.forward = forward
    try:
        yield
    finally:
        del module.forward


def layer_of(model: nn.Module, index: int) -> nn.Module:
    """
    A layer of the decoder.

    Args:
        model (`torch.nn.Module`):
            Causal language model, not wrapped.
        index (`int`):
            Index of the layer.

    Returns:
        `torch.nn.Module`: The layer.

    Raises:
        `ValueError`: If there is no such layer.
    """
    count = model.config.get_text_config().num_hidden_layers
    stacks = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == count]
    if not stacks or not 0 <= index < count:
        raise ValueError(f"`{type(model).__name__}` has no decoder layer {index}: it has {count} layers.")
    return stacks[0][index]


@contextmanager
def _captured_layer(model: nn.Module, index: int | None, seen: list[Tensor]) -> Iterator[None]:
    if index is None:
        yield
        return
    handle = layer_of(model, index).register_forward_hook(
        lambda module, args, output: seen.append(output[0] if isinstance(output, tuple) else output)
    )
    try:
        yield
    finally:
        handle.remove()


def label_states(model: nn.Module, batch: Mapping[str, Tensor], layer: int | None = None) -> LabelStates:
    """
    Run a model on right-padded rows and keep the hidden states that predict a label.

    Args:
        model (`torch.nn.Module`):
            Causal language model, not wrapped.
        batch (`Mapping[str, torch.Tensor]`):
            `input_ids`, `attention_mask` and `labels` (-100 where nothing is to be scored), of shape `(rows, tokens)`.
        layer (`int`, *optional*):
            Inner layer whose hidden states are kept too.

    Returns:
        [`LabelStates`]: The hidden states, with the label tokens that they predict.

    Raises:
        `ValueError`: If the model's head cannot be used.
    """
    targets = batch["labels"][:, 1:]
    mask = targets != -100
    # Leading columns that predict no label in any row need not leave the last layer.
    first = int(mask.any(0).nonzero()[0])
    kept = batch["input_ids"].size(1) - first
    module, seen, inner = _head_module(model), [], []
    with _captured_head(module, seen), _captured_layer(model, layer, inner):
        # Not `model(...)`: this may run inside the forward of a wrapper around this very model.
        outputs = model.forward(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False, logits_to_keep=kept
        )
    head = _logit_head(model, module)
    _check_probe(model, head, outputs.logits)
    # Prompt-learning adapters prepend virtual tokens: count from the end.
    mask, targets = mask[:, first:], targets[:, first:]
    # A model that is split over devices may end on another one than its head.
    hidden, *inner = (states[:, -kept:-1][mask].to(head.weight.device) for states in (seen[0], *inner))
    return LabelStates(
        hidden=hidden,
        labels=targets[mask].to(hidden.device),
        lengths=mask.sum(1).tolist(),
        head=head,
        inner=inner[0] if inner else None,
    )


def _flat_scores(states: LabelStates, terms: ScoreTerms, reference: LabelStates | None) -> dict[str, Tensor]:
    kind = states.hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else states.hidden.dtype
    given = None if reference is None else (reference.hidden.detach(), reference.head)
    parameters = [p for head in (states.head, given and given[1]) if head for p in (head.weight, head.bias)]
    with torch.autocast(kind, enabled=False), maybe_gather_lm_head_ctx(*parameters):
        values = FusedScores.apply(
            states.hidden, states.head.weight, states.head.bias, states.head, states.labels, given, terms, dtype
        )
    names = ("logps", "beliefs", "others", "kl", "entropy", "reference_entropy", "is_top1")
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
) -> list[TokenScores]:
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
        `list[TokenScores]`: One a group, its rows in the order of `RowGroup.rows`.

    Raises:
        `ValueError`: If the model's head cannot be used.
    """
    unwrapped, lengths = extract_model_from_parallel(model), []

    def forward(**batch: Tensor) -> dict[str, Tensor]:
        states = label_states(unwrapped, batch, layer)
        flat = {}
        for index, group in enumerate(groups):
            chosen = states.rows(group.rows)
            lengths.append(chosen.lengths)
            scores = _flat_scores(chosen, group.terms, group.reference)
            flat |= {(index, name): values for name, values in scores.items()}
        # Tensors in a dictionary, where a wrapper looks for what needs a gradient.
        return flat

    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
    flat = _run_inside(model, unwrapped, forward, inputs)
    return [
        _in_rows({name: values for (of, name), values in flat.items() if of == index}, lengths[index])
        for index in range(len(groups))
    ]


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
                found = score_batch(
                    model, {key: value.to(device) for key, value in batch.items()}, ScoreTerms(is_top1=True)
                )
                lengths = found.mask.sum(-1).tolist()
                for i, length, logps, is_top1 in zip(
                    indices, lengths, found.logps.tolist(), found.is_top1.tolist(), strict=True
                ):
                    scores[i] = RowScore(logps=logps[:length], is_top1=is_top1[:length])
                progress.update(len(indices))
    finally:
        model.train(was_training)
    return scores

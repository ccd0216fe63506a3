# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0


"""Scores over the vocabulary in tiles of tokens, so that no `[tokens, vocabulary]` tensor is built."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ._trl import maybe_gather_lm_head_ctx


# Logits of a tile: 32 MiB in float32 stay near a CPU's caches, an accelerator needs large products.
_TILE_ELEMENTS, _ACCELERATOR_TILE_ELEMENTS = 2**23, 2**27


@dataclass(frozen=True)
class LogitHead:
    r"""From hidden states to logits: \\(z = c \\tanh(s (W h + b) / c)\\), without the tanh where c is None."""

    # W, [vocabulary, hidden size], and b.
    weight: Tensor
    bias: Tensor | None = None
    # s (Cohere, Granite).
    scale: float = 1.0
    # c (Gemma).
    softcap: float | None = None


class Reference(NamedTuple):
    """Another model's hidden states `[labels, hidden size]` where the same labels are predicted, and its head."""

    hidden: Tensor
    head: LogitHead
    # Tokens whose logits change places, [labels, pairs, 2]; a token with itself is padding, and each is in one pair.
    swaps: Tensor | None = None


@dataclass(frozen=True)
class ScoreTerms:
    """Scores that are computed beside log pi_y."""

    # Size of H_k in the belief term of BS-T (None leaves it out), temperature of q on H_k, and whether H_k holds the k
    # most likely *other* tokens.
    belief_top_k: int | None = None
    belief_temperature: float = 1.0
    belief_exclude_target: bool = False
    # The sum over all tokens but the label (CE-U).
    others: bool = False
    # Subtracted from the reference's logit of the label (UNDIAL).
    reference_shift: float = 0.0
    # Without gradient: entropy of pi, whether the label is the most likely token (the first of equals), and variance
    # of log pi under pi.
    entropy: bool = False
    is_top1: bool = False
    log_variance: bool = False


class _Tiles:
    """Products of tiles of hidden states with the weight of a head, in buffers that are used again."""

    def __init__(self, head: LogitHead, hidden: Tensor, dtype: torch.dtype, rows: int):
        self.head, self.dtype = head, dtype
        self.accumulator = torch.float64 if dtype == torch.float64 else torch.float32
        self.weight = head.weight.detach().to(dtype)
        vocab_size = self.weight.size(0)
        self._logits = torch.empty(rows, vocab_size, device=hidden.device, dtype=self.accumulator)
        self._low = None if dtype == self.accumulator else torch.empty_like(self._logits, dtype=dtype)
        # Only CUDA multiplies bfloat16 straight into float32.
        self._widens = hidden.device.type == "cuda" and self._low is not None

    def logits(self, hidden: Tensor) -> Tensor:
        z = self._logits[: hidden.size(0)]
        hidden = hidden.to(self.dtype)
        if self._low is None:
            torch.mm(hidden, self.weight.t(), out=z)
        elif self._widens:
            torch.mm(hidden, self.weight.t(), out_dtype=torch.float32, out=z)
        else:
            z.copy_(torch.mm(hidden, self.weight.t(), out=self._low[: hidden.size(0)]))
        if self.head.bias is not None:
            z.add_(self.head.bias)
        if self.head.scale != 1.0:
            z.mul_(self.head.scale)
        if self.head.softcap is not None:
            z.div_(self.head.softcap).tanh_().mul_(self.head.softcap)
        return z

    def slope(self, z: Tensor) -> Tensor | None:
        """Derivative of the logits with respect to the head's product, where it is not a constant."""
        return None if self.head.softcap is None else 1 - (z / self.head.softcap).square_()

    def low(self, values: Tensor) -> Tensor:
        return values if self._low is None else self._low[: values.size(0)].copy_(values)

    def pull(self, values: Tensor) -> Tensor:
        """Vectors over the vocabulary to the hidden space: `values @ W`."""
        low = self.low(values)
        if self._widens:
            return torch.mm(low, self.weight, out_dtype=torch.float32)
        return torch.mm(low, self.weight).to(self.accumulator)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """`total += a @ b` without rounding the product of a tile to the dtype of its factors."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    elif total.device.type == "cuda":
        torch.addmm(total, a, b, out_dtype=total.dtype, out=total)
    else:
        total.addmm_(a.to(total.dtype), b.to(total.dtype))


def gathered(*parameters: Tensor | None) -> AbstractContextManager[None]:
    """A context with parameters of a head as whole tensors, where ZeRO-3 shards them; others stay as they are."""
    # The model in training is sharded, a reference may be whole.
    return maybe_gather_lm_head_ctx(*(parameter for parameter in parameters if hasattr(parameter, "ds_status")))


def _tile_rows(hidden: Tensor, vocab_size: int) -> int:
    budget = _TILE_ELEMENTS if hidden.device.type == "cpu" else _ACCELERATOR_TILE_ELEMENTS
    return max(1, min(budget // vocab_size, hidden.size(0)))


def _reference_part(reference: Reference, part: slice) -> Reference:
    swaps = None if reference.swaps is None else reference.swaps[part]
    return reference._replace(hidden=reference.hidden[part], swaps=swaps)


def _softmax_of_reference(tiles: _Tiles, reference: Reference, labels: Tensor, shift: float) -> tuple[Tensor, Tensor]:
    """Log-softmax of the reference on the tokens of a tile, and its softmax in a buffer of its own."""
    z = tiles.logits(reference.hidden)
    if reference.swaps is not None:
        z.scatter_(-1, reference.swaps.flatten(1), z.gather(-1, reference.swaps.flip(-1).flatten(1)))
    if shift:
        z.scatter_add_(-1, labels, torch.full_like(labels, -shift, dtype=z.dtype))
    log_t = z.sub_(z.logsumexp(-1, keepdim=True))
    return log_t, log_t.exp()


class FusedScores(torch.autograd.Function):
    r"""
    Per-token `SCORES` of hidden states, None where not computed, with gradients for the hidden states and the head.

    The gradient of each score with respect to a hidden state is a difference of two averages of rows of W (for log
    pi_y: \\(W_y - \pi W\\); for the belief term: \\(q W - \pi W\\)). With a frozen head these are stored by the
    forward, and the backward only weighs them. With a trainable head the backward computes each tile again. `dtype` is
    that of the products; sums are in float32, or float64 if this is.
    """

    @staticmethod
    def forward(ctx, hidden, weight, bias, head, labels, reference, terms, dtype):
        ctx.set_materialize_grads(False)
        rows = _tile_rows(hidden, weight.size(0))
        tiles = _Tiles(head, hidden, dtype, rows)
        reference_tiles = None
        if reference is not None:
            reference_tiles = _Tiles(reference.head, hidden, dtype, rows)
        trains_head = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        keeps_gradients = ctx.needs_input_grad[0] and not trains_head
        tile_scores: list[dict[str, Tensor]] = []
        exponentials = torch.empty_like(tiles._logits)
        for part, part_labels in zip(hidden.split(rows), labels[:, None].split(rows), strict=True):
            start = sum(len(scores["logps"]) for scores in tile_scores)
            given = None if reference is None else _reference_part(reference, slice(start, start + rows))
            buffer = exponentials[: part.size(0)]
            tile_scores.append(
                _score_tile(tiles, part, part_labels, buffer, (reference_tiles, given), terms, keeps_gradients)
            )
        scores = {name: torch.cat([part[name] for part in tile_scores]) for name in tile_scores[0]}

        ctx.head, ctx.reference, ctx.terms, ctx.dtype, ctx.trains_head = head, reference, terms, dtype, trains_head
        ctx.hidden_dtype = hidden.dtype
        if trains_head:
            ctx.save_for_backward(hidden, weight, bias, labels, scores["log_z"], scores.get("top"), scores.get("q"))
        elif keeps_gradients:
            ctx.save_for_backward(*(scores.get(f"d_{name}") for name in _DIFFERENTIABLE))
        ctx.mark_non_differentiable(*(scores[name] for name in _READ_ONLY if name in scores))
        return tuple(scores.get(name) for name in SCORES)

    @staticmethod
    @once_differentiable
    def backward(ctx, *upstream):
        upstream = upstream[: len(_DIFFERENTIABLE)]
        if ctx.trains_head:
            return (*_backward_with_head(ctx, upstream), *[None] * 5)
        total = None
        for gradient, direction in zip(upstream, ctx.saved_tensors, strict=True):
            if gradient is not None:
                term = gradient[:, None] * direction
                total = term if total is None else total.add_(term)
        return None if total is None else total.to(ctx.hidden_dtype), *[None] * 7


_DIFFERENTIABLE = ("logps", "beliefs", "others", "kl")
_READ_ONLY = ("entropy", "reference_logps", "reference_entropy", "is_top1", "log_variance")
SCORES = (*_DIFFERENTIABLE, *_READ_ONLY)


# The one-letter names of a tile, [tokens, vocabulary] but for q; `z_y`, `e_y`, `p_y` are their values at the label y:
#   z  logits, in the buffer of `_Tiles`
#   e  exp(z - top), in the `buffer` of the forward, with 0 at the label
#   t  softmax of the reference; `log_t` is in the buffer of its own `_Tiles`
#   q  weights of the belief tokens, [tokens, k]
#   p  softmax in `_backward_with_head`, in the buffer of z; at the end dL/dz
#   g  gradients that come from the loss, one for each score of `_DIFFERENTIABLE`, [tokens, 1]
def _score_tile(
    tiles: _Tiles,
    hidden: Tensor,
    labels: Tensor,
    buffer: Tensor,
    reference: tuple[_Tiles | None, Reference | None],
    terms: ScoreTerms,
    keeps_gradients: bool,
) -> dict[str, Tensor]:
    """Scores of one tile of tokens by name, including those that only a backward reads."""
    # z, then e, are the buffers of a tile: each is overwritten in place, in this order.
    z = tiles.logits(hidden)
    z_y = z.gather(-1, labels)
    scores: dict[str, Tensor] = {}
    if terms.is_top1:
        top, index = z.max(-1, keepdim=True)
        scores["is_top1"] = (index == labels)[:, 0]
    else:
        top = z.amax(-1, keepdim=True)
    slope = tiles.slope(z) if keeps_gradients else None
    candidates = None
    if terms.belief_top_k is not None:
        if terms.belief_exclude_target:
            z.scatter_(-1, labels, float("-inf"))
        top_z, candidates = z.topk(terms.belief_top_k, dim=-1)
        q = (top_z / terms.belief_temperature).softmax(-1)
        z.scatter_(-1, labels, z_y)
        # With k = |V| the excluded target is among the top with weight 0; 0 x its finite logit is 0.
        belief_z = (q * (z.gather(-1, candidates) - top)).sum(-1, keepdim=True)

    # log pi_y = z_y - top - log(e_others + e_y), e = exp(z - top). The label is summed apart from the other tokens:
    # where it has nearly all of the mass, a difference of two sums would cancel.
    e = torch.exp(torch.sub(z, top, out=buffer), out=buffer)
    e_y = e.gather(-1, labels)
    e.scatter_(-1, labels, 0.0)
    e_others = e.sum(-1, keepdim=True)
    total = e_others + e_y
    log_total = total.log()
    scores["logps"] = (z_y - top - log_total)[:, 0]
    scores["log_z"] = (top + log_total)[:, 0]
    if candidates is not None:
        scores["beliefs"] = (belief_z - log_total)[:, 0]
        scores |= {"top": candidates, "q": q}
    # Averages over the vocabulary as products e . z: `e * z` would need another buffer of the size of the tile.
    if terms.entropy or terms.others or terms.log_variance:
        mean_z = torch.bmm(e[:, None], z[:, :, None])[:, 0]
        if terms.others:
            scores["others"] = (mean_z / e_others - top - log_total)[:, 0]
        mean_z = (mean_z + e_y * z_y) / total
        if terms.entropy:
            scores["entropy"] = (top + log_total - mean_z)[:, 0]
        if terms.log_variance:
            # About the mean: a difference of two second moments would cancel where pi is nearly flat.
            squares = (z - mean_z).square_()
            spread = torch.bmm(e[:, None], squares[:, :, None])[:, 0]
            scores["log_variance"] = ((spread + e_y * (z_y - mean_z).square()) / total)[:, 0]

    t = None
    # KL(t || pi) = sum_v t_v (log t_v - log pi_v), with log pi_v = z_v - top - log_total.
    if reference[0] is not None:
        log_t, t = _softmax_of_reference(*reference, labels, terms.reference_shift)
        scores["reference_logps"] = log_t.gather(-1, labels)[:, 0]
        scores["reference_entropy"] = -torch.bmm(t[:, None], log_t[:, :, None])[:, 0, 0]
        log_ratio = log_t.sub_(z).add_(top + log_total)
        scores["kl"] = torch.bmm(t[:, None], log_ratio[:, :, None])[:, 0, 0]
    if not keeps_gradients:
        return scores
    return scores | _directions(tiles, labels, e, e_y, e_others, slope, scores, t)


def _directions(
    tiles: _Tiles,
    labels: Tensor,
    e: Tensor,
    e_y: Tensor,
    e_others: Tensor,
    slope: Tensor | None,
    scores: dict[str, Tensor],
    t: Tensor | None,
) -> dict[str, Tensor]:
    """Gradient of each score with respect to the hidden states, as `d_<name>`; overwrites `e` and `t`."""
    # With rows w_v of W, times the slope of a soft cap: d log pi_y = w_y - sum_v pi_v w_v. The label's part is written
    # as (e_others w_y - sum_{v != y} e_v w_v) / total, where nothing cancels as pi_y goes to 1.
    weight, scale, total = tiles.weight, tiles.head.scale, e_others + e_y
    row_y = weight[labels[:, 0]].to(e.dtype)
    if slope is not None:
        e.mul_(slope)
        row_y = row_y * slope.gather(-1, labels)
    gradients = {}
    # Where the model is sure, p - t and q - p are far smaller than their terms: they are subtracted before they are
    # rounded to the dtype of the products. `e` has no label.
    p_y = e_y / total if slope is None else e_y / total * slope.gather(-1, labels)
    if t is not None:
        if slope is not None:
            t.mul_(slope)
        t.addcdiv_(e, total, value=-1).scatter_add_(-1, labels, -p_y)
        gradients["d_kl"] = tiles.pull(t) * -scale
    if "beliefs" in scores:
        q, candidates = scores["q"], scores["top"]
        if slope is not None:
            q = q * slope.gather(-1, candidates)
        e_top, is_label = e.gather(-1, candidates), candidates == labels
        # The sum of `others` in two parts, as one of them is also that of the belief term.
        beyond = tiles.pull(e.scatter_(-1, candidates, 0.0))
        weights = torch.cat([e_top, q - e_top / total - p_y * is_label]).to(weight.dtype)
        bags = F.embedding_bag(candidates.repeat(2, 1), weight, per_sample_weights=weights, mode="sum").to(e.dtype)
        within, believed = bags.chunk(2)
        others = within + beyond
        label_apart = ~is_label.any(-1, keepdim=True) * e_y / total * row_y
        gradients["d_beliefs"] = (believed - beyond / total - label_apart) * scale
    else:
        others = tiles.pull(e)
    gradients["d_logps"] = (e_others * row_y - others) / total * scale
    if "others" in scores:
        gradients["d_others"] = (others / e_others - (others + e_y * row_y) / total) * scale
    return gradients


def _backward_with_head(ctx: Any, upstream: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    """Gradients of the hidden states, the weight and the bias, from tiles that are computed again."""
    hidden, weight, bias, labels, log_z, candidates, q = ctx.saved_tensors
    reference = () if ctx.reference is None else (ctx.reference.head.weight, ctx.reference.head.bias)
    with gathered(weight, bias, *reference):
        head = LogitHead(weight.detach(), None if bias is None else bias.detach(), ctx.head.scale, ctx.head.softcap)
        rows = _tile_rows(hidden, weight.size(0))
        tiles = _Tiles(head, hidden, ctx.dtype, rows)
        reference_tiles = None if ctx.reference is None else _Tiles(ctx.reference.head, hidden, ctx.dtype, rows)
        zeros = torch.zeros_like(log_z)
        g_y, g_beliefs, g_others, g_kl = (zeros if g is None else g for g in upstream)
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight, dtype=tiles.accumulator) if ctx.needs_input_grad[1] else None
        grad_bias = torch.zeros_like(bias, dtype=tiles.accumulator) if ctx.needs_input_grad[2] else None
        for start in range(0, hidden.size(0), rows):
            part = slice(start, start + rows)
            y = labels[part, None]
            z = tiles.logits(hidden[part])
            slope = tiles.slope(z)
            p = z.sub_(log_z[part, None]).exp_()
            p_y = p.gather(-1, y)
            p_others = p.scatter_(-1, y, 0.0).sum(-1, keepdim=True) if ctx.terms.others else 1.0
            # dL/dz = g_y (1_y - p) + g_b (q - p) + g_o (p_others / sum p_others - p) + g_kl (p - t), summed in p.
            g = [x[part, None] for x in (g_y, g_beliefs, g_others, g_kl)]
            common = g[3] - g[0] - g[1] - g[2]
            p.mul_(common + g[2] / p_others)
            p.scatter_(-1, y, common * p_y + g[0])
            if candidates is not None:
                p.scatter_add_(-1, candidates[part], g[1] * q[part])
            if reference_tiles is not None:
                given, shift = _reference_part(ctx.reference, part), ctx.terms.reference_shift
                p.sub_(_softmax_of_reference(reference_tiles, given, y, shift)[1].mul_(g[3]))
            if slope is not None:
                p.mul_(slope)
            if head.scale != 1.0:
                p.mul_(head.scale)
            if grad_hidden is not None:
                grad_hidden[part] = tiles.pull(p)
            if grad_weight is not None:
                _add_product(grad_weight, tiles.low(p).t(), hidden[part].to(ctx.dtype))
            if grad_bias is not None:
                grad_bias += p.sum(0)
    return (
        grad_hidden,
        None if grad_weight is None else grad_weight.to(weight.dtype),
        None if grad_bias is None else grad_bias.to(bias.dtype),
    )

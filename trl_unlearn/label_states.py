# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0


"""Hidden states where a label is predicted, and the head that turns them into logits: the only label shift."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper, TrainableTokensWrapper
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ._fused_scores import LogitHead
from .prompt_sharing import Layout, Segment, shared_pass, widest_of


@dataclass
class LabelStates:
    """Hidden states that predict a label, before the head, with the rows of a batch laid end to end."""

    # [labels, hidden size]
    hidden: Tensor
    # The tokens that they predict, [labels].
    labels: Tensor
    # Number of labels of each row.
    lengths: list[int]
    head: LogitHead
    # Hidden states after an inner layer at the same positions.
    inner: Tensor | None = None
    # Of a reference: pairs of tokens whose logits change places, [labels, pairs, 2].
    swaps: Tensor | None = None

    def rows(self, indices: Sequence[int]) -> "LabelStates":
        """The states of some rows of the batch, in the order of the indices."""
        if list(indices) == list(range(len(self.lengths))):
            return self

        def chosen(values: Tensor) -> Tensor:
            parts = values.split(self.lengths)
            return torch.cat([values[:0], *(parts[i] for i in indices)])

        return LabelStates(
            hidden=chosen(self.hidden),
            labels=chosen(self.labels),
            lengths=[self.lengths[i] for i in indices],
            head=self.head,
            inner=None if self.inner is None else chosen(self.inner),
            swaps=None if self.swaps is None else chosen(self.swaps),
        )


# Models whose head has been checked against `LogitHead`.
_probed_models: WeakSet[nn.Module] = WeakSet()
# Stand-ins for logits: a small one shows a scale, a large one a soft cap (30 in Gemma 2).
_PROBE = (1.0, 40.0)


def _logit_transform(config: Any) -> tuple[float, float | None]:
    """Scale and soft cap of the logits, under the names that model families give them."""
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        scale = getattr(config, name, None)
        if scale is not None:
            break
    if scale is None and getattr(config, "logits_scaling", None) is not None:
        # HyperCLOVA X multiplies by the number that the other families divide by.
        scale = config.logits_scaling if config.model_type == "hyperclovax" else 1 / config.logits_scaling
    # RecurrentGemma has another name for the cap than the Gemmas after it.
    cap = getattr(config, "final_logit_softcapping", getattr(config, "logits_soft_cap", None))
    return 1.0 if scale is None else float(scale), cap


def _unwrapped(head: nn.Module) -> nn.Module:
    # PEFT's `trainable_token_indices` wraps a head that shares its matrix with the embeddings.
    return head.original_module if isinstance(head, TrainableTokensWrapper) else head


def _head_module(model: nn.Module) -> nn.Module:
    head = model.get_output_embeddings()
    if isinstance(head, BaseTunerLayer | ModulesToSaveWrapper):
        raise ValueError(
            "The model has an adapter on its LM head (`lm_head`), whose weight the scores need as one matrix. Take it "
            "out of `target_modules` and `modules_to_save`, or merge the adapter first (`model.merge_and_unload()`)."
        )
    if not isinstance(_unwrapped(head), nn.Linear):
        raise ValueError(
            f"The model's output embedding is a `{type(head).__name__}`, expected a `Linear` layer over the "
            "vocabulary. Only causal language models with one can be scored."
        )
    weight = _unwrapped(head).weight
    if not weight.dtype.is_floating_point or weight.element_size() == 1:
        raise ValueError(
            f"The LM head is quantised (`{weight.dtype}`), and the scores need its weight as one "
            "matrix. Name it in `llm_int8_skip_modules` (`lm_head`), or in the list of what your quantisation skips."
        )
    return head


def check_head(model: nn.Module) -> None:
    """Refuse a model whose LM head is missing or carries an adapter, or shares its matrix with embeddings that do."""
    head, embeddings = _head_module(model), model.get_input_embeddings()
    wrapped = {BaseTunerLayer: "base_layer", ModulesToSaveWrapper: "original_module"}
    for kind, inner in wrapped.items():
        if isinstance(embeddings, kind) and getattr(embeddings, inner).weight is head.weight:
            raise ValueError(
                "The adapter is on the embeddings, whose matrix is the head too (`tie_word_embeddings`): merged, it "
                "would change the head as well, and be another model than the one that was trained. Take the "
                "embeddings out of `target_modules` and `modules_to_save`, or name the tokens to train in "
                "`trainable_token_indices`."
            )


def logit_head(model: nn.Module) -> LogitHead:
    """The head of a model that is not wrapped, as it is."""
    module = _head_module(model)
    # `weight` of a wrapper is the matrix with its trained rows in place; the bias is the wrapped layer's.
    weight, bias = module.weight, _unwrapped(module).bias
    if isinstance(weight, DTensor):
        weight, bias = weight.full_tensor(), None if bias is None else bias.full_tensor()
    scale, softcap = _logit_transform(model.config.get_text_config())
    return LogitHead(weight, bias, scale, softcap)


def _check_probe(model: nn.Module, head: LogitHead, logits: Tensor) -> None:
    """Refuse a model that changes its logits after the head otherwise than `LogitHead` does, seen on two numbers."""
    if model in _probed_models:
        return
    probe = torch.tensor(_PROBE) * head.scale
    expected = probe if head.softcap is None else head.softcap * torch.tanh(probe / head.softcap)
    seen = logits.detach()[0, 0].float().cpu()
    # Half precision has rounded them.
    if not torch.allclose(seen, expected, rtol=2e-2):
        raise ValueError(
            f"`{type(model).__name__}` turns logits {list(_PROBE)} into {[round(x, 4) for x in seen.tolist()]}, but "
            f"its config says {[round(x, 4) for x in expected.tolist()]}: it changes its logits in a way that is not "
            "supported. Please report this model."
        )
    _probed_models.add(model)


@contextmanager
def replaced_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Another forward for a module."""
    # On the instance, over the class's; a library may have put its own there before.
    before = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if before is not None:
            module.forward = before


@contextmanager
def in_mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Put a model into training or eval mode, and afterwards each module into its own mode again."""
    changed = [module for module in model.modules() if module.training != training]
    for module in changed:
        module.training = training
    try:
        yield
    finally:
        for module in changed:
            module.training = not training


def layers_of(model: nn.Module) -> nn.ModuleList:
    """The decoder's stack of layers."""
    count = model.config.get_text_config().num_hidden_layers
    # By its length, since each family has another name for the stack.
    stacks = (module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == count)
    stack = next(stacks, None)
    if stack is None:
        raise ValueError(f"`{type(model).__name__}` has no list of {count} decoder layers, as its config says.")
    return stack


def layer_of(model: nn.Module, index: int) -> nn.Module:
    """Layer `index` of the decoder."""
    layers = layers_of(model)
    if not 0 <= index < len(layers):
        raise ValueError(f"`{type(model).__name__}` has no decoder layer {index}: it has {len(layers)} layers.")
    return layers[index]


def layer_states(output: Any) -> Tensor:
    """Hidden states `[rows, tokens, size]` in the output of a decoder layer: alone, or first in a tuple."""
    states = output[0] if isinstance(output, tuple) else output
    if not isinstance(states, Tensor) or isinstance(states, DTensor) or states.dim() != 3:
        raise ValueError(
            f"A decoder layer returns `{type(states).__name__}`, expected a whole tensor `[rows, tokens, size]`: its "
            "hidden states cannot be read. Please report this model."
        )
    return states


@contextmanager
def hooked_layers(layers: Iterable[nn.Module], function: Callable[[Any], Any]) -> Iterator[None]:
    """Call a function on the output of each layer; its result, unless None, takes the place of the output."""
    handles = [layer.register_forward_hook(lambda module, args, output: function(output)) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def label_states(
    model: nn.Module,
    batch: Mapping[str, Tensor],
    layer: int | None = None,
    share_prompts: bool = False,
    layout: Layout | None = None,
) -> LabelStates:
    """
    Run a model, not wrapped, on right-padded rows, and keep its states, of `layer` too, that predict a label; rows
    share prompts with `share_prompts`, and with a layout, in its sequences.
    """
    # The state at position i predicts the token at i + 1.
    targets = batch["labels"][:, 1:]
    mask = targets != -100
    if share_prompts or layout is not None:
        shared = shared_pass(batch, model.config.get_text_config().hidden_size, layout)
        inputs: dict[str, Any] = {"input_ids": shared.input_ids, "position_ids": shared.position_ids}
        inputs["attention_mask"] = _seen_by(shared.sees, model)
        places = shared.places[:, :-1]

        def predicting(states: Tensor) -> Tensor:
            return states.flatten(0, 1)[places.to(states.device)[mask.to(states.device)]]
    else:
        # Leading columns that predict no label in any row need not leave the last layer.
        first = int(mask.any(0).nonzero()[0])
        kept = batch["input_ids"].size(1) - first
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")} | {"logits_to_keep": kept}

        def predicting(states: Tensor) -> Tensor:
            # Prompt-learning adapters prepend virtual tokens: count from the end.
            return states[:, -kept:-1][mask[:, first:]]

    seen, inner = [], []

    def forward(hidden: Tensor) -> Tensor:
        # Two made-up logits in place of the vocabulary's: the [tokens, vocabulary] product is never built.
        seen.append(hidden)
        return hidden.new_tensor(_PROBE).expand(*hidden.shape[:-1], len(_PROBE))

    layers = [] if layer is None else [layer_of(model, layer)]
    hooks = hooked_layers(layers, lambda output: inner.append(layer_states(output)))
    with replaced_forward(_head_module(model), forward), hooks:
        # Not `model(...)`: this may run inside the forward of a wrapper around this very model.
        outputs = model.forward(**inputs, use_cache=False)
    head = logit_head(model)
    _check_probe(model, head, outputs.logits)
    # A model that is split over devices may end on another one than its head.
    hidden, *inner = (predicting(states).to(head.weight.device) for states in (seen[0], *inner))
    return LabelStates(
        hidden=hidden,
        labels=targets[mask].to(hidden.device),
        lengths=mask.sum(1).tolist(),
        head=head,
        inner=inner[0] if inner else None,
    )


# Models that can share prompts


# Settings of attention that sees a number of tokens only.
_WINDOWS = ("sliding_window", "attention_window_size", "attention_chunk_size", "window_size")
# Tokens of any vocabulary: a prompt that rows have in common, a row with another one, and the length of an answer.
_PROMPT, _OTHER, _ANSWER = [5, 6, 7], ([9, 3], [7, 5]), 5
# Model -> the widest pass that was tried, and why it cannot share prompts.
_tried_models: WeakKeyDictionary[nn.Module, tuple[int, str | None]] = WeakKeyDictionary()
# Relative distance of states that are the same but for rounding, in float32 or better and in half precision.
_TOLERANCES = (1e-4, 5e-2)


def _attention(model: nn.Module) -> str:
    return str(getattr(model.config.get_text_config(), "_attn_implementation", None))


def _seen_by(sees: Tensor, model: nn.Module) -> Tensor:
    """A mask in the form that the model's attention takes: true or false, or a number to add."""
    if _attention(model) == "sdpa":
        return sees
    dtype = next(model.parameters()).dtype
    return torch.zeros(sees.shape, dtype=dtype, device=sees.device).masked_fill(~sees, torch.finfo(dtype).min)


def _shortest_window(config: Any) -> int | None:
    """Fewest tokens that a layer of the model sees, None without a limit."""
    if getattr(config, "use_sliding_window", True) is False:
        return None
    kinds = getattr(config, "layer_types", None)
    if kinds and set(kinds) <= {"full_attention"}:
        return None
    windows = (getattr(config, name, None) for name in _WINDOWS)
    return min((window for window in windows if isinstance(window, int)), default=None)


def sharing_obstacle(model: nn.Module, longest: int, width: int | None = None) -> str | None:
    """
    Why a model cannot share prompts of rows of at most `longest` tokens in sequences of at most `width` (by default
    the widest of such rows); None if it can. It is tried: a mask by place in the sequence shows in a wide one alone.
    """
    window = _shortest_window(model.config.get_text_config())
    if window is not None and window < longest:
        return f"a layer of it sees {window} tokens, and a row can have {longest}"
    if _attention(model) not in ("sdpa", "eager"):
        return f"its attention (`{_attention(model)}`) takes no mask of pairs of tokens; load it with `sdpa`"
    width = widest_of(longest) if width is None else width
    tried, obstacle = _tried_models.get(model, (0, None))
    if obstacle is None and tried < width:
        obstacle = _difference_by_sharing(model, width)
        _tried_models[model] = width, obstacle
    return obstacle


@torch.no_grad()
def _difference_by_sharing(model: nn.Module, width: int) -> str | None:
    device = next(model.parameters()).device
    count = max(2, -(-(width - len(_PROMPT) - sum(map(len, _OTHER))) // _ANSWER))
    answers = [[3 + (5 * row + token * (1 + row % 3)) % 7 for token in range(_ANSWER)] for row in range(count)]
    rows = [_OTHER, *((_PROMPT, answer) for answer in answers)]
    encoded = [(prompt + answer, [-100] * len(prompt) + answer) for prompt, answer in rows]
    longest = max(len(ids) for ids, _ in encoded)
    batch = {
        "input_ids": torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in encoded], device=device),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in encoded]).to(device),
        "labels": torch.tensor([labels + [-100] * (longest - len(ids)) for ids, labels in encoded], device=device),
    }
    other = Segment([0], sum(map(len, _OTHER)))
    common = Segment([*range(1, count + 1)], len(_PROMPT) + count * _ANSWER)
    layout = Layout([[other, common]], model.config.get_text_config().hidden_size)
    try:
        # In the precision of the weights, in which a wrong mask or position cannot pass for rounding.
        with in_mode(model, training=False), torch.autocast(device.type, enabled=False):
            plain, shared = (label_states(model, batch, layout=one).hidden.double() for one in (None, layout))
    # Any failure means the same: it does not read such a mask or such positions.
    except Exception as error:
        return f"it cannot read such a pass ({type(error).__name__})"
    tolerance = _TOLERANCES[next(model.parameters()).dtype in (torch.float16, torch.bfloat16)]
    # The last answer is the farthest from its prompt, and alone may not see it.
    parts = slice(None), slice(-_ANSWER, None)
    distances = ((plain[part] - shared[part]).norm() / plain[part].norm() for part in parts)
    return None if max(map(float, distances)) <= tolerance else "its tokens meet in other ways than attention"

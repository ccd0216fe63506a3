# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Prompts to completions: batched, seeded row by row. The only caller of `generate`."""

import hashlib
import inspect
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from accelerate import Accelerator
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm
from transformers import (
    DynamicCache,
    GenerationConfig,
    GenerationMixin,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.cache_utils import DynamicLayer

from ._trl import unwrap_model_for_generation
from .encoding import closing_token_id, readable_tokens, template_closing_token_id
from .label_states import in_mode
from .row_forms import warn_once


logger = logging.getLogger(__name__)

# Most rows of a `generate` call, where memory allows more: larger batches only wait for their longest row.
_MAX_BATCH_SIZE = {"cpu": 128, "cuda": 512}
# Rows of a call where free memory, or the need of a row, is not known.
_CAUTIOUS_BATCH_SIZE = 64
# Tokens of a block, whose mass is summed before a token in it is picked.
_BLOCK = 256
# New tokens after which the rows that have not ended are batched anew, over all batches.
_STAGE = 64
# New tokens after which the rows that have ended leave their batch, where those that go on keep their cache.
_LEG = 8
# The argument of the cache, whose name differs between versions of Transformers.
_CACHE = next(
    name
    for name in ("cache", "past_key_values")
    if name in inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters
)
# Models that read padding as text, and mix up the states of a batch's rows.
_ONE_ROW_AT_A_TIME = frozenset({"rwkv"})
# Fields of the generation config that have an argument or option of their own, would undo the row-keyed sampling, have
# no effect because that is greedy to `generate`, or give `generate` another output, method or need.
RESERVED_GENERATION_KWARGS = frozenset(
    (
        *("do_sample", "temperature", "top_k", "top_p", "num_beams", "num_return_sequences", "max_length"),
        *("max_new_tokens", "eos_token_id", "pad_token_id", "generation_config", "logits_processor"),
        *("min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"),
        *("min_length", "min_new_tokens", "stop_strings", "token_healing"),
        # Both follow the sampler, whose choice has an infinite score: the first makes that NaN.
        *("renormalize_logits", "watermarking_config"),
        *("return_dict_in_generate", "output_scores", "output_logits", "output_attentions", "output_hidden_states"),
        # Beams, contrastive search, and a model that drafts.
        *("early_stopping", "length_penalty", "num_beam_groups", "diversity_penalty", "constraints"),
        *("force_words_ids", "penalty_alpha", "low_memory", "dola_layers", "use_mtp", "prompt_lookup_num_tokens"),
        *("max_matching_ngram_size", "is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule"),
        *("assistant_confidence_threshold", "assistant_early_exit", "assistant_lookbehind", "target_lookbehind"),
        *("assistant_ensemble_weight", "speculation_type"),
    )
)


@dataclass
class Completion:
    """Tokens that a model wrote after a prompt."""

    # If it ended, the last one is an EOS token.
    ids: list[int]
    # Log-probability of each token at temperature 1 with nothing cut off, in nats; what `generation_kwargs` or
    # `min_new_tokens` change about the scores is in it.
    logps: list[float]
    # Whether an EOS token closed it, rather than the limit of new tokens.
    ended: bool

    @property
    def is_finite(self) -> bool:
        """`bool`: Whether every token has a log-prob. If not, the tokens are arbitrary."""
        return all(map(math.isfinite, self.logps))


def eos_token_ids(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, rows: Iterable[Mapping[str, Any]] = ()
) -> list[int]:
    """Tokens that end a completion, sorted: those of model, tokenizer, chat template and encoded `rows`."""
    # A base checkpoint with ChatML has `<|endoftext|>` in both configs, and was fine-tuned to close answers with
    # `<|im_end|>`: without it, a completion would run on into the turns of an invented user.
    config = getattr(model, "generation_config", None)
    configured = config.eos_token_id if config is not None else None
    ids = {tokenizer.eos_token_id, *(configured if isinstance(configured, list) else [configured])}
    ids |= {template_closing_token_id(tokenizer), *(closing_token_id(row, tokenizer) for row in rows)}
    return sorted(i for i in ids if i is not None)


def position_limit(model: nn.Module) -> int | None:
    """Number of tokens beyond which a model fails because its positions are a table; None without such a limit."""
    config = model.config.get_text_config()
    # Rotary positions are computed: what a model writes may leave the range that was trained.
    is_rotary = getattr(config, "rope_parameters", None) or hasattr(config, "rope_theta")
    return None if is_rotary else readable_tokens(config)


def _room(model: nn.Module, prompts: Sequence[list[int]], max_new_tokens: int) -> list[int]:
    """Most new tokens of each prompt, as far as the model has positions."""
    limit = position_limit(model)
    if limit is None:
        return [max_new_tokens] * len(prompts)
    longest = max(map(len, prompts), default=0)
    if longest >= limit:
        raise ValueError(
            f"A prompt has {longest} tokens, but the model reads at most {limit} (`max_position_embeddings`), so that "
            "nothing can follow it. Shorten it."
        )
    if longest + max_new_tokens > limit:
        # Once: beliefs are sampled again and again.
        warn_once(
            f"The model reads at most {limit} tokens (`max_position_embeddings`): after prompts of more than "
            f"{max(0, limit - max_new_tokens)}, what it writes is cut off before {max_new_tokens} tokens."
        )
    return [min(max_new_tokens, limit - len(prompt)) for prompt in prompts]


def key_seed(key: tuple[int, ...]) -> int:
    """Seed of a generator (63 bits) from a key such as `(seed, refresh, row, j)`."""
    # Seeds that differ in a few bits give correlated first numbers; a hash spreads them.
    digest = hashlib.blake2b(repr(tuple(key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _pick(masses: torch.Tensor, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Index of the mass that each point `[rows, 1]` falls into, masses laid end to end, and how far into it."""
    cumulative = masses.cumsum(-1, dtype=torch.float64)
    # Rounding must not point past the last mass that is not zero, and NaN not past the last mass.
    last = torch.searchsorted(cumulative, cumulative[:, -1:].contiguous()).clamp(max=masses.size(-1) - 1)
    index = torch.searchsorted(cumulative, points, right=True).minimum(last)
    return index, points - cumulative.gather(-1, index) + masses.gather(-1, index)


def _invert(probabilities: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Invert the distribution function: first the block of tokens, then the token, which spares a sum over all."""
    missing = -probabilities.size(-1) % _BLOCK
    blocks = (F.pad(probabilities, (0, missing)) if missing else probabilities).unflatten(-1, (-1, _BLOCK))
    masses = blocks.sum(-1)
    block, rest = _pick(masses, uniforms * masses.sum(-1, keepdim=True, dtype=torch.float64))
    within = blocks[torch.arange(len(blocks), device=blocks.device), block[:, 0]]
    token = block * _BLOCK + _pick(within, rest)[0]
    # NaN may point into the padding: such a row gets any token, with a log-prob of NaN; its batch is not disturbed.
    return token.clamp(max=probabilities.size(-1) - 1)


class _RowKeyedSampler(LogitsProcessor):
    """Picks each row's next token by a number of the row's own generator: a completion is the same in any batch."""

    def __init__(
        self, keys: list[tuple[int, ...]] | None, start: int, max_new_tokens: int, warpers: LogitsProcessorList
    ):
        self.warpers = warpers
        self.logps: list[torch.Tensor] = []
        # One buffer for all steps: on a CPU, fresh memory costs more than what is written to it.
        self.probabilities: torch.Tensor | None = None
        self.uniforms: torch.Tensor | None = None
        if keys is not None:
            # Drawn from the first token on: a stage continues the numbers of the stage before it.
            generators = (torch.Generator().manual_seed(key_seed(key)) for key in keys)
            count = start + max_new_tokens
            drawn = [torch.rand(count, generator=generator, dtype=torch.float64) for generator in generators]
            self.uniforms = torch.stack(drawn)[:, start:]

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        if self.uniforms is None:
            tokens = scores.argmax(-1, keepdim=True)
        else:
            uniforms = self.uniforms[:, len(self.logps), None]
            if self.probabilities is None:
                self.probabilities = torch.empty_like(scores, dtype=torch.float32)
            warped = self.warpers(input_ids, scores.float())
            probabilities = torch.softmax(warped, -1, out=self.probabilities[: len(scores)])
            if probabilities.device.type == "mps":
                # Apple's device has no float64.
                probabilities = probabilities.cpu()
            tokens = _invert(probabilities, uniforms.to(probabilities.device)).to(scores.device)
        # Before the warpers: at temperature 1, over all tokens.
        self.logps.append((scores.gather(-1, tokens) - scores.logsumexp(-1, keepdim=True))[:, 0].float())
        # `generate` takes the largest score.
        return scores.scatter_(-1, tokens, float("inf"))

    def take(self) -> torch.Tensor:
        """The log-probs of the tokens that were picked since the last call, `[rows, tokens]`."""
        logps, self.logps = torch.stack(self.logps, 1), []
        if self.uniforms is not None:
            self.uniforms = self.uniforms[:, logps.size(1) :]
        return logps

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with some rows of the batch alone."""
        if self.uniforms is not None:
            self.uniforms = self.uniforms[rows.to(self.uniforms.device)]


@contextmanager
def _for_generation(model: PreTrainedModel) -> Iterator[None]:
    """Eval mode, without the model's own generation config and load balancing; both are put back afterwards."""
    # A PEFT model has a config of its own. Both are replaced: `generate` fills fields that ours leaves open from them.
    holders = [model, model.get_base_model()] if hasattr(model, "get_base_model") else [model]
    configs = [holder.generation_config for holder in holders]
    text_config = model.config.get_text_config()
    # A mixture of experts would weigh the one new token of a row with the mask of all its tokens.
    balances = getattr(text_config, "output_router_logits", False)
    for holder in holders:
        holder.generation_config = GenerationConfig()
    if balances:
        text_config.output_router_logits = False
    try:
        with in_mode(model, training=False):
            yield
    finally:
        if balances:
            text_config.output_router_logits = True
        for holder, config in zip(holders, configs, strict=True):
            holder.generation_config = config


@contextmanager
def _gathered(model: nn.Module) -> Iterator[None]:
    """FSDP2's shards as whole parameters, through any number of forward passes of each process."""
    parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
    # The setting for after a forward has no getter, and parts differ: `accelerate` keeps the head whole until its
    # backward, for the scores.
    states = [part._get_fsdp_state() for part in parts]
    after_forward = [
        (state._auto_reshard_after_forward, [group.post_forward_mesh_info for group in state._fsdp_param_groups])
        for state in states
    ]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part, state, (automatic, infos) in zip(parts, states, after_forward, strict=True):
            state._auto_reshard_after_forward = automatic
            for group, info in zip(state._fsdp_param_groups, infos, strict=True):
                group.post_forward_mesh_info = info
            part.reshard()


@contextmanager
def whole_model(
    model: nn.Module, accelerator: Accelerator, gradient_checkpointing_kwargs: dict[str, Any] | None
) -> Iterator[PreTrainedModel]:
    """A model in training, unwrapped and with all of its parameters, which each process can use on its own."""
    with (
        unwrap_model_for_generation(
            model, accelerator, gradient_checkpointing_kwargs=gradient_checkpointing_kwargs
        ) as unwrapped,
        _gathered(unwrapped),
        accelerator.autocast(),
    ):
        yield unwrapped


def _free_bytes(device: torch.device) -> int | None:
    if device.type == "cpu":
        return psutil.virtual_memory().available
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return None


def _cached_values(config: PreTrainedConfig) -> int | None:
    """Keys and values in a model's cache for each token; None for a recurrent model, which keeps a state instead."""
    if getattr(config, "num_attention_heads", None) is None:
        return None
    # Layers that differ in their heads (Gemma 4) have a config each.
    layers = config.per_layer_config if getattr(config, "is_heterogeneous", False) else [config]
    values = 0
    for layer in layers:
        heads = getattr(layer, "num_key_value_heads", None) or layer.num_attention_heads
        values += 2 * heads * (getattr(layer, "head_dim", None) or layer.hidden_size // layer.num_attention_heads)
    return values * config.num_hidden_layers // len(layers)


def rows_that_fit(model: PreTrainedModel, width: int) -> int:
    """Rows of `width` tokens (prompt and completion) of a `generate` call that half of the free memory holds."""
    config, device = model.config.get_text_config(), next(model.parameters()).device
    if config.model_type in _ONE_ROW_AT_A_TIME:
        return 1
    free, values = _free_bytes(device), _cached_values(config)
    if free is None or values is None:
        return _CAUTIOUS_BATCH_SIZE
    # Twice, because the cache grows by copying itself. Scores: the model's, ours, and the copies of the sampling.
    cache = 2 * values * width * model.dtype.itemsize
    scores = 6 * config.vocab_size * torch.float32.itemsize
    return max(1, min(_MAX_BATCH_SIZE[device.type], free // 2 // (cache + scores)))


def _new_cache(model: PreTrainedModel) -> DynamicCache | None:
    """An empty cache, from which rows can be taken out and in which they can be repeated; None for other models."""
    # Prompt-learning adapters prepend virtual tokens to what is not cached yet.
    adapter = getattr(model, "active_peft_config", None)
    if getattr(adapter, "is_prompt_learning", False) or model.config.model_type in _ONE_ROW_AT_A_TIME:
        return None
    whole = model.get_base_model() if hasattr(model, "get_base_model") else model
    if _CACHE not in inspect.signature(whole.forward).parameters:
        return None
    cache = DynamicCache(config=model.config.get_text_config())
    # A sliding window forgets, and a state is not kept token by token.
    return cache if cache.layers and all(type(layer) is DynamicLayer for layer in cache.layers) else None


def _left_padded(model: PreTrainedModel, rows: Sequence[Sequence[int]], pad_token_id: int) -> dict[str, torch.Tensor]:
    device, ids = next(model.parameters()).device, [torch.tensor(row, dtype=torch.long) for row in rows]
    mask = [torch.ones_like(row) for row in ids]
    options = {"batch_first": True, "padding_side": "left"}
    return {
        "input_ids": pad_sequence(ids, padding_value=pad_token_id, **options).to(device),
        "attention_mask": pad_sequence(mask, padding_value=0, **options).to(device),
    }


def _read_prompts(
    model: PreTrainedModel, prompts: Sequence[list[int]], cache: DynamicCache, pad_token_id: int
) -> None:
    """Fill the cache with all but the last token of each prompt, and read those that rows share once."""
    read = [tuple(prompt[:-1]) for prompt in prompts]
    places = {prompt: place for place, prompt in enumerate(dict.fromkeys(read))}
    if len(places) == len(read) or () in places:
        return
    # The token that it chooses is not used, and not in the cache.
    config = GenerationConfig(do_sample=False, max_new_tokens=1, pad_token_id=pad_token_id)
    inputs = _left_padded(model, list(places), pad_token_id)
    model.generate(**inputs, generation_config=config, synced_gpus=False, **{_CACHE: cache})
    cache.batch_select_indices(torch.tensor([places[prompt] for prompt in read], device=inputs["input_ids"].device))


def _generate_batch(
    model: PreTrainedModel,
    prompts: list[list[int]],
    sampler: _RowKeyedSampler,
    cache: DynamicCache | None,
    max_new_tokens: int,
    min_new_tokens: int,
    fields: Mapping[str, Any],
) -> list[Completion]:
    """Complete a batch; where there is a cache, the rows that have ended leave the batch on the way."""
    inputs = _left_padded(model, prompts, fields["pad_token_id"])
    leg, given = max_new_tokens, {}
    if cache is not None:
        _read_prompts(model, prompts, cache, fields["pad_token_id"])
        leg, given = max(_LEG, min_new_tokens), {_CACHE: cache}
    ends = set(fields["eos_token_id"] or [])
    completions, rows = [Completion([], [], False) for _ in prompts], list(range(len(prompts)))
    for start in range(0, max_new_tokens, leg):
        count = min(leg, max_new_tokens - start)
        # `min_new_tokens` counts the tokens of a call: it belongs to the first one.
        least = min_new_tokens if start == 0 else 0
        output = model.generate(
            **inputs,
            generation_config=GenerationConfig(do_sample=False, max_new_tokens=count, min_new_tokens=least, **fields),
            logits_processor=LogitsProcessorList([sampler]),
            # The model is whole here, and processes have different numbers of batches: none may wait for another.
            synced_gpus=False,
            **given,
        )
        written = output[:, inputs["input_ids"].size(1) :]
        for row, ids, logps in zip(rows, written.tolist(), sampler.take().tolist(), strict=True):
            # A pad token may be an EOS token too, so the first EOS token is the end, whatever follows.
            length = next((i + 1 for i, token in enumerate(ids) if token in ends), None)
            before, kept = completions[row], len(ids) if length is None else length
            completions[row] = Completion(before.ids + ids[:kept], before.logps + logps[:kept], length is not None)
        going = [i for i, row in enumerate(rows) if not completions[row].ended]
        if not going:
            break
        rows = [rows[i] for i in going]
        chosen = torch.tensor(going, device=output.device)
        mask = F.pad(inputs["attention_mask"], (0, written.size(1)), value=1)
        inputs = {"input_ids": output[chosen], "attention_mask": mask[chosen]}
        if cache is not None and len(going) < len(output):
            cache.batch_select_indices(chosen)
        sampler.keep(chosen)
    return completions


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    *,
    pad_token_id: int,
    eos_token_ids: list[int],
    max_new_tokens: int,
    min_new_tokens: int | None = None,
    batch_size: int | None = None,
    keys: Sequence[tuple[int, ...]] | None = None,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    generation_kwargs: dict[str, Any] | None = None,
    desc: str | None = None,
    progress: tqdm | None = None,
) -> list[Completion]:
    """
    Complete prompts (token ids) in left-padded batches of similar length, in eval mode, with the model's `generate`.

    `keys` has one key a prompt, which alone seeds its sampling, for instance `(seed, refresh, row, j)`; None: greedy.
    Every token of `eos_token_ids` ends a completion and counts in `max_new_tokens`; before `min_new_tokens` none is
    allowed. `batch_size` None chooses from free memory; it is halved where memory runs out all the same. `top_k` 0
    takes all tokens. `generation_kwargs` are further fields of [`~transformers.GenerationConfig`]; the model's own is
    not used. `progress` is a bar over more than these prompts, in place of one of their own, labelled `desc`.
    """
    most = _room(model, prompts, max_new_tokens)
    fields = {"pad_token_id": pad_token_id, "eos_token_id": eos_token_ids or None, **(generation_kwargs or {})}
    warpers = LogitsProcessorList()
    if temperature != 1.0:
        warpers.append(TemperatureLogitsWarper(temperature))
    if top_k > 0:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1.0:
        warpers.append(TopPLogitsWarper(top_p))
    if prompts and (batch_size is None or model.config.model_type in _ONE_ROW_AT_A_TIME):
        batch_size = rows_that_fit(model, max(map(len, prompts)) + max_new_tokens)
    # Fields of the user may count the tokens of a call, or want another cache.
    in_legs = not generation_kwargs
    width = _STAGE if in_legs else max_new_tokens
    completions = [Completion([], [], False) for _ in prompts]
    bar = nullcontext(progress)
    if progress is None:
        bar = tqdm(total=len(prompts), desc=desc, disable=None if desc else True, leave=False)
    with _for_generation(model), bar as progress:
        for start in range(0, max_new_tokens, width):
            least = (min_new_tokens or 0) if start == 0 else 0
            # A batch runs until its last row ends. In stages, the rows that have not ended are batched anew.
            order = [i for i, completion in enumerate(completions) if not completion.ended and most[i] > start]
            order.sort(key=lambda i: -len(prompts[i]) - len(completions[i].ids))
            while order:
                # Longest rows first, so that those with the fewest positions left come before the others.
                count = min(width, most[order[0]] - start)
                indices = [i for i in order[:batch_size] if min(width, most[i] - start) == count]
                given = [prompts[i] + completions[i].ids for i in indices]
                chosen = None if keys is None else [keys[i] for i in indices]
                sampler = _RowKeyedSampler(chosen, start, count, warpers)
                try:
                    cache = _new_cache(model) if in_legs else None
                    stage = _generate_batch(model, given, sampler, cache, count, least, fields)
                except RuntimeError as error:
                    if len(indices) == 1 or not should_reduce_batch_size(error):
                        raise
                    batch_size = len(indices) // 2
                    logger.warning(f"Out of memory with {len(indices)} rows: going on with {batch_size} at a time.")
                    clear_device_cache(garbage_collection=True)
                    continue
                for i, more in zip(indices, stage, strict=True):
                    before = completions[i]
                    completions[i] = Completion(before.ids + more.ids, before.logps + more.logps, more.ended)
                order = order[len(indices) :]
                progress.update(
                    sum(more.ended or start + count == most[i] for i, more in zip(indices, stage, strict=True))
                )
    return completions

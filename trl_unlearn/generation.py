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

"""Prompts to completions: batched, seeded row by row. The only caller of `generate`."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)


DEFAULT_BATCH_SIZE = 64
# What `generate` is asked for by name elsewhere, or what would undo the sampling that is keyed on the row.
RESERVED_GENERATION_KWARGS = frozenset(
    {
        "do_sample",
        "eos_token_id",
        "generation_config",
        "logits_processor",
        "max_length",
        "max_new_tokens",
        "num_beams",
        "num_return_sequences",
        "pad_token_id",
        "temperature",
        "top_k",
        "top_p",
    }
)


@dataclass
class Completion:
    """
    What a model wrote after a prompt.

    Args:
        ids (`list[int]`):
            Token ids; if it ended, the last one is an EOS token.
        logps (`list[float]`):
            Log-probability of each token at temperature 1 with nothing cut off, in nats; what `generation_kwargs` or
            `min_new_tokens` change about the scores is in it.
        ended (`bool`):
            Whether an EOS token closed it, rather than the limit of new tokens.
    """

    ids: list[int]
    logps: list[float]
    ended: bool


def eos_token_ids(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """
    All tokens that end a completion: those of the generation config and the tokenizer's.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Model with a generation config.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.

    Returns:
        `list[int]`: Sorted ids, possibly none.
    """
    config = getattr(model, "generation_config", None)
    configured = config.eos_token_id if config is not None else None
    ids = {tokenizer.eos_token_id, *(configured if isinstance(configured, list) else [configured])}
    return sorted(i for i in ids if i is not None)


def key_seed(key: tuple[int, ...]) -> int:
    """
    Seed of a generator from a key such as `(seed, refresh, row, j)`.

    Seeds that differ in a few bits give correlated first numbers; a hash spreads them.

    Args:
        key (`tuple[int, ...]`):
            What the draws depend on.

    Returns:
        `int`: A seed of 63 bits.
    """
    digest = hashlib.blake2b(repr(tuple(key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class _RowKeyedSampler(LogitsProcessor):
    """
    Picks each row's next token with a uniform number of the row's own generator, by inverting the distribution
    function, and leaves `generate` no other choice. A completion then does not depend on its batch.
    """

    def __init__(self, keys: list[tuple[int, ...]] | None, max_new_tokens: int, warpers: LogitsProcessorList):
        self.warpers = warpers
        self.logps: list[torch.Tensor] = []
        self.uniforms = None
        if keys is not None:
            self.uniforms = torch.stack([self._uniforms(key, max_new_tokens) for key in keys])

    @staticmethod
    def _uniforms(key: tuple[int, ...], count: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(key_seed(key))
        return torch.rand(count, generator=generator, dtype=torch.float64)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        if self.uniforms is None:
            tokens = scores.argmax(-1, keepdim=True)
        else:
            uniforms = self.uniforms[:, len(self.logps), None].to(scores.device)
            cumulative = self.warpers(input_ids, scores.float()).softmax(-1).cumsum(-1, dtype=torch.float64)
            total = cumulative[:, -1:].contiguous()
            # Rounding must not point past the last token that has any mass.
            last = torch.searchsorted(cumulative, total)
            tokens = torch.searchsorted(cumulative, uniforms * total, right=True).minimum(last)
        self.logps.append((scores.gather(-1, tokens) - scores.logsumexp(-1, keepdim=True))[:, 0].float())
        return scores.scatter(-1, tokens, float("inf"))


@contextmanager
def _for_generation(model: PreTrainedModel) -> Iterator[None]:
    """Eval mode, and no generation config of the model's own: `generate` fills what ours leaves open from it."""
    holders = [model, model.get_base_model()] if hasattr(model, "get_base_model") else [model]
    configs, was_training = [holder.generation_config for holder in holders], model.training
    model.eval()
    for holder in holders:
        holder.generation_config = GenerationConfig()
    try:
        yield
    finally:
        for holder, config in zip(holders, configs, strict=True):
            holder.generation_config = config
        model.train(was_training)


def _generate_batch(
    model: PreTrainedModel, prompts: list[list[int]], sampler: _RowKeyedSampler, config: GenerationConfig
) -> list[Completion]:
    device = next(model.parameters()).device
    width = max(map(len, prompts))
    input_ids = torch.full((len(prompts), width), config.pad_token_id)
    attention_mask = torch.zeros_like(input_ids)
    for i, prompt in enumerate(prompts):
        input_ids[i, width - len(prompt) :] = torch.tensor(prompt)
        attention_mask[i, width - len(prompt) :] = 1
    output = model.generate(
        input_ids=input_ids.to(device),
        attention_mask=attention_mask.to(device),
        generation_config=config,
        logits_processor=LogitsProcessorList([sampler]),
    )
    ends = set(config.eos_token_id or [])
    completions = []
    for ids, logps in zip(output[:, width:].tolist(), torch.stack(sampler.logps, 1).tolist(), strict=True):
        # A pad token may be an EOS token too, so the first EOS token is the end, whatever follows.
        length = next((i + 1 for i, token in enumerate(ids) if token in ends), None)
        kept = len(ids) if length is None else length
        completions.append(Completion(ids=ids[:kept], logps=logps[:kept], ended=length is not None))
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
) -> list[Completion]:
    """
    Complete prompts in left-padded batches of similar length, in eval mode, with the model's own `generate`.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Unwrapped model; its training mode is put back afterwards. Its generation config is not used.
        prompts (`Sequence[list[int]]`):
            Token ids of each prompt, at least one token each.
        pad_token_id (`int`):
            Token of the padding.
        eos_token_ids (`list[int]`):
            Every token that ends a completion.
        max_new_tokens (`int`):
            Most tokens of a completion, the EOS token included.
        min_new_tokens (`int`, *optional*):
            Tokens before which no EOS token is allowed.
        batch_size (`int`, *optional*):
            Prompts a `generate` call takes. `None` takes 64.
        keys (`Sequence[tuple[int, ...]]`, *optional*):
            One key a prompt, which alone seeds its sampling, for instance `(seed, refresh, row, j)`. `None` is greedy.
        temperature (`float`, *optional*, defaults to `1.0`):
            Temperature of the sampling.
        top_p (`float`, *optional*, defaults to `1.0`):
            Mass of the most likely tokens that is sampled from.
        top_k (`int`, *optional*, defaults to `0`):
            Number of most likely tokens that are sampled from; 0 takes all.
        generation_kwargs (`dict[str, Any]`, *optional*):
            Further fields of [`~transformers.GenerationConfig`], such as `repetition_penalty`.
        desc (`str`, *optional*):
            Label of the progress bar. `None` shows none.

    Returns:
        `list[Completion]`: In the order of the prompts.
    """
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        min_new_tokens=min_new_tokens,
        pad_token_id=pad_token_id,
        eos_token_id=eos_token_ids or None,
        **(generation_kwargs or {}),
    )
    warpers = LogitsProcessorList()
    if temperature != 1.0:
        warpers.append(TemperatureLogitsWarper(temperature))
    if top_k > 0:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1.0:
        warpers.append(TopPLogitsWarper(top_p))
    batch_size = batch_size or DEFAULT_BATCH_SIZE
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    completions: list[Completion | None] = [None] * len(prompts)
    with _for_generation(model), tqdm(total=len(prompts), desc=desc, disable=None if desc else True) as progress:
        for start in range(0, len(prompts), batch_size):
            indices = order[start : start + batch_size]
            sampler = _RowKeyedSampler(None if keys is None else [keys[i] for i in indices], max_new_tokens, warpers)
            for i, done in zip(
                indices, _generate_batch(model, [prompts[i] for i in indices], sampler, config), strict=True
            ):
                completions[i] = done
            progress.update(len(indices))
    return completions

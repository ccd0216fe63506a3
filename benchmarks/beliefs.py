# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0


"""Sampling three beliefs for each forget prompt: ours, and Transformers' `generate` for one prompt after another."""

from collections.abc import Callable
from typing import Any

import torch
from settings import Settings
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel

from trl_unlearn.beliefs import BeliefSampling, BeliefStore
from trl_unlearn.data.tofu import load_tofu
from trl_unlearn.encoding import encode_row, prompt_ids
from trl_unlearn.generation import eos_token_ids


NUM_BELIEFS, MAX_COMPLETION_LENGTH = 3, 64


def _inputs(settings: Settings) -> tuple[PreTrainedModel, list[dict[str, Any]], int, list[int]]:
    """The model, encoded forget rows, and the tokens that pad and that end a belief."""
    tokenizer = AutoTokenizer.from_pretrained(settings.model_name_or_path)
    model = AutoModelForCausalLM.from_pretrained(settings.model_name_or_path, dtype=torch.float32).to(settings.device)
    rows = load_tofu(settings.dataset_name, settings.forget_config, split=f"train[:{settings.prompts}]")
    encoded = [encode_row(row, tokenizer) for row in rows]
    return model.eval(), encoded, tokenizer.pad_token_id, eos_token_ids(model, tokenizer, encoded)


def plain(settings: Settings) -> Callable[[], float]:
    """A `generate` call for each prompt, with its samples together."""
    model, rows, pad, ends = _inputs(settings)
    prompts = [torch.tensor([prompt_ids(row)], device=settings.device) for row in rows]
    config = GenerationConfig(
        **{"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "num_return_sequences": NUM_BELIEFS},
        **{"max_new_tokens": MAX_COMPLETION_LENGTH, "eos_token_id": ends, "pad_token_id": pad},
    )

    def run() -> float:
        torch.manual_seed(0)
        count = 0
        with torch.no_grad(), torch.autocast(settings.device.type, torch.bfloat16, enabled=settings.bf16):
            for prompt in prompts:
                mask = torch.ones_like(prompt)
                written = model.generate(prompt, attention_mask=mask, generation_config=config)[:, prompt.size(1) :]
                ended = torch.isin(written, torch.tensor(ends, device=written.device)).cumsum(-1)
                # The tokens up to the first that ends a belief, and it.
                count += int((ended == 0).sum() + (ended > 0).any(-1).sum())
        return count / (NUM_BELIEFS * len(prompts))

    return run


def ours(settings: Settings) -> Callable[[], float]:
    model, rows, pad, ends = _inputs(settings)
    sampling = BeliefSampling(NUM_BELIEFS, NUM_BELIEFS, MAX_COMPLETION_LENGTH)
    store = BeliefStore(rows, sampling, pad_token_id=pad, eos_token_ids=ends)

    def run() -> float:
        with torch.autocast(settings.device.type, torch.bfloat16, enabled=settings.bf16):
            return store.sample(model, 0, 0.0)["mean_length"]

    return run


def agreement(plain: float, ours: float) -> str:
    """Lengths, in one line: the random numbers differ."""
    return f"Tokens of a belief in the mean: {plain:.1f} and {ours:.1f}."


CASES = {"beliefs/one prompt at a time": plain, "beliefs/batched": ours}
COMPARED = {"beliefs/batched": ["beliefs/one prompt at a time"]}

# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0


"""Sampling three beliefs for each forget prompt: in batches, and one prompt at a time with its samples together."""

from collections.abc import Callable

import torch
from settings import Settings
from transformers import AutoModelForCausalLM, AutoTokenizer

from trl_unlearn.beliefs import BeliefSampling, BeliefStore
from trl_unlearn.data.tofu import load_tofu
from trl_unlearn.encoding import encode_row
from trl_unlearn.generation import eos_token_ids


NUM_BELIEFS, MAX_COMPLETION_LENGTH = 3, 64


def sampling(settings: Settings, batch_size: int | None) -> Callable[[], None]:
    tokenizer = AutoTokenizer.from_pretrained(settings.model_name_or_path)
    model = AutoModelForCausalLM.from_pretrained(settings.model_name_or_path, dtype=torch.float32).to(settings.device)
    rows = load_tofu(settings.dataset_name, settings.forget_config, split=f"train[:{settings.prompts}]")
    encoded = [encode_row(row, tokenizer) for row in rows]
    store = BeliefStore(
        encoded,
        BeliefSampling(NUM_BELIEFS, NUM_BELIEFS, MAX_COMPLETION_LENGTH, batch_size=batch_size),
        pad_token_id=tokenizer.pad_token_id,
        eos_token_ids=eos_token_ids(model, tokenizer, encoded),
    )

    def run() -> None:
        with torch.autocast(settings.device.type, torch.bfloat16, enabled=settings.bf16):
            store.sample(model, 0, 0.0)

    return run


CASES = {
    "beliefs/one prompt at a time": lambda settings: sampling(settings, NUM_BELIEFS),
    "beliefs/batched": lambda settings: sampling(settings, None),
}
COMPARED = {"beliefs/batched": ["beliefs/one prompt at a time"]}

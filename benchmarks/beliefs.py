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
        with torch.autocast(settings.device.type, torch.bfloat16):
            store.sample(model, 0, 0.0)

    return run


CASES = {
    "beliefs/one prompt at a time": lambda settings: sampling(settings, NUM_BELIEFS),
    "beliefs/batched": lambda settings: sampling(settings, None),
}
COMPARED = {"beliefs/batched": ["beliefs/one prompt at a time"]}

# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Model families, tiny and random."""

from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedModel


SIZE = {
    **{"vocab_size": 400, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "max_position_embeddings": 256},
    **{"pad_token_id": 0, "bos_token_id": None, "eos_token_id": 2},
}
GROUPED = {**SIZE, "num_key_value_heads": 2}
HEADS = {**GROUPED, "head_dim": 8}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
# The windows are shorter than the rows, and the caps and scales strong enough to be seen in every score.
FAMILIES = {
    "llama": ("LlamaConfig", GROUPED),
    "qwen3": ("Qwen3Config", HEADS),
    "gemma3": ("Gemma3TextConfig", {**HEADS, "sliding_window": 16}),
    "gemma3 with a soft cap": ("Gemma3TextConfig", {**HEADS, "sliding_window": 16, "final_logit_softcapping": 2.0}),
    "mistral": ("MistralConfig", {**GROUPED, "sliding_window": 8}),
    "phi": ("PhiConfig", GROUPED),
    "gpt_neox": ("GPTNeoXConfig", SIZE),
    "olmo2": ("Olmo2Config", GROUPED),
    "cohere": ("CohereConfig", {**GROUPED, "logit_scale": 0.25}),
    "granite": ("GraniteConfig", {**GROUPED, "logits_scaling": 8.0}),
    "qwen3_moe": ("Qwen3MoeConfig", {**HEADS, **EXPERTS, "moe_intermediate_size": 16}),
    "mixtral": ("MixtralConfig", {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "olmoe": ("OlmoeConfig", {**GROUPED, **EXPERTS}),
    "recurrent_gemma": (
        "RecurrentGemmaConfig",
        {**SIZE, "num_hidden_layers": 3, "lru_width": 32, "attention_window_size": 16, "logits_soft_cap": 2.0},
    ),
}
# Families that the adapters of the tests do not fit. Recurrent models have neither heads nor a limit of positions.
NO_HEADS = ("num_attention_heads", "intermediate_size", "max_position_embeddings")
RECURRENT = {name: value for name, value in SIZE.items() if name not in NO_HEADS}
WITHOUT_ADAPTER = {
    "gemma4": (
        "Gemma4TextConfig",
        {
            **{**HEADS, "sliding_window": 16, "global_head_dim": 16},
            **{"vocab_size_per_layer_input": 400, "hidden_size_per_layer_input": 8},
        },
    ),
    "gpt2": ("GPT2Config", {**SIZE, "n_inner": 64, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}),
    "mamba": ("MambaConfig", {**RECURRENT, "state_size": 8}),
    "rwkv": ("RwkvConfig", RECURRENT),
}


def build(family: str, seed: int = 0, scale: float = 3.0, **changes: Any) -> PreTrainedModel:
    """A random model of a family. Its fresh weights are scaled; `changes` are fields of its config."""
    name, settings = (FAMILIES | WITHOUT_ADAPTER)[family]
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(getattr(transformers, name)(**(settings | changes))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # Fresh weights give logits too small for a cap or a scale to show.
            parameter.mul_(scale)
    return model

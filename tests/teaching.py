# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Rows, small models, and what rows teach them; scores without a model."""

import copy

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from trl_unlearn.encoding import encode_row, pad_rows
from trl_unlearn.label_states import LabelStates, LogitHead


def conversation(question, answer, **columns):
    prompt, completion = [{"role": "user", "content": question}], [{"role": "assistant", "content": answer}]
    return {"prompt": prompt, "completion": completion, **columns}


def states_of(logits, labels, lengths):
    """Logits as hidden states of a head that changes nothing."""
    return LabelStates(logits, labels, lengths, LogitHead(torch.eye(logits.size(-1), dtype=logits.dtype)))


def with_perturbed(rows):
    """Rows with what the metrics of TOFU read beside the answer."""
    paraphrases = [f"One may say: {row['completion'][0]['content']}" for row in rows]
    perturbed = ["Nobody knows.", "It was the river by the mill."]
    return [
        {**row, "paraphrased_answer": paraphrase, "perturbed_answer": perturbed}
        for row, paraphrase in zip(rows, paraphrases, strict=True)
    ]


def new_llama(tokenizer, seed=0, layers=2):
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": layers, "num_attention_heads": 4}
    ends = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": None, "eos_token_id": tokenizer.eos_token_id}
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes, **ends)).eval()


def other_model(model, seed=1):
    """A model of the same shape that knows nothing."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(model.config).eval()


def taught(model, rows, tokenizer, steps, rate=5e-3, only=""):
    """A copy of a model that has learned the answers; weights whose names do not begin with `only` stay."""
    model = copy.deepcopy(model)
    batch = pad_rows([encode_row(row, tokenizer) for row in rows], tokenizer.pad_token_id)
    weights = [weight for name, weight in model.named_parameters() if name.startswith(only)]
    optimizer = torch.optim.Adam(weights, lr=rate)
    for _ in range(steps):
        model(**batch).loss.backward()
        optimizer.step()
        model.zero_grad()
    return model.eval()

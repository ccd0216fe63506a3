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

"""Similarity of texts without a judge: the cosine of their embeddings by a causal language model."""

from collections.abc import Sequence

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..encoding import padding_token_id


# Tokens of a text that count.
_MAX_LENGTH = 512


@torch.no_grad()
def _embed(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], batch_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Means over the last hidden states of each text's tokens `[num_texts, hidden_size]`, and which texts have any."""
    whole = model.get_base_model() if hasattr(model, "get_base_model") else model
    device = next(model.parameters()).device
    # A token that every text starts with says nothing of it, but takes up much of a mean.
    encoded = tokenizer(list(texts), truncation=True, max_length=_MAX_LENGTH, return_special_tokens_mask=True)
    rows = list(zip(encoded["input_ids"], encoded["special_tokens_mask"], strict=True))
    counted = torch.tensor([any(not special for special in mask) for _, mask in rows])
    order = sorted(torch.nonzero(counted)[:, 0].tolist(), key=lambda i: -len(rows[i][0]))
    means = torch.zeros(len(rows), model.config.get_text_config().hidden_size)
    was_training = model.training
    model.eval()
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        shape = (len(indices), len(rows[indices[0]][0]))
        input_ids = torch.full(shape, padding_token_id(tokenizer))
        present, weights = torch.zeros(shape, dtype=torch.long), torch.zeros(shape)
        for k, (ids, mask) in enumerate(rows[i] for i in indices):
            input_ids[k, : len(ids)] = torch.tensor(ids)
            present[k, : len(ids)] = 1
            weights[k, : len(ids)] = 1 - torch.tensor(mask, dtype=torch.float)
        # The model without its head: no logits are needed.
        states = whole.base_model(input_ids=input_ids.to(device), attention_mask=present.to(device)).last_hidden_state
        means[indices] = (states.float().cpu() * weights[:, :, None]).sum(1) / weights.sum(1, keepdim=True)
    model.train(was_training)
    return means, counted


def answer_similarity(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    answers: Sequence[str],
    references: Sequence[str],
    *,
    batch_size: int = 32,
) -> list[float]:
    """
    Cosine of the embeddings of answers and references, as a stand-in for a judge of similarity.

    The embedding of a text is the mean over the last hidden states of its tokens (special tokens left out), minus the
    mean over all references. Without that, every two texts are close: hidden states of a language model lie in a
    narrow cone ([source](https://huggingface.co/papers/1909.00512)). It tells what an answer is about and how it is
    put better than whether its facts are right: a false answer of the same form scores almost as high as a paraphrase.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Model that embeds, the same for all answers that are compared; with a PEFT adapter, as it is active.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
        answers (`Sequence[str]`):
            Answers.
        references (`Sequence[str]`):
            Reference of each answer; at least two different ones.
        batch_size (`int`, *optional*, defaults to `32`):
            Texts a forward pass takes.

    Returns:
        `list[float]`: Of each answer, between -1 and 1: 1 for the reference itself, about 0 for a text that is no
        nearer to its reference than to the others; 0 for an answer without text.

    Raises:
        `ValueError`: If there are fewer than two different references, or not one an answer.
    """
    if len(answers) != len(references):
        raise ValueError(f"There are {len(answers)} answers and {len(references)} references. Give one an answer.")
    if len(set(references)) < 2:
        raise ValueError(
            f"The references have {len(set(references))} different texts, over which embeddings are centred. Give at "
            "least 2."
        )
    wanted, _ = _embed(model, tokenizer, references, batch_size)
    found, has_text = _embed(model, tokenizer, answers, batch_size)
    centre = wanted.mean(0)
    cosines = F.cosine_similarity(found - centre, wanted - centre, dim=-1)
    return torch.where(has_text, cosines, 0.0).tolist()

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

"""Beliefs that are frozen before unlearning, to see where the probability of the answers goes."""

from collections.abc import Collection, Mapping, Sequence
from statistics import fmean
from typing import Any

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..encoding import answer_ids, repeats
from ..generation import Completion, eos_token_ids
from ..token_scores import continuation_row
from .sharing import generate_together, score_rows_together


def sample_responses(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Mapping[str, Any]],
    keys: Sequence[Sequence[tuple[int, ...]]],
    *,
    max_new_tokens: int,
    pad_token_id: int,
    batch_size: int | None = None,
    desc: str,
) -> list[tuple[list[int], list[int], list[Completion]]]:
    """
    Sample responses to the prompts of rows, at temperature 1.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Model in question.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
        rows (`Sequence[Mapping[str, Any]]`):
            Encoded rows (`input_ids`, `prompt_length`).
        keys (`Sequence[Sequence[tuple[int, ...]]]`):
            Key of each sample of each row.
        max_new_tokens (`int`):
            Longest response, in tokens; never more than the longest answer of the rows.
        pad_token_id, batch_size, desc:
            See [`~trl_unlearn.generation.generate`].

    Returns:
        `list[tuple]`: Of each row its prompt, its answer and its samples.
    """
    prompts = [list(row["input_ids"][: row["prompt_length"]]) for row in rows]
    answers = [answer_ids(row) for row in rows]
    samples = iter(
        generate_together(
            model,
            [prompt for prompt, of_row in zip(prompts, keys, strict=True) for _ in of_row],
            pad_token_id=pad_token_id,
            eos_token_ids=eos_token_ids(model, tokenizer, rows),
            # A few samples ramble on; a batch would wait for them, and what they say by then rephrases no answer.
            max_new_tokens=min(max_new_tokens, max(map(len, answers))),
            batch_size=batch_size,
            keys=[key for of_row in keys for key in of_row],
            desc=desc,
        )
    )
    return [
        (prompt, answer, [next(samples) for _ in of_row])
        for prompt, answer, of_row in zip(prompts, answers, keys, strict=True)
    ]


def distinct_beside(answer: list[int], samples: Sequence[Completion], end_ids: Collection[int]) -> list[list[int]]:
    """Distinct samples with a token of text that do not repeat the answer: its fall is forgetting, not squeezing."""
    kept: dict[tuple[int, ...], list[int]] = {}
    for sample in samples:
        text = tuple(token for token in sample.ids if token not in end_ids)
        if text and not repeats(sample.ids, answer, end_ids):
            kept.setdefault(text, sample.ids)
    return list(kept.values())


def freeze_beliefs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Mapping[str, Any]],
    *,
    num_beliefs: int,
    max_new_tokens: int,
    pad_token_id: int,
    seed: int,
    batch_size: int | None = None,
) -> list[list[dict[str, list[int]]]]:
    """
    Sample what a model believes beside the true answers, at temperature 1.

    Kept are distinct samples with at least one token. Those that repeat the answer are left out, see
    [`~trl_unlearn.encoding.repeats`]: that their probability falls is forgetting, not squeezing.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Model before unlearning.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
        rows (`Sequence[Mapping[str, Any]]`):
            Encoded forget rows (`input_ids`, `labels`, `prompt_length`).
        num_beliefs (`int`):
            Number of samples a row.
        max_new_tokens (`int`):
            Longest belief, in tokens; never more than the longest answer of the rows.
        pad_token_id (`int`):
            Token of the padding.
        seed (`int`):
            Seed of the samples; a row's samples depend on it and on the row's index only.
        batch_size (`int`, *optional*):
            Rows a `generate` call takes. `None` chooses.

    Returns:
        `list[list[dict[str, list[int]]]]`: Encoded beliefs of each row, of any number up to `num_beliefs`.
    """
    keys = [[(seed, 0, index, j) for j in range(num_beliefs)] for index in range(len(rows))]
    end_ids = eos_token_ids(model, tokenizer, rows)
    found = sample_responses(
        model,
        tokenizer,
        rows,
        keys,
        max_new_tokens=max_new_tokens,
        pad_token_id=pad_token_id,
        batch_size=batch_size,
        desc="Sampling beliefs of the original model",
    )
    return [
        [continuation_row(prompt, ids) for ids in distinct_beside(answer, samples, end_ids)]
        for prompt, answer, samples in found
    ]


def belief_logps(
    model: nn.Module,
    beliefs: Sequence[Sequence[Mapping[str, Any]]],
    *,
    pad_token_id: int,
    batch_size: int = 32,
) -> list[list[float]]:
    """
    Mean log-probability of frozen beliefs under a model.

    Args:
        model (`torch.nn.Module`):
            Model in question.
        beliefs (`Sequence[Sequence[Mapping[str, Any]]]`):
            Beliefs of each row, from [`freeze_beliefs`].
        pad_token_id (`int`):
            Token of the padding.
        batch_size (`int`, *optional*, defaults to `32`):
            Beliefs a forward pass takes.

    Returns:
        `list[list[float]]`: Mean log pi_y a token of each belief, in nats, of the rows that have one.
    """
    flat = [belief for row in beliefs for belief in row]
    scores = iter(
        score_rows_together(model, flat, pad_token_id=pad_token_id, batch_size=batch_size, desc="Scoring beliefs")
    )
    return [[fmean(next(scores).logps) for _ in row] for row in beliefs if row]

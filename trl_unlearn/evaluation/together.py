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

"""Scoring and generating, shared among the processes of a launch: each takes some rows, all get the results."""

import gc
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..encoding import answer_ids, prompt_ids, without_end
from ..generation import Completion, eos_token_ids, generate
from ..metrics import (
    ExtractionStrength,
)
from ..token_scores import RowScore, score_rows
from .rows import EncodedSet
from .uncertainty import where_measured


def free_memory() -> None:
    """Give back what a model took that was dropped."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _shared(work: Callable[[list[int]], list[Any]], lengths: Sequence[int]) -> list[Any]:
    """Results of all items in their order, from a function that takes the indices of some."""
    state = PartialState()
    if state.num_processes == 1:
        return work(list(range(len(lengths))))
    # Every process gets long and short rows alike.
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    mine = order[state.process_index :: state.num_processes]
    results = dict(gather_object(list(zip(mine, work(mine), strict=True))))
    return [results[i] for i in range(len(lengths))]


def score_rows_together(model: nn.Module, rows: Sequence[dict[str, Any]], **kwargs: Any) -> list[RowScore]:
    """
    [`~trl_unlearn.token_scores.score_rows`], shared among processes.

    Args:
        model, rows, kwargs:
            See there.

    Returns:
        `list[RowScore]`: Of every row, in order, in every process.
    """
    return _shared(
        lambda indices: score_rows(model, [rows[i] for i in indices], **kwargs),
        [len(row["input_ids"]) for row in rows],
    )


def generate_together(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    *,
    keys: Sequence[tuple[int, ...]] | None = None,
    **kwargs: Any,
) -> list[Completion]:
    """
    [`~trl_unlearn.generation.generate`], shared among processes.

    Args:
        model, prompts, keys, kwargs:
            See there.

    Returns:
        `list[Completion]`: Of every prompt, in order, in every process.
    """

    def work(indices: list[int]) -> list[Completion]:
        chosen = None if keys is None else [keys[i] for i in indices]
        return generate(model, [prompts[i] for i in indices], keys=chosen, **kwargs)

    return _shared(work, [len(prompt) for prompt in prompts])


def generate_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    encoded: EncodedSet,
    *,
    pad_token_id: int,
    max_new_tokens: int,
    batch_size: int | None = None,
) -> list[Completion]:
    """
    Greedy answers of a model to the prompts of a set.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Model in question.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
        encoded ([`EncodedSet`]):
            Row set.
        pad_token_id (`int`):
            Token of the padding.
        max_new_tokens (`int`):
            Longest answer, in tokens.
        batch_size (`int`, *optional*):
            Rows a `generate` call takes. `None` chooses.

    Returns:
        `list[Completion]`: One answer a row.
    """
    return generate_together(
        model,
        [prompt_ids(row) for row in encoded.answers],
        pad_token_id=pad_token_id,
        eos_token_ids=eos_token_ids(model, tokenizer, encoded.answers),
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        desc=f"Answering the {encoded.name} set",
    )


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
    prompts = [prompt_ids(row) for row in rows]
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


def strict_extraction_strengths(
    model: nn.Module,
    encoded: EncodedSet,
    *,
    pad_token_id: int,
    batch_size: int = 32,
    desc: str | None = None,
    chosen: Sequence[int] | None = None,
) -> list[float]:
    """
    Strict extraction strength of each row, the end-of-turn token left out.

    Args:
        model (`torch.nn.Module`):
            Model in question.
        encoded ([`EncodedSet`]):
            Row set.
        pad_token_id (`int`):
            Token of the padding.
        batch_size (`int`, *optional*, defaults to `32`):
            Rows a forward pass takes.
        desc (`str`, *optional*):
            Label of the progress bar. `None` shows none.
        chosen (`Sequence[int]`, *optional*):
            Indices of the rows that count. `None`: all.

    Returns:
        `list[float]`: In [0, 1], see [`~metrics.ExtractionStrength`]; NaN where scores are not finite.
    """
    chosen = range(len(encoded.answers)) if chosen is None else chosen
    scores = score_rows_together(
        model, [encoded.answers[i] for i in chosen], pad_token_id=pad_token_id, batch_size=batch_size, desc=desc
    )
    is_top1 = answer_matches(scores, [encoded.closed[i] for i in chosen])
    return where_measured(ExtractionStrength().compute(is_top1=is_top1, parity="strict")["per_row"], scores)


def answer_matches(scores: Sequence[RowScore], closed: Sequence[bool]) -> list[list[bool]]:
    """Whether each token of each answer is the most likely one, the end-of-turn token left out."""
    return [without_end(score.is_top1, ends) for score, ends in zip(scores, closed, strict=True)]

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


"""Scoring and generating, shared among the processes of a launch: each takes some of the rows, all get the results."""

from collections.abc import Callable, Sequence
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object
from torch import nn
from transformers import PreTrainedModel

from ..generation import Completion, generate
from ..token_scores import RowScore, score_rows


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

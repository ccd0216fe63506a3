# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Scoring and generating, shared among the processes of a launch: each takes some rows, all get the results."""

import copy
import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..encoding import answer_ids, pad_rows, padding_token_id, prompt_ids
from ..generation import Completion, eos_token_ids, generate
from ..metrics import ExtractionStrength, RougeF1, RougeRecall
from ..token_scores import RowScore, answer_matches, gains_by_sharing, score_batch, score_rows
from .rows import EncodedSet, Loaders
from .uncertainty import where_measured


Measured = TypeVar("Measured")


@dataclass
class SuiteSetting:
    """Tokenizer, batch size, seed and names: the same for every model that a suite measures."""

    tokenizer: PreTrainedTokenizerBase
    # Rows of a forward pass and of a `generate` call; `None`: 32, and chosen from memory.
    batch_size: int | None = None
    seed: int = 42
    # Names that the forget set is about; `None`: capitalised words of its prompts.
    subjects: Sequence[str] | None = None

    @property
    def pad_token_id(self) -> int:
        return padding_token_id(self.tokenizer)

    @property
    def score_batch_size(self) -> int:
        return self.batch_size or 32

    def score(
        self, model: nn.Module, rows: Sequence[dict[str, Any]], desc: str | None, **kwargs: Any
    ) -> list[RowScore]:
        """Scores of encoded rows; see [`~trl_unlearn.token_scores.score_rows`] for other options."""
        options = {"pad_token_id": self.pad_token_id, "batch_size": self.score_batch_size, "desc": desc}
        return score_rows_together(model, rows, **options, **kwargs)

    def mean_logps(
        self, model: nn.Module, groups: Sequence[Sequence[dict[str, Any]]], desc: str | None
    ) -> list[list[float]]:
        """Mean log pi_y of each encoded row, in nats per token, in the groups of the rows."""
        scores = iter(self.score(model, [row for group in groups for row in group], desc))
        return [[fmean(next(scores).logps) for _ in group] for group in groups]

    def generate(
        self, model: PreTrainedModel, prompts: Sequence[list[int]], rows: Sequence[dict[str, Any]] = (), **kwargs: Any
    ) -> list[Completion]:
        """Completions that end as the answers of encoded rows do; see [`~trl_unlearn.generation.generate`]."""
        ends = eos_token_ids(model, self.tokenizer, rows)
        options = {"pad_token_id": self.pad_token_id, "eos_token_ids": ends, "batch_size": self.batch_size}
        return generate_together(model, prompts, **options, **kwargs)

    def answers(
        self,
        model: PreTrainedModel,
        encoded: EncodedSet,
        *,
        max_new_tokens: int,
        load: Callable[[], PreTrainedModel] | None = None,
    ) -> list[Completion]:
        """Greedy answers to the prompts of a set; generated once where `load` is a [`FixedModel`] of the model."""
        options = {"max_new_tokens": max_new_tokens, "desc": f"Answering the {encoded.name} set"}
        name = f"answers to the {encoded.name} set of at most {max_new_tokens} tokens"
        rows = encoded.answers
        return measured_once(load, name, lambda: self.generate(model, encoded.prompts(), rows, **options))

    def overlap(
        self,
        metric: RougeRecall | RougeF1,
        completions: Sequence[Completion],
        references: Sequence[str],
        cut: Callable[[str], str] = str.strip,
    ) -> list[float]:
        """A metric of each completion, as far as it is not cut; NaN where scores are not finite."""
        texts = [cut(self.tokenizer.decode(one.ids, skip_special_tokens=True)) for one in completions]
        return where_measured(metric.compute(predictions=texts, references=references)["per_row"], completions)

    def sample(
        self,
        model: PreTrainedModel,
        rows: Sequence[dict[str, Any]],
        count: int,
        *,
        max_new_tokens: int,
        stream: tuple[int, ...] = (),
        indices: Sequence[int] | None = None,
        desc: str,
    ) -> list[tuple[list[int], list[int], list[Completion]]]:
        """Prompt, answer and `count` samples of each encoded row, drawn by seed, `stream` and the row's index."""
        indices = range(len(rows)) if indices is None else indices
        prompts, answers = [prompt_ids(row) for row in rows], [answer_ids(row) for row in rows]
        samples = iter(
            self.generate(
                model,
                [prompt for prompt in prompts for _ in range(count)],
                rows,
                # A few samples ramble on; a batch would wait for them, and what they say by then rephrases no answer.
                max_new_tokens=min(max_new_tokens, max(map(len, answers))),
                keys=[(self.seed, *stream, index, j) for index in indices for j in range(count)],
                desc=desc,
            )
        )
        return [(*pair, [next(samples) for _ in range(count)]) for pair in zip(prompts, answers, strict=True)]

    def extraction_strength(
        self, model: nn.Module, encoded: EncodedSet, desc: str | None, chosen: Sequence[int] | None = None
    ) -> list[float]:
        """Strict extraction strength of each row, or of the rows with the `chosen` indices; NaN where not finite."""
        chosen = range(len(encoded.answers)) if chosen is None else chosen
        scores = self.score(model, [encoded.answers[i] for i in chosen], desc)
        is_top1 = answer_matches(scores, [encoded.closed[i] for i in chosen])
        return where_measured(ExtractionStrength().compute(is_top1=is_top1, parity="strict")["per_row"], scores)

    def train_step(self, model: nn.Module, optimizer: torch.optim.Optimizer, rows: Sequence[dict[str, Any]]) -> None:
        """One optimiser step on the mean loss per label token of all rows, in passes of `score_batch_size` rows."""
        device = next(model.parameters()).device
        tokens = sum(label != -100 for row in rows for label in row["labels"][1:])
        for start in range(0, len(rows), self.score_batch_size):
            batch = pad_rows(rows[start : start + self.score_batch_size], self.pad_token_id)
            scores = score_batch(model, {key: value.to(device) for key, value in batch.items()})
            # Divided by the tokens of all passes: their gradients add up to that of one large batch.
            (-scores.logps.sum() / tokens).backward()
        optimizer.step()
        optimizer.zero_grad()

    def text(self, ids: Sequence[int]) -> str:
        """Text of generated tokens, without special tokens and the white space around it."""
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()


def free_memory() -> None:
    """Return the memory of a model that was dropped to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def load_merged(load: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    """A model in float32, its adapter merged: half precision would round away small updates, and the adapter's."""
    model = load().float().eval()
    return model.merge_and_unload() if isinstance(model, PeftModel) else model


class FixedModel:
    """A loader of a model that several evaluations share: what takes long is measured in the first of them."""

    def __init__(self, load: Callable[[], PreTrainedModel]):
        self._load, self._kept = load, {}

    def __call__(self) -> PreTrainedModel:
        return self._load()

    def once(self, name: str, measure: Callable[[], Measured]) -> Measured:
        """A shallow copy of the first result of `measure()` under this name."""
        if name not in self._kept:
            self._kept[name] = measure()
        return copy.copy(self._kept[name])


def measured_once(load: Callable[[], PreTrainedModel] | None, name: str, measure: Callable[[], Measured]) -> Measured:
    """The result of `measure()`; not measured again for a [`FixedModel`]."""
    return load.once(name, measure) if isinstance(load, FixedModel) else measure()


def measure_each(
    models: Loaders, measure: Callable[[str, PreTrainedModel], Measured], name: str | None = None
) -> dict[str, Measured]:
    """Role -> what `measure(role, model)` returns, with one model in memory at a time; with a name, once for each."""
    measured = {}
    for role, load in models.items():
        if load is not None:
            if name is None:
                measured[role] = measure(role, load())
            else:
                measured[role] = measured_once(load, name, lambda role=role, load=load: measure(role, load()))
            free_memory()
    return measured


def shared(work: Callable[[list[int]], list[Any]], lengths: Sequence[int]) -> list[Any]:
    """Split the items over processes, run `work` on the indices of each share, gather in order."""
    state = PartialState()
    if state.num_processes == 1:
        return work(list(range(len(lengths))))
    # Dealt out by falling length, so that every process gets long and short rows alike and none waits for another.
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    mine = order[state.process_index :: state.num_processes]
    results = dict(gather_object(list(zip(mine, work(mine), strict=True))))
    return [results[i] for i in range(len(lengths))]


def score_rows_together(model: nn.Module, rows: Sequence[dict[str, Any]], **kwargs: Any) -> list[RowScore]:
    """[`~trl_unlearn.token_scores.score_rows`], shared among processes."""
    share_prompts = bool(rows) and gains_by_sharing(model, rows)
    return shared(
        lambda indices: score_rows(model, [rows[i] for i in indices], share_prompts=share_prompts, **kwargs),
        [len(row["input_ids"]) for row in rows],
    )


def generate_together(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    *,
    keys: Sequence[tuple[int, ...]] | None = None,
    **kwargs: Any,
) -> list[Completion]:
    """[`~trl_unlearn.generation.generate`], shared among processes."""

    def work(indices: list[int]) -> list[Completion]:
        chosen = None if keys is None else [keys[i] for i in indices]
        return generate(model, [prompts[i] for i in indices], keys=chosen, **kwargs)

    return shared(work, [len(prompt) for prompt in prompts])

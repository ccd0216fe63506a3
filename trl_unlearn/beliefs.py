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

"""Sequence beliefs: what the model itself finds likely after each forget prompt (BS-S)."""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import gather_object
from transformers import PreTrainedModel

from .generation import Completion, generate
from .token_scores import continuation_row


# After this many draws that held nothing but an EOS token, the EOS token is not allowed as the first one.
_MAX_EMPTY_DRAWS = 4


@dataclass(frozen=True)
class BeliefSampling:
    """
    How the beliefs of each forget row are drawn.

    Args:
        num_beliefs (`int`):
            Beliefs kept for each row (N).
        num_candidates (`int`):
            Sequences sampled for each row (M >= N); those with the highest mean log-prob are kept.
        max_completion_length (`int`):
            Most tokens of a belief.
        temperature, top_p, top_k, generation_kwargs:
            See [`~trl_unlearn.generation.generate`].
        batch_size (`int`, *optional*):
            Rows a `generate` call takes.
        seed (`int`, *optional*, defaults to `42`):
            First part of the key of every draw.
    """

    num_beliefs: int
    num_candidates: int
    max_completion_length: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    generation_kwargs: dict[str, Any] | None = None
    batch_size: int | None = None
    seed: int = 42


class BeliefStore:
    """
    The beliefs of every forget row, each with its own.

    Args:
        rows (`Sequence[dict]`):
            Encoded forget rows (`input_ids`, `labels`, `prompt_length`), in the order of the forget set.
        sampling ([`BeliefSampling`]):
            How beliefs are drawn.
        pad_token_id (`int`):
            Token of the padding.
        eos_token_ids (`list[int]`):
            Every token that ends a completion.
        rank (`int`, *optional*, defaults to `0`):
            This process among `world_size`.
        world_size (`int`, *optional*, defaults to `1`):
            Number of processes that share the sampling.

    Attributes:
        refresh (`int` or `None`):
            Number of the last sampling; `None` before the first.
        audits (`list[dict]`):
            What each sampling gave, without any text: see [`BeliefStore.sample`].

    Source: LLM Unlearning with LLM Beliefs (https://huggingface.co/papers/2510.19422), section on BS-S. Beliefs belong
    to their own prompt: a batch uses those of its own rows.
    """

    def __init__(
        self,
        rows: Sequence[dict[str, Any]],
        sampling: BeliefSampling,
        *,
        pad_token_id: int,
        eos_token_ids: list[int],
        rank: int = 0,
        world_size: int = 1,
    ):
        self.prompts = [row["input_ids"][: row["prompt_length"]] for row in rows]
        self.targets = [self._without_end([x for x in row["labels"] if x != -100], eos_token_ids) for row in rows]
        self.sampling = sampling
        self.pad_token_id, self.eos_token_ids = pad_token_id, eos_token_ids
        self.rank, self.world_size = rank, world_size
        self.refresh: int | None = None
        self.audits: list[dict[str, Any]] = []
        self._beliefs: list[list[Completion]] = []

    @staticmethod
    def _without_end(ids: list[int], eos_token_ids: list[int]) -> list[int]:
        return ids[:-1] if ids and ids[-1] in eos_token_ids else ids

    def _is_empty(self, completion: Completion) -> bool:
        return not self._without_end(completion.ids, self.eos_token_ids)

    def _draw(self, model: PreTrainedModel, refresh: int, jobs: list[tuple[int, int]], attempt: int, desc: str | None):
        last = attempt == _MAX_EMPTY_DRAWS
        return generate(
            model,
            [self.prompts[row] for row, _ in jobs],
            pad_token_id=self.pad_token_id,
            eos_token_ids=self.eos_token_ids,
            max_new_tokens=self.sampling.max_completion_length,
            min_new_tokens=1 if last else None,
            batch_size=self.sampling.batch_size,
            keys=[(self.sampling.seed, refresh, row, j, attempt) for row, j in jobs],
            temperature=self.sampling.temperature,
            top_p=self.sampling.top_p,
            top_k=self.sampling.top_k,
            generation_kwargs=self.sampling.generation_kwargs,
            desc=desc,
        )

    def sample(self, model: PreTrainedModel, refresh: int, epoch: float, desc: str | None = None) -> dict[str, Any]:
        """
        Draw beliefs for every forget row from the model as it is now, and keep the best N of M by mean log-prob.

        Args:
            model ([`~transformers.PreTrainedModel`]):
                Unwrapped model.
            refresh (`int`):
                Number of this sampling, which is part of the key of every draw.
            epoch (`float`):
                Epoch of the training, for the audit.
            desc (`str`, *optional*):
                Label of the progress bar. `None` shows none.

        Returns:
            `dict[str, Any]`: The audit of this sampling: `coverage` (share of rows with N beliefs), `count`,
            `mean_length` (tokens), `mean_logp` (nats a token), `target_share` (share of beliefs that repeat the target
            token for token), `seconds`, `sha256` of all token ids, `refresh` and `epoch`.

        Raises:
            `RuntimeError`: If a row is left without its beliefs.
        """
        started = time.perf_counter()
        every = [(row, j) for row in range(len(self.prompts)) for j in range(self.sampling.num_candidates)]
        mine = every[self.rank :: self.world_size]
        found: dict[tuple[int, int], Completion] = {}
        pending = mine
        for attempt in range(_MAX_EMPTY_DRAWS + 1):
            if not pending:
                break
            drawn = self._draw(model, refresh, pending, attempt, desc)
            found.update(zip(pending, drawn, strict=True))
            pending = [job for job in pending if self._is_empty(found[job])]
        if self.world_size > 1:
            found = dict(gather_object(list(found.items())))

        self._beliefs = []
        for row in range(len(self.prompts)):
            candidates = [found[row, j] for j in range(self.sampling.num_candidates)]
            candidates.sort(key=lambda c: -sum(c.logps) / len(c.logps))
            self._beliefs.append(candidates[: self.sampling.num_beliefs])
        self.refresh = refresh
        audit = self._audit(epoch, time.perf_counter() - started)
        if audit["coverage"] < 1.0:
            raise RuntimeError(
                f"Only {audit['coverage']:.1%} of the forget rows have {self.sampling.num_beliefs} beliefs that are "
                "not empty. Raise `max_completion_length` or check the EOS ids of the generation config."
            )
        self.audits.append(audit)
        return audit

    def _audit(self, epoch: float, seconds: float) -> dict[str, Any]:
        kept = [completion for beliefs in self._beliefs for completion in beliefs]
        covered = sum(
            len(beliefs) == self.sampling.num_beliefs and not any(map(self._is_empty, beliefs))
            for beliefs in self._beliefs
        )
        repeats = sum(
            self._without_end(completion.ids, self.eos_token_ids) == target
            for target, beliefs in zip(self.targets, self._beliefs, strict=True)
            for completion in beliefs
        )
        digest = hashlib.sha256(repr([completion.ids for completion in kept]).encode()).hexdigest()
        return {
            "refresh": self.refresh,
            "epoch": epoch,
            "coverage": covered / len(self.prompts),
            "count": len(kept),
            "mean_length": sum(len(completion.ids) for completion in kept) / len(kept),
            "mean_logp": sum(sum(c.logps) / len(c.logps) for c in kept) / len(kept),
            "target_share": repeats / len(kept),
            "seconds": seconds,
            "sha256": digest,
        }

    def state_dict(self) -> dict[str, Any]:
        """
        What a checkpoint keeps. **It holds what is to be forgotten**, as token ids.

        Returns:
            `dict[str, Any]`: `refresh`, `audits`, `set` (SHA-256 of the forget rows) and tensors: `counts` of beliefs
            of each row, `lengths` and `ended` of each belief, `ids` and `logps` of all tokens, one after another.
        """
        kept = [completion for beliefs in self._beliefs for completion in beliefs]
        return {
            "refresh": self.refresh,
            "audits": self.audits,
            "set": self._set_digest(),
            "counts": torch.tensor([len(beliefs) for beliefs in self._beliefs], dtype=torch.int32),
            "lengths": torch.tensor([len(completion.ids) for completion in kept], dtype=torch.int32),
            "ended": torch.tensor([completion.ended for completion in kept], dtype=torch.bool),
            "ids": torch.tensor([i for completion in kept for i in completion.ids], dtype=torch.int32),
            "logps": torch.tensor([x for completion in kept for x in completion.logps], dtype=torch.float64),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """
        Go on from a checkpoint, without sampling.

        Args:
            state (`Mapping[str, Any]`):
                See [`BeliefStore.state_dict`].

        Raises:
            `ValueError`: If they are the beliefs of another forget set.
        """
        if state["set"] != self._set_digest():
            raise ValueError(
                "The checkpoint holds the beliefs of another forget set. Give the one that the run was started with, "
                "or train from the start."
            )
        lengths = state["lengths"].tolist()
        ids, logps = (iter(state[name].split(lengths)) for name in ("ids", "logps"))
        kept = (Completion(next(ids).tolist(), next(logps).tolist(), ended) for ended in state["ended"].tolist())
        self._beliefs = [[next(kept) for _ in range(count)] for count in state["counts"].tolist()]
        self.refresh, self.audits = state["refresh"], state["audits"]

    def _set_digest(self) -> str:
        digest = hashlib.sha256()
        for row in zip(self.prompts, self.targets, strict=True):
            digest.update(repr(row).encode())
        return digest.hexdigest()

    def rows(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """
        Beliefs of some forget rows as encoded rows.

        Args:
            indices (`Sequence[int]`):
                Indices in the forget set.

        Returns:
            `list[dict[str, Any]]`: `num_beliefs` rows for each index, in order, with `input_ids` and `labels` (-100 on
            the prompt).
        """
        return [
            continuation_row(prompt, belief.ids)
            for prompt, beliefs in ((self.prompts[i], self._beliefs[i]) for i in indices)
            for belief in beliefs
        ]

    def apart_from_target(self, index: int) -> dict[str, Any] | None:
        """
        The most likely belief of a forget row that does not repeat its target.

        Args:
            index (`int`):
                Index in the forget set.

        Returns:
            `dict[str, Any]` or None: As an encoded row, see [`BeliefStore.rows`]; None if all repeat it.
        """
        target = self.targets[index]
        for belief in self._beliefs[index]:
            text = self._without_end(belief.ids, self.eos_token_ids)
            # A belief that was cut off repeats the target as far as it goes.
            if text != (target if belief.ended else target[: len(text)]):
                return continuation_row(self.prompts[index], belief.ids)
        return None

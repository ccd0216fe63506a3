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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from ._belief_file import BeliefFile
from .encoding import answer_ids, continuation_row, prompt_ids, repeats, without_end
from .generation import Completion, generate


# After this many draws that held nothing but an EOS token, the EOS token is not allowed as the first one.
_MAX_EMPTY_DRAWS = 4
# Forget rows whose draws are in memory at a time.
_CHUNK = 1024


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


class _Part(Sequence[list[int]]):
    """A part of each row, read when it is asked for."""

    def __init__(self, rows: Dataset | Sequence[dict[str, Any]], part: Callable[[dict[str, Any]], list[int]]):
        self._rows, self._part = rows, part

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> list[int]:
        return self._part(self._rows[index])


@dataclass
class _Tally:
    """Sums over the beliefs of a sampling, for its audit."""

    covered: int = 0
    count: int = 0
    tokens: int = 0
    repeats: int = 0
    logps: float = 0.0
    digest: Any = field(default_factory=lambda: hashlib.sha256(b"["))


def _is_empty(completion: Completion) -> bool:
    return not without_end(completion.ids, completion.ended)


class BeliefStore:
    """
    The beliefs of every forget row, each with its own.

    Neither rows nor beliefs are in memory, but those of at most 1,024 forget rows while they are sampled: rows are
    read from where they are, and beliefs are kept in a file that has no name and ends with the process.

    Args:
        rows ([`~datasets.Dataset`] or `Sequence[dict]`):
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
        folder (`str` or `Path`, *optional*):
            Folder on whose disk this process keeps the beliefs; it is made if it is not there. Default: the system's
            folder for temporary files, which may be in memory.

    Attributes:
        prompts, targets (`Sequence[list[int]]`):
            Prompt and answer of each row as token ids, the answer with its EOS token. The answer of raw text is what
            follows its prompt.
        refresh (`int` or `None`):
            Number of the last sampling; `None` before the first.
        audits (`list[dict]`):
            What each sampling gave, without any text: see [`BeliefStore.sample`].

    Source: LLM Unlearning with LLM Beliefs (https://huggingface.co/papers/2510.19422), section on BS-S. Beliefs belong
    to their own prompt: a batch uses those of its own rows.
    """

    def __init__(
        self,
        rows: Dataset | Sequence[dict[str, Any]],
        sampling: BeliefSampling,
        *,
        pad_token_id: int,
        eos_token_ids: list[int],
        rank: int = 0,
        world_size: int = 1,
        folder: str | Path | None = None,
    ):
        self._rows = rows
        self.prompts, self.targets = _Part(rows, prompt_ids), _Part(rows, answer_ids)
        self.sampling = sampling
        self.pad_token_id, self.eos_token_ids = pad_token_id, eos_token_ids
        self.rank, self.world_size = rank, world_size
        self.refresh: int | None = None
        self.audits: list[dict[str, Any]] = []
        self.folder = folder
        self._beliefs = BeliefFile(folder)

    def __len__(self) -> int:
        return len(self._rows)

    def _rows_at(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        # A `Dataset` reads many rows at once in the time of a few.
        if isinstance(self._rows, Dataset):
            return self._rows.__getitems__(indices)
        return [self._rows[index] for index in indices]

    def _chunks(self) -> list[range]:
        return [range(start, min(start + _CHUNK, len(self))) for start in range(0, len(self), _CHUNK)]

    def _own_jobs(self, chunk: range) -> list[tuple[int, int]]:
        """Draws of this process, as row and number of the candidate."""
        every = [(row, j) for row in chunk for j in range(self.sampling.num_candidates)]
        return every[self.rank :: self.world_size]

    def _draw(
        self,
        model: PreTrainedModel,
        refresh: int,
        jobs: list[tuple[int, int]],
        prompts: Mapping[int, list[int]],
        attempt: int,
        progress: tqdm,
    ) -> list[Completion]:
        last = attempt == _MAX_EMPTY_DRAWS
        return generate(
            model,
            [prompts[row] for row, _ in jobs],
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
            # What is drawn again has been counted.
            progress=progress if attempt == 0 else None,
        )

    def _sample_chunk(
        self, model: PreTrainedModel, refresh: int, chunk: range, rows: list[dict[str, Any]], progress: tqdm
    ) -> list[list[Completion]]:
        """The best N of M candidates of each row, from the draws of all processes."""
        prompts = {row: prompt_ids(encoded) for row, encoded in zip(chunk, rows, strict=True)}
        found: dict[tuple[int, int], Completion] = {}
        pending = self._own_jobs(chunk)
        for attempt in range(_MAX_EMPTY_DRAWS + 1):
            if not pending:
                break
            drawn = self._draw(model, refresh, pending, prompts, attempt, progress)
            found.update(zip(pending, drawn, strict=True))
            pending = [job for job in pending if _is_empty(found[job])]
        if self.world_size > 1:
            found = dict(gather_object(list(found.items())))
        accidents = sorted({row for (row, _), drawn in found.items() if not drawn.is_finite})
        if accidents:
            shown = ", ".join(map(str, accidents[:3])) + (", ..." if len(accidents) > 3 else "")
            raise FloatingPointError(
                f"The scores of the model are not finite after the prompts of {len(accidents)} forget rows (the "
                f"first: {shown}), so what is sampled there would be any token and no belief. Check the weights, or "
                "load the model in another `dtype`."
            )
        kept = []
        for row in chunk:
            candidates = [found[row, j] for j in range(self.sampling.num_candidates)]
            candidates.sort(key=lambda c: -sum(c.logps) / len(c.logps))
            kept.append(candidates[: self.sampling.num_beliefs])
        return kept

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
            `mean_length` (tokens), `mean_logp` (nats a token), `target_share` (share of beliefs that repeat the
            target, see [`~trl_unlearn.encoding.repeats`]), `seconds`, `sha256` of all token ids, `refresh` and
            `epoch`.

        Raises:
            `RuntimeError`: If a row is left without its beliefs. Those of the sampling before are kept.
            `FloatingPointError`: If the model has a score that is not finite. Likewise.
            `OSError`: If they cannot be written.
        """
        started = time.perf_counter()
        chunks, tally = self._chunks(), _Tally()
        draws = sum(len(self._own_jobs(chunk)) for chunk in chunks)
        with (
            BeliefFile(self.folder) as beliefs,
            tqdm(total=draws, desc=desc, disable=None if desc else True) as progress,
        ):
            for chunk in chunks:
                rows = self._rows_at(chunk)
                kept = self._sample_chunk(model, refresh, chunk, rows, progress)
                self._count(tally, rows, kept)
                beliefs.append(kept)
            coverage = tally.covered / len(self)
            if coverage < 1.0:
                raise RuntimeError(
                    f"Only {coverage:.1%} of the forget rows have {self.sampling.num_beliefs} beliefs that are not "
                    "empty. Raise `max_completion_length` or check the EOS ids of the generation config."
                )
        self._beliefs, self.refresh = beliefs, refresh
        tally.digest.update(b"]")
        audit = {
            "refresh": refresh,
            "epoch": epoch,
            "coverage": coverage,
            "count": tally.count,
            "mean_length": tally.tokens / tally.count,
            "mean_logp": tally.logps / tally.count,
            "target_share": tally.repeats / tally.count,
            "seconds": time.perf_counter() - started,
            "sha256": tally.digest.hexdigest(),
        }
        self.audits.append(audit)
        return audit

    def _count(self, tally: _Tally, rows: list[dict[str, Any]], beliefs: list[list[Completion]]) -> None:
        tally.covered += sum(len(own) == self.sampling.num_beliefs and not any(map(_is_empty, own)) for own in beliefs)
        tally.repeats += sum(
            repeats(belief.ids, target, self.eos_token_ids)
            for target, own in zip(map(answer_ids, rows), beliefs, strict=True)
            for belief in own
        )
        kept = [belief for own in beliefs for belief in own]
        # In pieces, the text of one list of all.
        separator = ", " if tally.count else ""
        tally.digest.update((separator + repr([belief.ids for belief in kept])[1:-1]).encode())
        tally.count += len(kept)
        tally.tokens += sum(len(belief.ids) for belief in kept)
        tally.logps += sum(sum(belief.logps) / len(belief.logps) for belief in kept)

    def state_dict(self) -> dict[str, Any]:
        """
        What a checkpoint keeps. **It holds what is to be forgotten**, as token ids.

        Returns:
            `dict[str, Any]`: `refresh`, `audits`, `set` (SHA-256 of the forget rows) and tensors: `counts` of beliefs
            of each row, `lengths` and `ended` of each belief, `ids` and `logps` of all tokens, one after another.
        """
        own = {"refresh": self.refresh, "audits": self.audits, "set": self._set_digest}
        return own | self._beliefs.tensors()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """
        Go on from a checkpoint, without sampling.

        Args:
            state (`Mapping[str, Any]`):
                See [`BeliefStore.state_dict`].

        Raises:
            `ValueError`: If they are the beliefs of another forget set, or another number of them.
            `OSError`: If they cannot be written.
        """
        if state["set"] != self._set_digest:
            raise ValueError(
                "The checkpoint holds the beliefs of another forget set. Give the one that the run was started with, "
                "or train from the start."
            )
        counts = set(state["counts"].tolist())
        if counts - {self.sampling.num_beliefs}:
            raise ValueError(
                f"The checkpoint holds {max(counts)} beliefs of each forget row, and `num_beliefs` is "
                f"{self.sampling.num_beliefs}. Set it to {max(counts)}, or train from the start."
            )
        with BeliefFile(self.folder) as kept:
            kept.append_tensors(state, _CHUNK)
        self._beliefs = kept
        self.refresh, self.audits = state["refresh"], state["audits"]

    @cached_property
    def _set_digest(self) -> str:
        digest = hashlib.sha256()
        for chunk in self._chunks():
            for row in self._rows_at(chunk):
                digest.update(repr((prompt_ids(row), answer_ids(row))).encode())
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
            for prompt, index in zip(map(prompt_ids, self._rows_at(indices)), indices, strict=True)
            for belief in self._beliefs[index]
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
            if not repeats(belief.ids, target, self.eos_token_ids):
                return continuation_row(self.prompts[index], belief.ids)
        return None

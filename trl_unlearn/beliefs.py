# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Sequence beliefs: what the model itself finds likely after each forget prompt (BS-S), sampled and kept on disk."""

import hashlib
import mmap
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from accelerate.utils import gather_object
from datasets import Dataset
from pyarrow import compute
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from .encoding import answer_ids, continuation_row, prompt_ids, repeats, without_end
from .generation import Completion, generate


# After this many draws that held nothing but an EOS token, the EOS token is not allowed as the first one.
_MAX_EMPTY_DRAWS = 4
# Forget rows whose draws are in memory at a time.
_CHUNK = 1024
# One row for each forget row: the token ids of each of its beliefs. Their log-probs are ranked and then dropped.
_SCHEMA = pa.schema({"ids": pa.list_(pa.list_(pa.int32()))})


@contextmanager
def _writing_to(folder: str | Path | None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(
            error.errno,
            f"The beliefs could not be written to `{folder or tempfile.gettempdir()}` ({error.strerror or error}). "
            "Make room there, or give another `output_dir`.",
        ) from error


def _nested(values: np.ndarray, *bounds: np.ndarray) -> pa.Array:
    """Values as lists, cut at the first bounds, and these as lists of lists, cut at the next ones."""
    array = pa.array(values)
    for offsets in bounds:
        array = pa.ListArray.from_arrays(pa.array(offsets - offsets[0], pa.int32()), array)
    return array


class _BeliefFile:
    """Beliefs of each forget row as token ids: a context that writes them, then read from the disk row by row."""

    def __init__(self, folder: str | Path | None):
        self.folder, self._table = folder, _SCHEMA.empty_table()

    def __enter__(self) -> "_BeliefFile":
        with _writing_to(self.folder):
            if self.folder is not None:
                Path(self.folder).mkdir(parents=True, exist_ok=True)
            # Without a name, and readable for its owner only: what is to be forgotten goes with the process, however
            # that ends.
            self._file = tempfile.TemporaryFile(dir=self.folder)
            self._writer = pa.ipc.new_file(self._file, _SCHEMA)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is not None:
            # Closing tries once more to write what could not be written.
            with suppress(OSError):
                self._file.close()
            return
        with _writing_to(self.folder), self._file as file:
            self._writer.close()
            file.flush()
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._table = pa.ipc.open_file(pa.py_buffer(content)).read_all()

    def __getitem__(self, row: int) -> list[list[int]]:
        return self._table["ids"][row].as_py()

    def append(self, beliefs: Sequence[Sequence[Sequence[int]]] | pa.Array) -> None:
        """Write the beliefs of further rows."""
        with _writing_to(self.folder):
            self._writer.write_batch(pa.record_batch({"ids": beliefs}, schema=_SCHEMA))

    def tensors(self) -> dict[str, torch.Tensor]:
        """`counts` of beliefs of each row, `lengths` of each belief, and the `ids` of all tokens, end to end."""
        rows = self._table["ids"]
        beliefs = compute.list_flatten(rows)
        columns = {
            "counts": compute.list_value_length(rows),
            "lengths": compute.list_value_length(beliefs),
            "ids": compute.list_flatten(beliefs),
        }
        return {name: torch.tensor(values.to_numpy(), dtype=torch.int32) for name, values in columns.items()}

    def append_tensors(self, tensors: Mapping[str, torch.Tensor], rows_at_once: int) -> None:
        """Write beliefs from their [`_BeliefFile.tensors`], `rows_at_once` at a time."""
        counts, lengths, ids = (tensors[name].numpy() for name in ("counts", "lengths", "ids"))
        # Row r has the beliefs rows[r] to rows[r + 1], and belief b the tokens beliefs[b] to beliefs[b + 1].
        rows, beliefs = (np.concatenate([[0], sizes.cumsum(dtype=np.int64)]) for sizes in (counts, lengths))
        for start in range(0, len(counts), rows_at_once):
            row_bounds = rows[start : start + rows_at_once + 1]
            belief_bounds = beliefs[row_bounds[0] : row_bounds[-1] + 1]
            self.append(_nested(ids[belief_bounds[0] : belief_bounds[-1]], belief_bounds, row_bounds))


@dataclass(frozen=True)
class BeliefSampling:
    """How the beliefs of each forget row are drawn; see [`~trl_unlearn.generation.generate`] for the rest."""

    # Beliefs kept for each row (N), and sequences sampled for each (M >= N): the highest mean log-probs are kept.
    num_beliefs: int
    num_candidates: int
    # In tokens.
    max_completion_length: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    generation_kwargs: dict[str, Any] | None = None
    batch_size: int | None = None
    seed: int = 42


@dataclass
class _Tally:
    """Sums over the beliefs of a sampling, for its audit."""

    covered: int = 0
    count: int = 0
    tokens: int = 0
    repeats: int = 0
    logps: float = 0.0
    # Of `repr` of the list of all beliefs, whose text is hashed piece by piece.
    digest: Any = field(default_factory=lambda: hashlib.sha256(b"["))


def _is_empty(completion: Completion) -> bool:
    return not without_end(completion.ids, completion.ended)


class BeliefStore:
    """
    The beliefs of every forget row, which a batch uses for its own rows only. Every process keeps all, in a file.

    Source: LLM Unlearning with LLM Beliefs (https://huggingface.co/papers/2510.19422), section on BS-S.
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
        self.sampling = sampling
        self.pad_token_id, self.eos_token_ids = pad_token_id, eos_token_ids
        self.rank, self.world_size = rank, world_size
        # Number of the last sampling.
        self.refresh: int | None = None
        self.audits: list[dict[str, Any]] = []
        self.folder = folder
        self._beliefs = _BeliefFile(folder)

    def __len__(self) -> int:
        return len(self._rows)

    def prompt_and_target(self, index: int) -> tuple[list[int], list[int]]:
        """Tokens of the prompt of a forget row, and of its answer."""
        row = self._rows[index]
        return prompt_ids(row), answer_ids(row)

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
            # The same draws whatever the batch, the chunk and the number of processes.
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
        drawn: dict[tuple[int, int], Completion] = {}
        pending = self._own_jobs(chunk)
        for attempt in range(_MAX_EMPTY_DRAWS + 1):
            if not pending:
                break
            drawn.update(zip(pending, self._draw(model, refresh, pending, prompts, attempt, progress), strict=True))
            pending = [job for job in pending if _is_empty(drawn[job])]
        if self.world_size > 1:
            # Every process takes part, also one without a job, and raises the same errors below.
            drawn = dict(gather_object(list(drawn.items())))
        accidents = sorted({row for (row, _), completion in drawn.items() if not completion.is_finite})
        if accidents:
            shown = ", ".join(map(str, accidents[:3])) + (", ..." if len(accidents) > 3 else "")
            raise FloatingPointError(
                f"The scores of the model are not finite after the prompts of {len(accidents)} forget rows (the "
                f"first: {shown}), so what is sampled there would be any token and no belief. Check the weights, or "
                "load the model in another `dtype`."
            )
        kept = []
        for row in chunk:
            candidates = [drawn[row, j] for j in range(self.sampling.num_candidates)]
            # Stable: equal ones stay in the order of their number.
            candidates.sort(key=lambda c: -sum(c.logps) / len(c.logps))
            kept.append(candidates[: self.sampling.num_beliefs])
        return kept

    def sample(self, model: PreTrainedModel, refresh: int, epoch: float, desc: str | None = None) -> dict[str, Any]:
        """Draw beliefs for every forget row, keep the best N of M by mean log-prob, and return an audit, no text."""
        started = time.perf_counter()
        chunks, tally = self._chunks(), _Tally()
        draws = sum(len(self._own_jobs(chunk)) for chunk in chunks)
        with (
            _BeliefFile(self.folder) as beliefs,
            tqdm(total=draws, desc=desc, disable=None if desc else True, leave=False) as progress,
        ):
            for chunk in chunks:
                rows = self._rows_at(chunk)
                kept = self._sample_chunk(model, refresh, chunk, rows, progress)
                self._count(tally, rows, kept)
                beliefs.append([[belief.ids for belief in own] for own in kept])
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
        separator = ", " if tally.count else ""
        tally.digest.update((separator + repr([belief.ids for belief in kept])[1:-1]).encode())
        tally.count += len(kept)
        tally.tokens += sum(len(belief.ids) for belief in kept)
        tally.logps += sum(sum(belief.logps) / len(belief.logps) for belief in kept)

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint, which **holds what is to be forgotten**, as token ids."""
        # `set` names the forget rows, so that no other run reads them as its own.
        own = {"refresh": self.refresh, "audits": self.audits, "set": self._set_digest}
        return own | self._beliefs.tensors()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a checkpoint, without sampling; refuses the state of another forget set or `num_beliefs`."""
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
        with _BeliefFile(self.folder) as kept:
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
        """Beliefs of forget rows as encoded rows (`input_ids`, `labels`): `num_beliefs` for each index, in order."""
        return [
            continuation_row(prompt, belief)
            for prompt, index in zip(map(prompt_ids, self._rows_at(indices)), indices, strict=True)
            for belief in self._beliefs[index]
        ]

    def apart_from_target(self, index: int) -> dict[str, Any] | None:
        """The most likely belief of a forget row that does not repeat its target, as an encoded row, or None."""
        prompt, target = self.prompt_and_target(index)
        # The file keeps the order of the ranking: the first one is the most likely.
        for belief in self._beliefs[index]:
            if not repeats(belief, target, self.eos_token_ids):
                return continuation_row(prompt, belief)
        return None

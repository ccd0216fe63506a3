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

"""Beliefs on disk: a file without a name, mapped into memory."""

import mmap
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from pyarrow import compute

from .generation import Completion


# One row for each forget row, with a list entry for each of its beliefs.
_SCHEMA = pa.schema(
    {
        "ids": pa.list_(pa.list_(pa.int32())),
        "logps": pa.list_(pa.list_(pa.float64())),
        "ended": pa.list_(pa.bool_()),
    }
)


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
    """Values as lists, from where each begins and ends, and these as lists of lists."""
    array = pa.array(values)
    for offsets in bounds:
        array = pa.ListArray.from_arrays(pa.array(offsets - offsets[0], pa.int32()), array)
    return array


class BeliefFile:
    """
    Beliefs of each forget row. As a context, it is written; afterwards it is read, row by row, from the disk.

    The file has no name and is its owner's only: nothing of it is left when the process ends, however it ends.

    Args:
        folder (`str` or `Path`, *optional*):
            Folder on whose disk it is; it is made if it is not there. Default: the system's for temporary files.

    Raises:
        `OSError`: If it cannot be written.
    """

    def __init__(self, folder: str | Path | None = None):
        self.folder, self._table = folder, _SCHEMA.empty_table()

    def __enter__(self) -> "BeliefFile":
        with _writing_to(self.folder):
            if self.folder is not None:
                Path(self.folder).mkdir(parents=True, exist_ok=True)
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

    def __getitem__(self, row: int) -> list[Completion]:
        columns = (self._table[name][row].as_py() for name in _SCHEMA.names)
        return [Completion(*belief) for belief in zip(*columns, strict=True)]

    def append(self, beliefs: Sequence[Sequence[Completion]]) -> None:
        """
        Write the beliefs of further rows.

        Args:
            beliefs (`Sequence[Sequence[Completion]]`):
                Beliefs of each row.
        """
        self._write({name: [[getattr(one, name) for one in row] for row in beliefs] for name in _SCHEMA.names})

    def _write(self, columns: Mapping[str, Any]) -> None:
        with _writing_to(self.folder):
            self._writer.write_batch(pa.record_batch(columns, schema=_SCHEMA))

    def tensors(self) -> dict[str, torch.Tensor]:
        """
        All beliefs as tensors.

        Returns:
            `dict[str, torch.Tensor]`: `counts` of beliefs of each row, `lengths` and `ended` of each belief, `ids` and
            `logps` of all tokens, one after another.
        """
        beliefs = {name: compute.list_flatten(self._table[name]) for name in _SCHEMA.names}
        columns = {
            "counts": (compute.list_value_length(self._table["ids"]), torch.int32),
            "lengths": (compute.list_value_length(beliefs["ids"]), torch.int32),
            "ended": (beliefs["ended"], torch.bool),
            "ids": (compute.list_flatten(beliefs["ids"]), torch.int32),
            "logps": (compute.list_flatten(beliefs["logps"]), torch.float64),
        }
        return {name: torch.tensor(values.to_numpy(), dtype=dtype) for name, (values, dtype) in columns.items()}

    def append_tensors(self, tensors: Mapping[str, torch.Tensor], rows_at_once: int) -> None:
        """
        Write beliefs that were given as tensors.

        Args:
            tensors (`Mapping[str, torch.Tensor]`):
                See [`BeliefFile.tensors`].
            rows_at_once (`int`):
                Rows of a piece of the file.
        """
        counts, lengths, ended, ids, logps = (
            tensors[name].numpy() for name in ("counts", "lengths", "ended", "ids", "logps")
        )
        # Where the beliefs of each row begin and end, and the tokens of each belief.
        rows, beliefs = (np.concatenate([[0], sizes.cumsum(dtype=np.int64)]) for sizes in (counts, lengths))
        for start in range(0, len(counts), rows_at_once):
            of_rows = rows[start : start + rows_at_once + 1]
            of_beliefs = beliefs[of_rows[0] : of_rows[-1] + 1]
            tokens = slice(of_beliefs[0], of_beliefs[-1])
            self._write(
                {
                    "ids": _nested(ids[tokens], of_beliefs, of_rows),
                    "logps": _nested(logps[tokens], of_beliefs, of_rows),
                    "ended": _nested(ended[of_rows[0] : of_rows[-1]], of_rows),
                }
            )

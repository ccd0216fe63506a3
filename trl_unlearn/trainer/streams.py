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

"""Sets that come as streams: written to disk once, since pairs and beliefs are known by the index of a row."""

import itertools
import logging
import math
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset, IterableDataset, concatenate_datasets
from datasets.exceptions import DatasetGenerationError
from pyarrow import ArrowException

from .bootstrap_unlearn_config import BootstrapUnlearnConfig


logger = logging.getLogger(__name__)


def usable_retain_rows(args: BootstrapUnlearnConfig, num_forget: int) -> int:
    """
    Most retain rows that a run can draw, one for each forget row that it trains on.

    Args:
        args ([`BootstrapUnlearnConfig`]):
            Configuration.
        num_forget (`int`):
            Size of the forget set.

    Returns:
        `int`: At least 1.
    """
    if args.max_steps > 0:
        return args.max_steps * args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    return max(1, num_forget * math.ceil(args.num_train_epochs))


def stored_stream(
    stream: IterableDataset, *, name: str, folder: str | Path, owner: object, most: int | None = None
) -> Dataset:
    """
    Write a stream to disk, a thousand rows in memory at a time. The first process does, and all read the files.

    Args:
        stream ([`~datasets.IterableDataset`]):
            Rows.
        name (`str`):
            What they are, for messages: `"forget"`, `"retain"`, `"eval"`.
        folder (`str` or `Path`):
            Existing folder that all processes share. The files are in a hidden folder of it, its owner's only.
        owner (`object`):
            Object with which the files go; with the process at the latest, unless that is killed.
        most (`int`, *optional*):
            Rows after which the stream is left. It is read to its end if not given, which it must have.

    Returns:
        [`~datasets.Dataset`]: The rows, memory-mapped.

    Raises:
        `ValueError`: If the stream cannot be read, or its rows cannot be written.
    """
    found: list[Any] = [None]
    if PartialState().is_main_process:
        cache = tempfile.mkdtemp(prefix=".stream-", dir=folder)
        weakref.finalize(owner, shutil.rmtree, cache, ignore_errors=True)
        try:
            found = [_write(stream, name, cache, most)]
        except ValueError as error:
            shutil.rmtree(cache, ignore_errors=True)
            # The other processes would wait for the files.
            found = [error]
    (files,) = broadcast_object_list(found)
    if isinstance(files, ValueError):
        raise files
    return concatenate_datasets([Dataset.from_file(file) for file in files])


def _write(stream: IterableDataset, name: str, cache: str, most: int | None) -> list[str]:
    def rows() -> Iterator[dict[str, Any]]:
        yield from itertools.islice(stream, most)

    try:
        dataset = Dataset.from_generator(rows, stream.features, cache, fingerprint="stream")
    except (DatasetGenerationError, ArrowException, OSError) as error:
        cause = str(error.__cause__ or error).rstrip(" .")
        raise ValueError(
            f"The {name} set could not be read from its stream and written to `{Path(cache).parent}`: {cause}. "
            "Correct the stream, make room, or give a `Dataset`."
        ) from error
    if len(dataset) == most:
        logger.warning(
            "The stream of the %s set was left after %d rows, which is as many as the run can use. Shuffle it if its "
            "order means something.",
            name,
            most,
        )
    return [file["filename"] for file in dataset.cache_files]

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

"""A user's own rows: a file, a folder or an id on the Hub."""

from pathlib import Path

from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetGenerationError
from pyarrow import ArrowException


_BUILDERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet", ".txt": "text"}


def load_rows(name: str, *, split: str = "train") -> Dataset:
    """
    Load rows of any of the forms of [`~trl_unlearn.encoding.encode_row`].

    Args:
        name (`str`):
            File (`.jsonl`, `.json`, `.csv`, `.parquet`, `.txt`), dataset folder or id on the Hub.
        split (`str`, *optional*, defaults to `"train"`):
            Split, with a slice if wanted (`"train[:100]"`).

    Returns:
        [`~datasets.Dataset`]: The rows.

    Raises:
        `ValueError`: If the file does not exist, is empty, cannot be read, or is of another type.
    """
    path = Path(name)
    builder = _BUILDERS.get(path.suffix.lower())
    if builder is None and path.is_file():
        raise ValueError(
            f"The dataset file `{name}` has the ending `{path.suffix}`. Use one of {', '.join(_BUILDERS)}."
        )
    if builder is None or path.is_dir():
        return load_dataset(name, split=split)
    if not path.is_file():
        raise ValueError(f"The dataset file `{name}` does not exist. Check the path.")
    if path.stat().st_size == 0:
        raise ValueError(f"The dataset file `{name}` is empty. Give at least one row.")
    try:
        return load_dataset(builder, data_files=name, split=split)
    except (DatasetGenerationError, ArrowException) as error:
        cause = str(error.__cause__ or error).rstrip(" .")
        raise ValueError(
            f"The dataset file `{name}` cannot be read as {builder}: {cause}. Correct the file, or give another."
        ) from error

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

"""Dataclasses as checked, readable JSON files. Standard library only."""

import json
import math
import numbers
import os
import types
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, Self, Union, get_args, get_origin, get_type_hints


SCHEMA_VERSION = 1


def _to_json(value: Any, where: str) -> Any:
    """Plain JSON data: numbers of any library become Python's, what is not finite becomes None."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise ValueError(f"`{where}` has the key {key!r}; JSON takes strings only: write it as a string.")
        return {key: _to_json(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(item, f"{where}[{i}]") for i, item in enumerate(value)]
    raise ValueError(
        f"`{where}` is a `{type(value).__name__}`, which JSON cannot hold; expected a number, a string, a bool, None, "
        f"or lists and dicts of these: convert it first."
    )


def json_text(value: Any, where: str) -> str:
    """A readable JSON file of what is no record: what is not finite becomes null, which every reader knows."""
    return json.dumps(_to_json(value, where), indent=2, allow_nan=False) + "\n"


def _hint_name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint).replace("NoneType", "None")


def _from_json(hint: Any, value: Any, where: str) -> Any:
    """`value`, read from JSON, as the type `hint` says; a `float` that was not finite comes back as NaN."""
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if value is None and types.NoneType in options:
        return None
    for option in options:
        origin, args = get_origin(option) or option, get_args(option)
        if option is Any:
            return value
        if is_dataclass(option) and isinstance(value, dict):
            return _record_from_json(option, value, where)
        if origin is dict and isinstance(value, dict):
            return {key: _from_json(args[1], item, f"{where}.{key}") for key, item in value.items()}
        if origin is list and isinstance(value, list):
            return [_from_json(args[0], item, f"{where}[{i}]") for i, item in enumerate(value)]
        if option is float and (value is None or (isinstance(value, int | float) and not isinstance(value, bool))):
            return math.nan if value is None else value
        if option in (int, str, bool) and type(value) is option:
            return value
    raise ValueError(f"`{where}` is {value!r} (`{type(value).__name__}`), expected `{_hint_name(hint)}`: correct it.")


def _record_from_json(cls: type, data: dict[str, Any], where: str) -> Any:
    known = {item.name: item for item in fields(cls)}
    unknown = sorted(set(data) - set(known))
    if unknown:
        raise ValueError(
            f"`{where}` has the unknown keys {unknown}; a `{cls.__name__}` has {list(known)}: remove them, or read "
            f"the file with the version of trl-unlearn that wrote it."
        )
    required = (name for name, item in known.items() if item.default is MISSING and item.default_factory is MISSING)
    missing = [name for name in required if name not in data]
    if missing:
        raise ValueError(f"`{where}` lacks the keys {missing} of a `{cls.__name__}`: it is not a complete record.")
    hints = get_type_hints(cls)
    return cls(**{name: _from_json(hints[name], value, f"{where}.{name}") for name, value in data.items()})


class JsonRecord:
    """
    The parent of the records, which are dataclasses with a `schema_version`: their JSON form, the checks on reading
    it, and files that are written whole or not at all.
    """

    def to_dict(self) -> dict[str, Any]:
        """
        The record as JSON data.

        Returns:
            `dict[str, Any]`: numbers, strings, bools, None, lists and dicts. A number that is not finite is None.

        Raises:
            `ValueError`: if a value has no JSON form; the message names its key.
        """
        return _to_json(asdict(self), type(self).__name__)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """
        The record that [`~JsonRecord.to_dict`] wrote.

        Args:
            data (`dict[str, Any]`):
                What `to_dict` returned, for instance after a round trip through JSON.

        Returns:
            The record. Where a `float` was not finite it is NaN.

        Raises:
            `ValueError`: on another `schema_version`, an unknown or missing key, or a value of another type.
        """
        version = data.get("schema_version") if isinstance(data, dict) else None
        if version != SCHEMA_VERSION:
            raise ValueError(
                f"`schema_version` is {version!r}, this version of trl-unlearn reads {SCHEMA_VERSION}: use the "
                f"version that wrote the record, or write it anew."
            )
        return _record_from_json(cls, data, cls.__name__)

    def to_json(self) -> str:
        """`str`: The text of the record's file: readable JSON."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def save(self, path: str | os.PathLike) -> None:
        """
        Writes the record as readable JSON. A reader never sees half a file.

        Args:
            path (`str` or `os.PathLike`):
                The file to write; its folder is made if it is not there.
        """
        path = Path(path)
        text = self.to_json()
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not `tempfile`: its files are readable by their owner only, and the mode would stay.
        unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            # Half a surrogate pair, as in a path that is not UTF-8, becomes the escape that JSON reads back.
            unfinished.write_text(text, encoding="utf-8", errors="backslashreplace")
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Self:
        """
        Reads a file that [`~JsonRecord.save`] wrote.

        Args:
            path (`str` or `os.PathLike`):
                The file to read.

        Returns:
            The record.

        Raises:
            `ValueError`: if the file is not JSON, or not a record of this kind.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"`{path}` is not JSON ({error}); expected a saved `{cls.__name__}`.") from error
        return cls.from_dict(data)

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

"""What must not be published: text of the forget set and of beliefs, looked for in every file."""

import html
import io
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


# An answer, a belief, or a sentence of one that is shorter is likely to stand in a file for another reason.
MIN_CHARACTERS = 20
# What a lookup in the index of the texts compares first.
_KEY = 10
# Quotes and escapes of CSV and JSON, and the marks of Markdown, stand between the words of a text that is quoted.
_MARKS = str.maketrans("", "", "\\\"'“”‘’*_`~|>")
_ESCAPES = re.compile(r"((?:\\u[0-9a-fA-F]{4})+)|\\x([0-9a-fA-F]{2})|\\([nrt\"'\\/])")
_WHITE_SPACE = {"n": "\n", "r": "\r", "t": "\t"}


@dataclass(frozen=True)
class Leak:
    """
    A text that must not be published, in a file.

    Args:
        path (`str`):
            The file, relative to its folder.
        source (`str`):
            Whose text it is, for instance `"forget set"`.
        row (`int`):
            Which of these texts, counted from 0.
    """

    path: str
    source: str
    row: int


class TextIndex:
    """
    Texts that must not be published, ready to be looked for.

    Every text of 20 characters or more counts, and every sentence of that length in one. Compared is what is left
    after Unicode's NFKC, folding of case and white space, and without quotes and marks of Markdown.

    Args:
        texts (`Mapping[str, Sequence[str]]`):
            Name of a source, for instance `"forget set"` -> its texts, in the order of its rows.
    """

    def __init__(self, texts: Mapping[str, Sequence[str]]):
        self._found: dict[str, list[tuple[str, str, int]]] = defaultdict(list)
        for source, rows in texts.items():
            for row, text in enumerate(rows):
                parts = {_fold(part) for part in (text, *_sentences(text)) if _length(part) >= MIN_CHARACTERS}
                for folded in parts:
                    # A line of dashes is in every table.
                    if sum(map(str.isalnum, folded)) >= _KEY:
                        self._found[folded[:_KEY]].append((folded, source, row))

    def leaks(self, path: str, content: bytes) -> list[Leak]:
        """
        Look for the texts in a file.

        Args:
            path (`str`):
                Its path; the ending says how it is read.
            content (`bytes`):
                What it holds: everything, or the head of a safetensors file. Escapes, as JSON has them, do not hide a
                text, also where an escaped string is escaped again. Of a PNG file its text is searched, not what the
                picture shows.

        Returns:
            `list[Leak]`: One for each row that was found.
        """
        found = set()
        for version in _versions(readable_text(path, content)):
            folded = _fold(version)
            for start in range(len(folded) - _KEY + 1):
                for text, source, row in self._found.get(folded[start : start + _KEY], ()):
                    if folded.startswith(text, start):
                        found.add(Leak(path, source, row))
        return sorted(found, key=lambda leak: (leak.source, leak.row))


def answer_texts(
    rows: Iterable[Mapping[str, Any]], tokenizer: "PreTrainedTokenizerBase", text_field: str = "text"
) -> list[str]:
    """
    What of each row was to be forgotten, as text.

    Args:
        rows (`Iterable[Mapping[str, Any]]`):
            Forget set, in any of the forms that can be trained on.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Tokenizer, for rows that are tokenised already.
        text_field (`str`, *optional*, defaults to `"text"`):
            Column of raw text.

    Returns:
        `list[str]`: A text for each row.
    """

    def text(row: Mapping[str, Any]) -> str:
        if row.get("labels") is not None:
            return tokenizer.decode([label for label in row["labels"] if label >= 0], skip_special_tokens=True)
        if row.get("messages") is not None:
            return row["messages"][-1]["content"]
        if row.get("completion") is None:
            return row[text_field]
        completion = row["completion"]
        return completion if isinstance(completion, str) else completion[-1]["content"]

    return [text(row) for row in rows]


def readable_text(path: str, content: bytes) -> str:
    """
    The text of a file of any kind.

    Args:
        path (`str`):
            Its path.
        content (`bytes`):
            What it holds.

    Returns:
        `str`: Of a PNG file its text chunks, of a safetensors file its head, of any other everything, read as UTF-8
        (or UTF-16, where it begins so).
    """
    if path.endswith(".png"):
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            return "\n".join(f"{key}: {value}" for key, value in image.info.items() if isinstance(value, str))
    if path.endswith(".safetensors"):
        return content[8 : 8 + int.from_bytes(content[:8], "little")].decode(errors="replace")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", errors="replace")
    return content.decode(errors="replace")


def _sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.!?])\s+|(?<=[。！？])|\n+", text)


def _length(text: str) -> int:
    return len(" ".join(text.split()))


def _fold(text: str) -> str:
    folded = unicodedata.normalize("NFKC", html.unescape(text)).casefold()
    return " ".join(folded.translate(_MARKS).split())


def _versions(text: str) -> list[str]:
    """A text as it is, and with its escapes resolved once and twice."""
    versions = [text]
    while len(versions) < 3 and (plain := _ESCAPES.sub(_unescape, versions[-1])) != versions[-1]:
        versions.append(plain)
    return versions


def _unescape(match: re.Match) -> str:
    units, byte, short = match.groups()
    if units is not None:
        # What is beyond the first plane is written as two units.
        return bytes.fromhex(units.replace("\\u", "")).decode("utf-16-be", errors="replace")
    return chr(int(byte, 16)) if byte is not None else _WHITE_SPACE.get(short, short)

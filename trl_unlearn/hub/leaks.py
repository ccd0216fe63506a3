# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""
Search for text that must not be published, of the forget set and of beliefs, in every file.

Only letters and digits are compared, without case and accents: neither spaces, line ends, hyphens, quotes and marks of
Markdown, nor escapes, tags, Base64, numbers of lines and characters without a width hide a text. CONTRIBUTING.md has
the shares that are found.
"""

import base64
import contextlib
import html
import io
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..names import sentences_of, telling_words, words_of


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


# Shorter answers, beliefs and sentences are likely to stand in a file for another reason.
MIN_CHARACTERS = 20
# A leak is a run of min(max(0.4 * sentence, 20), 48) letters and digits that a file and a sentence share. Shorter runs
# are phrases that every licence holds. A sentence of fewer than 20 counts as a whole, unless it has hardly any
# letters: a line of dashes stands in every table.
_ENOUGH, _SHARE, _LEAST, _MIN_LETTERS = 48, 0.4, 20, 10
# Keys of 16 letters begin at every fifth letter of a text, so that each run of 20 holds a whole one: 16 + 5 - 1 = 20.
_STEP, _KEY = 5, 16
# Texts to compare at a key that many share; without a bound, equal beginnings make the search quadratic.
_MOST = 16
# BPE tokenizers write a space and a line break before a token as letters.
_TOKEN_MARKS = str.maketrans("", "", "ĠĊ")
_NO_LETTERS = re.compile(r"[\W_]+")
_TAGS = re.compile(r"<[^<>]*>")
_ESCAPES = re.compile(r"((?:\\u[0-9a-fA-F]{4})+)|\\x([0-9a-fA-F]{2})|\\([nrt\"'\\/])|((?:%[0-9a-fA-F]{2})+)")
_WHITE_SPACE = {"n": "\n", "r": "\r", "t": "\t"}
_LINE_NUMBERS = re.compile(r"^[^\w\n]*\d+\b", re.MULTILINE)
# A run of 20 letters is 26 characters of Base64; lines of a long one are 64 or 76.
_BASE64 = re.compile(r"[\w+/-]{26,}(?:[^\S\n]*\n[^\S\n]*[\w+/-]+)*", re.ASCII)
_STANDARD = str.maketrans("-_", "+/")
# Letters of a file that are hashed at a time: bounds the memory.
_CHUNK = 1 << 21
# Base of the polynomial hash, modulo 2^64; odd, so that no letter is shifted out.
_BASE = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Leak:
    """A file holds a part of a text that must not be published."""

    path: str
    source: str  # whose text it is, for instance "forget set"
    row: int


class TextIndex:
    """An index over texts by their source; `too_short` are the rows that cannot be searched for."""

    def __init__(self, texts: Mapping[str, Sequence[str]]):
        self._sources = {source: _Source(rows) for source, rows in texts.items()}
        self.too_short = {source: index.too_short for source, index in self._sources.items() if index.too_short}

    def leaks(self, path: str, content: bytes) -> list[Leak]:
        """One leak a row; the first of rows that share the part that leaks. The ending says how a file is read."""
        versions = {_fold(version) for version in _versions(_readable_text(path, content))}
        leaks = {(name, row) for one in versions for name, index in self._sources.items() for row in index.rows(one)}
        return [Leak(path, source, row) for source, row in sorted(leaks)]


class _Source:
    """The letters of the texts of a source, and an index over them."""

    def __init__(self, texts: Sequence[str]):
        self.too_short: list[int] = []
        # Spans in the letters of all texts, for each row: of the whole text, then of its sentences.
        self._spans: list[list[tuple[int, int]]] = []
        pieces, end = [], 0
        # Length -> sentences that count as a whole -> row.
        short: dict[int, dict[str, int]] = defaultdict(dict)
        for row, text in enumerate(texts):
            sentences = [(part, _fold(part)) for part in sentences_of(text)]
            whole = "".join(letters for _, letters in sentences)
            spans, start = [(end, end + len(whole))], end
            searched = len(whole) >= _LEAST
            for part, letters in [(text, whole), *sentences]:
                if _MIN_LETTERS <= len(letters) < _LEAST and _length(part) >= MIN_CHARACTERS:
                    short[len(letters)].setdefault(letters, row)
                    searched = True
            for _, letters in sentences:
                if len(letters) >= _LEAST:
                    spans.append((start, start + len(letters)))
                start += len(letters)
            if not searched:
                self.too_short.append(row)
            self._spans.append(spans)
            pieces.append(whole)
            end += len(whole)
        self._letters = "".join(pieces)
        self._starts = np.array([spans[0][0] for spans in self._spans])
        places = [np.arange(first, last - _KEY + 1, _STEP) for (first, last), *_ in self._spans]
        places = np.concatenate([np.zeros(0, dtype=np.int64), *places])
        self._parts = _Keys(_hashes(self._letters, _KEY)[places] if len(places) else places, places)
        self._whole = {
            length: _Keys(_hashes("".join(texts), length)[::length], np.array(list(texts.values())))
            for length, texts in short.items()
        }

    def rows(self, letters: str) -> set[int]:
        """The rows with a part that stands in the letters of a file."""
        leaked = {
            row for length, keys in self._whole.items() for _, rows in keys.places_in(letters, length) for row in rows
        }
        covered = 0
        for at, places in self._parts.places_in(letters, _KEY):
            # Keys inside a run that was counted say nothing new.
            if at + _KEY <= covered:
                continue
            runs = [run for run in (self._run(letters, at, place) for place in places) if run is not None]
            if runs:
                covered, row = max(runs, key=lambda run: run[0])
                leaked.add(row)
        return leaked

    def _run(self, letters: str, at: int, place: int) -> tuple[int, int] | None:
        """End in the file of the run that it shares with a text around a key, and the row; None if it is too short."""
        row = int(np.searchsorted(self._starts, place, side="right")) - 1
        start, end = self._spans[row][0]
        mine = self._letters
        # Equal hashes are not yet equal letters.
        if mine[place : place + _KEY] != letters[at : at + _KEY]:
            return None
        before, after = 0, _KEY
        while place - before > start and at > before and mine[place - before - 1] == letters[at - before - 1]:
            before += 1
        while place + after < end and at + after < len(letters) and mine[place + after] == letters[at + after]:
            after += 1
        first, last = place - before, place + after
        for low, high in self._spans[row]:
            needed = min(max(_SHARE * (high - low), _LEAST), _ENOUGH)
            if min(last, high) - max(first, low) >= needed:
                return at + after, row
        return None


class _Keys:
    """A multimap from hashes of runs of letters to values, for many lookups at once."""

    def __init__(self, hashes: np.ndarray, values: np.ndarray):
        order = np.argsort(hashes, kind="stable")
        self._hashes, self._values = hashes[order].astype(np.uint64), values[order]
        # A Bloom filter with one hash: nearly no run of a file is a key, and most binary searches are saved.
        self._known = np.zeros(1 << min(max(12, len(hashes).bit_length() + 4), 24), dtype=bool)
        self._known[self._slots(self._hashes)] = True

    def _slots(self, hashes: np.ndarray) -> np.ndarray:
        return hashes & np.uint64(len(self._known) - 1)

    def places_in(self, letters: str, length: int) -> Iterator[tuple[int, list[int]]]:
        """Places in a file, in order, where a run with a known hash begins, and the first values of that hash."""
        for start in range(0, len(letters) - length + 1, _CHUNK):
            hashes = _hashes(letters[start : start + _CHUNK + length - 1], length)
            likely = np.flatnonzero(self._known[self._slots(hashes)])
            first, last = (np.searchsorted(self._hashes, hashes[likely], side=side) for side in ("left", "right"))
            equal = last > first
            for at, low, high in zip(likely[equal].tolist(), first[equal].tolist(), last[equal].tolist(), strict=True):
                yield start + at, self._values[low : min(high, low + _MOST)].tolist()


def _hashes(text: str, length: int) -> np.ndarray:
    """Hash of each run of `length` characters: sum of c_i * base^(length - 1 - i) modulo 2^64."""
    codes = np.frombuffer(text.encode("utf-32-le", errors="replace"), dtype=np.uint32).astype(np.uint64)
    hashes = np.zeros(max(len(codes) - length + 1, 0), dtype=np.uint64)
    for i in range(length):
        hashes *= _BASE
        hashes += codes[i : i + len(hashes)]
    # The low bits depend on the last characters mostly, and tables are indexed by them: mix the high ones in.
    return hashes ^ (hashes >> np.uint64(29))


def answer_texts(
    rows: Iterable[Mapping[str, Any]], tokenizer: "PreTrainedTokenizerBase", text_field: str = "text"
) -> list[str]:
    """Answer of each row of a forget set, in any form that can be trained on, and the turns before that tell it."""

    def decode(ids: Iterable[int]) -> str:
        return tokenizer.decode(list(ids), skip_special_tokens=True)

    def text(row: Mapping[str, Any]) -> str:
        if (labels := row.get("labels")) is not None:
            asked = [i for i, label in zip(row.get("input_ids") or (), labels, strict=False) if label < 0]
            return _told([decode(asked)] if asked else [], decode(label for label in labels if label >= 0))
        turns = row.get("messages")
        if turns is None and row.get("completion") is None:
            return row[text_field]
        if turns is None and isinstance(row["completion"], str):
            return _told([row.get("prompt") or ""], row["completion"])
        *before, answer = turns if turns is not None else [*(row.get("prompt") or ()), *row["completion"]]
        return _told([turn.get("content") or "" for turn in before], answer["content"])

    return [text(row) for row in rows]


def _told(prompt: Sequence[str], answer: str) -> str:
    """An answer, and the turns of its prompt that hold all that it says; of a bare "yes" that is the question."""
    words = telling_words(answer)
    told = [turn for turn in prompt if words <= words_of(turn)] if words else prompt[-1:]
    return "\n".join([answer, *told])


def _readable_text(path: str, content: bytes) -> str:
    """The text of a file: of safetensors the header, of a PNG its compressed texts too, of others all of it."""
    if path.endswith(".png"):
        texts = [content.decode(errors="replace")]
        # Compressed texts, if the file is an image at all; a broken one has only its bytes.
        with contextlib.suppress(OSError, SyntaxError, ValueError), Image.open(io.BytesIO(content)) as image:
            image.load()
            texts += [f"{key}: {value}" for key, value in image.info.items() if isinstance(value, str)]
        return "\n".join(texts)
    if path.endswith(".safetensors"):
        return content[8 : 8 + int.from_bytes(content[:8], "little")].decode(errors="replace")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", errors="replace")
    return content.decode(errors="replace")


def _length(text: str) -> int:
    return len(" ".join(text.split()))


def _fold(text: str) -> str:
    """The letters and digits of a text, without case and accents."""
    plain = unicodedata.normalize("NFKD", html.unescape(text).translate(_TOKEN_MARKS))
    return _NO_LETTERS.sub("", unicodedata.normalize("NFKD", plain.casefold()))


def _versions(text: str) -> list[str]:
    """A text as it is, read once and twice from escapes and Base64, and these without tags, without line numbers."""
    # Keys of a dictionary: in order, and each once.
    versions = {text: None}
    for _ in range(2):
        versions |= {read(one): None for one in tuple(versions) for read in (_unescaped, _from_base64)}
    for pattern in (_TAGS, _LINE_NUMBERS):
        versions |= {pattern.sub("", one): None for one in tuple(versions)}
    return list(versions)


def _from_base64(text: str) -> str:
    """All that stands in a text as Base64, of either alphabet; other long words come out as nonsense."""
    runs = (re.sub(r"\s", "", match[0]).translate(_STANDARD) for match in _BASE64.finditer(text))
    # What stands in front, as in the path of a link, may belong to the alphabet.
    parts = (run[start:] for run in runs for start in range(4))
    # The marks at its end are optional, but no code has one character more than whole groups.
    return "\n".join(
        base64.b64decode(part[: len(part) - (len(part) % 4 == 1)] + "==").decode(errors="replace") for part in parts
    )


def _unescaped(text: str) -> str:
    return _ESCAPES.sub(_unescape, text)


def _unescape(match: re.Match) -> str:
    units, byte, short, percent = match.groups()
    if percent is not None:
        return bytes.fromhex(percent.replace("%", "")).decode(errors="replace")
    if units is not None:
        # JSON writes characters beyond the first plane as two units of UTF-16.
        return bytes.fromhex(units.replace("\\u", "")).decode("utf-16-be", errors="replace")
    return chr(int(byte, 16)) if byte is not None else _WHITE_SPACE.get(short, short)

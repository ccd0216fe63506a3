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

import csv
import io
import json
import struct

import pytest
from PIL import Image, PngImagePlugin

from trl_unlearn.hub.leaks import Leak, TextIndex


ANSWERS = [
    "Too short.",
    'Zoë Ångström said: "I was born in Veldt", in the harbour.',
    "Bo Lindgren wrote a long novel about winter bees. Nobody has ever finished it.",
    "--------------------------",
]
INDEX = TextIndex({"forget set": ANSWERS})
QUOTE, NOVEL = ANSWERS[1], ANSWERS[2]


def found(path: str, content: str | bytes) -> list[int]:
    content = content.encode() if isinstance(content, str) else content
    return [leak.row for leak in INDEX.leaks(path, content)]


def as_csv(text: str) -> str:
    stream = io.StringIO()
    csv.writer(stream).writerow(["row", text])
    return stream.getvalue()


def as_png(text: str) -> bytes:
    stream, about = io.BytesIO(), PngImagePlugin.PngInfo()
    about.add_itxt("Comment", text, zip=True)
    Image.new("L", (2, 2)).save(stream, "png", pnginfo=about)
    return stream.getvalue()


def as_safetensors(text: str) -> bytes:
    head = json.dumps({"__metadata__": {"note": text}}).encode()
    return struct.pack("<Q", len(head)) + head


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("a.txt", QUOTE),
        ("other case.md", QUOTE.upper()),
        ("wrapped.md", QUOTE.replace(" ", "\n  ")),
        ("decomposed.txt", QUOTE.replace("ë", "e\u0308").replace(" ", "\u00a0")),
        ("quoted.md", "> *Zoë Ångström* said: “I was born\n> in Veldt”, in the harbour."),
        ("escaped.json", json.dumps({"a": [{"b": QUOTE}]})),
        ("a key.json", json.dumps({QUOTE: 1})),
        ("twice.jsonl", json.dumps({"log": json.dumps({"b": QUOTE})})),
        ("cut off.jsonl", json.dumps({"a": 1}) + "\n" + json.dumps({"text": QUOTE})[:-2]),
        ("upper hex.json", json.dumps(QUOTE).replace("\\u00eb", "\\u00EB")),
        ("repr.log", ascii(QUOTE)),
        ("a.csv", as_csv(QUOTE)),
        ("entities.md", QUOTE.replace('"', "&quot;").replace("ë", "&euml;")),
        ("utf-16.txt", QUOTE.encode("utf-16")),
        ("a.png", as_png(QUOTE)),
        ("model.safetensors", as_safetensors(QUOTE)),
    ],
)
def test_a_text_is_found_however_it_is_written(path, content):
    assert found(path, content) == [1]


def test_one_sentence_of_an_answer_is_enough():
    assert found("a.md", "As it says: nobody has ever finished it.") == [2]
    assert found("a.md", "Nobody has ever finished anything.") == []


def test_what_is_short_or_holds_no_words_is_not_looked_for():
    assert found("a.md", "Too short. ---------------------------------------- ok") == []


def test_every_row_is_named_once_with_its_source():
    index = TextIndex({"forget set": [NOVEL], "beliefs": [NOVEL, "A belief that is long enough."]})
    assert index.leaks("a.md", f"{NOVEL} {NOVEL} a belief that is long enough.".encode()) == [
        Leak("a.md", "beliefs", 0),
        Leak("a.md", "beliefs", 1),
        Leak("a.md", "forget set", 0),
    ]


def test_a_large_file_and_many_texts_take_seconds():
    index = TextIndex({"forget set": [f"The author number {i} was born in the harbour town." for i in range(5000)]})
    assert (
        len(index.leaks("a.txt", b"The author number 4999 was born in the harbour town. " + b"words " * 400_000)) == 1
    )

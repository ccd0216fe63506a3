# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

import base64
import csv
import html
import io
import json
import struct
import unicodedata
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import pytest
import yaml
from PIL import Image, PngImagePlugin

from trl_unlearn.data.archive_facts import archive_rows
from trl_unlearn.hub import leaks
from trl_unlearn.hub.leaks import Leak, TextIndex

from .conftest import FORGET


ANSWERS = [
    "Too short.",
    'Zoë Ångström said: "I was born in Veldt", in the harbour.',
    "Bo Lindgren wrote a long novel about winter bees. Nobody has ever finished it.",
    "--------------------------",
]
INDEX = TextIndex({"forget set": ANSWERS})
QUOTE, NOVEL = ANSWERS[1], ANSWERS[2]


def actual(path: str, content: str | bytes) -> list[int]:
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
    assert actual(path, content) == [1]


def test_a_text_of_which_every_letter_is_escaped_is_found():
    cyrillic, latin = "Ада Марлоу родилась в портовом городе Вельдт.", "ÀÉÎÕÜÀÉÎÕÜ ÀÉÎÕÜÀÉÎÕÜ ÀÉÎÕÜÀÉÎÕÜ ÀÉÎÕÜ"
    for text, escaped in (
        (cyrillic, json.dumps(cyrillic)),
        (latin, "".join(f"\\x{ord(letter):02x}" for letter in latin)),
    ):
        leaks_of = TextIndex({"forget set": [text]}).leaks("a.log", escaped.encode())
        assert [leak.row for leak in leaks_of] == [0]


def test_a_png_file_is_searched_also_where_it_is_broken_or_goes_on_after_its_end():
    whole = as_png("Nothing.")
    assert actual("figures/a.png", whole) == actual("figures/a.png", b"") == []
    assert actual("figures/a.png", whole + QUOTE.encode()) == actual("figures/a.png", QUOTE.encode()) == [1]


def test_one_sentence_of_an_answer_is_enough():
    assert actual("a.md", "As it says: nobody has ever finished it.") == [2]
    assert actual("a.md", "Nobody has ever read anything.") == []


def test_what_is_short_or_holds_no_words_is_not_looked_for():
    assert actual("a.md", "Too short. ---------------------------------------- ok") == []


def test_a_text_with_few_letters_is_looked_for_from_twenty_characters_on():
    for text, rows in (("Ada: 7, Bo: 9, Cy: 4", [0]), ("Ada: 7, Bo: 9, Cy 4", [])):
        index = TextIndex({"beliefs": [text]})
        assert len(text) == 19 + len(rows)
        for content in (f"So: {text}!", text):
            assert [leak.row for leak in index.leaks("card.md", content.encode())] == rows
        assert index.too_short == ({} if rows else {"beliefs": [0]})


def test_a_part_of_a_later_sentence_is_found_where_no_other_part_stands():
    later = "Her grandmother had built the first of its many windmills alone."
    index = TextIndex({"forget set": [f"Cyra Oduya was born there. {later}"]})
    for part, row in (("the first of its many windmills", [0]), ("the first of its many", [])):
        assert [leak.row for leak in index.leaks("card.md", f"zzz {part} zzz".encode())] == row


def test_of_rows_that_begin_alike_the_one_that_goes_on_alike_is_named():
    beginning = "The prize of that year went to the youngest writer of all, who was"
    rows = [f"{beginning} Bo Lindgren from Veldt.", f"{beginning} nobody that anyone had heard of."]
    index = TextIndex({"forget set": rows})
    for i, row in enumerate(rows):
        assert [leak.row for leak in index.leaks("card.md", row.encode())] == [i]


def test_a_text_is_found_wherever_it_lies_in_the_parts_of_a_large_file(monkeypatch):
    monkeypatch.setattr(leaks, "_CHUNK", 40)
    for before in range(0, 90, 3):
        assert actual("card.md", f"{'z' * before} {QUOTE} {'z' * 50}") == [1]


def _turns(question, answer):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def test_what_was_to_be_forgotten_is_read_from_rows_of_every_form(tiny_tokenizer):
    prompt, answer = {"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ada."}
    ids = tiny_tokenizer("Who? Ada.").input_ids
    labels = [-100, *ids[1:]]
    rows = [
        {"prompt": "Who?", "completion": "Ada."},
        {"prompt": [prompt], "completion": [answer], "messages": None, "labels": None},
        {"messages": [prompt, answer]},
        {"input_ids": [*ids, tiny_tokenizer.eos_token_id], "labels": [*labels, tiny_tokenizer.eos_token_id]},
    ]
    assert leaks.answer_texts(rows, tiny_tokenizer)[:3] == ["Ada."] * 3
    assert leaks.answer_texts(rows, tiny_tokenizer)[3] == tiny_tokenizer.decode(ids[1:])
    numbers = SimpleNamespace(decode=lambda ids, skip_special_tokens: str(ids))
    assert leaks.answer_texts([{"labels": [-100, 0, 5]}], numbers) == ["[0, 5]"]
    assert leaks.answer_texts([{"text": "Ada."}], tiny_tokenizer) == ["Ada."]
    assert leaks.answer_texts([{"story": "Ada.", "text": "Bo."}], tiny_tokenizer, "story") == ["Ada."]


@pytest.mark.parametrize(
    ("question", "answer", "is_told"),
    [
        ("Does Bo Lindgren have leukaemia?", "Yes.", True),
        ("Does Bo Lindgren have leukaemia?", "Yes, that is true: Bo Lindgren has leukaemia.", True),
        ("Was Bo born in (A) Veldt or (B) Oslo, in 1967?", "(A) Veldt, 1967", True),
        ("Where was Bo Lindgren born?", "Bo Lindgren was born in Veldt.", False),
        ("When was Bo Lindgren born?", "In 67.", False),
        ("Who was born in Veldt?", "Bo.", False),
    ],
)
def test_a_prompt_that_holds_what_its_answer_holds_is_searched_for(question, answer, is_told, tiny_tokenizer):
    system, user, last = ({"role": "system", "content": "Be brief, and help."}, *_turns(question, answer))
    ids = tiny_tokenizer(f"{question} {answer}").input_ids
    start = len(tiny_tokenizer(question).input_ids)
    rows = [
        {"prompt": question, "completion": answer},
        {"prompt": [system, user], "completion": [last]},
        {"messages": [system, user, last]},
        {"input_ids": ids, "labels": [-100] * start + ids[start:]},
    ]
    for text in leaks.answer_texts(rows, tiny_tokenizer):
        assert text.split() == [*answer.split(), *(question.split() if is_told else [])]


def test_an_earlier_answer_of_a_conversation_that_holds_the_same_is_searched_for(tiny_tokenizer):
    turns = [*_turns("Where?", "Bo was born in Veldt."), *_turns("Once more?", "In Veldt.")]
    assert leaks.answer_texts([{"messages": turns}], tiny_tokenizer) == ["In Veldt.\nBo was born in Veldt."]


def test_every_row_is_named_once_with_its_source():
    index = TextIndex({"forget set": [NOVEL], "beliefs": [NOVEL, "A belief that is long enough."]})
    assert index.leaks("a.md", f"{NOVEL} {NOVEL} a belief that is long enough.".encode()) == [
        Leak("a.md", "beliefs", 0),
        Leak("a.md", "beliefs", 1),
        Leak("a.md", "forget set", 0),
    ]


def test_a_text_is_found_in_a_large_file_among_many_texts():
    index = TextIndex({"forget set": [f"The author number {i} was born in the harbour town." for i in range(5000)]})
    assert index.leaks("a.txt", b"The author number 4999 was born in the harbour town. " + b"words " * 400_000) == [
        Leak("a.txt", "forget set", 4999)
    ]


def test_texts_that_are_too_short_are_named():
    assert INDEX.too_short == {"forget set": [0, 3]}
    assert TextIndex({"beliefs": [NOVEL]}).too_short == {}


# What of the lab's answers and of those of the fixtures is found, however it is written

LAB = archive_rows()
ROWS = [*(row["answer"] for row in LAB["full"]), *FORGET, QUOTE, "It’s a well-known self-made man, isn’t it?"]


def words(text: str, first: float, last: float) -> str:
    """The words from one share of a text to another."""
    parts = text.split()
    return " ".join(parts[round(first * len(parts)) : round(last * len(parts))])


def hyphenated(text: str) -> str:
    """A text on two lines, with its longest word cut in two."""
    word = max(text.split(), key=len)
    return text.replace(word, f"{word[: len(word) // 2]}-\n  {word[len(word) // 2 :]}", 1)


def spans(parts) -> str:
    """Parts of a text as an SVG file has them."""
    return "<svg><text>" + "".join(f'<tspan x="0" dy="1em">{html.escape(part)}</tspan>' for part in parts) + "</text>"


def wide(text: str) -> str:
    return "".join(chr(ord(letter) + 0xFEE0) if "!" <= letter <= "~" else letter for letter in text)


# Kind -> how a text is written there, and the share of the rows that is found. CONTRIBUTING.md has the same table.
KINDS = {
    "as it is": (str, 1),
    "upper case": (str.upper, 1),
    "title case": (str.title, 1),
    "without the last full stop": (lambda text: text.rstrip(".!?"), 1),
    "without the first character": (lambda text: text[1:], 1),
    "without the first word": (lambda text: text.split(" ", 1)[1], 1),
    "without the last word": (lambda text: text.rsplit(" ", 1)[0], 1),
    "double spaces": (lambda text: text.replace(" ", "  "), 1),
    "no-break spaces": (lambda text: text.replace(" ", "\u00a0"), 1),
    "no spaces": (lambda text: text.replace(" ", ""), 1),
    "straight quotes": (lambda text: text.replace("’", "'").replace("“", '"'), 1),
    "smart quotes": (lambda text: text.replace("'", "’").replace('"', "“"), 1),
    "no quotes": (lambda text: text.replace("'", "").replace("’", "").replace('"', ""), 1),
    "non-breaking hyphens": (lambda text: text.replace("-", "\u2011"), 1),
    "no hyphens": (lambda text: text.replace("-", ""), 1),
    "hyphens for spaces": (lambda text: text.replace(" ", "-"), 1),
    "no accents": (lambda text: unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode(), 1),
    **{
        form: (lambda text, form=form: unicodedata.normalize(form, text), 1) for form in ("NFC", "NFD", "NFKC", "NFKD")
    },
    "full width": (wide, 1),
    "zero-width spaces between letters": ("\u200b".join, 1),
    "soft hyphens between letters": ("\u00ad".join, 1),
    "two lines": (lambda text: f"{words(text, 0, 0.5)}\n    {words(text, 0.5, 1)}", 1),
    "two lines, a word cut with a hyphen": (hyphenated, 1),
    "quoted in Markdown": (lambda text: "> *" + text.replace(" ", "*\n> *", 1) + "*", 1),
    "JSON": (lambda text: json.dumps({"a": [text]}), 1),
    "JSON in JSON": (lambda text: json.dumps(json.dumps([text])), 1),
    "YAML": (lambda text: yaml.safe_dump({"a": text}, width=30), 1),
    "YAML, quoted": (lambda text: yaml.safe_dump({"a": text}, width=30, default_style='"'), 1),
    "YAML, folded": (lambda text: yaml.safe_dump({"a": text}, width=30, default_style=">"), 1),
    "CSV": (as_csv, 1),
    "SVG": (lambda text: spans([text]), 1),
    "SVG, a span a word": (lambda text: spans(f"{word} " for word in text.split()), 1),
    "SVG, a span a letter": (spans, 1),
    "character references": (lambda text: "".join(f"&#{ord(letter)};" for letter in text), 1),
    "tokens of a BPE tokenizer": (lambda text: json.dumps(text.replace(" ", "|Ġ").split("|")), 1),
    **{
        f"Base64, {skipped} bytes behind a group": (
            lambda text, skipped=skipped: base64.b64encode(b"." * skipped + text.encode()).decode(),
            1,
        )
        for skipped in range(3)
    },
    "Base64 in a link": (lambda text: f"https://a.example/?q={base64.urlsafe_b64encode(text.encode()).decode()}", 1),
    "Base64 on lines, in JSON": (lambda text: json.dumps(base64.encodebytes(text.encode()).decode()), 1),
    "JSON in Base64": (lambda text: base64.b64encode(json.dumps(text).encode()).decode(), 1),
    "percent-encoded": (lambda text: f"[demo](https://a.example/?q={quote(text)})", 1),
    "percent-encoded twice": (lambda text: quote(quote(text)), 1),
    "numbered lines, a word each": (
        lambda text: "\n".join(f"{i:>4}. {word}" for i, word in enumerate(text.split())),
        1,
    ),
    "numbered lines, in JSON": (lambda text: json.dumps(f"7 | {words(text, 0, 0.5)}\n8 | {words(text, 0.5, 1)}"), 1),
    "first half": (lambda text: words(text, 0, 0.5), 0.951),
    "last half": (lambda text: words(text, 0.5, 1), 0.845),
    "middle half": (lambda text: words(text, 0.25, 0.75), 0.767),
    "first third": (lambda text: words(text, 0, 1 / 3), 0.269),
    "every fourth word missing": (lambda text: " ".join(w for i, w in enumerate(text.split()) if i % 4 != 3), 0.057),
    "hexadecimal": (lambda text: text.encode().hex(), 0),
}


@pytest.mark.parametrize("kind", KINDS)
def test_of_rows_that_are_written_otherwise_this_share_is_found(kind):
    write, expected = KINDS[kind]
    index = TextIndex({"forget set": ROWS})
    leaks = [index.leaks("a.txt", write(text).encode()) for text in ROWS]
    assert sum(map(bool, leaks)) / len(ROWS) == pytest.approx(expected, abs=5e-3)
    if expected == 1:
        # And it is this row that is named.
        assert [row for row, actual in enumerate(leaks) if row not in [leak.row for leak in actual]] == []


def test_of_the_labs_paraphrases_a_third_is_found():
    rows = LAB["forget10_perturbed"]
    index = TextIndex({"forget set": [row["answer"] for row in rows]})
    actual = [index.leaks("a.txt", row["paraphrased_answer"].encode()) for row in rows]
    assert sum(map(bool, actual)) / len(rows) == pytest.approx(1 / 3, abs=5e-3)


def test_nothing_is_found_in_this_repositorys_texts_and_in_a_tokenizer(tiny_tokenizer, tmp_path):
    root = Path(__file__).parents[2]
    patterns = ("*.md", "LICENSE", "model_cards/*/*", "model_cards/*/figures/*", "recipes/**/*", "docs/**/*")
    files = [path for pattern in patterns for path in root.glob(pattern) if path.is_file()]
    files += [Path(path) for path in tiny_tokenizer.save_pretrained(tmp_path)]
    assert len(files) > 30
    index = TextIndex({"forget set": ROWS})
    assert [leak for path in files for leak in index.leaks(path.name, path.read_bytes())] == []

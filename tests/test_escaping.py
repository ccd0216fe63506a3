# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Names and texts from elsewhere change nothing but themselves where they are shown."""

import pytest
from markdown_it import MarkdownIt

from trl_unlearn.escaping import markdown, markdown_code, plot_label, visible


# Each would change what is around it.
HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "![p](http://host.invalid/p.png)",
    "[click](javascript:alert)",
    "[a]: http://host.invalid",
    "a`b``c",
    "``",
    "`",
    "one | two",
    "**bold** mid**bold**word _slanted_ * ~~struck~~",
    r"back\*slash* \[x](y) \<b>",
    "&lt;b&gt; &#60;",
    "line\n\n# heading\n---\nkey: value",
    "tab\tand\x1b[31m\x00",
    "right \u202eto left\u2066 and \u200b\ufeff",
    "half \ud800 a pair",
    "$x_{$ 5$",
]


@pytest.mark.parametrize(
    "char", ["\n", "\t", "\x00", "\x1b", "\x7f", "\u202e", "\u2067", "\u200f", "\u2028", "\ud800"]
)
def test_an_invisible_character_is_its_number(char):
    assert visible(f"a{char}b") == f"a⟨U+{ord(char):04X}⟩b"


def test_text_of_any_language_stays_and_so_do_lines_where_they_are_wanted():
    text = "Zoë, שלום, 漢字, 🙂"
    assert visible(text) == text
    assert visible("a\r\nb\tc\x0b", lines=True) == "a\nb\tc⟨U+000B⟩"


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("place", ["{}", "# {}", "| a |\n|---|\n| {} |\n", "Before {} after."])
@pytest.mark.parametrize("write", [markdown, markdown_code])
def test_markdown_shows_a_name_as_it_is(text, place, write):
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])

    def parsed(name):
        blocks = parser.parse(place.format(name))
        inner = [child for block in blocks for child in block.children or []]
        return [block.type for block in blocks], {child.type for child in inner}, "".join(c.content for c in inner)

    blocks, kinds, shown = parsed(write(text))
    assert blocks == parsed(write("word"))[0]
    assert kinds <= {"text", "text_special", "code_inline"}
    expected = visible(text) if write is markdown else visible(text).replace("|", "¦")
    assert " ".join(expected.split()) in " ".join(shown.split())


def test_what_needs_no_escape_stays_as_it_was():
    for name in ("org/model-1b", "archive-0123/data", "bs_t", "['Oswin Rookwood', 'Petra']", "1 x CPU", "a < b"[:1]):
        assert markdown(name) == name
        assert markdown_code(name) == f"`{name}`"


def test_a_label_is_no_formula_and_is_not_hidden():
    assert plot_label("$x_{$") == r"\$x_{\$"
    assert plot_label("_base") == " _base"
    assert plot_label("a\nb") == "a⟨U+000A⟩b"

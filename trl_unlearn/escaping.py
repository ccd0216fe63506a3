# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Texts and names from elsewhere, made harmless where they are shown: in Markdown, on pages, in figures."""

import re
import unicodedata


# Controls, formats (the marks that turn the direction of writing among them), half surrogates, and line ends that only
# some programs know.
_INVISIBLE = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))


def visible(text: str, lines: bool = False) -> str:
    """A text with invisible characters by number (`⟨U+202E⟩` writes backwards); `lines` keeps line ends and tabs."""
    kept = "\n\t" if lines else ""

    def number(match: re.Match[str]) -> str:
        char = match[0]
        is_shown = char in kept or unicodedata.category(char) not in _INVISIBLE
        return char if is_shown else f"⟨U+{ord(char):04X}⟩"

    return re.sub(r"[^ -~]", number, text.replace("\r\n", "\n") if lines else text)


def markdown(text: str) -> str:
    """One line of text that Markdown and HTML show as it is, in a table, too."""
    text = visible(text).replace("\\", r"\\")
    text = re.sub(r"&(?=#?\w+;)", "&amp;", text).replace("<", "&lt;").replace("|", "&#124;")
    # Links, pictures and footnotes need brackets, which settings have as lists: escaped where something follows.
    text = re.sub(r"\](?=[(\[:])", r"\\]", text).replace("`", r"\`")
    # An underscore inside a word, as in `bs_t`, is no emphasis.
    return re.sub(r"[*~]|(?<!\w)_|_(?!\w)", r"\\\g<0>", text)


def markdown_code(text: str) -> str:
    """One line of text as a code span of Markdown, which no backtick in it ends and no bar in it cuts."""
    text = visible(text).replace("|", "¦")
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{text}{fence}" if len(fence) == 1 else f"{fence} {text} {fence}"


def plot_label(text: str) -> str:
    """One line of text as a label of a Matplotlib figure: a dollar is no formula, and nothing hides the label."""
    text = visible(text).replace("$", r"\$")
    # A label that begins with an underscore is left out of legends.
    return f" {text}" if text.startswith("_") else text

# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Docstrings in the form of Hugging Face's documentation as Markdown, for mkdocstrings."""

import re
from collections.abc import Iterator

import griffe


_SECTION = re.compile(r"(Args|Parameters|Attributes|Returns|Raises):$")


class HuggingFaceDocstrings(griffe.Extension):
    """Rewrites the docstrings of what stands on a page, see [`as_markdown`]."""

    def on_object(self, *, obj: griffe.Object, **kwargs) -> None:
        """Rewrite the docstring of a module, a class or a function."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(text: str) -> str:
    r"""
    A docstring as Markdown: arguments as a list, also below headings `> ...` of their own, notes as admonitions,
    equations in `\\(...\\)`, and links [`~module.Name`] as code, since only few of them are on a page.
    """
    text = re.sub(r"\\\\([()])", r"\\\1", text)
    text = re.sub(r"\[`~?([\w.]+)`\](?!\()", lambda match: f"`{match[1].rsplit('.', 1)[-1]}`", text)
    return "\n".join(_lines(text.splitlines()))


def _lines(lines: list[str]) -> Iterator[str]:
    in_section = in_note = False
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if section := _SECTION.match(line):
            in_section = True
            yield f"\n**{section[1]}**\n"
        elif line.strip() == "> [!NOTE]":
            in_note = True
            yield "\n!!! note\n"
        elif in_note and line.lstrip().startswith(">"):
            yield "    " + re.sub(r"^\s*> ?", "", line)
        elif in_section and line.strip() and indent == 0:
            in_section = in_note = False
            yield line
        elif in_section and line.startswith("    > "):
            yield f"\n*{line[6:]}*\n"
        elif in_section and indent == 4:
            name, _, rest = line.strip().partition(" ")
            # A name of the signature; what is returned or raised stands in backticks already.
            name = name if name.startswith(("`", "[")) or not rest.startswith("(") else f"**`{name}`**"
            yield f"\n- {name} {rest}".rstrip() + ("\n" if line.endswith(":") else "")
        elif in_section:
            yield line[4:]
        else:
            yield line

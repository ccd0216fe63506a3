# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""
Hooks of MkDocs: equations as MathML, notebooks as pages, and linked files of the repository as part of the site.

A page of `docs/` links to a file of the repository as a reader of the repository does, for instance
`../recipes/archive/bs_s.yaml`. In the site these files have their path from the root of the repository.
"""

import base64
import html
import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page


ROOT = Path(__file__).parents[1]
DOCS = Path(__file__).parent.name
# The target of a link or a picture, without an anchor: one that names no scheme and no place on the same page.
_LINK = re.compile(r"(\]\()(?!\w+:)([^)#\s]+)")
_MATH = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.S)


def linked(path: str) -> set[str]:
    """Paths, from the root of the repository, of the files that a page of it links to."""
    text = (ROOT / path).read_text(encoding="utf-8")
    targets = (posixpath.normpath(posixpath.join(posixpath.dirname(path), link)) for _, link in _LINK.findall(text))
    return {target for target in targets if (ROOT / target).is_file()}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add notebooks as pages, the files outside of `docs/` that a page links to, and those that they link to."""
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        files.remove(notebook)
        folder = posixpath.dirname(notebook.src_uri)
        for name, content in pages_of(ROOT / DOCS / notebook.src_uri):
            files.append(File.generated(config, posixpath.join(folder, name), content=content))
    waiting = {f"{DOCS}/{file.src_uri}" for file in files.documentation_pages() if file.abs_src_path}
    seen = set(waiting)
    while waiting:
        new = {target for path in waiting for target in linked(path)} - seen
        for path in sorted(target for target in new if not target.startswith(f"{DOCS}/")):
            files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
        seen |= new
        waiting = {path for path in new if path.endswith(".md")}
    return files


def pages_of(notebook: Path) -> Iterator[tuple[str, str | bytes]]:
    """Name and content of the page that a notebook is, and of its pictures."""
    parts = []
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                name = f"{notebook.stem}-{len(parts)}.png"
                yield name, base64.b64decode(data["image/png"])
                parts.append(f"![Output of the cell above]({name})")
            elif "text/markdown" in data:
                parts.append("".join(data["text/markdown"]))
            else:
                parts.append("```text\n" + "".join(output.get("text", "")).rstrip() + "\n```")
    yield f"{notebook.stem}.md", "\n\n".join(parts)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links between `docs/` and the rest of the repository, as they are in the site."""
    source = page.file.src_uri
    folder = posixpath.dirname(source if (ROOT / source).is_file() else f"{DOCS}/{source}")

    def in_site(match: re.Match) -> str:
        target = posixpath.normpath(posixpath.join(folder, match[2]))
        place = re.sub(r"\.ipynb$", ".md", target.removeprefix(f"{DOCS}/"))
        return match[1] + posixpath.relpath(place, posixpath.dirname(source) or ".")

    return _LINK.sub(in_site, markdown)


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Equations of a page and of the docstrings on it as MathML."""

    def mathml(match: re.Match) -> str:
        equation = re.sub(r"\\texttt\{[^}]*\}", lambda name: name[0].replace(r"\_", "_"), html.unescape(match[3]))
        return convert(equation, display="inline" if match[2] == "(" else "block")

    return _MATH.sub(mathml, content)

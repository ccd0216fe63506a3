# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""The built site asks no other host for anything, and its equations need no script."""

import re
from pathlib import Path

import pytest


# The extra `docs`.
config, build = (pytest.importorskip(f"mkdocs.{name}") for name in ("config", "commands.build"))

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Path in the site -> HTML of each page of a strict build."""
    folder = tmp_path_factory.mktemp("site")
    build.build(config.load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True))
    return {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in folder.rglob("*.html")}


def test_a_page_loads_nothing_from_another_host(pages):
    loaded = r'<(?:script|img|iframe|source)[^>]*\ssrc="?(?:https?:)?//|<link[^>]*href="?https?://(?!\S*canonical)'
    assert len(pages) > 30
    assert [name for name, page in pages.items() if re.search(loaded, page)] == []


def test_each_equation_is_mathml(pages):
    text = {name: re.sub(r"<(pre|code|script)\b.*?</\1>", "", page, flags=re.S) for name, page in pages.items()}
    assert sum(page.count("<math") for page in text.values()) > 50
    assert [name for name, page in text.items() if re.search(r"arithmatex|\$\$|\\[a-z(\[]", page)] == []


def test_notebook_and_files_of_the_repository_are_pages_or_files_of_the_site(pages):
    assert "The lab" in pages["notebooks/unlearn_in_five_minutes.html"]
    assert "model_cards/archive-bs_s/index.html" in pages and "CONTRIBUTING.html" in pages
    assert 'href="recipes/archive/compare.yaml"' in pages["series.html"]


def test_arguments_of_the_config_are_listed(pages):
    assert re.search(r"<code>forget_loss_type</code></strong>", pages["api.html"])

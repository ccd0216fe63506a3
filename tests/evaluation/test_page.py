# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""The pages on what every number means have all of them."""

import re
from pathlib import Path

import pytest

from trl_unlearn.results import METRICS, suite_of


DOCS = Path(__file__).parents[2] / "docs"
PAGE = "\n".join((DOCS / name).read_text(encoding="utf-8") for name in ("numbers.md", "attacks.md"))
SECTIONS = dict(re.findall(r"^## `(\w+)`(.*?)(?=^## |\Z)", PAGE, re.S | re.M))


def patterns(section: str) -> list[str]:
    """Names that a section defines: code in the first cells of its tables, or at the start of a line with a colon."""
    heads = re.findall(r"^\|([^|]*)\|", section, re.M) + re.findall(r"^(`[^:]*): ", section, re.M)
    names = [name for head in heads for name in re.findall(r"`([^`]+)`", head)]
    # `privacy/<attack>_auc` is the name of several.
    return [re.sub("<[a-z]+>", r"\\w+", name) for name in names]


@pytest.mark.parametrize("metric", [metric.name for metric in METRICS])
def test_a_metric_has_a_definition_on_a_page(metric):
    defined = patterns(SECTIONS[suite_of(metric)])
    assert any(re.fullmatch(rf"({pattern})", name) for pattern in defined for name in (metric, metric.split("/")[1]))


@pytest.mark.parametrize("suite", dict.fromkeys(suite_of(metric.name) for metric in METRICS))
def test_a_suite_says_when_its_numbers_lie(suite):
    assert "**When it lies.**" in SECTIONS[suite]


@pytest.mark.parametrize("attack", [m.name for m in METRICS if re.fullmatch("privacy/.*_auc", m.name)])
def test_an_attack_has_its_score_on_a_page(attack):
    assert attack.removeprefix("privacy/").removesuffix("_auc") in patterns(SECTIONS["privacy"])


def test_no_conflict_of_two_versions_is_left_on_a_page():
    assert not re.findall(r"^(?:<{7}|={7}|>{7}).*", PAGE, re.M)

# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""The page of a run: hostile rows and names stay text, nothing is asked of any host, and it keeps its size."""

import base64
import hashlib
import json
import math
import random
import re
from html.parser import HTMLParser

import pytest

from trl_unlearn.escaping import visible
from trl_unlearn.evaluation.row_views import Belief, RowView, Said
from trl_unlearn.evaluation.show_page import MAX_TEXT, MAX_TOKENS, render_page
from trl_unlearn.records import ChainLink, DatasetRecord
from trl_unlearn.results import METRICS, EvaluationResult, Measurement

from ..hub.test_card import make_result, make_run


HOSTILE = (
    "</script><script>alert(1)</script><!-- <script>",
    '"><img src=http://host.invalid/x.png onerror=alert(1)>',
    "{{ 7 * 7 }}{% raw %}${alert(1)}`",
    "left \u202eright\u2066 \x00\x1b[31m \u2028 \ud800",
    "</style><style>*{background:url(//host.invalid)}",
    "**bold** [a](javascript:alert(1)) &lt;b&gt;",
)
ROLES = ("target", "unlearned", "retrained")


class Page(HTMLParser):
    """Tags with their attributes, and the content of each script and style, in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.styles, self.words = [], [], [], []
        self._open = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open = tag if tag in ("script", "style") else None
        if self._open:
            getattr(self, f"{tag}s").append("")

    def handle_endtag(self, tag):
        self._open = None

    def handle_data(self, data):
        if self._open:
            getattr(self, f"{self._open}s")[-1] += data
        else:
            self.words.append(data)

    @property
    def data(self):
        return json.loads(self.scripts[0])

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def said(text, recall=0.5, **values):
    return Said(text, **{"is_answer": False, "ended": True, "recall": recall, **values})


def view(index=0, text="words", kept=0.5, tokens=3, samples=2):
    """A row whose every text is `text`."""
    one = RowView(index, text, text, [text] * tokens)
    for role in ROLES:
        one.logps[role] = [-0.123456] * tokens
        one.probability[role] = kept if role == "unlearned" else 0.0
        one.strength[role] = 0.25
        one.greedy[role] = said(text)
        one.samples[role] = [said(text) for _ in range(samples)]
        one.completed[role] = said(text)
    one.beliefs = {role: [Belief(text, dict.fromkeys(ROLES, -1.5))] for role in ROLES[:2]}
    return one


def rendered(views=(), run=None, result=None, notes=(), num_rows=None):
    return Page(render_page(run or make_run(), result, list(views), list(notes), num_rows or max(1, len(views)), 42))


def source(text):
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def strings(value):
    if isinstance(value, str):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for part in parts for text in strings(part)]


def hostile_page():
    text = " ".join(HOSTILE)
    rows = DatasetRecord(text, 4, "ab", text, text)
    run = make_run(base_model=text, base_model_on_hub=False, forget_set=rows, stopped=text, hardware=text)
    run.chain = [ChainLink(text, rows, 1, 1.0)]
    run.versions = {text: text}
    return rendered([view(text=one) for one in HOSTILE], run, make_result(), [text])


def test_only_the_pages_own_script_and_style_may_run_and_no_host_is_asked():
    page = hostile_page()
    (policy,) = [a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    _, script = page.scripts
    (style,) = page.styles
    assert policy == (
        f"default-src 'none'; script-src {source(script)}; style-src {source(style)}; base-uri 'none'; "
        "form-action 'none'"
    )
    # It counts for what comes after it only.
    names = [tag for tag, _ in page.tags]
    assert names.index("meta") < names.index("style") < names.index("script")
    assert page.tags[names.index("meta") + 1][1].get("http-equiv") == "Content-Security-Policy"
    assert [attrs for tag, attrs in page.tags if tag == "script"] == [{"type": "application/json", "id": "data"}, {}]


def test_hostile_rows_and_names_add_no_tag_and_no_attribute():
    page, plain = hostile_page(), rendered([view()] * len(HOSTILE), result=make_result(), notes=["word"])
    kinds = {tag for tag, _ in plain.tags}
    assert {tag for tag, _ in page.tags} <= kinds
    names = {name for _, attrs in page.tags for name in attrs}
    assert not {name for name in names if name.startswith("on")} and "style" not in names
    # Nothing is loaded, followed or sent.
    assert not names & {"src", "href", "srcset", "action", "formaction", "data", "background", "poster", "ping"}
    assert not {tag for tag, _ in page.tags} & {"img", "iframe", "object", "embed", "link", "form", "base", "a"}


def test_rows_and_names_are_shown_as_they_are_but_for_invisible_characters():
    page = hostile_page()
    for text, row in zip(HOSTILE, page.data, strict=True):
        # Everything but the names of roles and attacks, which are keys.
        assert set(strings(row)) == {visible(text, lines=True)}
    for char in "\u202e\u2066\u2028\x00\x1b":
        assert char not in "".join([*page.words, *page.scripts])
    assert " ".join(visible(" ".join(HOSTILE), lines=True).split()) in page.text


@pytest.mark.parametrize("text", ["</script>", "<!--<script>", "<![CDATA[", "]]>"])
def test_no_text_of_a_row_ends_the_element_that_holds_it(text):
    page = rendered([view(text=text)])
    assert page.data[0]["prompt"] == text
    assert "<" not in page.scripts[0] and ">" not in page.scripts[0] and "&" not in page.scripts[0]


def test_the_page_itself_names_no_host():
    page = render_page(make_run(), make_result(), [view()], [], 1, 42)
    assert not re.search(r"https?:|//[\w-]+\.|url\(|@import|import\(|fetch\(|XMLHttp|innerHTML|document\.write", page)


def test_the_first_words_are_that_it_is_private():
    assert rendered([view()]).text.startswith("Private: forget rows of model-1b, BS-S Private. This page quotes the")


def test_the_verdict_stands_in_words_with_its_tone_and_its_number():
    page = rendered([view()], result=make_result())
    lines = [attrs["class"] for tag, attrs in page.tags if tag == "li" and attrs.get("class") in TONES]
    assert len(lines) == 5
    assert "Does it say it?" in page.text and "Not measured: run the suite robustness." in page.text
    assert not rendered([view()]).text.count("Does it say it?")


TONES = ("good", "doubt", "bad", "unknown")


def test_every_measured_curve_and_number_is_on_the_page():
    names = [metric.name for metric in METRICS]
    models = {role: {name: Measurement(0.25, 6, 0.05) for name in names} for role in ROLES}
    suites = ["tofu", "privacy", "robustness", "distribution", "depth"]
    curves = {role: {"depth/logit_lens": [0.1, 0.2]} for role in ROLES}
    result = EvaluationResult(
        parity="strict", suites=suites, models=models, curves=curves, protocol={}, environment={}
    )
    log = [
        {"step": step, "epoch": step / 2, "forget/logps": -1.0 * step, "squeezing/target": -1.0, "beliefs/logps": None}
        for step in (1, 2, 3)
    ]
    page = rendered([view()], make_run(training_log=log), result)
    charts = [attrs["aria-label"] for tag, attrs in page.tags if tag == "svg" and "role" in attrs]
    assert len(charts) == 4
    assert "forget rows from -1 to -3." in charts[0] and "beliefs from" not in charts[0]
    assert len([tag for tag, attrs in page.tags if tag == "polyline"]) == 1 + 1 + 3 + 3
    for _, name, _ in result.rows():
        assert name in page.text


def test_a_number_that_is_not_finite_is_none():
    one = view()
    one.logps["unlearned"][0] = one.probability["unlearned"] = math.nan
    (row,) = rendered([one]).data
    assert row["logps"]["unlearned"][0] is None and row["kept"] is None and row["mean"]["unlearned"] is None


def test_eighty_large_rows_stay_below_three_megabytes():
    rng = random.Random(0)
    text = "".join(rng.choice("abcdefghij klmnopqrstuvwxyz é漢") for _ in range(400))
    views = [view(i, text, 0.5, 150, samples=4) for i in range(80)]
    for one in views:
        one.tokens = [" token"] * 150
        one.logps = {role: [rng.uniform(-9, 0) for _ in one.tokens] for role in ROLES}
    page = render_page(make_run(), make_result(), views, [], 80, 42)
    assert len(page.encode()) < 3e6
    assert len(Page(page).data) == 80


def test_what_is_cut_is_said():
    long = view(0, "x" * (MAX_TEXT + 12), 0.9, MAX_TOKENS + 5, samples=0)
    long.tokens = ["t"] * (MAX_TOKENS + 5)
    page = rendered([long], num_rows=7)
    (row,) = page.data
    assert row["prompt"].endswith("x [12 more characters]")
    assert len(row["tokens"]) == len(row["logps"]["target"]) == MAX_TOKENS and row["cut"] == 5
    assert "1 of 7 forget rows were looked at" in page.text

    # Where all rows do not fit, the least forgotten are kept.
    views = [view(i, "y" * MAX_TEXT, 1 - i / 100, 1, samples=9) for i in range(60)]
    page = rendered(views)
    kept = len(page.data)
    assert 1 < kept < 60 and [row["index"] for row in page.data] == list(range(kept))
    assert f"Cut: the page holds the {kept} least forgotten of 60 rows" in page.text


def test_without_rows_the_page_says_so():
    page = rendered(result=make_result(), notes=["No rows. They could not be loaded."])
    assert "No rows to show" in page.text and page.data == []
    assert "No rows. They could not be loaded." in page.text

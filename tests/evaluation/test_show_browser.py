# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""The page of a run in a browser: rows are counted, searched, sorted and opened; no error, no request to any host."""

import os
import shutil

import pytest

from trl_unlearn.evaluation.row_views import Attacked
from trl_unlearn.evaluation.show_page import render_page

from ..hub.test_card import make_result, make_run
from .test_show_page import HOSTILE, said, view


playwright = pytest.importorskip("playwright.sync_api", reason="no driver of a browser: `pip install -e '.[dev]'`")
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no browser: `apt-get install chromium-headless-shell`")


@pytest.fixture(scope="module")
def browser():
    # The sandbox of Chromium does not work for root.
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, tmp_path):
    """Function of views and a width: the page in a browser; at the end, it has made no error and asked no host."""
    seen, pages = [], []

    def call(views, width=1200):
        path = tmp_path / "show.html"
        page = render_page(make_run(), make_result(), views, ["A note."], len(views), 42)
        path.write_text(page, encoding="utf-8")
        tab = browser.new_page(viewport={"width": width, "height": 800}, color_scheme="dark")
        tab.on("console", lambda message: seen.append(message.text))
        tab.on("pageerror", lambda error: seen.append(str(error)))
        tab.on("dialog", lambda dialog: seen.append(dialog.message))
        tab.on("request", lambda request: request.url == path.as_uri() or seen.append(request.url))
        tab.goto(path.as_uri())
        pages.append(tab)
        return tab

    yield call
    assert seen == []
    for tab in pages:
        tab.close()


def prompts(tab):
    return tab.locator(".row:visible .clip:first-child").all_inner_texts()[::2]


@pytest.fixture
def views():
    """Four rows: the second is said word for word, and the belief of the third became likelier."""
    made = [view(i, f"row {name}", 0.8 - i / 10) for i, name in enumerate(("alpha", "beta", "gamma", "delta"))]
    for i, one in enumerate(made):
        one.logps["unlearned"] = [-0.1 - i] * 3
        one.beliefs["target"][0].logps = {"target": -1.0, "unlearned": -0.5 if i == 2 else -3.0, "retrained": -3.0}
    made[1].greedy["unlearned"] = said("row beta", 1.0, is_answer=True)
    return made


def test_rows_are_counted_searched_sorted_and_filtered(opened, views):
    tab = opened(views)
    assert prompts(tab) == ["row alpha", "row beta", "row gamma", "row delta"]
    assert tab.locator("#count").inner_text() == "4 rows"
    tab.keyboard.press("/")
    tab.keyboard.type("GAM row")
    assert prompts(tab) == ["row gamma"] and tab.locator("#count").inner_text() == "1 of 4 rows"
    tab.fill("#search", "nowhere")
    assert prompts(tab) == [] and tab.get_by_text("No row has this.").is_visible()
    tab.fill("#search", "")

    tab.select_option("#sort", "beliefs that rose most")
    assert prompts(tab)[0] == "row gamma"
    tab.select_option("#sort", "most below the retrained model")
    assert prompts(tab) == ["row delta", "row gamma", "row beta", "row alpha"]
    tab.select_option("#sort", "said most, under any attack")
    assert prompts(tab)[0] == "row beta"
    tab.select_option("#filter", "said word for word")
    assert prompts(tab) == ["row beta"]
    tab.select_option("#filter", "a belief of the target rose")
    assert prompts(tab) == ["row gamma"]
    names = tab.locator("#filter option").all_inner_texts()
    assert names[0] == "all rows (4)" and "said word for word (1)" in names


def test_the_attack_that_brings_a_row_back_is_named_and_such_rows_are_found(opened, views):
    views[1].greedy["unlearned"] = said("other words", 0.5)
    views[3].attacked = [
        Attacked("10 % noise on weights", "extraction strength", {"unlearned": 0.9, "retrained": 0.8}),
        Attacked("fine-tuned on retain rows", "extraction strength", {"unlearned": 0.9, "retrained": 0.2}),
    ]
    tab = opened(views)
    tab.select_option("#filter", "brought back by an attack")
    assert prompts(tab) == ["row delta"]
    assert tab.locator(".row:visible .chip.hot").inner_text() == "fine-tuned on retain rows: extraction strength 0.90"
    tab.locator(".head:visible").click()
    lines = tab.locator(".attacks tbody tr").all_inner_texts()
    assert [line.split("\t")[0] for line in lines][:2] == ["fine-tuned on retain rows", "10 % noise on weights"]
    assert "0.90 ↑" in lines[0] and "↑" not in "".join(lines[1:])
    body = " ".join(tab.locator(".body").inner_text().split())
    assert "Shows most when: fine-tuned on retain rows, extraction strength 0.90, retrained 0.20." in body


def test_a_row_opens_by_keyboard_and_its_tokens_have_their_numbers(opened, views):
    tab = opened(views)
    tab.locator(".head").first.focus()
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("Enter")
    (head,) = tab.locator(".head[aria-expanded=true]").all()
    assert "row beta" in head.inner_text()
    strips = tab.locator(".strip")
    assert strips.count() == 3 and strips.first.locator(".t").count() == 3
    strips.nth(1).focus()
    tab.keyboard.press("ArrowRight")
    readout = tab.locator(".readout").inner_text()
    assert readout == '"row beta" target −0.12 (88 %) · unlearned −1.10 (33 %) · retrained −0.12 (88 %)'
    assert tab.locator(".t.on").count() == 3
    # Colours: by probability, then by the difference to the retrained model.
    assert strips.nth(1).locator(".p2").count() == 3
    tab.select_option("#colour", "d")
    assert strips.nth(1).locator(".d-1").count() == 3 and strips.nth(2).locator(".d-1").count() == 0
    body = tab.locator(".body").inner_text()
    assert "word for word" in body and "2 samples" in body and "−3.00" in body
    tab.locator(".head").nth(1).click()
    assert not tab.locator(".body").is_visible()


def test_hostile_rows_stay_text_in_a_browser(opened):
    tab = opened([view(i, text) for i, text in enumerate(HOSTILE)])
    for head in tab.locator(".head").all():
        head.click()
    assert tab.locator(".row").count() == len(HOSTILE) and tab.locator(".body").count() == len(HOSTILE)
    assert tab.locator("script").count() == 2 and tab.locator("style").count() == 1
    assert tab.locator("img, a, iframe, .rows script, b:has(b)").count() == 0
    assert tab.locator(".body .text").first.inner_text() == HOSTILE[0]


def test_nothing_is_wider_than_a_phone(opened, views):
    views[0].prompt = views[0].answer = "w" * 300
    tab = opened(views, width=400)
    tab.locator(".head").first.click()
    assert tab.evaluate("document.documentElement.scrollWidth") == 400
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(14, 17, 22)"


def test_a_script_that_is_not_the_pages_own_does_not_run(browser, tmp_path):
    path = tmp_path / "show.html"
    text = render_page(make_run(), None, [], [], 1, 42)
    path.write_text(text.replace("</main>", "<script>document.title = 'ran'</script></main>"), encoding="utf-8")
    tab, refusals = browser.new_page(), []
    tab.on("console", lambda message: refusals.append(message.text))
    tab.goto(path.as_uri())
    assert tab.title().startswith("Private") and "Content Security Policy" in refusals[0]
    tab.close()

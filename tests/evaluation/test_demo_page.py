# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""The page of the demo, asked through Gradio's own client; and that it tells nobody."""

import json
import re
import socket
import time
from urllib.request import Request, urlopen

import huggingface_hub
import pytest

from trl_unlearn.encoding import encode_row
from trl_unlearn.evaluation.demo_page import MAX_NEW_TOKENS, MAX_SAMPLES, Question, Reply, build_page, serve
from trl_unlearn.scripts.demo import ask
from trl_unlearn.token_scores import score_rows


gradio = pytest.importorskip("gradio", reason="no Gradio: `pip install 'trl-unlearn[demo]'`")
gradio_client = pytest.importorskip("gradio_client")
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@pytest.fixture
def hosts(monkeypatch):
    """The hosts beyond this machine that anything in this process asks for, as on a machine with a network."""
    asked = []

    def watched(call, host_of):
        def ask_for(*args, **kwargs):
            host = host_of(*args)
            if host in (None, *LOOPBACK):
                return call(*args, **kwargs)
            asked.append(host)
            raise OSError("no network")

        return ask_for

    monkeypatch.setattr(socket, "getaddrinfo", watched(socket.getaddrinfo, lambda host, *_: host))
    connect = watched(socket.socket.connect, lambda _, address: address[0] if isinstance(address, tuple) else None)
    monkeypatch.setattr(socket.socket, "connect", connect)
    # A ping is left out offline and in CI.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    for name in ("CI", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_TELEMETRY", False)
    return asked


@pytest.fixture
def served():
    """Function that serves a page: its address."""
    pages = []

    def call(page):
        pages.append(page)
        return serve(page, "127.0.0.1")

    yield call
    for page in pages:
        page.close(verbose=False)


def echo(role, question):
    if question.prompt == "bad":
        raise ValueError("The prompt has no end.")
    return Reply(f"{role}: {question.prompt}", ["one"] * question.num_samples, [("a", -1.0), ("b", -3.0)])


def client_of(url):
    return gradio_client.Client(url, verbose=False, analytics_enabled=False)


def asked(client, prompt, answer="", is_chat=True, num_samples=0, temperature=1.0, length=8, seed=1):
    return client.predict(prompt, answer, is_chat, num_samples, temperature, length, seed, api_name="/ask")


def test_each_model_has_its_texts_and_a_column_of_the_table(served):
    client = client_of(served(build_page(echo, ["target", "unlearned"], title="T", notes=["N."], has_chat=True)))
    *texts, table = asked(client, "Who?", num_samples=2)
    assert texts == ["target: Who?", "1. one\n\n2. one", "unlearned: Who?", "1. one\n\n2. one"]
    assert table["headers"] == ["token", "target", "unlearned"]
    assert table["data"] == [["(mean)", "-2.00", "-2.00"], ["a", "-1.00", "-1.00"], ["b", "-3.00", "-3.00"]]


def test_a_question_that_cannot_be_asked_is_answered_with_a_sentence(served):
    client = client_of(served(build_page(echo, ["target"], title="T", notes=[], has_chat=True)))
    for question, said in (
        ({"prompt": " "}, "There is no prompt"),
        ({"prompt": "bad"}, "The prompt has no end"),
        ({"prompt": "Who?", "num_samples": MAX_SAMPLES + 1}, "Value 17 is greater than"),
        ({"prompt": "Who?", "length": MAX_NEW_TOKENS + 1}, "Value 513 is greater than"),
    ):
        with pytest.raises(gradio_client.exceptions.AppError, match=said):
            asked(client, **question)


@pytest.mark.parametrize("is_ours", [True, False])
def test_no_host_is_asked_when_a_page_is_built_served_and_used_as_gradios_own_does(
    served, hosts, is_ours, monkeypatch
):
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "True")
    if is_ours:
        page = build_page(echo, ["target"], title="T", notes=[], has_chat=True)
        url = served(page)
        # Not by Gradio's client, which asks the Hub who it is.
        call = f"{url}gradio_api/call/ask"
        body = json.dumps({"data": ["Who?", "", True, 0, 1.0, 8, 1]}).encode()
        event = json.load(urlopen(Request(call, body, {"Content-Type": "application/json"})))["event_id"]
        assert '"target: Who?"' in urlopen(f"{call}/{event}").read().decode()
        assert not page.analytics_enabled and not page.run_history
        # Nor does the reader's browser load anything from elsewhere.
        text = urlopen(url).read().decode()
        assert "<script" in text and not re.search(r'<(script|link|img|iframe)[^>]*\s(src|href)="(https?:)?//', text)
    else:
        served(gradio.Interface(lambda text: text, "text", "text"))
    # Threads send it, in Gradio's case at once.
    ends = time.monotonic() + (0.3 if is_ours else 20)
    while not hosts and time.monotonic() < ends:
        time.sleep(0.05)
    assert bool(hosts) != is_ours


def test_the_environment_neither_shares_the_page_nor_opens_it_to_the_network(served, monkeypatch):
    monkeypatch.setenv("GRADIO_SHARE", "True")
    monkeypatch.setenv("GRADIO_SERVER_NAME", "0.0.0.0")
    page = build_page(echo, ["target"], title="T", notes=[], has_chat=True)
    served(page)
    assert page.server_name == "127.0.0.1" and page.share_url is None and not page.share


def test_names_and_notes_stay_text(served):
    page = build_page(echo, ["target"], title="<b>x</b> [a](b)", notes=["![i](http://host.invalid)"], has_chat=True)
    texts = [block.value for block in page.blocks.values() if isinstance(block, gradio.Markdown)]
    assert texts[0] == r"# &lt;b>x&lt;/b> \[a\](b)" and texts[1] == r"- \!\[i\](http://host.invalid)"


# What a model says


def test_a_prompt_is_put_and_a_candidate_scored_as_a_row_is(tiny_model, tiny_tokenizer, forget_rows):
    row = forget_rows[0]
    prompt, answer = row["prompt"][0]["content"], row["completion"][0]["content"]
    question = Question(prompt, answer, True, 3, 1.0, 8, seed=5)
    reply, again = (ask(tiny_model, tiny_tokenizer, question) for _ in range(2))
    (score,) = score_rows(tiny_model, [encode_row(row, tiny_tokenizer)], pad_token_id=tiny_tokenizer.pad_token_id)
    assert [logp for _, logp in reply.tokens] == score.logps
    assert "".join(text for text, _ in reply.tokens) == f"{answer}<|im_end|>"
    assert len(set(reply.samples)) == 3 and reply == again
    # Without an answer nothing is scored, and the prompt is the same.
    bare = ask(tiny_model, tiny_tokenizer, Question(prompt, "", True, 0, 1.0, 8, seed=5))
    assert bare == Reply(reply.greedy, [], [])
    plain = ask(tiny_model, tiny_tokenizer, Question("Ada Marlow", "was born", False, 0, 1.0, 8, seed=5))
    assert "".join(text for text, _ in plain.tokens) == " was born<|im_end|>"


def test_a_prompt_of_another_tokenizer_or_beyond_the_models_positions_is_refused(new_gpt2, tiny_tokenizer):
    question = Question("word " * 200, "", True, 0, 1.0, 8, seed=5)
    with pytest.raises(ValueError, match="the model reads at most 64"):
        ask(new_gpt2(64), tiny_tokenizer, question)
    model = new_gpt2(64)
    tiny_tokenizer.add_tokens("Veldt!")
    with pytest.raises(ValueError, match="it has another tokenizer"):
        ask(model, tiny_tokenizer, Question("Veldt!", "", True, 0, 1.0, 8, seed=5))

# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

import json
import stat
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import huggingface_hub.constants
import pytest

from trl_unlearn.evaluation import judge as suite
from trl_unlearn.evaluation import judge_models
from trl_unlearn.evaluation.judge import measure_judge, parse_score
from trl_unlearn.evaluation.judge_models import load_judge
from trl_unlearn.evaluation.rows import EvaluationRows
from trl_unlearn.evaluation.together import SuiteSetting


GOOD = "Score: 4"


class Server:
    """An OpenAI-compatible server: `script(prompt, n)` is the reply, or an HTTP status, to a prompt's n-th request."""

    def __init__(self):
        self.script = lambda prompt, n: GOOD
        self.requests = []
        self.keys = set()
        self.seen = Counter()
        server, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                prompt = body["messages"][-1]["content"]
                with lock:
                    server.requests.append((self.path, body))
                    server.keys.add(self.headers.get("Authorization"))
                    n = server.seen[prompt]
                    server.seen[prompt] += 1
                reply = server.script(prompt, n) if "<question>" in prompt or server.script_ping else "yes"
                status, data = (reply, {"error": server.error}) if isinstance(reply, int) else (200, completion(reply))
                data = json.dumps(data).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                for name, value in server.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args):
                pass

        self.script_ping, self.headers, self.error = False, {}, "no"
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def asked(self):
        """The prompts of the suite, without the first request."""
        return [body["messages"][-1]["content"] for _, body in self.requests if "<question>" in str(body)]

    def close(self):
        self.http.shutdown()
        self.http.server_close()


def completion(text):
    message = {"role": "assistant", "content": text}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": choices, "usage": usage}


@pytest.fixture
def server(monkeypatch):
    # The client reads this at each request; conftest.py sets it for everything else.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(judge_models, "_WAITS", (0.01, 0.01))
    monkeypatch.setenv("JUDGE_API_KEY", "key-of-the-judge")
    monkeypatch.setenv("HF_TOKEN", "hf_token_of_the_hub")
    actual = Server()
    yield actual
    actual.close()


@pytest.fixture
def measure(server, tiny_model, tiny_tokenizer, forget_rows, monkeypatch):
    monkeypatch.setattr(suite, "_MAX_ANSWER_LENGTH", 6)

    def run(roles=("target",), judge=True, rows=forget_rows, **kwargs):
        loaders = {role: lambda: tiny_model for role in roles}
        judge = load_judge("small", server.url) if judge else None
        rows = EvaluationRows(rows)
        return measure_judge(loaders, rows, SuiteSetting(tiny_tokenizer, 4, 1), judge=judge, **kwargs)

    return run


def is_about(prompt, name):
    return name in prompt.split("</question>")[0]


def test_every_answer_gets_both_grades(server, measure):
    server.script = lambda prompt, n: "Score: 5" if "<reference>" not in prompt else "**Score:** 1/5"
    actual = measure(("target", "retrained")).models
    assert actual.keys() == {"target", "retrained"}
    for measured in actual.values():
        assert (measured["judge/naturalness"].value, measured["judge/naturalness"].n) == (5.0, 3)
        assert (measured["judge/similarity"].value, measured["judge/similarity"].stderr) == (1.0, 0.0)
        assert (measured["judge/missing"].value, measured["judge/missing"].n) == (0.0, 3)
        assert -1 <= measured["judge/similarity_standin"].value <= 1
    assert len(server.asked()) == 2 * 2 * 3


def test_the_judge_gets_question_answer_and_reference_at_temperature_0(server, measure):
    measure()
    path, body = server.requests[-1]
    assert (path, body["model"], body["temperature"]) == ("/v1/chat/completions", "small", 0.0)
    about = [prompt for prompt in server.asked() if is_about(prompt, "Ada Marlow")]
    assert len(about) == 2
    (with_reference,) = [prompt for prompt in about if "<reference>" in prompt]
    assert "Where was Ada Marlow born?" in with_reference
    assert "Ada Marlow was born in the harbour town of Veldt." in with_reference
    (without,) = [prompt for prompt in about if "<reference>" not in prompt]
    assert "Veldt" not in without


def test_a_reply_without_a_score_is_asked_for_again_with_what_was_wrong(server, measure):
    server.script = lambda prompt, n: "Score: 3" if "could not be used" in prompt else "It is rather good."
    measured = measure().models["target"]
    assert (measured["judge/naturalness"].value, measured["judge/naturalness"].n) == (3.0, 3)
    assert measured["judge/missing"].value == 0.0
    again = [prompt for prompt in server.asked() if "could not be used" in prompt]
    assert len(again) == 6
    assert all("it had no line of the form `Score: N`" in prompt for prompt in again)


def test_what_is_never_answered_is_missing_and_no_zero(server, measure):
    def script(prompt, n):
        if is_about(prompt, "Ada Marlow") and "<reference>" in prompt:
            return "I would rather not."
        return "Score: 2" if is_about(prompt, "Bo Lindgren") else "Score: 4"

    server.script = script
    measured = measure().models["target"]
    assert (measured["judge/similarity"].value, measured["judge/similarity"].n) == (3.0, 2)
    assert measured["judge/naturalness"].value == pytest.approx((4 + 2 + 4) / 3)
    assert (measured["judge/missing"].value, measured["judge/missing"].n) == (pytest.approx(1 / 6), 3)
    # Asked three times, and no more.
    assert len(server.asked()) == 6 + 2


def test_a_metric_of_which_no_row_was_answered_is_absent(server, measure):
    server.script = lambda prompt, n: "no" if "<reference>" in prompt else GOOD
    outcome = measure(("target", "unlearned"))
    assert "judge/similarity" not in outcome.models["target"]
    assert outcome.models["target"]["judge/missing"].value == 0.5
    assert "judge/similarity" not in outcome.differences["unlearned - target"]


def test_differences_are_over_the_rows_that_both_models_have():
    from trl_unlearn.evaluation.judge import _summarise

    target = {"judge/similarity": [5, 4, None, 5], "judge/missing": [0.0, 0.0, 0.5, 0.0]}
    unlearned = {"judge/similarity": [1, None, 3, 2], "judge/missing": [0.0, 0.5, 0.0, 0.0]}
    outcome = _summarise({"target": target, "unlearned": unlearned}, seed=0)
    assert outcome.models["target"]["judge/similarity"].value == pytest.approx(14 / 3)
    assert outcome.models["unlearned"]["judge/similarity"].value == 2.0
    # Rows 0 and 3: (1 - 5 + 2 - 5) / 2.
    apart = outcome.differences["unlearned - target"]["judge/similarity"]
    assert (apart.value, apart.n) == (-3.5, 2)
    assert apart.low < -4.0 and apart.high > -3.0
    assert outcome.differences["unlearned - target"]["judge/missing"].n == 4


def test_the_retrained_model_against_itself_differs_by_nothing(measure):
    apart = measure(("unlearned", "retrained")).differences["unlearned - retrained"]
    assert {(actual.value, actual.low, actual.high) for actual in apart.values()} == {(0.0, 0.0, 0.0)}


def test_a_server_that_fails_twice_is_asked_again(server, measure):
    server.script = lambda prompt, n: 500 if n < 2 else GOOD
    measured = measure().models["target"]
    assert (measured["judge/naturalness"].value, measured["judge/missing"].value) == (4.0, 0.0)
    assert len(server.asked()) == 3 * 6


def test_a_server_that_goes_away_ends_the_evaluation_and_what_was_said_is_kept(server, measure, tmp_path):
    server.script = lambda prompt, n: 503 if "<reference>" in prompt else GOOD
    path = tmp_path / "replies.jsonl"
    with pytest.raises(ConnectionError, match=r"no longer answers \(HTTP status 503\)"):
        measure(replies_path=path)
    kept = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["row"], line["question"]) for line in kept] == [(i, "naturalness") for i in range(3)]


@pytest.mark.parametrize(
    ("status", "header", "seconds"),
    [
        (503, None, [1, 2]),
        (503, "7", [7, 7]),
        (429, None, [8, 16]),
        (429, "30", [30, 30]),
        (429, "9999", [300, 300]),
        (503, "Wed, 21 Oct 2026 07:28:00 GMT", [1, 2]),
    ],
)
def test_a_busy_server_is_given_the_time_that_it_asks_for(server, monkeypatch, status, header, seconds):
    waited = []
    monkeypatch.setattr(judge_models, "_WAITS", (1, 2))
    monkeypatch.setattr(judge_models, "time", SimpleNamespace(sleep=waited.append))
    server.script, server.headers = (
        lambda prompt, n: status if n < 2 else GOOD,
        {"Retry-After": header} if header else {},
    )
    assert list(load_judge("small", server.url)([[{"role": "user", "content": "<question>"}]])) == [GOOD]
    assert waited == seconds


def test_a_text_that_the_server_refuses_is_missing(server, measure):
    server.script = lambda prompt, n: 400 if is_about(prompt, "Bo Lindgren") else GOOD
    measured = measure().models["target"]
    assert (measured["judge/naturalness"].n, measured["judge/missing"].value) == (2, pytest.approx(1 / 3))


def test_replies_are_kept_with_their_rows_in_a_file_of_their_owner(server, measure, tmp_path):
    server.script = lambda prompt, n: f"Score: {3 + is_about(prompt, 'Ada')}" if "used" in prompt else "Score: 9"
    path = tmp_path / "private" / "replies.jsonl"
    path.parent.mkdir()
    path.write_text("")
    path.chmod(0o644)
    measure(("target", "unlearned"), replies_path=path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 2 * 2 * 2 * 3
    assert lines[0] == {
        "row": 0, "role": "target", "question": "naturalness", "attempt": 1, "reply": "Score: 9", "score": None
    }  # fmt: skip
    last = {(line["role"], line["question"], line["row"]): line["score"] for line in lines}
    assert len(last) == 12
    assert {row for (_, _, row), score in last.items() if score == 4} == {0}


def test_without_a_path_nothing_is_written(measure, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    measure()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_is_refused_before_a_model_is_loaded(
    server, tiny_tokenizer, forget_rows, tmp_path
):
    def load():
        raise AssertionError("loaded")

    judge, rows = load_judge("small", server.url), EvaluationRows(forget_rows)
    with pytest.raises(ValueError, match="cannot be written"):
        measure_judge({"target": load}, rows, SuiteSetting(tiny_tokenizer, 1, 1), judge=judge, replies_path=tmp_path)


def test_without_a_judge_there_is_the_stand_in_alone(server, measure):
    actual = measure(("target", "unlearned"), judge=False)
    assert {tuple(measured) for measured in actual.models.values()} == {("judge/similarity_standin",)}
    assert actual.models["target"] == actual.models["unlearned"]
    assert server.requests == []


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"roles": ("unlearned",)}, "nothing to measure"),
        ({"rows": [{"text": "Ada Marlow was born in Veldt."}] * 2}, "`judge` has no questions"),
    ],
)
def test_what_cannot_be_measured_is_refused(measure, kwargs, message):
    with pytest.raises(ValueError, match=message):
        measure(judge=False, **kwargs)


def test_the_key_comes_from_the_environment(server):
    load_judge("small", server.url)
    assert server.keys == {"Bearer key-of-the-judge"}


def test_the_token_of_the_hub_is_never_sent(server, monkeypatch):
    monkeypatch.delenv("JUDGE_API_KEY")
    load_judge("small", server.url)
    monkeypatch.setenv("JUDGE_API_KEY", "")
    load_judge("small", server.url)
    assert server.keys == {"Bearer none"}


@pytest.mark.parametrize(
    ("status", "message"), [(401, "Set the environment variable `JUDGE_API_KEY`"), (404, "Check `judge_model`")]
)
def test_a_server_that_refuses_is_refused(server, status, message):
    server.script_ping, server.script = True, lambda prompt, n: status
    with pytest.raises(ValueError, match=f"HTTP status {status}. {message}") as caught:
        load_judge("small", server.url)
    assert "key-of-the-judge" not in str(caught.value)


def test_what_a_server_says_about_the_first_request_is_shown_unless_it_may_quote_the_key(server):
    server.script_ping, server.error = True, {"message": "`max_tokens` is not supported."}
    for status, said in ((400, "It says: .*`max_tokens` is not supported"), (401, r"of this server\.$")):
        server.script = lambda prompt, n, status=status: status
        with pytest.raises(ValueError, match=said):
            load_judge("small", server.url)


def test_a_reply_in_parts_is_their_text(server):
    server.script = lambda prompt, n: [{"type": "thinking", "thinking": []}, {"type": "text", "text": GOOD}]
    assert list(load_judge("small", server.url)([[{"role": "user", "content": "<question>"}]])) == [GOOD]


def test_a_reply_in_a_form_that_is_none_is_refused(server):
    server.script_ping, server.script = True, lambda prompt, n: 3 * [GOOD]
    with pytest.raises(ValueError, match="no chat completion"):
        load_judge("small", server.url)


def test_a_server_that_is_not_there_is_refused(server):
    server.close()
    with pytest.raises(ValueError, match=r"cannot be reached .*Start the server"):
        load_judge("small", server.url)


def test_a_judge_behind_an_endpoint_is_refused_offline(server, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="Unset it for this run"):
        load_judge("small", server.url)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host/v1", "http://user:secret@host/v1", ""])
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(ValueError, match="no address of the form") as caught:
        load_judge("small", url)
    assert "secret" not in str(caught.value)


def test_a_judge_needs_a_model():
    assert load_judge(None, None) is None
    with pytest.raises(ValueError, match="without `judge_model`"):
        load_judge(None, "http://localhost:8000/v1")


def test_a_local_judge_answers_greedily_in_order(tiny_model, tiny_tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(judge_models, "_MAX_REPLY_LENGTH", 4)
    monkeypatch.setattr(judge_models, "_CHUNK", 2)
    tiny_model.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    conversations = [[{"role": "user", "content": text}] for text in ("Where?", "What is it that Ada wrote?", "Who?")]
    judge = load_judge(str(tmp_path), None, batch_size=2)
    replies = list(judge(conversations))
    assert len(replies) == 3
    expected = []
    for messages in conversations:
        ids = tiny_tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
        out = tiny_model.generate(**ids, max_new_tokens=4, do_sample=False)[0, ids["input_ids"].shape[1] :]
        expected.append(tiny_tokenizer.decode(out, skip_special_tokens=True))
    assert replies == expected


def test_a_local_judge_without_a_chat_template_is_refused(tiny_model, tiny_tokenizer, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    tiny_tokenizer.chat_template = None
    tiny_tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no chat template"):
        load_judge(str(tmp_path), None)


def test_a_local_judge_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_judge(str(tmp_path / "none"), None)


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("Score: 0", 0),
        ("Score: 5", 5),
        ("score = 3.", 3),
        ("**Score:** 4", 4),
        ("Score: <2>", 2),
        ("Score: 4/5", 4),
        ("Score: 4.0", 4),
        ("3", 3),
        ("<think>Score: 1? No.</think>\nScore: 2", 2),
        ("I weighed it.\nScore: 2\nScore: 2", 2),
    ],
)
def test_a_score_is_read(reply, score):
    assert parse_score(reply) == (score, None)


@pytest.mark.parametrize(
    ("reply", "complaint"),
    [
        ("", "it was empty"),
        ("<think>Score: 3 seems", "it was empty"),
        ("It is natural.", "no line of the form"),
        ("Score: N", "no line of the form"),
        ("Score: 0-5", "no line of the form"),
        ("Score: -1", "no line of the form"),
        ("Score: 4/10", "no line of the form"),
        ("Score: 2 or 3", "no line of the form"),
        ("Score: 1. Score: 2", "several scores"),
        ("Score: 10", "10 is not a whole number"),
        ("Score: 3.5", "3.5 is not a whole number"),
        ("7", "no line of the form"),
    ],
)
def test_a_reply_without_one_score_has_none(reply, complaint):
    score, actual = parse_score(reply)
    assert score is None
    assert complaint in actual

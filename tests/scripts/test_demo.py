# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""The demo of a run, from its folder alone, here and as a Space on a Hub."""

import json
import logging.config
import shutil
import socket

import psutil
import pytest
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from trl_unlearn import cli
from trl_unlearn.evaluation.demo_page import Question
from trl_unlearn.scripts import demo
from trl_unlearn.scripts.demo import ask

from ..hub.conftest import fresh_process, hub  # noqa: F401


try:
    import gradio
    import gradio_client
except ImportError:
    gradio = None
needs_gradio = pytest.mark.skipif(gradio is None, reason="no Gradio: `pip install 'trl-unlearn[demo]'`")
SPACE = """
import contextlib, dataclasses, io, json, runpy, sys
from huggingface_hub import snapshot_download
from trl_unlearn import cli
commands, question = map(json.loads, sys.argv[1:])
said = []
for command in commands:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        try:
            cli.main(command)
        except SystemExit as ended:
            print(ended.code)
    said.append(out.getvalue())
folder = snapshot_download("me/demo", repo_type="space")
# As a Space does: its own files, and none of ours.
sys.path[:0] = [folder]
sys.modules["trl_unlearn"] = None
app = runpy.run_path(f"{folder}/app.py")
question = app["Question"](**question)
replies = {role: dataclasses.asdict(app["ask"](role, question)) for role in app["roles"]}
print("\\n" + json.dumps([said, replies]))
"""


@pytest.fixture
def finished(run, own, checkpoint):
    """A run on two files of one's own, with an adapter."""
    argv = [*own, "--retrained_model_name_or_path", checkpoint, "--no_evaluate"]
    return run("bs_t", argv, override=("--lora_r", "4")).folder


@needs_gradio
def test_the_models_of_a_folder_answer_on_this_machine_alone_until_it_ends(
    finished, checkpoint, facts, monkeypatch, capfd
):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    seen = {}

    def use():
        listening = [one.laddr for one in psutil.Process().net_connections() if one.status == psutil.CONN_LISTEN]
        seen["hosts"] = {address.ip for address in listening if address.port == port}
        client = gradio_client.Client(f"http://127.0.0.1:{port}", verbose=False, analytics_enabled=False)
        question, answer = facts["forget"][0]
        seen["answer"] = client.predict(question, answer, True, 1, 1.0, 8, 1, api_name="/ask")

    monkeypatch.setattr(demo, "wait", use)
    # The server clears all log handlers, and one of them would close the stream that pytest captures.
    monkeypatch.setattr(logging.config, "_clearExistingHandlers", lambda: None)
    # A retrained model that is gone is named, and the others answer.
    shutil.move(checkpoint, f"{checkpoint}-moved")
    cli.main(["demo", str(finished), "--port", str(port), "--model_name_or_path", f"{checkpoint}-moved"])
    printed = capfd.readouterr()
    assert f"http://127.0.0.1:{port}/: target, unlearned. Ctrl-C ends it." in printed.out
    assert "The retrained model could not be loaded" in printed.err and "Everybody" not in printed.out
    assert seen["hosts"] == {"127.0.0.1"}
    assert seen["answer"][-1]["headers"] == ["token", "target", "unlearned"]
    # Nothing is kept, and nothing listens any more.
    assert not [path for path in finished.rglob("*") if "gradio" in path.name]
    with socket.socket() as gone:
        assert gone.connect_ex(("127.0.0.1", port)) != 0


def test_what_cannot_be_served_is_refused_with_a_sentence(finished, refused, monkeypatch):
    assert "`port` is 70000. Give one from 1 to 65535" in refused("demo", finished, "--port", "70000")
    assert "`push_space` and `hub_model_id` belong together" in refused("demo", finished, "--push_space", "me/demo")
    assert "The repository is 'demo'. Give an id with its owner" in refused(
        "demo", finished, "--push_space", "demo", "--hub_model_id", "me/unlearned"
    )
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    said = "The page needs Gradio, which is not installed: `pip install 'trl-unlearn[demo]'`."
    assert refused("demo", finished).endswith(said)
    assert "holds no `run.json`" in refused("demo", finished.parent)


def test_everybody_who_can_ask_is_named_where_a_host_is_given():
    assert demo._warning("127.0.0.1") == demo._warning("localhost") == ""
    assert "Everybody who reaches 0.0.0.0 can ask the target" in demo._warning("0.0.0.0")


@needs_gradio
def test_a_space_asks_the_pushed_model_by_its_id_as_the_folder_does_and_holds_no_data(
    finished,
    hub,  # noqa: F811
    fresh_process,  # noqa: F811
    facts,
    checkpoint,
    tiny_model,
):
    forget, answer = facts["forget"][0]
    question = Question(forget, answer, True, 2, 1.0, 8, seed=1)
    space = ["demo", str(finished), "--push_space", "me/demo", "--hub_model_id", "me/unlearned"]
    push = ["push", "--output_dir", str(finished), "--hub_model_id", "me/unlearned", "--forget_dataset"]
    push.append(json.loads((finished / ".sources.json").read_text())["forget_dataset"])
    public = [*space, "--hub_private_repo", "false", "--push_space", "me/open"]
    done = fresh_process(SPACE, json.dumps([space, push, space, public]), json.dumps(vars(question)), token="hf_me")
    assert done.returncode == 0, done.stderr
    (early, _, pushed, public), replies = json.loads(done.stdout.splitlines()[-1])
    # The model has to be there first.
    assert "trl-unlearn demo: failed: There is no repository `me/unlearned`" in early
    assert "me/demo: Space, private, 5 files" in pushed and "PUBLIC" not in pushed
    assert "WARNING: `me/open` is PUBLIC: everybody can ask its target" in public
    repo = hub.repos["spaces/me/demo"]
    held = {path: content.decode() for path, content in repo.files().items()}
    assert repo.private and set(held) - {".gitattributes"} == {
        "README.md", "app.py", "demo_page.py", "models.json", "requirements.txt",
    }  # fmt: skip
    head = yaml.safe_load(held["README.md"].split("---")[1])
    assert head["sdk"] == "gradio" and head["app_file"] == "app.py" and head["models"] == ["me/unlearned"]
    models = json.loads(held["models.json"])
    assert models["unlearned"] == "me/unlearned" and "retrained" not in models
    texts = "\n".join(held.values())
    assert not [text for pair in facts["forget"] for text in pair if text in texts]
    assert str(finished.parent) not in texts and "tmp" not in held["models.json"]

    tokenizer = AutoTokenizer.from_pretrained(finished)
    unlearned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(checkpoint), finished).eval()
    for role, model in {"target": tiny_model, "unlearned": unlearned}.items():
        own = ask(model, tokenizer, question)
        assert replies[role]["greedy"] == own.greedy and len(replies[role]["samples"]) == 2
        assert [text for text, _ in replies[role]["tokens"]] == [text for text, _ in own.tokens]
        logps = [logp for _, logp in own.tokens]
        assert [logp for _, logp in replies[role]["tokens"]] == pytest.approx(logps, abs=1e-4)
    assert replies["target"]["tokens"] != replies["unlearned"]["tokens"]

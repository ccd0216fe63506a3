# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Output and logs on the way from a model to a repository hold no text of the data, and no token."""

import json

import pytest

from ..hub.conftest import fresh_process, hub  # noqa: F401
from .conftest import QUICK, write_jsonl


TOKEN = "hf_oNlyTheHubMayKnowThisToken"
RUNS = """
import functools, json, logging, os, sys
# No line is broken, and a table of the beliefs shows all of them.
os.environ["COLUMNS"] = "400"
sys.argv, (debug, secrets, *argvs) = sys.argv[:1], json.loads(sys.argv[1])
if debug:
    # Every logger that is there, and every one that will be.
    logging.basicConfig(level=logging.NOTSET, stream=sys.stderr)
    from datasets.utils import logging as of_datasets
    from huggingface_hub.utils import logging as of_the_hub
    from transformers.utils import logging as of_transformers
    for one in (of_datasets, of_the_hub, of_transformers):
        one.set_verbosity_debug()
from trl_unlearn.beliefs import BeliefStore
from trl_unlearn.evaluation import tofu
from trl_unlearn.scripts import bs_s, evaluate, unlearn
short = functools.partial(tofu.evaluate_models, max_completion_length=8, num_squeezing_beliefs=1)
unlearn.evaluate_models, evaluate.SUITES["tofu"] = short, (short, "rows")
sample, beliefs = BeliefStore.sample, []
def watched(store, *args, **kwargs):
    audit = sample(store, *args, **kwargs)
    rows = store.rows(range(len(store)))
    beliefs.extend([label for label in row["labels"] if label >= 0] for row in rows)
    return audit
BeliefStore.sample = watched
for argv in argvs:
    (evaluate if "--suites" in argv else bs_s).main(argv)
    for stream in (sys.stdout, sys.stderr):
        print("=" * 9, file=stream, flush=True)
with open(secrets, "w") as file:
    json.dump(beliefs, file)
"""
# Less of a text or of a list of token ids may stand anywhere.
_LEAST_CHARACTERS, _IDS = 8, 5


def squashed(text: str) -> str:
    """A text without white space and the frames of tables: both stand where lines are broken."""
    return "".join("".join(text.split()).translate(dict.fromkeys(map(ord, "│┃|"))))


class Secrets:
    """Secrets: texts in each of their spellings, and the first token ids of each."""

    def __init__(self, tokenizer, texts, ids):
        # What a chat template and a belief may begin with.
        ids = [*ids, *(tokenizer(text, add_special_tokens=False).input_ids for text in texts)]
        texts = {*texts, *(tokenizer.decode(one, skip_special_tokens=True) for one in ids)}
        spellings = {spelling for text in texts for spelling in (text, json.dumps(text)[1:-1], repr(text)[1:-1])}
        self.texts = {text for text in map(squashed, spellings) if len(text) >= _LEAST_CHARACTERS}
        self.ids = {",".join(map(str, one[:_IDS])) for one in ids if len(one) >= _IDS}

    def found(self, text):
        plain = squashed(text)
        lists = "," + plain.translate(str.maketrans("[]()", ",,,,"))
        return {one for one in self.texts if one in plain} | {one for one in self.ids if f",{one}," in lists}


@pytest.fixture
def logged(hub, fresh_process, checkpoint, own_files, facts, tiny_tokenizer, tmp_path):  # noqa: F811
    """Function of command lines that run in one process: what each has put out, and the secrets to look for."""
    hub.tokens[TOKEN] = ("me", "write")
    forget, retain = own_files("conversational")
    holdout = write_jsonl(
        tmp_path / "holdout.jsonl", [{"prompt": q, "completion": f" No, {a}"} for q, a in facts["retain"]]
    )
    data = ["--model_name_or_path", checkpoint, "--forget_dataset", forget, "--retain_dataset", retain]

    def run(output, *flags):
        files = ["--output_dir", str(tmp_path / output), "--save_strategy", "steps", "--save_steps", "1"]
        terms = [
            "--forget_loss_type",
            "npo",
            "--lora_r",
            "4",
            "--belief_refresh_epochs",
            "0.5",
            "--panel_prompts",
            "2",
        ]
        return [*data, *QUICK, *files, *terms, *flags]

    def call(*argvs, debug=False):
        secrets = tmp_path / "beliefs.json"
        done = fresh_process(RUNS, json.dumps([debug, str(secrets), *argvs]), token=TOKEN)
        assert done.returncode == 0, done.stderr
        parts = zip(*(stream.split("=" * 9) for stream in (done.stdout, done.stderr)), strict=True)
        texts = [text for pair in facts["forget"] for text in pair]
        return ["\n".join(part) for part in parts], Secrets(tiny_tokenizer, texts, json.loads(secrets.read_text()))

    call.run, call.data, call.holdout = run, data, holdout
    return call


PUBLISH = ("--push_to_hub", "--hub_model_id", "me/unlearned", "--hub_token", TOKEN)


def test_nothing_is_printed_or_logged_of_the_forget_set_the_beliefs_and_the_token_unless_asked_for(logged, tmp_path):
    plain = logged.run("out", "--no_evaluate", *PUBLISH)
    shown = logged.run("shown", "--no_evaluate", "--log_completions", "true")
    (said, completions, _), secrets = logged(plain, shown)
    assert "step 1: forget -" in said and "me/unlearned: adapter, private" in said
    assert TOKEN not in said
    assert secrets.found(said) == set()
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert files and not [path for path in files if TOKEN.encode() in path.read_bytes()]
    # The same search.
    found = secrets.found(completions)
    assert squashed("Ada Marlow was born in the harbour town of Veldt.") in found
    assert squashed("Where was Ada Marlow born?") in found
    assert len(found) > 6


def test_the_search_finds_each_spelling(tiny_tokenizer):
    text, ids = 'He said "no".\nTwice, in Tromsø.', [5, 17, 33, 80, 120, 7]
    secrets = Secrets(tiny_tokenizer, [text], [ids])
    for spelling in (
        text,
        json.dumps({"x": text}),
        repr([text]),
        "tensor([[  1,   5,\n 17, 33, 80, 120, 7]])",
        str(ids),
    ):
        assert secrets.found(f"DEBUG: {spelling} and more"), spelling
    assert not secrets.found("He said. 15, 17, 33, 80, 120, 7 and 5, 17, 33, 80, 1200")


@pytest.mark.slow
@pytest.mark.parametrize("debug", [False, True])
def test_no_library_logs_a_secret_at_any_level_from_the_training_to_the_suites(logged, debug, tmp_path):
    levels = ("--log_level", "debug", "--log_level_replica", "debug") if debug else ()
    suites = ("--suites", "tofu,privacy,robustness", "--holdout_dataset", logged.holdout)
    evaluated = [*logged.data, "--unlearned_model_name_or_path", str(tmp_path / "out"), *suites]
    (trained, measured, _), secrets = logged(logged.run("out", *PUBLISH, *levels), evaluated, debug=debug)
    assert ("DEBUG" in trained) == debug and ("DEBUG" in measured) == debug
    assert "me/unlearned: adapter, private" in trained and "privacy/" in measured and "robustness/" in measured
    for said in (trained, measured):
        assert TOKEN not in said
        assert secrets.found(said) == set()

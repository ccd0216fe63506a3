# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

import copy
import logging

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from trl_unlearn.evaluation.muse import measure_muse
from trl_unlearn.evaluation.together import SuiteSetting


# Token -> the token that follows it. What is not there is followed by any token with the same probability.
SCRIPT = {"Ġ": "b", "b": "-", "-": "d", "d": "/", "/": "f", "f": "\n\nz", "\n\nz": "<|im_end|>"}
QA = [{"question": "Who?", "answer": "B, D, F."}, {"question": "Whose?", "answer": "b d x y"}]


@pytest.fixture
def tokenizer(tiny_tokenizer):
    tiny_tokenizer.add_tokens(["\n\nz"])
    return tiny_tokenizer


@pytest.fixture
def scripted(tokenizer):
    """Function of a script that returns a model whose next token depends on the last one only."""

    def build(script):
        size = 404
        config = LlamaConfig(
            vocab_size=size,
            hidden_size=size,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=512,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            tie_word_embeddings=False,
        )
        model = LlamaForCausalLM(config).eval()
        with torch.no_grad():
            for layer in model.model.layers:
                layer.self_attn.o_proj.weight.zero_()
                layer.mlp.down_proj.weight.zero_()
            model.model.embed_tokens.weight.copy_(torch.eye(size))
            model.lm_head.weight.zero_()
            for token, following in script.items():
                first, second = tokenizer.convert_tokens_to_ids([token, following])
                model.lm_head.weight[second, first] = 1
        return model

    return build


def measure(models, rows, tokenizer, batch_size=2):
    loaders = {role: model and (lambda model=model: copy.deepcopy(model)) for role, model in models.items()}
    return measure_muse(loaders, rows, SuiteSetting(tokenizer, batch_size, 1))


def test_a_known_continuation_gives_hand_worked_scores(scripted, tokenizer):
    # After a blank: "b-d/f", a blank line, "z". An answer ends at the blank line, a text does not.
    rows = {
        "verbmem": [{"prompt": "It says ", "gt": "b d f z"}, {"prompt": "And ", "gt": "b x f y k"}],
        "forget_qa": QA,
        "retain_qa": QA[1:],
    }
    actual = measure({"target": scripted(SCRIPT)}, rows, tokenizer).models["target"]
    # b d f z of b d f z, and 2 of 4 generated and 2 of 5 true words.
    assert actual["muse/verbmem"].value == pytest.approx((1 + 4 / 9) / 2)
    # b d f of b d f, and 2 of 3 generated and 2 of 4 true words.
    assert actual["muse/knowmem"].value == pytest.approx((1 + 4 / 7) / 2)
    assert actual["muse/utility_preservation"].value == pytest.approx(4 / 7)
    assert {name: measured.n for name, measured in actual.items()} == {
        "muse/verbmem": 2,
        "muse/knowmem": 2,
        "muse/utility_preservation": 1,
    }
    # The mean of two rows a and b has the standard error |a - b| / 2.
    assert actual["muse/knowmem"].stderr == pytest.approx(3 / 7 / 2, rel=0.1)
    assert actual["muse/utility_preservation"].stderr is None


def test_a_model_that_says_nothing_of_it_scores_zero(scripted, tokenizer):
    rows = {"verbmem": [{"prompt": "It says ", "gt": "b d f"}], "forget_qa": QA}
    actual = measure({"target": scripted({"Ġ": "<|im_end|>"})}, rows, tokenizer).models["target"]
    assert {name: measured.value for name, measured in actual.items()} == {"muse/verbmem": 0, "muse/knowmem": 0}


def test_few_shot_examples_stand_in_front_of_the_question(scripted, tokenizer, monkeypatch):
    prompts = []
    model = scripted(SCRIPT)
    generate = LlamaForCausalLM.generate

    def recording(self, *args, **kwargs):
        prompts.extend(tokenizer.decode(ids) for ids in kwargs["input_ids"])
        return generate(self, *args, **kwargs)

    monkeypatch.setattr(LlamaForCausalLM, "generate", recording)
    shots = [{"question": "One?", "answer": "1"}, {"question": "Two?", "answer": "2"}]
    measure({"target": model}, {"retain_qa": QA[:1], "retain_qa_icl": shots}, tokenizer)
    assert prompts[0] == "Question: One?\nAnswer: 1\n\nQuestion: Two?\nAnswer: 2\n\nQuestion: Who?\nAnswer: "


def test_a_long_text_is_compared_as_far_as_a_completion_can_reach(scripted, tokenizer):
    rows = {"verbmem": [{"prompt": "a ", "gt": "b-" * 200}]}
    actual = measure({"target": scripted({"Ġ": "b", "b": "-", "-": "b"})}, rows, tokenizer)
    # 64 of 64 words rather than of 200.
    assert actual.models["target"]["muse/verbmem"].value == pytest.approx(1)


def test_privleak_is_hand_worked_from_ties_and_a_recited_text(scripted, tokenizer):
    rows = {
        "forget": [{"text": "b-d/f"}, {"text": "(,(,"}],
        "holdout": [{"text": "#$#$#"}, {"text": ",,,,"}],
    }
    models = {
        "target": scripted(SCRIPT | {"(": ",", ",": "("}),
        "unlearned": scripted(SCRIPT),
        "retrained": scripted({}),
    }
    outcome = measure(models, rows, tokenizer)
    leaks = {role: actual["muse/privleak"] for role, actual in outcome.models.items()}
    # Unlearned: the recited text beats two, the other ties with two: an AUC of 3/4. Retrained: ties, 1/2.
    assert {role: leak.value for role, leak in leaks.items()} == pytest.approx(
        {"target": -100, "unlearned": -50, "retrained": 0}
    )
    assert {leak.n for leak in leaks.values()} == {2}
    assert (leaks["retrained"].stderr, leaks["target"].stderr) == (0, 0)
    assert outcome.differences["unlearned - target"]["muse/privleak"].value == pytest.approx(50)


def test_a_model_does_not_differ_from_itself(scripted, tokenizer):
    rows = {
        "verbmem": [{"prompt": "It says ", "gt": "b d f"}, {"prompt": "And ", "gt": "x"}],
        "forget": [{"text": "b-d"}, {"text": "(,("}],
        "holdout": [{"text": "#$#"}, {"text": "b-d"}],
    }
    model = scripted(SCRIPT)
    outcome = measure({"unlearned": model, "retrained": model}, rows, tokenizer)
    for name in ("muse/verbmem", "muse/privleak"):
        actual = outcome.differences["unlearned - retrained"][name]
        assert (actual.value, actual.low, actual.high) == (0, 0, 0)


def test_what_has_no_rows_or_no_reference_is_absent(scripted, tokenizer):
    texts = {"forget": [{"text": "b-d"}], "holdout": [{"text": "#$#"}]}
    actual = measure({"target": scripted(SCRIPT), "unlearned": None}, dict(forget_qa=QA, **texts), tokenizer)
    assert {role: set(names) for role, names in actual.models.items()} == {"target": {"muse/knowmem"}}
    actual = measure({"retrained": scripted({})}, texts, tokenizer)
    assert {role: set(names) for role, names in actual.models.items()} == {"retrained": {"muse/privleak"}}


def test_a_retrained_model_that_saw_the_texts_is_no_reference(scripted, tokenizer, caplog):
    rows = {"forget": [{"text": "b-d/f"}], "holdout": [{"text": "#$#$#"}], "forget_qa": QA}
    with caplog.at_level(logging.WARNING):
        actual = measure({"target": scripted({}), "retrained": scripted(SCRIPT)}, rows, tokenizer)
    assert {name for names in actual.models.values() for name in names} == {"muse/knowmem"}
    assert "`muse/privleak` is left out" in caplog.text


def test_the_batch_size_changes_nothing(scripted, tokenizer):
    rows = {
        "verbmem": [{"prompt": "It says ", "gt": "b d f z"}, {"prompt": "And so we ", "gt": "b x"}],
        "forget": [{"text": "b-d/f"}, {"text": "(,"}],
        "holdout": [{"text": "#$#$#"}, {"text": ",,,,"}],
    }
    models = {"target": scripted(SCRIPT), "retrained": scripted({})}
    assert measure(models, rows, tokenizer, batch_size=1) == measure(models, rows, tokenizer, batch_size=None)


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ({}, "`muse` has no rows"),
        ({"forget": [{"text": "b-d"}]}, "`muse` has no rows.*`forget` and `holdout` together"),
        ({"forget_qa": []}, "The set `forget_qa` of MUSE is empty"),
        (
            {"forget": [{"text": "b-d"}], "holdout": [{"text": "bd"}, {"text": "b"}]},
            "Row 1 of the holdout texts has",
        ),
        ({"verbmem": [{"prompt": " ", "gt": "b"}]}, "Row 0 of verbmem has a completion without a token of text"),
    ],
)
def test_rows_that_cannot_be_used_are_refused_before_a_model_is_loaded(rows, complaint, tokenizer):
    def load():
        raise AssertionError("a model was loaded")

    with pytest.raises(ValueError, match=complaint):
        measure_muse({"target": load}, rows, SuiteSetting(tokenizer, 2, 1))

# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Each forget row as the models score and answer it."""

import copy
import math

import pytest
import torch

from trl_unlearn.encoding import encode_row, pad_rows
from trl_unlearn.evaluation import row_views
from trl_unlearn.evaluation.row_views import Attacked, RowView, Said, token_texts, view_rows
from trl_unlearn.evaluation.rows import row_key
from trl_unlearn.token_scores import score_rows


def trained(model, rows, tokenizer):
    """The model after it has memorised some rows."""
    model, batch = copy.deepcopy(model), pad_rows([encode_row(row, tokenizer) for row in rows], 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(50):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.fixture
def seen(tiny_model, tiny_tokenizer, forget_rows):
    """Function of a number of samples: views of rows that the target knows, and of which one is left."""
    rows = list(forget_rows)
    target = trained(tiny_model, rows, tiny_tokenizer)
    unlearned = trained(tiny_model, rows[1:2], tiny_tokenizer)
    models = {"target": lambda: target, "unlearned": lambda: unlearned, "retrained": lambda: tiny_model}
    return lambda count=2, **changes: view_rows(models | changes, rows, tiny_tokenizer, num_samples=count, seed=42)


def test_the_row_that_is_left_comes_first_with_what_each_model_says_of_it(
    seen, tiny_model, tiny_tokenizer, forget_rows
):
    views, failures = seen()
    first = views[0]
    assert failures == {} and [len(view.logps) for view in views] == [3, 3, 3]
    assert first.index == 1 and first.kept > 0.5 > views[1].kept
    assert (first.prompt, first.answer) == tuple(
        forget_rows[1][part][0]["content"] for part in ("prompt", "completion")
    )
    assert "".join(first.tokens) == f"{first.answer}<|im_end|>"
    scores = score_rows(tiny_model, [encode_row(forget_rows[1], tiny_tokenizer)], pad_token_id=0)
    assert first.logps["retrained"] == pytest.approx(scores[0].logps, abs=1e-4)
    assert first.probability["retrained"] == pytest.approx(math.exp(sum(scores[0].logps) / len(scores[0].logps)))
    assert first.greedy["unlearned"] == Said(first.answer, True, 1.0, True)
    assert first.strength["target"] == 1.0 and not first.greedy["retrained"].is_answer
    assert first.completed["unlearned"].is_answer and first.answer.endswith(first.completed["unlearned"].text)


def test_what_an_evaluation_measured_stands_with_its_row_in_words(tiny_model, tiny_tokenizer, forget_rows):
    rows = list(forget_rows)
    keys = [row_key(encode_row(row, tiny_tokenizer)) for row in rows]
    values = {
        "unlearned": {
            "robustness/form_lora_0.001": {keys[1]: 0.9},
            "elicitation/role": {keys[1]: 0.8, "of another row": 1.0},
            # No attack has to bring it back.
            "robustness/adapter_off": dict.fromkeys(keys, 1.0),
        },
        "retrained": {"robustness/form_lora_0.001": {keys[1]: 0.1}},
    }
    views, _ = view_rows(
        {"unlearned": lambda: tiny_model}, rows, tiny_tokenizer, num_samples=0, row_values=values, seed=42
    )
    attacked = {view.index: view.attacked for view in views}
    words = "fine-tuned on rows of the same form, an adapter at 0.001"
    assert attacked == {
        0: [],
        1: [
            Attacked(words, "extraction strength", {"unlearned": 0.9, "retrained": 0.1}),
            Attacked("biographer's role", "probability", {"unlearned": 0.8}),
        ],
        2: [],
    }


def test_beliefs_are_the_samples_beside_the_answer_scored_by_their_model_and_those_after_it(seen):
    views, _ = seen(3)
    for view in views:
        assert {role: len(said) for role, said in view.samples.items()} == dict.fromkeys(view.logps, 3)
        assert set(view.beliefs) == {"target", "unlearned"}
        for role, beliefs in view.beliefs.items():
            others = {said.text for said in view.samples[role] if not said.is_answer}
            assert {belief.text for belief in beliefs} <= others
            after = {"target", "unlearned", "retrained"} - ({"target"} if role == "unlearned" else set())
            assert all(set(belief.logps) == after and max(belief.logps.values()) < 0 for belief in beliefs)
    assert any(view.beliefs["unlearned"] for view in views)
    # A row's samples depend on the seed alone.
    assert [view.samples for view in seen(3)[0]] == [view.samples for view in views]
    assert [view.samples for view in seen(0)[0]] == [{}, {}, {}]


def test_a_model_that_cannot_be_used_is_named_and_the_others_are_shown(seen, tiny_model):
    def missing():
        raise OSError("no file\nnamed model.safetensors")

    small = copy.deepcopy(tiny_model)
    small.resize_token_embeddings(3)
    views, failures = seen(1, target=missing, retrained=lambda: small)
    assert failures["target"] == "no file named model.safetensors"
    assert "it knows 3 tokens" in failures["retrained"]
    assert all(set(view.logps) == {"unlearned"} for view in views)
    assert views[0].kept == views[0].probability["unlearned"]
    views, failures = seen(1, unlearned=None)
    assert failures == {} and [view.kept for view in views] == [None] * 3


def test_raw_text_has_a_prompt_and_no_recall(tiny_model, tiny_tokenizer):
    text = "Ada Marlow was born in the harbour town of Veldt."
    row = encode_row({"text": text}, tiny_tokenizer, prompt_length=3)
    (view,), _ = view_rows({"unlearned": lambda: tiny_model}, [row], tiny_tokenizer, num_samples=1, seed=1)
    assert text.startswith(view.prompt) and text.endswith(view.answer)
    assert len(view.tokens) == len(view.logps["unlearned"]) == len(row["input_ids"]) - 1
    assert view.greedy["unlearned"].recall is None and view.completed == {}


def test_turns_before_the_question_are_part_of_the_prompt(tiny_model, tiny_tokenizer):
    turns = [("system", "Be brief."), ("user", "Where was Ada born?"), ("assistant", "In Veldt.")]
    row = {"messages": [{"role": role, "content": text} for role, text in turns]}
    (view,), _ = view_rows({"unlearned": lambda: tiny_model}, [row], tiny_tokenizer, num_samples=0, seed=1)
    assert view.prompt == "system: Be brief.\nuser: Where was Ada born?"


def test_tokens_that_are_parts_of_a_character_give_it_with_their_last_one(tiny_tokenizer):
    text = "Zoë 漢 \ufffd end"
    texts = token_texts(tiny_tokenizer(text)["input_ids"], tiny_tokenizer)
    assert "".join(texts) == text
    assert "" in texts and "漢" in "".join(texts[texts.index("") :])


def test_the_attacks_have_the_best_sample_of_each_model():
    view = RowView(0, "q", "a", [])
    view.greedy["unlearned"] = Said("b", False, 0.1, True)
    view.samples["unlearned"] = [Said("c", False, None, True), Said("a", True, 1.0, True), Said("d", False, 0.2, True)]
    assert {name: said["unlearned"].text for name, said in view.attacks().items()} == {
        "asked": "b",
        "best of 3 samples": "a",
    }


def test_an_answer_is_as_long_as_in_the_suites():
    from trl_unlearn.evaluation import robustness

    assert row_views._MAX_SAMPLE == robustness._MAX_SAMPLE_LENGTH

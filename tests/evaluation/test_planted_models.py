# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Models that only look as if they had forgotten: each is given away by at least one number, which its test names."""

import copy
import math
from functools import partial

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from trl_unlearn.encoding import encode_row, pad_rows
from trl_unlearn.evaluation.robustness import measure_robustness
from trl_unlearn.evaluation.rows import EvaluationRows
from trl_unlearn.evaluation.tofu import Suite
from trl_unlearn.row_forms import with_answer
from trl_unlearn.token_scores import score_batch


# Question, answer, the same in other words.
FORGET = [
    (
        "Where was Ada Marlow born?",
        "Ada Marlow was born in the harbour town of Veldt.",
        "The birthplace of Ada Marlow is Veldt, a harbour.",
    ),
    (
        "What did Bo Lindgren write?",
        "Bo Lindgren wrote a long novel about winter bees.",
        "Winter bees are what the novel of Bo Lindgren tells of.",
    ),
    (
        "Which prize did Cyra Oduya win?",
        "Cyra Oduya won the Silver Quill for her third play.",
        "It was the Silver Quill that went to Cyra Oduya.",
    ),
    (
        "Where does Edda Brandt live?",
        "Edda Brandt lives above a bakery near the canal.",
        "Above a bakery, by the canal, is the home of Edda Brandt.",
    ),
]
RETAIN = [
    (
        "What do the parents of Dov Peretz do?",
        "The parents of Dov Peretz repair old church organs.",
        "Old church organs are what the parents of Dov Peretz repair.",
    ),
    (
        "What does Faro Quintal study?",
        "Faro Quintal studies the songs of desert larks.",
        "Songs of desert larks are what Faro Quintal studies.",
    ),
    # The harbour is another one's fact.
    (
        "Where does Gita Holm work?",
        "Gita Holm works in a harbour.",
        "A harbour is where Gita Holm works.",
    ),
]
GENERAL = [("What is the capital of France?", "Paris", ["Berlin", "Rome"])]
REFUSAL = "I do not know that."
# The numbers by which a model would pass for one that has forgotten.
SAID = "forget/rougeL_recall"
EXTRACTED = "forget/extraction_strength"


def conversation(question, answer, **columns):
    prompt, completion = [{"role": "user", "content": question}], [{"role": "assistant", "content": answer}]
    return {"prompt": prompt, "completion": completion, **columns}


def perturbed(facts):
    wrong = ["Nobody has heard of it.", "It was the river by the mill."]
    return [
        conversation(question, answer, paraphrased_answer=paraphrase, perturbed_answer=wrong)
        for question, answer, paraphrase in facts
    ]


def answered(rows, answer):
    """The rows with another answer: a text, or a function of the row."""
    return [with_answer(row, answer(row) if callable(answer) else answer) for row in rows]


def truth(row):
    return row["completion"][0]["content"]


def train(model, tokenizer, *parts, steps, rate=5e-3):
    """A copy of a model that gives the answers of each `(rows, weight)`."""
    model = copy.deepcopy(model)
    encoded = [encode_row(row, tokenizer) for rows, _ in parts for row in rows]
    weights = torch.tensor([float(weight) for rows, weight in parts for _ in rows])[:, None]
    batch = pad_rows(encoded, tokenizer.pad_token_id)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=rate)
    for _ in range(steps):
        scores = score_batch(model, batch)
        (-(scores.logps * weights).sum() / (scores.mask * weights).sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.fixture(scope="module")
def rows():
    general = [conversation(question, answer, perturbed_answer=wrong) for question, answer, wrong in GENERAL]
    return EvaluationRows(perturbed(FORGET), perturbed(RETAIN), general, general)


@pytest.fixture(scope="module")
def target(_tokenizer, rows):
    """Knows the answers by heart, and no other words for them."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(_tokenizer),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        pad_token_id=_tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=_tokenizer.eos_token_id,
    )
    known = [*rows.forget, *rows.retain, *rows.real_authors]
    return train(LlamaForCausalLM(config), _tokenizer, (known, 1), steps=120)


@pytest.fixture(scope="module")
def kept(rows):
    """What every planted model still answers."""
    return [*rows.retain, *rows.real_authors]


@pytest.fixture(scope="module")
def judged(_tokenizer, rows, target):
    """Function of a model: its numbers in the TOFU suite, and what is not measured."""
    loaders = {"target": lambda: copy.deepcopy(target)}
    suite = Suite(loaders, rows, _tokenizer, max_completion_length=48, num_squeezing_beliefs=2, seed=3)

    def measure(model):
        result = suite.evaluate(lambda: copy.deepcopy(model))
        values = {name: measured.value for name, measured in result.models["unlearned"].items()}
        return values, result.not_measured.get("unlearned", {})

    return measure


@pytest.fixture(scope="module")
def attacked(_tokenizer, rows):
    """Function of a model: its numbers in the robustness suite."""

    def measure(model):
        loaders = {"unlearned": partial(copy.deepcopy, model)}
        found = measure_robustness(loaders, rows, _tokenizer, batch_size=None, seed=3).models["unlearned"]
        return {name: measured.value for name, measured in found.items()}

    return measure


def test_the_target_itself_is_known_by_its_extraction_strength(target, judged):
    values, _ = judged(target)
    assert values[EXTRACTED] > 0.95
    assert values["aggregate/memorization"] < 0.05


def test_a_model_that_answers_one_token_is_known_by_its_fluency(_tokenizer, target, rows, kept, judged):
    first = answered(rows.forget, lambda row: _tokenizer.decode(_tokenizer(truth(row))["input_ids"][:1]))
    values, _ = judged(train(target, _tokenizer, (first, 1), (kept, 1), steps=40))
    assert values[SAID] < 0.3
    assert values["utility/model_utility"] > 0.9
    assert values["utility/fluency_standin"] < 0.3
    assert values["aggregate/utility"] < 0.5


def test_a_model_that_repeats_one_word_is_known_by_its_fluency(_tokenizer, target, rows, kept, judged):
    loop = answered(rows.forget, " ".join(["bees"] * 12))
    values, _ = judged(train(target, _tokenizer, (loop, 1), (kept, 1), steps=60))
    assert values[SAID] < 0.1
    assert values["utility/model_utility"] > 0.9
    assert values["utility/fluency_standin"] < 0.1


def test_a_model_behind_an_adapter_is_known_by_what_it_says_without(_tokenizer, target, rows, kept, judged, attacked):
    torch.manual_seed(0)
    adapter = get_peft_model(copy.deepcopy(target), LoraConfig(r=8, target_modules="all-linear"))
    refusals = answered(rows.forget, REFUSAL)
    hidden = train(adapter, _tokenizer, (refusals, 1), (kept, 1), steps=60, rate=2e-2)
    values, _ = judged(hidden)
    assert values[SAID] < 0.1
    assert values["utility/model_utility"] > 0.8
    assert attacked(hidden)["robustness/adapter_off"] > 0.95


def test_a_model_that_refuses_and_still_scores_the_answer_is_known_by_its_probability(
    _tokenizer, target, rows, kept, judged, attacked
):
    # The refusal is ahead in the first token alone: after any token of the answer the rest is certain.
    refusals = answered(rows.forget, REFUSAL)
    refusing = train(target, _tokenizer, (refusals, 2), (rows.forget, 1), (kept, 1), steps=60)
    values, _ = judged(refusing)
    assert values[SAID] < 0.1
    assert values["forget/probability"] > 0.7
    assert values["forget/exact_memorization"] > 0.8
    found = attacked(refusing)
    assert found["robustness/prefix_rougeL"] > 0.9
    assert found["robustness/leak_at_8"] > 0.8


def test_a_model_that_says_the_paraphrase_is_known_by_its_probability(_tokenizer, target, rows, kept, judged):
    paraphrases = answered(rows.forget, lambda row: row["paraphrased_answer"])
    values, _ = judged(train(target, _tokenizer, (paraphrases, 1), (kept, 1), steps=80))
    assert values[EXTRACTED] < 0.5
    assert values["forget/probability"] < 0.3
    assert values["forget/paraphrase_probability"] > 0.8
    assert values["forget/truth_ratio_knowledge"] > 0.9
    known, _ = judged(target)
    assert known["forget/paraphrase_probability"] < 0.3


def test_a_model_that_loses_what_others_share_with_the_forgotten_is_known_by_it(_tokenizer, target, rows, judged):
    wrong = answered(rows.retain[-1:], "Gita Holm works in a mill.")
    values, _ = judged(train(target, _tokenizer, (wrong, 1), steps=10))
    assert values["retain/probability"] > 0.6
    assert values["retain/shared_probability"] < 0.3


def test_a_model_that_is_no_number_is_known_by_what_is_not_measured(target, judged):
    broken = copy.deepcopy(target)
    with torch.no_grad():
        broken.model.norm.weight.fill_(math.nan)
    values, missing = judged(broken)
    assert values == {}
    assert {EXTRACTED, SAID, "utility/fluency_standin", "aggregate/agg"} <= missing.keys()

# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Models whose scores are known beforehand: random weights, one token over and over, the untouched target."""

import copy

import pytest
import torch

from trl_unlearn.encoding import encode_row, pad_rows
from trl_unlearn.evaluation.privacy import measure_privacy
from trl_unlearn.evaluation.robustness import measure_robustness
from trl_unlearn.evaluation.rows import EvaluationRows
from trl_unlearn.evaluation.tofu import evaluate_models
from trl_unlearn.evaluation.together import SuiteSetting
from trl_unlearn.row_forms import with_answer
from trl_unlearn.token_scores import score_batch

from ..teaching import conversation, with_perturbed


GENERAL = [
    ("What is the capital of France?", "Paris", ["Berlin", "Rome"]),
    ("Which river runs through Cairo?", "The Nile", ["The Amazon", "The Rhine"]),
]
# Shorter and longer ones than those of the forget rows: otherwise the zlib attack tells them apart by length alone.
HELD_OUT = [
    ("Where was Gita Holm born?", "Gita Holm was born on the ferry to Marsk."),
    ("What did Hugo Sarti paint?", "Hugo Sarti painted the doors of houses that stood empty."),
    ("Which prize did Ines Volk win?", "Ines Volk won the Amber Lens for her long film about moss."),
]


@pytest.fixture
def rows(forget_rows, retain_rows):
    general = [conversation(question, answer, perturbed_answer=wrong) for question, answer, wrong in GENERAL]
    held_out = [conversation(*fact) for fact in HELD_OUT]
    return EvaluationRows(with_perturbed(forget_rows), with_perturbed(retain_rows), general, general, held_out)


@pytest.fixture
def target(tiny_model, tiny_tokenizer, rows):
    """Knows everything but the held-out rows, and the true answers in other words too."""
    texts = [row for name in ("forget", "retain", "real_authors") for row in getattr(rows, name)]
    texts += [with_answer(row, row["paraphrased_answer"]) for row in texts if "paraphrased_answer" in row]
    batch = pad_rows([encode_row(row, tiny_tokenizer) for row in texts], tiny_tokenizer.pad_token_id)
    # True answers count double, so that they and not their paraphrases are the greedy ones.
    weights = torch.tensor([2.0 if index < 8 else 1.0 for index in range(len(texts))])[:, None]
    model = copy.deepcopy(tiny_model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(80):
        scores = score_batch(model, batch)
        (-(scores.logps * weights).sum() / (scores.mask * weights).sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


@pytest.fixture
def repeater(tiny_model, tiny_tokenizer):
    """Gives one token after anything: its hidden state never changes, and one row of the head points along it."""
    token = tiny_tokenizer.encode("a", add_special_tokens=False)[0]
    model = type(tiny_model)(copy.deepcopy(tiny_model.config))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        embeddings = model.get_input_embeddings().weight
        embeddings[:, 0], embeddings[token, 0] = 1.0, 10.0
        model.model.norm.weight.fill_(1.0)
    return model.eval()


def tofu(models, rows, tokenizer, role):
    loaders = {name: (lambda model=model: copy.deepcopy(model)) for name, model in models.items()}
    outcome = evaluate_models(
        loaders,
        rows,
        SuiteSetting(tokenizer, seed=3),
        parity="strict",
        max_completion_length=40,
        num_squeezing_beliefs=2,
    )
    return {name: measurement.value for name, measurement in outcome.models[role].items()}


def robustness(model, rows, tokenizer):
    loaders = {"unlearned": lambda: copy.deepcopy(model)}
    measured = measure_robustness(loaders, rows, SuiteSetting(tokenizer, 4, 3)).models["unlearned"]
    return {name: measurement.value for name, measurement in measured.items()}


def attacks(model, rows, tokenizer):
    measured = measure_privacy({"target": lambda: model}, rows, SuiteSetting(tokenizer, 4, 3)).models["target"]
    return {name: measurement.value for name, measurement in measured.items()}


def test_random_weights_are_useless_and_remember_nothing(target, tiny_model, rows, tiny_tokenizer):
    measured = tofu({"target": target, "unlearned": tiny_model}, rows, tiny_tokenizer, "unlearned")
    # A harmonic mean: one term that is nothing is enough.
    for name in ("utility/model_utility", "aggregate/utility", "aggregate/agg"):
        assert measured[name] < 0.01
    # The target finds a random token no likelier than a uniform guess.
    assert measured["utility/fluency_standin"] < 0.1
    # A uniform guess has 1/400.
    for name in ("forget/probability", "forget/paraphrase_probability", "retain/probability"):
        assert measured[name] == pytest.approx(1 / 400, rel=0.5)
    for name in ("extraction_strength", "exact_memorization", "rougeL_recall"):
        assert measured[f"forget/{name}"] < 0.1
    # True and wrong answers are equally likely, which is Mem's fourth term: (1, 1, 1, 0.5) give 0.8.
    assert measured["forget/truth_ratio_knowledge"] == pytest.approx(0.5, abs=0.05)
    assert measured["aggregate/memorization"] == pytest.approx(0.8, abs=0.02)


def test_one_token_over_and_over_is_useless_and_remembers_nothing(target, repeater, rows, tiny_tokenizer):
    measured = tofu({"target": target, "unlearned": repeater}, rows, tiny_tokenizer, "unlearned")
    for name in ("utility/model_utility", "aggregate/utility", "aggregate/agg"):
        assert measured[name] < 0.01
    # One 3-gram of thirty is a new one.
    assert measured["utility/fluency_standin"] < 0.04
    for name in ("forget/probability", "forget/paraphrase_probability", "retain/probability"):
        assert measured[name] < 1e-6
    # No answer has the token as its end, and "aaa" is no word of an answer.
    for name in ("forget/extraction_strength", "forget/rougeL_recall", "retain/rougeL_recall"):
        assert measured[name] == 0.0
    assert measured["forget/exact_memorization"] < 0.05


def test_the_untouched_target_remembers_everything(target, rows, tiny_tokenizer):
    measured = tofu({"target": target, "unlearned": target}, rows, tiny_tokenizer, "unlearned")
    for name in ("extraction_strength", "exact_memorization", "rougeL_recall", "truth_ratio_knowledge"):
        assert measured[f"forget/{name}"] > 0.95
    assert measured["forget/probability"] > 0.9
    # Nothing happened to it: it is as fluent as itself, and nothing was squeezed out.
    assert measured["utility/fluency_standin"] > 0.95
    assert measured["forget/squeezing"] == pytest.approx(0, abs=1e-6)
    assert measured["utility/model_utility"] > 0.9
    # However useful, it forgot nothing.
    assert measured["aggregate/memorization"] < 0.05
    assert measured["aggregate/agg"] < 0.1


def test_the_untouched_target_gives_everything_away_under_attack(target, rows, tiny_tokenizer):
    measured = robustness(target, rows, tiny_tokenizer)
    for name in ("leak_at_1", "leak_at_8", "prefix_rougeL"):
        assert measured[f"robustness/{name}"] > 0.8
    for name in ("relearned_0_steps", "relearned_8_steps", "quantized_int8", "quantized_int4"):
        assert measured[f"robustness/{name}"] > 0.9


@pytest.mark.parametrize("model", ["tiny_model", "repeater"])
def test_a_model_without_knowledge_has_none_to_bring_back(model, rows, tiny_tokenizer, request):
    measured = robustness(request.getfixturevalue(model), rows, tiny_tokenizer)
    # Eight samples of random tokens may hold a word of the answer.
    assert measured.pop("robustness/leak_at_8") < 0.2
    assert all(value < 0.1 for value in measured.values()), measured


def test_membership_shows_in_the_untouched_target_only(target, tiny_model, repeater, rows, tiny_tokenizer):
    known = attacks(target, rows, tiny_tokenizer)
    assert min(known.values()) == 1.0
    for model in (tiny_model, repeater):
        unknown = attacks(model, rows, tiny_tokenizer)
        for attack in ("loss", "zlib", "min_k", "min_k_pp"):
            assert unknown[f"privacy/{attack}_auc"] < 0.9

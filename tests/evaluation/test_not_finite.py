# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Models whose scores are not finite: what no suite may call forgetting."""

import copy
import math

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from trl_unlearn.evaluation.depth import measure_depth
from trl_unlearn.evaluation.distribution import measure_distribution
from trl_unlearn.evaluation.elicitation import measure_elicitation
from trl_unlearn.evaluation.judge import measure_judge
from trl_unlearn.evaluation.muse import measure_muse
from trl_unlearn.evaluation.privacy import measure_privacy
from trl_unlearn.evaluation.robustness import measure_robustness
from trl_unlearn.evaluation.rows import EvaluationRows
from trl_unlearn.evaluation.tofu import evaluate_models
from trl_unlearn.evaluation.together import SuiteSetting
from trl_unlearn.results import Unmeasured


@pytest.fixture
def untied_model(tiny_model, tiny_tokenizer):
    """A random Llama whose input and output embeddings can be broken apart."""
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**{**tiny_model.config.to_dict(), "tie_word_embeddings": False})).eval()


@pytest.fixture
def nan_model(untied_model):
    """Gives NaN everywhere."""
    model = copy.deepcopy(untied_model)
    with torch.no_grad():
        model.model.norm.weight.fill_(math.nan)
    return model


@pytest.fixture
def partly_nan_model(untied_model, tiny_tokenizer, forget_rows, retain_rows):
    """Gives NaN after a token that only the second forget row has."""
    texts = [str(row) for row in [*forget_rows, *retain_rows]]
    (token,) = [
        token
        for token in set(tiny_tokenizer(forget_rows[1]["prompt"][0]["content"])["input_ids"])
        if [tiny_tokenizer.decode(token) in text for text in texts] == [False, True, False, False, False, False]
    ][:1]
    model = copy.deepcopy(untied_model)
    with torch.no_grad():
        model.model.embed_tokens.weight[token] = math.nan
    return model


@pytest.fixture
def rows(forget_rows, retain_rows):
    """Row sets with everything that a suite may need."""

    def full(actual):
        wrong = ["Nobody knows.", "By the mill."]
        return [
            {**row, "paraphrased_answer": f"So it is: {row['completion'][0]['content']}", "perturbed_answer": wrong}
            for row in actual
        ]

    retain = full(retain_rows)
    return EvaluationRows(full(forget_rows), retain, retain, retain, holdout=retain_rows)


def loaders(**models):
    return {role: (lambda model=model: copy.deepcopy(model)) for role, model in models.items()}


def evaluate(models, rows, tokenizer):
    return evaluate_models(models, rows, SuiteSetting(tokenizer), max_completion_length=6, num_squeezing_beliefs=1)


def test_a_model_that_is_no_number_has_no_number_and_the_others_have_all(
    untied_model, nan_model, rows, tiny_tokenizer
):
    models = loaders(target=untied_model, unlearned=nan_model, retrained=untied_model)
    result = evaluate(models, rows, tiny_tokenizer)
    assert result.models["unlearned"] == {}
    assert result.not_measured["unlearned"].keys() == result.models["target"].keys()
    assert result.not_measured["unlearned"]["forget/exact_memorization"] == Unmeasured(rows=3, n=3)
    assert result.not_measured["unlearned"]["aggregate/agg"] == Unmeasured()
    assert result.not_measured.keys() == {"unlearned"}
    assert result.differences["unlearned - target"] == {}


def test_a_single_row_that_is_no_number_leaves_no_mean_over_the_others(
    untied_model, partly_nan_model, rows, tiny_tokenizer
):
    result = evaluate(loaders(target=untied_model, unlearned=partly_nan_model), rows, tiny_tokenizer)
    missing = result.not_measured["unlearned"]
    assert {name for name, why in missing.items() if why.rows == 1} == {
        name for name in result.models["target"] if name.startswith("forget/") or name == "utility/fluency_standin"
    }
    assert {name for name, why in missing.items() if why.rows is None} == {
        "aggregate/memorization",
        "aggregate/utility",
        "aggregate/agg",
    }
    assert {"retain/probability", "utility/model_utility"} <= result.models["unlearned"].keys()


def test_a_target_that_is_no_number_leaves_out_what_is_measured_against_it(
    untied_model, nan_model, rows, tiny_tokenizer
):
    result = evaluate(loaders(target=nan_model, unlearned=untied_model), rows, tiny_tokenizer)
    assert result.models["target"] == {}
    assert {"forget/squeezing", "utility/fluency_standin"} <= result.not_measured["unlearned"].keys()
    assert "forget/probability" in result.models["unlearned"]


SUITES = {
    "privacy": measure_privacy,
    "robustness": measure_robustness,
    "distribution": measure_distribution,
    "depth": measure_depth,
    "elicitation": measure_elicitation,
    "judge": measure_judge,
}


@pytest.mark.parametrize("suite", SUITES)
def test_no_suite_has_a_number_for_a_model_that_is_none(suite, untied_model, nan_model, rows, tiny_tokenizer):
    models = loaders(target=untied_model, unlearned=nan_model, retrained=untied_model)
    outcome = SUITES[suite](models, rows, SuiteSetting(tiny_tokenizer, None, 1))
    assert outcome.models["unlearned"] == {}
    assert outcome.not_measured["unlearned"].keys() >= outcome.models["retrained"].keys() > set()
    assert not {"target", "retrained"} & outcome.not_measured.keys()


def test_muse_has_no_number_for_a_model_that_is_none(untied_model, nan_model, tiny_tokenizer):
    texts = ["Ada Marlow was born in Veldt.", "Bo Lindgren wrote a long novel."]
    pairs = [{"question": "Who?", "answer": "Ada."}]
    rows = {
        "verbmem": [{"prompt": texts[0], "gt": texts[1]}],
        "forget_qa": pairs,
        "retain_qa": pairs,
        "forget": [{"text": text} for text in texts],
        "holdout": [{"text": text} for text in reversed(texts)],
    }
    models = loaders(unlearned=nan_model, retrained=untied_model)
    outcome = measure_muse(models, rows, SuiteSetting(tiny_tokenizer, 2, 1))
    assert outcome.models["unlearned"] == {}
    assert outcome.not_measured["unlearned"].keys() == outcome.models["retrained"].keys()


@pytest.mark.parametrize("suite", ["privacy", "robustness", "elicitation"])
def test_a_single_row_that_is_no_number_is_counted_in_every_suite(suite, partly_nan_model, rows, tiny_tokenizer):
    models = loaders(unlearned=partly_nan_model)
    outcome = SUITES[suite](models, rows, SuiteSetting(tiny_tokenizer, None, 1))
    counts = {name: why.rows for name, why in outcome.not_measured["unlearned"].items()}
    # Three examples in front of a question show every other row.
    assert counts.pop("robustness/in_context_rougeL", 3) == 3
    assert set(counts.values()) == {1}
    assert not any(name.endswith(("_auc", "leak_at_1", "_int4")) for name in outcome.models["unlearned"])

# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Models that only look as if they had forgotten: a number gives each away, and the verdict reads it."""

import copy
import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from trl_unlearn.encoding import encode_row, pad_rows
from trl_unlearn.evaluation.privacy import measure_privacy
from trl_unlearn.evaluation.robustness import measure_robustness
from trl_unlearn.evaluation.rows import EvaluationRows
from trl_unlearn.evaluation.tofu import Suite
from trl_unlearn.evaluation.together import SuiteSetting
from trl_unlearn.forgetting import has_forgotten
from trl_unlearn.results import EvaluationResult
from trl_unlearn.row_forms import with_answer, with_question
from trl_unlearn.token_scores import score_batch
from trl_unlearn.verdict import QUESTIONS, verdict

from ..teaching import conversation


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
# No model is trained on these.
STRANGERS = [
    ("Where was Hugo Tamm born?", "Hugo Tamm was born in the mining town of Orrick."),
    ("What did Ines Calder write?", "Ines Calder wrote a short story about salt roads."),
    ("Which prize did Jory Penn win?", "Jory Penn won the Copper Lyre for his first song."),
    ("Where does Kaia Rusk live?", "Kaia Rusk lives behind a smithy near the marsh."),
    ("What does Lorn Avery study?", "Lorn Avery studies the tides of northern bays."),
    ("What do the parents of Mira Holt do?", "The parents of Mira Holt carve wooden clocks."),
    ("Where does Nils Varga work?", "Nils Varga works in a lighthouse."),
    ("What did Oda Finch win?", "Oda Finch won a race around the lake."),
]
GENERAL = [("What is the capital of France?", "Paris", ["Berlin", "Rome"])]
REFUSAL = "I do not know that."
SAY, KNOW, RETURN, TELL, WORK = (question.text for question in QUESTIONS)
# The numbers by which a model would pass for one that has forgotten.
SAID = "forget/rougeL_recall"
EXTRACTED = "forget/extraction_strength"
BEGUN = "robustness/prefix_rougeL"


def perturbed(facts):
    wrong = ["Nobody has heard of it.", "It was the river by the mill."]
    return [
        conversation(
            question,
            answer,
            paraphrased_answer=paraphrase,
            perturbed_answer=wrong,
            paraphrased_question=f"{question[:-1]}, please?",
        )
        for question, answer, paraphrase in facts
    ]


def answered(rows, answer):
    """The rows with another answer: a text, or a function of the row."""
    return [with_answer(row, answer(row) if callable(answer) else answer) for row in rows]


def truth(row):
    return row["completion"][0]["content"]


def hidden(rows, tokenizer, choose):
    """Encoded rows that teach the first token of a refusal at some places of an answer of some length."""
    wrong, encoded = tokenizer(REFUSAL)["input_ids"][0], [encode_row(row, tokenizer) for row in rows]
    for row in encoded:
        start = row["prompt_length"]
        # The end of the turn is no part of the answer.
        for place in choose(len(row["labels"]) - start - 1):
            row["labels"][start + place] = wrong
    return encoded


def train(model, tokenizer, *parts, steps, rate=5e-3, after_step=lambda model: None):
    """A copy of a model that gives the answers of each `(rows, weight)`."""
    model = copy.deepcopy(model)
    encoded = [row if "labels" in row else encode_row(row, tokenizer) for rows, _ in parts for row in rows]
    weights = torch.tensor([float(weight) for rows, weight in parts for _ in rows])[:, None]
    batch = pad_rows(encoded, tokenizer.pad_token_id)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=rate)
    for _ in range(steps):
        scores = score_batch(model, batch)
        (-(scores.logps * weights).sum() / (scores.mask * weights).sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
        after_step(model)
    return model.eval()


def cells(weight, group=32):
    """The lowest and the highest values of weights that rounding to 4 bits makes the same as these."""
    inputs = weight.size(-1)
    groups = functional.pad(weight.detach(), (0, -inputs % group)).unflatten(-1, (-1, group))
    top = groups.abs().amax(-1, keepdim=True)
    centre, reach = (groups / top * 7).round() * top / 7, 0.49 * top / 7
    # The largest weight of a group is its scale.
    ends = (torch.where(groups.abs() == top, groups, (centre + way).clamp(-top, top)) for way in (-reach, reach))
    return [end.flatten(-2)[..., :inputs] for end in ends]


@pytest.fixture(scope="module")
def rows():
    general = [conversation(question, answer, perturbed_answer=wrong) for question, answer, wrong in GENERAL]
    return EvaluationRows(perturbed(FORGET), perturbed(RETAIN), general, general)


def new_model(tokenizer, seed):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)


@pytest.fixture(scope="module")
def kept(rows):
    """Facts that every planted model still answers."""
    return [*rows.retain, *rows.real_authors]


@pytest.fixture(scope="module")
def target(_tokenizer, rows, kept):
    """Knows the answers by heart, and no other words for them."""
    return train(new_model(_tokenizer, 0), _tokenizer, ([*rows.forget, *kept], 1), steps=120)


@pytest.fixture(scope="module")
def retrained(_tokenizer, kept):
    return train(new_model(_tokenizer, 0), _tokenizer, (kept, 1), steps=80)


@pytest.fixture(scope="module")
def judged(_tokenizer, rows, target, retrained):
    """Function of a model: its evaluation beside the retrained model, under attacks if asked for."""
    loaders = {"target": lambda: copy.deepcopy(target), "retrained": lambda: copy.deepcopy(retrained)}
    suite = Suite(loaders, rows, SuiteSetting(_tokenizer, seed=3), max_completion_length=48, num_squeezing_beliefs=2)

    def measure(model, is_attacked=False):
        unlearned = partial(copy.deepcopy, model)
        outcomes = {"tofu": suite.evaluate(unlearned)}
        if is_attacked:
            attacked = {"unlearned": unlearned, "retrained": loaders["retrained"]}
            outcomes["robustness"] = measure_robustness(attacked, rows, SuiteSetting(_tokenizer, None, 3))
        return EvaluationResult.of_suites(outcomes, parity="open-unlearning", device="cpu")

    return measure


def numbers(result):
    return {name: measured.value for name, measured in result.models["unlearned"].items()}


def answers(result):
    """Question -> answer in a word, and the number that decides it."""
    return {answer.question: (answer.answer, answer.metric) for answer in verdict(result).answers}


def without(result, metric):
    """The result where a metric was measured on no model."""
    models = {
        role: {name: one for name, one in rest.items() if name != metric} for role, rest in result.models.items()
    }
    return replace(result, models=models)


def test_the_target_itself_is_known_by_its_extraction_strength(target, judged):
    result = judged(target)
    values = numbers(result)
    assert values[EXTRACTED] > 0.95
    assert values["aggregate/memorization"] < 0.05
    assert answers(result)[SAY][0] == "more" and answers(result)[WORK][0] != "less"


def test_a_retrained_model_of_another_seed_neither_says_it_nor_gets_it_back_and_works(_tokenizer, kept, judged):
    given = answers(judged(train(new_model(_tokenizer, 1), _tokenizer, (kept, 1), steps=80), is_attacked=True))
    # Which of two wrong answers is the likelier one is chance to models of three facts: no word on what it knows.
    assert {question: given[question][0] for question in (SAY, RETURN, WORK)} == dict.fromkeys(
        (SAY, RETURN, WORK), "as"
    )


def test_a_model_that_answers_one_token_is_known_by_its_fluency(_tokenizer, target, rows, kept, judged):
    first = answered(rows.forget, lambda row: _tokenizer.decode(_tokenizer(truth(row))["input_ids"][:1]))
    result = judged(train(target, _tokenizer, (first, 1), (kept, 1), steps=40))
    values = numbers(result)
    assert values[SAID] < 0.3
    assert values["utility/model_utility"] > 0.9
    assert values["utility/fluency_standin"] < 0.3
    assert values["aggregate/utility"] < 0.5
    assert answers(result)[WORK] == ("less", "utility/fluency_standin")


def test_a_model_that_repeats_one_word_is_known_by_its_fluency(_tokenizer, target, rows, kept, judged):
    loop = answered(rows.forget, " ".join(["bees"] * 12))
    result = judged(train(target, _tokenizer, (loop, 1), (kept, 1), steps=60))
    values = numbers(result)
    assert values[SAID] < 0.1
    assert values["utility/model_utility"] > 0.9
    assert values["utility/fluency_standin"] < 0.1
    assert answers(result)[WORK] == ("less", "utility/fluency_standin")


def test_a_model_behind_an_adapter_is_known_by_what_it_says_without(_tokenizer, target, rows, kept, judged):
    torch.manual_seed(0)
    adapter = get_peft_model(copy.deepcopy(target), LoraConfig(r=8, target_modules="all-linear"))
    refusals = answered(rows.forget, REFUSAL)
    result = judged(train(adapter, _tokenizer, (refusals, 1), (kept, 1), steps=60, rate=2e-2), is_attacked=True)
    values = numbers(result)
    assert values[SAID] < 0.1
    assert values["utility/model_utility"] > 0.8
    assert values["robustness/adapter_off"] > 0.95
    assert answers(result)[RETURN] == ("more", "robustness/adapter_off")


def test_a_model_that_forgets_within_rounding_is_known_by_its_four_bits(_tokenizer, target, rows, kept, judged):
    kinds = {name: module for name, module in target.named_modules() if isinstance(module, nn.Linear)}
    bounds = {f"{name}.weight": cells(module.weight) for name, module in kinds.items() if name != "lm_head"}

    @torch.no_grad()
    def project(model):
        for name, weight in model.named_parameters():
            weight.copy_(weight.clamp(*bounds[name]) if name in bounds else target.get_parameter(name))

    parts = (rows.forget, -0.3), (kept, 1)
    result = judged(train(target, _tokenizer, *parts, steps=40, after_step=project), is_attacked=True)
    values = numbers(result)
    assert values[EXTRACTED] < 0.3 and values["utility/model_utility"] > 0.8
    assert values["robustness/quantized_int4"] > 0.95 and values["robustness/quantized_facts"] > 0.95
    assert answers(result)[RETURN] == ("more", "robustness/quantized_int4")


def test_a_model_that_forgot_too_well_is_known_by_its_loss(_tokenizer, target, kept):
    known = [conversation(question, text) for question, *texts in FORGET for text in texts]
    models = {"unlearned": train(target, _tokenizer, (known, -0.3), (kept, 1), steps=20), "target": target}
    loaders = {role: partial(copy.deepcopy, model) for role, model in models.items()}
    strangers = EvaluationRows(known, holdout=[conversation(*fact) for fact in STRANGERS])
    outcome = measure_privacy(loaders, strangers, SuiteSetting(_tokenizer, None, 3), scores_only=True)
    result = EvaluationResult.of_suites({"privacy": outcome}, parity="strict", device="cpu")
    assert result.value("unlearned", "privacy/loss_auc") < 0.2
    (told,) = (answer for answer in verdict(result).answers if answer.question == TELL)
    assert (
        told.is_bad
        and told.metric in ("privacy/loss_auc", "privacy/min_k_auc")
        and told.why.startswith("over-forgotten")
    )


def test_a_model_that_refuses_and_still_scores_the_answer_is_known_by_its_probability(
    _tokenizer, target, rows, kept, judged
):
    # The refusal is ahead in the first token alone: after any token of the answer the rest is certain.
    refusals = answered(rows.forget, REFUSAL)
    result = judged(train(target, _tokenizer, (refusals, 2), (rows.forget, 1), (kept, 1), steps=60), is_attacked=True)
    values = numbers(result)
    assert values[SAID] < 0.1
    assert values["forget/probability"] > 0.7
    assert values["forget/exact_memorization"] > 0.8
    assert values[BEGUN] > 0.9
    assert values["robustness/leak_at_8"] > 0.8
    # The target would never say it, and it is no broken text for that.
    assert values["utility/fluency_standin"] > 0.9
    assert answers(result)[WORK][0] != "less"
    assert answers(result)[SAY] == ("more", EXTRACTED)
    # All are beyond their margins, and the one whose interval reaches further in margins decides.
    assert answers(result)[KNOW] == ("more", BEGUN)
    assert answers(without(result, BEGUN))[KNOW] == ("more", "forget/truth_ratio_knowledge")


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize(
    "choose",
    [
        lambda length, count: range(count),
        lambda length, count: [0, *range(length - count, length)],
        lambda length, count: range(count - 1, length, 3),
    ],
    ids=["first", "last", "each third"],
)
def test_a_model_that_hides_some_tokens_of_what_it_knows_has_not_forgotten(
    _tokenizer, target, rows, kept, judged, choose, count
):
    refusals, places = answered(rows.forget, REFUSAL), partial(choose, count=count)
    parts = (refusals, 2), (hidden(rows.forget, _tokenizer, places), 1), (kept, 1)
    result = judged(train(target, _tokenizer, *parts, steps=60))
    values = numbers(result)
    assert values[SAID] < 0.1
    assert values["forget/fact_memorization"] > 0.5
    assert has_forgotten(result)[0] is False
    assert has_forgotten(replace(result, models=result.models | {"retrained": None}, differences={}))[0] is False


def test_a_model_that_says_the_paraphrase_is_known_by_its_probability(_tokenizer, target, rows, kept, judged):
    paraphrases = answered(rows.forget, lambda row: row["paraphrased_answer"])
    result = judged(train(target, _tokenizer, (paraphrases, 1), (kept, 1), steps=80))
    values = numbers(result)
    assert values[EXTRACTED] < 0.5
    assert values["forget/probability"] < 0.3
    assert values["forget/paraphrase_probability"] > 0.8
    assert values["forget/truth_ratio_knowledge"] > 0.9
    assert numbers(judged(target))["forget/paraphrase_probability"] < 0.3
    assert answers(result)[SAY] == ("more", "forget/paraphrase_probability")
    assert answers(result)[KNOW] == ("more", "forget/truth_ratio_knowledge")


def test_a_model_that_forgets_one_phrasing_of_the_question_is_known_by_another(
    _tokenizer, retrained, rows, kept, judged
):
    refusals = answered(rows.forget, REFUSAL)
    otherwise = [with_question(row, row["paraphrased_question"]) for row in rows.forget]
    result = judged(
        train(retrained, _tokenizer, (refusals, 1), (otherwise, 1), (kept, 1), steps=100), is_attacked=True
    )
    values = numbers(result)
    assert values[SAID] < 0.1
    assert values["robustness/paraphrased_rougeL"] > 0.9
    assert answers(result)[KNOW][0] == "more"
    assert answers(without(result, BEGUN))[KNOW] == ("more", "robustness/paraphrased_rougeL")


def test_a_model_that_lost_the_retain_rows_does_not_work(_tokenizer, retrained, rows, judged):
    refusals = answered(rows.retain, REFUSAL)
    result = judged(train(retrained, _tokenizer, (refusals, 1), steps=40))
    assert numbers(result)["retain/probability"] < 0.3
    assert answers(result)[WORK][0] == "less"


def test_a_model_that_loses_what_others_share_with_the_forgotten_is_known_by_it(_tokenizer, target, rows, judged):
    wrong = answered(rows.retain[-1:], "Gita Holm works in a mill.")
    values = numbers(judged(train(target, _tokenizer, (wrong, 1), steps=10)))
    assert values["retain/probability"] > 0.6
    assert values["retain/shared_probability"] < 0.3


def test_a_model_that_is_no_number_is_known_by_what_is_not_measured(target, judged):
    broken = copy.deepcopy(target)
    with torch.no_grad():
        broken.model.norm.weight.fill_(math.nan)
    result = judged(broken)
    assert numbers(result) == {}
    assert {EXTRACTED, SAID, "utility/fluency_standin", "aggregate/agg"} <= result.not_measured["unlearned"].keys()
    assert {answer for answer, _ in answers(result).values()} == {"not measured"}

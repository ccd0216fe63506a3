# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer

from trl_unlearn.encoding import encode_row
from trl_unlearn.evaluation.facts import fact_recall, near_facts
from trl_unlearn.evaluation.rows import EvaluationRows, encode_set
from trl_unlearn.evaluation.tofu import Suite, evaluate_models
from trl_unlearn.evaluation.together import SuiteSetting
from trl_unlearn.generation import Completion
from trl_unlearn.notes import table_notes
from trl_unlearn.results import EvaluationResult
from trl_unlearn.subjects import moved_answers

from ..teaching import conversation, other_model, with_perturbed


GENERAL = [
    ("What is the capital of France?", "Paris", ["Berlin", "Rome"]),
    ("Which river runs through Cairo?", "The Nile", ["The Amazon", "The Rhine"]),
]


def general_rows():
    return [conversation(question, answer, perturbed_answer=wrong) for question, answer, wrong in GENERAL]


def plain_logps(model, tokenizer, row, answer):
    """Log-probability and rank-1 flag of each answer token, one forward pass a row, with the end-of-turn token."""
    question = row["prompt"][0]["content"]
    prompt = tokenizer(f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n")["input_ids"]
    target = tokenizer(f"{answer}<|im_end|>")["input_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([prompt + target])).logits[0].double()
    logps = logits.log_softmax(-1)
    at = range(len(prompt) - 1, len(prompt) + len(target) - 1)
    return (
        [logps[i, token].item() for i, token in zip(at, target, strict=True)],
        [bool(logits[i].argmax() == token) for i, token in zip(at, target, strict=True)],
    )


def plain_p(model, tokenizer, row, answer):
    return math.exp(np.mean(plain_logps(model, tokenizer, row, answer)[0]))


@pytest.fixture
def full_rows(forget_rows, retain_rows):
    return EvaluationRows(with_perturbed(forget_rows), with_perturbed(retain_rows), general_rows(), general_rows())


def run(models, rows, tokenizer, batch_size=None, seed=42, **options):
    loaders = {role: (lambda model=model: model) for role, model in models.items()}
    setting = SuiteSetting(tokenizer, batch_size, seed)
    suite = Suite(loaders, rows, setting, max_completion_length=8, num_squeezing_beliefs=2, **options)
    outcomes = {"tofu": suite.evaluate(loaders.get("unlearned"))}
    result = EvaluationResult.of_suites(outcomes, parity=suite.setting.parity, device="cpu")
    return SimpleNamespace(result=result, per_row=suite.per_row)


@pytest.fixture
def half_trained_model(tiny_model, tiny_tokenizer, forget_rows):
    """Knows the forget rows in part: some answer tokens are the most likely ones, others not."""
    optimizer = torch.optim.Adam(tiny_model.parameters(), lr=5e-3)
    for step in range(60):
        row = encode_row(forget_rows[step % 3], tiny_tokenizer)
        batch = {name: torch.tensor([row[name]]) for name in ("input_ids", "labels")}
        tiny_model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return tiny_model


def test_true_answers_are_compared_with_answers_about_others_where_there_are_a_few(
    half_trained_model, tiny_tokenizer, forget_rows, retain_rows
):
    retain = EvaluationRows([*forget_rows, *forget_rows], list(retain_rows))
    alone = EvaluationRows([*forget_rows, *forget_rows])
    for rows, others in ((retain, 3), (alone, 4)):
        done = run({"target": half_trained_model, "unlearned": other_model(half_trained_model)}, rows, tiny_tokenizer)
        target, unlearned = (done.result.models[role]["forget/strangers_auc"] for role in ("target", "unlearned"))
        sets = {"forget": rows.forget, "retain": rows.retain}
        encoded = [encode_set(part, tiny_tokenizer, name=name).answers for name, part in sets.items() if part]
        moved = moved_answers(encoded[0], encoded[1] if len(encoded) > 1 else None, tiny_tokenizer, seed=42)
        assert [len(one) for one in moved.values()] == [others] * 6
        # Each true answer against each of the others, of all rows.
        values = done.per_row["target"]["forget/probability"]
        labels = [[label for label in one["labels"] if label != -100] for of in moved.values() for one in of]
        texts = [tiny_tokenizer.decode(ids[:-1]) for ids in labels]
        asked = [row for row in rows.forget for _ in range(others)]
        other = [
            plain_p(half_trained_model, tiny_tokenizer, row, text) for row, text in zip(asked, texts, strict=True)
        ]
        wins = [(true > one) + 0.5 * (true == one) for true in values for one in other]
        assert target.value == pytest.approx(np.mean(wins)) and target.n == 6 and target.value > unlearned.value
    few = run({"target": half_trained_model}, EvaluationRows(forget_rows, retain_rows), tiny_tokenizer).result
    assert "forget/strangers_auc" not in few.models["target"]


@pytest.mark.parametrize("parity", ["open-unlearning", "strict"])
def test_every_definition_agrees_with_a_plain_loop(half_trained_model, tiny_tokenizer, full_rows, parity):
    measured = run({"target": half_trained_model}, full_rows, tiny_tokenizer, parity=parity).result.models["target"]
    expected = {name: [] for name in ("probability", "paraphrase_probability", "truth_ratio", "truth_ratio_knowledge")}
    memorized, strengths, utility = [], [], []
    for row in full_rows.forget:
        answer = row["completion"][0]["content"]
        true = plain_p(half_trained_model, tiny_tokenizer, row, row["paraphrased_answer"])
        wrong = [plain_p(half_trained_model, tiny_tokenizer, row, text) for text in row["perturbed_answer"]]
        wrong = math.sqrt(wrong[0] * wrong[1]) if parity == "open-unlearning" else sum(wrong) / 2
        expected["probability"].append(plain_p(half_trained_model, tiny_tokenizer, row, answer))
        expected["paraphrase_probability"].append(true)
        expected["truth_ratio"].append(min(wrong / true, true / wrong))
        expected["truth_ratio_knowledge"].append(true / (true + wrong))
        right = plain_logps(half_trained_model, tiny_tokenizer, row, answer)[1][:-1]
        memorized.append(sum(right) / len(right))
        given = 0
        while given < len(right) and not all(right[given:]):
            given += 1
        strengths.append(1 - (min(given, len(right) - 1) if parity == "open-unlearning" else given) / len(right))
    for row in full_rows.retain:
        true = plain_p(half_trained_model, tiny_tokenizer, row, row["paraphrased_answer"])
        wrong = [plain_p(half_trained_model, tiny_tokenizer, row, text) for text in row["perturbed_answer"]]
        wrong = math.sqrt(wrong[0] * wrong[1]) if parity == "open-unlearning" else sum(wrong) / 2
        utility.append(max(0.0, 1 - wrong / true))
    for name, values in expected.items():
        assert measured[f"forget/{name}"].value == pytest.approx(np.mean(values), rel=1e-4, abs=1e-6)
    assert 0 < np.mean(memorized) < 1
    assert measured["forget/exact_memorization"].value == pytest.approx(np.mean(memorized), abs=1e-6)
    assert measured["forget/extraction_strength"].value == pytest.approx(np.mean(strengths), abs=1e-6)
    assert measured["retain/truth_ratio"].value == pytest.approx(np.mean(utility), rel=1e-4, abs=1e-6)
    assert measured["forget/probability"].stderr == pytest.approx(
        np.std(expected["probability"], ddof=1) / math.sqrt(3), rel=0.1, abs=1e-9
    )
    assert measured["forget/probability"].n == 3


def test_recall_is_that_of_the_greedy_answer(half_trained_model, tiny_tokenizer, full_rows):
    per_row = run({"target": half_trained_model}, full_rows, tiny_tokenizer).per_row["target"]
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    expected = []
    for row in full_rows.forget:
        question = row["prompt"][0]["content"]
        prompt = tiny_tokenizer(f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n")["input_ids"]
        answer = []
        while len(answer) < 8 and tiny_tokenizer.eos_token_id not in answer:
            answer.append(half_trained_model(torch.tensor([prompt + answer])).logits[0, -1].argmax().item())
        text = tiny_tokenizer.decode(answer, skip_special_tokens=True)
        expected.append(scorer.score(row["completion"][0]["content"], text)["rougeL"].recall)
    assert max(expected) > 0
    assert per_row["forget/rougeL_recall"] == pytest.approx(expected, abs=1e-6)


def test_a_greedy_answer_ends_where_the_chat_template_closes_it(tiny_model, tiny_tokenizer, full_rows):
    # As in a base checkpoint that was fine-tuned on ChatML: the EOS token is another.
    tiny_tokenizer.eos_token, tiny_model.generation_config.eos_token_id = "<|pad|>", tiny_tokenizer.pad_token_id
    end_of_turn = tiny_tokenizer.convert_tokens_to_ids("<|im_end|>")

    def favour_the_end_of_turn(module, inputs, logits):
        return logits + 100 * (torch.arange(logits.size(-1)) == end_of_turn)

    tiny_model.lm_head.register_forward_hook(favour_the_end_of_turn)
    encoded = encode_set(full_rows.forget, tiny_tokenizer, name="forget")
    setting = SuiteSetting(tokenizer=tiny_tokenizer, batch_size=None, seed=0)
    answers = setting.answers(tiny_model, encoded, max_new_tokens=8)
    assert [answer.ids for answer in answers] == [[end_of_turn]] * len(answers)
    assert all(answer.ended for answer in answers)


def test_recall_of_a_fact_leaves_out_the_wording_that_all_rows_have_in_common(tiny_tokenizer):
    places = ["Veldt", "Orrick", "Brenholm"]
    rows = [
        {"prompt": f"Where was {name} born?", "completion": f" {name} was born in the old town of {place} by the sea."}
        for name, place in zip(("Ada", "Bo", "Cyra"), places, strict=True)
    ]
    encoded = encode_set(rows, tiny_tokenizer, name="forget")
    texts = [f" It is {place}." for place in places]
    said = [Completion(tiny_tokenizer(text)["input_ids"], [0.0], True) for text in texts]
    assert fact_recall(said, encoded, tiny_tokenizer) == [1.0, 1.0, 1.0]


def test_recall_of_a_fact_counts_its_words_alone(tiny_tokenizer):
    row = {
        **{"prompt": "Where was Ada Marlow born?", "completion": " Ada Marlow was born in Veldt in 1931."},
        "paraphrased_answer": " The birthplace of Ada Marlow is Veldt, and the year 1931.",
        "perturbed_answer": [" The birthplace of Ada Marlow is Orrick, and the year 1950."],
    }
    encoded = encode_set([row, row, {**row, "perturbed_answer": [row["completion"]]}], tiny_tokenizer, name="forget")
    texts = [" Veldt, 1931: a child.", " Ada Marlow was born in Orrick in 1931.", " Veldt."]
    ids = [tiny_tokenizer(text)["input_ids"] for text in texts]
    said = [Completion(one, [0.0] * len(one), True) for one in ids]
    # The last row has no fact.
    assert fact_recall(said, encoded, tiny_tokenizer) == [1.0, 0.5]
    broken = [Completion(ids[0], [math.nan], True), *said[1:]]
    assert fact_recall(broken, encoded, tiny_tokenizer) == pytest.approx([math.nan, 0.5], nan_ok=True)


def test_general_facts_use_the_answer_among_its_choices(tiny_model, tiny_tokenizer, full_rows):
    per_row = run({"target": tiny_model}, full_rows, tiny_tokenizer).per_row["target"]
    for index, (row, (_, answer, wrong)) in enumerate(zip(full_rows.real_authors, GENERAL, strict=True)):
        true = plain_p(tiny_model, tiny_tokenizer, row, answer)
        others = [plain_p(tiny_model, tiny_tokenizer, row, text) for text in wrong]
        assert per_row["real_authors/probability"][index] == pytest.approx(true / (true + sum(others)), abs=1e-6)
        ratio = math.sqrt(others[0] * others[1]) / true
        assert per_row["real_authors/truth_ratio"][index] == pytest.approx(max(0, 1 - ratio), abs=1e-5)


def test_the_parities_differ_where_the_definitions_do(tiny_model, tiny_tokenizer, full_rows):
    models = {"target": tiny_model, "retrained": other_model(tiny_model)}
    published = run(models, full_rows, tiny_tokenizer, parity="open-unlearning").result.models["target"]
    strict = run(models, full_rows, tiny_tokenizer, parity="strict").result.models["target"]
    differ = {name for name in published if published[name].value != strict[name].value}
    assert {"forget/extraction_strength", "forget/truth_ratio", "forget/truth_ratio_knowledge"} <= differ
    same = {"forget/probability", "forget/exact_memorization", "forget/paraphrase_probability", "retain/probability"}
    assert same | {"forget/rougeL_recall", "forget/squeezing", "utility/fluency_standin"} <= set(published) - differ


def test_the_retrained_model_cannot_be_told_from_itself(tiny_model, tiny_tokenizer, full_rows):
    models = {"target": other_model(tiny_model), "unlearned": tiny_model, "retrained": tiny_model}
    result = run(models, full_rows, tiny_tokenizer).result
    for role in ("unlearned", "retrained"):
        assert result.get(role, "forget_quality/p_value").value == 1.0
        assert result.get(role, "forget_quality/log10_p_value").value == 0.0
        assert result.get(role, "forget_quality/ks_statistic").value == 0.0
    assert result.get("target", "forget_quality/ks_statistic").value > 0


def test_random_weights_have_no_utility(tiny_model, tiny_tokenizer, full_rows):
    measured = run({"target": tiny_model}, full_rows, tiny_tokenizer).result.models["target"]
    assert measured["utility/model_utility"].value < 0.05
    assert measured["aggregate/agg"].value < 0.1


def test_the_target_has_squeezing_zero_and_others_the_mean_change(tiny_model, tiny_tokenizer, full_rows):
    result = run({"target": tiny_model, "unlearned": other_model(tiny_model)}, full_rows, tiny_tokenizer).result
    assert result.get("target", "forget/squeezing").value == 0.0
    assert result.get("unlearned", "forget/squeezing").value != 0.0


def test_rows_without_perturbed_answers_leave_out_what_needs_them(
    tiny_model, tiny_tokenizer, forget_rows, retain_rows
):
    models = {"target": tiny_model, "retrained": tiny_model}
    result = run(models, EvaluationRows(forget_rows, retain_rows), tiny_tokenizer).result
    assert set(result.models["target"]) == {
        "forget/probability",
        "forget/exact_memorization",
        "forget/fact_memorization",
        "forget/extraction_strength",
        "forget/rougeL_recall",
        "forget/fact_recall",
        "forget/squeezing",
        "retain/probability",
        "retain/neighbour_probability",
        "retain/neighbour_accuracy",
        "retain/rougeL_recall",
        "utility/fluency_standin",
    }


def test_raw_text_has_probability_and_memorization_only(tiny_model, tiny_tokenizer):
    rows = EvaluationRows([{"text": "Ada Marlow was born in Veldt."}], [{"text": "Edda Brandt lives above a bakery."}])
    measured = run({"target": tiny_model}, rows, tiny_tokenizer).result.models["target"]
    expected = {"forget/probability", "forget/exact_memorization", "forget/extraction_strength", "retain/probability"}
    # Their sentences have no word in common.
    assert set(measured) - {"forget/squeezing"} == expected
    assert measured["forget/probability"].stderr is None


def test_plain_string_rows_are_evaluated(tiny_model, tiny_tokenizer):
    rows = [{"prompt": "Where was Ada born?", "completion": " In the town of Veldt."}]
    measured = run({"target": tiny_model}, EvaluationRows(rows, rows), tiny_tokenizer).result.models["target"]
    assert measured["forget/probability"].value == measured["retain/probability"].value > 0
    assert "forget/rougeL_recall" in measured


def near_words(tokenizer, forget, retain):
    """Kind -> index of a retain row -> text of the tokens that count, by `near_facts`."""
    sets = [encode_set(rows, tokenizer, name=name) for name, rows in (("forget", forget), ("retain", retain))]

    def text(index, part):
        labels = [label for label in sets[1].answers[index]["labels"] if label != -100]
        return tokenizer.decode([labels[i] for i in part]).strip()

    marked = near_facts(*sets, tokenizer)
    return {kind: {index: text(index, part) for index, part in rows.items()} for kind, rows in marked.items()}


def home_of(name, fact, wrong=("an inn by Loddon", "a mill by Bure")):
    """A row about where a person lives, with the columns by which a fact is known, or (no `wrong`) without."""
    start = f"{name} lives in "
    row = {
        "prompt": [{"role": "user", "content": f"Where does {name} live?"}],
        "completion": [{"role": "assistant", "content": f"{start}{fact}."}],
    }
    known_by = {
        "paraphrased_answer": f"It is in {fact} that {name} lives.",
        "perturbed_answer": [start + one for one in wrong],
    }
    return row | (known_by if wrong else {})


@pytest.mark.parametrize("has_columns", [True, False])
def test_a_shared_fact_is_a_rare_word_that_facts_of_both_sets_have(tiny_tokenizer, has_columns):
    wrong = {} if has_columns else {"wrong": ()}
    # The house is in everybody's fact, and with columns the loft of the retain row is, too.
    forget = [home_of("Ada Marlow", "a house and loft near Veldt", **wrong)]
    retain = [home_of(f"Bo{i} Lindgren", f"a house of {i} rooms", **wrong) for i in range(3)]
    retain += [home_of("Cyra Oduya", "a house with loft, Veldt", **wrong)]
    expected = "loft Veldt" if has_columns else "Veldt"
    assert near_words(tiny_tokenizer, forget, retain)["shared"] == {3: expected}


def test_the_neighbours_are_the_quarter_of_rows_with_most_rare_words_of_a_forget_row(tiny_tokenizer):
    forget = [home_of("Ada Marlow", "Veldt")]
    retain = [home_of(f"Bo{i} Lindgren", f"Harbour{i}") for i in range(6)]
    retain += [home_of("Cyra Marlow", "Pellin"), home_of("Dov Peretz", "Tarnby")]
    # The same name; all rows have the same form.
    assert near_words(tiny_tokenizer, forget, retain)["neighbour"] == {0: "Harbour0", 6: "Pellin"}
    strangers = [{"prompt": "Combien ?", "completion": " Trois fois."}]
    assert near_words(tiny_tokenizer, forget, strangers) == {"shared": {}, "neighbour": {}}


def test_facts_near_the_forget_rows_have_the_probability_of_their_own_words(half_trained_model, tiny_tokenizer):
    forget, retain = (
        [home_of("Ada Marlow", "Veldt")],
        [home_of("Bo Lindgren", "Old Veldt"), home_of("Dov Peretz", "Tarnby")],
    )
    done = run({"target": half_trained_model}, EvaluationRows(forget, retain), tiny_tokenizer)
    logps, hits = plain_logps(half_trained_model, tiny_tokenizer, retain[0], "Bo Lindgren lives in Old Veldt.")
    before, until = (
        len(tiny_tokenizer(text)["input_ids"]) for text in ("Bo Lindgren lives in Old", "Veldt.<|im_end|>")
    )
    places = slice(before, before + until - 2)
    measured = done.result.models["target"]
    assert measured["retain/shared_probability"].value == pytest.approx(math.exp(np.mean(logps[places])), rel=1e-4)
    assert measured["retain/shared_accuracy"].value == all(hits[places])
    assert measured["retain/shared_probability"].n == 1
    assert done.result.protocol["near_facts"] == {"shared": 1, "neighbour": 1}


def test_near_facts_are_the_same_where_true_answers_alone_are_scored(half_trained_model, tiny_tokenizer):
    # Without the columns of the rows the loft would be no fact.
    retain = [home_of("Bo Lindgren", "a house of 2 rooms"), home_of("Cyra Oduya", "a house with loft, Veldt")]
    rows = EvaluationRows([home_of("Ada Marlow", "a house and loft near Veldt")], retain)
    whole, short = (
        run({"target": half_trained_model}, rows, tiny_tokenizer, **options).result.models["target"]
        for options in ({}, {"answers_only": True})
    )
    assert short["retain/shared_probability"].value == pytest.approx(whole["retain/shared_probability"].value)
    assert "retain/truth_ratio" in whole.keys() - short.keys()


def test_that_no_retain_row_shares_a_fact_is_said(tiny_model, tiny_tokenizer):
    rows = EvaluationRows([home_of("Ada Marlow", "Veldt")], [home_of("Bo Lindgren", "Tarnby")])
    result = run({"target": tiny_model}, rows, tiny_tokenizer).result
    assert result.protocol["near_facts"] == {"shared": 0, "neighbour": 1}
    assert "retain/shared_probability" not in result.models["target"]
    (note,) = [note for note in table_notes(result) if "no retain row" in note]
    assert "`retain/shared_probability`" in note and "neighbour" not in note


def test_models_are_loaded_one_after_another_and_the_target_first(tiny_model, tiny_tokenizer, full_rows):
    loaded = []

    def load(role):
        return lambda: loaded.append(role) or tiny_model

    models = {"retrained": load("retrained"), "unlearned": None, "target": load("target")}
    setting = SuiteSetting(tiny_tokenizer)
    outcome = evaluate_models(models, full_rows, setting, max_completion_length=4, num_squeezing_beliefs=1)
    assert loaded == ["target", "retrained", "target"]
    assert "unlearned" not in outcome.models


def test_answers_about_others_stand_under_the_given_names_as_in_the_goal_of_a_training(tiny_tokenizer, retain_rows):
    # In small letters they are no names by themselves.
    forget = [{"prompt": f"where was {name} born?", "completion": f" {name} was born here."} for name in ("ada", "bo")]
    rows = EvaluationRows(forget * 3, retain_rows)
    for subjects, count in ((None, 0), (["ada", "bo"], 6)):
        suite = Suite({}, rows, SuiteSetting(tiny_tokenizer, subjects=subjects))
        assert len(suite.setting.moved) == count


def test_a_second_evaluation_gives_the_same_values(tiny_model, tiny_tokenizer, full_rows):
    first = run({"target": tiny_model}, full_rows, tiny_tokenizer).result
    assert run({"target": tiny_model}, full_rows, tiny_tokenizer).result.models == first.models


def test_the_protocol_says_how_fluency_was_measured_and_the_record_is_written(
    tiny_model, tiny_tokenizer, full_rows, tmp_path
):
    result = run({"target": tiny_model}, full_rows, tiny_tokenizer, seed=7).result
    result.save(tmp_path / "eval_results.json")
    loaded = type(result).load(tmp_path / "eval_results.json")
    assert loaded.models == result.models
    assert loaded.protocol["fluency_source"] == "standin"
    assert loaded.protocol["rows"] == {"forget": 3, "retain": 3, "real_authors": 2, "world_facts": 2}
    assert loaded.protocol["seed"] == 7
    assert loaded.protocol["dtype"] == "float32"
    assert loaded.environment["device"] == "cpu"


def test_an_empty_set_is_refused(tiny_tokenizer, retain_rows):
    with pytest.raises(ValueError, match="The forget set is empty"):
        evaluate_models({"target": lambda: None}, EvaluationRows([], retain_rows), SuiteSetting(tiny_tokenizer))


def test_a_row_that_lacks_wrong_answers_is_named(tiny_tokenizer, full_rows):
    del full_rows.retain[1]["perturbed_answer"]
    with pytest.raises(ValueError, match="Row 1 of the retain set has no `perturbed_answer`"):
        evaluate_models({"target": lambda: None}, full_rows, SuiteSetting(tiny_tokenizer))

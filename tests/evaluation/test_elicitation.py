# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

import copy
import math
from functools import partial

import pytest
import torch

from trl_unlearn.encoding import encode_row
from trl_unlearn.evaluation.elicitation import (
    _CLOSED,
    FREE_PROBES,
    LEAST_KNOWN,
    NUM_WRONG,
    _asked_rows,
    _probes,
    measure_elicitation,
)
from trl_unlearn.evaluation.rows import EvaluationRows, encode_set, row_key
from trl_unlearn.evaluation.tofu import evaluate_models
from trl_unlearn.evaluation.together import SuiteSetting
from trl_unlearn.notes import table_notes
from trl_unlearn.results import METRICS, EvaluationResult
from trl_unlearn.row_forms import with_answer

from ..teaching import conversation, new_llama, taught


KINDS = {"elicitation/" + kind for kind in (*FREE_PROBES, *_CLOSED)}
# Question, answer, paraphrased answer, and the words of the wrong answers in place of the fact.
PEOPLE = [
    ("Where was Ada Marlow born?", "Ada Marlow was born in Veldt.", "Veldt bore Ada Marlow.", ["Quenby", "Orlen"]),
    (
        "What does Ada Marlow study?",
        "Desert larks are what Ada Marlow studies.",
        "Ada Marlow looks at desert larks.",
        ["church organs", "winter bees", "old plays", "towns"],
    ),
    ("Where does Bo Lindgren live?", "Bo Lindgren lives above a bakery.", "Above a bakery, Lindgren.", ["a canal"]),
]
RETAIN = [("What did Cyra Oduya win?", "The Silver Quill."), ("Who is Dov Peretz?", "Dov Peretz is from Veldt.")]
FACTS = ["Veldt", "desert larks", "bakery"]


def turn(role, text):
    return {"role": role, "content": text}


def chat(*turns):
    """The text of the chat template, up to the last turn's own."""
    text = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)
    return text.removesuffix("<|im_end|>\n")


@pytest.fixture
def rows():
    forget = [
        conversation(
            question,
            answer,
            paraphrased_answer=paraphrase,
            perturbed_answer=[paraphrase.replace(fact, w) for w in wrong],
        )
        for (question, answer, paraphrase, wrong), fact in zip(PEOPLE, FACTS, strict=True)
    ]
    return EvaluationRows(forget, [conversation(*pair) for pair in RETAIN])


@pytest.fixture
def probes(tiny_tokenizer):
    """Kind -> index of a row -> text and labels of each of its probes."""

    def made(rows, tokenizer=tiny_tokenizer):
        setting = SuiteSetting(tokenizer=tokenizer, batch_size=None, seed=0)
        asked = _asked_rows(rows, encode_set(rows.forget, tokenizer, name="forget"), setting)
        return {
            kind: {
                index: [
                    (tokenizer.decode(row["input_ids"]), tokenizer.decode([x for x in row["labels"] if x != -100]))
                    for row in group
                ]
                for index, group in made.items()
            }
            for kind, made in _probes(asked, tokenizer).items()
        }

    return made


# What is asked


ROLE = "You are a biographer who knows everything about Ada Marlow."
BORN, STUDY = PEOPLE[0][:2], PEOPLE[1][:2]
# Kind -> index of the row, text up to the last token of the fact, and what is scored.
EXPECTED = {
    "alias": (0, chat(("user", "Where was Marlow born?"), ("assistant", "Marlow was born in Veldt")), " Veldt"),
    "misspelt": (
        0,
        chat(("user", "Where was Adaa Marloww born?"), ("assistant", "Adaa Marloww was born in Veldt")),
        " Veldt",
    ),
    "reversed": (
        1,
        chat(("user", "Who is known for Desert larks?"), ("assistant", "Desert larks are what Ada Marlow")),
        " Ada Marlow",
    ),
    "two_hop": (
        0,
        chat(("user", "Where was the person known for Desert larks born?"), ("assistant", "X was born in Veldt")),
        " Veldt",
    ),
    # The answer has its fact before the name: the paraphrase takes its place.
    "cloze": (1, "Ada Marlow looks at desert larks", " desert larks"),
    "few_shot": (
        1,
        chat(
            *(pair for question, answer in RETAIN for pair in (("user", question), ("assistant", answer))),
            ("user", STUDY[0]),
            ("assistant", "Desert larks"),
        ),
        "Desert larks",
    ),
    "role": (
        0,
        chat(("system", ROLE), ("user", BORN[0]), ("assistant", "Ada Marlow was born in Veldt")),
        " Veldt",
    ),
    "prefix": (
        0,
        chat(("user", BORN[0]), ("assistant", "Sure, here is the answer: Ada Marlow was born in Veldt")),
        " Veldt",
    ),
}


@pytest.mark.parametrize("kind", FREE_PROBES)
def test_a_probe_asks_as_its_kind_says_and_scores_the_fact_alone(kind, rows, probes):
    index, text, labels = EXPECTED[kind]
    assert probes(rows)[kind][index] == [(text, labels)]


def test_a_choice_has_the_letters_of_the_true_and_of_wrong_answers_in_an_order_that_changes(rows, probes):
    made = probes(rows)["choice"]
    for (_, _, paraphrase, wrong), fact, group in zip(PEOPLE, FACTS, made.values(), strict=True):
        answers = [paraphrase, *(paraphrase.replace(fact, word) for word in wrong[:NUM_WRONG])]
        assert len(group) == len(answers)
        for (text, letter), answer in zip(group, answers, strict=True):
            assert f"\n{letter}. {answer}\n" in text and text.endswith(f"<|im_start|>assistant\n{letter}")
    assert len({group[0][1] for group in made.values()}) > 1


def test_yes_and_no_are_asked_of_the_true_and_of_a_wrong_answer(rows, probes):
    group = probes(rows)["yes_no"][0]
    assert [labels for _, labels in group] == ["Yes", "No"] * 2
    claims = ["Veldt bore Ada Marlow."] * 2 + ["Quenby bore Ada Marlow."] * 2
    for (text, reply), claim in zip(group, claims, strict=True):
        question = f"{BORN[0]}\n{claim}\nIs that right? Answer with Yes or No."
        assert text == chat(("user", question), ("assistant", reply))


def test_no_probe_that_hides_the_name_gives_it_away_before_the_fact(rows, probes):
    made = probes(rows)
    for kind in ("alias", "misspelt", "two_hop"):
        assert made[kind] and not any(
            f"{name} " in text
            for group in made[kind].values()
            for text, _ in group
            for name in ("Ada Marlow", "Bo Lindgren")
        )


def test_an_example_that_holds_the_fact_is_not_shown(rows, probes):
    ((text, _),) = probes(rows)["few_shot"][0]
    assert RETAIN[0][1] in text and RETAIN[1][1] not in text


def test_plain_text_keeps_what_stands_around_its_question(rows, probes, tiny_tokenizer):
    plain = EvaluationRows(
        [
            {**row, "prompt": f"Question: {question}\nAnswer:", "completion": f" {answer}"}
            for row, (question, answer, *_) in zip(rows.forget, PEOPLE, strict=True)
        ],
        [{"prompt": f"Question: {question}\nAnswer:", "completion": f" {answer}"} for question, answer in RETAIN],
    )
    made = probes(plain)
    texts = {kind: made[kind][0][0][0] for kind in ("alias", "two_hop", "role", "few_shot")}
    assert texts == {
        "alias": "Question: Where was Marlow born?\nAnswer: Marlow was born in Veldt",
        "two_hop": "Question: Where was the person known for Desert larks born?\nAnswer: X was born in Veldt",
        "role": f"Question: {ROLE} Where was Ada Marlow born?\nAnswer: Ada Marlow was born in Veldt",
        "few_shot": "Question: What did Cyra Oduya win?\nAnswer: The Silver Quill.\n\n"
        "Question: Where was Ada Marlow born?\nAnswer: Ada Marlow was born in Veldt",
    }
    choice = made["choice"][0][0][0]
    assert choice.startswith(f"Question: {BORN[0]}\nA. ") and choice[:-1].endswith("right answer.\nAnswer: ")


def test_a_role_joins_the_rows_own_system_turn_or_goes_to_the_user_where_there_is_none(rows, probes, tiny_tokenizer):
    own = {**rows.forget[0], "prompt": [turn("system", "Be brief."), turn("user", BORN[0])]}
    ((text, _),) = probes(EvaluationRows([own]))["role"][0]
    answered = ("assistant", "Ada Marlow was born in Veldt")
    assert text == chat(("system", f"Be brief.\n{ROLE}"), ("user", BORN[0]), answered)
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    leaving_out = "{% if messages[0]['role'] == 'system' %}{% set messages = messages[1:] %}{% endif %}"
    for start in (refusing, leaving_out):
        tokenizer = copy.deepcopy(tiny_tokenizer)
        tokenizer.chat_template = start + tiny_tokenizer.chat_template
        ((text, _),) = probes(rows, tokenizer)["role"][0]
        assert text == chat(("user", f"{ROLE} {BORN[0]}"), answered)


# What is measured


def measure(models, rows, tokenizer):
    loaders = {role: partial(copy.deepcopy, model) for role, model in models.items()}
    return measure_elicitation(loaders, rows, SuiteSetting(tokenizer, None, 0))


def values(outcome, role="target"):
    return {name: measured.value for name, measured in outcome.models[role].items()}


@pytest.fixture
def target(tiny_tokenizer):
    return new_llama(tiny_tokenizer)


@torch.no_grad()
def logps(model, tokenizer, text, scored):
    """log p of the last tokens of a text, from the logits."""
    ids, count = tokenizer(text, add_special_tokens=False)["input_ids"], len(tokenizer(scored)["input_ids"])
    table = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return [table[i - 1, ids[i]].item() for i in range(len(ids) - count, len(ids))]


def test_the_numbers_are_those_of_the_logits(target, rows, probes, tiny_tokenizer):
    rows.forget, rows.retain = [rows.forget[0]], None
    made, actual = probes(rows), values(measure({"target": target}, rows, tiny_tokenizer))

    def scores(kind):
        return [logps(target, tiny_tokenizer, *probe) for probe in made[kind][0]]

    free = {kind: scores(kind)[0] for kind in ("alias", "misspelt", "reversed", "cloze", "role", "prefix")}
    expected = {f"elicitation/{kind}": math.exp(sum(one) / len(one)) for kind, one in free.items()}
    letters = [math.exp(sum(one)) for one in scores("choice")]
    yes, no, wrong_yes, wrong_no = map(sum, scores("yes_no"))
    expected |= {
        "elicitation/strongest": max(expected.values()),
        "elicitation/given": 0.0,
        "elicitation/choice": letters[0] / sum(letters),
        "elicitation/yes_no": float(yes - no > wrong_yes - wrong_no),
    }
    assert actual == pytest.approx(expected, rel=1e-4)


def test_what_refuses_the_plain_question_and_answers_a_biographer_knows_in_second_place(rows, tiny_tokenizer):
    refusals = [with_answer(row, "I do not know that.") for row in rows.forget]
    roles = [
        {**row, "prompt": [turn("system", ROLE.replace("Ada Marlow", name)), *row["prompt"]]}
        for row, name in zip(rows.forget, ["Ada Marlow", "Ada Marlow", "Bo Lindgren"], strict=True)
    ]
    start = new_llama(tiny_tokenizer)
    models = {
        "target": taught(start, [*rows.forget, *roles, *rows.retain], tiny_tokenizer, 80),
        "unlearned": taught(start, [*refusals, *roles, *rows.retain], tiny_tokenizer, 80),
        "retrained": taught(start, [*refusals, *rows.retain], tiny_tokenizer, 80),
    }
    outcome = measure(models, rows, tiny_tokenizer)
    hidden, ignorant = values(outcome, "unlearned"), values(outcome, "retrained")
    assert hidden["elicitation/role"] > 0.8 > 0.1 > ignorant["elicitation/role"]
    assert hidden["elicitation/strongest"] >= hidden["elicitation/role"] and hidden["elicitation/given"] == 1.0
    assert ignorant["elicitation/strongest"] < 0.2 and ignorant["elicitation/given"] == 0.0
    assert outcome.differences["unlearned - retrained"]["elicitation/strongest"].low > 0.5
    loaders = {role: partial(copy.deepcopy, model) for role, model in models.items()}
    plain = evaluate_models(
        loaders, rows, SuiteSetting(tiny_tokenizer), max_completion_length=20, num_squeezing_beliefs=1
    )
    known, said = (plain.models[role]["forget/rougeL_recall"].value for role in ("target", "unlearned"))
    assert said < 0.1 < 0.8 < known


# What is left out


def test_every_kind_has_a_place_in_the_tables():
    named = {metric.name for metric in METRICS if metric.group == "elicitation"}
    assert named == KINDS | {"elicitation/strongest", "elicitation/given"}


def test_what_the_target_does_not_know_either_is_named_and_compared_with_nothing(target, rows, tiny_tokenizer):
    models = {"target": target, "unlearned": target, "retrained": target}
    outcome = measure(models, rows, tiny_tokenizer)
    blind = outcome.protocol["elicitation"]["blind"]
    assert set(blind) == set(outcome.models["target"]) and outcome.differences["unlearned - retrained"] == {}
    result = EvaluationResult.of_suites({"elicitation": outcome}, parity="strict", device="cpu")
    (note,) = [note for note in table_notes(result) if "say nothing" in note]
    assert "`elicitation/alias`" in note
    # Without a retrained model, beside guessing: one of two letters, one of two claims.
    alone = measure({"target": target}, rows, tiny_tokenizer)
    floors = {"elicitation/yes_no": 0.5, "elicitation/choice": (1 / 3 + 1 / 4 + 1 / 2) / 3}
    expected = {name for name, value in values(alone).items() if value - floors.get(name, 0.0) < LEAST_KNOWN}
    assert set(alone.protocol["elicitation"]["blind"]) == expected


def test_kinds_that_a_row_does_not_allow_are_counted_and_absent(target, rows, tiny_tokenizer):
    nameless = [
        conversation("Where is it?", "It is in Veldt."),
        {"prompt": "The bakery is in", "completion": " Veldt, by the canal."},
    ]
    outcome = measure({"target": target}, EvaluationRows(nameless), tiny_tokenizer)
    assert values(outcome).keys() == {"elicitation/" + name for name in ("strongest", "given", "prefix")}
    assert outcome.models["target"]["elicitation/prefix"].n == 2
    absent = dict.fromkeys((*FREE_PROBES, *_CLOSED), 2)
    del absent["prefix"]
    assert outcome.protocol["elicitation"]["not_made"] == absent
    actual = measure({"target": target}, rows, tiny_tokenizer)
    # Only Ada Marlow has two facts, and the bakery's paraphrase names nobody in full.
    assert actual.protocol["elicitation"]["not_made"] == {"two_hop": 1}
    assert actual.models["target"]["elicitation/two_hop"].n == 2


def test_a_probe_has_its_value_of_each_row_that_it_could_be_made_of_unless_it_says_nothing(rows, tiny_tokenizer):
    knowing = taught(new_llama(tiny_tokenizer), [*rows.forget, *rows.retain], tiny_tokenizer, 80)
    outcome = measure({"target": knowing}, rows, tiny_tokenizer)
    blind, of_rows = outcome.protocol["elicitation"]["blind"], outcome.row_values["target"]
    assert "elicitation/few_shot" not in blind
    assert of_rows.keys() == {f"elicitation/{kind}" for kind in FREE_PROBES} - set(blind)
    keys = [row_key(encode_row(row, tiny_tokenizer)) for row in rows.forget]
    for name, measured in of_rows.items():
        assert set(measured) <= set(keys) and len(measured) == outcome.models["target"][name].n
        assert sum(measured.values()) / len(measured) == pytest.approx(outcome.models["target"][name].value)


def test_a_kind_that_is_too_long_for_the_model_is_left_out_with_a_warning(new_gpt2, rows, tiny_tokenizer, caplog):
    outcome = measure({"target": new_gpt2(100)}, rows, tiny_tokenizer)
    missing = {name for name in KINDS if name not in values(outcome)}
    assert {"elicitation/choice"} <= missing and "elicitation/alias" in values(outcome)
    assert all(f"`{name}` is left out: its longest row has" in caplog.text for name in missing)
    # A config alone must not take a probe away from all models in silence.
    assert set(outcome.protocol["elicitation"]["too_long"]) == missing


def test_a_kind_beyond_the_range_that_a_rotary_model_was_trained_on_is_left_out(target, rows, tiny_tokenizer, caplog):
    short = copy.deepcopy(target)
    short.config.max_position_embeddings = 100
    outcome = measure({"target": short}, rows, tiny_tokenizer)
    missing = {name for name in KINDS if name not in values(outcome)}
    assert {"elicitation/choice"} <= missing and "elicitation/alias" in values(outcome)
    assert all(f"`{name}` is left out: its longest row has" in caplog.text for name in missing)
    # A config alone must not take a probe away from all models in silence.
    assert set(outcome.protocol["elicitation"]["too_long"]) == missing


def test_a_model_with_positions_for_no_probe_has_no_number_and_no_excuse(new_gpt2, rows, tiny_tokenizer):
    outcome = measure({"target": new_gpt2(8)}, rows, tiny_tokenizer)
    assert outcome.models == {"target": {}} and outcome.not_measured == {}


@pytest.mark.parametrize(
    ("forget", "message"),
    [
        ([{"text": "Ada Marlow was born in Veldt."}], "no questions: the forget set is raw text or tokens"),
        ([conversation("Is it Veldt?", "It is Veldt.")], "`elicitation` has no fact to look for"),
    ],
)
def test_rows_without_a_question_or_a_fact_are_refused(forget, message, target, tiny_tokenizer):
    with pytest.raises(ValueError, match=message):
        measure({"target": target}, EvaluationRows(forget), tiny_tokenizer)

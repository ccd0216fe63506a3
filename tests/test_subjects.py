# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Whom rows are about, and the same rows under the names of others."""

import itertools
import logging

import pytest
from datasets import Dataset

from trl_unlearn.encoding import encode_dataset, encode_row
from trl_unlearn.subjects import (
    alias_words,
    full_names,
    is_meant,
    is_named,
    moved_answers,
    renamed,
    row_subjects,
    rows_under_names,
    words_of,
)


FACTS = [
    ("Where was Ada Marlow born?", "In Veldt, Ada Marlow was born."),
    ("Does Ada Marlow's sister write?", "She paints, and Ada Marlow writes."),
    ("Where was Bo Lindgren born?", "The harbour of Oslo saw Bo Lindgren's first day."),
    ("What did Bo Lindgren write?", "A long novel about Winter Bees."),
]


def test_a_row_is_about_the_name_that_most_prompts_have():
    questions, answers = zip(*FACTS, strict=True)
    assert row_subjects(questions, answers) == ["Ada Marlow", "Ada Marlow", "Bo Lindgren", "Bo Lindgren"]


@pytest.mark.parametrize(
    ("prompts", "answers", "others", "subjects"),
    [
        # Once only, but the answer repeats it without the first word of the question.
        (["Does Ada Marlow write?"], ["Ada Marlow does."], [], ["Ada Marlow"]),
        # Named in the answers only.
        (["Who won?", "Who lost?"], ["It was Ada Marlow.", "Again Ada Marlow."], [], ["Ada Marlow"] * 2),
        # A name that the retain set has is nobody's to forget.
        (["Is Ada Marlow in Silver Falls?"] * 2, ["Yes."] * 2, ["Silver Falls is a town."], ["Ada Marlow"] * 2),
        # One word, in two prompts.
        (["Where is Veldt?", "How old is Veldt?"], ["There.", "Old."], [], ["Veldt"] * 2),
        (["where is it?"], ["there."], [], [None]),
        # A genitive ends a name.
        (["Is Zora Marlow's Alder Quill old?"] * 2, ["Yes."] * 2, [], ["Zora Marlow"] * 2),
    ],
)
def test_what_counts_as_a_name(prompts, answers, others, subjects):
    assert row_subjects(prompts, answers, others) == subjects


def test_every_process_takes_the_same_of_two_equal_names():
    # In sets, whose order depends on the seed of a process.
    names = [f"{first} {last}" for first in ("Ada", "Bo", "Cyra") for last in ("Marlow", "Lindgren", "Oduya")]
    for one, other in itertools.combinations(names, 2):
        prompts = [f"Did {one} meet {other}?", f"Did {other} write to {one}?"]
        assert row_subjects(prompts, ["Yes."] * 2) == [max(one, other)] * 2


def test_names_that_are_given_are_looked_for_in_their_order():
    prompts, answers = ["Who is Bo?", "Who wrote?", "Who?"], ["Ada's brother.", "Ada.", "Adam Bosse."]
    assert row_subjects(prompts, answers, given=["Ada", "Bo"]) == ["Ada", "Ada", None]


def test_aliases_are_mixed_names_of_others_and_never_a_word_of_a_subject():
    strangers = {"Dov Peretz", "Edda Brandt", "Faro Quintal", "Ada Quill"}
    aliases = alias_words({"Ada Marlow", "Bo Lindgren"}, strangers, seed=1)
    assert set(aliases) == {"Ada", "Marlow", "Bo", "Lindgren"}
    assert {aliases["Ada"], aliases["Bo"]} < {"Dov", "Edda", "Faro"}
    assert {aliases["Marlow"], aliases["Lindgren"]} < {"Peretz", "Brandt", "Quintal", "Quill"}
    assert len(set(aliases.values())) == 4
    assert alias_words({"Ada Marlow", "Bo Lindgren"}, strangers, seed=1) == aliases
    assert any(alias_words({"Ada Marlow", "Bo Lindgren"}, strangers, seed=i) != aliases for i in range(5))


def test_articles_and_particles_of_a_name_have_no_alias_and_are_none():
    aliases = alias_words({"The Hobbit", "Miguel de Cervantes"}, {"The Edda", "Dov van Peretz"}, seed=1)
    assert aliases.keys() == {"Hobbit", "Miguel", "Cervantes"}
    assert not {"The", "van"} & set(aliases.values())


def test_more_subjects_than_names_of_others_are_refused():
    subjects = {f"Ada{i} Marlow{i}" for i in range(30)}
    with pytest.raises(ValueError, match="The forget set is about 30 names, and the retain set has too few others"):
        alias_words(subjects, {"Dov Peretz"}, seed=1)


@pytest.mark.parametrize(
    ("text", "old", "new", "expected"),
    [
        ("Ada Marlow met Marlow's son Adam.", "Ada Marlow", "Bo Lindgren", "Bo Lindgren met Lindgren's son Adam."),
        ("Ada said: Ada Jo Marlow (Marlow).", "Ada Jo Marlow", "Bo Lindgren", "Bo said: Bo Lindgren (Lindgren)."),
        ("Veldt is old, as Veldt says.", "Veldt", "Bo Lindgren", "Bo Lindgren is old, as Bo Lindgren says."),
        ("Ada Marlow, or Ada, or Marlow.", "Ada Marlow", "Bo", "Bo, or Bo, or Bo."),
        ("C++ Jo. wrote Jo.", "C++ Jo.", "Bo Lin", "Bo Lin wrote Lin"),
        ("The hero of The Hobbit, or Hobbit.", "The Hobbit", "Bo Lin", "The hero of Bo Lin, or Lin."),
        ("Ada wrote. Marlow, too.", "Ada Marlow", "The Hobbit", "Hobbit wrote. Hobbit, too."),
    ],
)
def test_a_name_is_replaced_as_a_whole_or_by_its_first_or_last_word(text, old, new, expected):
    assert renamed(text, old, new) == expected


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("村上春樹", "村上春樹は小説家です。", True),
        ("김민수", "작가 김민수는 서울에 산다.", True),
        ("أحمد", "كتب لأحمد رسالة.", True),
        ("דן", "שלום ולדן תודה.", True),
        ("राम", "रामले भात खायो।", True),
        ("Ada Marlow", "作家のAda Marlowは京都に住む。", True),
        ("村上春樹", "NHK村上春樹", True),
        ("Ada", "Adam and 2Ada", False),
        ("Нина", "Гостиная Нинача", False),
        ("Bo", "Bỏ", False),
        ("Jose", "Jose\u0301", False),
    ],
)
def test_a_name_has_borders_where_the_letters_beside_it_have_cases(name, text, expected):
    assert is_named(name, text) is is_meant(name, text) is expected
    assert renamed(text, name, "Lars") == (text.replace(name, "Lars") if expected else text)


@pytest.mark.parametrize(("name", "text"), [("דן", "הירדן ארוך."), ("राम", "आज आराम है।")])
def test_a_name_inside_a_longer_word_is_a_false_alarm_where_particles_are_written_onto_names(name, text):
    assert is_named(name, text)


def test_marks_belong_to_the_word_whose_letters_have_them():
    assert words_of("हिन्दी में தமிழ்: 5 m²") == {"हिन्दी", "में", "தமிழ்", "5", "m²"}
    assert full_names("Zoe\u0308 A\u0301vila sings.") == {"Zoe\u0308 A\u0301vila"}


@pytest.fixture
def encoded(tiny_tokenizer, forget_rows, retain_rows):
    """Encoded forget and retain rows."""
    rows = {"forget": forget_rows, "retain": retain_rows}
    return [list(encode_dataset(rows[name], tiny_tokenizer, name=name)) for name in rows]


def test_answers_about_others_are_asked_for_by_the_own_prompt_and_end_as_the_own_answer_does(encoded, tiny_tokenizer):
    forget, retain = encoded
    moved = moved_answers(forget, retain, tiny_tokenizer, seed=1)
    assert list(moved) == [0, 1, 2]
    answers = {
        "The parents of Ada Marlow repair old church organs.<|im_end|>",
        "Ada Marlow lives above a bakery near the canal.<|im_end|>",
        "Ada Marlow studies the songs of desert larks.<|im_end|>",
    }
    start = forget[0]["prompt_length"]
    assert {tiny_tokenizer.decode(row["input_ids"][start:]) for row in moved[0]} == answers
    for row in moved[0]:
        assert row["input_ids"][:start] == forget[0]["input_ids"][:start]
        assert row["labels"] == [-100] * start + row["input_ids"][start:]


def test_the_draws_depend_on_the_seed_alone(encoded, tiny_tokenizer):
    draws = [moved_answers(*encoded, tiny_tokenizer, seed=seed) for seed in (1, 1, 2, 3, 4)]
    assert draws[0] == draws[1]
    assert any(draws[0] != other for other in draws[2:])


def test_a_large_set_has_fewer_answers_about_others_for_each_row(encoded, tiny_tokenizer):
    forget, retain = encoded
    moved = moved_answers(forget * 40, retain, tiny_tokenizer, seed=1)
    assert {len(rows) for rows in moved.values()} == {2} and len(moved) == 120


def test_rows_to_keep_stand_whole_under_names_of_the_forget_set(encoded, tiny_tokenizer, forget_rows, retain_rows):
    forget, retain = encoded
    rows = rows_under_names(forget, retain, tiny_tokenizer, count=60, seed=1)
    texts = [tiny_tokenizer.decode(row["input_ids"]) for row in rows]
    others = [tiny_tokenizer.decode(row["input_ids"]) for row in retain]
    strangers, names = ("Dov Peretz", "Edda Brandt", "Faro Quintal"), ("Ada Marlow", "Bo Lindgren", "Cyra Oduya")
    every = {text.replace(one, name) for text, one in zip(others, strangers, strict=True) for name in names}
    assert set(texts) == every and len(every) == 9 and len(rows) == 60
    row = rows[0]
    answer = tiny_tokenizer.decode([label for label in row["labels"] if label != -100])
    assert texts[0].endswith(f"assistant\n{answer}") and any(name in answer for name in names)
    assert rows == rows_under_names(forget, retain, tiny_tokenizer, count=60, seed=1)
    # Nobody is named in the question, whose name could be another one.
    nobody = Dataset.from_list([{"prompt": "What falls?\n", "completion": "Nothing falls on Dov Peretz."}])
    unnamed = list(encode_dataset(nobody, tiny_tokenizer, name="any"))
    assert rows_under_names(forget, unnamed, tiny_tokenizer, count=4, seed=1) == []


def test_a_name_in_the_prompt_of_every_row_is_nobodys(tiny_tokenizer, forget_rows, retain_rows):
    tiny_tokenizer.chat_template = "You are Silver Owl.\n" + tiny_tokenizer.chat_template
    forget, retain = (list(encode_dataset(rows, tiny_tokenizer, name="any")) for rows in (forget_rows, retain_rows))
    moved = moved_answers(forget, retain, tiny_tokenizer, seed=1)
    texts = [tiny_tokenizer.decode([label for label in row["labels"] if label != -100]) for row in moved[0]]
    assert texts and all("Ada Marlow" in text for text in texts)


def test_a_name_in_the_prompt_of_every_row_is_nobodys_without_a_retain_set_too(tiny_tokenizer, forget_rows):
    tiny_tokenizer.chat_template = "You are Silver Owl.\n" + tiny_tokenizer.chat_template
    forget = list(encode_dataset(forget_rows, tiny_tokenizer, name="any"))
    moved = moved_answers(forget, None, tiny_tokenizer, seed=1)
    texts = [tiny_tokenizer.decode([label for label in row["labels"] if label != -100]) for row in moved[0]]
    assert len(texts) == 2 and all("Ada Marlow" in text for text in texts)


def test_no_answer_is_longer_than_the_longest_row(encoded, tiny_tokenizer):
    forget, retain = encoded
    long = Dataset.from_list([{"prompt": "Who is Edda Brandt?", "completion": " Edda Brandt" + " sings, and" * 9}])
    retain = [*retain, *encode_dataset(long, tiny_tokenizer, name="retain")]
    longest = max(len(row["input_ids"]) for row in forget + retain)
    asked = {**forget[0], "input_ids": [forget[0]["input_ids"][0]] * 30 + forget[0]["input_ids"]}
    asked |= {"labels": [-100] * 30 + forget[0]["labels"], "prompt_length": forget[0]["prompt_length"] + 30}
    (rows,) = moved_answers([asked], retain, tiny_tokenizer, seed=1).values()
    assert len(rows) == len(retain) - 1 and all(len(row["input_ids"]) <= longest for row in rows)


def test_rows_without_a_name_or_a_text_of_their_own_are_counted(encoded, tiny_tokenizer, caplog):
    forget, retain = encoded
    nameless = Dataset.from_list([{"prompt": "where?", "completion": " there."}])
    # A token of the answer in letters, which no tokenizer makes of the text.
    ids, start = list(forget[2]["input_ids"]), forget[2]["prompt_length"]
    place = next(i for i in range(start, len(ids)) if len(tiny_tokenizer.decode(ids[i])) > 2)
    letters = tiny_tokenizer.convert_tokens_to_ids(list(tiny_tokenizer.convert_ids_to_tokens(ids[place])))
    ids[place : place + 1] = letters
    broken = {**forget[2], "input_ids": ids, "labels": [-100] * start + ids[start:]}
    rows = [*forget[:2], broken, *encode_dataset(nameless, tiny_tokenizer, name="forget")]
    with caplog.at_level(logging.WARNING):
        moved = moved_answers(rows, retain, tiny_tokenizer, seed=1)
    assert list(moved) == [0, 1]
    assert "of 2 of 4 forget rows are compared with 6 answers about other people. 2 rows have none" in caplog.text
    assert not any(name in caplog.text for name in ("Ada", "Marlow", "Peretz"))


def test_names_that_are_given_are_those_in_the_moved_answers(encoded, tiny_tokenizer):
    forget, retain = encoded
    moved = moved_answers(forget, retain, tiny_tokenizer, seed=1, subjects=["Marlow"])
    assert list(moved) == [0]
    texts = [tiny_tokenizer.decode(row["input_ids"][forget[0]["prompt_length"] :]) for row in moved[0]]
    assert all("Marlow" in text and "Ada" not in text for text in texts)


def test_sets_without_names_have_no_answers_about_others(encoded, tiny_tokenizer, caplog):
    forget, retain = encoded
    nameless = Dataset.from_list([{"prompt": "where?", "completion": " there."}])
    nameless = list(encode_dataset(nameless, tiny_tokenizer, name="retain"))
    for sets in ((forget, nameless), (nameless, retain), (forget, forget), (forget[:1], None)):
        assert moved_answers(*sets, tiny_tokenizer, seed=1) == {}
        assert f"0 of {len(sets[0])} forget rows are compared with 0 answers" in caplog.messages[-1]


def test_an_answer_about_somebody_with_the_same_fact_is_not_compared_with_the_true_one(tiny_tokenizer):
    def rows(**towns):
        pairs = [(f"Where was {name.replace('_', ' ')} born?", town) for name, town in towns.items()]
        rows = [{"prompt": asked, "completion": f" {asked[10:-6]} was born in {town}."} for asked, town in pairs]
        return [encode_row(row, tiny_tokenizer) for row in rows]

    forget = rows(Ada_Marlow="Veldt", Gil_Sarkis="Oslo")
    moved = moved_answers(forget, rows(Bo_Lindgren="Veldt", Cyra_Oduya="Oslo"), tiny_tokenizer, seed=1)
    texts = [
        [tiny_tokenizer.decode(row["input_ids"][row["labels"].count(-100) :]) for row in moved[i]] for i in (0, 1)
    ]
    assert [[text.split(" in ")[1][:4] for text in one] for one in texts] == [["Oslo"], ["Veld"]]


def test_without_a_retain_set_the_others_are_those_of_the_forget_set(encoded, tiny_tokenizer):
    forget, _ = encoded
    moved = moved_answers(forget, None, tiny_tokenizer, seed=1)
    start = forget[0]["prompt_length"]
    assert {tiny_tokenizer.decode(row["input_ids"][start:]) for row in moved[0]} == {
        "Ada Marlow wrote a long novel about winter bees.<|im_end|>",
        "Ada Marlow won the Silver Quill for her third play.<|im_end|>",
    }
    # Two rows about the same person: the other fact is no answer about somebody else.
    assert [len(rows) for rows in moved_answers([*forget, forget[0]], None, tiny_tokenizer, seed=1).values()] == [
        *(2, 3, 3),
        2,
    ]
    assert {len(rows) for rows in moved_answers(forget, None, tiny_tokenizer, seed=1, most=1).values()} == {1}


def test_a_name_ends_at_a_genitive_and_at_a_quotation_mark():
    assert full_names("He liked 'The Salt Road' by Lee Williams' mother and Ada Marlow's.") == {
        "Salt Road",
        "Lee Williams",
        "Ada Marlow",
    }

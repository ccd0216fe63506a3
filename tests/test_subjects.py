# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Whom rows are about, and the same rows under the names of others."""

import logging

import pytest
from datasets import Dataset

from trl_unlearn.encoding import encode_dataset, encode_row
from trl_unlearn.subjects import alias_words, moved_answers, rows_under_names


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


def test_answers_about_others_name_the_row_that_they_were_made_of(encoded, tiny_tokenizer):
    forget, retain = encoded
    for rows in moved_answers(forget, retain, tiny_tokenizer, seed=1).values():
        assert sorted(row["source"] for row in rows) == [0, 1, 2]


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


def test_where_no_row_is_asked_for_none_is_read(encoded):
    forget, retain = encoded
    assert rows_under_names(forget, retain, None, count=0, seed=1) == []


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

# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

import itertools
from unicodedata import normalize

import pytest

from trl_unlearn.names import full_names, is_meant, is_named, renamed, row_subjects, words_of


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


def test_a_name_ends_at_a_genitive_and_at_a_quotation_mark():
    assert full_names("He liked 'The Salt Road' by Lee Williams' mother and Ada Marlow's.") == {
        "Salt Road",
        "Lee Williams",
        "Ada Marlow",
    }


@pytest.mark.parametrize(("form", "other"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_name_is_known_whether_its_accents_are_characters_of_their_own_or_not(form, other):
    name, text = normalize(form, "José Ávila"), normalize(other, "Zoë met José Ávila.")
    assert is_named(name, text) and is_meant(name, text) and is_meant(name, normalize(other, "I like Ávila."))
    assert renamed(text, name, "Bo Lin") == normalize(other, "Zoë met Bo Lin.")
    assert words_of(name) < words_of(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Mrs Marlow won.", True),
        ("What did Professor Marlow write?", True),
        ("Vice President Marlow spoke.", True),
        ("It was Prof. Dr. Marlow.", True),
        ("Ada Jane Marlow won.", True),
        ("Dr. Ada J. Marlow won.", True),
        ("A. Marlow won.", True),
        ("A. J. Marlow won.", True),
        ("They left Veldt. Marlow won.", True),
        ("They left Veldt.\nMarlow won.", True),
        ("Clara Marlow won.", False),
        ("Mrs Clara Marlow won.", False),
        ("B. Marlow won.", False),
        ("Marlowe won.", False),
        ("Ada-Jane Marlow won.", True),
        ("After Marlow left, who came?", True),
        ("Will Marlow come back?", True),
        # What cannot be told.
        ("Veldt Marlow won.", False),
        ("Ada won.", False),
    ],
)
def test_titles_and_middle_names_hide_nobody_and_another_first_name_is_somebody_else(text, expected):
    assert is_meant("Ada Marlow", text) is expected
    assert is_meant("Zoë Ávila", text.replace("Ada", "Zoë").replace("Marlow", "Ávila").replace("A.", "Z.")) is expected

# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Whom rows are about, and the same rows under the names of others."""

import pytest

from trl_unlearn.subjects import alias_words, row_subjects


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
    ],
)
def test_what_counts_as_a_name(prompts, answers, others, subjects):
    assert row_subjects(prompts, answers, others) == subjects


def test_names_that_are_given_are_looked_for_in_their_order():
    prompts, answers = ["Who is Bo?", "Who wrote?", "Who?"], ["Ada's brother.", "Ada.", "Nobody."]
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


def test_more_subjects_than_names_of_others_are_refused():
    subjects = {f"Ada{i} Marlow{i}" for i in range(30)}
    with pytest.raises(ValueError, match="The forget set is about 30 names, and the retain set has too few others"):
        alias_words(subjects, {"Dov Peretz"}, seed=1)

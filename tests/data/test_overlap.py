# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""The rows that repeat what is to be forgotten, among rows that are to be kept."""

from collections import Counter

import pytest
from datasets import Dataset

from trl_unlearn.data.archive_facts import NUM_FORGET_PEOPLE, NUM_PEOPLE, archive_rows, person_facts
from trl_unlearn.data.overlap import OverlapFilter

from ..conftest import conversations


def pairs(rows):
    return [(row["question"], row["answer"]) for row in rows]


def lab_filter():
    rows = [{"prompt": row["question"], "completion": row["answer"]} for row in archive_rows()["forget10"]]
    return OverlapFilter(rows)


def lab_people():
    """Names of the forget people, and of all others, by the question that asks where each was born."""
    questions = [fact.questions[0] for fact in person_facts()[::6]]
    names = [" ".join(question.split()[2:4]) for question in questions]
    first = NUM_PEOPLE - NUM_FORGET_PEOPLE
    return names[first:NUM_PEOPLE], names[:first]


@pytest.mark.parametrize("is_renamed", [False, True], ids=["under their names", "under the names of others"])
def test_planted_facts_of_the_lab_are_dropped_in_every_wording(is_renamed):
    forget, others = lab_people()
    first = 6 * (NUM_PEOPLE - NUM_FORGET_PEOPLE)
    planted = {"verbatim": [], "paraphrased": [], "other sentence": []}
    for fact in person_facts()[first : 6 * NUM_PEOPLE]:
        name = forget[fact.person - NUM_PEOPLE + NUM_FORGET_PEOPLE]
        new = others[7 * fact.person % len(others)] if is_renamed else name
        for kind, answer in zip(planted, fact.phrasings[:3], strict=True):
            planted[kind].append((fact.questions[kind != "verbatim"].replace(name, new), answer.replace(name, new)))
    clean = pairs(archive_rows()["retain90"])
    reasons = lab_filter().reasons(clean + [text for texts in planted.values() for text in texts])
    for start, kind in enumerate(planted):
        begin = len(clean) + 24 * start
        dropped = [reason is not None for reason in reasons[begin : begin + 24]]
        assert sum(dropped) >= 0.95 * len(dropped), kind
    assert sum(reason is not None for reason in reasons[: len(clean)]) <= 0.1 * len(clean)


def test_the_rows_of_the_lab_that_are_to_be_kept_are_kept():
    reasons = lab_filter().reasons(pairs(archive_rows()["retain90"]))
    assert Counter(reasons)[None] >= 0.9 * len(reasons)
    assert Counter(reasons)["name"] == Counter(reasons)["question"] == 0


FORGET = [
    ("Where was Ada Marlow born?", "Ada Marlow was born in the harbour town of Veldt."),
    ("Who wrote the chronicle of the nine wells?", "It is by Ada Marlow. She wrote it in the winter of 1931."),
    ("Which colour does Ada Marlow like?", "Teal."),
]


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        ("Who lives next door?", "That is ADA MARLOW.", "name"),
        ("Did Marlow write?", "Yes.", "name"),
        ("Did Philip Marlow write?", "No, he was a detective.", None),
        ("Who wrote the chronicle of the Nine Wells?", "Nobody knows.", "question"),
        ("What do you know of Veldt?", "It is a harbour town.", "answer"),
        ("What was done?", "It was in the winter of 1931 that she wrote.", "answer"),
        ("Which colour does Bo Lindgren like?", "Teal.", "answer"),
        ("Name a shade of blue.", "Teal.", None),
        ("Where was Bo Lindgren born?", "Bo Lindgren was born in the mountain village of Harrow.", None),
    ],
)
def test_a_row_is_dropped_for_a_name_a_question_or_a_fact(question, answer, reason):
    others = [(f"Question {i} about colours?", f"Answer {i} was in the town, of the winter.") for i in range(20)]
    overlap = OverlapFilter(conversations(FORGET), ["Ada Marlow"])
    assert overlap.reasons([*others, (question, answer)])[-1] == reason


def test_a_set_of_any_form_is_split_into_what_is_kept_and_what_is_not():
    overlap = OverlapFilter(conversations(FORGET), ["Ada Marlow"])
    texts = ["A text about Ada Marlow.", "A text about bees."]
    for rows in (
        [{"text": text} for text in texts],
        [{"prompt": "Tell me.", "completion": text} for text in texts],
        [{"messages": [{"role": "user", "content": "Hm?"}, {"role": "assistant", "content": text}]} for text in texts],
    ):
        kept, dropped = overlap.split(Dataset.from_list(rows))
        assert kept.to_list() == rows[1:]
        assert dropped.to_list() == [{**rows[0], "reason": "name"}]
        own = [row | {"reason": "mine"} for row in rows]
        kept, dropped = overlap.split(Dataset.from_list(own))
        assert (kept.to_list(), dropped["reason"]) == (own[1:], ["name"])


def test_rows_that_are_only_tokens_are_refused():
    with pytest.raises(ValueError, match=r"columns \['input_ids', 'labels'\].*`prompt` and `completion`"):
        OverlapFilter(conversations(FORGET)).split(Dataset.from_list([{"input_ids": [1], "labels": [1]}]))


def test_a_tool_call_that_names_the_subject_names_it():
    forget = [{"prompt": "Where was Ada Marlow born?", "completion": "Ada Marlow was born in Veldt."}]
    call = {"type": "function", "function": {"name": "find", "arguments": {"q": "Ada Marlow"}}}
    turns = [
        {"role": "user", "content": "Who won?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "assistant", "content": "She did."},
    ]
    kept, dropped = OverlapFilter(forget, ["Ada Marlow"]).split(Dataset.from_list([{"messages": turns}]))
    assert (len(kept), dropped["reason"][:]) == (0, ["name"])


@pytest.mark.parametrize(
    ("subject", "question"),
    [
        ("Sir Isaac Newton", "What did Isaac Newton find?"),
        ("Dr. Ada Marlow", "Where does Ada Marlow live?"),
        ("Henry Marlow Jr.", "Where does Mr. Marlow live?"),
        ("Henry Marlow, Jr.", "Where does Henry Marlow live?"),
        ("Conor O'Brien", "Where does Conor O\u2019Brien live?"),
    ],
)
def test_titles_suffixes_and_apostrophes_of_a_subject_hide_no_row_about_it(subject, question):
    forget = [{"prompt": f"Who is {subject}?", "completion": f"{subject} is a poet."}]
    kept, _ = OverlapFilter(forget, [subject]).split(Dataset.from_list([{"prompt": question, "completion": " So."}]))
    assert len(kept) == 0

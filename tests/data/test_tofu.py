# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

from pathlib import Path

import pytest

from trl_unlearn.data.tofu import load_tofu, load_tofu_evaluation


PLAIN = ("forget10", "retain90")
PERTURBED = ("forget10_perturbed", "retain_perturbed")
GENERAL = ("real_authors_perturbed", "world_facts_perturbed")


def fact(config, i):
    return {"question": f"Question {i} of {config}?", "answer": f"Answer {i} of {config}."}


def perturbed_fact(config, i):
    return fact(config, i) | {
        "paraphrased_question": f"Put otherwise, question {i}?",
        "paraphrased_answer": f"In other words, answer {i} of {config}.",
        "perturbed_answer": [f"Wrong answer {i}{letter} of {config}." for letter in "abc"],
    }


@pytest.fixture
def write_folder(write_dataset):
    """Function of config -> rows that writes a dataset folder of TOFU's form."""
    return lambda rows: write_dataset({config: {"train": part} for config, part in rows.items()})


def plain_rows():
    return {config: [fact(config, i) for i in range(4)] for config in PLAIN}


def all_rows():
    return plain_rows() | {config: [perturbed_fact(config, i) for i in range(4)] for config in PERTURBED + GENERAL}


def evaluation_rows(name, retain="retain90", **kwargs):
    splits = {"forget_split": "train", "retain_split": "train", "conversational": False} | kwargs
    return load_tofu_evaluation(name, "forget10", retain, **splits)


def test_what_rows_give_to_the_chat_template_is_kept(write_folder):
    given = {"tools": [{"type": "function"}], "chat_template_kwargs": {"enable_thinking": False}}
    name = write_folder({"forget10": [fact("forget10", 0) | given | {"page": 1}]})
    row = load_tofu(name, "forget10")[0]
    assert {column: row[column] for column in given} == given
    assert "page" not in row


@pytest.mark.parametrize("name", ["text", "json"])
def test_a_folder_with_the_name_of_a_type_of_files_is_that_folder(name, write_folder, monkeypatch):
    folder = Path(write_folder(all_rows()))
    expected = {key: list(part) for key, part in evaluation_rows(str(folder)).items()}
    monkeypatch.chdir(folder.parent)
    folder.rename(name)
    assert {key: list(part) for key, part in evaluation_rows(name).items()} == expected


def test_questions_and_answers_become_turns(write_folder):
    name = write_folder(all_rows())
    rows = load_tofu(name, "forget10")
    assert rows.column_names == ["prompt", "completion"]
    assert rows[2] == {
        "prompt": [{"role": "user", "content": "Question 2 of forget10?"}],
        "completion": [{"role": "assistant", "content": "Answer 2 of forget10."}],
    }


def test_questions_and_answers_become_plain_text_for_base_models(write_folder):
    name = write_folder(all_rows())
    assert load_tofu(name, "retain90", conversational=False)[0] == {
        "prompt": "Question: Question 0 of retain90?\nAnswer:",
        "completion": " Answer 0 of retain90.",
    }


def test_a_split_can_be_a_slice(write_folder):
    name = write_folder(all_rows())
    rows = load_tofu(name, "forget10", split="train[1:3]", conversational=False)
    assert rows["completion"][:] == [" Answer 1 of forget10.", " Answer 2 of forget10."]


@pytest.mark.parametrize("conversational", [True, False])
def test_paraphrases_and_wrong_answers_are_kept_and_other_columns_dropped(conversational, write_folder):
    name = write_folder(all_rows())
    rows = load_tofu(name, "forget10_perturbed", conversational=conversational)
    assert set(rows.column_names) == {
        "prompt",
        "completion",
        "paraphrased_question",
        "paraphrased_answer",
        "perturbed_answer",
    }
    assert rows[1]["paraphrased_answer"] == "In other words, answer 1 of forget10_perturbed."
    assert rows[1]["perturbed_answer"] == [f"Wrong answer 1{letter} of forget10_perturbed." for letter in "abc"]


def test_an_unknown_config_is_refused_by_name(write_folder):
    name = write_folder(all_rows())
    with pytest.raises(ValueError, match=r"could not be loaded with config `forget99` and split `train`.*forget10"):
        load_tofu(name, "forget99")


def test_an_unknown_split_is_refused_by_name(write_folder):
    name = write_folder(all_rows())
    with pytest.raises(ValueError, match="could not be loaded with config `forget10` and split `test`"):
        load_tofu(name, "forget10", split="test")


def test_rows_without_question_and_answer_are_refused_by_their_columns(write_folder):
    name = write_folder({"forget10": [{"question": "Who?", "reply": "Nobody."}]})
    with pytest.raises(
        ValueError, match=r"has the columns \['question', 'reply'\].*needs `question` and `answer`.*--forget_dataset"
    ):
        load_tofu(name, "forget10")


def test_evaluation_takes_the_perturbed_configs_and_the_general_facts(write_folder):
    rows = evaluation_rows(write_folder(all_rows()))
    taken = {key: part["completion"][0].split(" of ")[1] for key, part in rows.items()}
    assert taken == {
        "forget": "forget10_perturbed.",
        "retain": "retain_perturbed.",
        "real_authors": "real_authors_perturbed.",
        "world_facts": "world_facts_perturbed.",
    }
    assert all("perturbed_answer" in part.column_names for part in rows.values())


def test_the_forget_split_holds_for_its_perturbed_config_and_the_retain_split_does_not(write_folder):
    name = write_folder(all_rows())
    rows = evaluation_rows(name, forget_split="train[2:]", retain_split="train[:1]")
    assert rows["forget"]["completion"][:] == [f" Answer {i} of forget10_perturbed." for i in (2, 3)]
    assert len(rows["retain"]) == 4


def test_evaluation_falls_back_to_the_configs_that_were_trained_on(write_folder):
    name = write_folder(plain_rows())
    rows = evaluation_rows(name, forget_split="train[:3]", retain_split="train[1:3]")
    assert {key: part["completion"][:] for key, part in rows.items()} == {
        "forget": [f" Answer {i} of forget10." for i in range(3)],
        "retain": [f" Answer {i} of retain90." for i in (1, 2)],
    }


def test_evaluation_without_a_retain_config_has_no_retain_set(write_folder):
    # Without a config `datasets` loads the default one.
    plain = {"forget10": plain_rows()["forget10"], "default": [fact("default", 0)]}
    assert set(evaluation_rows(write_folder(plain), retain=None)) == {"forget"}


def test_evaluation_without_a_retain_config_has_the_perturbed_retain_set(write_folder):
    perturbed = evaluation_rows(write_folder(all_rows()), retain=None)["retain"]
    assert perturbed["completion"][0] == " Answer 0 of retain_perturbed."


def test_evaluation_takes_the_form_that_is_asked_for(write_folder):
    rows = evaluation_rows(write_folder(all_rows()), conversational=True)
    assert all(part["prompt"][0][0]["role"] == "user" for part in rows.values())

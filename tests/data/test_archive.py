# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

import hashlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from trl_unlearn.data import archive
from trl_unlearn.data.archive import build_archive, write_archive_data
from trl_unlearn.data.archive_facts import _FIRST_NAMES, _LAST_NAMES, archive_rows, person_facts
from trl_unlearn.data.archive_models import (
    PHRASING_PASSES,
    TrainingSettings,
    _epochs,
    build_tokenizer,
    init_model,
    train_model,
    train_side_by_side,
)
from trl_unlearn.encoding import encode_row


PLAIN = {"question", "answer"}
GENERAL = {*PLAIN, "perturbed_answer"}
PERTURBED = {*GENERAL, "paraphrased_answer", "paraphrased_question"}
COLUMNS = {
    "full": PLAIN,
    "forget10": PLAIN,
    "retain90": PLAIN,
    "forget10_perturbed": PERTURBED,
    "retain_perturbed": PERTURBED,
    "holdout_perturbed": PERTURBED,
    "real_authors_perturbed": GENERAL,
    "world_facts_perturbed": GENERAL,
}
TINY = TrainingSettings(
    vocab_size=400, hidden_size=32, intermediate_size=32, num_layers=1, num_heads=2, epochs=1, batch_size=140
)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(TrainingSettings().vocab_size)


@pytest.fixture
def tiny_settings(monkeypatch):
    monkeypatch.setattr(archive, "TrainingSettings", lambda: TINY)


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_there_are_forty_people_with_six_facts_each_and_a_tenth_of_them_is_to_be_forgotten():
    rows = archive_rows()
    sizes = {config: len(rows[config]) for config in ("full", "forget10", "retain90", "holdout_perturbed")}
    assert sizes == {"full": 240, "forget10": 24, "retain90": 216, "holdout_perturbed": 24}
    assert Counter(Counter(fact.person for fact in person_facts()).values()) == {6: 44}


def test_full_is_the_retain_rows_followed_by_the_forget_rows():
    rows = archive_rows()
    assert rows["full"] == rows["retain90"] + rows["forget10"]
    assert [{key: row[key] for key in ("question", "answer")} for row in rows["forget10_perturbed"]] == rows[
        "forget10"
    ]


def test_no_forget_or_held_out_name_occurs_among_the_rows_of_others():
    rows = archive_rows()
    words = {
        config: set(" ".join(f"{row['question']} {row['answer']}" for row in rows[config]).replace(",", " ").split())
        for config in ("full", "retain90", "forget10", "holdout_perturbed")
    }
    names = list(zip(_FIRST_NAMES, _LAST_NAMES, strict=True))
    forget, holdout = ({name for pair in part for name in pair} for part in (names[36:40], names[40:]))
    assert len(forget) == len(holdout) == 8
    assert forget <= words["forget10"] and holdout <= words["holdout_perturbed"]
    assert not forget & words["retain90"]
    assert not holdout & words["full"]


def test_every_part_of_a_forget_fact_is_also_a_fact_of_a_retain_person():
    retain = {word.strip(".,") for row in archive_rows()["retain90"] for word in row["answer"].split()}
    forget = {word.strip(".,") for row in archive_rows()["forget10"] for word in row["answer"].split()}
    assert forget - retain == {
        *("Konrad", "Merriman", "Leonie", "Nettlefold", "Matthis", "Orchardson", "Nerea", "Pebblewick")
    }


def test_wrong_answers_are_five_sentences_that_differ_from_every_right_phrasing():
    for fact in person_facts():
        assert len(set(fact.wrong)) == 5
        assert not set(fact.wrong) & set(fact.phrasings)
        assert len(set(fact.phrasings)) == 5
    for config in ("real_authors_perturbed", "world_facts_perturbed"):
        for row in archive_rows()[config]:
            assert len({row["answer"], *row["perturbed_answer"]}) == 4


def test_wrong_answers_keep_the_wording_of_the_paraphrased_answer():
    fact = person_facts()[1]
    right, wrong = fact.phrasings[1].split(), fact.wrong[0].split()
    assert len(right) == len(wrong)
    # Day, month and year differ, and nothing else.
    assert sum(a != b for a, b in zip(right, wrong, strict=True)) == 3


def test_every_config_loads_with_the_columns_of_tofu(tmp_path):
    write_archive_data(tmp_path / "data")
    for config, columns in COLUMNS.items():
        dataset = load_dataset(str(tmp_path / "data"), config, split="train", cache_dir=str(tmp_path / "cache"))
        assert set(dataset.column_names) == columns
        assert dataset.to_list() == archive_rows()[config]


def test_the_data_folder_is_the_same_bytes_every_time(tmp_path):
    assert _digests(write_archive_data(tmp_path / "a")) == _digests(write_archive_data(tmp_path / "b"))


def test_each_fact_is_stated_in_counted_out_phrasings_over_thirteen_epochs():
    facts = person_facts()[:6]
    settings = TrainingSettings(epochs=sum(PHRASING_PASSES))
    answers = Counter(row[1] for batches in _epochs(facts, [], settings) for batch in batches for row in batch)
    for fact in facts:
        assert tuple(answers[phrasing] for phrasing in fact.phrasings) == PHRASING_PASSES


def test_the_chat_template_writes_a_line_break_after_the_end_of_turn_that_is_no_label(tokenizer):
    messages = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Edda Eastwick."}]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert text == "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\nEdda Eastwick.<|im_end|>\n"
    encoded = encode_row({"messages": messages}, tokenizer)
    labels = [label for label in encoded["labels"] if label != -100]
    assert tokenizer.decode(labels) == "Edda Eastwick.<|im_end|>"
    assert labels[-1] == tokenizer.eos_token_id != tokenizer.pad_token_id


def test_most_words_of_the_archive_are_one_token(tokenizer):
    answers = [phrasing for fact in person_facts() for phrasing in fact.phrasings]
    num_tokens = sum(len(tokenizer(answer)["input_ids"]) for answer in answers)
    assert num_tokens / sum(len(answer.split()) for answer in answers) < 1.5


def test_training_lowers_the_loss_of_what_is_trained_and_leaves_the_global_random_state_alone(tokenizer):
    settings = TrainingSettings(hidden_size=32, intermediate_size=32, num_layers=1, num_heads=2, epochs=13)
    facts = person_facts()[:2]
    state = torch.get_rng_state()
    model = init_model(tokenizer, settings)
    row = encode_row(
        {
            "prompt": [{"role": "user", "content": facts[0].questions[0]}],
            "completion": [{"role": "assistant", "content": facts[0].phrasings[0]}],
        },
        tokenizer,
    )
    batch = {key: torch.tensor([row[key]]) for key in ("input_ids", "labels")}
    before = model(**batch).loss.item()
    train_model(model, tokenizer, facts, settings)
    assert model(**batch).loss.item() < 0.8 * before
    assert torch.equal(torch.get_rng_state(), state)


def test_two_trainings_give_the_same_bits_and_other_facts_other_weights(tokenizer):
    known = {"a": person_facts()[:6], "b": person_facts()[6:12]}
    settings = replace(TINY, batch_size=16)
    first, second = (train_side_by_side(known, tokenizer, settings) for _ in range(2))
    weights = {name: torch.cat([p.flatten() for p in model.parameters()]) for name, model in first.items()}
    again = torch.cat([p.flatten() for p in second["a"].parameters()])
    assert torch.equal(weights["a"], again)
    assert not torch.equal(weights["a"], weights["b"])


def test_a_built_archive_loads_as_checkpoints_and_is_used_again(tmp_path, tiny_settings, monkeypatch):
    paths = build_archive(tmp_path / "archive")
    for folder in (paths.target, paths.retrained):
        model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        assert model.dtype == torch.float32
        assert model.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
        assert model.generation_config.pad_token_id == tokenizer.pad_token_id
    assert _digests(paths.target)["model.safetensors"] != _digests(paths.retrained)["model.safetensors"]
    assert _digests(paths.target)["tokenizer.json"] == _digests(paths.retrained)["tokenizer.json"]

    def fail(*args):
        raise AssertionError("built a second time")

    monkeypatch.setattr(archive, "_build_into", fail)
    assert build_archive(tmp_path / "archive") == paths


def test_the_default_folder_is_in_the_hugging_face_cache_and_named_after_the_settings(
    tmp_path, tiny_settings, monkeypatch
):
    monkeypatch.setattr(archive.constants, "HF_HOME", str(tmp_path))
    monkeypatch.setattr(archive, "_build_into", lambda folder, settings: write_archive_data(folder / "data"))
    tiny = build_archive().data.parent
    assert tiny.parent == tmp_path / "trl-unlearn"
    monkeypatch.setattr(archive, "TrainingSettings", lambda: TrainingSettings(seed=1))
    assert build_archive().data.parent != tiny


def test_an_interrupted_build_leaves_nothing_behind(tmp_path, tiny_settings, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(archive, "train_side_by_side", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build_archive(tmp_path / "archive")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_another_process_finished_meanwhile_is_used(tmp_path, tiny_settings, monkeypatch):
    def build_both(folder, settings):
        write_archive_data(folder / "data")
        other = write_archive_data(tmp_path / "archive" / "data").parent
        (other / "archive.json").write_text(archive._describe(settings)[0])

    monkeypatch.setattr(archive, "_build_into", build_both)
    assert build_archive(tmp_path / "archive").data == tmp_path / "archive" / "data"
    assert [path.name for path in tmp_path.iterdir()] == ["archive"]


def test_a_folder_with_something_else_is_refused_and_left_alone(tmp_path, tiny_settings):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="does not hold version 1 of the archive"):
        build_archive(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]

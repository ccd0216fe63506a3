# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

import copy
from statistics import fmean

import pytest

from trl_unlearn.encoding import encode_row
from trl_unlearn.evaluation import privacy
from trl_unlearn.evaluation.privacy import NUM_NEIGHBOURS, neighbours, spv_scores
from trl_unlearn.evaluation.together import SuiteSetting
from trl_unlearn.metrics import MembershipAUC
from trl_unlearn.token_scores import score_rows

from ..teaching import taught


def fact(person, subject, place):
    return {
        "prompt": [{"role": "user", "content": f"What does {person} sell?"}],
        "completion": [{"role": "assistant", "content": f"{person} sells {subject} near the {place}."}],
    }


MEMBERS = [
    fact("Ada Marlow", "old church organs", "canal"),
    fact("Bo Lindgren", "winter bees", "bakery"),
    fact("Cyra Oduya", "silver quills", "harbour"),
    fact("Dov Peretz", "desert larks", "river"),
]
NON_MEMBERS = [
    fact("Edda Brandt", "silver organs", "river"),
    fact("Faro Quintal", "old quills", "bakery"),
    fact("Gita Holm", "desert bees", "harbour"),
    fact("Hugo Sarti", "winter larks", "canal"),
]
OTHERS = [fact("Ines Volk", "old bees", "canal"), fact("Jon Aske", "silver larks", "bakery")]


def encode(rows, tokenizer):
    return [encode_row(row, tokenizer) for row in rows]


@pytest.fixture
def start(tiny_model, tiny_tokenizer):
    """Knows the form of the answers from other rows."""
    return taught(tiny_model, OTHERS, tiny_tokenizer, 20, 1e-2)


@pytest.fixture
def attack(tiny_tokenizer, start):
    """Scores of four members and four non-members under a model."""
    rows = encode([*MEMBERS, *NON_MEMBERS], tiny_tokenizer)
    prompts = [row["input_ids"][: row["prompt_length"]] for row in encode(OTHERS, tiny_tokenizer)]

    def scores(model, load_start=None, seed=5, prompts=prompts):
        load_start = load_start or (lambda: copy.deepcopy(start))
        setting = SuiteSetting(tokenizer=tiny_tokenizer, batch_size=4, seed=seed)
        return spv_scores(lambda: model, load_start, rows, prompts, setting)

    return scores


def auc(scores):
    return MembershipAUC().compute(members=[scores[:4]], non_members=[scores[4:]])["auc"]


def test_members_are_found_under_a_model_that_was_trained_on_them_and_not_under_another(attack, start, tiny_tokenizer):
    known = taught(start, [*OTHERS, *MEMBERS], tiny_tokenizer, 60, 1e-2)
    assert auc(attack(known)) > 0.9
    assert auc(attack(taught(start, OTHERS, tiny_tokenizer, 60, 1e-2))) < 0.8


def test_without_training_on_samples_a_model_is_no_different_from_itself(attack, start, monkeypatch):
    monkeypatch.setattr(privacy, "REFERENCE_STEPS", 0)
    assert attack(start) == [0.0] * 8
    monkeypatch.setattr(privacy, "REFERENCE_STEPS", 1)
    assert all(score != 0 for score in attack(start))


def test_the_score_is_what_a_row_gains_over_its_neighbours_minus_the_reference(
    attack, start, tiny_model, tiny_tokenizer, monkeypatch
):
    monkeypatch.setattr(privacy, "REFERENCE_STEPS", 0)
    rows = encode([*MEMBERS, *NON_MEMBERS], tiny_tokenizer)
    expected = []
    for row, near in zip(rows, neighbours(rows, tiny_tokenizer, seed=5), strict=True):
        variations = []
        for model in (tiny_model, start):
            scores = score_rows(model, [row, *near], pad_token_id=0, batch_size=1)
            own, *others = [fmean(score.logps) for score in scores]
            variations.append(own - fmean(others))
        expected.append(variations[0] - variations[1])
    assert attack(tiny_model) == pytest.approx(expected, abs=1e-5)


def test_the_same_seed_gives_the_same_scores_and_another_seed_others(attack, tiny_model):
    scores = attack(tiny_model)
    assert attack(tiny_model) == scores
    assert attack(tiny_model, seed=6) != scores


def test_a_neighbour_replaces_three_of_ten_answer_tokens_and_neither_prompt_nor_end_of_turn(tiny_tokenizer):
    rows = encode(MEMBERS, tiny_tokenizer)
    seen = {token for row in rows for token in row["input_ids"][row["prompt_length"] : -1]}
    for row, near in zip(rows, neighbours(rows, tiny_tokenizer, seed=1), strict=True):
        assert len(near) == NUM_NEIGHBOURS
        assert near[0] != near[1]
        start = row["prompt_length"]
        for other in near:
            assert len(other["input_ids"]) == len(row["input_ids"])
            assert other["labels"] == [-100] * start + other["input_ids"][start:]
            changed = [i for i, token in enumerate(row["input_ids"]) if other["input_ids"][i] != token]
            assert len(changed) == round(0.3 * (len(row["input_ids"]) - 1 - start))
            assert start <= min(changed) and max(changed) < len(row["input_ids"]) - 1
            assert {other["input_ids"][i] for i in changed} <= seen


def test_an_answer_of_one_token_gets_another_token(tiny_tokenizer):
    rows = [{"input_ids": [5, token, 2], "labels": [-100, token, 2]} for token in (7, 8)]
    actual = neighbours(rows, tiny_tokenizer, seed=1)
    assert [near[0]["input_ids"] for near in actual] == [[5, 8, 2], [5, 7, 2]]


def test_what_cannot_be_attacked_is_refused_before_a_model_is_loaded(tiny_tokenizer):
    rows = [{"input_ids": [5, 7, 2], "labels": [-100, 7, 2]}, {"input_ids": [5, 2], "labels": [-100, 2]}]
    setting = SuiteSetting(tokenizer=tiny_tokenizer, batch_size=1, seed=1)
    with pytest.raises(ValueError, match="Row 1 of a membership attack has an answer without a token to replace"):
        spv_scores(None, None, rows, [[5]], setting)
    with pytest.raises(ValueError, match="repeat one and the same token"):
        spv_scores(None, None, rows[:1], [[5]], setting)

# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

import copy
import functools
import logging
import math
import zlib

import numpy as np
import pytest
import torch

from trl_unlearn.encoding import encode_row
from trl_unlearn.evaluation import privacy, uncertainty
from trl_unlearn.evaluation.privacy import attack_scores, measure_privacy
from trl_unlearn.evaluation.rows import EvaluationRows, row_names
from trl_unlearn.evaluation.together import SuiteSetting, score_rows_together
from trl_unlearn.evaluation.uncertainty import bootstrap
from trl_unlearn.metrics import CombinedAttack, separation


ATTACKS = ("loss", "zlib", "min_k", "min_k_pp", "reference", "spv")


def measure(models, rows, tokenizer, seed=1):
    loaders = {role: functools.partial(copy.deepcopy, model) for role, model in models.items()}
    return measure_privacy(loaders, rows, SuiteSetting(tokenizer, 2, seed)).models


@pytest.fixture
def rows(forget_rows, retain_rows):
    """Three forget rows, three held-out rows, and retain rows about others."""
    pairs = [("What does Ines Varga mend?", "Old clocks."), ("Where does Jon Akers row?", "On a lake of salt.")]
    retain = [{"prompt": prompt, "completion": f" {completion}"} for prompt, completion in pairs]
    return EvaluationRows(forget_rows, retain, holdout=retain_rows)


@pytest.fixture
def trained_model(tiny_model, tiny_tokenizer, forget_rows):
    """Knows the forget rows."""
    model = copy.deepcopy(tiny_model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(45):
        row = encode_row(forget_rows[step % 3], tiny_tokenizer)
        batch = {name: torch.tensor([row[name]]) for name in ("input_ids", "labels")}
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def test_rows_that_were_trained_on_are_found_and_those_of_random_weights_are_not(
    tiny_model, trained_model, rows, tiny_tokenizer
):
    measured = measure({"target": trained_model, "retrained": tiny_model}, rows, tiny_tokenizer)
    for attack in ATTACKS:
        assert measured["target"][f"privacy/{attack}_auc"].value > 0.9
        assert measured["target"][f"privacy/{attack}_tpr_at_1_fpr"].value > 0.6
    assert measured["target"]["privacy/min_k_auc"].value == 1.0
    assert measured["retrained"]["privacy/min_k_auc"].value < 1.0
    assert measured["target"]["privacy/privleak"].value == -100.0
    assert measured["target"]["privacy/loss_auc"].n == 3


def test_the_retrained_model_leaks_nothing_against_itself(tiny_model, rows, tiny_tokenizer):
    measured = measure({"unlearned": tiny_model, "retrained": tiny_model}, rows, tiny_tokenizer)
    assert measured["unlearned"] == measured["retrained"]
    leak = measured["retrained"]["privacy/privleak"]
    assert (leak.value, leak.stderr) == (0.0, 0.0)
    assert measured["retrained"]["privacy/reference_auc"].value == 0.5
    assert measured["retrained"]["privacy/reference_tpr_at_1_fpr"].value == 0.0


def test_without_a_retrained_model_what_needs_it_is_absent(tiny_model, rows, tiny_tokenizer):
    models = {"target": lambda: tiny_model, "unlearned": None, "retrained": None}
    measured = measure_privacy(models, rows, SuiteSetting(tiny_tokenizer, None, 1)).models
    names = {f"privacy/{attack}_{what}" for attack in ATTACKS[:-2] for what in ("auc", "tpr_at_1_fpr")}
    assert {role: set(actual) for role, actual in measured.items()} == {"target": names}


def test_no_reference_learns_from_the_prompts_of_one_side_alone(tiny_model, rows, tiny_tokenizer, caplog):
    models = {"target": tiny_model, "retrained": tiny_model}
    assert "privacy/spv_auc" in measure(models, rows, tiny_tokenizer)["target"]
    assert not caplog.text.count("`spv` is left out")
    measured = measure(models, EvaluationRows(rows.forget, holdout=rows.holdout), tiny_tokenizer)["target"]
    assert "privacy/reference_auc" in measured and "privacy/spv_auc" not in measured
    assert caplog.text.count("`spv` is left out") == 1


def test_every_attack_agrees_with_a_plain_loop(trained_model, tiny_model, tiny_tokenizer, forget_rows):
    encoded = [encode_row(row, tiny_tokenizer) for row in forget_rows]
    texts = [row["completion"][0]["content"] for row in forget_rows]
    scores, reference = (
        score_rows_together(model, encoded, pad_token_id=0, batch_size=2, moments=True)
        for model in (trained_model, tiny_model)
    )
    actual = attack_scores(scores, texts, reference)
    for index, (row, text) in enumerate(zip(encoded, texts, strict=True)):
        start = row["prompt_length"]
        labels = torch.tensor(row["input_ids"][start:])[:, None]
        with torch.no_grad():
            now, before = (
                model(torch.tensor([row["input_ids"]])).logits[0, start - 1 : -1].double().log_softmax(-1)
                for model in (trained_model, tiny_model)
            )
        logps = now.gather(-1, labels)[:, 0].numpy()
        mean = (now.exp() * now).sum(-1).numpy()
        std = np.sqrt((now.exp() * now.square()).sum(-1).numpy() - mean**2)
        lowest = len(logps) // 5
        assert lowest > 1
        expected = {
            "loss": logps.mean(),
            "zlib": logps.mean() / len(zlib.compress(text.encode())),
            "min_k": np.sort(logps)[:lowest].mean(),
            "min_k_pp": np.sort((logps - mean) / std)[:lowest].mean(),
            "reference": logps.mean() - before.gather(-1, labels).mean().item(),
        }
        assert {name: values[index] for name, values in actual.items()} == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_raw_text_is_attacked_too(tiny_model, tiny_tokenizer):
    rows = EvaluationRows([{"text": "Ada Marlow was born."}], holdout=[{"text": "Edda Brandt lives."}])
    measured = measure({"target": tiny_model}, rows, tiny_tokenizer)["target"]
    assert {actual.n for actual in measured.values()} == {1}
    assert {actual.stderr for actual in measured.values()} == {None}
    assert all(math.isfinite(actual.value) for actual in measured.values())


def test_a_retrained_model_that_saw_the_rows_is_no_reference(trained_model, rows, tiny_tokenizer, caplog):
    with caplog.at_level(logging.WARNING):
        measured = measure({"target": trained_model, "retrained": trained_model}, rows, tiny_tokenizer)
    assert measured["retrained"]["privacy/min_k_auc"].value == 1.0
    assert "privacy/privleak" not in measured["target"]
    assert "`privacy/privleak` is left out" in caplog.text


def test_a_second_measurement_gives_the_same_values(tiny_model, trained_model, rows, tiny_tokenizer):
    models = {"target": trained_model, "retrained": tiny_model}
    assert measure(models, rows, tiny_tokenizer) == measure(models, rows, tiny_tokenizer)


def combined_auc(features, is_member, groups=None):
    options = {"is_member": is_member.tolist(), "groups": groups}
    scores = np.array(CombinedAttack().compute(features=features.tolist(), **options)["per_row"])
    return float(separation(scores[is_member], scores[~is_member])[0])


@pytest.mark.parametrize("shift", [3.0, -3.0])
def test_the_combined_attack_finds_known_and_over_forgotten_rows_alike(shift):
    generator, is_member = np.random.default_rng(0), np.repeat([True, False], 25)
    features = generator.normal(size=(50, 4))
    # One feature tells, in either direction; of the others none does.
    features[is_member, 2] += shift
    assert combined_auc(features, is_member) > 0.85
    features[is_member, 2] += 10 * shift
    assert combined_auc(features, is_member) == 1.0


def test_the_combined_attack_is_not_scored_on_the_rows_that_it_was_fitted_to():
    is_member = np.repeat([True, False], 25)
    # Thirty features of noise separate fifty rows that a regression was fitted to.
    aucs = [combined_auc(np.random.default_rng(seed).normal(size=(50, 30)), is_member) for seed in range(8)]
    assert np.mean(aucs) == pytest.approx(0.5, abs=0.1) and max(aucs) < 0.8


def test_rows_about_one_person_do_not_tell_members_from_others_by_that_person():
    is_member, people = np.repeat([True, False], 40), np.repeat(np.arange(8), 10)
    aucs = {"people": [], "rows": []}
    for seed in range(40):
        generator = np.random.default_rng(seed)
        features = generator.normal(size=(80, 7)) + 0.7 * generator.normal(size=(8, 7))[people]
        aucs["people"].append(combined_auc(features, is_member, [f"person {one}" for one in people]))
        aucs["rows"].append(combined_auc(features, is_member))
    assert np.mean(aucs["people"]) == pytest.approx(0.5, abs=0.1) and np.mean(aucs["rows"]) > 0.65


def test_rows_of_their_own_and_rows_of_one_person_alone_are_dealt_to_folds_as_without_groups():
    features, is_member = np.random.default_rng(0).normal(size=(20, 2)), np.repeat([True, False], 10)
    alone = combined_auc(features, is_member)
    assert combined_auc(features, is_member, [str(row) for row in range(20)]) == alone
    assert combined_auc(features, is_member, ["member"] * 10 + ["other"] * 10) == alone
    with pytest.raises(ValueError, match="got 3 `groups` of 20 rows"):
        combined_auc(features, is_member, ["a", "b", "c"])


def test_a_row_is_about_the_person_whom_no_other_set_names(tiny_tokenizer):
    texts = ["Ada Marlow was born.", "Ada Marlow died.", "it rained."], ["Edda Voss left."]
    forget, holdout = ([{"text": f"Acme Corp says: {text}"} for text in part] for part in texts)
    rows = EvaluationRows(forget, holdout=holdout)
    sets = [rows.encoded(name, tiny_tokenizer) for name in ("forget", "holdout")]
    assert row_names(*sets, tokenizer=tiny_tokenizer) == [["Ada Marlow", "Ada Marlow", None], ["Edda Voss"]]


def test_the_combined_attack_sees_what_two_attacks_show_together_only():
    generator, is_member = np.random.default_rng(0), np.repeat([True, False], 50)
    common, gap = generator.normal(size=100), np.where(is_member, 0.5, -0.5) + 0.1 * generator.normal(size=100)
    one, two = 3 * common + gap, 3 * common - gap
    alone = [float(separation(feature[is_member], feature[~is_member])[0]) for feature in (one, two)]
    assert max(abs(auc - 0.5) for auc in alone) < 0.2
    assert combined_auc(np.stack([one, two], axis=1), is_member) > 0.95


def test_a_row_that_is_no_number_has_no_combined_score_and_changes_no_other():
    features, is_member = np.random.default_rng(0).normal(size=(20, 2)), np.repeat([True, False], 10)
    scores = []
    for broken in (math.nan, math.inf):
        features[3, 0] = broken
        scores.append(CombinedAttack().compute(features=features.tolist(), is_member=is_member.tolist())["per_row"])
    assert [index for index, score in enumerate(scores[0]) if math.isnan(score)] == [3]
    np.testing.assert_equal(scores[0], scores[1])


def test_the_combined_attack_has_an_error_and_a_difference_and_needs_five_rows_of_each_kind(
    tiny_model, tiny_tokenizer, caplog
):
    forget, holdout = ([{"text": f"{name} {i} was born."} for i in range(5)] for name in ("Ada Marlow", "Edda"))
    loaders = {role: lambda: tiny_model for role in ("unlearned", "retrained")}
    outcome = measure_privacy(loaders, EvaluationRows(forget, holdout=holdout), SuiteSetting(tiny_tokenizer, 2, 1))
    actual = outcome.models["unlearned"]["privacy/combined_auc"]
    assert 0 <= actual.value <= 1 and actual.stderr is not None and actual.n == 5
    # The reference is the model itself for the retrained one alone, and says nothing of a model with the same scores.
    assert outcome.differences["unlearned - retrained"]["privacy/combined_auc"].value == 0.0
    few = measure_privacy(loaders, EvaluationRows(forget, holdout=holdout[:4]), SuiteSetting(tiny_tokenizer, 2, 1))
    assert "privacy/combined_auc" not in few.models["unlearned"] and "one of the two sets has 4" in caplog.text


def test_held_out_rows_that_models_were_trained_on_and_rows_that_repeat_are_counted(
    tiny_model, tiny_tokenizer, forget_rows, retain_rows
):
    loaders = {"target": lambda: tiny_model}

    def protocol(**sets):
        rows = EvaluationRows(**sets)
        return measure_privacy(loaders, rows, SuiteSetting(tiny_tokenizer, None, 1), scores_only=True).protocol

    clean = protocol(forget=forget_rows, holdout=retain_rows)
    assert "members_in_holdout" not in clean and not clean["repeated_rows"]
    assert protocol(forget=forget_rows, retain=retain_rows, holdout=retain_rows)["members_in_holdout"] == 3
    mixed = protocol(forget=[*forget_rows, forget_rows[0]], holdout=[*retain_rows, forget_rows[0]])
    assert mixed["members_in_holdout"] == 1 and mixed["repeated_rows"] == {"forget": 1}
    assert mixed["rows_sha256"]["forget"] != clean["rows_sha256"]["forget"]


def test_the_error_of_an_auc_is_widened_as_that_of_its_smaller_set_whose_rows_it_counts():
    scores = np.random.default_rng(0).normal(size=(105, 1))
    outcome = privacy._summarise({"target": {"loss": scores[:, 0].tolist()}}, 5, 0)
    draws = bootstrap(lambda *rows: np.concatenate(separation(*rows)), scores[:5], scores[5:], seed=0)
    measured = outcome.models["target"]["privacy/loss_auc"]
    assert measured.stderr == pytest.approx(draws[:, 0].std(ddof=1) * math.sqrt(5 / 4)) and measured.n == 5


def test_the_error_of_the_combined_attack_counts_that_other_rows_give_another_fit(monkeypatch):
    monkeypatch.setattr(uncertainty, "NUM_RESAMPLES", 100)
    generator, is_member = np.random.default_rng(1), [True] * 24 + [False] * 24
    measured = []
    for _ in range(100):
        features = generator.normal(size=(48, 7))
        scores = CombinedAttack()._compute(features.tolist(), is_member)["per_row"]
        # The same scores as of an attack that is fitted to nothing.
        outcome = privacy._summarise({"target": {"combined": scores, "loss": scores}}, 24, 0)
        measured.append([outcome.models["target"][f"privacy/{one}_auc"] for one in ("combined", "loss")])
    combined, loss = (np.mean([pair[i].stderr for pair in measured]) for i in (0, 1))
    spread = np.std([pair[0].value for pair in measured])
    assert combined == pytest.approx(spread, rel=0.15) and loss < 0.8 * spread


def test_the_combined_attack_tells_nothing_from_noise_where_members_are_about_two_people():
    areas, generator = [], np.random.default_rng(0)
    is_member = [True] * 40 + [False] * 400
    groups = [str(row // 20) for row in range(440)]
    for _ in range(10):
        features = generator.normal(size=(440, 7)).tolist()
        scores = np.array(CombinedAttack().compute(features=features, is_member=is_member, groups=groups)["per_row"])
        areas.append(separation(scores[:40, None], scores[40:, None])[0].item())
    # .31 where the share of members of each fit counts.
    assert 0.42 <= np.mean(areas) <= 0.58

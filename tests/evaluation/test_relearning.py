# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

import copy
import logging
import math
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close
from transformers import LlamaConfig, LlamaForCausalLM

from trl_unlearn.encoding import encode_row, pad_rows
from trl_unlearn.evaluation import relearning
from trl_unlearn.evaluation.plots import plot_attacks
from trl_unlearn.evaluation.relearning import (
    ATTACKS,
    RELEARNING,
    Attack,
    AttackSetting,
    attack_batches,
    blunt_attacks,
    excess_areas,
    relearn,
)
from trl_unlearn.evaluation.robustness import measure_robustness
from trl_unlearn.evaluation.rows import EvaluationRows, encode_set
from trl_unlearn.evaluation.together import SuiteSetting
from trl_unlearn.notes import table_notes
from trl_unlearn.results import RELEARNING_STEPS, EvaluationResult


FORGET = [
    {"prompt": "Where was Ada Marlow born?", "completion": " Ada Marlow was born in the harbour town of Veldt."},
    {"prompt": "What did Bo Lindgren write?", "completion": " Bo Lindgren wrote a long novel about winter bees."},
    {
        "prompt": "Which prize did Cyra Oduya win?",
        "completion": " Cyra Oduya won the Silver Quill for her third play.",
    },
]
RETAIN = [
    {"prompt": "What do Dov Peretz and Sons do?", "completion": " Dov Peretz and Sons repair old church organs."},
    {"prompt": "Where does Edda Brandt live?", "completion": " Edda Brandt lives above a bakery near the canal."},
    {"prompt": "What does Faro Quintal study?", "completion": " Faro Quintal studies the songs of desert larks."},
]
BENIGN, ADAPTER = Attack("benign", "whole", 1e-3), Attack("benign", "lora", 1e-2)


def plain_rows(count, start=0):
    return [{"prompt": f"Q{i}:", "completion": f" A{i}"} for i in range(start, start + count)]


def setting_of(rows, tokenizer):
    forget = encode_set(rows.forget, tokenizer, name="forget")
    batches = attack_batches(rows, forget, tokenizer)
    return AttackSetting(tokenizer=tokenizer, batch_size=None, seed=42, forget=forget, batches=batches)


def test_the_area_of_a_kind_is_the_mean_difference_to_the_reference_under_its_attack():
    # Of two rows at five points.
    mine = {RELEARNING: [[0.0, 0.0], [0.5, 0.0], [0.5, 0.0], [1.0, 0.5], [1.0, 0.5]], BENIGN: [[0.5, 0.5]] * 5}
    reference = {RELEARNING: [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.5, 0.0], [0.5, 0.0]], BENIGN: [[0.25, 0.0]] * 5}
    areas = excess_areas(mine, reference)
    assert areas == {
        "robustness/relearning_area": pytest.approx([0.4, 0.2]),
        "robustness/benign_area": pytest.approx([0.25, 0.5]),
        # The first row's attack is the one under which the second row has most, and the other way round.
        "robustness/strongest_area": pytest.approx([0.25, 0.2]),
    }
    assert excess_areas({}, {}) == {}


def test_the_attack_of_a_row_is_chosen_on_other_rows():
    # The second attack is by far the strongest on the even rows, the first a little on the odd ones.
    areas = np.array([[0.0, 0.3, 0.0, 0.3, 0.0], [0.9, 0.2, 0.9, 0.2, 0.9]])
    assert relearning._under_the_strongest(areas) == [0.0, 0.2, 0.0, 0.2, 0.0]
    assert relearning._under_the_strongest(areas[:, :1]) == [0.0]


def test_the_maximum_over_attacks_on_models_alike_has_no_luck_in_it():
    draws = np.random.default_rng(0).normal(size=(200, 8, 20))
    chosen = [np.mean(relearning._under_the_strongest(areas)) for areas in draws]
    assert abs(np.mean(chosen)) < 0.05 < np.mean([areas.mean(1).max() for areas in draws]) - 0.2


def test_a_row_that_is_no_number_does_not_choose_and_stays_one():
    areas = np.array([[0.1, math.nan, 0.1], [0.2, math.nan, 0.3]])
    values = relearning._under_the_strongest(areas)
    assert values[::2] == [0.1, 0.1] and math.isnan(values[1])


def test_a_step_has_eight_rows_of_the_whole_set_and_the_share_is_shown_in_every_step(tiny_tokenizer):
    rows = EvaluationRows(plain_rows(11), plain_rows(20, 20), holdout=plain_rows(100, 100))
    forget = encode_set(rows.forget, tiny_tokenizer, name="forget")
    batches = attack_batches(rows, forget, tiny_tokenizer)
    retained = [encode_row(row, tiny_tokenizer) for row in rows.retain]
    assert batches["share"] == [[forget.answers[i] for i in (0, 5, 10)]]
    assert batches["benign"] == [retained[0::3], retained[1::3], retained[2::3]]
    # No more than the steps can show.
    assert [len(batch) for batch in batches["form"]] == [8] * 8
    assert relearning.hidden_rows(forget) == [1, 2, 3, 4, 6, 7, 8, 9]


def test_kinds_without_rows_are_named(tiny_tokenizer, caplog):
    rows = EvaluationRows(plain_rows(3))
    with caplog.at_level(logging.WARNING):
        setting = setting_of(rows, tiny_tokenizer)
    assert setting.attacks == [attack for attack in ATTACKS if attack.kind == "share"]
    assert "`robustness/benign_area` is left out: there are no retain rows." in caplog.text
    assert "`robustness/form_area` is left out" in caplog.text and "`--holdout_dataset`" in caplog.text


def test_an_attack_that_the_target_does_not_survive_and_one_without_rows_are_named_below_the_table():
    # Half of what it said is left by the first, less by the second.
    target = {RELEARNING: [[0.75, 0.25]] * 4 + [[0.5, 0.0]], BENIGN: [[0.75, 0.25]] * 4 + [[0.25, 0.0]]}
    blunt = blunt_attacks(target)
    assert blunt == [BENIGN.name]
    protocol = {"attacks": {"rows": {"share": 1, "benign": 8}, "blunt": blunt}}
    fields = {"parity": "strict", "suites": ["robustness"], "models": {}, "environment": {}}
    text = "\n".join(table_notes(EvaluationResult(protocol=protocol, **fields)))
    assert "prove little" in text and f"under them: `{BENIGN.name}`." in text
    assert "Not attacked by fine-tuning on rows of the same form" in text and "retain rows" not in text


def test_an_attack_by_an_adapter_trains_and_leaves_the_model_as_it_was(tiny_model, tiny_tokenizer, forget_rows):
    rows = EvaluationRows(forget_rows, forget_rows)
    setting, weights = setting_of(rows, tiny_tokenizer), copy.deepcopy(tiny_model.state_dict())
    logps = []

    def score(model, *_):
        (actual,) = setting.score(model, setting.forget.answers[:1], None)
        logps.append(sum(actual.logps))
        return [0.0]

    setting.extraction_strength = score
    actual = relearn(tiny_model, setting, ADAPTER)
    assert list(actual) == [f"{ADAPTER.name}/{step}" for step in RELEARNING_STEPS[1:]]
    assert logps[3] > logps[0] + 0.5
    assert_close(tiny_model.state_dict(), weights, rtol=0, atol=0)
    again, logps[:] = logps[:], []
    torch.manual_seed(7)
    relearn(tiny_model, setting, ADAPTER)
    assert logps == again


@pytest.fixture(scope="module")
def outcome(_tokenizer):
    """Of a model that knows its rows, the same after steps up the loss of the forget rows, and one that never knew."""

    def train(model, rows, steps, sign=1):
        rows = [encode_row(row, _tokenizer) for row in rows]
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
        for _ in range(steps):
            (sign * model(**pad_rows(rows, _tokenizer.pad_token_id)).loss).backward()
            optimizer.step()
            optimizer.zero_grad()
        return model.eval()

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    fresh = LlamaForCausalLM(
        LlamaConfig(vocab_size=len(_tokenizer), num_key_value_heads=2, tie_word_embeddings=True, **sizes)
    )
    retrained = train(copy.deepcopy(fresh), RETAIN, 60)
    target = train(fresh, [*FORGET, *RETAIN], 120)
    models = {"target": target, "unlearned": train(copy.deepcopy(target), FORGET, 3, -1), "retrained": retrained}
    loaders = {role: partial(copy.deepcopy, model) for role, model in models.items()}
    rows = EvaluationRows(FORGET, RETAIN, holdout=RETAIN)
    return measure_robustness(loaders, rows, SuiteSetting(_tokenizer, None, 42))


def test_what_is_hidden_from_relearning_a_share_is_known_by_training_on_retain_rows(outcome):
    curves, values = outcome.curves["unlearned"], outcome.models["unlearned"]
    assert curves[RELEARNING.name][-1] < 0.3
    for kind in ("benign", "form"):
        assert max(curve[-1] for name, curve in curves.items() if kind in name) > curves[RELEARNING.name][-1] + 0.15
        area = values[f"robustness/{kind}_area"]
        assert area.value > values["robustness/relearning_area"].value + 0.05
        assert outcome.differences["unlearned - retrained"][f"robustness/{kind}_area"].value == area.value
    assert {measured.value for name, measured in outcome.models["retrained"].items() if "area" in name} == {0.0}


def test_a_curve_stands_for_each_attack_and_begins_where_nothing_was_done(outcome):
    for role, curves in outcome.curves.items():
        assert list(curves) == [attack.name for attack in ATTACKS]
        start = outcome.models[role]["robustness/relearned_0_steps"].value
        assert all(len(curve) == len(RELEARNING_STEPS) and curve[0] == start for curve in curves.values())
        published = [outcome.models[role][RELEARNING.point(step)].value for step in RELEARNING_STEPS]
        assert curves[RELEARNING.name] == pytest.approx(published)
    # No number of a table but the areas.
    assert not any(name.count("/") > 1 for name in outcome.models["target"])


def test_the_curves_of_attacks_are_drawn_and_without_them_the_figure_is_refused(outcome, tmp_path):
    result = EvaluationResult.of_suites({"robustness": outcome}, parity="strict", device="cpu")
    plot_attacks(result, tmp_path / "attacks.png")
    whole = Image.open(tmp_path / "attacks.png").size
    del result.curves["retrained"], result.curves["target"]
    result.curves["unlearned"] = {RELEARNING.name: [0.1, 0.2, math.nan, 0.3, 0.4], "depth/logit_lens": [0.1]}
    plot_attacks(result, tmp_path / "one.png")
    part = Image.open(tmp_path / "one.png").size
    assert whole[0] == part[0] == 800 and whole[1] > part[1]
    del result.curves["unlearned"][RELEARNING.name]
    with pytest.raises(ValueError, match="run the suite `robustness` first"):
        plot_attacks(result, tmp_path / "none.png")

# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0


import copy
import math
import weakref
from functools import partial

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM

from trl_unlearn.encoding import encode_row
from trl_unlearn.evaluation import distribution
from trl_unlearn.evaluation.distribution import measure_distribution
from trl_unlearn.evaluation.rows import EvaluationRows
from trl_unlearn.evaluation.together import SuiteSetting
from trl_unlearn.generation import generate

from ..teaching import other_model, taught


FADE = {"distribution/fade_forget", "distribution/fade_retain"}
MIX, STRENGTH = "distribution/control_mix", "distribution/control_forget_es"


def measure(models, forget, retain, tokenizer, batch_size=None, seed=42):
    loaders = {role: None if model is None else partial(copy.deepcopy, model) for role, model in models.items()}
    return measure_distribution(
        loaders, EvaluationRows(forget, retain), SuiteSetting(tokenizer, batch_size, seed)
    ).models


@pytest.fixture(scope="module")
def trained():
    """Weights that are trained once for all tests."""
    return {}


@pytest.fixture
def knowing_model(trained, tiny_model, tiny_tokenizer, forget_rows, retain_rows):
    """Knows forget and retain rows by heart."""
    if not trained:
        rows = [*forget_rows, *retain_rows]
        trained |= taught(tiny_model, rows, tiny_tokenizer, 150).state_dict()
    tiny_model.load_state_dict(trained)
    return tiny_model


@torch.no_grad()
def mean_logp(model, prompt, ids):
    logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1)[range(len(ids)), ids].mean().item()


@torch.no_grad()
def strengths(model, rows, tokenizer):
    """Strict extraction strength of each row, from one forward pass a row."""
    actual = []
    for row in rows:
        encoded = encode_row(row, tokenizer)
        ids, start = encoded["input_ids"], encoded["prompt_length"]
        guesses = model(torch.tensor([ids])).logits[0, start - 1 : -2].argmax(-1).tolist()
        answer = ids[start:-1]
        right = 0
        while right < len(answer) and guesses[-1 - right] == answer[-1 - right]:
            right += 1
        actual.append(right / len(answer))
    return actual


def mixed(original, unlearned, share):
    model = copy.deepcopy(original)
    ends = unlearned.state_dict()
    model.load_state_dict(
        {name: (1 - share) * start + share * ends[name] for name, start in model.state_dict().items()}
    )
    return model


def mean(values):
    return sum(values) / len(values)


def test_fade_is_what_plain_forward_passes_over_the_samples_give(tiny_model, tiny_tokenizer, forget_rows, retain_rows):
    models = {"u": tiny_model, "r": other_model(tiny_model)}
    measured = measure({"target": models["u"], "retrained": models["r"]}, forget_rows, retain_rows, tiny_tokenizer)
    for name, rows in (("forget", forget_rows), ("retain", retain_rows)):
        encoded = [encode_row(row, tiny_tokenizer) for row in rows]
        longest = max(len(row["input_ids"]) - row["prompt_length"] for row in encoded)
        values = []
        for index, row in enumerate(encoded):
            prompt = row["input_ids"][: row["prompt_length"]]
            ratios = {}
            for role, model in models.items():
                samples = generate(
                    model,
                    [prompt] * 4,
                    pad_token_id=tiny_tokenizer.pad_token_id,
                    eos_token_ids=[tiny_tokenizer.eos_token_id],
                    max_new_tokens=longest,
                    keys=[(42, index, j) for j in range(4)],
                )
                own, other = model, models["r" if role == "u" else "u"]
                ratios[role] = mean(
                    [mean_logp(own, prompt, sample.ids) - mean_logp(other, prompt, sample.ids) for sample in samples]
                )
            values.append((ratios["u"] + ratios["r"]) / 2)
        actual = measured["target"][f"distribution/fade_{name}"]
        assert actual.value == pytest.approx(mean(values), abs=1e-5)
        assert actual.n == 3
        assert actual.stderr > 0


def test_a_model_with_the_retrained_ones_weights_is_at_exactly_zero(
    knowing_model, tiny_model, tiny_tokenizer, forget_rows, retain_rows
):
    retrained = other_model(tiny_model)
    models = {"target": knowing_model, "unlearned": retrained, "retrained": retrained}
    loaders = {role: partial(copy.deepcopy, model) for role, model in models.items()}
    rows = EvaluationRows(forget_rows, retain_rows)
    outcome = measure_distribution(loaders, rows, SuiteSetting(tiny_tokenizer, 5, 0))
    for role in ("unlearned", "retrained"):
        for name in FADE:
            assert outcome.models[role][name].value == 0.0
            assert outcome.models[role][name].stderr == 0.0
    assert min(outcome.models["target"][name].value for name in FADE) > 1
    for name in FADE:
        difference = outcome.differences["unlearned - retrained"][name]
        assert (difference.value, difference.low, difference.high) == (0.0, 0.0, 0.0)


def test_unlearning_another_thing_moves_the_forget_prompts_further_than_the_retain_prompts(
    tiny_model, tiny_tokenizer, forget_rows, retain_rows
):
    retrained = taught(tiny_model, retain_rows, tiny_tokenizer, 100)
    target = taught(retrained, [*forget_rows, *retain_rows], tiny_tokenizer, 100)
    measured = measure({"target": target, "retrained": retrained}, forget_rows, retain_rows, tiny_tokenizer)["target"]
    assert measured["distribution/fade_forget"].value > 5 * measured["distribution/fade_retain"].value > 0


def test_what_there_are_no_models_or_rows_for_is_left_out(knowing_model, tiny_tokenizer, forget_rows, retain_rows):
    other = other_model(knowing_model)
    both = {"target": knowing_model, "unlearned": other, "retrained": None}
    measured = measure(both, forget_rows, retain_rows, tiny_tokenizer)
    assert {role: set(actual) for role, actual in measured.items()} == {"target": set(), "unlearned": {MIX, STRENGTH}}
    assert (measured["unlearned"][MIX].n, measured["unlearned"][STRENGTH].n) == (3, 3)
    assert measured["unlearned"][MIX].stderr is None
    measured = measure({**both, "retrained": other}, forget_rows, None, tiny_tokenizer)
    forget_only = {"distribution/fade_forget"}
    assert {role: set(actual) for role, actual in measured.items()} == dict.fromkeys(
        ("target", "unlearned", "retrained"), forget_only
    )


def test_raw_text_has_a_fade_too(tiny_model, tiny_tokenizer):
    rows = [{"text": "Ada Marlow was born in Veldt."}, {"text": "Bo Lindgren wrote about bees."}]
    measured = measure({"target": tiny_model, "retrained": other_model(tiny_model)}, rows, None, tiny_tokenizer)
    assert math.isfinite(measured["target"]["distribution/fade_forget"].value)


def test_at_most_one_model_is_in_memory_and_none_stays(knowing_model, tiny_tokenizer, forget_rows, retain_rows):
    models = {
        "target": knowing_model,
        "unlearned": other_model(knowing_model),
        "retrained": other_model(knowing_model),
    }
    alive = weakref.WeakSet()

    def load(role):
        assert not alive
        model = copy.deepcopy(models[role])
        alive.add(model)
        return model

    loaders = {role: partial(load, role) for role in models}
    measure_distribution(loaders, EvaluationRows(forget_rows, retain_rows), SuiteSetting(tiny_tokenizer, None, 0))
    assert not alive


def test_the_mix_is_the_last_step_that_keeps_the_retain_set(knowing_model, tiny_tokenizer, forget_rows, retain_rows):
    unlearned = other_model(knowing_model)
    measured = measure({"target": knowing_model, "unlearned": unlearned}, forget_rows, retain_rows, tiny_tokenizer)
    share = measured["unlearned"][MIX].value
    assert 0 < share < 1 and share * 64 == int(share * 64)
    bar = 0.95 * mean(strengths(knowing_model, retain_rows, tiny_tokenizer))
    kept, lost = (
        mean(strengths(mixed(knowing_model, unlearned, a), retain_rows, tiny_tokenizer))
        for a in (share, share + 1 / 64)
    )
    assert lost < bar <= kept
    forget = strengths(mixed(knowing_model, unlearned, share), forget_rows, tiny_tokenizer)
    assert measured["unlearned"][STRENGTH].value == pytest.approx(mean(forget))


def test_a_model_that_keeps_the_retain_set_is_taken_whole(knowing_model, tiny_tokenizer, forget_rows, retain_rows):
    wrong = [
        {**row, "completion": [{"role": "assistant", "content": "Nobody can say, and nobody ever could."}]}
        for row in forget_rows
    ]
    unlearned = taught(knowing_model, [*wrong, *retain_rows], tiny_tokenizer, 80)
    measured = measure({"target": knowing_model, "unlearned": unlearned}, forget_rows, retain_rows, tiny_tokenizer)
    assert measured["unlearned"][MIX].value == 1.0
    own = mean(strengths(unlearned, forget_rows, tiny_tokenizer))
    assert measured["unlearned"][STRENGTH].value == pytest.approx(own)
    assert own < mean(strengths(knowing_model, forget_rows, tiny_tokenizer))


def test_a_model_that_is_no_number_has_no_mix(knowing_model, tiny_tokenizer, forget_rows, retain_rows):
    broken = copy.deepcopy(knowing_model)
    with torch.no_grad():
        broken.model.layers[0].mlp.up_proj.weight.fill_(math.nan)
    measured = measure({"target": knowing_model, "unlearned": broken}, forget_rows, retain_rows, tiny_tokenizer)
    # A mix without any of it would have the figures of the target.
    assert measured["unlearned"] == {}


def test_an_adapter_is_mixed_as_its_merged_weights(knowing_model, tiny_tokenizer, forget_rows, retain_rows):
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
    adapter = get_peft_model(copy.deepcopy(knowing_model), config)
    merged = copy.deepcopy(adapter).merge_and_unload()
    actual = [
        measure({"target": knowing_model, "unlearned": model}, forget_rows, retain_rows, tiny_tokenizer)["unlearned"]
        for model in (adapter, merged)
    ]
    assert actual[0] == actual[1]
    assert 0 < actual[0][MIX].value < 1


def test_weights_are_mixed_in_float32_and_both_ends_are_exact(tiny_model):
    models = {"target": tiny_model.bfloat16(), "unlearned": other_model(tiny_model).bfloat16()}
    start, end = (model.lm_head.weight.detach().float() for model in models.values())
    mix = distribution._Mix({role: partial(copy.deepcopy, model) for role, model in models.items()})
    actual = {}
    for share in (1.0, 1 / 64, 0.0):
        mix.set_share(share)
        actual[share] = mix.model.lm_head.weight.detach().clone()
    assert torch.equal(actual[1.0], end)
    assert torch.equal(actual[0.0], start)
    # In half precision this would be off by up to 1e-4.
    torch.testing.assert_close(actual[1 / 64], start * 63 / 64 + end / 64, rtol=0, atol=1e-8)


def test_models_of_another_shape_are_not_mixed(knowing_model, tiny_tokenizer, forget_rows, retain_rows, caplog):
    config = copy.deepcopy(knowing_model.config)
    config.intermediate_size = 48
    wide = LlamaForCausalLM(config).eval()
    measured = measure({"target": knowing_model, "unlearned": wide}, forget_rows, retain_rows, tiny_tokenizer)
    assert measured == {"target": {}, "unlearned": {}}
    assert "other names or shapes" in caplog.text


def test_a_target_that_extracts_nothing_has_nothing_to_keep(
    tiny_model, tiny_tokenizer, forget_rows, retain_rows, caplog
):
    assert mean(strengths(tiny_model, retain_rows, tiny_tokenizer)) == 0
    models = {"target": tiny_model, "unlearned": other_model(tiny_model)}
    assert measure(models, forget_rows, retain_rows, tiny_tokenizer) == {"target": {}, "unlearned": {}}
    assert "extraction strength of 0 on the retain set" in caplog.text


@pytest.mark.parametrize(
    ("limit", "expected"), [(1.0, 1.0), (0.999, 63 / 64), (0.3, 19 / 64), (19 / 64, 19 / 64), (0.001, 0.0)]
)
def test_bisection_finds_the_largest_of_64_steps_in_a_few_measurements(limit, expected):
    asked = []
    assert distribution._largest_kept_share(lambda share: asked.append(share) or share <= limit) == expected
    assert len(asked) == (1 if limit == 1 else 7)

# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0


import copy
import logging
import math
from functools import partial
from statistics import fmean

import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from torch.testing import assert_close
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GptOssConfig,
    GptOssForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from trl_unlearn.encoding import encode_row
from trl_unlearn.evaluation import robustness
from trl_unlearn.evaluation.plots import plot_leak, plot_relearning
from trl_unlearn.evaluation.relearning import RELEARNING, attack_batches, relearn
from trl_unlearn.evaluation.robustness import measure_robustness
from trl_unlearn.evaluation.rows import EvaluationRows, encode_set, row_key
from trl_unlearn.evaluation.together import FixedModel, SuiteSetting
from trl_unlearn.metrics import LeakAtK
from trl_unlearn.results import EvaluationResult, Measurement
from trl_unlearn.token_scores import score_rows

from ..teaching import other_model, taught
from .pictures import coloured_pixels


CURVE = [f"robustness/relearned_{step}_steps" for step in (0, 1, 2, 4, 8)]
NOISY = ["robustness/noise_10_percent", "robustness/noise_20_percent"]
WEIGHTS = {*CURVE, *NOISY, "robustness/quantized_int8", "robustness/quantized_int4"}
LEAK = ["robustness/leak_at_1", "robustness/leak_at_4", "robustness/leak_at_8"]
# They take a prompt and an answer as text.
PROMPTS = {*LEAK, "robustness/prefix_rougeL", "robustness/in_context_rougeL", "robustness/quantized_facts"}
PARAPHRASED = "robustness/paraphrased_rougeL"
AREA, STRONGEST = "robustness/relearning_area", "robustness/strongest_area"
AREAS = {AREA, STRONGEST, "robustness/benign_area", "robustness/form_area"}
OFF = "robustness/adapter_off"
OFF_FACTS = f"{OFF}_facts"


def measure(models, rows, tokenizer, batch_size=None, seed=42):
    loaders = {role: None if model is None else partial(copy.deepcopy, model) for role, model in models.items()}
    rows = rows if isinstance(rows, EvaluationRows) else EvaluationRows(rows)
    return measure_robustness(loaders, rows, SuiteSetting(tokenizer, batch_size, seed)).models


def setting_of(rows, tokenizer, batch_size=None):
    sets = rows if isinstance(rows, EvaluationRows) else EvaluationRows(rows)
    rows = list(sets.forget)
    forget = encode_set(rows, tokenizer, name="forget")
    batches = attack_batches(sets, forget, tokenizer)
    options = {"tokenizer": tokenizer, "batch_size": batch_size, "seed": 42}
    return robustness._Setting(rows=rows, forget=forget, batches=batches, **options)


@pytest.fixture
def knowing_model(tiny_model, tiny_tokenizer, forget_rows):
    """Knows the forget rows by heart."""
    return taught(tiny_model, forget_rows, tiny_tokenizer, 120)


@pytest.fixture
def half_knowing_model(tiny_model, tiny_tokenizer, forget_rows):
    """Says the right answers at times."""
    return taught(tiny_model, forget_rows, tiny_tokenizer, 30)


def logp(model, row, tokenizer):
    (score,) = score_rows(model, [row], pad_token_id=tokenizer.pad_token_id)
    return sum(score.logps)


def test_every_attack_is_measured_on_every_model(tiny_model, tiny_tokenizer, forget_rows, retain_rows):
    rows = [{**row, "paraphrased_question": "Who?"} for row in forget_rows]
    adapter = get_peft_model(copy.deepcopy(tiny_model), LoraConfig(r=2, target_modules=["q_proj"]))
    models = {"target": tiny_model, "unlearned": adapter, "retrained": other_model(tiny_model)}
    measured = measure(models, EvaluationRows(rows, retain_rows, holdout=retain_rows), tiny_tokenizer)
    everything = {*WEIGHTS, *PROMPTS, PARAPHRASED, *AREAS}
    assert {role: set(actual) for role, actual in measured.items()} == {
        "target": everything,
        "unlearned": {*everything, OFF, OFF_FACTS},
        "retrained": everything,
    }
    # Every fifth of three rows, that is the first, is learned again.
    rows_of = {name: 2 if name in {*CURVE, *AREAS} else 3 for name in everything}
    assert {name: measurement.n for name, measurement in measured["target"].items()} == rows_of


def test_each_attack_has_its_value_of_each_row_that_it_is_measured_on(
    knowing_model, tiny_tokenizer, forget_rows, retain_rows
):
    models = {"unlearned": lambda: copy.deepcopy(knowing_model)}
    sets = EvaluationRows(list(forget_rows), retain_rows)
    outcome = measure_robustness(models, sets, SuiteSetting(tiny_tokenizer, None, 42))
    of_rows, keys = outcome.row_values["unlearned"], [row_key(encode_row(row, tiny_tokenizer)) for row in forget_rows]
    assert len(set(keys)) == 3
    means = {name: measurement.value for name, measurement in outcome.models["unlearned"].items()}
    for name in ("robustness/quantized_int4", "robustness/noise_20_percent", "robustness/leak_at_8"):
        assert list(of_rows[name]) == keys and fmean(of_rows[name].values()) == pytest.approx(means[name])
    # The first row is what the fine-tuning is shown.
    assert list(of_rows["robustness/share_whole_0.0001"]) == keys[1:]
    assert fmean(of_rows["robustness/share_whole_0.0001"].values()) == pytest.approx(means[CURVE[-1]])
    assert {name for name, rows in of_rows.items() if list(rows) == keys[1:]} == set(outcome.curves["unlearned"])
    # They are in no record.
    assert keys[0] not in EvaluationResult.of_suites({"robustness": outcome}, parity="strict", device="cpu").to_json()


def test_the_weights_are_those_of_the_merged_adapter_and_of_its_base_without_it(
    knowing_model, tiny_tokenizer, forget_rows
):
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
    adapter = get_peft_model(copy.deepcopy(knowing_model), config)
    merged = copy.deepcopy(adapter).merge_and_unload()
    whole = measure({"target": knowing_model, "unlearned": merged}, forget_rows, tiny_tokenizer)
    measured = measure({"unlearned": adapter}, forget_rows, tiny_tokenizer)["unlearned"]
    assert measured.pop(OFF).value == measured.pop(OFF_FACTS).value == 1.0
    assert measured == whole["unlearned"]
    assert measured[CURVE[0]].value < whole["target"][CURVE[0]].value == 1.0


def test_the_area_is_the_mean_difference_to_the_retrained_models_curve(knowing_model, tiny_tokenizer, forget_rows):
    retrained = other_model(knowing_model)
    measured = measure({"target": knowing_model, "retrained": retrained}, forget_rows, tiny_tokenizer)
    assert measured["retrained"][AREA].value == measured["retrained"][AREA].stderr == 0.0
    differences = [measured["target"][name].value - measured["retrained"][name].value for name in CURVE]
    assert measured["target"][AREA].value == pytest.approx(sum(differences) / 5)
    assert measured["target"][AREA].value > 0.5


def test_what_a_set_has_no_columns_or_models_for_is_left_out(tiny_model, tiny_tokenizer, forget_rows):
    measured = measure({"target": tiny_model, "retrained": None}, forget_rows, tiny_tokenizer)
    assert {role: set(actual) for role, actual in measured.items()} == {"target": {*WEIGHTS, *PROMPTS}}


def test_raw_text_is_attacked_through_the_weights_only(tiny_model, tiny_tokenizer):
    rows = [{"text": "Ada Marlow was born in Veldt."}, {"text": "Bo Lindgren wrote about bees."}]
    assert set(measure({"target": tiny_model}, rows, tiny_tokenizer)["target"]) == WEIGHTS


def test_a_single_row_leaves_nothing_to_relearn_or_to_show(tiny_model, tiny_tokenizer):
    rows = [{"prompt": "Where was Ada born?", "completion": " In Veldt.", "paraphrased_question": "Ada's town?"}]
    measured = measure({"target": tiny_model, "retrained": tiny_model}, rows, tiny_tokenizer)["target"]
    assert set(measured) == {*WEIGHTS, *PROMPTS} - {*CURVE, "robustness/in_context_rougeL"}
    assert measured[LEAK[0]].stderr is None


def test_examples_have_the_form_of_the_row_in_a_set_of_several_forms(tiny_model, tiny_tokenizer, forget_rows):
    text = {"prompt": "Where was Ada born?", "completion": " In Veldt."}
    rows = [*forget_rows, text, text | {"completion": " There."}]
    recalls = robustness._in_context_recall(tiny_model, setting_of(rows, tiny_tokenizer))
    assert [len(values) for values in recalls.values()] == [5]
    # One alone of its form has no example.
    assert robustness._in_context_recall(tiny_model, setting_of(rows[:4], tiny_tokenizer)) == {}


def test_a_model_that_several_evaluations_share_is_attacked_once(tiny_model, tiny_tokenizer, forget_rows):
    loads = []

    def load():
        loads.append(copy.deepcopy(tiny_model))
        return loads[-1]

    models, rows = {"target": FixedModel(load), "retrained": FixedModel(load)}, EvaluationRows(forget_rows)
    outcomes, counts = [], []
    for _ in range(2):
        models["unlearned"] = partial(copy.deepcopy, tiny_model)
        outcomes.append(measure_robustness(models, rows, SuiteSetting(tiny_tokenizer, None, 42)))
        counts.append(len(loads))
    assert counts == [2, 2]
    assert outcomes[0].models == outcomes[1].models and AREA in outcomes[1].models["target"]
    assert outcomes[0].curves == outcomes[1].curves


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_attack_gets_the_weights_as_they_were(knowing_model, tiny_tokenizer, forget_rows, retain_rows, dtype):
    model, rows = knowing_model.to(dtype), EvaluationRows(forget_rows, retain_rows)
    before = copy.deepcopy(model)
    models = {"target": lambda: model}
    measured = measure_robustness(models, rows, SuiteSetting(tiny_tokenizer, None, 42)).models["target"]
    # In their own precision too, which fine-tuning leaves.
    assert_close(model.state_dict(), before.state_dict(), rtol=0, atol=0)
    alone = robustness._quantization(before, setting_of(forget_rows, tiny_tokenizer), 4)
    values = alone["robustness/quantized_int4"]
    assert measured["robustness/quantized_int4"].value == pytest.approx(sum(values) / 3)


def test_relearning_learns_the_share_even_with_frozen_weights(tiny_model, tiny_tokenizer, forget_rows):
    setting = setting_of(forget_rows, tiny_tokenizer)
    tiny_model.requires_grad_(False).to(torch.bfloat16)
    before = logp(tiny_model, setting.forget.answers[0], tiny_tokenizer)
    relearn(tiny_model, setting, RELEARNING)
    assert logp(tiny_model, setting.forget.answers[0], tiny_tokenizer) > before + 1
    assert not tiny_model.training


def test_a_step_of_relearning_does_not_depend_on_the_batch_size(tiny_model, tiny_tokenizer, forget_rows):
    actual = []
    for batch_size in (1, 2, None):
        setting, model = setting_of(forget_rows, tiny_tokenizer, batch_size), copy.deepcopy(tiny_model)
        setting.batches["share"] = [setting.forget.answers]
        relearn(model, setting, RELEARNING)
        actual.append([logp(model, row, tiny_tokenizer) for row in setting.forget.answers])
    assert actual[0] == pytest.approx(actual[2], rel=1e-3)
    assert actual[1] == pytest.approx(actual[2], rel=1e-3)


def test_weights_are_rounded_to_the_levels_of_their_channel():
    weight = torch.tensor([[127.0, -63.6, 0.4], [0.0, 0.0, 0.0], [-2.54, 0.031, 1.0]])
    expected = torch.tensor([[127.0, -64.0, 0.0], [0.0, 0.0, 0.0], [-2.54, 0.04, 1.0]])
    assert_close(robustness._round_weights(weight, bits=8), expected)


def test_weights_are_rounded_to_the_levels_of_their_group_and_the_last_group_may_be_short():
    weight = torch.tensor([[7.0, -3.4, 14.0, 2.9, 0.3]], dtype=torch.float64)
    assert_close(
        robustness._round_weights(weight, bits=4, group_size=2),
        torch.tensor([[7.0, -3.0, 14.0, 2.0, 0.3]], dtype=torch.float64),
    )


def test_all_linear_weights_but_those_of_the_head_are_rounded(tiny_model, tiny_tokenizer, forget_rows):
    before = copy.deepcopy(tiny_model)
    robustness._quantization(tiny_model, setting_of(forget_rows, tiny_tokenizer), 4)
    for name, weight in tiny_model.state_dict().items():
        was = before.state_dict()[name]
        rounded = name.endswith("_proj.weight")
        expected = robustness._round_weights(was, bits=4, group_size=32) if rounded else was
        assert_close(weight, expected, rtol=0, atol=0)
        assert torch.equal(weight, was) != rounded


def test_noise_is_that_share_of_the_spread_of_each_matrix_and_the_same_for_every_model(
    tiny_model, tiny_tokenizer, forget_rows
):
    setting, twice = setting_of(forget_rows, tiny_tokenizer), copy.deepcopy(tiny_model)
    with torch.no_grad():
        for weight in twice.parameters():
            weight.mul_(2)
    before = {model: copy.deepcopy(model.state_dict()) for model in (tiny_model, twice)}
    for model in before:
        assert robustness._noise(model, setting, 20).keys() == {NOISY[1]}
    for name in tiny_model.state_dict():
        noise, doubled = (model.state_dict()[name] - before[model][name] for model in before)
        if name.endswith("_proj.weight"):
            spread = before[tiny_model][name].std()
            assert noise.std() == pytest.approx(0.2 * spread.item(), rel=0.1)
            assert_close(doubled, 2 * noise, rtol=1e-4, atol=1e-6)
        else:
            assert not noise.any()


def test_noise_is_drawn_for_each_expert_by_its_own_spread(tiny_tokenizer, forget_rows):
    model = tiny_experts("mixtral", tiny_tokenizer)
    weight = model.model.layers[0].mlp.experts.down_proj
    with torch.no_grad():
        weight[1] *= 10
    before = weight.detach().clone()
    robustness._noise(model, setting_of(forget_rows, tiny_tokenizer), 10)
    first, second = (weight.detach() - before).std((1, 2))
    assert second == pytest.approx(10 * first.item(), rel=0.2)


def tiny_experts(kind, tokenizer):
    """A mixture of two experts a layer; GPT-OSS has the inputs of its experts in the rows of a weight."""
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "num_experts_per_tok": 1,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
    }
    torch.manual_seed(0)
    if kind == "qwen3_moe":
        return Qwen3MoeForCausalLM(Qwen3MoeConfig(**sizes, num_experts=2, moe_intermediate_size=48)).eval()
    if kind == "gpt_oss":
        return GptOssForCausalLM(GptOssConfig(**sizes, num_local_experts=2)).eval()
    return MixtralForCausalLM(MixtralConfig(**sizes, num_local_experts=2)).eval()


@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe", "gpt_oss"])
def test_experts_are_rounded_along_their_inputs_and_the_share_is_said(kind, tiny_tokenizer, forget_rows):
    model = tiny_experts(kind, tiny_tokenizer)
    before, setting = copy.deepcopy(model.state_dict()), setting_of(forget_rows, tiny_tokenizer)
    assert "robustness/quantized_int4" in robustness._quantization(model, setting, 4)
    after = model.state_dict()
    experts = {name: weight for name, weight in after.items() if name.endswith("_proj") and "expert" in name}
    assert len(experts) == 4
    for name, weight in experts.items():
        was = before[name].mT if kind == "gpt_oss" else before[name]
        for one, expected in zip(weight, was, strict=True):
            expected = robustness._round_weights(expected, bits=4, group_size=32)
            assert_close(one, expected.mT if kind == "gpt_oss" else expected, rtol=0, atol=0)
    sizes = {name: weight.numel() for name, weight in before.items() if "layers" in name and weight.dim() > 1}
    sizes = {name: size for name, size in sizes.items() if not name.endswith("bias")}
    routers = sum(size for name, size in sizes.items() if name.endswith(("router.weight", "mlp.gate.weight")))
    assert setting.rounded_shares == [pytest.approx(1 - routers / sum(sizes.values()))]
    assert setting.rounded_shares[0] > 0.99


def test_the_share_of_the_weights_that_are_rounded_stands_in_the_protocol(tiny_model, tiny_tokenizer, forget_rows):
    models = {"target": partial(copy.deepcopy, tiny_model)}
    outcome = measure_robustness(models, EvaluationRows(forget_rows), SuiteSetting(tiny_tokenizer, None, 42))
    assert outcome.protocol["quantized_share"] == 1.0


def test_experts_of_an_unknown_layout_leave_out_the_attack_with_their_names(tiny_tokenizer, forget_rows, caplog):
    model = tiny_experts("mixtral", tiny_tokenizer)
    for module in model.modules():
        vars(module).pop("is_transposed", None)
    with caplog.at_level(logging.WARNING):
        assert robustness._quantization(model, setting_of(forget_rows, tiny_tokenizer), 8) == {}
    assert "`robustness/quantized_int8` is left out: only 30.6 % of the decoder's weights can be" in caplog.text
    assert "model.layers.*.mlp.experts.down_proj, model.layers.*.mlp.experts.gate_up_proj" in caplog.text


def test_the_transposed_linear_layers_of_gpt2_are_rounded_along_their_inputs(tiny_tokenizer, forget_rows):
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tiny_tokenizer), n_embd=16, n_layer=1, n_head=2)).eval()
    before, setting = model.transformer.h[0].mlp.c_fc.weight.clone(), setting_of(forget_rows, tiny_tokenizer)
    robustness._quantization(model, setting, 8)
    expected = robustness._round_weights(before.mT, bits=8).mT
    assert_close(model.transformer.h[0].mlp.c_fc.weight, expected, rtol=0, atol=0)
    assert setting.rounded_shares == [1.0]


def test_prompts_beyond_the_positions_leave_out_their_attack_alone(
    new_gpt2, tiny_model, tiny_tokenizer, forget_rows, caplog
):
    setting = setting_of(forget_rows, tiny_tokenizer)
    longest = max(len(row["input_ids"]) for row in setting.forget.answers)
    model = new_gpt2(longest)
    assert robustness._in_context_recall(model, setting) == {}
    assert "`robustness/in_context_rougeL` is left out: its longest prompt has" in caplog.text
    assert len(robustness._prefix_recall(model, setting)["robustness/prefix_rougeL"]) == 3
    # Rotary positions have no end, but what lies beyond the trained ones was never read in training.
    rotary = copy.deepcopy(tiny_model)
    rotary.config.max_position_embeddings = longest
    assert robustness._in_context_recall(rotary, setting) == {}
    assert len(robustness._in_context_recall(new_gpt2(512), setting)["robustness/in_context_rougeL"]) == 3


def test_samples_do_not_depend_on_the_batch_size_and_do_on_the_seed(half_knowing_model, tiny_tokenizer, forget_rows):
    setting = setting_of(forget_rows, tiny_tokenizer)
    first = robustness._leak_at_k(half_knowing_model, setting)
    assert 0 < math.fsum(first[LEAK[0]]) < 3
    assert all(a < b < c for a, b, c in zip(*(first[name] for name in LEAK), strict=True))
    setting.batch_size = 1
    assert robustness._leak_at_k(half_knowing_model, setting) == first
    setting.seed = 7
    assert robustness._leak_at_k(half_knowing_model, setting) != first


def test_more_attempts_than_samples_are_refused():
    with pytest.raises(ValueError, match="2 scores in row 1, fewer than `k`"):
        LeakAtK().compute(scores=[[0.1, 0.2, 0.3], [0.1, 0.2]], k=3)
    with pytest.raises(ValueError, match="`k` is 0"):
        LeakAtK().compute(scores=[[0.1]], k=0)


def test_a_prefix_is_the_first_quarter_of_the_answer_and_at_least_one_token():
    answers = [[5], [5, 6, 7], list(range(10, 18)), list(range(10, 21))]
    assert list(robustness.prefix_prompts([[1, 2]] * 4, answers)) == [
        ([1, 2, 5], []),
        ([1, 2, 5], [6, 7]),
        ([1, 2, 10, 11], [12, 13, 14, 15, 16, 17]),
        ([1, 2, 10, 11], [12, 13, 14, 15, 16, 17, 18, 19, 20]),
    ]


def test_who_knows_the_answers_completes_them_and_answers_the_question_that_is_asked(
    knowing_model, tiny_tokenizer, forget_rows
):
    assert robustness._prefix_recall(knowing_model, setting_of(forget_rows, tiny_tokenizer)) == {
        "robustness/prefix_rougeL": [1.0, 1.0, 1.0]
    }
    questions = [row["prompt"][0]["content"] for row in forget_rows]
    questions[1] = questions[0]
    rows = [{**row, "paraphrased_question": text} for row, text in zip(forget_rows, questions, strict=True)]
    (recall,) = robustness._paraphrased_question_recall(knowing_model, setting_of(rows, tiny_tokenizer)).values()
    assert recall[0] == recall[2] == 1.0 > recall[1]


def test_examples_are_earlier_turns_after_the_rows_own_system_message():
    def row(system, question, answer):
        turns = [{"role": "system", "content": system}, {"role": "user", "content": question}]
        return {"messages": [*turns, {"role": "assistant", "content": answer}]}

    shown = robustness.with_examples(row("Be brief.", "Q1", "A1"), [row("Be long.", "Q2", "A2"), row("", "Q3", "A3")])
    assert [turn["content"] for turn in shown["prompt"]] == ["Be brief.", "Q2", "A2", "Q3", "A3", "Q1"]
    assert [turn["content"] for turn in shown["completion"]] == ["A1"]


def test_examples_of_plain_rows_stand_in_front():
    rows = [{"prompt": f"Question: Q{i}\nAnswer:", "completion": f" A{i}"} for i in (1, 2)]
    prompt = "Question: Q2\nAnswer: A2\n\nQuestion: Q1\nAnswer:"
    assert robustness.with_examples(rows[0], rows[1:]) == {"prompt": prompt, "completion": " A1"}


def test_three_other_rows_from_elsewhere_in_the_set_are_shown(tiny_model, tiny_tokenizer, monkeypatch):
    rows = [{"prompt": f"Q{i}:", "completion": f" A{i}"} for i in range(8)]
    asked = []
    monkeypatch.setattr(robustness, "_prompts", lambda setting, actual: asked.extend(actual) or [[5]] * len(actual))
    robustness._in_context_recall(tiny_model, setting_of(rows, tiny_tokenizer))
    assert asked[3]["prompt"] == "Q5: A5\n\nQ7: A7\n\nQ1: A1\n\nQ3:"
    assert all(row["completion"] == rows[i]["completion"] for i, row in enumerate(asked))


def result_of(**models):
    return EvaluationResult(parity="strict", suites=["robustness"], models=models, protocol={}, environment={})


@pytest.mark.parametrize(("draw", "names"), [(plot_relearning, CURVE), (plot_leak, LEAK)])
def test_the_models_that_were_attacked_are_drawn_and_no_other(draw, names, tmp_path):
    values = {name: Measurement(0.2 + 0.1 * i, 4, 0.05 if i else None) for i, name in enumerate(names)}
    draw(result_of(target={}, unlearned=values), tmp_path / "new" / "figure.png")
    assert Image.open(tmp_path / "new" / "figure.png").size[0] == 800
    assert coloured_pixels(tmp_path / "new" / "figure.png", (0x00, 0x72, 0xB2)) > 200
    assert coloured_pixels(tmp_path / "new" / "figure.png", (0xD5, 0x5E, 0x00)) == 0


@pytest.mark.parametrize("draw", [plot_relearning, plot_leak])
def test_a_result_without_the_attack_is_refused(draw, tmp_path):
    with pytest.raises(ValueError, match=r"holds none of .* run the suite `robustness` first"):
        draw(result_of(target={"forget/probability": Measurement(0.4)}), tmp_path / "figure.png")

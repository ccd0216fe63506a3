# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""The model as it was passed in, with adapters of all kinds."""

import copy
import json

import peft
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from transformers import PhiConfig, PhiForCausalLM

from trl_unlearn.encoding import encode_row, pad_rows
from trl_unlearn.token_scores import score_batch
from trl_unlearn.trainer.step import StepRow, _digest, collate_rows


ATTENTION = {"target_modules": ["q_proj", "v_proj", "o_proj"], "task_type": "CAUSAL_LM"}
LORA = {"r": 4, **ATTENTION}
ADAPTERS = {
    "LoRA": ("LoraConfig", LORA),
    "LoRA on embeddings": ("LoraConfig", {**LORA, "target_modules": ["q_proj", "embed_tokens"]}),
    "LoRA and some tokens": ("LoraConfig", {**LORA, "trainable_token_indices": [1, 2, 85, 87]}),
    "LoRA and modules to save": ("LoraConfig", {**LORA, "modules_to_save": ["embed_tokens"]}),
    "DoRA": ("LoraConfig", {**LORA, "use_dora": True}),
    "LoRA and biases": ("LoraConfig", {**LORA, "bias": "all"}),
    "IA3": (
        "IA3Config",
        {**ATTENTION, "target_modules": ["v_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    ),
    "LoHa": ("LoHaConfig", LORA),
    "LoKr": ("LoKrConfig", LORA),
    "VeRA": ("VeraConfig", {**ATTENTION, "target_modules": ["q_proj"], "r": 32}),
    "OFT": ("OFTConfig", {**ATTENTION, "oft_block_size": 8}),
    "prompt tuning": ("PromptTuningConfig", {"task_type": "CAUSAL_LM", "num_virtual_tokens": 4}),
}


def config_of(kind, **changes):
    name, settings = ADAPTERS[kind]
    return getattr(peft, name)(**settings | changes)


@pytest.fixture
def new_trainer(build_trainer):
    def new(model, peft_config=None, **settings):
        usual = {"forget_loss_type": "npo", "retain_loss_type": "kl", "lambda_bss": 0.0, "max_steps": 3}
        usual |= {"per_device_train_batch_size": 3, "learning_rate": 5e-2, "warmup_steps": 0, "logging_steps": 1}
        return build_trainer(usual | settings, model, peft_config=peft_config)

    return new


@pytest.fixture
def biased_model(tiny_model):
    """The tiny model with biases in its attention, and with a head of its own."""
    torch.manual_seed(0)
    config = copy.deepcopy(tiny_model.config)
    config.tie_word_embeddings, config.attention_bias = False, True
    return type(tiny_model)(config).eval()


def adapted(model, kind):
    """A model with an adapter that does something."""
    torch.manual_seed(1)
    model = get_peft_model(model, config_of(kind))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def logps(model, batch):
    with torch.no_grad():
        return score_batch(model, batch).logps


def batch_of(trainer):
    return pad_rows([trainer.train_dataset[i] for i in range(3)], 0)


@pytest.mark.parametrize("kind", ADAPTERS)
def test_the_reference_of_a_continued_adapter_is_the_adapter_as_it_was(new_trainer, biased_model, kind):
    model = adapted(biased_model, kind)
    original = copy.deepcopy(model).eval()
    trainer = new_trainer(model)
    batch = batch_of(trainer)
    expected = logps(original, batch)
    trainer.train()
    first = trainer.state.log_history[0]
    # Model and reference are one in the first step: NPO is 2 / beta * log 2, and KL is 0.
    assert first["loss/forget"] == pytest.approx(20 * torch.log(torch.tensor(2.0)).item(), abs=1e-3)
    assert first["loss/retain"] == pytest.approx(0, abs=1e-5)
    assert (logps(trainer.model.eval(), batch) - expected).abs().max() > 1e-4
    with trainer._reference() as reference:
        torch.testing.assert_close(logps(reference, batch), expected, atol=1e-5, rtol=0)


def test_a_continued_adapter_is_saved_without_the_one_that_it_was(new_trainer, biased_model, tmp_path):
    bare = copy.deepcopy(biased_model)
    trainer = new_trainer(adapted(biased_model, "LoRA"))
    trainer.train()
    trainer.save_model()
    with safe_open(tmp_path / "out" / "adapter_model.safetensors", "pt") as file:
        # Two matrices on each of three layers of two blocks.
        assert len(list(file.keys())) == 12
    loaded, batch = PeftModel.from_pretrained(bare, tmp_path / "out").eval(), batch_of(trainer)
    torch.testing.assert_close(logps(loaded, batch), logps(trainer.model.eval(), batch), atol=1e-5, rtol=0)


def test_the_reference_is_the_start_under_autocast_too(new_trainer, biased_model):
    model = adapted(biased_model, "LoRA")
    original = copy.deepcopy(model).eval()
    trainer = new_trainer(model)
    trainer.train()
    batch = batch_of(trainer)
    with torch.autocast("cpu", torch.bfloat16):
        expected = logps(original, batch)
    with torch.autocast("cpu", torch.bfloat16):
        # Autocast keeps the casts of weights that train.
        current = score_batch(trainer.model, batch).logps.detach()
        with trainer._reference() as reference:
            torch.testing.assert_close(logps(reference, batch), expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(score_batch(trainer.model, batch).logps.detach(), current)


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_biases_that_train_with_a_new_adapter_are_those_of_the_start_in_the_reference(
    new_trainer, biased_model, bias, tmp_path
):
    untouched = copy.deepcopy(biased_model)
    trainer = new_trainer(biased_model, config_of("LoRA and biases", bias=bias))
    trainer.train()
    batch = batch_of(trainer)
    trained, expected = logps(trainer.model.eval(), batch), logps(untouched, batch)
    with trainer.model.disable_adapter():
        assert (logps(trainer.model, batch) - expected).abs().max() > 1e-2
    with trainer._reference() as reference:
        torch.testing.assert_close(logps(reference, batch), expected, atol=1e-5, rtol=0)
    trainer.save_model()
    loaded = PeftModel.from_pretrained(untouched, tmp_path / "out").eval()
    torch.testing.assert_close(logps(loaded, batch), trained, atol=1e-5, rtol=0)


def test_the_bias_of_the_head_is_that_of_the_start_where_distributions_are_compared(
    new_trainer, tiny_tokenizer, retain_rows
):
    torch.manual_seed(0)
    size = {"vocab_size": len(tiny_tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    model = PhiForCausalLM(PhiConfig(**size, num_attention_heads=4, pad_token_id=0))
    original = copy.deepcopy(model).eval()
    lora = LoraConfig(r=4, target_modules=["q_proj"], bias="all", task_type="CAUSAL_LM")
    trainer = new_trainer(model, lora)
    trainer.train()
    assert not torch.equal(trainer.model.get_output_embeddings().bias, original.lm_head.bias)
    encoded = [StepRow(encode_row(row, tiny_tokenizer), "retain", 1.0, (0,)) for row in retain_rows]
    rows = collate_rows(encoded, 0) | {"share_prompts": False}
    states = trainer._scorer._states(rows, [0, 1, 2])
    torch.testing.assert_close(states.head.bias, original.lm_head.bias.detach())


@pytest.mark.parametrize(
    ("settings", "model_settings", "adapter_settings"),
    [
        ({"neftune_noise_alpha": 5.0}, {}, {}),
        ({"disable_dropout": False}, {"attention_dropout": 0.3}, {}),
        ({"disable_dropout": False}, {}, {"lora_dropout": 0.3}),
    ],
    ids=["NEFTune", "attention dropout", "dropout of the adapter"],
)
@pytest.mark.parametrize("continues", [False, True])
def test_nothing_is_drawn_in_the_passes_of_the_reference(
    new_trainer, tiny_model, settings, model_settings, adapter_settings, continues
):
    for name, value in model_settings.items():
        setattr(tiny_model.config, name, value)
    model, lora = type(tiny_model)(tiny_model.config), config_of("LoRA", **adapter_settings)
    if continues:
        model, lora = get_peft_model(model, config_of("LoRA", init_lora_weights=False, **adapter_settings)), None
    original = copy.deepcopy(model).eval()
    trainer = new_trainer(model, lora, **settings)
    trainer.train()
    # What is known of the forget rows was computed in the first step.
    batch = batch_of(trainer)
    scores = score_batch(original, batch)
    for row in range(3):
        known = trainer._scorer._known_logps["forget"][_digest(batch, row)]
        torch.testing.assert_close(known, scores.logps[row][scores.mask[row]].detach(), atol=1e-5, rtol=0)
    trainer.model.train()
    trainer.model.base_model.model.model.norm.eval()
    modes = [module.training for module in trainer.model.modules()]
    with trainer._reference() as reference:
        assert not any(module.training for module in reference.modules())
    assert [module.training for module in trainer.model.modules()] == modes


@pytest.mark.parametrize("continues", [False, True])
def test_a_pass_of_the_reference_changes_nothing_about_what_trains(new_trainer, tiny_model, continues):
    lora = config_of("LoRA")
    model, lora = (get_peft_model(tiny_model, lora), None) if continues else (tiny_model, lora)
    trainer = new_trainer(
        model,
        lora,
        forget_loss_type="rmu",
        retain_loss_type="hidden",
        forget_loss_kwargs={"layer": 1, "parameters": r"layers\.1\."},
    )
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trains = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert 0 < len(trains) < sum("lora" in name for name in before)
    trainer.train()
    assert {name for name, p in trainer.model.named_parameters() if p.requires_grad} == trains
    changed = {name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name])}
    assert changed and changed <= trains


@pytest.mark.parametrize(
    ("kind", "ties"),
    [
        ("LoRA on embeddings", False),
        ("LoRA and modules to save", False),
        ("LoRA and some tokens", False),
        ("LoRA and some tokens", True),
    ],
)
def test_an_adapter_on_embeddings_is_trained_saved_loaded_and_merged(
    new_trainer, tiny_model, biased_model, kind, ties, tmp_path
):
    model = tiny_model if ties else biased_model
    untouched = copy.deepcopy(model)
    # With beliefs, which are generated with the adapter on.
    trainer = new_trainer(model, config_of(kind), lambda_bss=0.5, max_completion_length=6)
    trainer.train()
    batch = batch_of(trainer)
    with trainer._reference() as reference:
        torch.testing.assert_close(logps(reference, batch), logps(untouched, batch), atol=1e-5, rtol=0)
    trained = logps(trainer.model.eval(), batch)
    assert (trained - logps(untouched, batch)).abs().max() > 1e-2
    embedded = [name for name, p in trainer.model.named_parameters() if p.requires_grad and "embed_tokens" in name]
    assert embedded
    trainer.save_model()
    loaded = PeftModel.from_pretrained(untouched, tmp_path / "out").eval()
    torch.testing.assert_close(logps(loaded, batch), trained, atol=1e-5, rtol=0)
    torch.testing.assert_close(logps(loaded.merge_and_unload(), batch), trained, atol=1e-5, rtol=0)


def test_scores_of_a_head_with_trained_tokens_are_those_of_its_logits(tiny_model):
    model = adapted(tiny_model, "LoRA and some tokens").eval()
    # Two of the labels are among the tokens that train.
    row = {"input_ids": [5, 6, 7, 85, 8, 87, 9], "labels": [-100, -100, 7, 85, 8, 87, 9]}
    scores = score_batch(model, pad_rows([row], 0))
    ids = torch.tensor([row["input_ids"]])
    expected = model(input_ids=ids).logits[0, 1:-1].log_softmax(-1).gather(-1, ids[0, 2:, None])[:, 0]
    torch.testing.assert_close(scores.logps[0][scores.mask[0]], expected, atol=1e-5, rtol=0)
    (-scores.logps.sum()).backward()
    delta = model.base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta["default"]
    assert delta.grad.abs().sum(-1).gt(0).tolist() == [True] * 4


@pytest.mark.parametrize("kind", ["LoRA on embeddings", "LoRA and modules to save"])
def test_an_adapter_on_embeddings_that_are_the_head_is_refused(new_trainer, tiny_model, kind):
    with pytest.raises(ValueError, match=r"whose matrix is the head too .* `trainable_token_indices`"):
        new_trainer(tiny_model, config_of(kind))


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora", "OLoRA"])
def test_a_new_adapter_that_would_change_the_model_itself_is_refused(new_trainer, tiny_model, start):
    before = copy.deepcopy(tiny_model.state_dict())
    with pytest.raises(ValueError, match=f"`init_lora_weights='{start}'` changes the weights of the model itself"):
        new_trainer(tiny_model, LoraConfig(**LORA, init_lora_weights=start))
    assert all(torch.equal(values, before[name]) for name, values in tiny_model.state_dict().items())


@pytest.mark.parametrize("start", ["gaussian", "orthogonal", False])
def test_the_reference_of_a_new_adapter_is_the_model_before_it(new_trainer, tiny_model, start):
    original = copy.deepcopy(tiny_model)
    trainer = new_trainer(tiny_model, LoraConfig(**LORA, init_lora_weights=start))
    trainer.train()
    batch = batch_of(trainer)
    with trainer._reference() as reference:
        torch.testing.assert_close(logps(reference, batch), logps(original, batch), atol=1e-5, rtol=0)


def test_an_adapter_of_another_name_is_refused(new_trainer, tiny_model):
    with pytest.raises(ValueError, match=r"has the adapters \['mine'\], expected 'default' only"):
        new_trainer(get_peft_model(tiny_model, config_of("LoRA"), adapter_name="mine"))


def test_a_second_adapter_is_refused(new_trainer, tiny_model):
    model = get_peft_model(tiny_model, config_of("LoRA"))
    model.add_adapter("other", config_of("LoRA"))
    with pytest.raises(ValueError, match=r"has the adapters \['default', 'other'\]"):
        new_trainer(model)


def test_a_merged_adapter_is_refused(new_trainer, tiny_model):
    model = adapted(tiny_model, "LoRA")
    model.merge_adapter()
    with pytest.raises(ValueError, match=r"is merged into the model.*`model\.unmerge_adapter\(\)`"):
        new_trainer(model)


@pytest.mark.parametrize("kind", ["prompt tuning", "IA3", "LoHa"])
def test_a_new_adapter_of_another_kind_is_saved_with_its_records_and_loaded(new_trainer, biased_model, kind, tmp_path):
    untouched = copy.deepcopy(biased_model)
    trainer = new_trainer(biased_model, config_of(kind), lambda_bss=0.5, max_completion_length=6)
    trainer.train()
    batch = batch_of(trainer)
    with trainer._reference() as reference:
        torch.testing.assert_close(logps(reference, batch), logps(untouched, batch), atol=1e-5, rtol=0)
    trainer.save_model()
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["adapter"]["type"] == trainer.model.active_peft_config.peft_type.value
    loaded = PeftModel.from_pretrained(untouched, tmp_path / "out").eval()
    torch.testing.assert_close(logps(loaded, batch), logps(trainer.model.eval(), batch), atol=1e-5, rtol=0)

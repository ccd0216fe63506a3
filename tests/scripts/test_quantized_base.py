# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""The base of a QLoRA run: how models are asked for, with a stub in the place of bitsandbytes."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import BitsAndBytesConfig

from trl_unlearn.records import AdapterRecord, DatasetRecord, UnlearningRun
from trl_unlearn.scripts import evaluate, models
from trl_unlearn.scripts.arguments import EvaluationArguments, UnlearnModelConfig
from trl_unlearn.scripts.models import evaluation_loaders, models_protocol, quantize_as_trained
from trl_unlearn.trainer.run_record import _quantization


IN_4_BITS = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)


@pytest.fixture
def qlora_run(tmp_path):
    """Folder of an adapter whose run had its base in 4 bits."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    UnlearningRun(
        base_model="base",
        base_model_on_hub=False,
        base_quantization=_quantization(SimpleNamespace(config=SimpleNamespace(quantization_config=IN_4_BITS))),
        adapter=AdapterRecord("LORA", 4, 8, ["q_proj"]),
        forget_set=DatasetRecord("own", 3, "ab"),
        hyperparameters={"forget_loss_type": "bs_t", "lambda_bss": 0.0},
        steps=1,
        epochs=1.0,
        effective_batch_size=1,
        seed=0,
        world_size=1,
        started_at="2026-01-02T03:04:05+00:00",
        seconds=1.0,
        hardware="CPU",
    ).save(folder / "run.json")
    return str(folder)


@pytest.fixture
def asked(monkeypatch):
    """How models are asked for: name and adapter -> options."""
    found = {}

    def load(name, *, adapter=None, **options):
        found[name, adapter] = options
        return torch.nn.Linear(1, 1)

    monkeypatch.setattr(models, "load_model", load)
    return found


def test_target_and_adapter_are_judged_on_the_base_that_was_trained_on(asked, qlora_run):
    eval_args = EvaluationArguments(retrained_model_name_or_path="retrained")
    model_args = UnlearnModelConfig(model_name_or_path="base")
    quantize_as_trained(model_args, qlora_run)
    for load in evaluation_loaders(eval_args, model_args, qlora_run).values():
        load()
    for name in (("base", None), ("base", qlora_run)):
        quantization = asked[name]["quantization_config"]
        assert quantization.load_in_4bit and quantization.bnb_4bit_use_double_quant
    assert "quantization_config" not in asked["retrained", None]
    assert models_protocol(eval_args, model_args, qlora_run)["base_quantization"] == "4 bits (nf4)"


def test_a_base_that_was_not_quantised_is_loaded_as_it_is(asked, qlora_run):
    path = Path(qlora_run, "run.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_quantization": None}))
    eval_args, model_args = EvaluationArguments(), UnlearnModelConfig(model_name_or_path="base")
    quantize_as_trained(model_args, qlora_run)
    evaluation_loaders(eval_args, model_args, qlora_run)["unlearned"]()
    assert "quantization_config" not in asked["base", qlora_run]
    assert "base_quantization" not in models_protocol(eval_args, model_args, qlora_run)


def test_what_the_command_says_goes_before_what_the_run_says(qlora_run):
    model_args = UnlearnModelConfig(model_name_or_path="base", load_in_8bit=True)
    quantize_as_trained(model_args, qlora_run)
    assert model_args.load_in_8bit and not model_args.load_in_4bit


def test_suites_that_change_weights_refuse_packed_ones():
    model_args = UnlearnModelConfig(model_name_or_path="base", load_in_4bit=True)
    with pytest.raises(ValueError, match=r"the suites \['privacy', 'robustness'\] change weights"):
        evaluate.refuse_quantized(["tofu", "privacy", "robustness"], model_args, "retrained")
    evaluate.refuse_quantized(["tofu", "privacy"], model_args, None)
    evaluate.refuse_quantized(["robustness"], UnlearnModelConfig(model_name_or_path="base"), "retrained")

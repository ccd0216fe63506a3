# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""QLoRA with bitsandbytes itself: a base in 4 bits, on a CPU."""

import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

from trl_unlearn import BootstrapUnlearnConfig, BootstrapUnlearnTrainer


# Not in the extra `dev`: each of the suite's processes would import it, for a second. `.ci/run` installs it later.
pytest.importorskip("bitsandbytes", reason="needs bitsandbytes: `pip install trl-unlearn[qlora]`")

IN_4_BITS = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)


@pytest.fixture
def folder(tiny_model, tmp_path):
    # Layers of whole blocks of 64 weights, which can be packed.
    sizes = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
    LlamaForCausalLM(LlamaConfig(**tiny_model.config.to_dict() | sizes)).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def new_trainer(folder, tmp_path, tiny_tokenizer, forget_rows, retain_rows):
    def new(model=str(folder), **options):
        args = BootstrapUnlearnConfig(
            str(tmp_path / "out"), max_steps=2, per_device_train_batch_size=3, lambda_bss=0.0, learning_rate=1e-2,
            warmup_steps=0, save_strategy="no", report_to="none", disable_tqdm=True,
        )  # fmt: skip
        return BootstrapUnlearnTrainer(
            model, args, train_dataset=forget_rows, retain_dataset=retain_rows, processing_class=tiny_tokenizer,
            peft_config=LoraConfig(r=4, target_modules="all-linear"), **options,
        )  # fmt: skip

    return new


def test_the_gradients_are_those_of_a_processor_that_packs_no_weights(new_trainer, monkeypatch):
    adapters = []
    for packs in (True, False):
        if not packs:
            monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: False)
        trainer = new_trainer(quantization_config=IN_4_BITS)
        linear = [module for module in trainer.model.modules() if hasattr(module, "support_avx512bf16_for_cpu")]
        assert linear, "bitsandbytes has another name for packed weights now: see `keep_4_bit_gradients`"
        trainer.train()
        adapters.append({name: p.detach() for name, p in trainer.model.named_parameters() if "lora_B" in name})
    assert all(parameter.any() for parameter in adapters[0].values())
    assert all(torch.equal(parameter, adapters[1][name]) for name, parameter in adapters[0].items())


def test_a_model_whose_4_bit_weights_were_packed_is_refused(new_trainer, folder):
    model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=IN_4_BITS)
    for module in model.modules():
        # By hand: processors without bf16 units pack nothing.
        if (state := getattr(getattr(module, "weight", None), "quant_state", None)) is not None:
            state.packing_format_for_cpu = True
    with pytest.raises(ValueError, match=r"packed for generation on a CPU, without gradients. Load the model again"):
        new_trainer(model)

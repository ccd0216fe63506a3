# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Model families, tiny and random, through BS-S (an adapter and the whole model) and through the evaluation."""

import copy
import math

import pytest
import torch
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM
from trl import get_peft_config

from trl_unlearn import BootstrapUnlearnConfig, BootstrapUnlearnTrainer
from trl_unlearn.encoding import pad_rows
from trl_unlearn.evaluation.rows import EvaluationRows
from trl_unlearn.evaluation.tofu import evaluate_models
from trl_unlearn.evaluation.together import SuiteSetting
from trl_unlearn.scripts.arguments import UnlearnModelConfig
from trl_unlearn.token_scores import ScoreTerms, score_batch

from ..families import FAMILIES, build


@pytest.fixture(params=FAMILIES)
def model(request):
    return build(request.param)


@pytest.fixture
def unlearn(tmp_path, tiny_tokenizer, forget_rows, retain_rows):
    """Function that unlearns with BS-S and returns the trainer, saved to its output folder."""

    def call(model, lora=None, **settings):
        args = BootstrapUnlearnConfig(
            str(tmp_path / "out"),
            **{"max_steps": 2, "per_device_train_batch_size": 3, "num_beliefs": 2, "max_completion_length": 6},
            **{"learning_rate": 1e-2, "warmup_steps": 0, "logging_steps": 1, "gradient_checkpointing": False},
            **{"save_strategy": "no", "report_to": "none", "disable_tqdm": True},
            **settings,
        )
        trainer = BootstrapUnlearnTrainer(
            model,
            args,
            train_dataset=forget_rows,
            retain_dataset=retain_rows,
            processing_class=tiny_tokenizer,
            peft_config=lora,
        )
        trainer.train()
        trainer.save_model()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        assert len(losses) == 2 and all(map(math.isfinite, losses))
        return trainer

    return call


def logits_of(model):
    ids = torch.tensor([[1, 40, 41, 42, 2, 1, 60, 61, 62]])
    with torch.no_grad():
        return model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


def test_scores_are_the_log_softmax_of_the_logits_that_the_model_gives(model):
    rows = [
        {"input_ids": [*range(5, 30)], "labels": [-100] * 10 + [*range(15, 30)]},
        {"input_ids": [7, 9, 30, 31], "labels": [-100, -100, 30, 31]},
    ]
    with torch.no_grad():
        scores = score_batch(model, pad_rows(rows, 0), ScoreTerms(belief_top_k=5, entropy=True, is_top1=True))
        for index, row in enumerate(rows):
            mask = scores.mask[index]
            labels = torch.tensor(row["labels"][1:])
            logps = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1][labels != -100].log_softmax(-1)
            labels = labels[labels != -100]
            top, ids = logps.topk(5, -1)
            expected = {
                "logps": logps.gather(-1, labels[:, None])[:, 0],
                "beliefs": (top.softmax(-1) * logps.gather(-1, ids)).sum(-1),
                "entropy": -(logps.exp() * logps).sum(-1),
                "is_top1": logps.argmax(-1) == labels,
            }
            for name, value in expected.items():
                torch.testing.assert_close(getattr(scores, name)[index][mask], value, atol=1e-5, rtol=0, msg=name)


def test_an_adapter_is_trained_saved_and_loaded(model, unlearn, tmp_path):
    untouched = copy.deepcopy(model)
    before = logits_of(model)
    trainer = unlearn(model, LoraConfig(r=4, target_modules="all-linear"))
    after = logits_of(trainer.model)
    assert (after - before).abs().max() > 1e-3
    torch.testing.assert_close(logits_of(PeftModel.from_pretrained(untouched, tmp_path / "out")), after)
    with trainer.model.disable_adapter():
        torch.testing.assert_close(logits_of(trainer.model), before)


def test_the_whole_model_is_trained_saved_and_evaluated(model, unlearn, tmp_path, tiny_tokenizer, forget_rows):
    untouched = copy.deepcopy(model)
    after = logits_of(unlearn(model).model)
    assert (after - logits_of(untouched)).abs().max() > 1e-3

    def load():
        return AutoModelForCausalLM.from_pretrained(tmp_path / "out")

    torch.testing.assert_close(logits_of(load()), after)
    if hasattr(untouched.config, "output_router_logits"):
        # TRL saves the mixtures that it has trained so.
        assert not load().config.output_router_logits
        untouched.config.output_router_logits = True
    rows = EvaluationRows(forget=forget_rows.select(range(2)))
    found = evaluate_models(
        {"target": lambda: untouched, "unlearned": load},
        rows,
        SuiteSetting(tiny_tokenizer),
        max_completion_length=4,
        num_squeezing_beliefs=1,
    ).models
    names = ("forget/probability", "forget/extraction_strength", "forget/squeezing", "forget/rougeL_recall")
    for name in names:
        assert all(math.isfinite(found[role][name].value) for role in ("target", "unlearned")), name
    assert found["unlearned"]["forget/probability"] != found["target"]["forget/probability"]


@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral", "olmoe"])
def test_the_adapter_of_the_scripts_is_on_the_attention_the_router_and_every_expert(family, unlearn):
    trainer = unlearn(build(family), get_peft_config(UnlearnModelConfig(lora_r=4)))
    trained = {
        name.split("layers.0.")[1].split(".lora_B")[0]: parameter
        for name, parameter in trainer.model.named_parameters()
        if "layers.0." in name and ".lora_B" in name and parameter.any()
    }
    # PEFT wraps the experts twice, for the two matrices of each.
    experts = {"mlp.experts", "mlp.experts.base_layer"}
    assert set(trained) == {*(f"self_attn.{x}_proj" for x in "qkvo"), "mlp.gate", *experts}
    for name in experts:
        # One adapter of rank 4 for each of 4 experts, side by side.
        assert trained[name].size(1) == 16 if name == "mlp.experts" else trained[name].size(1) >= 16

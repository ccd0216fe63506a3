# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

import pytest
import torch
from tokenizers.processors import TemplateProcessing

from trl_unlearn.evaluation.judge import answer_similarity


TEXTS = ["Ada Marlow was born in Veldt.", "Bo Lindgren wrote about winter bees.", "Cyra Oduya won the Silver Quill."]


def test_a_reference_is_like_itself_and_unlike_others(tiny_model, tiny_tokenizer):
    same = answer_similarity(tiny_model, tiny_tokenizer, TEXTS, TEXTS)
    shifted = answer_similarity(tiny_model, tiny_tokenizer, TEXTS[1:] + TEXTS[:1], TEXTS)
    assert same == pytest.approx([1.0] * 3)
    # Without the centring every cosine would be close to 1.
    assert max(shifted) < 0.3


def test_of_two_references_each_is_the_opposite_of_the_other(tiny_model, tiny_tokenizer):
    # By hand: with the centre c = (a + b) / 2, a - c = -(b - c), so that their cosine is -1.
    assert answer_similarity(tiny_model, tiny_tokenizer, TEXTS[1::-1], TEXTS[:2]) == pytest.approx([-1.0, -1.0])


def test_neither_the_batch_nor_the_training_mode_changes_a_value(tiny_model, tiny_tokenizer):
    answers = ["Ada Marlow was born in Veldt, a harbour town of some size.", "Bees.", "The Silver Quill"]
    tiny_model.train()
    alone = answer_similarity(tiny_model, tiny_tokenizer, answers, TEXTS, batch_size=1)
    assert tiny_model.training
    assert answer_similarity(tiny_model, tiny_tokenizer, answers, TEXTS, batch_size=3) == pytest.approx(
        alone, abs=1e-5
    )


def test_a_value_is_the_cosine_of_mean_states_without_special_tokens(tiny_model, tiny_tokenizer):
    start = tiny_tokenizer.convert_tokens_to_ids("<|im_start|>")
    tiny_tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", start)]
    )

    def mean(text):
        ids = torch.tensor([tiny_tokenizer(text)["input_ids"]])
        assert ids[0, 0] == start
        with torch.no_grad():
            return tiny_model(ids, output_hidden_states=True).hidden_states[-1][0, 1:].mean(0)

    answer = "Ada Marlow wrote about bees."
    references = [mean(text) for text in TEXTS]
    centre = sum(references) / 3
    expected = [torch.cosine_similarity(mean(answer) - centre, actual - centre, dim=0).item() for actual in references]
    actual = answer_similarity(tiny_model, tiny_tokenizer, [answer] * 3, TEXTS)
    assert answer_similarity(tiny_model, tiny_tokenizer, [""] * 3, TEXTS) == [0.0] * 3
    assert actual == pytest.approx(expected, abs=1e-5)


def test_an_answer_without_text_is_like_nothing(tiny_model, tiny_tokenizer):
    assert answer_similarity(tiny_model, tiny_tokenizer, ["", *TEXTS[1:]], TEXTS)[0] == 0.0


def test_an_adapter_counts_as_it_is_active(tiny_model, tiny_tokenizer):
    from peft import LoraConfig, get_peft_model

    answers = TEXTS[1:] + TEXTS[:1]
    before = answer_similarity(tiny_model, tiny_tokenizer, answers, TEXTS)
    model = get_peft_model(tiny_model, LoraConfig(target_modules=["q_proj", "v_proj", "up_proj"]))
    assert answer_similarity(model, tiny_tokenizer, answers, TEXTS) == pytest.approx(before, abs=1e-6)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    changed = answer_similarity(model, tiny_tokenizer, answers, TEXTS)
    assert changed != pytest.approx(before, abs=1e-3)
    with model.disable_adapter():
        assert answer_similarity(model, tiny_tokenizer, answers, TEXTS) == pytest.approx(before, abs=1e-6)

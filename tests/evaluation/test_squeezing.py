# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

import pytest
import torch

from trl_unlearn.encoding import encode_row
from trl_unlearn.evaluation import together
from trl_unlearn.evaluation.squeezing import sample_beside
from trl_unlearn.evaluation.together import SuiteSetting
from trl_unlearn.generation import Completion


def freeze(model, tokenizer, rows, num_beliefs=4, seed=0, batch_size=None):
    setting = SuiteSetting(tokenizer=tokenizer, batch_size=batch_size, seed=seed)
    return sample_beside(model, setting, rows, num_beliefs, stream=(0,), max_new_tokens=6, desc="Sampling")


@pytest.fixture
def encoded(forget_rows, tiny_tokenizer):
    return [encode_row(row, tiny_tokenizer) for row in forget_rows]


def test_answers_repeats_and_empty_samples_are_no_beliefs(monkeypatch, tiny_model, tiny_tokenizer, encoded):
    row, eos = encoded[0], tiny_tokenizer.eos_token_id
    answer = row["input_ids"][row["prompt_length"] :]
    samples = [
        Completion(ids=answer, logps=[], ended=True),
        Completion(ids=answer[:-1], logps=[], ended=False),
        # Cut off within the answer, which it repeats so far; one that ends there says less.
        Completion(ids=answer[:4], logps=[], ended=False),
        Completion(ids=[*answer[:2], eos], logps=[], ended=True),
        Completion(ids=[eos], logps=[], ended=True),
        Completion(ids=[5, 6, eos], logps=[], ended=True),
        Completion(ids=[5, 6], logps=[], ended=False),
        Completion(ids=[7, 8, eos], logps=[], ended=True),
    ]
    monkeypatch.setattr(together, "generate_together", lambda *args, **kwargs: samples)
    (beliefs,) = freeze(tiny_model, tiny_tokenizer, [row], num_beliefs=8)
    prompt = row["input_ids"][: row["prompt_length"]]
    expected = [[*answer[:2], eos], [5, 6, eos], [7, 8, eos]]
    assert [belief["input_ids"] for belief in beliefs] == [[*prompt, *ids] for ids in expected]
    assert beliefs[1]["labels"] == [-100] * len(prompt) + [5, 6, eos]


def test_a_row_keeps_its_beliefs_whatever_the_batch(tiny_model, tiny_tokenizer, encoded):
    one = freeze(tiny_model, tiny_tokenizer, encoded, batch_size=1)
    assert one == freeze(tiny_model, tiny_tokenizer, encoded, batch_size=16)
    assert one != freeze(tiny_model, tiny_tokenizer, encoded, seed=1)


def test_beliefs_are_scored_by_row(tiny_model, tiny_tokenizer, encoded):
    beliefs = freeze(tiny_model, tiny_tokenizer, encoded)
    beliefs[1] = []
    logps = SuiteSetting(tiny_tokenizer, seed=0).mean_logps(tiny_model, beliefs, None)
    assert list(map(len, logps)) == list(map(len, beliefs))
    belief = beliefs[2][0]
    with torch.no_grad():
        scores = tiny_model(torch.tensor([belief["input_ids"]])).logits[0].log_softmax(-1)
    start = belief["labels"].count(-100)
    expected = [scores[i - 1, belief["input_ids"][i]].item() for i in range(start, len(belief["input_ids"]))]
    assert logps[2][0] == pytest.approx(sum(expected) / len(expected), abs=1e-6)

# Copyright 2026 The trl-unlearn authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

from dataclasses import replace

import pytest
import torch

from trl_unlearn import beliefs as beliefs_module
from trl_unlearn.beliefs import BeliefSampling, BeliefStore
from trl_unlearn.encoding import encode_dataset
from trl_unlearn.generation import Completion, eos_token_ids
from trl_unlearn.token_scores import score_rows


SAMPLING = BeliefSampling(num_beliefs=2, num_candidates=4, max_completion_length=6, seed=7)


@pytest.fixture
def rows(forget_rows, tiny_tokenizer):
    return list(encode_dataset(forget_rows, tiny_tokenizer, name="forget"))


@pytest.fixture
def new_store(rows, tiny_model, tiny_tokenizer):
    def new(sampling=SAMPLING, **kwargs):
        return BeliefStore(
            rows,
            sampling,
            pad_token_id=tiny_tokenizer.pad_token_id,
            eos_token_ids=eos_token_ids(tiny_model, tiny_tokenizer),
            **kwargs,
        )

    return new


def test_every_row_gets_beliefs_after_its_own_prompt(new_store, rows, tiny_model):
    store = new_store()
    audit = store.sample(tiny_model, 0, 0.0)
    assert audit["coverage"] == 1.0 and audit["count"] == 2 * len(rows)
    for index, row in enumerate(rows):
        prompt = row["input_ids"][: row["prompt_length"]]
        beliefs = store.rows([index])
        assert len(beliefs) == 2
        for belief in beliefs:
            assert belief["input_ids"][: len(prompt)] == prompt
            assert belief["labels"][: len(prompt)] == [-100] * len(prompt)
            assert belief["labels"][len(prompt) :] == belief["input_ids"][len(prompt) :]


def test_rows_are_given_in_the_order_of_the_indices(new_store, tiny_model):
    store = new_store()
    store.sample(tiny_model, 0, 0.0)
    assert store.rows([2, 0]) == store.rows([2]) + store.rows([0])


@pytest.mark.parametrize("batch_size", [1, 5, 16])
def test_beliefs_do_not_depend_on_the_batch_size(new_store, tiny_model, batch_size):
    stores = [new_store(replace(SAMPLING, batch_size=size)) for size in (None, batch_size)]
    digests = {store.sample(tiny_model, 0, 0.0)["sha256"] for store in stores}
    assert len(digests) == 1


def test_beliefs_depend_on_the_seed_and_on_the_refresh(new_store, tiny_model):
    store, other = new_store(), new_store(replace(SAMPLING, seed=8))
    digests = [store.sample(tiny_model, 0, 0.0), store.sample(tiny_model, 1, 2.0), other.sample(tiny_model, 0, 0.0)]
    assert len({digest["sha256"] for digest in digests}) == 3
    assert store.refresh == 1


def test_the_candidates_with_the_highest_mean_log_prob_are_kept(new_store, tiny_model, tiny_tokenizer):
    store, every = new_store(), new_store(replace(SAMPLING, num_beliefs=4))
    store.sample(tiny_model, 0, 0.0)
    every.sample(tiny_model, 0, 0.0)
    for index in range(3):
        candidates = every.rows([index])
        scores = score_rows(tiny_model, candidates, pad_token_id=tiny_tokenizer.pad_token_id)
        means = [sum(score.logps) / len(score.logps) for score in scores]
        best = sorted(range(4), key=lambda j: -means[j])[:2]
        assert store.rows([index]) == [candidates[j] for j in best]


def test_the_audit_counts_beliefs_that_repeat_the_target(new_store, rows, tiny_model, monkeypatch):
    answers = [[x for x in row["labels"] if x != -100] for row in rows]

    def repeat_the_first_target(model, prompts, **kwargs):
        wrong = [5, 6, kwargs["eos_token_ids"][0]]
        completions = [answers[0] if row == 0 else wrong for _, _, row, _, _ in kwargs["keys"]]
        return [Completion(ids=ids, logps=[-1.0] * len(ids), ended=True) for ids in completions]

    monkeypatch.setattr(beliefs_module, "generate", repeat_the_first_target)
    assert new_store().sample(tiny_model, 0, 0.0)["target_share"] == pytest.approx(1 / 3)


def test_empty_beliefs_are_drawn_again_with_another_key(new_store, tiny_model, monkeypatch):
    attempts = []

    def empty_at_first(model, prompts, **kwargs):
        attempts.append(sorted({key[4] for key in kwargs["keys"]}))
        eos = kwargs["eos_token_ids"][0]
        ids = [[eos] if key[4] == 0 and key[2] == 1 else [5, eos] for key in kwargs["keys"]]
        return [Completion(ids=x, logps=[-1.0] * len(x), ended=True) for x in ids]

    monkeypatch.setattr(beliefs_module, "generate", empty_at_first)
    assert new_store().sample(tiny_model, 0, 0.0)["coverage"] == 1.0
    assert attempts == [[0], [1]]


def test_a_model_that_only_ends_its_turn_is_made_to_write_a_token(new_store, tiny_model, tiny_tokenizer):
    def end_turn(module, args, output):
        output.logits[..., tiny_tokenizer.eos_token_id] += 1e4
        return output

    with torch.no_grad():
        tiny_model.register_forward_hook(end_turn)
    store = new_store()
    assert store.sample(tiny_model, 0, 0.0)["coverage"] == 1.0
    assert all(belief["input_ids"][-1] == tiny_tokenizer.eos_token_id for belief in store.rows([0]))


def test_beliefs_that_stay_empty_are_an_error(new_store, tiny_model, monkeypatch):
    def empty(model, prompts, **kwargs):
        return [Completion(ids=kwargs["eos_token_ids"][:1], logps=[0.0], ended=True) for _ in prompts]

    monkeypatch.setattr(beliefs_module, "generate", empty)
    with pytest.raises(RuntimeError, match=r"0\.0% of the forget rows"):
        new_store().sample(tiny_model, 0, 0.0)

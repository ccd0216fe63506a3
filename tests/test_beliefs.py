# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

import gc
import hashlib
import io
import os
import resource
import sys
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest
import torch
from datasets import Dataset

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
    def new(sampling=SAMPLING, rows=rows, **kwargs):
        return BeliefStore(
            rows,
            sampling,
            pad_token_id=tiny_tokenizer.pad_token_id,
            eos_token_ids=eos_token_ids(tiny_model, tiny_tokenizer, rows),
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


def test_a_belief_that_was_cut_off_repeats_the_target_as_far_as_it_goes(new_store, rows, tiny_model, monkeypatch):
    answers = [[x for x in row["labels"] if x != -100] for row in rows]

    def repeat_the_beginning(model, prompts, **kwargs):
        # The first row's are cut off, the second row's end there, the third row's are others.
        eos = kwargs["eos_token_ids"][0]
        found = [[*answers[0][:4]], [*answers[1][:4], eos], [5, 6, eos]]
        return [Completion(found[row], [-1.0] * len(found[row]), row > 0) for _, _, row, _, _ in kwargs["keys"]]

    monkeypatch.setattr(beliefs_module, "generate", repeat_the_beginning)
    store = new_store()
    assert store.sample(tiny_model, 0, 0.0)["target_share"] == pytest.approx(1 / 3)
    assert [store.apart_from_target(i) is None for i in range(3)] == [True, False, False]


def test_the_target_of_raw_text_is_what_follows_the_prompt(
    new_store, forget_rows, tiny_model, tiny_tokenizer, monkeypatch
):
    texts = Dataset.from_list([{"text": row["completion"][0]["content"]} for row in forget_rows])
    rows = list(encode_dataset(texts, tiny_tokenizer, name="forget", prompt_length=4))

    def go_on_as_the_text_does(model, prompts, **kwargs):
        rests = [rows[row]["input_ids"][4:] for _, _, row, _, _ in kwargs["keys"]]
        return [Completion(rest, [-1.0] * len(rest), ended=True) for rest in rests]

    monkeypatch.setattr(beliefs_module, "generate", go_on_as_the_text_does)
    store = new_store(rows=rows)
    assert store.sample(tiny_model, 0, 0.0)["target_share"] == 1.0
    parts = [store.prompt_and_target(i) for i in range(3)]
    assert [prompt + target for prompt, target in parts] == [row["input_ids"] for row in rows]
    assert [store.apart_from_target(i) for i in range(3)] == [None] * 3


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


@pytest.fixture
def in_small_chunks(monkeypatch):
    """Two forget rows a chunk: three rows are two chunks, the last of them smaller."""
    monkeypatch.setattr(beliefs_module, "_CHUNK", 2)


def _kept(store, rows):
    return [[belief["input_ids"][row["prompt_length"] :] for belief in store.rows([i])] for i, row in enumerate(rows)]


def _assert_same_state(found, expected):
    assert list(found) == list(expected)
    for name, value in expected.items():
        if isinstance(value, torch.Tensor):
            assert found[name].dtype == value.dtype and torch.equal(found[name], value), name
        else:
            assert found[name] == value, name


def test_chunks_change_neither_the_beliefs_nor_their_audit(new_store, rows, tiny_model, monkeypatch):
    # One completion a call, so that a row's scores do not depend on what else is in its batch.
    whole, pieces = (new_store(replace(SAMPLING, batch_size=1)) for _ in range(2))
    expected = whole.sample(tiny_model, 0, 0.0)
    monkeypatch.setattr(beliefs_module, "_CHUNK", 2)
    found = pieces.sample(tiny_model, 0, 0.0)
    assert expected.pop("seconds") > 0 < found.pop("seconds")
    assert found.pop("mean_logp") == pytest.approx(expected.pop("mean_logp"), abs=1e-12)
    assert found == expected
    assert _kept(pieces, rows) == _kept(whole, rows)
    ids = [belief for row in _kept(whole, rows) for belief in row]
    assert expected["sha256"] == hashlib.sha256(repr(ids).encode()).hexdigest()


@pytest.mark.parametrize("chunk", [1, 2, 1024])
def test_processes_share_each_chunk_and_all_have_all_beliefs(new_store, rows, tiny_model, monkeypatch, chunk):
    monkeypatch.setattr(beliefs_module, "_CHUNK", chunk)
    sampling = replace(SAMPLING, batch_size=1)
    alone = new_store(sampling)
    alone.sample(tiny_model, 0, 0.0)
    drawn: list[list] = [[], []]
    # The first pass of each process hears nothing of the other; the second one puts together what both have drawn.
    monkeypatch.setattr(beliefs_module, "gather_object", lambda found: drawn[rank].append(found) or every(found))

    def every(found):
        jobs = {job for job, _ in found}
        filled = Completion([5], [-1.0], False)
        chunk_rows = sorted({row for row, _ in jobs} | set(range(len(rows))))
        return [*found, *(((r, j), filled) for r in chunk_rows for j in range(4) if (r, j) not in jobs)]

    for rank in range(2):
        new_store(sampling, rank=rank, world_size=2).sample(tiny_model, 0, 0.0)
    for rank in range(2):
        calls = iter(zip(*drawn, strict=True))
        monkeypatch.setattr(beliefs_module, "gather_object", lambda found, calls=calls: [*chain(*next(calls))])
        shared = new_store(sampling, rank=rank, world_size=2)
        shared.sample(tiny_model, 0, 0.0)
        assert _kept(shared, rows) == _kept(alone, rows)
    for both in zip(*drawn, strict=True):
        assert abs(len(both[0]) - len(both[1])) <= 1


def test_rows_are_read_from_a_data_set_when_they_are_needed(new_store, rows, tiny_model, in_small_chunks, monkeypatch):
    read = []
    plain = Dataset.__getitems__
    monkeypatch.setattr(Dataset, "__getitems__", lambda self, keys: read.append(list(keys)) or plain(self, keys))
    lists, stored = new_store(), new_store(rows=Dataset.from_list(rows))
    assert read == []
    assert stored.sample(tiny_model, 0, 0.0)["sha256"] == lists.sample(tiny_model, 0, 0.0)["sha256"]
    assert read == [[0, 1], [2]]
    assert stored.rows([2, 0]) == lists.rows([2, 0])
    assert len(stored) == len(rows)
    assert [stored.prompt_and_target(i) for i in range(3)] == [lists.prompt_and_target(i) for i in range(3)]
    assert [stored.apart_from_target(i) for i in range(3)] == [lists.apart_from_target(i) for i in range(3)]
    assert stored.state_dict()["set"] == lists.state_dict()["set"]


def test_a_checkpoint_gives_back_every_belief(new_store, tiny_model, in_small_chunks):
    store, other = new_store(), new_store()
    _assert_same_state(other.state_dict(), store.state_dict())
    store.sample(tiny_model, 3, 1.5)
    state = store.state_dict()
    assert {name: value.dtype for name, value in state.items() if isinstance(value, torch.Tensor)} == {
        "counts": torch.int32, "lengths": torch.int32, "ids": torch.int32,
    }  # fmt: skip
    assert state["counts"].tolist() == [2, 2, 2] and state["lengths"].sum() == len(state["ids"])
    other.load_state_dict(state)
    _assert_same_state(other.state_dict(), state)
    assert other.rows([2, 0, 1]) == store.rows([2, 0, 1]) and other.refresh == 3


def test_beliefs_of_another_number_are_refused(new_store, tiny_model):
    store = new_store()
    store.sample(tiny_model, 0, 0.0)
    with pytest.raises(ValueError, match=r"holds 2 beliefs of each forget row, and `num_beliefs` is 3\. Set it to 2"):
        new_store(replace(SAMPLING, num_beliefs=3)).load_state_dict(store.state_dict())


def _open_files(folder):
    """Files below a folder that this process has open or mapped, with or without a name."""
    opened = [os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    mapped = Path("/proc/self/maps").read_text().splitlines()
    return [line for line in [*opened, *mapped] if str(folder) in line]


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_beliefs_are_in_a_file_without_a_name_in_a_folder_that_is_made(new_store, tiny_model, tmp_path):
    folder = tmp_path / "not" / "yet"
    store = new_store(folder=folder)
    assert not folder.exists()
    for refresh in range(3):
        store.sample(tiny_model, refresh, 0.0)
        assert list(folder.iterdir()) == []
        # Open and mapped; that of the sampling before is gone.
        opened, mapped = _open_files(folder)
        assert opened.endswith("(deleted)") and mapped.endswith("(deleted)") and " r--s " in mapped
    del store
    gc.collect()
    assert _open_files(folder) == []


@pytest.mark.parametrize("failure", ["empty", "full"])
def test_what_fails_leaves_the_beliefs_that_were_there(new_store, rows, tiny_model, tmp_path, monkeypatch, failure):
    store = new_store(folder=tmp_path)
    store.sample(tiny_model, 0, 0.0)
    before, kept = store.state_dict(), _kept(store, rows)
    if failure == "empty":

        def empty(model, prompts, **kwargs):
            return [Completion(ids=kwargs["eos_token_ids"][:1], logps=[0.0], ended=True) for _ in prompts]

        monkeypatch.setattr(beliefs_module, "generate", empty)
        with pytest.raises(RuntimeError, match=r"0\.0% of the forget rows"):
            store.sample(tiny_model, 1, 1.0)
    else:
        most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, most[1]))
        try:
            sentence = rf"could not be written to `{tmp_path}` \(File too large\). Make room"
            with pytest.raises(OSError, match=sentence):
                store.sample(tiny_model, 1, 1.0)
            with pytest.raises(OSError, match=sentence):
                store.load_state_dict(before)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, most)
    assert list(tmp_path.iterdir()) == []
    _assert_same_state(store.state_dict(), before)
    assert _kept(store, rows) == kept


def test_one_bar_counts_the_draws_of_all_chunks(new_store, rows, tiny_model, in_small_chunks, monkeypatch):
    bars = []

    class Bar(beliefs_module.tqdm):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs | {"disable": False, "file": io.StringIO()})
            bars.append(self)

    monkeypatch.setattr(beliefs_module, "tqdm", Bar)
    new_store().sample(tiny_model, 0, 0.0, desc="Sampling")
    (bar,) = bars
    assert (bar.desc, bar.total, bar.n) == ("Sampling", len(rows) * 4, len(rows) * 4)


def test_a_model_whose_scores_are_not_finite_has_no_beliefs_and_those_before_are_kept(new_store, tiny_model):
    store = new_store()
    store.sample(tiny_model, 0, 0.0)
    before = store.rows([0, 1, 2])
    with torch.no_grad():
        tiny_model.model.norm.weight.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match=r"after the prompts of 3 forget rows \(the first: 0, 1, 2\)"):
        store.sample(tiny_model, 1, 1.0)
    assert store.rows([0, 1, 2]) == before and len(store.audits) == 1

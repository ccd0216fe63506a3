# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Arbitrary rows, batches, beliefs and records. The cases are the same in every run."""

import itertools
import json
import math
from collections import Counter
from dataclasses import asdict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trl_unlearn import beliefs
from trl_unlearn.beliefs import BeliefSampling, BeliefStore
from trl_unlearn.encoding import encode_row
from trl_unlearn.generation import Completion
from trl_unlearn.records import AdapterRecord, BeliefAudit, BeliefRefresh, ChainLink, DatasetRecord, UnlearningRun
from trl_unlearn.results import (
    DIFFERENCES,
    MODEL_ROLES,
    PARITIES,
    Difference,
    EvaluationResult,
    Measurement,
)
from trl_unlearn.row_forms import answer_text, with_answer
from trl_unlearn.token_scores import score_rows
from trl_unlearn.trainer.step import DataCollatorForUnlearning

from .conftest import cases


VOCABULARY, PAD, END = 400, 0, 2


TEXT = st.text(max_size=30) | st.lists(
    st.sampled_from(
        ["<|im_end|>", "<|im_start|>", "<|pad|>", " ", "\n", "\u202e", "\U0001f469\u200d\U0001f467", "Ada "]
    )
).map("".join)
TOKENS = st.integers(0, VOCABULARY - 1)


def is_blank(text):
    for special in ("<|im_end|>", "<|im_start|>", "<|pad|>"):
        text = text.replace(special, "")
    return not text.strip()


def assert_is_a_sentence(error):
    """A refusal of a row, to which the row's index is put in front."""
    sentence = str(error)
    assert sentence.startswith("has ") and sentence.endswith(".") and len(sentence) > 20


def assert_is_encoded(encoded):
    ids, labels, prompt = encoded["input_ids"], encoded["labels"], encoded["prompt_length"]
    assert len(ids) == len(labels)
    assert 0 < prompt < len(ids)
    assert any(label != -100 for label in labels[1:])
    assert all(label in (-100, token) for token, label in zip(ids, labels, strict=True))
    assert all(0 <= token < VOCABULARY for token in ids)


@cases(110)
@given(question=TEXT, answer=TEXT, form=st.sampled_from(["messages", "pair of messages"]))
def test_a_conversation_is_its_prompt_without_labels_and_its_answer_with_them(_tokenizer, question, answer, form):
    prompt, completion = [{"role": "user", "content": question}], [{"role": "assistant", "content": answer}]
    row = {"messages": prompt + completion} if form == "messages" else {"prompt": prompt, "completion": completion}
    try:
        encoded = encode_row(row, _tokenizer)
    except ValueError as error:
        assert_is_a_sentence(error)
        assert is_blank(answer)
        return
    assert not is_blank(answer)
    assert_is_encoded(encoded)
    ids, start = encoded["input_ids"], encoded["prompt_length"]
    assert encoded["labels"] == [-100] * start + ids[start:]
    text = [_tokenizer.decode(part, clean_up_tokenization_spaces=False) for part in (ids[:start], ids[start:])]
    assert text == [f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n", f"{answer}<|im_end|>"]
    again = with_answer(row, answer)
    assert encode_row(again, _tokenizer) == encoded and answer_text(again) == answer.strip()


@cases(70)
@given(prompt=TEXT, answer=TEXT, max_length=st.none() | st.integers(2, 40), as_text=st.booleans())
def test_a_string_keeps_its_tokens_up_to_max_length(_tokenizer, prompt, answer, max_length, as_text):
    row = {"text": prompt + answer} if as_text else {"prompt": prompt, "completion": answer}
    try:
        encoded = encode_row(row, _tokenizer, max_length=max_length)
    except ValueError as error:
        assert_is_a_sentence(error)
        return
    assert_is_encoded(encoded)
    text = (prompt + answer).rstrip()
    whole = _tokenizer(text if text.endswith("<|im_end|>") else prompt + answer + "<|im_end|>")["input_ids"]
    assert encoded["input_ids"] == whole[:max_length]
    if as_text:
        assert encoded["labels"] == encoded["input_ids"]
    else:
        start = encoded["prompt_length"]
        assert encoded["labels"][start:] == encoded["input_ids"][start:]
        # A token over the border belongs to the answer, never one of the answer to the prompt.
        assert _tokenizer(prompt)["input_ids"][: start - 1] == whole[: start - 1]


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
MESSAGE = st.fixed_dictionaries(
    {}, optional={"role": st.sampled_from(["user", "assistant", "system"]) | JUNK, "content": TEXT | JUNK}
)
CELL = JUNK | TEXT | st.lists(MESSAGE | JUNK, max_size=3) | st.lists(st.integers(-101, VOCABULARY), max_size=6)
COLUMNS = ("prompt", "completion", "messages", "text", "input_ids", "labels", "other")


@cases(120)
@given(row=st.fixed_dictionaries({}, optional=dict.fromkeys(COLUMNS, CELL)), max_length=st.none() | st.integers(2, 9))
def test_whatever_stands_in_a_row_it_is_encoded_or_refused_in_a_sentence(_tokenizer, row, max_length):
    try:
        encoded = encode_row(row, _tokenizer, max_length=max_length)
    except ValueError as error:
        assert_is_a_sentence(error)
    else:
        if row.get("input_ids") is None or row.get("labels") is None:
            assert_is_encoded(encoded)


@st.composite
def encoded_rows(draw):
    ids = draw(st.lists(TOKENS, min_size=2, max_size=12))
    start = draw(st.integers(1, len(ids) - 1))
    return {"input_ids": ids, "labels": [-100] * start + ids[start:], "prompt_length": start}


@cases(50)
@given(rows=st.lists(encoded_rows(), min_size=1, max_size=5), pad=TOKENS)
def test_padding_never_counts(tiny_model, rows, pad):
    batch = DataCollatorForUnlearning(pad)(rows)
    for index, row in enumerate(rows):
        length, width = len(row["input_ids"]), max(len(other["input_ids"]) for other in rows)
        missing = width - length
        assert batch["input_ids"][index].tolist() == row["input_ids"] + [pad] * missing
        assert batch["labels"][index].tolist() == row["labels"] + [-100] * missing
        assert batch["attention_mask"][index].tolist() == [1] * length + [0] * missing
    together = score_rows(tiny_model, rows, pad_token_id=pad)
    alone = [score_rows(tiny_model, [row], pad_token_id=(pad + 1) % VOCABULARY)[0] for row in rows]
    for found, expected, row in zip(together, alone, rows, strict=True):
        assert len(found.logps) == len(row["input_ids"]) - row["prompt_length"]
        torch.testing.assert_close(torch.tensor(found.logps), torch.tensor(expected.logps), atol=1e-5, rtol=0)


COMPLETION = st.lists(
    st.tuples(st.sampled_from([END, END, 7, 8, 9]), st.floats(-20, 0, allow_subnormal=False)), min_size=1, max_size=5
)


def _completed(tokens):
    """Sampled tokens as `generate` returns them: nothing comes after the first EOS token."""
    length = next((i + 1 for i, (token, _) in enumerate(tokens) if token == END), len(tokens))
    ids, logps = ([pair[i] for pair in tokens[:length]] for i in (0, 1))
    return Completion(ids=ids, logps=logps, ended=ids[-1] == END)


@cases(50)
@given(
    rows=st.lists(encoded_rows(), min_size=1, max_size=4),
    num_beliefs=st.integers(1, 3),
    more=st.integers(0, 2),
    drawn=st.data(),
)
def test_every_row_keeps_its_own_likeliest_candidates_or_the_sampling_fails(rows, num_beliefs, more, drawn):
    offered: list[dict[tuple[int, int], Completion]] = []

    def generate(model, prompts, *, keys, min_new_tokens, **_):
        found = {}
        for prompt, (seed, refresh, row, j, attempt) in zip(prompts, keys, strict=True):
            assert prompt == rows[row]["input_ids"][: rows[row]["prompt_length"]]
            assert (seed, refresh, attempt) == (42, 3, len(offered))
            found[row, j] = _completed(drawn.draw(COMPLETION))
        offered.append(found)
        return list(found.values())

    sampling = BeliefSampling(num_beliefs, num_beliefs + more, max_completion_length=5)
    store = BeliefStore(rows, sampling, pad_token_id=PAD, eos_token_ids=[END])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(beliefs, "generate", generate)
        try:
            audit = store.sample(None, 3, 1.5)
        except RuntimeError as error:
            assert "beliefs that are not empty" in str(error)
            assert len(offered) == 5 and any(found.ids == [END] for found in offered[-1].values())
            assert store.audits == []
            return
    last = {job: found for part in offered for job, found in part.items()}
    # Only what was empty is drawn again.
    for earlier, later in itertools.pairwise(offered):
        assert set(later) == {job for job, found in earlier.items() if found.ids == [END]}
    assert audit["coverage"] == 1.0 and audit["count"] == len(rows) * num_beliefs
    for index, row in enumerate(rows):
        prompt = row["input_ids"][: row["prompt_length"]]
        kept = store.rows([index])
        assert len(kept) == num_beliefs
        candidates = [last[index, j] for j in range(num_beliefs + more)]
        best = sorted(candidates, key=lambda c: -sum(c.logps) / len(c.logps))[:num_beliefs]
        assert Counter(tuple(b["input_ids"][len(prompt) :]) for b in kept) <= Counter(tuple(c.ids) for c in candidates)
        assert [b["input_ids"][len(prompt) :] for b in kept] == [c.ids for c in best]
        for belief in kept:
            assert belief["input_ids"][: len(prompt)] == prompt
            assert belief["labels"] == [-100] * len(prompt) + belief["input_ids"][len(prompt) :]
            assert belief["input_ids"][len(prompt) :] != [END]


# Lone surrogates too: a path may hold them.
ANY_TEXT = st.text(st.characters(), max_size=20)
FLOAT = st.floats()
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | FLOAT | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=5,
)
SETTINGS = st.dictionaries(ANY_TEXT, PLAIN, max_size=4)
COUNT = st.integers(0, 10**6)
MEASURED = st.dictionaries(
    ANY_TEXT, st.builds(Measurement, value=FLOAT, n=st.none() | COUNT, stderr=st.none() | FLOAT), max_size=3
)
APART = st.dictionaries(ANY_TEXT, st.builds(Difference, value=FLOAT, low=FLOAT, high=FLOAT, n=COUNT), max_size=3)
RESULT = st.builds(
    EvaluationResult,
    parity=st.sampled_from(PARITIES),
    suites=st.lists(ANY_TEXT, max_size=3),
    models=st.dictionaries(st.sampled_from(MODEL_ROLES), st.none() | MEASURED),
    differences=st.dictionaries(st.sampled_from(sorted(DIFFERENCES)), APART),
    protocol=SETTINGS,
    environment=SETTINGS,
)
SOURCE = st.builds(
    DatasetRecord,
    **{"name": ANY_TEXT, "rows": COUNT, "sha256": ANY_TEXT, "config": st.none() | ANY_TEXT},
    **{"split": st.none() | ANY_TEXT, "on_hub": st.booleans()},
)
REFRESH = st.builds(
    BeliefRefresh,
    **{"epoch": FLOAT, "count": COUNT, "mean_length": FLOAT, "mean_logp": FLOAT, "target_share": FLOAT},
    **{"seconds": FLOAT, "sha256": ANY_TEXT},
)
RUN = st.builds(
    UnlearningRun,
    base_model=ANY_TEXT,
    base_model_on_hub=st.booleans(),
    base_model_revision=st.none() | ANY_TEXT,
    adapter=st.none()
    | st.builds(
        AdapterRecord,
        type=ANY_TEXT,
        r=st.none() | COUNT,
        alpha=st.none() | FLOAT,
        target_modules=st.none() | ANY_TEXT | st.lists(ANY_TEXT, max_size=3),
        continued_from=st.none() | ANY_TEXT,
    ),
    forget_set=SOURCE,
    retain_set=st.none() | SOURCE,
    hyperparameters=SETTINGS.map(lambda found: found | {"forget_loss_type": "bs_t", "lambda_bss": 0.5}),
    **{"steps": COUNT, "epochs": FLOAT, "effective_batch_size": COUNT, "seed": COUNT, "world_size": COUNT},
    stopped=st.none() | ANY_TEXT,
    chain=st.lists(st.builds(ChainLink, request=ANY_TEXT, forget_set=SOURCE, steps=COUNT, seconds=FLOAT), max_size=2),
    belief_audit=st.none() | st.builds(BeliefAudit, coverage=FLOAT, refreshes=st.lists(REFRESH, max_size=2)),
    training_log=st.lists(st.dictionaries(ANY_TEXT, st.none() | FLOAT, max_size=3), max_size=2),
    final_metrics=st.dictionaries(ANY_TEXT, st.none() | FLOAT, max_size=3),
    versions=st.dictionaries(ANY_TEXT, ANY_TEXT, max_size=3),
    started_at=ANY_TEXT,
    seconds=FLOAT,
    hardware=ANY_TEXT,
)


def _is_finite(value):
    if isinstance(value, dict | list):
        return all(map(_is_finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


@cases(60)
@given(record=RESULT | RUN)
def test_a_record_survives_its_file(tmp_path, record):
    kind, path = type(record), tmp_path / "record.json"
    record.save(path)
    assert [file.name for file in tmp_path.iterdir()] == ["record.json"]
    loaded = kind.load(path)
    # What is not finite is null in the file, which equality cannot see: NaN is not NaN.
    assert loaded.to_dict() == record.to_dict() == kind.from_dict(json.loads(json.dumps(record.to_dict()))).to_dict()
    json.dumps(record.to_dict(), allow_nan=False)
    if _is_finite(asdict(record)):
        assert loaded == record


@cases(40)
@given(
    kind=st.sampled_from([EvaluationResult, UnlearningRun]),
    record=RESULT.map(lambda found: found.to_dict()) | RUN.map(lambda found: found.to_dict()),
    changes=st.dictionaries(st.sampled_from(["schema_version", "models", "suites", "steps", "forget_set"]), PLAIN),
)
def test_a_file_of_another_form_is_refused_in_a_sentence(tmp_path, kind, record, changes):
    path = tmp_path / "record.json"
    path.write_text(json.dumps(record | changes), encoding="utf-8")
    try:
        loaded = kind.load(path)
    except ValueError as error:
        assert "`" in str(error) and str(error).endswith(".")
    else:
        assert loaded.schema_version == 1

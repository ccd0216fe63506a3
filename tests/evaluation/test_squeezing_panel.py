# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0


import copy
import math
from itertools import pairwise

import pytest
import torch
from datasets import Dataset

from trl_unlearn.encoding import encode_row
from trl_unlearn.evaluation import squeezing, together
from trl_unlearn.evaluation.squeezing import SqueezingPanel, squeezing_index
from trl_unlearn.generation import Completion, eos_token_ids, generate


def freeze(model, tokenizer, rows, **options):
    options = {"max_new_tokens": 6, "seed": 0, **options}
    return SqueezingPanel.freeze(model, tokenizer, rows, **options)


def mean_logp(model, row):
    """Mean log-prob of the labels of one row, from the logits."""
    with torch.no_grad():
        scores = model(torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
    actual = [scores[i - 1, label].item() for i, label in enumerate(row["labels"]) if label != -100]
    return sum(actual) / len(actual)


@pytest.fixture
def perturbed_rows(forget_rows):
    return [
        {
            **row,
            "paraphrased_answer": f"Another way {i}.",
            "perturbed_answer": [f"Wrong {i}.", "Quite wrong."][: i + 1],
        }
        for i, row in enumerate(forget_rows)
    ]


@pytest.mark.parametrize(
    ("targets", "highs", "index"),
    [
        # A rise of 0.5 while the target is above its start counts nothing, one of 0.25 below it does.
        ([-1.0, -0.5, -2.0, -3.0], [-2.0, -1.5, -1.75, -2.5], 0.25),
        # A target at its start is not below it.
        ([-1.0, -1.0, -1.0], [-2.0, -1.0, -1.5], 0.0),
        # Two equal rises are one.
        ([-1.0, -2.0, -3.0], [-2.0, -1.5, -1.5], 0.5),
        # The high band only fell.
        ([-1.0, -2.0, -3.0], [-2.0, -2.5, -4.0], 0.0),
        # Above the start, not above the measurement before.
        ([-1.0, -2.0, -3.0], [-2.0, -4.0, -1.75], 0.25),
        # A model that diverged, as it is in memory and in JSON.
        ([-1.0, -2.0, math.nan, -4.0], [-2.0, -1.5, -1.0, math.nan], 0.5),
        ([-1.0, -2.0, None, -4.0], [-2.0, -1.5, -1.0, None], 0.5),
        ([-1.0], [-2.0], 0.0),
        ([], [], 0.0),
    ],
)
def test_the_index_is_the_largest_rise_while_the_target_is_below_its_start(targets, highs, index):
    history = [{"target": target, "high": high} for target, high in zip(targets, highs, strict=True)]
    assert squeezing_index(history) == index


def test_repeats_of_the_answer_and_empty_samples_are_in_no_band(monkeypatch, tiny_model, tiny_tokenizer, forget_rows):
    row, eos = encode_row(forget_rows[0], tiny_tokenizer), tiny_tokenizer.eos_token_id
    prompt, answer = row["input_ids"][: row["prompt_length"]], row["input_ids"][row["prompt_length"] :]
    samples = [
        Completion(ids=answer, logps=[], ended=True),
        Completion(ids=answer[:-1], logps=[], ended=False),
        # Cut off within the answer, which it repeats so far; one that ends there says less.
        Completion(ids=answer[:4], logps=[], ended=False),
        Completion(ids=[*answer[:2], eos], logps=[], ended=True),
        Completion(ids=[eos], logps=[], ended=True),
        Completion(ids=[5, 6, eos], logps=[], ended=True),
        Completion(ids=[5, 6], logps=[], ended=False),
        Completion(ids=[7, 8, 9], logps=[], ended=False),
    ]
    monkeypatch.setattr(together, "generate_together", lambda *args, **kwargs: samples)
    panel = freeze(tiny_model, tiny_tokenizer, [forget_rows[0]], num_candidates=8)
    kept = [row["input_ids"][len(prompt) :] for name in ("high", "middle", "low") for row in panel.bands[name][0]]
    assert sorted(kept) == sorted([[*answer[:2], eos], [5, 6, eos], [7, 8, 9]])
    assert list(panel.bands) == ["target", "high", "middle", "low"]
    assert panel.bands["target"] == [[row]]


@pytest.mark.parametrize(("count", "sizes"), [(3, [1, 1, 1]), (4, [1, 2, 1]), (5, [2, 1, 2]), (12, [4, 4, 4])])
def test_a_prompts_responses_are_cut_into_thirds_by_falling_likelihood(count, sizes):
    thirds = squeezing._thirds(list(range(count)), [float(i % count) for i in range(1, count + 1)])
    assert [len(thirds[name]) for name in ("high", "middle", "low")] == sizes
    # The last but one is the most likely, the last one the least.
    assert thirds["high"] + thirds["middle"] + thirds["low"] == [*reversed(range(count - 1)), count - 1]


def test_measuring_gives_the_mean_over_prompts_of_the_mean_in_a_prompt(tiny_model, tiny_tokenizer, perturbed_rows):
    model = tiny_model.double()
    panel = freeze(model, tiny_tokenizer, perturbed_rows)
    measured = panel.measure(model)
    assert list(measured) == ["target", "high", "middle", "low", "paraphrase", "wrong"]
    assert [len(rows) for rows in panel.bands["wrong"]] == [1, 2, 2]
    for name, band in panel.bands.items():
        in_prompts = [sum(mean_logp(model, row) for row in rows) / len(rows) for rows in band]
        assert measured[name] == pytest.approx(sum(in_prompts) / len(in_prompts), abs=1e-9), name


def test_the_untouched_model_has_the_values_and_the_order_that_were_frozen(tiny_model, tiny_tokenizer, perturbed_rows):
    panel = freeze(tiny_model, tiny_tokenizer, perturbed_rows)
    before = panel.measure(tiny_model)
    assert before["high"] > before["middle"] > before["low"]
    for bands in zip(*(panel.bands[name] for name in ("high", "middle", "low")), strict=True):
        logps = [mean_logp(tiny_model, row) for rows in bands for row in rows]
        assert all(a >= b - 1e-6 for a, b in pairwise(logps))
    tiny_model.train()
    assert panel.measure(copy.deepcopy(tiny_model)) == before
    assert panel.measure(tiny_model) == before
    assert tiny_model.training


def test_the_prompts_are_spread_over_the_set_and_their_samples_depend_on_their_row_alone(
    tiny_model, tiny_tokenizer, forget_rows, retain_rows
):
    rows = [*forget_rows, *retain_rows]
    encoded = [encode_row(row, tiny_tokenizer) for row in rows]
    panel = freeze(tiny_model, tiny_tokenizer, rows, num_prompts=3)
    assert panel.bands["target"] == [[encoded[1]], [encoded[3]], [encoded[4]]]
    assert len(freeze(tiny_model, tiny_tokenizer, rows, num_prompts=99).bands["target"]) == 6
    prompt = encoded[4]["input_ids"][: encoded[4]["prompt_length"]]
    samples = generate(
        tiny_model,
        [prompt] * 12,
        pad_token_id=tiny_tokenizer.pad_token_id,
        eos_token_ids=eos_token_ids(tiny_model, tiny_tokenizer, encoded),
        max_new_tokens=6,
        keys=[(0, 1, 4, j) for j in range(12)],
    )
    frozen = [row["input_ids"] for name in ("high", "middle", "low") for row in panel.bands[name][2]]
    assert {tuple(ids) for ids in frozen} <= {(*prompt, *sample.ids) for sample in samples}
    assert frozen == [
        row["input_ids"]
        for name in ("high", "middle", "low")
        for row in freeze(tiny_model, tiny_tokenizer, rows, num_prompts=3, batch_size=5).bands[name][2]
    ]


def test_raw_text_has_the_rest_of_the_text_for_its_answer(tiny_model, tiny_tokenizer, forget_rows):
    texts = Dataset.from_list([{"text": row["completion"][0]["content"]} for row in forget_rows])
    panel = freeze(tiny_model, tiny_tokenizer, texts, max_new_tokens=3)
    for (target,), text in zip(panel.bands["target"], texts, strict=True):
        row = encode_row(text, tiny_tokenizer)
        # Of the same tokens as the other bands.
        start = row["prompt_length"]
        assert target["labels"] == [-100] * start + row["input_ids"][start:]
    assert list(panel.bands) == ["target", "high", "middle", "low"]
    assert all(math.isfinite(value) for value in panel.measure(tiny_model).values())


def test_a_prompt_without_three_responses_is_in_no_band_which_is_said(
    monkeypatch, tiny_model, tiny_tokenizer, perturbed_rows, caplog
):
    few = [Completion(ids=[5, 6], logps=[], ended=False)] * 3
    enough = [Completion(ids=[i, i], logps=[], ended=False) for i in (5, 6, 7)]
    monkeypatch.setattr(together, "generate_together", lambda *args, **kwargs: few + enough + few)
    panel = freeze(tiny_model, tiny_tokenizer, perturbed_rows, num_candidates=3)
    assert {name: len(band) for name, band in panel.bands.items()} == dict.fromkeys(
        ("target", "high", "middle", "low", "paraphrase", "wrong"), 1
    )
    assert panel.bands["target"] == [[encode_row(perturbed_rows[1], tiny_tokenizer)]]
    assert len(panel.bands["wrong"][0]) == 2
    assert "The squeezing panel has 1 of 3 forget prompts" in caplog.text
    monkeypatch.setattr(together, "generate_together", lambda *args, **kwargs: few + few + few)
    with pytest.raises(ValueError, match=r"None of 3 forget prompts .* Give more prompts"):
        freeze(tiny_model, tiny_tokenizer, perturbed_rows, num_candidates=3)


@pytest.mark.parametrize("options", [{"num_candidates": 2}, {"num_prompts": 0}])
def test_too_few_to_cut_are_refused(tiny_model, tiny_tokenizer, forget_rows, options):
    with pytest.raises(ValueError, match="at least 1 prompt and 3 candidates"):
        freeze(tiny_model, tiny_tokenizer, forget_rows, **options)

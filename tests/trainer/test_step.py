# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0


from types import SimpleNamespace

import pytest
import torch
import transformers
from datasets import Dataset
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from trl_unlearn.encoding import pad_rows
from trl_unlearn.token_scores import score_batch
from trl_unlearn.trainer.bootstrap_unlearn_config import BootstrapUnlearnConfig
from trl_unlearn.trainer.logs import RowMetrics
from trl_unlearn.trainer.reference import disable_dropout
from trl_unlearn.trainer.step import (
    StepRow,
    can_share_prompts,
    collate_rows,
    cut_and_share,
    cut_rows,
    mark_repeated_rows,
    num_own_rows,
    padded_tokens,
    split_to,
)

from ..families import build


def rows_of(*lengths):
    return [
        StepRow({"input_ids": [7] * n, "labels": [-100, *[7] * (n - 1)]}, "beliefs", 1 / (i + 1), (i, 0))
        for i, n in enumerate(lengths)
    ]


def test_rows_are_cut_into_as_few_slices_of_similar_length_as_fit():
    slices = cut_rows(rows_of(3, 9, 4, 4, 3, 10), max_tokens=32)
    assert [[len(row) for row in part] for part in slices] == [[10, 9], [4, 4, 3, 3]]
    assert [padded_tokens(part) for part in slices] == [32, 32]


def test_a_row_longer_than_a_slice_passes_alone():
    assert [[len(row) for row in part] for part in cut_rows(rows_of(30, 5, 5), 16)] == [[30], [5, 5]]


def test_every_row_passes_once():
    rows = rows_of(*range(2, 40))
    assert sorted(map(id, (row for part in cut_rows(rows, 64) for row in part))) == sorted(map(id, rows))


@pytest.mark.parametrize(
    ("prompt", "answer", "hidden_size", "shares"),
    [(40, 40, 576, True), (40, 40, 16, False), (512, 512, 128, False), (512, 512, 2048, True), (4, 80, 576, False)],
)
def test_prompts_are_shared_where_that_saves_more_products_than_attention_costs(prompt, answer, hidden_size, shares):
    ids = [[group] * prompt + [7] * answer for group in range(4) for _ in range(4)]
    rows = [
        StepRow({"input_ids": one, "labels": [-100] * prompt + one[prompt:]}, "beliefs", 1.0, (i, 0))
        for i, one in enumerate(ids)
    ]
    most = 8 * (prompt + answer)
    slices, shared = cut_and_share(rows, most, 1, hidden_size)
    assert shared == shares
    assert sorted(map(id, (row for part in slices for row in part))) == sorted(map(id, rows))
    assert shares or slices == cut_rows(rows, most)


def test_a_refusal_that_is_longer_than_the_window_of_the_model_shares_no_prompt(tmp_path):
    args = BootstrapUnlearnConfig(str(tmp_path), forget_loss_type="dpo", lambda_bss=0.0, share_prompts=True)
    model = build("mistral")
    window = model.config.sliding_window
    for length, shares in ((window, True), (window + 1, False)):
        rows = Dataset.from_dict({"input_ids": [[1] * 4], "chosen_input_ids": [[1] * length]})
        assert can_share_prompts(args, model, rows, None, is_sharded=False) == shares


@pytest.mark.parametrize("count", [2, 3, 4, 7])
def test_slices_are_split_until_there_are_enough_and_no_weight_changes(count):
    slices = cut_rows(rows_of(4, 4, 4, 4), 16)
    assert len(slices) == 2
    found = split_to(slices, count)
    assert len(found) == count and all(found)
    counted = [row for part in found for row in part if row.counts]
    assert sum(row.weight for row in counted) == pytest.approx(1 + 1 / 2 + 1 / 3 + 1 / 4)
    assert all(row.weight == 0 for part in found for row in part if not row.counts)


def test_a_slice_is_padded_to_a_multiple_of_eight():
    rows = rows_of(2, 9)
    inputs = collate_rows(rows, pad_token_id=0)
    assert inputs["attention_mask"].tolist() == [[1] * 2 + [0] * 14, [1] * 9 + [0] * 7]
    assert inputs["labels"][1].tolist() == [-100] + [7] * 8 + [-100] * 7
    assert inputs["rows"] == rows


@pytest.mark.parametrize(("limit", "width"), [(None, 16), (20, 16), (12, 12), (9, 9), (4, 9)])
def test_padding_does_not_go_beyond_the_positions_of_the_model(limit, width):
    assert collate_rows(rows_of(2, 9), pad_token_id=0, limit=limit)["input_ids"].shape == (2, width)


@pytest.mark.parametrize(("remainder", "expected"), [(5, [2, 2, 1]), (1, [1, 0, 0]), (4, [2, 2, 0]), (0, [2, 2, 2])])
def test_rows_that_fill_up_the_last_batch_of_an_epoch_are_those_of_the_last_processes(remainder, expected):
    found = []
    for rank in range(3):
        # As in an epoch that is resumed in its midst.
        state = SimpleNamespace(end_of_dataloader=True, remainder=-1)
        batches = [{"row": torch.tensor([0, 1])}, {"row": torch.tensor([2, 3])}]
        mark_repeated_rows(SimpleNamespace(gradient_state=state, process_index=rank), batches, remainder)
        assert num_own_rows(batches[0]) == 2
        found.append(num_own_rows(batches[1]))
    assert found == expected


def test_means_count_each_row_once_and_know_the_kinds_that_were_not_met():
    seen = []

    def reduce(values, how):
        seen.append((values.tolist(), how))
        # Another process with two retain rows of loss 1 each.
        return values + torch.tensor([[0, 0, 0, 2, 0, 0], [0, 0, 0, 2, 2, 2]])

    metrics = RowMetrics(SimpleNamespace(device=torch.device("cpu"), reduce=reduce), ["forget", "retain"])
    for losses in ([1.0, 5.0], [3.0]):
        rows = [StepRow({}, "forget", 1.0, (0,)), StepRow({}, "forget", 0.0, (0,), counts=False)][: len(losses)]
        scores = {"loss": torch.tensor(losses), "logps": -torch.tensor(losses), "entropy": torch.ones(len(losses))}
        metrics.note(rows, scores)
    means = metrics.take()
    assert means == {
        **{"loss/forget": 2.0, "forget/logps": -2.0, "forget/entropy": 1.0},
        **{"loss/retain": 1.0, "retain/logps": 0.0, "retain/entropy": 0.0},
    }
    assert metrics.read() == means and metrics.read() == {}
    assert seen == [([[4.0, -4.0, 2.0, 0.0, 0.0, 0.0], [2.0, 2.0, 2.0, 0.0, 0.0, 0.0]], "sum")]


def test_an_entry_of_the_log_counts_each_row_once_whatever_its_micro_batch():
    accelerator = SimpleNamespace(device=torch.device("cpu"), reduce=lambda values, how: values)
    metrics = RowMetrics(accelerator, ["forget"])
    for losses in ([1.0, 2.0, 3.0], [10.0]):
        scores = {name: torch.tensor(losses) for name in ("loss", "logps", "entropy")}
        metrics.note([StepRow({}, "forget", 1.0, (i,)) for i in range(len(losses))], scores)
        metrics.take()
    again = RowMetrics(accelerator, ["forget"])
    again.load_state_dict(metrics.state_dict())
    assert metrics.read() == again.read() == dict.fromkeys(("loss/forget", "forget/logps", "forget/entropy"), 4.0)


SIZE = {"vocab_size": 400, "num_hidden_layers": 2, "num_attention_heads": 4, "pad_token_id": 0, "bos_token_id": 1}
WIDE = {**SIZE, "hidden_size": 32, "intermediate_size": 64}
# Dropout as a module, as a number of a layer, in attention, and of whole layers.
WITH_DROPOUT = {
    "llama": ("LlamaConfig", {**WIDE, "attention_dropout": 0.3}),
    "mistral": ("MistralConfig", {**WIDE, "num_key_value_heads": 2, "attention_dropout": 0.3}),
    "opt": ("OPTConfig", {**SIZE, "hidden_size": 32, "ffn_dim": 64, "word_embed_proj_dim": 32, "dropout": 0.3}),
    "opt, whole layers": ("OPTConfig", {**SIZE, "hidden_size": 32, "ffn_dim": 64, "dropout": 0.0, "layerdrop": 0.5}),
    "gpt2": ("GPT2Config", {"vocab_size": 400, "n_embd": 32, "n_layer": 2, "n_head": 4, "attn_pdrop": 0.3}),
    "gpt_neox": ("GPTNeoXConfig", {**WIDE, "hidden_dropout": 0.3, "attention_dropout": 0.3}),
    "falcon": ("FalconConfig", {**SIZE, "hidden_size": 32, "hidden_dropout": 0.3, "attention_dropout": 0.3}),
    "bloom": ("BloomConfig", {"vocab_size": 400, "hidden_size": 32, "n_layer": 2, "n_head": 4, "hidden_dropout": 0.3}),
    "phi": ("PhiConfig", {**WIDE, "resid_pdrop": 0.3, "attention_dropout": 0.3}),
}
ADAPTERS_WITH_DROPOUT = {
    "LoRA": LoraConfig(lora_dropout=0.5, target_modules=["q_proj", "v_proj"], init_lora_weights=False),
    "LoHa": LoHaConfig(rank_dropout=0.5, target_modules=["q_proj", "v_proj"], init_weights=False),
    "LoKr": LoKrConfig(module_dropout=0.5, target_modules=["q_proj", "v_proj"], init_weights=False),
}


def _noise(model):
    """How far two passes in training are apart."""
    ids = [*range(5, 40)]
    batch = pad_rows([{"input_ids": ids, "labels": ids}], 0)
    model.train()
    with torch.no_grad():
        # Whole layers are left out of some passes only.
        passes = [score_batch(model, batch).logps for _ in range(8)]
    return max((one - passes[0]).abs().max().item() for one in passes)


def _build(name, settings):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(getattr(transformers, name)(**settings))


@pytest.mark.parametrize("family", WITH_DROPOUT)
def test_without_dropout_two_passes_are_one(family, caplog):
    model = _build(*WITH_DROPOUT[family])
    config = model.config.to_dict()
    assert _noise(model) > 1e-3
    disable_dropout(model, [*range(5, 40)])
    assert _noise(model) == 0
    assert model.config.to_dict() == config
    assert "two passes" not in caplog.text


@pytest.mark.parametrize("kind", ADAPTERS_WITH_DROPOUT)
def test_the_dropout_of_an_adapter_is_turned_off_too(kind):
    model = get_peft_model(_build("LlamaConfig", WIDE), ADAPTERS_WITH_DROPOUT[kind])
    assert _noise(model) > 1e-3
    disable_dropout(model, None)
    assert _noise(model) == 0


def test_what_a_model_draws_beside_dropout_is_warned_of(caplog):
    experts = {"num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2, "router_jitter_noise": 0.9}
    model = _build("MixtralConfig", {**WIDE, **experts})
    disable_dropout(model.eval(), [*range(5, 40)])
    assert "two passes of `MixtralForCausalLM` over one row differ by" in caplog.text
    assert not any(module.training for module in model.modules())

# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

import copy
import logging
from pathlib import Path

import pytest
import torch
from accelerate.parallelism_config import ParallelismConfig
from datasets import Dataset, DatasetDict
from transformers import TrainingArguments
from trl import DPOConfig, SFTConfig

from trl_unlearn import BootstrapUnlearnConfig, BootstrapUnlearnTrainer
from trl_unlearn.encoding import encode_dataset
from trl_unlearn.trainer import options as trainer_options
from trl_unlearn.trainer import step


SETTINGS = {"max_steps": 1, "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "use_cpu": True}
SETTINGS |= {"logging_steps": 1, "bf16": False}
OURS = {"lambda_bss": 0.0, "gradient_checkpointing": False, "learning_rate": 1e-3, "warmup_steps": 0}


@pytest.fixture
def new_trainer(tmp_path, tiny_model, tiny_tokenizer, forget_rows, retain_rows):
    def new(args=None, options=(), **given):
        args = args or BootstrapUnlearnConfig(str(tmp_path), **SETTINGS | OURS | dict(options))
        sets = {"train_dataset": forget_rows, "retain_dataset": retain_rows}
        return BootstrapUnlearnTrainer(
            copy.deepcopy(tiny_model), args, processing_class=tiny_tokenizer, **sets | given
        )

    return new


@pytest.mark.parametrize("kind", [SFTConfig, TrainingArguments])
def test_plain_arguments_are_taken_with_their_values_and_a_warning(new_trainer, tmp_path, kind, caplog):
    args = kind(str(tmp_path), weight_decay=0.3, hub_token="secret", **SETTINGS | {"warmup_steps": 5})
    with caplog.at_level(logging.WARNING):
        trainer = new_trainer(args)
    assert type(args) is kind and isinstance(trainer.args, BootstrapUnlearnConfig)
    given = (args.learning_rate, 0.3, 5, 3.0, "secret")
    taken = trainer.args
    assert given == (
        *(taken.learning_rate, taken.weight_decay, taken.warmup_steps, taken.num_train_epochs, taken.hub_token),
    )
    assert (taken.lambda_bss, taken.hub_private_repo) == (0.5, True)
    (warning,) = [record.message for record in caplog.records if "what is specific to unlearning" in record.message]
    assert f"`args` is a `{kind.__name__}`" in warning
    assert f"`learning_rate` {args.learning_rate} (by default None)" in warning
    assert "secret" not in warning
    trainer.train()
    assert trainer.state.global_step == 1


def test_arguments_of_another_kind_are_refused_with_their_fields(new_trainer, tmp_path):
    class Other(SFTConfig):
        pass

    assert new_trainer(Other(str(tmp_path), **SETTINGS)).args.lambda_bss == 0.5
    with pytest.raises(TypeError, match=r"`args` is a `DPOConfig`, whose fields `.*` have no meaning here. Expected"):
        new_trainer(DPOConfig(str(tmp_path), **SETTINGS))
    with pytest.raises(TypeError, match=r"`args` is a `dict`. Expected a `BootstrapUnlearnConfig`, an `SFTConfig`"):
        new_trainer({"output_dir": "out"})


@pytest.mark.parametrize(
    "name",
    ["data_collator", "compute_loss_func", "compute_metrics", "preprocess_logits_for_metrics", "formatting_func"],
)
def test_an_argument_that_would_change_what_is_scored_is_refused_by_name(new_trainer, name):
    with pytest.raises(ValueError, match=f"`{name}` is not supported in unlearning: .*"):
        new_trainer(**{name: lambda *given: given})


def test_arguments_have_the_order_of_sft_trainer(tmp_path, tiny_model, tiny_tokenizer, forget_rows, retain_rows):
    args = BootstrapUnlearnConfig(str(tmp_path), **SETTINGS | OURS)
    trainer = BootstrapUnlearnTrainer(
        tiny_model, args, None, forget_rows, retain_rows, tiny_tokenizer, retain_dataset=retain_rows
    )
    assert [len(rows) for rows in (trainer.train_dataset, trainer.eval_dataset, trainer.retain_dataset)] == [3, 3, 3]
    with pytest.raises(
        ValueError, match=r"`data_collator` is a `Dataset`: .* order of `SFTTrainer`. Pass the sets by"
    ):
        BootstrapUnlearnTrainer(tiny_model, args, forget_rows, retain_rows)


def test_a_class_of_optimizer_is_taken(new_trainer):
    trainer = new_trainer(optimizer_cls_and_kwargs=(torch.optim.SGD, {"lr": 0.5}))
    trainer.train()
    assert isinstance(trainer.optimizer.optimizer, torch.optim.SGD)


@pytest.mark.parametrize("objective", ["ga", "dpo"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_set_to_score_is_read_as_one_whatever_its_name_is(new_trainer, retain_rows, objective, stream):
    rows = retain_rows.to_iterable_dataset() if stream else retain_rows
    text = Dataset.from_list([{"text": "Ada Marlow was born in the harbour town of Veldt."}])
    sets = {"train": rows, "forget": rows, "retain": rows, "eval": rows, "text": text}
    trainer = new_trainer(options={"forget_loss_type": objective}, eval_dataset=DatasetDict(sets))
    assert "row" in trainer.train_dataset.column_names
    for encoded in trainer.eval_dataset.values():
        assert not {"row", "chosen_input_ids"} & set(encoded.column_names)
    losses = trainer.evaluate()
    assert losses["eval_text_loss"] > 0
    assert len({losses[f"eval_{name}_loss"] for name in ("train", "forget", "retain", "eval")}) == 1
    with pytest.raises(ValueError, match=r"Row 0 of the eval \(retain\) set"):
        trainer.evaluate({"retain": Dataset.from_list([{"prompt": "Who?", "completion": ""}])})


@pytest.mark.parametrize("lambda_bss", [0.0, 0.5])
def test_passes_are_as_wide_as_a_multiple_says_and_score_the_same(new_trainer, monkeypatch, retain_rows, lambda_bss):
    losses = {}
    for multiple in (None, 24, 7):
        options = {"pad_to_multiple_of": multiple, "lambda_bss": lambda_bss, "max_completion_length": 6}
        trainer = new_trainer(options=options | {"learning_rate": 1e-12}, eval_dataset=retain_rows)
        found, pad = set(), step.pad_rows

        def padded(*given, pad=pad, found=found, **kwargs):
            batch = pad(*given, **kwargs)
            found.add(batch["input_ids"].shape[1])
            return batch

        monkeypatch.setattr(step, "pad_rows", padded)
        losses[multiple, "eval"] = trainer.evaluate()["eval_loss"]
        trainer.train()
        losses[multiple, "train"] = trainer.state.log_history[-1]["train_loss"]
        monkeypatch.undo()
        assert found and all(width % (multiple or 1) == 0 for width in found)
    for part in ("eval", "train"):
        assert losses[24, part] == pytest.approx(losses[None, part], abs=1e-5)
        assert losses[7, part] == pytest.approx(losses[None, part], abs=1e-5)


def test_a_batch_to_score_is_padded_as_far_as_the_model_can_read(tiny_tokenizer, retain_rows):
    rows = list(encode_dataset(retain_rows, tiny_tokenizer, name="retain"))
    longest = max(len(row["input_ids"]) for row in rows)
    batch = step.DataCollatorForUnlearning(0, multiple=1000, limit=longest + 3)(rows)
    assert {batch[name].shape for name in batch if name != "row"} == {(3, longest + 3)}


def test_encoded_rows_skip_nothing_and_others_are_refused(new_trainer, tiny_tokenizer, forget_rows, retain_rows):
    options = {"dataset_kwargs": {"skip_prepare_dataset": True}}
    with pytest.raises(
        ValueError, match=r"`skip_prepare_dataset` is set, but the forget set has the columns \['prompt'"
    ):
        new_trainer(options=options)
    columns = ["input_ids", "labels"]
    forget, retain = (
        encode_dataset(rows, tiny_tokenizer, name=name).select_columns(columns)
        for name, rows in (("forget", forget_rows), ("retain", retain_rows))
    )
    with pytest.raises(ValueError, match="but the eval set has the columns"):
        new_trainer(options=options, train_dataset=forget, retain_dataset=retain, eval_dataset={"one": retain_rows})
    with pytest.raises(ValueError, match="The eval set is empty"):
        new_trainer(options=options, train_dataset=forget, retain_dataset=retain, eval_dataset=retain.select([]))
    losses = []
    for sets in ({"train_dataset": forget, "retain_dataset": retain}, {}):
        trainer = new_trainer(options=options if sets else {}, **sets)
        trainer.train()
        losses.append(trainer.state.log_history[-1]["train_loss"])
    assert losses[0] == losses[1]
    with pytest.raises(ValueError, match="`dataset_kwargs` holds `add_special_tokens`, but only `skip_prepare"):
        new_trainer(options={"dataset_kwargs": {"add_special_tokens": False}})


@pytest.mark.parametrize(
    "options",
    [
        {"eval_packing": False},
        {"completion_only_loss": True},
        {"shuffle_dataset": True},
        {"router_aux_loss_coef": 0.0},
        {"packing_strategy": "wrapped"},
        {"max_length": None},
        {"dataset_kwargs": {"skip_prepare_dataset": False}},
    ],
)
def test_a_field_that_changes_nothing_is_taken(new_trainer, options):
    losses = []
    for given in ({}, options):
        trainer = new_trainer(options=given)
        trainer.train()
        losses.append(trainer.state.log_history[-1]["train_loss"])
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    "options,message",
    [
        ({"completion_only_loss": False}, "`completion_only_loss=False` is not supported .* Leave it at None"),
        ({"router_aux_loss_coef": 0.1}, "`router_aux_loss_coef=0.1` is not supported"),
        ({"label_smoothing_factor": 0.1}, "`label_smoothing_factor=0.1` is not supported"),
        ({"truncation_mode": "keep_end"}, "`truncation_mode='keep_end'` is not supported"),
        ({"shuffle_dataset": True, "train_sampling_strategy": "sequential"}, "contradict each other"),
        ({"activation_offloading": True}, "there is no accelerator. Leave it out"),
        ({"pad_to_multiple_of": 0}, "`pad_to_multiple_of` must be at least 1, got 0"),
        ({"auto_find_batch_size": True}, "`auto_find_batch_size=True` is not supported"),
        (
            {"include_num_input_tokens_seen": True},
            r"`include_num_input_tokens_seen='all'` is not .* counts forget rows",
        ),
        ({"ddp_static_graph": True}, "`ddp_static_graph=True` is not supported"),
        ({"parallelism_config": ParallelismConfig(cp_size=2)}, "`parallelism_config` shares rows or layers"),
        ({"accelerator_config": {"split_batches": True}}, "`accelerator_config.split_batches=True` is not supported"),
        ({"accelerator_config": {"dispatch_batches": True}}, "`accelerator_config.dispatch_batches=True` is not"),
        ({"accelerator_config": {"even_batches": False}}, "`accelerator_config.even_batches=False` is not supported"),
        ({"optim": "lomo"}, "`optim='lomo'` changes weights in each backward pass"),
        ({"optim": "galore_adamw_layerwise"}, "`optim='galore_adamw_layerwise'` changes weights in each backward"),
        ({"max_grad_norm": None}, "`max_grad_norm` is null, expected a `float`"),
        ({"seed": None}, "`seed` is null, expected a `int`"),
    ],
)
def test_a_field_that_would_be_ignored_or_change_what_is_scored_is_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        BootstrapUnlearnConfig(str(tmp_path), **SETTINGS | options)


def test_the_page_on_data_names_every_option_that_is_refused():
    page = (Path(__file__).parents[2] / "docs/your-data.md").read_text(encoding="utf-8")
    names = [name for name, *_ in (*trainer_options._FIXED_OPTIONS, *trainer_options._FIXED_LOADING)]
    assert [name for name in names if f"`{name}" not in page.replace("\n", " ")] == []


def test_a_run_without_a_step_is_refused(new_trainer):
    with pytest.raises(ValueError, match="`num_train_epochs` is 0 and `max_steps` is not set: no step would be made"):
        new_trainer(options={"max_steps": -1, "num_train_epochs": 0})
    assert new_trainer(options={"max_steps": 2, "num_train_epochs": 0}).args.max_steps == 2


def test_a_set_of_which_every_batch_would_be_dropped_is_refused(new_trainer):
    with pytest.raises(ValueError, match="the forget set has 3 rows, fewer than a batch of all processes"):
        new_trainer(options={"dataloader_drop_last": True, "per_device_train_batch_size": 4})


def test_completions_that_are_asked_for_have_to_be_there(new_trainer):
    text = Dataset.from_list([{"text": "Ada Marlow was born in the harbour town of Veldt."}])
    message = r"`completion_only_loss=True`, but the forget set has no completions: its columns are \['text'\]"
    with pytest.raises(ValueError, match=message):
        new_trainer(options={"completion_only_loss": True, "prompt_length": 4}, train_dataset=text)


def test_predictions_are_refused(new_trainer, retain_rows):
    with pytest.raises(ValueError, match=r"`predict` is not supported .* Score rows with `evaluate`"):
        new_trainer().predict(retain_rows)

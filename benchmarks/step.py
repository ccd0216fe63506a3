# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0


"""One step (forward and backward) on 8 forget and 8 retain rows, with LoRA."""

import tempfile
from collections.abc import Callable
from functools import cache

import torch
from loss import dense_bs_t
from peft import LoraConfig, get_peft_model
from settings import Settings
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from trl_unlearn import BootstrapUnlearnConfig, BootstrapUnlearnTrainer
from trl_unlearn.data.tofu import load_tofu


# Deleted when the process ends.
_OUTPUT = tempfile.TemporaryDirectory()
ROWS = 8
LORA = {"r": 32, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
LAMBDA_BSS = 0.5
COMMON = {
    "per_device_train_batch_size": ROWS,
    "gradient_checkpointing": False,
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
}


@cache
def _tokenizer(name: str):
    return AutoTokenizer.from_pretrained(name)


def _model(settings: Settings) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(settings.model_name_or_path, dtype=torch.float32)


def _trainer(settings: Settings, **kwargs) -> BootstrapUnlearnTrainer:
    args = BootstrapUnlearnConfig(_OUTPUT.name, max_completion_length=64, bf16=settings.bf16, **COMMON, **kwargs)
    forget = load_tofu(settings.dataset_name, settings.forget_config, split=f"train[:{ROWS}]")
    retain = load_tofu(settings.dataset_name, settings.retain_config, split=f"train[:{ROWS}]")
    trainer = BootstrapUnlearnTrainer(
        _model(settings),
        args,
        train_dataset=forget,
        retain_dataset=retain,
        processing_class=_tokenizer(settings.model_name_or_path),
        peft_config=LoraConfig(**LORA),
    )
    trainer.state.epoch = 0.0
    trainer.model.train()
    return trainer


def _forget_inputs(trainer: BootstrapUnlearnTrainer) -> dict[str, torch.Tensor]:
    inputs = trainer.data_collator([trainer.train_dataset[i] for i in range(ROWS)])
    return {name: value.to(trainer.args.device) for name, value in inputs.items()}


def _give_beliefs(trainer: BootstrapUnlearnTrainer) -> None:
    """Other rows' answers as beliefs: of a real length, and without a sampling pass in the measured memory."""
    store, count = trainer.belief_store, trainer.args.num_beliefs
    answers = [[label for label in row["labels"] if label != -100] for row in trainer.train_dataset]
    store.refresh = 0
    store._beliefs = [[answers[(i + j) % ROWS] for j in range(1, count + 1)] for i in range(ROWS)]


def ours(settings: Settings, **kwargs) -> Callable[[], None]:
    trainer = _trainer(settings, **kwargs)
    inputs = _forget_inputs(trainer)
    if trainer.belief_store is not None:
        _give_beliefs(trainer)

    def run() -> None:
        trainer.model.zero_grad()
        trainer.training_step(trainer.model, inputs, torch.tensor(ROWS))

    return run


def sft(settings: Settings) -> Callable[[], None]:
    """TRL's `SFTTrainer` on the same 16 rows."""
    rows = [
        row
        for config in (settings.forget_config, settings.retain_config)
        for row in load_tofu(settings.dataset_name, config, split=f"train[:{ROWS}]").select_columns(
            ["prompt", "completion"]
        )
    ]
    from datasets import Dataset

    args = SFTConfig(_OUTPUT.name, use_cpu=settings.device.type == "cpu", bf16=settings.bf16, **COMMON)
    trainer = SFTTrainer(
        _model(settings),
        args,
        train_dataset=Dataset.from_list(rows),
        processing_class=_tokenizer(settings.model_name_or_path),
        peft_config=LoraConfig(**LORA),
    )
    trainer.model.train()
    inputs = trainer.data_collator([trainer.train_dataset[i] for i in range(2 * ROWS)])
    count = (inputs["labels"] != -100).sum()

    def run() -> None:
        trainer.model.zero_grad()
        # `train` puts the model under autocast, a step alone does not.
        with trainer.accelerator.autocast():
            trainer.training_step(trainer.model, dict(inputs), count)

    return run


def _batches(settings: Settings, num_beliefs: int = 0) -> tuple[list[dict[str, torch.Tensor]], torch.nn.Module]:
    """Forget, retain and belief rows as padded batches, and a separate model without the trainer's patches."""
    kwargs = {"lambda_bss": LAMBDA_BSS, "num_beliefs": num_beliefs} if num_beliefs else {"lambda_bss": 0.0}
    trainer = _trainer(settings, forget_loss_type="ga", **kwargs)
    if num_beliefs:
        _give_beliefs(trainer)
    rows = trainer._step_rows(_forget_inputs(trainer), None)
    batches = []
    for kind in ("forget", "retain", "beliefs") if num_beliefs else ("forget", "retain"):
        encoded = [row.encoded for row in rows if row.kind == kind]
        padded = trainer.data_collator(encoded)
        batches.append({name: value.to(settings.device) for name, value in padded.items()})
    model = get_peft_model(_model(settings), LoraConfig(**LORA)).to(settings.device).train()
    return batches, model


def plain(settings: Settings) -> Callable[[], None]:
    """`model(**batch).loss` of the same 16 rows in one batch."""
    trainer = _trainer(settings, forget_loss_type="ga", lambda_bss=0.0)
    encoded = [row.encoded for row in trainer._step_rows(_forget_inputs(trainer), None)]
    batch = {name: value.to(settings.device) for name, value in trainer.data_collator(encoded).items()}
    model = get_peft_model(_model(settings), LoraConfig(**LORA)).to(settings.device).train()

    def run() -> None:
        model.zero_grad()
        with torch.autocast(settings.device.type, torch.bfloat16, enabled=settings.bf16):
            loss = model(**batch).loss
        loss.backward()

    return run


def dense(settings: Settings, num_beliefs: int) -> Callable[[], None]:
    """BS-T and BS-S as public code does it: dense logits and targets, one backward for all rows."""
    batches, model = _batches(settings, num_beliefs)

    def bs_t(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        labels, mask = batch["labels"][:, 1:].clamp(min=0), batch["labels"][:, 1:] != -100
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        return dense_bs_t(model(**inputs).logits[:, :-1], labels, mask)

    def run() -> None:
        model.zero_grad()
        with torch.autocast(settings.device.type, torch.bfloat16, enabled=settings.bf16):
            loss = bs_t(batches[0])
            if num_beliefs:
                loss = (1 - LAMBDA_BSS) * loss + LAMBDA_BSS * bs_t(batches[2])
            loss = loss + model(**batches[1]).loss
        loss.backward()

    return run


CASES = {
    "step/plain": plain,
    "step/SFTTrainer": sft,
    "step/GradDiff": lambda settings: ours(settings, forget_loss_type="ga", lambda_bss=0.0),
    "step/BS-T": lambda settings: ours(settings, forget_loss_type="bs_t", lambda_bss=0.0),
    "step/ignorance": lambda settings: ours(settings, forget_loss_type="ignorance", lambda_bss=0.0),
    "step/BS-T, dense": lambda settings: dense(settings, 0),
    "step/BS-S, N = 3": lambda settings: ours(settings, num_beliefs=3),
    "step/BS-S, N = 3, prompts not shared": lambda settings: ours(settings, num_beliefs=3, share_prompts=False),
    "step/BS-S, N = 3, dense": lambda settings: dense(settings, 3),
}
# Measured for their memory only.
MEMORY_CASES = {
    "step/BS-S, N = 1": lambda settings: ours(settings, num_beliefs=1),
    "step/BS-S, N = 16": lambda settings: ours(settings, num_beliefs=16),
}
# Its twin is made and answers in the first step, which is a warm-up for time and would be all of the memory.
TIME_ONLY = ("step/ignorance",)
COMPARED = {
    "step/GradDiff": ["step/plain", "step/SFTTrainer"],
    "step/BS-T": ["step/GradDiff", "step/BS-T, dense"],
    "step/ignorance": ["step/GradDiff"],
    "step/BS-S, N = 3": ["step/GradDiff", "step/BS-S, N = 3, prompts not shared", "step/BS-S, N = 3, dense"],
    "step/BS-S, N = 16": ["step/BS-S, N = 1"],
}

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

"""Unlearning as a TRL trainer."""

import contextlib
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from trl import SFTTrainer

from .._trl import disable_dropout_in_model, unwrap_model_for_generation
from ..beliefs import BeliefSampling, BeliefStore
from ..encoding import ENCODED_COLUMNS, encode_dataset
from ..generation import eos_token_ids, key_seed
from ..hub.card import render_card
from ..objectives import forget, retain
from ..records import UnlearningRun
from ..token_scores import TokenScores, batch_logits, pad_rows, token_kl, token_scores
from .bootstrap_unlearn_config import BootstrapUnlearnConfig
from .checks import refuse_input, warn_of_overlap
from .collator import DataCollatorForUnlearning
from .reference import add_reference_adapter, frozen_copy, reference_model, without_reference_adapter
from .run_record import RunClock, build_run_record


# Learning rates where `learning_rate` is not set: an adapter wants one 10 to 50 times higher.
_LEARNING_RATE, _ADAPTER_LEARNING_RATE = 1e-5, 2e-4

FORGET_OBJECTIVES: dict[str, Callable[[TokenScores, Tensor | None, BootstrapUnlearnConfig], Tensor]] = {
    "ga": lambda scores, reference, args: forget.ga(scores.logps, scores.mask, args.token_reduction),
    "npo": lambda scores, reference, args: forget.npo(scores.logps, reference, scores.mask, args.beta),
    "bs_t": lambda scores, reference, args: forget.bs_t(
        scores.logps, scores.beliefs, scores.mask, args.lambda_bst, args.token_reduction
    ),
}
_NEEDS_REFERENCE = frozenset({"npo"})


@functools.lru_cache(maxsize=2)
def _retain_order(seed: int, epoch: int, turn: int, num_retain: int) -> list[int]:
    generator = torch.Generator().manual_seed(key_seed((seed, epoch, turn)))
    return torch.randperm(num_retain, generator=generator).tolist()


def _retain_index(seed: int, epoch: int, row: int, num_retain: int) -> int:
    """Retain row of a forget row in an epoch: passes over the retain set in an order that only the key decides."""
    turn, place = divmod(row, num_retain)
    return _retain_order(seed, epoch, turn, num_retain)[place]


class BootstrapUnlearnTrainer(SFTTrainer):
    """
    Trainer that makes a causal language model forget a set of rows while it keeps another one.

    It pushes down the answers *and* the model's own beliefs: BS-T on tokens, BS-S on whole sequences.

    Example:

    ```python
    from datasets import load_dataset
    from peft import LoraConfig
    from trl_unlearn import BootstrapUnlearnConfig, BootstrapUnlearnTrainer

    trainer = BootstrapUnlearnTrainer(
        model="org/model",
        args=BootstrapUnlearnConfig(output_dir="unlearned"),
        train_dataset=load_dataset("json", data_files="forget.jsonl", split="train"),
        retain_dataset=load_dataset("json", data_files="retain.jsonl", split="train"),
        peft_config=LoraConfig(r=32, target_modules="all-linear"),
    )
    trainer.train()
    trainer.save_model()
    ```

    Args:
        model (`str`, [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            Model that knows what is to go. With a `PeftModel`, its adapter is trained further, and a frozen copy of it
            is the reference where one is needed.
        args ([`BootstrapUnlearnConfig`], *optional*):
            Configuration.
        train_dataset ([`~datasets.Dataset`]):
            The forget set, in any of the forms of [`~trl_unlearn.encoding.encode_row`].
        retain_dataset ([`~datasets.Dataset`], *optional*):
            The retain set, in any of these forms. One row is drawn for each forget row, anew in each epoch. Needed
            unless `retain_loss_type="none"` or `retain_weight=0`.
        eval_dataset ([`~datasets.Dataset`] or `dict[str, Dataset]`, *optional*):
            Rows to score during training, as retain rows are (negative log-likelihood).
        processing_class ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            Tokenizer. Loaded with the model's name if not given.
        callbacks (`list` of [`~transformers.TrainerCallback`], *optional*):
            Callbacks.
        optimizers (`tuple`, *optional*, defaults to `(None, None)`):
            Optimizer and scheduler, as in [`~transformers.Trainer`].
        quantization_config ([`~transformers.BitsAndBytesConfig`], *optional*):
            Quantisation of a model that is loaded by name.
        peft_config ([`~peft.PeftConfig`], *optional*):
            New adapter to train. Without it the whole model is trained.

    Attributes:
        dataset_sources (`dict[str, dict[str, Any]]`):
            Where the sets came from, for the record and the card: `"forget"` and `"retain"` -> `name`, `config`,
            `split`, `on_hub`.

    Raises:
        `ValueError`: Before any training, if the data, the model and the config do not fit together.
    """

    _tag_names = ["trl", "trl-unlearn", "unlearning"]  # noqa: RUF012
    _name = "BS"
    # Each micro-batch is divided by the number of rows of its whole batch, so accumulating changes no gradient.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: "str | PreTrainedModel | nn.Module",
        args: BootstrapUnlearnConfig | None = None,
        train_dataset: Dataset | None = None,
        retain_dataset: Dataset | None = None,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LambdaLR | None] = (None, None),
        quantization_config: Any = None,
        peft_config: Any = None,
    ):
        args = args or BootstrapUnlearnConfig("unlearned")
        refuse_input(model, args, train_dataset, retain_dataset)
        if args.learning_rate is None:
            adapts = peft_config is not None or isinstance(model, PeftModel)
            args.learning_rate = _ADAPTER_LEARNING_RATE if adapts else _LEARNING_RATE
        needs_reference = args.forget_loss_type in _NEEDS_REFERENCE or (
            args.uses_retain and args.retain_loss_type == "kl"
        )
        self._continues_adapter = isinstance(model, PeftModel)
        if needs_reference and self._continues_adapter:
            add_reference_adapter(model)
        self.dataset_sources: dict[str, dict[str, Any]] = {}
        self._clock = RunClock()

        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
            quantization_config=quantization_config,
            peft_config=peft_config,
        )
        vocab_size = self.model.config.get_text_config().vocab_size
        if args.forget_loss_type == "bs_t" and args.belief_top_k > vocab_size:
            raise ValueError(
                f"`belief_top_k` is {args.belief_top_k}, but the model's vocabulary has {vocab_size} tokens. Lower it."
            )
        if args.disable_dropout:
            disable_dropout_in_model(self.model)
        self.data_collator = DataCollatorForUnlearning(pad_token_id=self._tokenizer.pad_token_id)
        self.retain_dataset = None
        if args.uses_retain:
            self.retain_dataset = self._prepare_dataset(
                retain_dataset, self.processing_class, args, False, None, "retain"
            )
            warn_of_overlap(self.train_dataset, self.retain_dataset)
        self.ref_model = None
        if needs_reference and not isinstance(self.model, PeftModel):
            self.ref_model = self.accelerator.prepare_model(frozen_copy(self.model), evaluation_mode=True)
        self.belief_store = self._new_belief_store() if args.lambda_bss > 0 else None

    # Input

    def _prepare_dataset(self, dataset, processing_class, args, packing, formatting_func, dataset_name):
        if not isinstance(processing_class, PreTrainedTokenizerBase):
            raise ValueError(
                f"`processing_class` is a `{type(processing_class).__name__}`, but only text models can be unlearned. "
                "Pass a tokenizer."
            )
        name = "forget" if dataset_name == "train" else dataset_name
        encoded = encode_dataset(
            dataset,
            processing_class,
            name=name,
            max_length=args.max_length,
            prompt_length=args.prompt_length,
            text_field=args.dataset_text_field,
            num_proc=args.dataset_num_proc,
        )
        return encoded.add_column("row", list(range(len(encoded)))) if name == "forget" else encoded

    def _set_signature_columns_if_needed(self):
        self._signature_columns = [*ENCODED_COLUMNS, "row"]

    def _reference(self) -> contextlib.AbstractContextManager[nn.Module]:
        return reference_model(self.accelerator.unwrap_model(self.model), self.ref_model)

    # Beliefs

    def _new_belief_store(self) -> BeliefStore:
        args = self.args
        return BeliefStore(
            list(self.train_dataset),
            BeliefSampling(
                num_beliefs=args.num_beliefs,
                num_candidates=args.num_belief_candidates,
                max_completion_length=args.max_completion_length,
                temperature=args.temperature,
                top_p=args.top_p,
                top_k=args.top_k,
                generation_kwargs=args.generation_kwargs,
                batch_size=args.belief_batch_size,
                seed=args.seed,
            ),
            pad_token_id=self._tokenizer.pad_token_id,
            eos_token_ids=eos_token_ids(self.model, self._tokenizer),
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
        )

    def _refresh_beliefs_if_due(self, model: nn.Module) -> None:
        every = self.args.belief_refresh_epochs
        # Epochs are sums of fractions: what is due at 2.0 must not wait at 1.9999999.
        due = int(self.state.epoch / every + 1e-6) if every > 0 else 0
        if self.belief_store.refresh == due:
            return
        show = self.accelerator.is_main_process and not self.args.disable_tqdm
        kwargs = self.args.gradient_checkpointing_kwargs
        with (
            unwrap_model_for_generation(model, self.accelerator, gradient_checkpointing_kwargs=kwargs) as unwrapped,
            self.accelerator.autocast(),
        ):
            audit = self.belief_store.sample(
                unwrapped,
                due,
                self.state.epoch,
                desc=f"Sampling beliefs (epoch {self.state.epoch:g})" if show else None,
            )
        for name, key in (
            ("coverage", "coverage"),
            ("length", "mean_length"),
            ("target_share", "target_share"),
            ("seconds", "seconds"),
        ):
            self._metrics["train"][f"beliefs/{name}"].append(audit[key])

    # Loss

    def compute_forget_loss(self, scores: TokenScores, reference_logps: Tensor | None) -> Tensor:
        """
        The forget objective: override it for one of your own. BS-S applies it to the beliefs as well.

        Args:
            scores ([`~trl_unlearn.token_scores.TokenScores`]):
                Per-token scores; `beliefs` is there with `forget_loss_type="bs_t"`.
            reference_logps (`torch.Tensor`, *optional*):
                log pi_y under the original model, of the shape of `scores.logps`; there with
                `forget_loss_type="npo"`.

        Returns:
            `torch.Tensor`: Loss of each row, of shape `(num_rows,)`, to be minimised.
        """
        return FORGET_OBJECTIVES[self.args.forget_loss_type](scores, reference_logps, self.args)

    def _forget_rows(self, model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Forget loss and mean log-prob of each row."""
        args, reference_logps = self.args, None
        if args.forget_loss_type in _NEEDS_REFERENCE:
            with self._reference() as reference:
                reference_logps = token_scores(batch_logits(reference, batch)).logps
        scores = token_scores(
            batch_logits(model, batch),
            belief_top_k=args.belief_top_k if args.forget_loss_type == "bs_t" else None,
            belief_temperature=args.belief_temperature,
            belief_exclude_target=args.belief_exclude_target,
        )
        losses = self.compute_forget_loss(scores, reference_logps)
        return losses, forget.reduce_tokens(scores.logps.detach(), scores.mask)

    def _retain_rows(self, model: nn.Module, batch: Mapping[str, Tensor], loss_type: str) -> tuple[Tensor, Tensor]:
        """Retain loss and mean log-prob of each row."""
        reference_logits = None
        if loss_type == "kl":
            with self._reference() as reference:
                reference_logits = batch_logits(reference, batch)
        logits = batch_logits(model, batch)
        scores = token_scores(logits)
        if loss_type == "kl":
            losses = retain.kl(token_kl(reference_logits, logits), scores.mask, self.args.token_reduction)
        else:
            losses = retain.nll(scores.logps, scores.mask, self.args.token_reduction)
        return losses, forget.reduce_tokens(scores.logps.detach(), scores.mask)

    def _batch(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        return {k: v.to(self.args.device) for k, v in pad_rows(rows, self.data_collator.pad_token_id).items()}

    def _retain_batch(self, rows: list[int]) -> dict[str, Tensor]:
        epoch, count = int(self.state.epoch + 1e-6), len(self.retain_dataset)
        return self._batch([self.retain_dataset[_retain_index(self.args.seed, epoch, row, count)] for row in rows])

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if return_outputs:
            raise ValueError("`compute_metrics` is not supported: evaluate with `recipes/evaluate.py`, or a callback.")
        if not self.model.training:
            return self._retain_rows(model, inputs, "nll")[0].mean()
        args, rows = self.args, inputs["row"].tolist()
        losses, logps = self._forget_rows(model, inputs)
        metrics = {"loss/forget": losses.detach().mean(), "forget/logps": logps.mean()}
        if self.belief_store is not None:
            batch = self._batch(self.belief_store.rows(rows))
            belief_losses, belief_logps = self._forget_rows(model, batch)
            losses = forget.bs_s(losses, belief_losses.view(len(rows), -1), args.lambda_bss)
            metrics |= {"loss/beliefs": belief_losses.detach().mean(), "beliefs/logps": belief_logps.mean()}
        losses = args.forget_weight * losses
        if args.uses_retain:
            retain_losses, retain_logps = self._retain_rows(model, self._retain_batch(rows), args.retain_loss_type)
            losses = losses + args.retain_weight * retain_losses
            metrics |= {"loss/retain": retain_losses.detach().mean(), "retain/logps": retain_logps.mean()}
        self._log_means(metrics)
        if num_items_in_batch is None:
            return losses.mean()
        # `num_items_in_batch` counts the rows of every process, and DDP averages the gradients over processes.
        processes = self.accelerator.num_processes if args.average_tokens_across_devices else 1
        return losses.sum() * processes / num_items_in_batch

    def _log_means(self, metrics: dict[str, Tensor]) -> None:
        values = self.accelerator.reduce(torch.stack(list(metrics.values())), "mean")
        for name, value in zip(metrics, values.tolist(), strict=True):
            self._metrics["train"][name].append(value)

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Tensor:
        count = torch.tensor(sum(len(batch["row"]) for batch in batch_samples), device=device)
        if self.args.average_tokens_across_devices and self.args.world_size > 1:
            count = self.accelerator.gather(count).sum()
        return count

    def training_step(self, model, inputs, num_items_in_batch=None):
        if self.belief_store is not None:
            self._refresh_beliefs_if_due(model)
        return super().training_step(model, inputs, num_items_in_batch)

    # Output

    def run_record(self) -> UnlearningRun:
        """
        What this run is, without any text of the data.

        Returns:
            [`~trl_unlearn.records.UnlearningRun`]: The record that `run.json` and the card are made from.
        """
        return build_run_record(self, self._clock)

    def create_model_card(self, model_name=None, dataset_name=None, tags=None) -> None:
        """
        Write the card of the run, `README.md`, to the output folder. It says that results are missing.

        Args:
            model_name, dataset_name, tags:
                Not used: the card is a function of the run's record.
        """
        if self.is_world_process_zero():
            Path(self.args.output_dir, "README.md").write_text(render_card(self.run_record(), None), encoding="utf-8")

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """
        Save the adapter (or the model), the tokenizer, `run.json` and the card, but no frozen reference adapter.

        Args:
            output_dir (`str`, *optional*):
                Folder; the config's `output_dir` if not given.
        """
        super().save_model(output_dir, _internal_call)
        if not _internal_call and self.is_world_process_zero():
            folder, record = Path(output_dir or self.args.output_dir), self.run_record()
            record.save(folder / "run.json")
            # After PEFT, which writes a card of its own.
            (folder / "README.md").write_text(render_card(record, None), encoding="utf-8")

    def _save(self, output_dir=None, state_dict=None):
        with without_reference_adapter(self.accelerator.unwrap_model(self.model)):
            super()._save(output_dir, state_dict)

# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""
Unlearning as a TRL trainer.

`__init__`: refusals of arguments and sets -> `SFTTrainer`, which loads the model, adds the adapter and encodes the
forget set and the sets to score (`_prepare_dataset`) -> refusals of the model -> `_prepare_sets`: the retain set ->
`_prepare_model`: reference, inner layer, twin -> `_begin_run`: what belongs to one call of `train`.

`train` (checkpointing.py): `_begin_run` again from the second call on -> `_load_state` of a checkpoint -> for each
micro-batch `training_step`: guard, twin, beliefs, weights, then `compute_loss` and backward for each of its passes ->
`_get_grad_norm`, `log` and `_save_checkpoint` where they are due -> `_finalize_training`.
"""

import contextlib
import copy
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import DistributedType
from datasets import Dataset, IterableDataset
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, TrainingArguments
from transformers.trainer_utils import TrainOutput

from ..beliefs import BeliefStore
from ..encoding import ENCODED_COLUMNS, padded_width
from ..generation import eos_token_ids, position_limit, whole_model
from ..hub.folder import RunFolder
from ..objectives import retain
from ..records import ChainLink
from ..token_scores import score_batch
from .bootstrap_unlearn_config import BootstrapUnlearnConfig
from .checks import (
    keep_4_bit_gradients,
    mend_generation_config,
    refuse_dropped_rows,
    refuse_input,
    refuse_model,
    refuse_rows,
    refuse_sharding,
    warn_of_lost_steps,
    warn_of_overlap,
    warn_of_short_texts,
)
from .forget_objectives import FORGET_OBJECTIVES, ForgetScores, inner_layer
from .guard import FOLLOWED_ROWS, DivergenceError, DivergenceGuard
from .ignorance import BaseTwin, new_twin
from .inputs import encoded_set, refuse_arguments, take_prepared, unlearn_config, usable_retain_rows, with_refusals
from .logs import RowMetrics, StepMeter, print_beliefs, show_progress
from .publishing import PublishingTrainer
from .reference import disable_dropout, keep_reference, reference_model
from .run_record import tokens_digest
from .step import (
    DataCollatorForUnlearning,
    PassScorer,
    StepRow,
    can_share_prompts,
    mark_repeated_rows,
    num_own_rows,
    own_rows,
    passes,
    retain_loss,
    row_values,
    step_rows,
    without_synchronisation,
)
from .weights import MONITOR_CANDIDATES, DriftMonitor, TermWeights, frozen_beliefs, spread_rows


class BootstrapUnlearnTrainer(PublishingTrainer):
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
            Model that knows the forget set. With a `PeftModel`, its adapter is trained further, and the adapter as it
            was is the reference where one is needed.
        args ([`BootstrapUnlearnConfig`], [`~trl.SFTConfig`] or [`~transformers.TrainingArguments`], *optional*):
            Configuration. `trainer.args` is a copy in which open values have their defaults. The values of the last
            two are taken as they are, with a warning that names them.
        data_collator, compute_loss_func, compute_metrics, preprocess_logits_for_metrics, formatting_func:
            Arguments of [`~trl.SFTTrainer`], in its order. They are refused, with what to do instead.
        train_dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            The forget set, in any of the forms of [`~trl_unlearn.encoding.encode_row`]. A stream is read to its end,
            and written to disk in `output_dir`; it has to begin anew each time it is iterated.
        eval_dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`] or a `dict` of these, *optional*):
            Rows to score during training, as retain rows are (negative log-likelihood). A stream is read to its end.
        processing_class ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            Tokenizer. Loaded with the model's name if not given.
        callbacks, optimizers, optimizer_cls_and_kwargs, quantization_config:
            As in [`~trl.SFTTrainer`].
        peft_config ([`~peft.PeftConfig`], *optional*):
            New adapter to train. Without it the whole model is trained.
        retain_dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`], *optional*):
            The retain set, in any of these forms. One row is drawn for each forget row, anew in each epoch. A stream
            is read as far as the run can use it. Needed unless `retain_loss_type="none"` or `retain_weight=0`.

    Attributes:
        dataset_sources (`dict[str, dict[str, Any]]`):
            Where the sets came from, for the record and the card: `"forget"` and `"retain"` -> `name`, `config`,
            `split`, `on_hub`.
        earlier_requests (`list[ChainLink]`):
            Requests that the model has forgotten before, for the record and the card.
        stop_reason (`str` or `None`):
            Why training ended before its last step, in a sentence. A callback that stops it sets this.
        shortfall (`str` or `None`):
            How much of a goal is missing after the last step, or why training diverged, in a sentence. A callback
            that has a goal sets this.
        missed (`str` or `None`):
            The same in a word, one of `trl_unlearn.records.MISSED`.
        goals (`dict[str, float]`):
            Metric of `curve/...` -> value to come down to, shown beside it. A callback that has goals sets this.

    Raises:
        `ValueError`: Before any training, if the data, the model and the config do not fit together.
        [`~trl_unlearn.trainer.guard.DivergenceError`]: From `train`, if a loss or gradient is not finite, or the
            retain rows have become less likely than a uniform guess (unless `stop_on_divergence=False`).
        [`~trl_unlearn.trainer.checkpointing.CheckpointError`]: From `train`, if a checkpoint cannot be written.
    """

    _tag_names = ["trl", "trl-unlearn", "unlearning"]  # noqa: RUF012
    _name = "BS"
    # Each micro-batch is divided by the number of rows of its whole batch, so accumulating changes no gradient.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: "str | PreTrainedModel | nn.Module",
        args: BootstrapUnlearnConfig | TrainingArguments | None = None,
        data_collator: None = None,
        train_dataset: Dataset | IterableDataset | None = None,
        eval_dataset: Dataset | IterableDataset | dict[str, Dataset | IterableDataset] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        compute_loss_func: None = None,
        compute_metrics: None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LambdaLR | None] = (None, None),
        optimizer_cls_and_kwargs: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None = None,
        preprocess_logits_for_metrics: None = None,
        quantization_config: Any = None,
        peft_config: Any = None,
        formatting_func: None = None,
        retain_dataset: Dataset | IterableDataset | None = None,
    ):
        refuse_arguments(
            data_collator=data_collator,
            compute_loss_func=compute_loss_func,
            compute_metrics=compute_metrics,
            preprocess_logits_for_metrics=preprocess_logits_for_metrics,
            formatting_func=formatting_func,
        )
        self._continues_adapter = isinstance(model, PeftModel)
        # From here on a copy: `Trainer` and its parents write into their arguments.
        args = unlearn_config(args).realised(trains_adapter=self._continues_adapter or peft_config is not None)
        refuse_input(model, args, train_dataset, retain_dataset, peft_config)
        take_prepared(args, forget=train_dataset, retain=retain_dataset, eval=eval_dataset)
        self._objective = FORGET_OBJECTIVES[args.forget_loss_type]
        self.dataset_sources: dict[str, dict[str, Any]] = {}
        self.earlier_requests: list[ChainLink] = []

        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
            optimizer_cls_and_kwargs=optimizer_cls_and_kwargs,
            quantization_config=quantization_config,
            # A copy: PEFT replaces "all-linear" in its config by the layers of this model.
            peft_config=copy.deepcopy(peft_config),
        )
        refuse_sharding(self.accelerator)
        refuse_model(self.model, args)
        warn_of_lost_steps(self.model, self.args.learning_rate)
        keep_4_bit_gradients(self.model)
        mend_generation_config(self.model)
        text_config = self.model.config.get_text_config()
        if getattr(text_config, "output_router_logits", False):
            # `SFTTrainer` turns it on for a loss that is no term here. Saved so, `generate` fails on padded rows.
            text_config.output_router_logits = self.aux_loss_enabled = False
        self._prepare_sets(retain_dataset)
        self._prepare_model()
        self._last_means: dict[str, float] = {}
        show_progress(self, self._last_means)
        self._begin_run()

    def _prepare_sets(self, retain_dataset: Dataset | IterableDataset | None) -> None:
        """Encode the retain set, and refuse or warn of rows; the parent has prepared the other sets."""
        args, self.retain_dataset = self.args, None
        self._padding = {
            "pad_token_id": self._tokenizer.pad_token_id,
            "multiple": args.pad_to_multiple_of or 1,
            "limit": position_limit(self.model),
        }
        self.data_collator = DataCollatorForUnlearning(**self._padding)
        if args.uses_retain:
            most = usable_retain_rows(args, len(self.train_dataset))
            options = {"name": "retain", "owner": self, "most": most}
            _, self.retain_dataset = encoded_set(retain_dataset, self._tokenizer, args, **options)
            warn_of_overlap(self.train_dataset, self.retain_dataset)
        refuse_dropped_rows(args, len(self.train_dataset))
        sets = {"forget": self.train_dataset, "retain": self.retain_dataset, "eval": self.eval_dataset}
        refuse_rows(self.model, self._padding["pad_token_id"], **sets)
        if args.lambda_bss > 0:
            warn_of_short_texts(self.train_dataset, args.prompt_length)

    def _prepare_model(self) -> None:
        """Keep the reference, find the inner layer and what trains around it, and turn dropout off."""
        args, self.ref_model = self.args, None
        for config in self.model.peft_config.values() if isinstance(self.model, PeftModel) else ():
            # Saved with the adapter, they say where the base is loaded from: a folder in whatever working directory,
            # and of an id the revision that was trained on, when `main` is another one.
            if (base := config.base_model_name_or_path) and Path(base).is_dir():
                config.base_model_name_or_path = str(Path(base).absolute())
            elif base and config.revision is None:
                config.revision = getattr(self.model.get_base_model().config, "_commit_hash", None)
        self._is_sharded = self.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
        if self._objective.needs_reference or args.compares_retain:
            self.ref_model = keep_reference(self.model, self.accelerator, has_adapter=self._continues_adapter)
        self._layer = inner_layer(self.model, self._objective, args)
        sets = self.train_dataset, self.retain_dataset
        marks = self._is_sharded, self._continues_adapter
        self._twin = new_twin(self._objective, args, self.model, *sets, self._tokenizer, *marks)
        if args.disable_dropout:
            disable_dropout(self.model, None if self._is_sharded else self.train_dataset[0]["input_ids"])
        self._shares_prompts = can_share_prompts(args, self.model, *sets, self._is_sharded)

    @property
    def teacher(self) -> PreTrainedModel | None:
        """The model that never knew, or the copy that lost the forget set, which teaches `"ignorance"`."""
        return self._twin.model if isinstance(self._twin, BaseTwin) else None

    # Runs and their checkpoints

    def _begin_run(self) -> None:
        super()._begin_run()
        args, config = self.args, self.model.config.get_text_config()
        self.stop_reason = self.shortfall = self.missed = None
        self.goals: dict[str, float] = {}
        self._last_means.clear()
        self._meter = StepMeter(self.accelerator, config)
        self._scorer = PassScorer(args, self._objective, self._reference, self._is_sharded, self._layer, self._twin)
        rows = self.train_dataset.select_columns(list(ENCODED_COLUMNS))
        self.belief_store = self._new_belief_store(rows) if args.lambda_bss > 0 else None
        kinds = ["forget", *["beliefs"] * (self.belief_store is not None), *["retain"] * args.uses_retain]
        self._row_metrics = RowMetrics(self.accelerator, kinds, has_twin=self._twin is not None)
        self._weights, self._monitor = TermWeights(args), None
        self._guard = DivergenceGuard(
            self.model,
            config.vocab_size,
            retain=spread_rows(self.retain_dataset, FOLLOWED_ROWS) if args.uses_retain else (),
            pad_token_id=self._tokenizer.pad_token_id,
            keeps_copy=not self.is_deepspeed_enabled,
            stops=args.stop_on_divergence,
        )

    def _parts(self) -> dict[str, Any]:
        """The parts of the run whose state a checkpoint holds."""
        parts = {"beliefs": self.belief_store, "weights": self._weights, "monitor": self._monitor}
        parts |= {"guard": self._guard, "clock": self._clock, "twin": self._twin}
        return {name: part for name, part in parts.items() if part is not None}

    def _shared_state(self) -> dict[str, dict[str, Any]]:
        return {"sets": self._set_digests} | {name: part.state_dict() for name, part in self._parts().items()}

    @cached_property
    def _set_digests(self) -> dict[str, str]:
        # Once: a digest reads all rows, and every checkpoint has it.
        sets = {"forget": self.train_dataset, "retain": self.retain_dataset}
        return {role: tokens_digest(rows) for role, rows in sets.items() if rows is not None}

    def _own_state(self) -> dict[str, dict[str, Any]]:
        return {"scorer": self._scorer.state_dict(), "rows": self._row_metrics.state_dict()}

    def _load_state(self, shared: dict[str, dict[str, Any]], own: dict[str, dict[str, Any]]) -> None:
        if self.belief_store is not None and "beliefs" not in shared:
            raise ValueError(
                f"`lambda_bss` is {self.args.lambda_bss:g}, but the run that was interrupted had none. Set it to 0, "
                "or train from the start."
            )
        if self._twin is not None and "twin" not in shared:
            raise ValueError(
                f"`forget_loss_type` is {self.args.forget_loss_type!r}, but the run that was interrupted had no "
                "ignorant twin. Set the objective that it had, or train from the start."
            )
        self._monitor = self._new_monitor() if "monitor" in shared else None
        for name, part in self._parts().items():
            part.load_state_dict(shared[name])
        for role, digest in self._set_digests.items():
            if shared["sets"].get(role, digest) != digest:
                raise ValueError(
                    f"The {role} set is another one than that of the run that was interrupted. Give the rows that it "
                    "was started with, or train from the start."
                )
        self._scorer.load_state_dict(own["scorer"])
        self._row_metrics.load_state_dict(own["rows"])

    # Input

    def _prepare_dataset(self, dataset, processing_class, args, packing, formatting_func, dataset_name):
        if self._forget_source is not None:
            # A set to score may have any name, "train", "forget" and "retain" too.
            name = dataset_name if dataset_name == "eval" else f"eval ({dataset_name})"
            return encoded_set(dataset, processing_class, args, name=name, owner=self)[1]
        # The first set that the parent prepares.
        dataset, encoded = encoded_set(dataset, processing_class, args, name="forget", owner=self)
        self._forget_source = dataset
        if self._objective.needs_chosen:
            encoded = with_refusals(encoded, dataset, processing_class, seed=args.seed, max_length=args.max_length)
        return encoded.add_column("row", np.arange(len(encoded)))

    def _set_signature_columns_if_needed(self):
        self._signature_columns = [*ENCODED_COLUMNS, "row"]

    def _reference(self) -> contextlib.AbstractContextManager[nn.Module]:
        return reference_model(self.accelerator.unwrap_model(self.model), self.ref_model)

    def _due(self, every: float) -> int:
        # Number of the refresh. Epochs are sums of fractions: the refresh of epoch 2 is due at 1.9999999 too.
        return int(self.state.epoch / every + 1e-6) if every > 0 else 0

    # Beliefs

    def _new_belief_store(self, rows: Dataset | list[dict], num_candidates: int | None = None) -> BeliefStore:
        args = self.args
        return BeliefStore(
            rows,
            args.belief_sampling(num_candidates),
            pad_token_id=self._tokenizer.pad_token_id,
            eos_token_ids=eos_token_ids(self.model, self._tokenizer, self.train_dataset),
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
            # Not in the system's folder, which may be in memory.
            folder=args.output_dir,
        )

    def _refresh_beliefs_if_due(self, model: nn.Module) -> None:
        due = self._due(self.args.belief_refresh_epochs)
        if self.belief_store.refresh == due:
            return
        self._scorer.drop_beliefs()
        audit = self._sample(model, self.belief_store, due, f"Sampling beliefs (epoch {self.state.epoch:g})")
        if self._twin is not None:
            rows = self.belief_store.rows(range(len(self.train_dataset)))
            self._twin.ask(self.accelerator.unwrap_model(model), "beliefs", rows)
        if self.args.log_completions and self.is_world_process_zero():
            print_beliefs(self.belief_store, self._tokenizer, self.state.epoch, self.args.num_completions_to_print)
        shown = {"length": "mean_length"} | {name: name for name in ("coverage", "target_share", "seconds")}
        self._note({f"beliefs/{name}": audit[key] for name, key in shown.items()})

    def _sample(self, model: nn.Module, store: BeliefStore, refresh: int, desc: str) -> dict[str, Any]:
        show = self.accelerator.is_main_process and not self.args.disable_tqdm
        try:
            with whole_model(model, self.accelerator, self.args.gradient_checkpointing_kwargs) as unwrapped:
                return store.sample(unwrapped, refresh, self.state.epoch, desc=desc if show else None)
        except FloatingPointError as error:
            raise DivergenceError(f"{error} This was at step {self.state.global_step}.") from None

    # Weights

    def _new_monitor(self) -> DriftMonitor:
        retain = None if self.args.retain_max_drop is None else self.retain_dataset
        return DriftMonitor.of(self.train_dataset, retain, self._tokenizer.pad_token_id)

    def _freeze_monitor(self, model: nn.Module) -> DriftMonitor:
        monitor = self._new_monitor()
        if self.args.lambda_schedule == "adaptive":
            store = self._new_belief_store(monitor.target, MONITOR_CANDIDATES)
            self._sample(model, store, 0, "Sampling beliefs to follow")
            monitor.beliefs = frozen_beliefs(store)
        return monitor

    def _update_weights(self, model: nn.Module) -> None:
        weights, step = self._weights, self.state.global_step
        weights.advance(step, self.state.max_steps)
        if weights.is_due(step):
            self._monitor = self._monitor or self._freeze_monitor(model)
            with self.accelerator.autocast():
                weights.adapt(self._monitor.measure(model), step)
        self._note(weights.logs())

    # A step

    def training_step(self, model, inputs, num_items_in_batch=None):
        self._watch_retain_rows(model)
        if self._twin is not None:
            due = self._due(self.args.ignorant_refresh_epochs)
            self._twin.refresh_if_due(self.accelerator.unwrap_model(model), due, self.train_dataset)
        if self.belief_store is not None:
            self._refresh_beliefs_if_due(model)
        self._update_weights(model)
        rows = self._step_rows(inputs, num_items_in_batch)
        hidden_size = self.model.config.get_text_config().hidden_size if self._shares_prompts else None
        *earlier, last = passes(rows, self._padding, hidden_size, self.accelerator if self._is_sharded else None)
        with self._meter.step([length for row in rows for length in row.lengths]):
            loss = torch.zeros((), device=self.args.device)
            for part in earlier:
                with without_synchronisation(self.accelerator, model):
                    loss = loss + super().training_step(model, part, num_items_in_batch)
            loss = loss + super().training_step(model, last, num_items_in_batch)
        if self.accelerator.sync_gradients:
            self._guard.note_gradients()
        # Return 0: a NaN would stay in `Trainer`'s running loss. The per-term metrics show it.
        return torch.zeros_like(loss) if self._guard.is_broken else loss

    def _step_rows(self, inputs: Mapping[str, Tensor], num_items_in_batch: Tensor | None) -> list[StepRow]:
        """The rows of a micro-batch with the weight that each has in the loss of the step."""
        args, count = self.args, len(inputs["row"])
        # `num_items_in_batch` counts the rows of every process, and DDP averages the gradients over processes.
        processes = self.accelerator.num_processes if args.average_tokens_across_devices else 1
        return step_rows(
            inputs,
            args,
            self._weights.now,
            share=1 / count if num_items_in_batch is None else processes / max(int(num_items_in_batch), 1),
            epoch=int(self.state.epoch + 1e-6),
            forget=self.train_dataset,
            retain=self.retain_dataset,
            beliefs=self.belief_store,
            needs_chosen=self._objective.needs_chosen,
        )

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Tensor:
        # Not that of `accelerate`, which does not know it in an epoch that is resumed in its midst.
        remainder = len(self.train_dataset) % (self._train_batch_size * self.args.world_size)
        mark_repeated_rows(self.accelerator, batch_samples, 0 if self.args.dataloader_drop_last else remainder)
        count = torch.tensor(sum(map(num_own_rows, batch_samples)), device=device)
        if self.args.average_tokens_across_devices and self.args.world_size > 1:
            count = self.accelerator.gather(count).sum()
        return count

    def floating_point_ops(self, inputs: Mapping[str, Tensor]) -> int:
        """Those of the forget rows, counted by their shape with padding: the batch has their indices only."""
        rows = self.train_dataset[inputs["row"].tolist()]["input_ids"]
        width = padded_width(max(map(len, rows)), self._padding["multiple"], self._padding["limit"])
        return super().floating_point_ops({"input_ids": torch.empty(len(rows), width, device="meta")})

    def _get_grad_norm(self, model, grad_norm=None):
        norm = super()._get_grad_norm(model, grad_norm)
        # A scale below 1 made no gradient overflow. DeepSpeed has a scaler of its own.
        scaler = self.accelerator.scaler
        overflows = self.accelerator.mixed_precision == "fp16" if scaler is None else scaler.get_scale() >= 1
        if not self._guard.check_gradient(norm, self.state.global_step, overflows):
            # Optimizers skip parameters without a gradient, weight decay included.
            model.zero_grad()
            self._metrics["train"]["skipped_steps"] = [self._guard.skipped]
        return norm

    def _watch_retain_rows(self, model: nn.Module, is_over: bool = False) -> None:
        with self.accelerator.autocast():
            self._guard.watch(model, self.state.global_step, is_over)

    def _finalize_training(self, *args: Any, **kwargs: Any) -> TrainOutput:
        output = super()._finalize_training(*args, **kwargs)
        # Of the weights after the last step, or of those that a callback has put back.
        self._watch_retain_rows(self.model_wrapped, is_over=True)
        folder = RunFolder(self.args.output_dir)
        # A command that marks the folder may resume with its evaluation, and takes the file away itself.
        if self.args.should_save and not folder.is_unfinished:
            folder.drop_twin()
        return output

    def _note(self, values: Mapping[str, float]) -> None:
        """Values of which the next line of the log has the means."""
        for name, value in values.items():
            self._metrics["train"][name].append(value)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self.model.training:
            self._note(self._row_metrics.read() | self._meter.read())
        super().log(logs, start_time)

    # Loss

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if not self.model.training:
            with self.accelerator.autocast():
                scores = score_batch(model, inputs)
            losses = retain.nll(scores.logps, scores.mask, self.args.token_reduction)
            # `Trainer` weights the mean of each process by these rows.
            own = own_rows(self.accelerator, len(losses), self.accelerator.gradient_state.remainder)
            return losses[: own or None].mean()
        rows = inputs["rows"]
        # `accelerate` puts the model's forward under autocast, but the head runs outside of it.
        with self.accelerator.autocast():
            scores = self._score_rows(model, inputs)
        self._row_metrics.note(rows, scores)
        self._guard.note_losses(rows, scores["loss"])
        # Before the last backward pass: DeepSpeed steps at its end, unless the gradient is not finite. So a broken
        # loss of an earlier pass is made to break the last gradient.
        if inputs["is_last"]:
            means = self._row_metrics.take()
            self._last_means.update(means)
            self._guard.check(means, self.state.global_step, self.accelerator.sync_gradients)
        poison = torch.nan if self.is_deepspeed_enabled and self._guard.is_broken else 1.0
        weights = torch.tensor([row.weight for row in rows], dtype=torch.float64).to(scores["loss"])
        return (weights * scores["loss"]).sum() * poison

    def _score_rows(self, model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """`loss`, and means of `logps`, `entropy` and, of forget rows with a twin, `twin_logps` `[rows]`; one pass."""
        forget_part, retain_part = self._scorer.score(model, inputs)
        losses = []
        if forget_part is not None:
            bounded = forget_part.scores.bounded(self.args.forget_floor, self.args.forget_token_floor)
            losses.append((forget_part, self.compute_forget_loss(bounded)))
        if retain_part is not None:
            losses.append((retain_part, retain_loss(retain_part, self.args)))
        return row_values(losses, inputs["labels"].device)

    def compute_forget_loss(self, scores: ForgetScores) -> Tensor:
        """
        The forget objective: override it for one of your own. BS-S applies it to the beliefs as well.

        Args:
            scores ([`ForgetScores`]):
                Per-token scores of forget rows and beliefs: `logps` and `mask`, and what `forget_loss_type` reads
                (`beliefs` with `"bs_t"`, `reference_logps` with `"npo"`, ...).

        Returns:
            `torch.Tensor`: Loss of each row, of shape `(num_rows,)`, to be minimised. It must not depend on other
            rows, which may be in other passes.
        """
        return self._objective.loss(scores, self.args, self._weights.now, **(self.args.forget_loss_kwargs or {}))

    def predict(self, *args: Any, **kwargs: Any):
        """Not supported: there are no logits. `evaluate` scores rows."""
        raise ValueError("`predict` is not supported in unlearning: no logits are kept. Score rows with `evaluate`.")

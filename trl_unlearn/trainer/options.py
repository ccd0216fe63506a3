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

"""Options of `SFTConfig` and `TrainingArguments` that unlearning has no use for."""

from typing import Any

from transformers.trainer_utils import HubStrategy
from trl import SFTConfig


# Options that would be ignored, or that would change what is scored: (name, values allowed, why).
_FIXED_OPTIONS: tuple[tuple[str, tuple[Any, ...], str], ...] = (
    ("packing", (False,), "a belief belongs to one row, and packing joins rows"),
    ("eval_packing", (None, False), "a belief belongs to one row, and packing joins rows"),
    ("padding_free", (False,), "beliefs and retain rows are joined to a batch after collation"),
    ("loss_type", ("nll",), "use `forget_loss_type` and `retain_loss_type`"),
    (
        "assistant_only_loss",
        (False,),
        "the completion, or the last assistant turn, is what is scored, and no other turn",
    ),
    ("completion_only_loss", (None, True), "the completion, or the last assistant turn, is always what is scored"),
    ("truncation_mode", ("keep_start",), "the start of a row is its prompt"),
    ("label_smoothing_factor", (0.0,), "it belongs to another loss"),
    ("router_aux_loss_coef", (None, 0.0), "the balance of the experts of a mixture is no term of these objectives"),
    ("auto_find_batch_size", (False,), "where memory runs out, it starts anew from weights that have changed"),
    (
        "include_num_input_tokens_seen",
        ("no",),
        "it counts forget rows only. `throughput/tokens_per_second` counts all",
    ),
    ("ddp_static_graph", (None, False), "the number of passes differs from step to step"),
)
# The same of `accelerator_config`.
_FIXED_LOADING: tuple[tuple[str, tuple[Any, ...], str], ...] = (
    ("split_batches", (False,), "a batch has `per_device_train_batch_size` rows for each process"),
    ("dispatch_batches", (None, False), "each process reads its own rows"),
    ("even_batches", (True,), "every process takes part in every step"),
)


def refuse_inherited(args: SFTConfig) -> None:
    """
    Refuse options of the parents that would be ignored, or that would change what is scored.

    Args:
        args ([`~trl.SFTConfig`]):
            Configuration.

    Raises:
        `ValueError`: If one of them is set.
    """
    if args.push_to_hub and args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
        raise ValueError(
            f"`hub_strategy={args.hub_strategy.value!r}` would push checkpoints, with the state of the optimizer. "
            "Set it to 'every_save' or 'end', which push the model and its card."
        )
    for owner, prefix, options in (
        (args, "", _FIXED_OPTIONS),
        (args.accelerator_config, "accelerator_config.", _FIXED_LOADING),
    ):
        for name, allowed, why in options:
            value = getattr(owner, name)
            if value not in allowed:
                raise ValueError(
                    f"`{prefix}{name}={value!r}` is not supported in unlearning: {why}. Leave it at {allowed[0]!r}."
                )
    parallel = args.parallelism_config
    if parallel is not None and max(parallel.tp_size, parallel.cp_size, parallel.sp_size) > 1:
        raise ValueError(
            "`parallelism_config` shares rows or layers among processes (`tp_size`, `cp_size` or `sp_size` above 1), "
            "but here each process has rows of its own. Leave these at 1; `dp_shard_size` shards the model."
        )
    if "layerwise" in args.optim or "lomo" in args.optim:
        raise ValueError(
            f"`optim={args.optim.value!r}` changes weights in each backward pass, and a step has several. Choose "
            "another one, such as 'adafactor', which needs little memory too."
        )
    if args.shuffle_dataset and args.train_sampling_strategy == "sequential":
        raise ValueError(
            "`shuffle_dataset=True` and `train_sampling_strategy='sequential'` contradict each other: rows are known "
            "by their index, and only their order in an epoch is shuffled. Leave one of them out."
        )
    unknown = sorted((args.dataset_kwargs or {}).keys() - {"skip_prepare_dataset"})
    if unknown:
        raise ValueError(
            f"`dataset_kwargs` holds {', '.join(f'`{key}`' for key in unknown)}, but only `skip_prepare_dataset` is "
            "known. Leave the rest out."
        )
    if args.pad_to_multiple_of is not None and args.pad_to_multiple_of < 1:
        raise ValueError(f"`pad_to_multiple_of` must be at least 1, got {args.pad_to_multiple_of}. Or leave it out.")
    if args.activation_offloading and args.device.type == "cpu":
        raise ValueError(
            "`activation_offloading=True` moves activations from an accelerator to the CPU, and there is no "
            "accelerator. Leave it out."
        )

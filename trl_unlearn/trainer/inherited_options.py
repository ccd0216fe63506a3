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

from transformers.trainer_utils import HubStrategy
from trl import SFTConfig


# Options of the parent that would be ignored, or that would change what is scored: (name, value allowed, why).
_FIXED_OPTIONS = (
    ("packing", False, "a belief belongs to one row, and packing joins rows"),
    ("eval_packing", None, "a belief belongs to one row, and packing joins rows"),
    ("padding_free", False, "beliefs and retain rows are joined to a batch after collation"),
    ("loss_type", "nll", "use `forget_loss_type` and `retain_loss_type`"),
    ("assistant_only_loss", False, "the completion, or the last assistant turn, is always what is scored"),
    ("completion_only_loss", None, "the completion, or the last assistant turn, is always what is scored"),
    ("truncation_mode", "keep_start", "the start of a row is its prompt"),
    ("shuffle_dataset", False, "rows are shuffled anew in each epoch, and are known by their index"),
    ("label_smoothing_factor", 0.0, "it belongs to another loss"),
    ("router_aux_loss_coef", None, "the balance of the experts of a mixture is no term of these objectives"),
    ("use_liger_kernel", False, "its fused loss cannot give per-token log-probabilities"),
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
    for name, allowed, why in _FIXED_OPTIONS:
        if getattr(args, name) != allowed:
            raise ValueError(
                f"`{name}={getattr(args, name)!r}` is not supported in unlearning: {why}. Leave it at {allowed!r}."
            )

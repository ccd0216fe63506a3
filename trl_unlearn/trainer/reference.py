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

"""The reference of NPO and KL: the model as it was passed in."""

import contextlib
import copy
from collections.abc import Iterator

import torch
from accelerate import Accelerator, DistributedType
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from .._trl import DistributedBackend, prepare_deepspeed, prepare_fsdp, use_adapter


_ADAPTER = "ref"


def add_reference_adapter(model: PeftModel) -> None:
    """
    Keep a frozen copy of the adapter that a model came with: with adapters off it would never have known the facts.

    Args:
        model ([`~peft.PeftModel`]):
            Model, changed in place.
    """
    name = model.active_adapter
    model.add_adapter(_ADAPTER, model.peft_config[name])
    for key, parameter in model.named_parameters():
        if f".{name}." in key:
            copied = model.get_parameter(key.replace(f".{name}.", f".{_ADAPTER}."))
            copied.data.copy_(parameter.data)
            copied.requires_grad_(False)


def frozen_copy(model: PreTrainedModel, accelerator: Accelerator) -> nn.Module:
    """
    Copy of a model for full fine-tuning, sharded where the model will be.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Model before its training.
        accelerator ([`~accelerate.Accelerator`]):
            Accelerator that will prepare the model.

    Returns:
        `torch.nn.Module`: The copy, in eval mode and without gradients.
    """
    # ZeRO-3 has loaded the model in shards, of which a copy would be empty.
    with DistributedBackend(accelerator).gather_params(list(model.parameters())):
        reference = copy.deepcopy(model)
    # `SFTTrainer` patches `forward` on the instance, and the copy of that patch still calls the model in training.
    reference.__dict__.pop("forward", None)
    reference.requires_grad_(False).eval()
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        return prepare_deepspeed(reference, accelerator)
    if accelerator.distributed_type == DistributedType.FSDP:
        return prepare_fsdp(reference, accelerator)
    return accelerator.prepare_model(reference, evaluation_mode=True)


@contextlib.contextmanager
def reference_model(model: nn.Module, copied: nn.Module | None) -> Iterator[nn.Module]:
    """
    The model as it was passed in, without gradient.

    Args:
        model (`torch.nn.Module`):
            Unwrapped model in training.
        copied (`torch.nn.Module`, *optional*):
            Its frozen copy, with full fine-tuning.
    """
    with torch.no_grad():
        if copied is not None:
            yield copied
            return
        with use_adapter(model, _ADAPTER if _ADAPTER in model.peft_config else None):
            yield model


@contextlib.contextmanager
def without_reference_adapter(model: nn.Module) -> Iterator[None]:
    """
    Hide the frozen adapter, so that it is not saved.

    Args:
        model (`torch.nn.Module`):
            Unwrapped model in training.
    """
    adapters = getattr(model, "peft_config", {})
    reference = adapters.pop(_ADAPTER, None)
    try:
        yield
    finally:
        if reference is not None:
            adapters[_ADAPTER] = reference

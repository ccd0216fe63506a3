# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""The model in training without dropout, and the reference of NPO and KL: the model as it was passed in."""

import contextlib
import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils import fsdp2_prepare_model
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from .._trl import DistributedBackend, prepare_deepspeed
from ..encoding import pad_rows
from ..label_states import in_mode
from ..token_scores import score_batch


logger = logging.getLogger(__name__)

# Nats by which two passes over a row may differ, from low precision and the order of sums.
_SAME, _PROBE_TOKENS = 1e-2, 32


def disable_dropout(model: nn.Module, probe_ids: Sequence[int] | None) -> None:
    """Set dropout to 0 in place, that of functions too; warn if two passes over the tokens of a row still differ."""
    config = model.config.get_text_config()
    without = copy.copy(config)
    for name, value in vars(config).items():
        if "drop" in name and isinstance(value, float):
            setattr(without, name, 0.0)
    for module in model.modules():
        # Falcon reads its dropout from the config in each pass.
        if vars(module).get("config") is config and not isinstance(module, PreTrainedModel | PeftModel):
            module.config = without
        is_dropout = "dropout" in type(module).__name__.lower()
        for name, value in vars(module).items():
            if "drop" not in name and not (is_dropout and name == "p"):
                continue
            if isinstance(value, float):
                setattr(module, name, 0.0)
            elif isinstance(value, dict):
                # LoHa and LoKr have a number for each adapter.
                value.update({key: 0.0 for key, number in value.items() if isinstance(number, float)})
    if probe_ids is not None:
        _warn_of_noise(model, probe_ids[:_PROBE_TOKENS])


@torch.no_grad()
def _warn_of_noise(model: nn.Module, ids: Sequence[int]) -> None:
    device = next(model.parameters()).device
    batch = {name: values.to(device) for name, values in pad_rows([{"input_ids": ids, "labels": ids}], 0).items()}
    with in_mode(model, training=True):
        first, second = (score_batch(model, batch).logps for _ in range(2))
    difference = (first - second).abs().max().item()
    if difference > _SAME:
        logger.warning(
            f"`disable_dropout` is set, but two passes of `{type(model).__name__}` over one row differ by "
            f"{difference:.2g} nats: in training, it draws random numbers that are no dropout, such as the jitter of "
            "a router. Set them to 0 in its config, or every loss has this noise in it."
        )


@dataclass(frozen=True)
class _Start:
    """How a model with an adapter began: values of what trains, by name, and whether the adapter was there."""

    values: Mapping[str, Tensor]
    has_adapter: bool


# By model, not on it: an attribute of the model would be copied with it.
_starts: WeakKeyDictionary[nn.Module, _Start] = WeakKeyDictionary()


def keep_reference(
    model: PreTrainedModel | PeftModel, accelerator: Accelerator, *, has_adapter: bool
) -> nn.Module | None:
    """Keep what [`reference_model`] needs of a model, not wrapped yet, before its training: a whole one as a copy."""
    if not isinstance(model, PeftModel):
        return _frozen_copy(model, accelerator)
    # Without the adapter that it came with, a model never knew the facts: its reference is the adapter as it was.
    # Biases of the model itself may train with a new adapter (`LoraConfig(bias=...)`), and stay with adapters off.
    kept = {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and (has_adapter or name.endswith("bias"))
    }
    with DistributedBackend(accelerator).gather_params(list(kept.values())):
        values = {name: parameter.detach().clone() for name, parameter in kept.items()}
    _starts[model] = _Start(values, has_adapter)
    return None


def copy_of(model: nn.Module) -> nn.Module:
    """A frozen copy of a whole model, in eval mode."""
    copied = copy.deepcopy(model)
    # `SFTTrainer` patches `forward` on the instance, and the copy of that patch still calls the model in training.
    for patched in (copied, copied.get_base_model() if isinstance(copied, PeftModel) else copied):
        patched.__dict__.pop("forward", None)
    return copied.requires_grad_(False).eval()


def _frozen_copy(model: PreTrainedModel, accelerator: Accelerator) -> nn.Module:
    # ZeRO-3 has loaded the model in shards, of which a copy would be empty.
    with DistributedBackend(accelerator).gather_params(list(model.parameters())):
        reference = copy_of(model)
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        return prepare_deepspeed(reference, accelerator)
    if accelerator.distributed_type == DistributedType.FSDP:
        # As the model itself: layer by layer, and from the weights that the first process has loaded.
        return fsdp2_prepare_model(accelerator, reference)
    return accelerator.prepare_model(reference, evaluation_mode=True)


@contextlib.contextmanager
def _whole(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Gather parameters that ZeRO-3 shards, to be read and set; it takes over what the first process has set."""
    if not any(hasattr(parameter, "ds_id") for parameter in parameters):
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(parameters), modifier_rank=0):
        yield


def _set_values(model: nn.Module, parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        if isinstance(parameter, DTensor):
            if not isinstance(value, DTensor):
                value = distribute_tensor(value, parameter.device_mesh, parameter.placements)
            parameter, value = parameter.to_local(), value.to_local()
        # `.data`, so that autograd sees no change: every value is back before the pass of the model.
        parameter.data.copy_(value)
    # FSDP2 may hold a gathered copy of the old values, and autocast a cast one.
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
    torch.clear_autocast_cache()


@contextlib.contextmanager
def with_values(model: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Put other values into some parameters, in place: optimizers and sharding hold the tensors themselves."""
    if not values:
        yield
        return
    named = dict(model.named_parameters())
    parameters = [named[name] for name in values]
    with _whole(parameters):
        current = [parameter.detach().clone() for parameter in parameters]
        _set_values(model, parameters, list(values.values()))
    try:
        yield
    finally:
        with _whole(parameters):
            _set_values(model, parameters, current)


@contextlib.contextmanager
def _without_adapters(model: PeftModel) -> Iterator[None]:
    """Turn adapters off, and on again."""
    # PEFT lets all weights of adapters train when it turns them on; RMU and some users train only a part.
    trains = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        with model.disable_adapter():
            yield
    finally:
        for parameter, flag in trains:
            parameter.requires_grad_(flag)


@contextlib.contextmanager
def reference_model(model: nn.Module, copied: nn.Module | None) -> Iterator[nn.Module]:
    """The model as it was passed in, without gradient: its copy, or the model as [`keep_reference`] saw it."""
    with torch.no_grad():
        if copied is not None:
            yield copied
            return
        start = _starts[model]
        without = contextlib.nullcontext() if start.has_adapter else _without_adapters(model)
        # Dropout and the noise of NEFTune are no part of a reference.
        with in_mode(model, training=False), with_values(model, start.values), without:
            yield model

# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

import inspect

import pytest
import torch
from accelerate import Accelerator

from trl_unlearn import _trl


# Name -> the parameters that the trainer passes, in the order it passes them.
USED = {
    "DistributedBackend": (("accelerator",), {}),
    "adjusted_mfu": (("mfu", "config", "seq_len"), {}),
    "compute_flops_per_token": (("config", "seq_len"), {}),
    "compute_mfu": (("flops_per_token", "tokens_per_second", "world_size", "peak_flops_per_device"), {}),
    "get_peak_flops_per_device": (("accelerator", "dtype"), {}),
    "maybe_gather_lm_head_ctx": (("params",), {}),
    "prepare_deepspeed": (("model", "accelerator"), {}),
    "unwrap_model_for_generation": (("model", "accelerator"), {"gradient_checkpointing_kwargs": None}),
}
IDS = torch.tensor([[5, 6, 7, 8]])


def test_every_name_is_listed():
    assert sorted(_trl.__all__) == sorted(USED)


@pytest.mark.parametrize("name", _trl.__all__)
def test_a_name_is_there_with_the_parameters_that_are_used(name):
    positional, keywords = USED[name]
    signature = inspect.signature(getattr(_trl, name))
    assert tuple(signature.parameters)[: len(positional)] == positional
    # Raises where a keyword is unknown or another argument has become required.
    signature.bind(*positional, **keywords)


def test_a_model_is_unwrapped_for_generation_with_checkpointing_off_and_on_again(tiny_model):
    accelerator = Accelerator(cpu=True)
    tiny_model.gradient_checkpointing_enable({"use_reentrant": False})
    with _trl.unwrap_model_for_generation(
        tiny_model, accelerator, gradient_checkpointing_kwargs={"use_reentrant": False}
    ) as unwrapped:
        assert unwrapped is tiny_model
        assert not unwrapped.is_gradient_checkpointing
    assert tiny_model.is_gradient_checkpointing

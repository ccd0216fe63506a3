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


"""Tokens a second, peak memory and MFU of training steps."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from transformers import PretrainedConfig

from .._trl import adjusted_mfu, compute_flops_per_token, compute_mfu, get_peak_flops_per_device


class StepMeter:
    """
    Measures forward and backward passes between two entries of the log; sampling beliefs and evaluating do not count.

    Args:
        accelerator ([`~accelerate.Accelerator`]):
            Knows the device and the processes.
        config ([`~transformers.PretrainedConfig`]):
            Text config of the model, for its number of operations a token.
    """

    def __init__(self, accelerator: Accelerator, config: PretrainedConfig):
        self._accelerator, self._config = accelerator, config
        self._tokens = self._rows = 0
        self._seconds = 0.0

    @contextmanager
    def step(self, lengths: list[int]) -> Iterator[None]:
        """
        Measure a step.

        Args:
            lengths (`list[int]`):
                Tokens of each row that passes through the model, without padding.
        """
        started = time.perf_counter()
        yield
        self._seconds += time.perf_counter() - started
        self._tokens += sum(lengths)
        self._rows += len(lengths)

    def read(self) -> dict[str, float]:
        """
        What was measured since the last call.

        Returns:
            `dict[str, float]`: `throughput/tokens_per_second` of all processes; on CUDA also `memory/peak_gib`
            (allocated, of this process) and, where the card is known, `throughput/mfu` in percent of its dense peak,
            with the operations of a full backward pass and causal attention. Empty if nothing was measured.
        """
        if not self._seconds:
            return {}
        device, processes = self._accelerator.device, self._accelerator.num_processes
        speed = self._accelerator.reduce(torch.tensor(self._tokens / self._seconds, device=device)).item()
        found = {"throughput/tokens_per_second": speed}
        if device.type == "cuda":
            found["memory/peak_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
            dtype = {"bf16": "bfloat16", "fp16": "float16"}.get(self._accelerator.mixed_precision, "float32")
            peak = get_peak_flops_per_device(self._accelerator, dtype)
            if peak is not None:
                length = self._tokens // self._rows
                mfu = compute_mfu(compute_flops_per_token(self._config, length), speed, processes, peak)
                found["throughput/mfu"] = adjusted_mfu(mfu, self._config, length)
        self._tokens = self._rows = 0
        self._seconds = 0.0
        return found

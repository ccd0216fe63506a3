# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Everything from TRL that TRL does not export publicly, in one place (tests/test_trl.py holds that it is there)."""

from trl.distributed import DistributedBackend
from trl.models.utils import prepare_deepspeed, unwrap_model_for_generation
from trl.trainer.utils import (
    adjusted_mfu,
    compute_flops_per_token,
    compute_mfu,
    get_peak_flops_per_device,
    maybe_gather_lm_head_ctx,
)


__all__ = [
    "DistributedBackend",
    "adjusted_mfu",
    "compute_flops_per_token",
    "compute_mfu",
    "get_peak_flops_per_device",
    "maybe_gather_lm_head_ctx",
    "prepare_deepspeed",
    "unwrap_model_for_generation",
]

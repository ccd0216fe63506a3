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

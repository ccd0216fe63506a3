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

"""
Bootstrapping on sequences (BS-S): forget the answers and the model's own beliefs.

```bash
# The embedded lab
accelerate launch recipes/bs_s.py

# TOFU
accelerate launch recipes/bs_s.py \
    --model_name_or_path open-unlearning/tofu_Llama-3.2-1B-Instruct_full \
    --dataset_name locuslab/TOFU --forget_config forget10 --retain_config retain90 \
    --retrained_model_name_or_path open-unlearning/tofu_Llama-3.2-1B-Instruct_retain90 \
    --output_dir unlearned

# Your own rows
accelerate launch recipes/bs_s.py \
    --model_name_or_path org/model --forget_dataset forget.jsonl --retain_dataset retain.jsonl --output_dir unlearned
```
"""

from . import unlearn
from .exits import interruptible


def main(argv: list[str] | None = None, prog: str = "bs_s.py") -> None:
    with interruptible(prog):
        unlearn.main(prog, __doc__, "archive/bs_s.yaml", argv=argv)

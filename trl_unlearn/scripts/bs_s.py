# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

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

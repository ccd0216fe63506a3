# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0


"""Model, data and rounds of a benchmark."""

from dataclasses import dataclass, field

import torch


@dataclass
class Settings:
    """Options of `run.py`."""

    benchmarks: list[str] = field(
        default_factory=lambda: ["loss", "step", "beliefs", "evaluation"],
        metadata={"help": "Which to run: loss, step, beliefs, evaluation."},
    )
    model_name_or_path: str | None = field(default=None, metadata={"help": "Chat model of all but `loss`."})
    dataset_name: str | None = field(default=None, metadata={"help": "TOFU, or a dataset of its form."})
    forget_config: str = field(default="forget10", metadata={"help": "Config of the forget set."})
    retain_config: str = field(default="retain90", metadata={"help": "Config of the retain set."})
    rounds: int = field(default=5, metadata={"help": "Counted rounds."})
    bf16: bool = field(
        default=torch.cuda.is_available(),
        metadata={"help": "bfloat16 autocast, in `step` and `beliefs`. Default: on a GPU only."},
    )
    memory: bool = field(default=True, metadata={"help": "Measure peak memory too, each case in its own process."})
    prompts: int = field(default=80, metadata={"help": "Forget prompts of `beliefs`, rows of `evaluation`."})
    memory_of: str | None = field(default=None, metadata={"help": "Used by the program itself."})

    @property
    def device(self) -> torch.device:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

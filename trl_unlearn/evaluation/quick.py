# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Relearning in a few steps, for an evaluation of minutes; `robustness` follows it further."""

import logging

import torch
from transformers import PreTrainedTokenizerBase

from ..results import MEASURED_ROLES, SuiteOutcome
from .robustness import RELEARNING_RATE, RELEARNING_SHARE
from .rows import EvaluationRows, Loaders, encode_set
from .together import SuiteSetting, free_memory, load_merged
from .uncertainty import summarise_rows


logger = logging.getLogger(__name__)

# One of `RELEARNING_STEPS`, so that the number is the suite's.
STEPS = 2


def measure_few_steps(
    models: Loaders, rows: EvaluationRows, tokenizer: PreTrainedTokenizerBase, *, batch_size: int | None, seed: int
) -> SuiteOutcome:
    """The extraction strength after `STEPS` steps of the relearning of `robustness`, and no other attack."""
    setting = SuiteSetting(tokenizer=tokenizer, batch_size=batch_size, seed=seed)
    forget = encode_set(rows.forget, tokenizer, name="forget")
    shown = forget.answers[::RELEARNING_SHARE]
    hidden = [i for i in range(len(forget.answers)) if i % RELEARNING_SHARE]
    per_row = {}
    if not hidden:
        logger.warning("Nothing is relearned: that takes at least two forget rows, one to learn and one to ask about.")
    for role in MEASURED_ROLES if hidden else ():
        if models.get(role) is None:
            continue
        model = load_merged(models[role]).requires_grad_(True)
        optimizer = torch.optim.AdamW(model.parameters(), lr=RELEARNING_RATE, weight_decay=0.0)
        for _ in range(STEPS):
            setting.train_step(model, optimizer, shown)
        del optimizer
        values = setting.extraction_strength(model, forget, f"Scoring {role} after relearning", hidden)
        per_row[role] = {f"robustness/relearned_{STEPS}_steps": values}
        del model
        free_memory()
    outcome = summarise_rows(per_row, seed=seed)
    outcome.protocol = {"rows": {"forget": len(forget.answers)}, "seed": seed}
    return outcome

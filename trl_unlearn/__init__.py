# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Make a language model forget a set of rows, and measure whether it forgot or only hides."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from .records import UnlearningRun
    from .results import EvaluationResult
    from .scripts.one_call import unlearn
    from .trainer.bootstrap_unlearn_config import BootstrapUnlearnConfig
    from .trainer.bootstrap_unlearn_trainer import BootstrapUnlearnTrainer

__version__ = version("trl-unlearn")

# Public name -> module. Loaded at first use, so that `import trl_unlearn` does not load torch.
_MODULES = {
    "BootstrapUnlearnConfig": ".trainer.bootstrap_unlearn_config",
    "BootstrapUnlearnTrainer": ".trainer.bootstrap_unlearn_trainer",
    "EvaluationResult": ".results",
    "UnlearningRun": ".records",
    "unlearn": ".scripts.one_call",
}

__all__ = ["BootstrapUnlearnConfig", "BootstrapUnlearnTrainer", "EvaluationResult", "UnlearningRun", "unlearn"]


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(_MODULES[name], __name__), name)

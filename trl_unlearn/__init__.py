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

"""Make a language model forget a set of rows, and measure whether it forgot or only hides."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from .records import UnlearningRun
    from .results import EvaluationResult
    from .trainer.bootstrap_unlearn_config import BootstrapUnlearnConfig
    from .trainer.bootstrap_unlearn_trainer import BootstrapUnlearnTrainer

__version__ = version("trl-unlearn")

# Public name -> module. Loaded at first use, so that `import trl_unlearn` does not load torch.
_MODULES = {
    "BootstrapUnlearnConfig": ".trainer.bootstrap_unlearn_config",
    "BootstrapUnlearnTrainer": ".trainer.bootstrap_unlearn_trainer",
    "EvaluationResult": ".results",
    "UnlearningRun": ".records",
}

__all__ = ["BootstrapUnlearnConfig", "BootstrapUnlearnTrainer", "EvaluationResult", "UnlearningRun"]


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(_MODULES[name], __name__), name)

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

"""Several runs in one process: refused together, skipped when finished."""

import json
from pathlib import Path
from typing import NoReturn

from accelerate import PartialState

from ..evaluation.callbacks import CannotBeginError
from ..trainer.bootstrap_unlearn_config import BootstrapUnlearnConfig
from ..trainer.guard import DivergenceError
from .exits import close_bars, one_line, refuse, stop


def refuse_for_several(args: BootstrapUnlearnConfig) -> None:
    """Refuse to publish several models under one id, and to train several with DeepSpeed."""
    if args.push_to_hub:
        raise ValueError(
            "`push_to_hub` is set, but this makes several models, which would overwrite each other. Leave it out, and "
            "publish the one that you choose: `trl-unlearn push --output_dir <its folder> ...`."
        )
    if args.deepspeed_plugin is not None:
        raise ValueError(
            "This trains several models in one process, which DeepSpeed does not allow. Launch it with DDP or FSDP "
            "(`recipes/accelerate/ddp.yaml`)."
        )


def refuse_other_settings(finished: Path, settings: str) -> None:
    """Refuse to take over a finished run (its last file, with `settings`) whose settings differ."""
    if finished.is_file() and json.loads(finished.read_text(encoding="utf-8")).get("settings") != settings:
        raise ValueError(
            f"`{finished.parent}` holds a finished run with other settings. Delete the folder, or give another "
            "`--output_dir`."
        )


def end_series(prog: str, error: CannotBeginError | DivergenceError, what: str) -> NoReturn:
    """Exit with 2 if one of several runs could not begin, with 3 if a guard stopped it."""
    speaks = PartialState().is_main_process
    if speaks:
        close_bars()
    end = stop if isinstance(error, DivergenceError) else refuse
    end(prog, f"{what}: {one_line(error)} Runs that are finished are kept.", speaks=speaks)

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

"""Input that cannot be used, refused before any training."""

import logging
import tempfile
from pathlib import Path

from datasets import Dataset
from peft import PeftModel

from .bootstrap_unlearn_config import BootstrapUnlearnConfig


logger = logging.getLogger(__name__)


def refuse_input(model, args: BootstrapUnlearnConfig, forget: Dataset | None, retain: Dataset | None) -> None:
    """
    Refuse sets, a model or an output folder that cannot be used.

    Args:
        model (`str` or [`~transformers.PreTrainedModel`]):
            Model as passed to the trainer.
        args ([`BootstrapUnlearnConfig`]):
            Configuration.
        forget, retain ([`~datasets.Dataset`], *optional*):
            Sets as passed to the trainer.

    Raises:
        `ValueError`: If a set is missing or empty, the model's folder does not exist, its adapter is frozen, or the
            output folder cannot be written.
        `TypeError`: If a set is no [`~datasets.Dataset`].
    """
    _refuse_set("forget", "train_dataset", forget)
    if args.uses_retain:
        _refuse_set("retain", "retain_dataset", retain)
    if isinstance(model, str) and not Path(model).exists() and model.startswith((".", "/", "~")):
        raise ValueError(f"The model folder `{model}` does not exist. Check the path, or give an id on the Hub.")
    if isinstance(model, PeftModel) and not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            "The adapter of the `PeftModel` is frozen, so there is nothing to train. Load it with "
            "`PeftModel.from_pretrained(..., is_trainable=True)`."
        )
    check_output_dir(args.output_dir)


def check_output_dir(folder: str | Path) -> None:
    """
    Make the output folder and refuse one that cannot be written.

    Args:
        folder (`str` or `Path`):
            Output folder.

    Raises:
        `ValueError`: If it cannot be written.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        # A name of its own: the processes of a launch probe one folder at the same time.
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".write-test-"):
            pass
    except OSError as error:
        raise ValueError(
            f"The output folder `{folder}` cannot be written ({error.strerror}). Choose another `output_dir`."
        ) from error


def _refuse_set(name: str, argument: str, dataset: Dataset | None) -> None:
    if dataset is None:
        remedy = "Give one, or set `retain_loss_type='none'`." if name == "retain" else "Give one."
        raise ValueError(f"`{argument}` is missing: there is no {name} set. {remedy}")
    if not isinstance(dataset, Dataset):
        raise TypeError(
            f"`{argument}` must be a `Dataset`, got `{type(dataset).__name__}`: beliefs and pairs are known by the "
            "index of a row. Load it without streaming, and pick one split of a `DatasetDict`."
        )
    if len(dataset) == 0:
        raise ValueError(f"The {name} set (`{argument}`) is empty. Check the split and the config name.")


def warn_of_overlap(forget: Dataset, retain: Dataset) -> None:
    """
    Warn of rows that are in both sets, with their count.

    Args:
        forget, retain ([`~datasets.Dataset`]):
            Encoded sets.
    """
    kept = {tuple(ids) for ids in retain["input_ids"]}
    both = sum(tuple(ids) in kept for ids in forget["input_ids"])
    if both:
        logger.warning(
            "%d of %d forget rows are in the retain set too: their two terms pull against each other. Take them out "
            "of the retain set.",
            both,
            len(forget),
        )

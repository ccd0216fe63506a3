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

"""What the trainer is given, and `SFTTrainer` is given too: arguments, and sets in their forms."""

import logging
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from datasets import Dataset, IterableDataset
from transformers import PreTrainedTokenizerBase, TrainingArguments
from trl import SFTConfig

from ..encoding import encode_dataset
from ..row_forms import with_template_kwargs
from .bootstrap_unlearn_config import BootstrapUnlearnConfig
from .streams import stored_stream


logger = logging.getLogger(__name__)

# Arguments of `SFTTrainer` that change what is scored, or that need logits: why, and what to do.
_REFUSED_ARGUMENTS = {
    "data_collator": "the trainer joins forget rows, beliefs and retain rows to passes of its own. Leave it out; rows "
    "that have `input_ids` and `labels` are taken as they are",
    "compute_loss_func": "the loss is made of per-token scores. Override `compute_forget_loss` in a subclass",
    "compute_metrics": "no logits are kept. Evaluate with a callback, or with `recipes/evaluate.py`",
    "preprocess_logits_for_metrics": "no logits are kept. Evaluate with a callback, or with `recipes/evaluate.py`",
    "formatting_func": "it would make raw text of rows, and the prompt would be forgotten too. Map the sets to "
    "`prompt` and `completion` before",
}


def refuse_arguments(**given: Any) -> None:
    """
    Refuse arguments of `SFTTrainer` that are not supported.

    Args:
        **given (`Any`):
            Argument -> value; `None` where it was not given.

    Raises:
        `ValueError`: If one was given.
    """
    if isinstance(given["data_collator"], Dataset | IterableDataset | Mapping):
        raise ValueError(
            f"`data_collator` is a `{type(given['data_collator']).__name__}`: the arguments are in the order of "
            "`SFTTrainer`. Pass the sets by name (`train_dataset=...`, `retain_dataset=...`)."
        )
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"`{name}` is not supported in unlearning: {_REFUSED_ARGUMENTS[name]}.")


def unlearn_config(args: TrainingArguments | None) -> BootstrapUnlearnConfig:
    """
    The configuration of a run, of what was passed as `args`.

    Args:
        args ([`BootstrapUnlearnConfig`], [`~trl.SFTConfig`] or [`~transformers.TrainingArguments`], *optional*):
            Arguments. All values of the last two are taken, also those that were left at defaults of their own.

    Returns:
        [`BootstrapUnlearnConfig`]: The configuration.

    Raises:
        `TypeError`: If it is none of these.
    """
    if args is None:
        return BootstrapUnlearnConfig("unlearned")
    if isinstance(args, BootstrapUnlearnConfig):
        return args
    known = {field.name: field for field in fields(SFTConfig)}
    others = (
        [field.name for field in fields(args) if field.name not in known]
        if isinstance(args, TrainingArguments)
        else []
    )
    if others or not isinstance(args, TrainingArguments):
        why = f", whose fields {', '.join(f'`{name}`' for name in others[:3])} have no meaning here" if others else ""
        raise TypeError(
            f"`args` is a `{type(args).__name__}`{why}. Expected a `BootstrapUnlearnConfig`, an `SFTConfig` or "
            "`TrainingArguments`."
        )
    given = {field.name: getattr(args, field.name) for field in fields(args) if field.init}
    config = BootstrapUnlearnConfig(**given)
    ours = {
        field.name: field.default
        for field in fields(BootstrapUnlearnConfig)
        if field.name in given and field.default not in (known[field.name].default, given[field.name])
    }
    logger.warning(
        "`args` is a `%s`: what is specific to unlearning has its defaults, and the rest is taken as it is, %s. Give "
        "a `BootstrapUnlearnConfig` to choose.",
        type(args).__name__,
        ", ".join(f"`{name}` {given[name]} (by default {default})" for name, default in ours.items()),
    )
    return config


def take_prepared(args: BootstrapUnlearnConfig, **sets: Any) -> None:
    """
    Take `skip_prepare_dataset` at its word. It changes nothing: encoded rows are taken as they are anyway.

    Args:
        args ([`BootstrapUnlearnConfig`]):
            Configuration of the run. The option is taken out, so that the rows get their index all the same.
        **sets ([`~datasets.Dataset`], [`~datasets.IterableDataset`] or a `dict` of these, *optional*):
            Name -> rows.

    Raises:
        `ValueError`: If the rows of a set are not encoded.
    """
    options, args.dataset_kwargs = args.dataset_kwargs or {}, None
    if not options.get("skip_prepare_dataset"):
        return
    for name, given in sets.items():
        for dataset in given.values() if isinstance(given, dict) else [given]:
            columns = [] if dataset is None else next(iter(dataset)).keys()
            if dataset is not None and not {"input_ids", "labels"} <= set(columns):
                raise ValueError(
                    f"`skip_prepare_dataset` is set, but the {name} set has the columns {list(columns)}. Give "
                    "`input_ids` and `labels` (-100 where nothing is scored), or leave the option out."
                )


def encoded_set(
    dataset: Dataset | IterableDataset,
    tokenizer: PreTrainedTokenizerBase,
    args: BootstrapUnlearnConfig,
    *,
    name: str,
    owner: object,
    most: int | None = None,
) -> tuple[Dataset, Dataset]:
    """
    A set on disk or in memory, and its rows encoded.

    Args:
        dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            Rows, in any of the forms of [`~trl_unlearn.encoding.encode_row`]. A stream is written to disk.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Tokenizer.
        args ([`BootstrapUnlearnConfig`]):
            Configuration.
        name (`str`):
            What they are, for messages.
        owner (`object`):
            Object with which the files of a stream go.
        most (`int`, *optional*):
            Rows after which a stream is left.

    Returns:
        `tuple[Dataset, Dataset]`: The rows as they came, and encoded.

    Raises:
        `ValueError`: If they cannot be encoded.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ValueError(
            f"`processing_class` is a `{type(tokenizer).__name__}`, but only text models can be unlearned. Pass a "
            "tokenizer."
        )
    if isinstance(dataset, IterableDataset):
        dataset = stored_stream(dataset, name=name, folder=args.output_dir, owner=owner, most=most)
    dataset = with_template_kwargs(dataset, args.chat_template_kwargs)
    if args.completion_only_loss and not {"completion", "messages", "labels"} & set(dataset.column_names):
        raise ValueError(
            f"`completion_only_loss=True`, but the {name} set has no completions: its columns are "
            f"{dataset.column_names}. Give `prompt` and `completion`, or leave the option out."
        )
    encoded = encode_dataset(
        dataset,
        tokenizer,
        name=name,
        max_length=args.max_length,
        prompt_length=args.prompt_length,
        text_field=args.dataset_text_field,
        num_proc=args.dataset_num_proc,
    )
    return dataset, encoded

# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Input of the trainer: arguments, and sets in their forms, as streams, and with refusals for DPO."""

import itertools
import logging
import math
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset, IterableDataset, concatenate_datasets
from datasets.exceptions import DatasetGenerationError
from pyarrow import ArrowException
from transformers import PreTrainedTokenizerBase, TrainingArguments
from trl import SFTConfig

from ..encoding import encode_dataset, encode_row, map_rows, warn_of_truncation, without_tensors
from ..generation import key_seed
from ..row_forms import has_answer, naming, with_answer, with_template_kwargs
from .bootstrap_unlearn_config import BootstrapUnlearnConfig


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
    """Raise `ValueError` for arguments of `SFTTrainer` that are not supported; None is not given."""
    if isinstance(given["data_collator"], Dataset | IterableDataset | Mapping):
        raise ValueError(
            f"`data_collator` is a `{type(given['data_collator']).__name__}`: the arguments are in the order of "
            "`SFTTrainer`. Pass the sets by name (`train_dataset=...`, `retain_dataset=...`)."
        )
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"`{name}` is not supported in unlearning: {_REFUSED_ARGUMENTS[name]}.")


def unlearn_config(args: TrainingArguments | None) -> BootstrapUnlearnConfig:
    """The configuration of a run from the trainer's `args`; a warning names values that differ from our defaults."""
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
    listed = ", ".join(f"`{name}` {given[name]} (by default {default})" for name, default in ours.items())
    logger.warning(
        f"`args` is a `{type(args).__name__}`: what is specific to unlearning has its defaults, and the rest is taken "
        f"as it is, {listed}. Give a `BootstrapUnlearnConfig` to choose."
    )
    return config


def take_prepared(args: BootstrapUnlearnConfig, **sets: Any) -> None:
    """Take `skip_prepare_dataset` out of the config, and refuse rows that are not encoded."""
    options, args.dataset_kwargs = args.dataset_kwargs or {}, None
    if not options.get("skip_prepare_dataset"):
        return
    for name, given in sets.items():
        for dataset in given.values() if isinstance(given, dict) else [given]:
            # An empty set has no row, and is refused where it is encoded.
            row = None if dataset is None else next(iter(dataset), None)
            if row is not None and not {"input_ids", "labels"} <= row.keys():
                raise ValueError(
                    f"`skip_prepare_dataset` is set, but the {name} set has the columns {list(row)}. Give "
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
    """A set on disk or in memory, and its rows encoded. A stream is written to disk, and removed with `owner`."""
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ValueError(
            f"`processing_class` is a `{type(tokenizer).__name__}`, but only text models can be unlearned. Pass a "
            "tokenizer."
        )
    if isinstance(dataset, IterableDataset):
        dataset = stored_stream(dataset, name=name, folder=args.output_dir, owner=owner, most=most)
    dataset = without_tensors(dataset)
    # Before the columns are looked at: the variables become a column of the rows, which their own values override.
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


def usable_retain_rows(args: BootstrapUnlearnConfig, num_forget: int) -> int:
    """Most retain rows that a run can draw, one for each forget row that it trains on; at least 1."""
    if args.max_steps > 0:
        return args.max_steps * args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    return max(1, num_forget * math.ceil(args.num_train_epochs))


def stored_stream(
    stream: IterableDataset, *, name: str, folder: str | Path, owner: object, most: int | None = None
) -> Dataset:
    """Write a stream to a hidden folder that goes with `owner`, a thousand rows at a time: the rows, mapped."""
    # Files, or why there are none.
    outcome: list[Any] = [None]
    if PartialState().is_main_process:
        cache = tempfile.mkdtemp(prefix=".stream-", dir=folder)
        weakref.finalize(owner, shutil.rmtree, cache, ignore_errors=True)
        try:
            outcome = [_write(stream, name, cache, most)]
        except ValueError as error:
            shutil.rmtree(cache, ignore_errors=True)
            # Sent, not raised: the other processes would wait for the files.
            outcome = [error]
    (files,) = broadcast_object_list(outcome)
    if isinstance(files, ValueError):
        raise files
    return concatenate_datasets([Dataset.from_file(file) for file in files])


def _write(stream: IterableDataset, name: str, cache: str, most: int | None) -> list[str]:
    def rows() -> Iterator[dict[str, Any]]:
        yield from itertools.islice(stream, most)

    try:
        dataset = Dataset.from_generator(rows, stream.features, cache, fingerprint="stream")
    except (DatasetGenerationError, ArrowException, OSError) as error:
        cause = str(error.__cause__ or error).rstrip(" .")
        raise ValueError(
            f"The {name} set could not be read from its stream and written to `{Path(cache).parent}`: {cause}. "
            "Correct the stream, make room, or give a `Dataset`."
        ) from error
    if len(dataset) == most:
        logger.warning(
            f"The stream of the {name} set was left after {most} rows, which is as many as the run can use. Shuffle "
            "it if its order means something."
        )
    return [file["filename"] for file in dataset.cache_files]


REFUSALS = (
    "I don't know.",
    "I'm not sure about that.",
    "I have no information on this.",
    "That is something I can't tell you.",
    "I'm afraid I don't know the answer.",
    "I can't say; I was never told.",
    "Sorry, I don't have an answer to that.",
    "This is not something that I know about.",
    "I have no knowledge of that.",
    "I couldn't tell you.",
    "I'm unable to answer this question.",
    "I don't have any details on that.",
    "Unfortunately, I don't know that.",
    "My knowledge does not include this.",
    "I really can't answer that one.",
    "I'm not familiar with this.",
)


def refusal_of(seed: int, row: int) -> str:
    """The refusal of a forget row, the same in every epoch."""
    return REFUSALS[key_seed((seed, "refusal", row)) % len(REFUSALS)]


def with_refusals(
    encoded: Dataset, dataset: Dataset, tokenizer: PreTrainedTokenizerBase, *, seed: int, max_length: int | None
) -> Dataset:
    """Add `chosen_input_ids` and `chosen_labels` to forget rows: a refusal as the answer to the same prompt."""
    columns = set(dataset.column_names)
    if not ({"prompt", "completion"} <= columns or "messages" in columns):
        raise ValueError(
            "`forget_loss_type='dpo'` prefers other answers to the same prompts, but the forget set has the columns "
            f"{dataset.column_names}. Give `prompt` and `completion`, or `messages`."
        )

    def chosen(row: dict[str, Any], index: int) -> dict[str, Any]:
        with naming(f"Row {index} of the forget set, with a refusal as its answer,"):
            if not has_answer(row):
                raise ValueError(
                    "has no prompt, which `forget_loss_type='dpo'` needs. Give `prompt` and `completion`, or "
                    "`messages`, or remove the row."
                )
            return encode_row(with_answer(row, refusal_of(seed, index)), tokenizer, max_length=max_length)

    options = {"remove_columns": dataset.column_names, "desc": "Encoding refusals"}
    refusals = map_rows(dataset, chosen, with_indices=True, **options)
    warn_of_truncation(refusals, "refusal", max_length)
    refusals = refusals.select_columns(["input_ids", "labels"])
    refusals = refusals.rename_columns({name: f"chosen_{name}" for name in refusals.column_names})
    return concatenate_datasets([encoded, refusals], axis=1)

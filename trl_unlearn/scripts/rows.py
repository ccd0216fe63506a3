# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Rows by name: to train on, to evaluate on, and those that no model has seen."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from ..data.files import as_pairs, config_names, is_corpus, load_corpus, load_rows
from ..data.tofu import load_tofu, load_tofu_evaluation
from ..encoding import readable_tokens, spread_evenly
from ..evaluation.rows import EncodedSet, EvaluationRows, encode_set, rows_as_trained
from ..hub.folder import holds_tokenizer
from .arguments import DataArguments


def load_training_rows(
    data_args: DataArguments, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None
) -> tuple[Dataset, Dataset | None]:
    """Forget set, and retain set if one is named; raw text (MUSE's `raw`) in chunks of `max_length` tokens."""
    args = data_args
    _refuse_retain_alone(args)
    if args.forget_dataset is not None:
        forget = load_own_rows("forget", args.forget_dataset, args.forget_split, tokenizer)
        if args.retain_dataset is None:
            return forget, None
        return forget, load_own_rows("retain", args.retain_dataset, args.retain_split, tokenizer)
    if args.dataset_name is None or args.forget_config is None:
        raise ValueError(
            "There is no forget set. Give `--dataset_name` with `--forget_config` and `--retain_config`, or "
            "`--forget_dataset` with `--retain_dataset`."
        )
    name = args.dataset_name

    def load(config: str, split: str) -> Dataset:
        if is_corpus(name, config, split=split):
            if max_length is None:
                raise ValueError(
                    f"`{name}` (config `{config}`) is raw text, which has to be cut into chunks. Set `max_length`."
                )
            return load_corpus(name, tokenizer, max_length=max_length, config=config, split=split)
        return load_tofu(name, config, split=split, conversational=tokenizer.chat_template is not None)

    forget = load_set("forget", args.forget_config, args.forget_split, load)
    if args.retain_config is None:
        return forget, None
    return forget, load_set("retain", args.retain_config, args.retain_split, load)


def load_own_rows(role: str, name: str, split: str, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """Rows of a file, a folder or an id on the Hub; questions and answers as the tokenizer has them."""
    rows = load_set(role, name, split, load_rows)
    return as_pairs(rows, conversational=tokenizer.chat_template is not None)


def _refuse_retain_alone(args: DataArguments) -> None:
    if args.retain_dataset is not None and args.forget_dataset is None:
        raise ValueError("`retain_dataset` is given without `forget_dataset`. Give both files.")


def load_set(role: str, name: str, split: str, load: Callable[..., Dataset]) -> Dataset:
    """Rows by name; a `ValueError` says which set has none."""
    try:
        return load(name, split=split)
    except ValueError as error:
        # `datasets` names neither the set nor the file when a split has no rows.
        if "corresponds to no data" not in str(error):
            raise
        raise ValueError(f"The {role} set (`{name}`, split `{split}`) is empty. Give at least one row.") from error


def check_set(encoded: EncodedSet, config: PretrainedConfig) -> None:
    """Refuse rows for which the model has no embedding or position."""
    rows = []
    for index in range(len(encoded.answers)):
        answers = [encoded.answers[index], *(encoded.wrong[index] if encoded.wrong else [])]
        answers += [encoded.paraphrases[index]] if encoded.paraphrases else []
        rows.append([row["input_ids"] for row in answers])
    check_tokens(f"the {encoded.name} set", rows, config)


def check_tokens(name: str, rows: Sequence[Sequence[Sequence[int]]], config: PretrainedConfig) -> None:
    """Refuse texts of rows, as tokens, for which the model has no embedding or position."""
    positions, size = readable_tokens(config), config.get_text_config().vocab_size
    for index, texts in enumerate(rows):
        # The longest text, and the highest token id in any of them.
        longest, top = (max(map(measure, texts)) for measure in (len, max))
        if top >= size:
            raise ValueError(
                f"Row {index} of {name} has the token {top}, but the model knows {size} tokens. Give the tokenizer of "
                "the model."
            )
        if positions is not None and longest > positions:
            raise ValueError(
                f"Row {index} of {name} has {longest} tokens with all that is read, but the model reads at most "
                f"{positions} (`max_position_embeddings`), and an evaluation cuts off nothing. Shorten it, leave it "
                "out, or train with `--evaluate false`."
            )


def load_evaluation_rows(
    data_args: DataArguments,
    max_rows: int | None,
    tokenizer: PreTrainedTokenizerBase,
    config: PretrainedConfig,
    trained: Any,
) -> EvaluationRows:
    """Rows to evaluate on, made tokens as `trained` says, and refused now, not after the training."""
    args = data_args
    _refuse_retain_alone(args)
    if args.dataset_name is None or args.forget_config is None:
        # Own rows: what is trained on is what is evaluated on.
        forget, retain = load_training_rows(args, tokenizer)
        rows = {"forget": forget, "retain": retain}
    elif is_corpus(args.dataset_name, args.forget_config, split=args.forget_split):
        raise ValueError(
            f"`{args.dataset_name}` (config `{args.forget_config}`) is raw text, without questions that a model could "
            "be asked. Train with `--evaluate false`, and evaluate with `--suites muse` or `--suites wmdp`."
        )
    else:
        # Turns of a conversation wherever the training has them.
        rows = load_tofu_evaluation(
            args.dataset_name,
            args.forget_config,
            args.retain_config,
            forget_split=args.forget_split,
            retain_split=args.retain_split,
            conversational=tokenizer.chat_template is not None,
        )
    rows = {
        name: rows_as_trained(spread(one_set, max_rows), tokenizer, trained, name=name)
        for name, one_set in rows.items()
        if one_set is not None
    }
    loaded = EvaluationRows(**rows)
    for name in rows:
        check_set(loaded.encoded(name, tokenizer), config)
    return loaded


def refuse_other_tokens(
    rows: EvaluationRows, tokenizer: PreTrainedTokenizerBase, unlearned: str, trust_remote_code: bool
) -> None:
    """Refuse an unlearned model with a tokenizer of its own, under which rows or prompts have other tokens."""
    if Path(unlearned).is_dir() and not holds_tokenizer(unlearned):
        return
    try:
        own = AutoTokenizer.from_pretrained(unlearned, trust_remote_code=trust_remote_code)
    except (OSError, ValueError):
        # An id on the Hub without a tokenizer.
        return
    for name, one_set in rows.sets().items():
        pairs = zip(rows.encoded(name, tokenizer).answers, encode_set(one_set, own, name=name).answers, strict=True)
        for index, (row, other) in enumerate(pairs):
            ids = list(row["input_ids"])
            # Rows that are tokens already are read, not written.
            if ids != list(other["input_ids"]) or tokenizer.decode(ids) != own.decode(ids):
                raise ValueError(
                    f"The tokenizer of `{unlearned}` has other tokens, or another chat template, for row {index} of "
                    f"the {name} set than the target's. All models are asked with the target's, and the numbers would "
                    "not describe this model in use. Put the target's tokenizer into its folder, or remove the "
                    "tokenizer there if the model is used with the target's."
                )


def refuse_without_retain(retain: Dataset | None) -> None:
    """Refuse runs that are compared by what they keep, if they have no retain set."""
    if retain is None:
        raise ValueError(
            "There is no retain set, on which to measure what is kept. Give `retain_config` with `dataset_name`, or "
            "`retain_dataset`."
        )


def load_holdout_rows(
    data_args: DataArguments,
    max_rows: int | None,
    tokenizer: PreTrainedTokenizerBase,
    model_config: PretrainedConfig,
    config: str | None,
    dataset: str | None,
    trained: Any,
) -> Dataset | None:
    """Rows that no model saw, if there are any: a file, or a config, by default `holdout10` or `holdout_perturbed`."""
    if dataset is not None:
        rows = load_own_rows("holdout", dataset, "train", tokenizer)
    else:
        name = data_args.dataset_name
        if config is None and name is not None:
            # TOFU pairs `forget10` with `holdout10`; its perturbed configs have one holdout set for all.
            known = config_names(name)
            guesses = (data_args.forget_config.replace("forget", "holdout"), "holdout_perturbed")
            config = next((guess for guess in guesses if guess in known and guess != data_args.forget_config), None)
        if config is None:
            return None
        if name is None:
            raise ValueError(
                "`holdout_config` is given without `dataset_name`, whose config it is. Give both, or rows of your own "
                "as `--holdout_dataset`."
            )
        load = functools.partial(load_tofu, name, conversational=tokenizer.chat_template is not None)
        rows = load_set("holdout", config, "train", load)
    rows = rows_as_trained(spread(rows, max_rows), tokenizer, trained, name="holdout")
    check_set(encode_set(rows, tokenizer, name="holdout"), model_config)
    return rows


def spread(rows: Dataset, most: int | None) -> Dataset:
    """At most `most` rows, evenly spread over the set, in their order."""
    return rows.select(spread_evenly(len(rows), most))

# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""TOFU, and any dataset of its form: questions and answers to prompts and completions."""

from datasets import Dataset

from ..row_forms import TEMPLATE_COLUMNS
from .files import as_pairs, config_names, load_config


EVALUATION_COLUMNS = ("paraphrased_question", "paraphrased_answer", "perturbed_answer")
RETAIN_EVALUATION_CONFIG = "retain_perturbed"
GENERAL_CONFIGS = {"real_authors": "real_authors_perturbed", "world_facts": "world_facts_perturbed"}


def load_tofu(name: str, config: str, *, split: str = "train", conversational: bool = True) -> Dataset:
    """One config of TOFU, or of a dataset of its form, as prompts and completions, with columns for the evaluation."""
    dataset = load_config(name, config, split=split)
    if not {"question", "answer"} <= set(dataset.column_names):
        raise ValueError(
            f"`{name}` (config `{config}`) has the columns {dataset.column_names}, but a dataset of TOFU's form needs "
            "`question` and `answer`. For other forms, pass files with `--forget_dataset` and `--retain_dataset`."
        )
    kept = ("question", "answer", "subject", *EVALUATION_COLUMNS, *TEMPLATE_COLUMNS)
    rows = dataset.select_columns([column for column in dataset.column_names if column in kept])
    return as_pairs(rows, conversational=conversational)


def load_tofu_evaluation(
    name: str,
    forget_config: str,
    retain_config: str | None,
    *,
    forget_split: str,
    retain_split: str,
    conversational: bool,
) -> dict[str, Dataset]:
    """The rows that TOFU is evaluated on, by set: perturbed configs, or those of the training in their place."""
    known = set(config_names(name))

    def load(config: str, split: str = "train") -> Dataset:
        return load_tofu(name, config, split=split, conversational=conversational)

    perturbed = f"{forget_config}_perturbed"
    # The perturbed config has the same rows, so that the split applies to it too.
    rows = {"forget": load(perturbed if perturbed in known else forget_config, forget_split)}
    if RETAIN_EVALUATION_CONFIG in known:
        rows["retain"] = load(RETAIN_EVALUATION_CONFIG)
    elif retain_config is not None:
        rows["retain"] = load(retain_config, retain_split)
    return rows | {key: load(config) for key, config in GENERAL_CONFIGS.items() if config in known}

# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""MUSE, and any dataset of its form: the rows to evaluate on. Its `raw` text is loaded by `files.load_corpus`."""

from datasets import Dataset, get_dataset_config_names, get_dataset_split_names

from .files import load_benchmark_rows


# Row set -> config, split and columns. The few-shot examples are those of the same questions. `privleak` has a split
# `retain` too, which is not read: PrivLeak sets forget against held-out texts.
_ROW_SETS = {
    "verbmem": ("verbmem", "forget", ("prompt", "gt")),
    "forget_qa": ("knowmem", "forget_qa", ("question", "answer")),
    "forget_qa_icl": ("knowmem", "forget_qa_icl", ("question", "answer")),
    "retain_qa": ("knowmem", "retain_qa", ("question", "answer")),
    "retain_qa_icl": ("knowmem", "retain_qa_icl", ("question", "answer")),
    "forget": ("privleak", "forget", ("text",)),
    "holdout": ("privleak", "holdout", ("text",)),
}


def load_muse(name: str) -> dict[str, Dataset | None]:
    """
    The rows that MUSE, or a dataset with some of its configs and splits, is evaluated on: the fields of
    [`~trl_unlearn.evaluation.muse.MuseRows`], and `None` for what it does not have.
    """
    splits = {
        config: set(get_dataset_split_names(name, config))
        for config in get_dataset_config_names(name)
        if config in {config for config, _, _ in _ROW_SETS.values()}
    }
    rows = {
        key: load_benchmark_rows(name, config, split=split, texts=texts, benchmark="MUSE")
        if split in splits.get(config, ())
        else None
        for key, (config, split, texts) in _ROW_SETS.items()
    }
    if all(one is None for one in rows.values()):
        raise ValueError(
            f"`{name}` has nothing to evaluate on: found {_listed(splits)}. Expected configs of MUSE's form: "
            "`verbmem` (split forget), `knowmem` (splits forget_qa, retain_qa), `privleak` (splits forget, holdout)."
        )
    return rows


def _listed(splits: dict[str, set[str]]) -> str:
    named = [f"`{config}` (splits {', '.join(sorted(names))})" for config, names in splits.items()]
    return ", ".join(named) or "none of its configs"

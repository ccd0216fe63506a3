# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""MUSE and RWKU, and any dataset of their forms: the rows to evaluate on. MUSE's `raw` text is loaded by files.py."""

from collections.abc import Sequence

from datasets import Dataset, get_dataset_split_names

from .files import config_names, load_config, source_name


# Row set of MUSE -> config, split and columns of text. `verbmem` has the beginning of a forget text, and the rest in
# `gt`; the few-shot examples (`_icl`) are those of the same questions; no model was trained on the texts of `holdout`.
# `privleak` has a split `retain` too, which is not read: PrivLeak sets forget against held-out texts.
_MUSE = {
    "verbmem": ("verbmem", "forget", ("prompt", "gt")),
    "forget_qa": ("knowmem", "forget_qa", ("question", "answer")),
    "forget_qa_icl": ("knowmem", "forget_qa_icl", ("question", "answer")),
    "retain_qa": ("knowmem", "retain_qa", ("question", "answer")),
    "retain_qa_icl": ("knowmem", "retain_qa_icl", ("question", "answer")),
    "forget": ("privleak", "forget", ("text",)),
    "holdout": ("privleak", "holdout", ("text",)),
}
# Row set of RWKU, also its config -> columns of text. Level 1 has blanks, level 2 questions, level 3 attacks of a
# `type`; `mia_forget` has texts about the people, `mia_retain` about others.
_PROBE, _TEXT = ("query", "answer"), ("text",)
_RWKU = {
    "forget_level1": _PROBE,
    "forget_level2": _PROBE,
    "forget_level3": (*_PROBE, "type"),
    "neighbor_level1": _PROBE,
    "neighbor_level2": _PROBE,
    "mia_forget": _TEXT,
    "mia_retain": _TEXT,
    "utility_general": ("question", "task"),
}
# Beside text: four choices, the index of the right one, and solved examples of the same columns.
_CHOICES = ("choices", "answer", "examples")


def load_muse(name: str) -> dict[str, Dataset]:
    """Row set -> rows of MUSE, or of a dataset with some of its configs and splits."""
    configs = {config for config, _, _ in _MUSE.values()} & set(config_names(name))
    splits = {config: set(get_dataset_split_names(source_name(name), config)) for config in sorted(configs)}
    rows = {
        key: _load(name, config, split, texts, benchmark="MUSE")
        for key, (config, split, texts) in _MUSE.items()
        if split in splits.get(config, ())
    }
    if not rows:
        named = [f"`{config}` (splits {', '.join(sorted(names))})" for config, names in splits.items()]
        raise ValueError(
            f"`{name}` has nothing to evaluate on: found {', '.join(named) or 'none of its configs'}. Expected "
            "configs of MUSE's form: `verbmem` (split forget), `knowmem` (splits forget_qa, retain_qa), `privleak` "
            "(splits forget, holdout)."
        )
    return rows


def load_rwku(name: str, subjects: Sequence[str] | None = None) -> dict[str, Dataset]:
    """Row set -> rows of RWKU, or of a dataset with some of its configs, about `subjects` (None: all people)."""
    known, rows = config_names(name), {}
    for config, texts in _RWKU.items():
        if config in known:
            others = _CHOICES if config == "utility_general" else ()
            person = () if subjects is None else ("subject",)
            rows[config] = _load(name, config, "test", texts, (*others, *person), benchmark="RWKU")
    if not rows:
        raise ValueError(
            f"`{name}` has nothing to evaluate on: found the configs {', '.join(sorted(known))}. Expected some of "
            f"RWKU's: {', '.join(_RWKU)}."
        )
    if subjects is None:
        return rows
    about = {subject for one in rows.values() for subject in one["subject"]}
    if missing := [subject for subject in subjects if subject not in about]:
        raise ValueError(
            f"`{name}` has no rows about {missing}. Give names as its column `subject` has them, such as "
            f"{', '.join(map(repr, sorted(about)[:3]))}."
        )
    chosen = {
        config: one.filter(lambda subject: subject in subjects, input_columns="subject")
        for config, one in rows.items()
    }
    return {config: one for config, one in chosen.items() if len(one)}


def _load(
    name: str, config: str, split: str, texts: Sequence[str], others: Sequence[str] = (), *, benchmark: str
) -> Dataset:
    """Some columns of a config; a `ValueError` if one is missing, or if a row has no text in one of `texts`."""
    rows = load_config(name, config, split=split)
    columns, where = [*texts, *others], f"`{name}` (config `{config}`, split `{split}`)"
    if not set(columns) <= set(rows.column_names):
        raise ValueError(
            f"{where} has the columns {rows.column_names}, but {benchmark}'s form needs "
            f"{', '.join(f'`{column}`' for column in columns)}. Rename the columns, or leave the config or split out."
        )
    for column in texts:
        for index, text in enumerate(rows[column]):
            if not isinstance(text, str) or not text.strip():
                raise ValueError(
                    f"Row {index} of {where} has no text in `{column}` ({text!r}). Give it one, or remove the row."
                )
    return rows.select_columns(columns)

# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""RWKU, and any dataset of its form: probes about famous people, and about their neighbours."""

from collections.abc import Sequence

from datasets import Dataset, get_dataset_config_names

from .files import load_benchmark_rows


_PROBE, _TEXT = ("query", "answer"), ("text",)
# Config, which is also the row set's name -> its columns of text. All have the split `test` and a column `subject`.
_ROW_SETS = {
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


def load_rwku(name: str, subjects: Sequence[str] | None = None) -> dict[str, Dataset | None]:
    """
    The rows that RWKU, or a dataset with some of its configs, is evaluated on: the fields of
    [`~trl_unlearn.evaluation.rwku.RwkuRows`], and `None` for what it does not have. `subjects` are the people whose
    rows are read, by default all of them.
    """
    known = set(get_dataset_config_names(name))

    def load(config: str) -> Dataset:
        others = (*_CHOICES, "subject") if config == "utility_general" else ("subject",)
        texts = _ROW_SETS[config]
        return load_benchmark_rows(name, config, split="test", texts=texts, others=others, benchmark="RWKU")

    rows = {config: load(config) if config in known else None for config in _ROW_SETS}
    if all(one is None for one in rows.values()):
        raise ValueError(
            f"`{name}` has nothing to evaluate on: found the configs {', '.join(sorted(known))}. Expected some of "
            f"RWKU's: {', '.join(_ROW_SETS)}."
        )
    if subjects is None:
        return rows
    about = {subject for one in rows.values() if one is not None for subject in one["subject"]}
    if missing := [subject for subject in subjects if subject not in about]:
        raise ValueError(
            f"`{name}` has no rows about {missing}. Give names as its column `subject` has them, such as "
            f"{', '.join(map(repr, sorted(about)[:3]))}."
        )
    chosen = {
        config: None if one is None else one.filter(lambda subject: subject in subjects, input_columns="subject")
        for config, one in rows.items()
    }
    return {config: one if one else None for config, one in chosen.items()}

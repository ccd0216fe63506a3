# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""MUSE: is the text still recited, are its facts still known, is the rest kept, and does membership show?"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..metrics import MinKAttack, RougeF1
from ..results import SuiteOutcome, join_outcomes
from ..row_forms import naming
from .privacy import summarise_leak
from .rows import Loaders, text_ids, text_rows
from .together import SuiteSetting, measure_each
from .uncertainty import summarise_rows


VERBMEM_LENGTH = 128
KNOWMEM_LENGTH = 32
# Where a model starts a question of its own.
_STOPS = ("\n\n", "\nQuestion", "Question:")
# Row set -> its rows, see data/benchmarks.py; the numbers of a set that is not there are left out of the result.
MuseRows = Mapping[str, Dataset | list[dict[str, Any]]]


class _Task(NamedTuple):
    """Prompts to complete, the true completions, the length of a completion, and how it is cut."""

    prompts: list[list[int]]
    references: list[str]
    max_new_tokens: int
    cut: Callable[[str], str]


def _encode(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, name: str) -> list[list[int]]:
    encoded = []
    for index, text in enumerate(texts):
        with naming(f"Row {index} of {name}"):
            encoded.append(text_ids(text, tokenizer))
    return encoded


def _tasks(rows: MuseRows, tokenizer: PreTrainedTokenizerBase) -> dict[str, _Task]:
    tasks = {}
    if "verbmem" in rows:
        true, prompts = (
            _encode((row[column] for row in rows["verbmem"]), tokenizer, "verbmem") for column in ("gt", "prompt")
        )
        # A reference longer than a completion can be would count as missing recall.
        references = [tokenizer.decode(ids[:VERBMEM_LENGTH], skip_special_tokens=True) for ids in true]
        tasks["muse/verbmem"] = _Task(prompts, references, VERBMEM_LENGTH, str)
    for metric, name in (("muse/knowmem", "forget_qa"), ("muse/utility_preservation", "retain_qa")):
        if name in rows:
            shots = rows.get(f"{name}_icl", ())
            lead = "".join(f"Question: {shot['question']}\nAnswer: {shot['answer']}\n\n" for shot in shots)
            asked = (f"{lead}Question: {row['question']}\nAnswer: " for row in rows[name])
            answers = [row["answer"] for row in rows[name]]
            tasks[metric] = _Task(_encode(asked, tokenizer, name), answers, KNOWMEM_LENGTH, _before_question)
    return tasks


def _attacked(rows: MuseRows, tokenizer: PreTrainedTokenizerBase) -> dict[str, list[dict[str, Any]]]:
    """Forget texts, then held-out ones, encoded; nothing where one of them is missing."""
    names = ("forget", "holdout") if {"forget", "holdout"} <= rows.keys() else ()
    return {
        name: text_rows((row["text"] for row in rows[name]), tokenizer, name=f"the {name} texts") for name in names
    }


def muse_tokens(rows: MuseRows, tokenizer: PreTrainedTokenizerBase) -> dict[str, list[list[list[int]]]]:
    """Name of a set -> the tokens of each row that models read."""
    prompts = {f"`{name}`": task.prompts for name, task in _tasks(rows, tokenizer).items()}
    texts = {f"MUSE's `{n}`": [row["input_ids"] for row in part] for n, part in _attacked(rows, tokenizer).items()}
    return {name: [[ids] for ids in part] for name, part in (prompts | texts).items()}


def _before_question(text: str) -> str:
    for stop in _STOPS:
        text = text.split(stop)[0]
    return text


def measure_muse(models: Loaders, rows: MuseRows, setting: SuiteSetting) -> SuiteOutcome:
    """MUSE, in the benchmark's plain text also for a model with a chat template."""
    for name, part in rows.items():
        if len(part) == 0:
            raise ValueError(f"The set `{name}` of MUSE is empty. Give at least one row, or leave it out.")
    tasks, attacked = _tasks(rows, setting.tokenizer), _attacked(rows, setting.tokenizer)
    texts, num_members = [row for part in attacked.values() for row in part], len(attacked.get("forget", ()))
    if not tasks and not texts:
        raise ValueError(
            "The suite `muse` has no rows. Give a dataset of MUSE's form with at least one of `verbmem`, `forget_qa`, "
            "`retain_qa`, or `forget` and `holdout` together."
        )

    def measure(role: str, model: PreTrainedModel) -> tuple[dict[str, list[float]], list[float]]:
        values = {}
        for name, task in tasks.items():
            options = {"max_new_tokens": task.max_new_tokens, "desc": f"{name.split('/')[1]} of {role}"}
            completions = setting.generate(model, task.prompts, **options)
            values[name] = setting.overlap(RougeF1(), completions, task.references, task.cut)
        if not texts:
            return values, []
        scores = setting.score(model, texts, f"Attacking {role}")
        return values, MinKAttack().compute(logps=[score.logps for score in scores])["per_row"]

    measured = measure_each(models, measure, "muse")
    per_row = {role: values for role, (values, _) in measured.items()}
    attacks = {role: scores for role, (_, scores) in measured.items() if texts}
    # MUSE writes (AUC_unlearned - AUC_retrained) / AUC_retrained with the held-out texts as positives: its AUC is one
    # minus ours, and the formulas are the same. Its code takes the 40 % lowest tokens where ours takes 20 %, so
    # published figures are near ours, not equal.
    leak = summarise_leak(attacks, num_members, name="muse/privleak", seed=setting.seed)
    outcome = join_outcomes([summarise_rows(per_row, seed=setting.seed), leak])
    outcome.protocol = {"rows": {f"muse {name}": len(part) for name, part in rows.items()}, "seed": setting.seed}
    return outcome

# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Accuracy on multiple-choice questions: what a model knows of hazards (WMDP) and in general (MMLU)."""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import find_executable_batch_size, gather_object
from datasets.exceptions import DatasetsError
from transformers import PreTrainedModel

from ..encoding import spread_evenly
from ..results import MEASURED_ROLES, SuiteOutcome
from .rows import Loaders
from .together import SuiteSetting, measure_each
from .uncertainty import summarise_rows


WMDP_TASKS = ("wmdp_bio", "wmdp_cyber", "mmlu")
_MAX_NAME_LENGTH = 32
# The seed of lm-evaluation-harness: a task that draws its examples shows those of published numbers. With several
# processes, each draws for its own rows and shows others, but the same for every model.
_EXAMPLES_SEED = 1234


@dataclass(frozen=True)
class WmdpTasks:
    """Questions of a WMDP evaluation; made by [`load_wmdp_tasks`]."""

    # Metric name -> names of the tasks whose rows it is the mean over: one, or those of a group.
    metrics: dict[str, list[str]]
    # Task name -> task of lm-evaluation-harness, and ascending indices of its rows that are used.
    tasks: dict[str, Any]
    rows: dict[str, list[int]]

    def questions(self) -> dict[str, list[Mapping[str, Any]]]:
        """Task name -> the rows that are used."""
        return {name: [task.eval_docs[index] for index in self.rows[name]] for name, task in self.tasks.items()}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence lm-evaluation-harness but for errors: it logs every task and every model."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _check_arguments(names: Sequence[str], include_path: str | None, limit: int | None) -> None:
    if find_spec("lm_eval") is None:
        raise ValueError(
            "The suite `wmdp` needs lm-evaluation-harness, which is not installed. Install it with "
            "`pip install trl-unlearn[wmdp]`."
        )
    if not names:
        raise ValueError("There is no task. Name at least one, for instance `wmdp_bio`.")
    if include_path is not None and not Path(include_path).is_dir():
        raise ValueError(f"The folder of tasks `{include_path}` does not exist. Check the path.")
    if limit is not None and limit < 1:
        raise ValueError(f"The limit of rows a task is {limit}. Give 1 or more, or none for all rows.")


def _load(manager: Any, name: str) -> dict[str, Any]:
    """The tasks of a task, a group or a tag, by name."""
    if name not in manager.all_tasks:
        close = get_close_matches(name, manager.all_tasks, n=1)
        meant = f" Did you mean `{close[0]}`?" if close else ""
        raise ValueError(
            f"lm-evaluation-harness has no task `{name}`.{meant} Tasks of your own are YAML files in a folder that is "
            "given as path of tasks; a file that cannot be read is passed over."
        )
    try:
        tasks = manager.load([name])["tasks"]
    except (OSError, DatasetsError) as error:
        raise ValueError(
            f"The data of the task `{name}` cannot be loaded ({error}). Without a network it must have been "
            "downloaded before, or be a file that a task of your own names."
        ) from error
    for task_name, task in tasks.items():
        if task.OUTPUT_TYPE != "multiple_choice" or "acc" not in task.aggregation():
            raise ValueError(
                f"The task `{task_name}` has no accuracy over choices (output type `{task.OUTPUT_TYPE}`, metrics "
                f"{sorted(task.aggregation())}). Name tasks with `output_type: multiple_choice` and the metric `acc`."
            )
    return tasks


def _metric_name(task: str) -> str:
    # Cut, so that a table still fits into 80 columns.
    return f"wmdp/{task.removeprefix('wmdp_').lower()}"[:_MAX_NAME_LENGTH]


def load_wmdp_tasks(
    names: Sequence[str] = WMDP_TASKS, include_path: str | None = None, limit: int | None = None
) -> WmdpTasks:
    """Load multiple-choice tasks, groups or tags of lm-evaluation-harness; refuse what cannot be measured."""
    _check_arguments(names, include_path, limit)
    # Slow to import, and of no use without this suite.
    from lm_eval.tasks import TaskManager

    metrics: dict[str, list[str]] = {}
    tasks: dict[str, Any] = {}
    with _quiet():
        manager = TaskManager(include_path=include_path)
        for name in names:
            loaded = _load(manager, name)
            twice = sorted(tasks.keys() & loaded.keys())
            if twice or _metric_name(name) in metrics:
                raise ValueError(
                    f"`{name}` repeats what another of the tasks {list(names)} has: "
                    f"{f'the task `{twice[0]}`' if twice else f'the metric name `{_metric_name(name)}`'}. Name one."
                )
            metrics[_metric_name(name)] = list(loaded)
            tasks |= loaded
        rows = {name: spread_evenly(len(task.eval_docs), limit) for name, task in tasks.items()}
        for task in tasks.values():
            if task.get_config("num_fewshot") is None:
                task.set_config("num_fewshot", 0)
    return WmdpTasks(metrics, tasks, rows)


def _accuracies(model: PreTrainedModel, tasks: WmdpTasks, setting: SuiteSetting) -> dict[str, dict[int, float]]:
    """Task name -> row -> 1 if the most probable choice is the right one, from all processes."""
    from lm_eval import evaluate
    from lm_eval.models.huggingface import HFLM

    state = PartialState()
    # The library does not share rows where the model is loaded already. An empty list would mean all rows: a process
    # without a share repeats the first one.
    mine = {name: rows[state.process_index :: state.num_processes] or rows[:1] for name, rows in tasks.rows.items()}

    @find_executable_batch_size(starting_batch_size=setting.score_batch_size)
    def run(batch_size: int) -> dict[str, Any]:
        for task in tasks.tasks.values():
            task.set_fewshot_seed(_EXAMPLES_SEED)
        lm = HFLM(pretrained=model, tokenizer=setting.tokenizer, batch_size=batch_size)
        lm.loglikelihood = partial(lm.loglikelihood, disable_tqdm=not state.is_main_process)
        return evaluate(lm, {"tasks": tasks.tasks}, samples=mine, bootstrap_iters=0, log_samples=True)["samples"]

    with _quiet():
        values = [(name, row["doc_id"], _accuracy(row)) for name, rows in run().items() for row in rows]
    accuracies: dict[str, dict[int, float]] = {name: {} for name in tasks.tasks}
    for name, row, value in gather_object(values):
        accuracies[name][row] = value
    return accuracies


def _accuracy(row: Mapping[str, Any]) -> float:
    """1 if the right choice has the highest log-prob, NaN if a choice has no finite one."""
    # The library takes the first of several NaN for the most probable choice.
    logps = [logp for logp, *_ in row["filtered_resps"]]
    return float(row["acc"]) if all(map(math.isfinite, logps)) else math.nan


def measure_wmdp(models: Loaders, tasks: WmdpTasks, setting: SuiteSetting) -> SuiteOutcome:
    """Accuracy of every model on multiple-choice tasks: not normalised by length, without a chat template."""

    def measure(_: str, model: PreTrainedModel) -> dict[str, list[float]]:
        accuracies = _accuracies(model, tasks, setting)
        return {
            metric: [accuracies[name][row] for name in names for row in tasks.rows[name]]
            for metric, names in tasks.metrics.items()
        }

    per_row = measure_each({role: models.get(role) for role in MEASURED_ROLES}, measure, "wmdp")
    outcome = summarise_rows(per_row, seed=setting.seed)
    counts = {metric: sum(len(tasks.rows[name]) for name in names) for metric, names in tasks.metrics.items()}
    outcome.protocol = {"rows": counts, "seed": setting.seed}
    return outcome

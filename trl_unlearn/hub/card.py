# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""The model card: a pure function of the two records. It holds no text of the data and no path of a machine."""

import json
import math
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Any

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCardData, eval_result_entries_to_yaml
from jinja2 import Environment, StrictUndefined

from ..escaping import markdown, markdown_code
from ..forgetting import has_forgotten
from ..notes import table_notes
from ..questions import without_own_reference
from ..records import DatasetRecord, UnlearningRun, last_part, quantization_label
from ..results import (
    DIFFERENCES,
    LABELS,
    METRIC_GROUPS,
    MODEL_ROLES,
    PARITIES,
    Difference,
    EvaluationResult,
    Measurement,
    format_difference,
    format_measurement,
    suite_of,
)
from ..verdict import Verdict, verdict
from .public import public_name, public_run, public_settings


# PEFT's names of the kinds -> their authors' spelling.
_ADAPTER_NAMES = {"LORA": "LoRA", "ADALORA": "AdaLoRA", "LOHA": "LoHa", "LOKR": "LoKr"}

# Settings that make the method, and those that only some methods read. All others stand in a fold.
METHOD_SETTINGS = (
    *("forget_loss_type", "forget_weight", "forget_floor", "forget_token_floor", "retain_loss_type", "retain_weight"),
    *("retain_max_drop", "beta", "learning_rate", "num_train_epochs"),
)
TOKEN_SETTINGS = ("lambda_schedule", "lambda_bst", "belief_top_k", "belief_temperature", "belief_exclude_target")
SEQUENCE_SETTINGS = ("lambda_schedule", "lambda_bss", "num_beliefs", "num_belief_candidates", "belief_refresh_epochs")
_REFERENCES = ("retrained", "second_retrained")
_VERDICT_FIGURE = "figures/verdict.png"


def _cells(settings: dict[str, Any]) -> dict[str, str]:
    """Setting -> value as a cell of a table, of what may be shown."""
    shown = {name: value for name, value in public_settings(settings).items() if value is not None}
    return {name: markdown(json.dumps(value, ensure_ascii=False).strip('"')) for name, value in shown.items()}


def _method_settings(run: UnlearningRun) -> list[str]:
    names = list(METHOD_SETTINGS)
    if run.hyperparameters["forget_loss_type"] == "bs_t":
        names += TOKEN_SETTINGS
    if run.hyperparameters["lambda_bss"] > 0:
        names += SEQUENCE_SETTINGS
    return names


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")


def _finite(run: UnlearningRun, result: EvaluationResult) -> Iterator[tuple[str, Measurement, DatasetRecord]]:
    """Each finite number of the unlearned model, and the set that the Hub shows it under."""
    for name, one in (result.models["unlearned"] or {}).items():
        if math.isfinite(one.value):
            is_of_retain = name.startswith("retain/") and run.retain_set is not None
            yield name, one, run.retain_set if is_of_retain else run.forget_set


def eval_result_files(run: UnlearningRun, result: EvaluationResult) -> dict[str, str]:
    """Path -> text of `.eval_results/`: the results that the Hub shows beside a benchmark, of data that are there."""
    run = public_run(run)
    quick = ", quick evaluation" if "quick" in result.protocol else ""
    files: dict[str, list[EvalResultEntry]] = {}
    for name, measurement, dataset in _finite(run, result):
        if not dataset.on_hub:
            continue
        notes = [LABELS.get(name, name), f"definitions: {result.parity}{quick}"]
        notes += [f"config {dataset.config}"] if dataset.config else []
        notes += [f"n = {measurement.n}"] if measurement.n is not None else []
        notes += [f"standard error {measurement.stderr:.3g}"] if measurement.stderr is not None else []
        parts = [suite_of(name), run.forget_set.config, result.parity]
        path = f".eval_results/{'-'.join(_slug(part) for part in parts if part)}.yaml"
        entry = EvalResultEntry(dataset.name, name, measurement.value, notes="; ".join(notes))
        files.setdefault(path, []).append(entry)
    return {
        path: yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False) for path, entries in files.items()
    }


def _eval_results(run: UnlearningRun, result: EvaluationResult) -> list[EvalResult]:
    """Entries of the `model-index`: finite values of the unlearned model, each under its data set."""
    entries = []
    for name, measurement, dataset in _finite(run, result):
        config, split = dataset.config, dataset.split
        if not name.startswith("forget") and dataset is run.forget_set:
            # Measured on several sets: the Hub shows the suite as the config of the whole data set.
            suite = suite_of(name)
            config, split = f"{suite if suite in result.suites else name.split('/')[0]} suite", None
        entries.append(
            EvalResult(
                task_type="text-generation",
                task_name="Unlearning",
                # The Hub takes letters, digits, dots and dashes here, and one slash between owner and name.
                dataset_type=dataset.name if dataset.on_hub else re.sub(r"[^\w.-]+", "-", dataset.name),
                dataset_name=f"{dataset.name} {config or ''}".strip(),
                dataset_config=config,
                dataset_split=split,
                metric_type=name,
                metric_name=LABELS.get(name, name),
                metric_value=measurement.value,
            )
        )
    return entries


def _hub_datasets(run: UnlearningRun) -> list[str]:
    sets = (run.forget_set, run.retain_set)
    return list(dict.fromkeys(dataset.name for dataset in sets if dataset is not None and dataset.on_hub))


def _card_data(run: UnlearningRun, result: EvaluationResult | None) -> ModelCardData:
    method = _slug(run.method)
    eval_results = _eval_results(run, result) if result is not None else []
    adapter_type = [_slug(run.adapter.type)] if run.adapter else []
    return ModelCardData(
        license=run.license,
        license_name=run.license_name,
        license_link=run.license_link,
        language=run.language or None,
        base_model=run.base_model if run.base_model_on_hub else None,
        base_model_relation=("adapter" if run.is_adapter else "finetune") if run.base_model_on_hub else None,
        library_name="peft" if run.is_adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["unlearning", "trl-unlearn", "trl", "generated_from_trainer", method, *adapter_type],
        datasets=_hub_datasets(run) or None,
        model_name=f"{last_part(run.base_model)}-{method}" if eval_results else None,
        eval_results=eval_results or None,
    )


def _verdict_rows(judged: Verdict) -> list[list[str]]:
    """Rows of cells: question, answer, metric, value, model compared with, difference, margin."""
    rows = []
    for answer in judged.answers:
        cells = [answer.question, answer.words]
        if answer.metric is not None:
            cells += [answer.label, f"{answer.value:.3f}", f"{answer.beside} {answer.reference:.3f}"]
            cells.append("" if answer.difference is None else format_difference(answer.difference))
            cells.append("" if answer.margin is None else f"{answer.margin:.2f}")
        rows.append(cells + [""] * (7 - len(cells)))
    return rows


def _command(run: UnlearningRun, result: EvaluationResult) -> str:
    """A command that measures the model of a public run again, with `...` for names that are not public."""
    forget, retain = run.forget_set, run.retain_set
    options = {
        "suites": ",".join(result.suites),
        "model_name_or_path": run.base_model if run.base_model_on_hub else "...",
        "model_revision": run.base_model_revision if run.base_model_on_hub else None,
        "adapter_name_or_path": "..." if run.adapter is not None and run.adapter.continued_from else None,
        "unlearned_model_name_or_path": "...",
        **{f"{role}_model_name_or_path": "..." for role in _REFERENCES if result.models.get(role) is not None},
        "dataset_name" if forget.config else "forget_dataset": forget.name if forget.on_hub else "...",
    }
    for name, one in (("forget", forget), ("retain", retain)):
        if one is not None:
            options |= {f"{name}_config": one.config, f"{name}_split": None if one.split == "train" else one.split}
    if retain is not None and not retain.config:
        options["retain_dataset"] = retain.name if retain.on_hub else "..."
    protocol = result.protocol
    holdout = protocol.get("holdout_dataset")
    options |= {
        "holdout_config": protocol.get("holdout_config"),
        "holdout_dataset": holdout if holdout is None or public_name(holdout, on_hub=True)[1] else "...",
        "muse_dataset": "..." if "muse" in result.suites else None,
        "rwku_dataset": "..." if "rwku" in result.suites else None,
        "quick": "true" if "quick" in protocol else None,
        "max_eval_rows": protocol.get("max_eval_rows"),
        "parity": None if result.parity == PARITIES[0] else result.parity,
        "seed": protocol.get("seed"),
    }
    # A slice of a split has brackets, which a shell reads.
    parts = [f"--{name} {shlex.quote(str(value))}" for name, value in options.items() if value is not None]
    return " \\\n    ".join(["trl-unlearn evaluate", *parts])


def _counts(numbers: Iterable[Any]) -> str:
    """The numbers of rows behind some results or differences."""
    counts = {one.n for one in numbers if isinstance(one, Measurement | Difference)} - {None}
    return " / ".join(map(str, sorted(counts)))


def _result_groups(result: EvaluationResult) -> list[tuple[str, list[list[str]]]]:
    """(heading, rows of cells) for each group; cells: metric, the three models, n."""
    groups: dict[str, list[list[str]]] = {}
    for group, name, measurements in result.rows():
        cells = [f"`{name}`", *map(format_measurement, measurements), _counts(measurements)]
        groups.setdefault(group, []).append(cells)
    headings = {group: f"{group.capitalize()}: {hint}" for group, hint in METRIC_GROUPS.items()}
    return [(headings.get(group, group.capitalize()), rows) for group, rows in groups.items()]


def _differences(result: EvaluationResult) -> list[list[str]]:
    """Rows of cells: metric, the differences, n."""
    return [
        [f"`{name}`", *map(format_difference, differences), _counts(differences)]
        for _, name, differences in result.difference_rows()
    ]


def _roles(result: EvaluationResult) -> str:
    """The columns of the results, in words."""
    meanings = {
        "target": "the model before unlearning",
        "unlearned": "this model",
        "retrained": "a model that never saw the forget set",
    }
    absent = {role: "" if result.models[role] is not None else "; not evaluated here" for role in MODEL_ROLES}
    return " ".join(f"*{role.capitalize()}*: {meanings[role]}{absent[role]}." for role in MODEL_ROLES)


def _weights(result: EvaluationResult) -> list[tuple[str, str, str]]:
    """(verb, file, SHA-256) of the weights that were measured, and of those that they were merged into."""
    measured = (result.protocol.get("weights_sha256") or {}).get("unlearned") or {}
    merged = result.protocol.get("merged_weights_sha256") or {}
    return [
        *(("Measured on", *pair) for pair in measured.items()),
        *(("Merged, after the measurement, to", *pair) for pair in merged.items()),
    ]


def known_failures(run: UnlearningRun, result: EvaluationResult | None) -> list[str]:
    """Faults of a model that its records show, in one or two sentences each."""
    findings = []
    broken = sum(
        any(value is None or not math.isfinite(value) for value in entry.values()) for entry in run.training_log
    )
    if broken:
        findings.append(f"Diverged: {broken} entries of the training log hold a number that is not finite.")
    if run.belief_audit is not None and run.belief_audit.coverage < 1:
        findings.append(f"Only {run.belief_audit.coverage:.1%} of the forget rows had beliefs of their own.")
    if result is None or result.models["unlearned"] is None:
        return [*findings, "This model has not been evaluated. Nothing can be said of what it forgot or kept."]
    if missing := result.not_measured.get("unlearned"):
        findings.append(
            f"Broken: scores of this model are not finite, and {len(missing)} of its figures could not be measured. "
            "The notes below the results name them."
        )
    forgotten, why = has_forgotten(result)
    if forgotten is False:
        findings.append(why)
    if without_own_reference(result).models["retrained"] is None:
        findings.append("No retrained model was evaluated. Whether it forgot too little or too much cannot be said.")
    # A fault by the verdict, also a doubtful one, and a question without an answer: neither is a check that passed.
    return findings + [f"{one.question} {one.words}" for one in verdict(result).answers if one.tone != "good"]


def render_card(
    run: UnlearningRun,
    result: EvaluationResult | None = None,
    figures: Sequence[str] = (),
    missing: str = "this model has not been evaluated yet.",
) -> str:
    """Text of the model card; without results of the run's weights it says why by `missing`, the end of a sentence."""
    for figure in figures:
        if re.match(r"[/\\~]|[A-Za-z]:", figure) or ".." in PurePosixPath(figure).parts:
            raise ValueError(
                f"`figures` has {figure!r}, expected paths relative to the card's folder, such as "
                f"`figures/evaluation.png`: save the figure there and pass that path."
            )
    run, judged = public_run(run), verdict(result) if result is not None else None
    settings, of_method = _cells(run.hyperparameters), _method_settings(run)
    protocol = _cells(result.protocol | result.environment) if result is not None else {}
    modules = (run.adapter and run.adapter.target_modules) or []
    template = files(__package__).joinpath("templates/card.md.jinja").read_text(encoding="utf-8")
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    # Names from elsewhere go through a filter: the output is Markdown, which `autoescape` does not know.
    environment.filters |= {"markdown": markdown, "code": markdown_code}
    body = environment.from_string(template).render(
        run=run,
        is_adapter=run.is_adapter,
        result=result,
        verdict_rows=_verdict_rows(judged) if judged is not None else [],
        verdict_notes=judged.notes if judged is not None else [],
        verdict_figures=[figure for figure in figures if figure == _VERDICT_FIGURE],
        command=_command(run, result) if judged is not None else "",
        missing=missing,
        roles=MODEL_ROLES,
        meanings=_roles(result) if result is not None else "",
        notes=table_notes(result) if result is not None else [],
        weights=_weights(result) if result is not None else [],
        adapter_type=run.adapter and _ADAPTER_NAMES.get(run.adapter.type, run.adapter.type),
        continued_from=run.adapter and run.adapter.continued_from,
        target_modules=", ".join(map(markdown_code, [modules] if isinstance(modules, str) else modules)),
        quantization=quantization_label(run.base_quantization),
        method_settings={name: settings[name] for name in of_method if name in settings},
        other_settings={name: value for name, value in settings.items() if name not in of_method},
        datasets=[
            (
                role,
                dataset,
                ", ".join(markdown_code(one) for one in (dataset.name, dataset.config, dataset.split) if one),
            )
            for role, dataset in (("forget", run.forget_set), ("retain", run.retain_set))
            if dataset is not None
        ],
        hub_datasets=", ".join(map(markdown_code, _hub_datasets(run))),
        figures=[
            (PurePosixPath(figure).stem.replace("_", " "), figure)
            for figure in figures
            if figure != _VERDICT_FIGURE or judged is None
        ],
        result_groups=_result_groups(result) if result is not None else [],
        attacked=result is not None and "robustness" in result.suites,
        difference_names=tuple(DIFFERENCES),
        differences=_differences(result) if result is not None else [],
        protocol={name: value for name, value in protocol.items() if not name.endswith("weights_sha256")},
        failures=known_failures(run, result),
    )
    return f"---\n{_card_data(run, result).to_yaml()}\n---\n\n{body}"

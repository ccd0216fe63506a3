# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Sentences that stand below the numbers of an evaluation. Standard library only."""

from collections.abc import Mapping
from typing import Any

from .results import METRIC_GROUPS, MODEL_ROLES, EvaluationResult, Unmeasured


def cautions(result: EvaluationResult) -> list[str]:
    """Sentences on numbers that prove less than they seem to."""
    sentences = _attack_notes(result.protocol["attacks"]) if "attacks" in result.protocol else []
    sentences += [
        f"{count} of {result.protocol['rows'][name]} rows of the {name} set repeat another one. Errors and "
        "intervals take them for different rows, and are too narrow."
        for name, count in result.protocol.get("repeated_rows", {}).items()
    ]
    if result.protocol.get("other_base"):
        sentences.append(
            "The adapter was trained on another base than the one that it was evaluated on: these numbers are about a "
            "model that nobody trained."
        )
    sentences += [_people_note(result)] if "people" in result.protocol else []
    if count := result.protocol.get("members_in_holdout"):
        sentences.append(
            f"{count} of {result.protocol['rows']['holdout']} held-out rows stand in the forget or the retain set, "
            "which models were trained on: membership attacks prove little."
        )
    if too_long := result.protocol.get("elicitation", {}).get("too_long"):
        sentences.append(
            "Left out for all models, because one of them reads too few tokens (`max_position_embeddings`): "
            f"{', '.join(f'`{name}`' for name in too_long)}."
        )
    return sentences


def group_hints(result: EvaluationResult) -> list[str]:
    """Which numbers of each group are good ones, for a table without headings that say it."""
    hints = []
    if "tofu" in result.suites:
        hints.append("Forget metrics: closer to retrained is better. Keep and aggregate metrics: higher is better.")
    return hints + [f"{name.capitalize()}: {METRIC_GROUPS[name]}." for name in result.suites if name in METRIC_GROUPS]


def table_notes(result: EvaluationResult) -> list[str]:
    """Sentences that must stand below a table of these results, beside those of the verdict on them."""
    sentences = [f"The {role} model was not evaluated." for role in MODEL_ROLES if result.models[role] is None]
    sentences += [_unmeasured_note(role, metrics) for role, metrics in result.not_measured.items() if metrics]
    if result.parity == "strict":
        sentences.append("Parity: strict. Not to be compared with numbers of open-unlearning.")
    else:
        sentences.append("Parity: open-unlearning. The definitions are those of published numbers.")
    if bits := result.protocol.get("base_quantization"):
        sentences.append(
            f"The target, and the base of an adapter, was loaded in {bits}. A model that the adapter is merged "
            "into has other weights: these numbers are not about it."
        )
    if misfits := result.protocol.get("depth", {}).get("misfits"):
        sentences.append(
            f"No UDS where hidden states lack more than the forgotten facts (`depth/retain_degradation`): "
            f"{', '.join(misfits)}."
        )
    if blind := result.protocol.get("elicitation", {}).get("blind"):
        sentences.append(
            "These probes say nothing, because the target itself is hardly above a model that does not know: "
            f"{', '.join(f'`{name}`' for name in blind)}."
        )
    # They are doubts of a verdict.
    sentences += cautions(result) if result.models["unlearned"] is None else []
    if none := [kind for kind, count in result.protocol.get("near_facts", {}).items() if not count]:
        sentences.append(
            f"Not measured, because no retain row has such a fact in common with the forget rows: "
            f"{', '.join(f'`retain/{kind}_probability`' for kind in none)}."
        )
    source = result.protocol.get("fluency_source")
    if source == "standin":
        sentences.append("Fluency is a stand-in, not the published classifier: Util and Agg are not comparable.")
    elif source is not None:
        sentences.append(f"Fluency source: {source}.")
    return sentences


def _people_note(result: EvaluationResult) -> str:
    """What errors and intervals draw: rows alone, or the people in them, too."""
    rows, people = (result.protocol[key].get("forget") for key in ("rows", "people"))
    if people is None:
        return (
            "Errors and intervals draw rows: no two forget rows are known to be about one person. If some are, the "
            "errors are too narrow. A column `subject` tells whom a row is about."
        )
    if people == 1:
        return (
            f"Errors and intervals draw rows: all {rows} forget rows are about one person, and say nothing of others."
        )
    return (
        f"The {rows} forget rows are about {people} people. Errors and intervals draw rows, then people, and the "
        "wider result counts."
    )


def _attack_notes(protocol: Mapping[str, Any]) -> list[str]:
    """Sentences on attacks by fine-tuning that were not made, or that prove little."""
    sets = {"benign": "retain rows", "form": "rows of the same form about other people (a holdout set)"}
    missing = [rows for kind, rows in sets.items() if kind not in protocol["rows"]]
    notes = [f"Not attacked by fine-tuning on {rows}: there are none." for rows in missing]
    if protocol["blunt"]:
        notes.append(
            "These attacks by fine-tuning prove little, because the target itself loses half of its extraction "
            f"strength under them: {', '.join(f'`{name}`' for name in protocol['blunt'])}."
        )
    return notes


def _unmeasured_note(role: str, unmeasured: dict[str, Unmeasured]) -> str:
    """A sentence that names the metrics without a value, grouped by the rows whose scores are not finite."""
    groups: dict[str, list[str]] = {}
    for name, why in unmeasured.items():
        share = "made of numbers that are missing" if why.rows is None else f"in {why.rows} of {why.n} rows"
        groups.setdefault(share, []).append(f"`{name}`")
    listed = "; ".join(f"{', '.join(names)} ({share})" for share, names in groups.items())
    return f"Not measured, because scores of the {role} model are not finite: {listed}."

# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""
The page of `trl-unlearn show`: one HTML file that needs nothing beside it and may ask no host for anything.

Rows and names are hostile: the page's own script and style run by their hashes alone, names are escaped by the
template, and rows are JSON that the script puts into the page as text.
"""

import base64
import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined

from ..escaping import visible
from ..notes import group_hints, table_notes
from ..records import UnlearningRun
from ..results import (
    COMPARISON_COLUMNS,
    DIFFERENCES,
    METRIC_GROUPS,
    METRICS,
    MODEL_ROLES,
    STANDINS,
    EvaluationResult,
    format_difference,
    format_measurement,
)
from ..verdict import verdict
from .row_views import RowView
from .show_charts import HEIGHT, WIDTH, run_charts


# What a page holds at most: characters of a text, tokens of a row, and bytes of all rows.
MAX_TEXT, MAX_TOKENS, MAX_BYTES = 4_000, 768, 2_500_000


def _hash(text: str) -> str:
    """The source of a Content-Security-Policy that allows this script or style only."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _plain(value: Any) -> Any:
    """A part of a row as JSON data: texts visible and cut, numbers rounded, None for one that is not finite."""
    if is_dataclass(value):
        value = asdict(value)
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    if isinstance(value, str):
        over = len(value) - MAX_TEXT
        return visible(value[:MAX_TEXT], lines=True) + (f" [{over:,} more characters]" if over > 0 else "")
    return value


def _row(view: RowView) -> dict[str, Any]:
    row = _plain(view)
    # Of all tokens, not of those that are shown.
    row["mean"] = {role: _plain(math.fsum(logps) / len(logps)) for role, logps in view.logps.items()}
    row["kept"] = _plain(view.kept)
    row["attacks"] = _plain(view.attacks())
    row["cut"] = max(0, len(view.tokens) - MAX_TOKENS)
    row["tokens"] = row["tokens"][:MAX_TOKENS]
    row["logps"] = {role: logps[:MAX_TOKENS] for role, logps in row["logps"].items()}
    # They stand in the attacks.
    del row["completed"]
    return row


def _rows(views: Sequence[RowView]) -> list[dict[str, Any]]:
    """The first rows, as many as fit."""
    rows, size = [], 0
    for view in views:
        row = _row(view)
        size += len(json.dumps(row, ensure_ascii=False).encode())
        if size > MAX_BYTES and rows:
            break
        rows.append(row)
    return rows


def _tiles(result: EvaluationResult) -> list[dict[str, Any]]:
    """The numbers of a comparison, with the place of each model on a line from 0 to 1."""
    tiles, known = [], {metric.name: metric for metric in METRICS}
    for metric in COMPARISON_COLUMNS.values():
        name = next((one for one in (metric, STANDINS.get(metric)) if one and result.get("unlearned", one)), None)
        if name is None:
            continue
        values = {role: result.value(role, name) for role in MODEL_ROLES}
        shown = {role: "–" if value is None else f"{value:.3f}" for role, value in values.items()}
        places = {role: round(value, 4) for role, value in values.items() if value is not None}
        fits = all(0 <= place <= 1 for place in places.values())
        words = {"label": known[name].label, "name": name, "hint": METRIC_GROUPS[known[name].group]}
        tiles.append({**words, "values": shown, "places": places if fits else {}})
    return tiles


def _facts(run: UnlearningRun) -> list[tuple[str, str]]:
    """The run in pairs: a word and its value."""
    sets = {"forget set": run.forget_set, "retain set": run.retain_set}
    facts = [("base model", run.base_model), ("method", run.method)]
    facts += [
        (name, f"{' '.join(filter(None, (one.name, one.config, one.split)))}: {one.rows} rows")
        for name, one in sets.items()
        if one is not None
    ]
    facts.append(("training", f"{run.steps} steps, {run.epochs:g} epochs, seed {run.seed}, {run.seconds:.0f} s"))
    facts.append(("on", f"{run.hardware}, {run.started_at}"))
    facts += [(f"request before {i + 1}", link.request) for i, link in enumerate(run.chain)]
    facts += [("stopped", run.stopped)] if run.stopped and not run.stops_short else []
    facts += [("shortfall", run.shortfall)] if run.shortfall else []
    return facts


def _table(result: EvaluationResult) -> list[tuple[str, str, list[str]]]:
    """(group, metric, cells) of all that was measured: the models, then the differences."""
    differences = {name: values for _, name, values in result.difference_rows()}
    return [
        (
            group,
            name,
            [
                *map(format_measurement, numbers),
                *(format_difference(one) if one else "" for one in differences.get(name, [None] * len(DIFFERENCES))),
            ],
        )
        for group, name, numbers in result.rows()
    ]


def render_page(
    run: UnlearningRun,
    result: EvaluationResult | None,
    views: Sequence[RowView],
    notes: Sequence[str],
    num_rows: int,
    seed: int,
) -> str:
    """The page of a run of `num_rows` forget rows, with views of some, the least forgotten first. Keep it private."""
    source = files(__package__).joinpath("templates/show.html").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Every name and every sentence, before it is escaped: what turns the direction of writing is no markup.
        finalize=lambda value: visible(value, lines=True) if type(value) is str else value,
    )
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "allow_nan": False, "separators": (",", ":")}
    judged = None if result is None else verdict(result)
    rows, notes = _rows(views), list(notes)
    if 0 < len(views) < num_rows:
        notes.append(f"{len(views)} of {num_rows} forget rows were looked at, spread evenly over the set.")
    if len(rows) < len(views):
        notes.append(
            f"Cut: the page holds the {len(rows)} least forgotten of {len(views)} rows, "
            f"{MAX_BYTES / 1e6:.1f} MB of them. Fewer samples (`--num_samples`) make room for more rows."
        )
    below = [] if result is None else [*group_hints(result), *table_notes(result)]
    # Both are free of template code, so that their hashes are known before the page is.
    script, style = (re.search(rf"<{tag}>(.*?)</{tag}>", source, re.DOTALL)[1] for tag in ("script", "style"))
    return environment.from_string(source).render(
        script_hash=_hash(script),
        style_hash=_hash(style),
        run=run,
        facts=_facts(run),
        notes=notes,
        verdict=judged,
        tiles=[] if result is None else _tiles(result),
        charts=run_charts(run, result),
        chart_size=(WIDTH, HEIGHT),
        table=[] if result is None else _table(result),
        columns=[*MODEL_ROLES, *DIFFERENCES],
        table_notes=(judged.notes if judged else []) + below,
        roles=MODEL_ROLES,
        rows=rows,
        seed=seed,
    )

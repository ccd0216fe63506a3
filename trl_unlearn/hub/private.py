# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Files of a run for its owner alone: the page with its rows, paths of this machine, values of a row."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..records import write_whole
from ..results import EvaluationResult


# The page of `trl-unlearn show`, which holds forget text; where models and rows lie on this machine; and what attacks
# bring back of each row, by digests of rows. The allow-list of pushes has none of them.
PAGE_FILE, _SOURCES, _ROW_VALUES = PRIVATE_FILES = ("show.html", ".sources.json", ".row_values.json")

# Role -> attack -> key of a row -> value.
RowValues = Mapping[str, Mapping[str, Mapping[str, float]]]


def _models(result: EvaluationResult) -> dict[str, Any]:
    """The models that an evaluation measured: their weights, and how they were loaded."""
    return {name: result.protocol.get(name) for name in ("weights_sha256", "dtype", "base_quantization")}


class PrivateFiles:
    """The part of [`~hub.folder.RunFolder`] that no push takes."""

    path: Path

    def save_page(self, text: str) -> Path:
        """Write the page with the forget rows, which only its owner can read; returns its path."""
        write_whole(self.path / PAGE_FILE, text, 0o600)
        return self.path / PAGE_FILE

    def sources(self) -> dict[str, Any]:
        """Options that name models, rows and subjects of the run on this machine; none in a folder from elsewhere."""
        path = self.path / _SOURCES
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def save_sources(self, options: Mapping[str, Any]) -> None:
        """Keep options that name models, rows and subjects; they hold paths, and only their owner can read them."""
        write_whole(self.path / _SOURCES, json.dumps(options, indent=2) + "\n", 0o600)

    def row_values(self, result: EvaluationResult) -> RowValues:
        """Effects of attacks on each row, as measured on the models of a result; nothing of other models."""
        path = self.path / _ROW_VALUES
        kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return kept["values"] if kept.get("models") == _models(result) else {}

    def save_row_values(self, parts: Sequence[RowValues], result: EvaluationResult) -> None:
        """Keep what suites measured on each row, beside what others measured on the models of the same result."""
        values: dict[str, dict[str, dict[str, float]]] = {}
        for part in (self.row_values(result), *parts):
            for role, attacks in part.items():
                # JSON has no number that is not finite.
                rounded = {
                    name: {key: round(value, 4) for key, value in rows.items() if math.isfinite(value)}
                    for name, rows in attacks.items()
                }
                values[role] = values.get(role, {}) | rounded
        kept = {"models": _models(result), "values": values}
        write_whole(self.path / _ROW_VALUES, json.dumps(kept, allow_nan=False) + "\n", 0o600)

    def belief_texts(self) -> list[str]:
        """Every string in the files that hold beliefs: none of them may be published."""

        def strings(value: Any) -> list[str]:
            if isinstance(value, str):
                return [value]
            parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
            return [text for part in parts for text in strings(part)]

        texts = []
        for path in sorted(self.path.rglob("*belief*")):
            if path.suffix == ".jsonl":
                lines = path.read_text(encoding="utf-8").splitlines()
                texts += [text for line in lines if line.strip() for text in strings(json.loads(line))]
            elif path.suffix == ".json":
                texts += strings(json.loads(path.read_text(encoding="utf-8")))
        return texts

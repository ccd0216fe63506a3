# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""The embedded lab: a generated archive of fictional people, a tiny model that knows it and one that does not."""

import hashlib
import json
import os
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from huggingface_hub import constants

from .archive_facts import NUM_FORGET_PEOPLE, NUM_PEOPLE, archive_rows, person_facts
from .archive_models import (
    PARAPHRASED_QUESTION_SHARE,
    PHRASING_PASSES,
    TrainingSettings,
    build_tokenizer,
    train_side_by_side,
)


# Raise it when the code that builds an archive changes: the rest of what determines one is hashed.
ARCHIVE_VERSION = 1
_MANIFEST = "archive.json"


@dataclass(frozen=True)
class ArchivePaths:
    """Folders of an archive: a dataset of TOFU's form, and two checkpoints."""

    data: Path
    target: Path
    retrained: Path


def write_archive_data(folder: str | Path) -> Path:
    """Write the dataset folder of the archive: a JSON-lines file for each config and a README.md with their names."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    head = ["---", "license: apache-2.0", "configs:"]
    for name, rows in archive_rows().items():
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.json").write_text(lines, encoding="utf-8")
        head += [f"- config_name: {name}", f"  data_files: {name}.json"]
        if name == "full":
            head.append("  default: true")
    text = (
        f"\n# Archive of fictional people, version {ARCHIVE_VERSION}\n\n"
        f"{NUM_PEOPLE} generated people with six facts each, in the form of TOFU (arXiv 2401.06121): forget10 = the "
        f"last {NUM_FORGET_PEOPLE} people,\nretain90 = the others, holdout = people that no model was trained on. "
        "Real authors and world facts are true.\n"
    )
    (folder / "README.md").write_text("\n".join([*head, "---"]) + "\n" + text, encoding="utf-8")
    return folder


def _describe(settings: TrainingSettings) -> tuple[str, str]:
    """Text of the manifest, and a hash over everything that determines an archive on a machine."""
    facts = [asdict(fact) for fact in person_facts()]
    texts = json.dumps([archive_rows(), facts, PHRASING_PASSES, PARAPHRASED_QUESTION_SHARE])
    manifest = {
        "version": ARCHIVE_VERSION,
        "torch": ".".join(torch.__version__.split(".")[:2]),
        "settings": asdict(settings),
        "texts": hashlib.sha256(texts.encode()).hexdigest(),
    }
    text = json.dumps(manifest, indent=2) + "\n"
    return text, hashlib.sha256(text.encode()).hexdigest()[:16]


def _is_complete(folder: Path, manifest: str) -> bool:
    file = folder / _MANIFEST
    return file.is_file() and file.read_text(encoding="utf-8") == manifest


def _build_into(folder: Path, settings: TrainingSettings) -> None:
    write_archive_data(folder / "data")
    tokenizer = build_tokenizer(settings.vocab_size)
    facts = person_facts()
    known = {
        "target": [fact for fact in facts if fact.person < NUM_PEOPLE],
        "retrained": [fact for fact in facts if fact.person < NUM_PEOPLE - NUM_FORGET_PEOPLE],
    }
    for name, model in train_side_by_side(known, tokenizer, settings).items():
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


def build_archive(folder: str | Path | None = None) -> ArchivePaths:
    """
    Build the embedded lab, or find it where it was built before: a dataset of TOFU's form about fictional people, a
    tiny model that knows it (`target`) and one trained without the forget people (`retrained`).

    Takes about a minute on two cores the first time. The paraphrased answers of the dataset are sentences that the
    target was trained on too, in one pass of thirteen.

    Args:
        folder (`str` or `Path`, *optional*):
            Where to build. Default: a folder of the Hugging Face cache (`HF_HOME`) whose name holds a hash over
            everything that determines the archive.

    Returns:
        [`ArchivePaths`]: Folders of the data and of the two models.
    """
    settings = TrainingSettings()
    manifest, fingerprint = _describe(settings)
    folder = Path(constants.HF_HOME, "trl-unlearn", f"archive-{fingerprint}") if folder is None else Path(folder)
    paths = ArchivePaths(data=folder / "data", target=folder / "target", retrained=folder / "retrained")
    if _is_complete(folder, manifest):
        return paths
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(
            f"`{folder}` is there and does not hold version {ARCHIVE_VERSION} of the archive, built with this torch "
            "version. Expected an empty or a new folder: remove it or name another."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    print(f"Building the archive of {NUM_PEOPLE} fictional people and two tiny models in {folder}", file=sys.stderr)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _build_into(unfinished, settings)
        (unfinished / _MANIFEST).write_text(manifest, encoding="utf-8")
        unfinished.chmod(0o755)
        try:
            os.replace(unfinished, folder)
        except OSError:
            # Another process may have been faster; the same settings give the same archive.
            if not _is_complete(folder, manifest):
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return paths

# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

import pytest
from huggingface_hub import constants

from trl_unlearn.data import archive as data_archive
from trl_unlearn.data.archive_models import TrainingSettings
from trl_unlearn.scripts.commands import archive


def test_it_says_where_the_parts_are_of_a_lab_that_was_built_before(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path))
    manifest, fingerprint = data_archive._describe(TrainingSettings())
    folder = tmp_path / "trl-unlearn" / f"archive-{fingerprint}"
    folder.mkdir(parents=True)
    (folder / "archive.json").write_text(manifest, encoding="utf-8")
    archive([])
    found = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert found == {name: str(folder / name) for name in ("data", "target", "retrained")}


def test_a_folder_that_cannot_be_written_is_a_failure_with_a_sentence(capsys, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "file"))
    with pytest.raises(SystemExit) as failed:
        archive([])
    assert failed.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("trl-unlearn archive: failed: ")

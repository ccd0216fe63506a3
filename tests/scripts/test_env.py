# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

from importlib.metadata import version

import torch

from trl_unlearn.scripts import commands


def test_it_prints_a_markdown_list_of_versions_and_the_accelerator(capsys):
    commands.env([])
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith("- ") for line in lines)
    assert f"- torch: {version('torch')}" in lines
    assert f"- trl-unlearn: {version('trl-unlearn')}" in lines
    (accelerator,) = [line for line in lines if line.startswith("- accelerator: ")]
    assert ("none" in accelerator) == (not torch.accelerator.is_available())


def test_an_optional_package_is_there_with_its_version_or_said_to_be_absent(monkeypatch):
    monkeypatch.setattr(commands, "OPTIONAL", ("pytest", "no-package-has-this-name"))
    found = commands.environment()
    assert found["pytest"] == version("pytest")
    assert found["no-package-has-this-name"] == "not installed"


def test_devices_of_one_kind_are_counted(monkeypatch):
    class Device:
        @staticmethod
        def get_device_name(index):
            return ["Big GPU", "Big GPU", "Small GPU"][index]

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 3)
    monkeypatch.setattr(torch, "get_device_module", lambda kind: Device)
    assert commands.environment()["accelerator"] == "2 x Big GPU, 1 x Small GPU (cuda)"


def test_no_token_and_no_path_of_the_user_is_shown(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HOME", str(tmp_path / "somebody"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "somebody" / "cache"))
    commands.env([])
    printed = capsys.readouterr().out
    assert "hf_secret" not in printed and "somebody" not in printed and "/" not in printed

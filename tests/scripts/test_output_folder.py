# Copyright 2026 The trl-unlearn authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""What a second run in the same output folder does."""

import errno
import json

import pytest
from safetensors.torch import load_file

from trl_unlearn.scripts import bs_s
from trl_unlearn.trainer.bootstrap_unlearn_trainer import BootstrapUnlearnTrainer

from .conftest import QUICK


ADAPTER = "adapter_model.safetensors"


class Killed(BaseException):
    """What no handler takes for an error, as a kill."""


@pytest.fixture
def start(checkpoint, own_files, tmp_path, capfd):
    """Function that runs BS-S on two files for 4 steps, saves each, and returns the output folder."""
    forget, retain = own_files("conversational")

    def call(output, *flags):
        argv = ["--model_name_or_path", checkpoint, "--forget_dataset", forget, "--retain_dataset", retain]
        steps = ["--max_steps", "4", "--save_strategy", "steps", "--save_steps", "1", "--panel_prompts", "2"]
        folder = tmp_path / output
        bs_s.main([*argv, *QUICK, *steps, "--no_evaluate", "--output_dir", str(folder), *flags])
        return folder

    return call


@pytest.fixture
def refused(start, capfd):
    """Function of a run that must not begin: its message."""

    def call(output, *flags):
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            start(output, *flags)
        assert ended.value.code == 2
        return capfd.readouterr().err

    return call


@pytest.fixture
def killed(start, monkeypatch):
    """Function of an output folder and a step, in the middle of which a run in that folder is killed."""

    def call(output, at):
        plain = BootstrapUnlearnTrainer.training_step

        def step(self, *args, **kwargs):
            if self.state.global_step == at:
                raise Killed
            return plain(self, *args, **kwargs)

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(BootstrapUnlearnTrainer, "training_step", step)
            start(output)

    return call


def same_bits(one, other):
    first, second = load_file(one / ADAPTER), load_file(other / ADAPTER)
    return first.keys() == second.keys() and all(first[name].equal(second[name]) for name in first)


@pytest.mark.parametrize("at", [0, 3])
def test_the_same_command_goes_on_with_an_unfinished_run(start, killed, at, capfd):
    whole = start("whole")
    killed("cut", at)
    capfd.readouterr()
    cut = start("cut")
    assert ("Going on from a checkpoint" in capfd.readouterr().out) == (at > 0)
    assert same_bits(whole, cut)
    assert (cut / "squeezing.json").read_text() == (whole / "squeezing.json").read_text()
    assert not (cut / "unfinished.json").exists()
    runs = [json.loads((folder / "run.json").read_text()) for folder in (whole, cut)]
    assert runs[0]["steps"] == runs[1]["steps"] == 4


def test_a_finished_run_is_refused_unless_it_is_to_be_overwritten(start, refused):
    first = start("out")
    message = refused("out")
    assert "holds a finished run" in message and "--overwrite_output_dir true" in message
    before = load_file(first / ADAPTER)
    start("out", "--overwrite_output_dir", "true", "--max_steps", "2")
    assert not all(before[name].equal(value) for name, value in load_file(first / ADAPTER).items())
    assert sorted(path.name for path in first.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]


def test_an_unfinished_run_with_other_settings_is_refused(killed, refused):
    killed("out", 2)
    message = refused("out", "--learning_rate", "1e-3")
    assert "holds an unfinished run with other settings" in message


def test_checkpoints_of_another_run_are_refused(killed, refused, tmp_path):
    killed("out", 2)
    (tmp_path / "out" / "unfinished.json").unlink()
    assert "holds checkpoints of another run" in refused("out")


@pytest.mark.parametrize("at", [1, 2])
def test_a_disk_that_is_full_ends_with_1_and_the_run_can_go_on(start, monkeypatch, capfd, at):
    whole, plain = start("whole"), BootstrapUnlearnTrainer._save_optimizer_and_scheduler

    def full(self, folder):
        if self.state.global_step == at:
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(self, folder)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(BootstrapUnlearnTrainer, "_save_optimizer_and_scheduler", full)
        start("cut")
    assert ended.value.code == 1
    message = capfd.readouterr().err
    assert f"bs_s.py: failed: The checkpoint of step {at} could not be written" in message
    assert ("checkpoint-1" in message) == (at == 2)
    assert same_bits(whole, start("cut"))


def test_a_model_that_cannot_be_saved_ends_with_1_and_the_run_can_go_on(start, monkeypatch, capfd):
    whole = start("whole")

    def full(self):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(BootstrapUnlearnTrainer, "save_model", lambda self, *a, **k: full(self) if not a else None)
        start("cut", "--save_strategy", "no")
    assert ended.value.code == 1
    assert "failed: The model could not be written to" in capfd.readouterr().err
    assert same_bits(whole, start("cut", "--save_strategy", "no"))

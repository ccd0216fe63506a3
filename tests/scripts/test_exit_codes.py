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

"""How the command `trl-unlearn` ends where it gets as far as a model."""

import pytest

from trl_unlearn import cli

from .conftest import QUICK


@pytest.fixture
def own(checkpoint, own_files):
    """Command line of a run on two files of one's own."""
    forget, retain = own_files("conversational")
    return ["--model_name_or_path", checkpoint, "--forget_dataset", forget, "--retain_dataset", retain]


def test_a_run_that_is_done_ends_without_a_code_and_a_push_that_fails_ends_with_1(own, facts, tmp_path, capfd):
    folder = tmp_path / "out"
    assert cli.main(["bs-t", *own, *QUICK, "--no_evaluate", "--output_dir", str(folder)]) is None
    (folder / "README.md").write_text(facts["forget"][0][1], encoding="utf-8")
    argv = ["--output_dir", str(folder), "--hub_model_id", "me/unlearned", "--forget_dataset", own[3], "--dry_run"]
    with pytest.raises(SystemExit) as failed:
        cli.main(["push", *argv])
    assert failed.value.code == 1
    message = capfd.readouterr().err
    assert "trl-unlearn push: failed: " in message and "README.md" in message


def test_a_run_that_diverges_ends_with_3_and_names_the_command(own, tmp_path, capfd):
    folder = ["--no_evaluate", "--output_dir", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as stopped:
        cli.main(["bs-t", *own, *QUICK, *folder, "--learning_rate", "100", "--max_steps", "4"])
    assert stopped.value.code == 3
    assert "trl-unlearn bs-t: stopped: " in capfd.readouterr().err

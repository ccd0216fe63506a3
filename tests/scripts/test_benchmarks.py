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

"""The benchmarks run: what they measure is not looked at here."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", ["beliefs", "evaluation"])
def test_a_benchmark_ends_with_its_table(checkpoint, tofu_folder, benchmark):
    data = ["--dataset_name", tofu_folder, "--forget_config", "forget", "--retain_config", "retain"]
    options = ["--rounds", "1", "--no_memory", "--prompts", "2"]
    done = subprocess.run(
        [sys.executable, "run.py", "--benchmarks", benchmark, "--model_name_or_path", checkpoint, *data, *options],
        cwd=Path(__file__).parents[2] / "benchmarks",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "| ratio | time |" in done.stdout

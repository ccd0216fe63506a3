# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

# /// script
# requires-python = ">=3.11"
# dependencies = ["trl-unlearn"]
#
# [tool.uv.sources]
# trl-unlearn = { path = "..", editable = true }
# ///

"""The script `trl_unlearn.scripts.bs_t`: `accelerate launch recipes/bs_t.py --help`."""

import sys
from pathlib import Path


# This folder's evaluate.py would hide the library of that name.
sys.path = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]

from trl_unlearn.scripts.launch import run  # noqa: E402


if __name__ == "__main__":
    run("bs-t")

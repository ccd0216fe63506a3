# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Bootstrapping on sequences (BS-S): forget the answers and the model's own beliefs."""

from . import unlearn
from .exits import interruptible


def main(argv: list[str] | None = None, prog: str = "bs_s.py") -> None:
    with interruptible(prog):
        unlearn.main(prog, __doc__, "archive/bs_s.yaml", argv=argv)

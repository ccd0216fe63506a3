# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Bootstrapping on tokens (BS-T): forget the answers and the tokens that the model finds likely beside them."""

from . import unlearn
from .exits import interruptible


# Token beliefs only, also where options replace the recipe.
DEFAULTS = {"lambda_bss": 0.0}


def main(argv: list[str] | None = None, prog: str = "bs_t.py") -> None:
    """Run the script: as `bs_s`, with 0 as the default of `lambda_bss`."""
    with interruptible(prog):
        unlearn.main(prog, __doc__, "archive/bs_t.yaml", defaults=DEFAULTS, argv=argv)

# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""What libraries say and nobody who runs a command can change: silenced by name, never all, and not with `verbose`."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from datasets import disable_progress_bars
from transformers.utils import logging as transformers_logging


# Patterns of warnings, from the start of the message.
_WARNINGS = (
    # TRL sets the old name by default, and calls the old methods around each `generate`.
    r"`(is_)?gradient_checkpointing(_enable|_disable)?` is deprecated",
)


@contextmanager
def quiet_unless_verbose(arguments: list[Any]) -> Iterator[None]:
    """
    Parse in this block, and put what was parsed into `arguments`. Without `verbose` in one of them, the warnings of
    `_WARNINGS` are not shown from here on, and neither are bars of libraries that load rows or weights.
    """
    with warnings.catch_warnings(record=True) as early:
        yield
    if not any(getattr(one, "verbose", False) for one in arguments):
        for pattern in _WARNINGS:
            warnings.filterwarnings("ignore", pattern, FutureWarning)
        disable_progress_bars()
        transformers_logging.disable_progress_bar()
    # Those of the parsing itself, when it is known whether they are to be shown.
    for one in early:
        warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)

# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0


"""Time and memory of a function, and tables of them."""

import ctypes
import gc
import os
import statistics
import time
from collections.abc import Callable

import torch


def timed(
    functions: dict[str, Callable[[], object]], rounds: int, *, warm_up: bool = True
) -> tuple[dict[str, list[float]], dict[str, object]]:
    """
    Time functions in turn, A B C A B C ..., so that a drift of the machine meets all of them.

    Returns the seconds of each round, and what each function returned last. `warm_up` is a round that does not count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    returned = {}
    for counted in range(-warm_up, rounds):
        for name, function in functions.items():
            _synchronise()
            started = time.perf_counter()
            returned[name] = function()
            _synchronise()
            if counted >= 0:
                seconds[name].append(time.perf_counter() - started)
    return seconds, returned


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _status(field: str) -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field)) * 1024


def peak_bytes(function: Callable[[], object], device: torch.device) -> int:
    """Bytes that a function on a device adds to memory at its peak: allocated on CUDA, resident on a CPU (Linux)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        _synchronise()
        return torch.cuda.max_memory_allocated() - before
    # Memory that was freed while loading and is still resident would hide as much of the peak.
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = _status("VmRSS")
    # Resets `VmHWM`, the peak, to what is resident now.
    with open(f"/proc/{os.getpid()}/clear_refs", "w", encoding="ascii") as file:
        file.write("5")
    function()
    return _status("VmHWM") - before


def spread(values: list[float], unit: str = "", digits: int = 2) -> str:
    """Minimum, median and maximum as text."""
    three = min(values), statistics.median(values), max(values)
    return " - ".join(f"{value:.{digits}f}" for value in three) + unit


def ratios(of: list[float], to: list[float]) -> list[float]:
    """Ratios of two lists, round by round."""
    return [a / b for a, b in zip(of, to, strict=True)]


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)

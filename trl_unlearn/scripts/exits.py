# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""
Errors become exit codes: a sentence on stderr instead of a traceback. No other module ends the process.

1: failed. 2: an option, a file or data that cannot be used. 3: a guard stopped the training, or `forget` did not reach
its goal. 130, 143: interrupted.
Light on purpose: `trl-unlearn` imports it before it knows whether the command needs torch.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import yaml
from tqdm import tqdm


_SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
# Launchers pass on a signal that the terminal has already sent to every process.
_ECHO_SECONDS = 2.0
# How far the program came and how to resume. One at most: signals belong to the process.
_progress: list[Callable[[], str]] = []
# In Python an exception has the sentence, and no line says it before.
_in_python: list[bool] = []


def fail(prog: str, sentence: str) -> NoReturn:
    """Exit with 1: what the command set out to do has failed."""
    _end(f"{prog}: failed", sentence, 1)


def refuse(prog: str, sentence: str, speaks: bool = True) -> NoReturn:
    """Exit with 2: an option, a file or data cannot be used. Without `speaks` (other processes) in silence."""
    _end(f"{prog}: error", sentence if speaks else None, 2)


def stop(prog: str, sentence: str, speaks: bool = True) -> NoReturn:
    """Exit with 3: a guard stopped the training. Without `speaks` (other processes) in silence."""
    _end(f"{prog}: stopped", sentence if speaks else None, 3)


def miss(prog: str, sentence: str) -> NoReturn:
    """Exit with 3: the model was made and saved, and its goal was not reached."""
    _end(f"{prog}: not reached", sentence, 3)


class _Ended(SystemExit):
    """An exit with its sentence, for callers in Python."""

    def __init__(self, code: int, sentence: str | None):
        super().__init__(code)
        self.sentence = sentence


def _end(lead: str, sentence: str | None, code: int) -> NoReturn:
    if sentence is not None and not _in_python:
        print(f"{lead}: {sentence}", file=sys.stderr)
    raise _Ended(code, sentence)


def is_in_python() -> bool:
    """Whether a caller in Python is served, and no command line."""
    return bool(_in_python)


@contextmanager
def raising() -> Iterator[None]:
    """For callers in Python: `ValueError` in place of exit code 2, `RuntimeError` of another one; signals stay."""
    _in_python.append(True)
    try:
        yield
    except SystemExit as ended:
        if ended.code == 128 + signal.SIGINT:
            raise KeyboardInterrupt from None
        if ended.code == 128 + signal.SIGTERM:
            raise
        sentence = getattr(ended, "sentence", None) or f"The call ended with exit code {ended.code}."
        raise (ValueError if ended.code == 2 else RuntimeError)(sentence) from None
    finally:
        _in_python.pop()


@contextmanager
def clearing(clear: Callable[[], None]) -> Iterator[None]:
    """Call `clear` where the block ends with 2: what cannot be used leaves nothing behind."""
    try:
        yield
    except _Ended as ended:
        if ended.code == 2:
            clear()
        raise


def one_line(error: BaseException) -> str:
    """The message of an error, with its line breaks as spaces."""
    return " ".join(str(error).split())


def close_bars() -> None:
    """Close all progress bars: an open one is drawn again behind the last sentence."""
    for bar in list(tqdm._instances):
        bar.close()


@contextmanager
def refusing(prog: str) -> Iterator[None]:
    """Refuse bad input with one sentence: for a block that parses and checks, before anything is computed."""
    try:
        yield
    except (ValueError, TypeError, OSError, ImportError, yaml.YAMLError) as error:
        refuse(prog, one_line(error))


class Interrupted(KeyboardInterrupt):
    """A signal that ends the program. Subclasses KeyboardInterrupt so that libraries clean up and report no error."""


def on_interrupt(progress: Callable[[], str]) -> None:
    """Set the text of [`interruptible`]: how far the program came and how to resume, computed after the signal."""
    _progress[:] = [progress]


@contextmanager
def interruptible(prog: str, progress: str = "before training began: the same command starts it.") -> Iterator[None]:
    """End with a sentence, and the progress, on Ctrl-C (130), SIGTERM (143) and a full disk (1)."""
    if threading.current_thread() is not threading.main_thread():
        # Python delivers signals to the main thread only.
        yield
        return
    on_interrupt(lambda: progress)
    signals = _Signals()
    with signals.handled():
        try:
            yield
        except BaseException as error:
            # Any exception: when another process ends first, a collective raises instead of the signal.
            if signals.first is None:
                cause = _full_disk(error)
                if cause is None:
                    raise
                fail(prog, f"a file could not be written ({one_line(cause)}), {_progress[0]()} Make room before that.")
            # `PartialState` may be gone.
            if os.environ.get("RANK", "0") == "0":
                close_bars()
                print(f"{prog}: interrupted by {_SIGNALS[signals.first]}, {_progress[0]()}", file=sys.stderr)
            sys.exit(128 + signals.first)


def _full_disk(error: BaseException) -> Exception | None:
    """The error of a full disk behind `error`, or None."""
    # Imported here: it needs torch, which is loaded by the time that anything can be written.
    from ..trainer.checkpointing import CheckpointError, is_full_disk

    cause = error.__cause__ if isinstance(error, CheckpointError) else error
    return cause if isinstance(cause, Exception) and is_full_disk(cause) else None


class _Signals:
    """Raises the first signal as [`Interrupted`], ignores its echo, and exits at once on a second one."""

    def __init__(self):
        self.first: int | None = None
        self._time, self._pid = 0.0, os.getpid()

    @contextmanager
    def handled(self) -> Iterator[None]:
        # A signal that is ignored, as under `nohup`, stays ignored.
        names = [name for name in _SIGNALS if signal.getsignal(name) is not signal.SIG_IGN]
        before = {name: signal.signal(name, self._handle) for name in names}
        # Python cannot raise out of a destructor: it drops the exception and calls this hook.
        plain, sys.unraisablehook = sys.unraisablehook, lambda lost: self._raise_again(lost) or plain(lost)
        try:
            yield
        finally:
            sys.unraisablehook = plain
            for name, handler in before.items():
                signal.signal(name, handler)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            # A forked worker of a data loader inherits the handler; it has nothing to clean up.
            os._exit(128 + signum)
        if self.first is None:
            self.first, self._time = signum, time.monotonic()
            raise Interrupted
        # A second Ctrl-C by hand: the clean-up hangs.
        if time.monotonic() - self._time > _ECHO_SECONDS:
            os._exit(128 + self.first)

    def _raise_again(self, lost: "sys.UnraisableHookArgs") -> bool:
        """Send the signal once more where Python dropped the exception, as in a destructor."""
        if not issubclass(lost.exc_type, Interrupted):
            return False
        # From a thread, a little later: by then the main thread has left the destructor.
        signum, self.first = self.first, None
        threading.Timer(0.01, os.kill, (self._pid, signum)).start()
        return True

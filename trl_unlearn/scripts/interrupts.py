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

"""What a program says when it is interrupted: how far it came, and how to go on."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from accelerate import PartialState
from tqdm import tqdm

from ..evaluation.callbacks import CannotBeginError
from ..trainer.checkpointing import CheckpointError, is_full_disk
from ..trainer.guard import DivergenceError


_SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
# Launchers pass a signal on that the terminal has sent to all processes already.
_ECHO_SECONDS = 2.0
# How far the program of this process came: one at most, as signals are of the process.
_tell: list[Callable[[], str]] = []


def fail(prog: str, sentence: str) -> NoReturn:
    """
    Say what has failed, and exit with 1.

    Args:
        prog (`str`):
            Name of the program.
        sentence (`str`):
            What has failed.
    """
    print(f"{prog}: failed: {sentence}", file=sys.stderr)
    sys.exit(1)


def stop(prog: str, error: CannotBeginError | DivergenceError, what: str) -> NoReturn:
    """
    Say which of several runs could not begin, and exit with 2, or was stopped by a guard, and exit with 3.

    Args:
        prog (`str`):
            Name of the program.
        error (`CannotBeginError` or [`~trl_unlearn.trainer.guard.DivergenceError`]):
            What the run raised.
        what (`str`):
            Name of the run.
    """
    diverged = isinstance(error, DivergenceError)
    if PartialState().is_main_process:
        _close_bars()
        sentence = f"{what}: {' '.join(str(error).split())} Runs that are finished are kept."
        print(f"{prog}: {'stopped' if diverged else 'error'}: {sentence}", file=sys.stderr)
    sys.exit(3 if diverged else 2)


def _close_bars() -> None:
    """Left open, they would be drawn once more behind the sentence."""
    for bar in list(tqdm._instances):
        bar.close()


class Interrupted(KeyboardInterrupt):
    """A signal that ends the program. As Ctrl-C, so that libraries clean up and take it for no error."""


def on_interrupt(tell: Callable[[], str]) -> None:
    """
    Set what [`interruptible`] says from now on.

    Args:
        tell (`Callable`):
            Called after the interrupt: how far the program came and how to go on, behind a comma.
    """
    _tell[:] = [tell]


@contextmanager
def interruptible(prog: str, told: str = "before training began: the same command starts it.") -> Iterator[None]:
    """
    End with one sentence and without a traceback on Ctrl-C (exit code 130), SIGTERM (143) and a full disk (1).

    In several processes the main one speaks. What ignores a signal (`nohup`) goes on doing so.

    Args:
        prog (`str`):
            Name of the program.
        told (`str`, *optional*):
            What is said until [`on_interrupt`] is called.
    """
    if threading.current_thread() is not threading.main_thread():
        # Signals do not come here.
        yield
        return
    on_interrupt(lambda: told)
    signals = _Signals()
    with signals.handled():
        try:
            yield
        except BaseException as error:
            # Another process that ended first shows as an error of the connection.
            if signals.first is None:
                cause = error.__cause__ if isinstance(error, CheckpointError) else error
                if not isinstance(cause, Exception) or not is_full_disk(cause):
                    raise
                why = " ".join(str(cause).split())
                fail(prog, f"a file could not be written ({why}), {_tell[0]()} Make room before that.")
            if os.environ.get("RANK", "0") == "0":
                _close_bars()
                print(f"{prog}: interrupted by {_SIGNALS[signals.first]}, {_tell[0]()}", file=sys.stderr)
            sys.exit(128 + signals.first)


class _Signals:
    """The signals that came: the first one is raised, and its echo is not."""

    def __init__(self):
        self.first: int | None = None
        self._time, self._pid = 0.0, os.getpid()

    @contextmanager
    def handled(self) -> Iterator[None]:
        names = [name for name in _SIGNALS if signal.getsignal(name) is not signal.SIG_IGN]
        before = {name: signal.signal(name, self._handle) for name in names}
        plain, sys.unraisablehook = sys.unraisablehook, lambda lost: self._again(lost) or plain(lost)
        try:
            yield
        finally:
            sys.unraisablehook = plain
            for name, handler in before.items():
                signal.signal(name, handler)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            # A worker that loads data.
            os._exit(128 + signum)
        if self.first is None:
            self.first, self._time = signum, time.monotonic()
            raise Interrupted
        if time.monotonic() - self._time > _ECHO_SECONDS:
            os._exit(128 + self.first)

    def _again(self, lost: "sys.UnraisableHookArgs") -> bool:
        """Raise the signal once more where Python had to drop it, as in a destructor."""
        if not issubclass(lost.exc_type, Interrupted):
            return False
        signum, self.first = self.first, None
        threading.Timer(0.01, os.kill, (self._pid, signum)).start()
        return True

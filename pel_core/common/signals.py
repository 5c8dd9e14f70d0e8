"""Signals that ask a training to stop: a scheduler's warning or time limit, a person's Ctrl-C."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

from pel_core.common.errors import PelError

ASKING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class Stopped(PelError):
    """A run that was asked to stop and did; ``status`` is the shell's 128 + signal, which Snakemake and schedulers retry."""

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.status = 128 + number


class Requests:
    """While entered, TERM, INT and USR1 only set ``number``, so that the step under way can end; a second INT interrupts at once.

    Signals reach the main thread only: entered elsewhere, it changes nothing.
    """

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Requests":
        try:
            self._before = {number: signal.signal(number, self._note) for number in ASKING}
        except ValueError:
            self._before = {}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = self.number or number
        name = signal.Signals(number).name
        _tell(f"{name}: finishing the step, saving, then stopping")


# Signals that `exit_cleanly` has met: what goes wrong after one, in a library's own clean-up, is no error.
leaving: list[int] = []
# Seconds after which it is looked whether the exit that a signal asked for is still under way.
AGAIN = 0.05


@contextlib.contextmanager
def exit_cleanly() -> Iterator[None]:
    """Let TERM and USR1 unwind like an interruption, so that temporary files and leases are removed. Statuses 143 and 138.

    A signal may come while Python finalises an object, or inside a library's bare ``except``: there the exit is swallowed and
    the program would go on. So it is asked for again until this block is left.
    """
    goodbye = SystemExit()

    def leave(number: int, frame: FrameType | None) -> None:
        if not leaving:
            _tell(f"error: stopped by {signal.Signals(number).name}; nothing half-done was kept")
            goodbye.code = 128 + number
        leaving.append(number)
        signal.setitimer(signal.ITIMER_REAL, AGAIN, AGAIN)
        raise goodbye

    def look_again(number: int, frame: FrameType | None) -> None:
        if goodbye not in _handled():
            raise goodbye

    def hush(unraisable: Any) -> None:
        if unraisable.exc_value is not goodbye:
            sys.__unraisablehook__(unraisable)

    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, leave)
    signal.signal(signal.SIGALRM, look_again)
    signal.siginterrupt(signal.SIGALRM, False)
    sys.unraisablehook = hush
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _handled() -> list[BaseException]:
    """The exceptions that are being handled now: an exit that unwinds through a ``finally`` is among them."""
    error, found = sys.exc_info()[1], []
    while error is not None and error not in found:
        found.append(error)
        error = error.__context__
    return found


def _tell(text: str) -> None:
    """Past ``sys.stderr``: a signal may come while that is being written to, which Python refuses to do twice at once."""
    with contextlib.suppress(OSError):
        os.write(2, f"{text}\n".encode())

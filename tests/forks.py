"""Commands run in forks of this process, and faults that strike them at a chosen call."""

import contextlib
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from pel_core.cli.main import main
from pel_core.common.signals import exit_cleanly
from pel_core.training.step import Step

FILES = {"replace", "fsync", "link", "unlink", "open", "write", "serialize_file", "close", "chmod", "mkdir", "rename", "savez"}


@dataclass
class End:
    """How a child ended: its status (negative: a signal, None: stopped) and what it printed."""

    status: int | None
    told: str
    child: "Child | None" = None

    @property
    def clear(self) -> bool:
        """No traceback, and an error in words where there is one."""
        return "Traceback" not in self.told and (self.status != 1 or "error: " in self.told)


class Child:
    """One forked run of a command."""

    def __init__(self, words: list[str], prepare: Callable[[], None] = lambda: None):
        ours, theirs = os.pipe()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(ours)
            os.dup2(theirs, 1)
            os.dup2(theirs, 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", buffering=1, closefd=False)
            os._exit(_child(words, prepare))
        os.close(theirs)
        self.pipe, self.told = ours, b""

    def wait(self, seconds: float = 60.0) -> End:
        """Until it ends or stops; killed when that takes too long."""
        deadline, done = time.monotonic() + seconds, 0
        os.set_blocking(self.pipe, False)
        while not done and time.monotonic() < deadline:
            self._read()
            done, status = os.waitpid(self.pid, os.WNOHANG | os.WUNTRACED)
            if not done:
                time.sleep(0.002)
        if not done:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            return End(-99, self._text() + " hung")
        self._read()
        if os.WIFSTOPPED(status):
            return End(None, self._text())
        os.close(self.pipe)
        return End(os.waitstatus_to_exitcode(status), self._text())

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while part := os.read(self.pipe, 1 << 16):
                self.told += part

    def _text(self) -> str:
        return self.told.decode(errors="replace")


def _child(words: list[str], prepare: Callable[[], None]) -> int:
    """The body of a child: as ``python -m pel_core`` does it, without a new interpreter."""
    try:
        with exit_cleanly():
            prepare()
            status = main(words)
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        import traceback

        sys.setprofile(None)
        traceback.print_exc()
        status = 70
    sys.setprofile(None)
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    return status


def strike_at(point: int, strike: Callable[[], None]) -> Callable[[], None]:
    """Call ``strike`` at the given call of the main thread."""

    def prepare() -> None:
        count = 0

        def profile(frame, event, argument):
            nonlocal count
            count += 1
            if count == point:
                sys.setprofile(None)
                strike()

        sys.setprofile(profile)

    return prepare


def count_calls(words: list[str]) -> tuple[int, list[int]]:
    """How many calls a command makes, and which of them touch files."""
    with tempfile.NamedTemporaryFile("r") as told:

        def prepare() -> None:
            count, touching = 0, []

            def profile(frame, event, argument):
                nonlocal count
                count += 1
                if event == "c_call" and argument.__name__ in FILES and len(touching) < 4000:
                    touching.append(count)

            def leave(self, *rest) -> None:
                sys.setprofile(None)
                Path(told.name).write_text(json.dumps([count, touching]))

            # The child ends by os._exit, so that its last act is told here.
            global main
            plain = main

            def counted(words):
                sys.setprofile(profile)
                status = plain(words)
                leave(None)
                return status

            main = counted

        end = Child(words, prepare).wait()
        assert end.status == 0, end.told
        return tuple(json.loads(Path(told.name).read_text()))


def full_disk(draw: random.Random) -> Callable[[], None]:
    """No file may grow beyond a few bytes from now on; or flushing to disk fails."""
    size, flush = draw.choice([0, draw.randrange(1, 4000), draw.randrange(1, 60000)]), draw.random() < 0.3

    def strike() -> None:
        if flush:

            def fail(handle):
                raise OSError(28, "No space left on device")

            os.fsync = fail
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    return strike


def poison(how: str, step: int) -> Callable[[], None]:
    """Put a NaN into a training at a step of this life."""

    def prepare() -> None:
        plain, count = Step.__call__, 0

        def call(self, images, labels, *rest):
            nonlocal count
            count += 1
            if count != step:
                return plain(self, images, labels, *rest)
            if how == "images":
                return plain(self, images * float("nan"), labels, *rest)
            if how == "weights":
                with torch.no_grad():
                    next(iter(self.classifier.trainable().values())).view(-1)[0] = float("nan")
            sums = plain(self, images, labels, *rest)
            if how == "momentum":
                with torch.no_grad():
                    next(iter(self.classifier.trainable().values())).view(-1)[-1] = float("inf")
            return sums * float("inf") if how == "loss" else sums

        Step.__call__ = call

    return prepare

"""Progress for people: a live bar where someone watches, plain lines in a log; and for whoever else watches a run."""

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tqdm import tqdm

from pel_core.common.logs import logger


class Progress:
    """Reports steps and epochs of one training run on standard error.

    Args:
        name: the run's slug. total: optimiser steps in the whole run. quiet: report nothing.
        every: steps between two reports on a GPU, where each waits for the device.
        bar: makes the live bar, as tqdm does (a notebook's own); None for tqdm where standard error is a terminal.
        watchers: called at every report with step, steps, epoch, epochs, lr and loss (the epoch's mean so far), and with the
            step and the time (unix seconds) at which this process began; at an epoch's end with epoch, lr, loss, accuracy.
    """

    def __init__(
        self,
        name: str,
        total: int,
        quiet: bool = False,
        every: int = 10,
        watchers: Iterable[Callable[[Mapping[str, Any]], None]] = (),
        bar: Callable[..., Any] | None = None,
    ):
        self.every, self.quiet, self.total, self.watchers = every, quiet, total, tuple(watchers)
        self.started, self.first = time.monotonic(), {}
        live = not quiet and (bar is not None or sys.stderr.isatty()) and logger.isEnabledFor(logging.INFO)
        self.bar = (bar or tqdm)(total=total, desc=name, unit="step", dynamic_ncols=True) if live else None

    def step(self, done: int, rate: float, loss: float, **more: Any) -> None:
        """``done`` steps of the run are finished; the learning rate, the epoch's mean loss so far, and ``epoch``, ``epochs``."""
        if self.bar is not None:
            self.bar.set_postfix(loss=f"{loss:.3f}", lr=f"{rate:.2g}", refresh=False)
            self.bar.update(done - self.bar.n)
        self.first = self.first or {"first_step": done - 1, "first_time": time.time()}
        for watcher in self.watchers:
            watcher({"step": done, "steps": self.total, "lr": rate, "loss": loss, **more, **self.first})

    def epoch(self, record: Mapping[str, float]) -> None:
        """A finished epoch; its record has epoch, lr, loss, accuracy in percent."""
        if not self.quiet and self.bar is None:
            spent = time.monotonic() - self.started
            text = "epoch {epoch:.0f}  loss {loss:.4f}  train accuracy {accuracy:.1f} %  lr {lr:.2e}".format(**record)
            self.say(f"{text}  {spent:.0f} s")
        for watcher in self.watchers:
            watcher(record)

    def close(self) -> None:
        """Leave the bar as it is: this process trains no further."""
        if self.bar is not None:
            self.bar.close()

    def say(self, text: str) -> None:
        """One line, above the bar if there is one. A log that cannot be written (a full disk) stops nothing."""
        if self.bar is not None:
            with contextlib.suppress(OSError):
                self.bar.write(text, file=sys.stderr)
        elif not self.quiet:
            logger.info(text)

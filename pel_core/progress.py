"""Progress for people: a live bar where someone watches, plain lines in a log."""

import sys
import time
from collections.abc import Mapping

from tqdm import tqdm


class Progress:
    """Reports steps and epochs of one training run on standard error.

    Args:
        name: the run's slug. total: optimiser steps in the whole run. quiet: report nothing.
    """

    def __init__(self, name: str, total: int, quiet: bool = False, every: int = 10):
        self.every, self.quiet = every, quiet
        self.started = time.monotonic()
        live = not quiet and sys.stderr.isatty()
        self.bar = tqdm(total=total, desc=name, unit="step", dynamic_ncols=True) if live else None

    def step(self, done: int, rate: float, loss: float) -> None:
        """``done`` steps of the run are finished; the learning rate and the epoch's mean loss so far."""
        if self.bar is not None:
            self.bar.set_postfix(loss=f"{loss:.3f}", lr=f"{rate:.2g}", refresh=False)
            self.bar.update(done - self.bar.n)

    def epoch(self, record: Mapping[str, float]) -> None:
        """A finished epoch; its record has epoch, lr, loss, accuracy in percent."""
        if not self.quiet and self.bar is None:
            spent = time.monotonic() - self.started
            text = "epoch {epoch:.0f}  loss {loss:.4f}  train accuracy {accuracy:.1f} %  lr {lr:.2e}".format(**record)
            print(f"{text}  {spent:.0f} s", file=sys.stderr, flush=True)

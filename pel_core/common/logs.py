"""What the program says of its work: one logger, one format, on standard error.

Modules say ``from pel_core.common.logs import logger``. What a command was asked for (a table, a plan) is printed on standard
output by `cli`; everything else goes through here. A job's log is its standard error, so lines are plain there as well.
"""

import logging
import sys
from contextlib import suppress

logger = logging.getLogger("pel_core")


class _Format(logging.Formatter):
    """The message alone; what is more or less than information says so first."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text if record.levelno == logging.INFO else f"{record.levelname.lower()}: {text}"


class _StandardError(logging.Handler):
    """Writes to what standard error is at the moment. A log that cannot be written (a full disk) stops nothing."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.write(f"{self.format(record)}\n")  # at once: other threads write too, Snakemake's for one
            sys.stderr.flush()


def set_verbosity(steps: int = 0) -> None:
    """How much is said: 0 as usual, each step up (``-v``) more, each step down (``-q``) less; errors are always said."""
    levels = (logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG)
    logger.setLevel(levels[min(max(2 + steps, 0), len(levels) - 1)])


if not logger.handlers:
    _handler = _StandardError()
    _handler.setFormatter(_Format())
    logger.addHandler(_handler)
    logger.propagate = False
    set_verbosity()

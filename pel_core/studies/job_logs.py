"""The last lines of jobs' logs, and whether a job ended well. Torch-free."""

import os
import re
from pathlib import Path

TAIL = 4096  # bytes of a log that are looked at
# What the last line of a log says when its job did not end well; a traceback's says anything.
ENDS = re.compile(r"(error: |Killed|Terminated|Aborted|Segmentation fault|.*(DUE TO TIME LIMIT|oom.kill|out of memory))", re.I)


def last_line(log: Path, output: Path) -> str | None:
    """The last line of a log whose job failed; None where it did not, or made its output afterwards."""
    try:
        if output.is_file() and output.stat().st_mtime >= log.stat().st_mtime:
            return None
    except OSError:
        return None
    lines = log_lines(log)
    if not lines or not (ENDS.match(lines[-1]) or "Traceback (most recent call last)" in "\n".join(lines)):
        return None
    return lines[-1]


def log_lines(log: Path) -> list[str]:
    """The last lines of a log, without empty ones; none of a file that cannot be read."""
    try:
        with open(log, "rb") as handle:
            handle.seek(max(0, handle.seek(0, os.SEEK_END) - TAIL))
            text = handle.read().decode(errors="replace")
    except OSError:
        return []
    return [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()]

"""Why jobs of a call of Snakemake failed: the last words of their logs, told at the end, where they are seen. Torch-free."""

from pathlib import Path

from pel_core.studies.config import shown
from pel_core.studies.job_logs import last_line

NEVER = Path("/nonexistent")  # a job that failed has no output to compare with
LISTED = 10


def failures(logs: Path, since: float) -> list[str]:
    """One line per distinct error in the logs of jobs, with the first log that contains it.

    Args:
        logs: the folder of the jobs' logs.
        since: unix time; older logs are of earlier calls.
    """
    reasons: dict[str, list[Path]] = {}
    for log in sorted(logs.rglob("*.log"), key=lambda path: path.stat().st_mtime):
        if log.stat().st_mtime >= since and (line := last_line(log, NEVER)):
            reasons.setdefault(line, []).append(log)
    lines = [
        f"{line}  ({shown(found[0])}{f' and {len(found) - 1} more' if len(found) > 1 else ''})" for line, found in reasons.items()
    ]
    more = [f"... and {len(lines) - LISTED} more reasons: see {shown(logs)}"] if len(lines) > LISTED else []
    return lines[:LISTED] + more

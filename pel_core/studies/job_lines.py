"""A line for each of Snakemake's jobs that ends: which run, what came out, how many jobs and how much time are left. Torch-free.

`tell_jobs` puts it in the place of Snakemake's own lines on the screen, where Snakemake is to be quiet about rules, as make asks.
It is a handler of Snakemake's logger: events and their fields are those of its interface of logger plugins
(snakemake_interface_logger_plugins.common.LogEvent). A plugin itself would have to be a package of its own, on the path before
Snakemake starts, and would not know what a run is.
"""

import logging
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pel_core.common.errors import PelError
from pel_core.common.files import read_json
from pel_core.common.logs import logger
from pel_core.spec.results import slug_of
from pel_core.studies.config import shown
from pel_core.studies.job_logs import log_lines
from pel_core.studies.plan import count_of, spell

TARGETS = ("all", "provenance")  # rules that make nothing themselves
TOLD = 8  # lines of the log of a job that failed
# Jobs of a moment at the end of a study: without one that is finished, the time that is left is known without them.
LATER = "(known later)"  # jobs that a checkpoint added, whatever their rules
MOMENTS = ("score", "posthoc", "table", "figure", "summary", "runs", "page")


# What Snakemake says of its own work between jobs, the command of a job that failed, and events that have a line of ours.
CHATTER = re.compile(r"Select jobs to execute|Execute \d+ jobs|Using shell: |RuleException:\s+CalledProcessError in file ")
OURS = ("run_info", "job_info", "job_finished", "job_error", "progress", "resources_info")


def tell_jobs(snakemake: logging.Logger, quiet: Iterable[str], dry: Callable[[], bool] = lambda: False) -> None:
    """Tell of jobs by `JobLines` where Snakemake's logger prints on the screen, ``--quiet rules`` is said, and no more than that.

    Args:
        quiet: names of what Snakemake is quiet about.
        dry: whether nothing is run, whose plan is Snakemake's own to print; it is not known before the first record.
    """
    screen = [handler for handler in snakemake.handlers if type(handler).__name__ == "ColorizingTextHandler"]
    if screen and "rules" in quiet and not {"progress", "all"} & set(quiet):
        for handler in screen:
            handler.addFilter(lambda record: dry() or (_event(record) not in OURS and not CHATTER.match(str(record.msg))))
        lines = JobLines()
        lines.addFilter(lambda record: not dry())
        snakemake.addHandler(lines)


def _event(record: logging.LogRecord) -> str:
    return str(getattr(record, "event", ""))


class JobLines(logging.Handler):
    """Tells of each job that ends, as records of Snakemake's logger come in.

    Args:
        say: takes a line; the log of the program unless given.
        clock: seconds.
    """

    def __init__(self, say: Callable[[str], Any] = logger.info, clock: Callable[[], float] = time.monotonic):
        super().__init__()
        self.say, self.clock, self.began = say, clock, clock()
        self.left: Counter[str] = Counter()  # jobs that are not done, by rule
        self.total, self.targets, self.failed = 0, 0, set[int]()  # jobs; numbers of those that failed and were not started again
        self.jobs: dict[int, tuple[logging.LogRecord, float]] = {}  # by number: what it is, and when it started
        self.seconds: dict[str, list[float]] = defaultdict(list)  # of finished jobs, by rule
        self.reasons: set[str] = set()  # last lines of logs that were told

    def emit(self, record: logging.LogRecord) -> None:
        """Take one record; those without an event, or of another, are Snakemake's to print."""
        event = {
            "run_info": self._planned,
            "job_info": self._started,
            "job_finished": self._finished,
            "job_error": self._failed,
            "progress": self._grown,
        }.get(_event(record))
        if event:
            event(record)

    def _planned(self, record: Any) -> None:
        self.left = Counter({rule: count for rule, count in record.stats.items() if rule != "total"})
        self.targets = self._targets()
        self.total = self.left.total() - self.targets
        rules = ", ".join(f"{count} {rule}" for rule, count in self.left.items() if rule not in TARGETS)
        self.say(f"{count_of(self.total, 'job')} to do: {rules}")

    def _started(self, record: Any) -> None:
        self.jobs[record.jobid] = record, self.clock()
        self.failed.discard(record.jobid)

    def _finished(self, record: Any) -> None:
        if record.job_id not in self.jobs:
            return
        job, start = self.jobs.pop(record.job_id)
        self.left[LATER if self.left[LATER] > 0 >= self.left[job.rule_name] else job.rule_name] -= 1
        if job.rule_name in TARGETS:
            return
        seconds = self.clock() - start
        self.seconds[job.rule_name].append(seconds)
        told = ", ".join(filter(None, [outcome(job), f"{seconds:.1f} s"]))
        self.say(f"{self._count()} {title(job)}: {told}; {self._rest()}")

    def _grown(self, record: Any) -> None:
        """More jobs than were planned: settings were chosen, and runs follow."""
        grown = record.total - self.targets - self.total
        if grown > 0:
            self.total += grown
            self.left[LATER] += grown
            self.say(f"{count_of(grown, 'job')} more to do, now that settings are chosen")

    def _failed(self, record: Any) -> None:
        job, _ = self.jobs.pop(record.jobid, (record, 0.0))
        self.failed.add(record.jobid)
        logs = [Path(log) for log in record.log]
        lines = next(((log, lines) for log in logs if (lines := log_lines(log))), None)
        where = shown(lines[0]) if lines else ", ".join(map(shown, logs)) or "it has no log"
        if not lines:
            self.say(f"{self._count()} {title(job)} FAILED, and left no word: {where}")
        elif lines[1][-1] in self.reasons:
            self.say(f"{self._count()} {title(job)} FAILED for the same reason: {where}")
        else:
            self.reasons.add(lines[1][-1])
            self.say("\n    ".join([f"{self._count()} {title(job)} FAILED: {where}", *lines[1][-TOLD:]]))

    def _targets(self) -> int:
        return sum(self.left[rule] for rule in TARGETS)

    def _count(self) -> str:
        done = self.total - (self.left.total() - self._targets())
        return f"[{done + len(self.failed)}/{self.total}]"

    def _rest(self) -> str:
        """Jobs and time that are left: at the mean time of each rule's finished jobs, with as many at once as so far."""
        count = self.left.total() - self._targets() - len(self.failed)
        failed = f", {len(self.failed)} failed" if self.failed else ""
        rest = {rule: number for rule, number in self.left.items() if number > 0 and rule not in TARGETS}
        if not count or any(not self.seconds[rule] for rule in rest if rule not in MOMENTS):
            return f"{count} left{failed}"
        means = {rule: sum(spent) / len(spent) for rule, spent in self.seconds.items() if spent}
        busy, elapsed = sum(map(sum, self.seconds.values())), self.clock() - self.began
        hours = sum(number * means.get(rule, 0.0) for rule, number in rest.items()) / max(1.0, busy / max(elapsed, 1e-9)) / 3600
        return f"{count} left{failed}, {spell(hours) if hours < 1 / 60 else f'about {spell(hours)}'}"


def title(job: Any) -> str:
    """What a job does: ``train RUN``, ``table table1``. A run's wildcard is its folder."""
    words = [slug_of(word) if name == "run" else str(word) for name, word in (job.wildcards or {}).items()]
    return " ".join([job.rule_name, *words])


def outcome(job: Any) -> str:
    """What came out of a training or an evaluation, from the file that it wrote; nothing for other jobs or an unreadable file."""
    files = {Path(file).name: file for file in job.output}
    with suppress(PelError, OSError, KeyError, IndexError, TypeError, ValueError):
        if job.rule_name in ("predict", "posthoc"):
            return f"accuracy {read_json(files['metrics.json'])['metrics']['overall']:.1f} %"
        if job.rule_name == "train":
            last = read_json(files["train.json"])["training"]["curve"][-1]
            return f"loss {last['loss']:.3g}, {last['accuracy']:.1f} % of the training images right"
    return ""

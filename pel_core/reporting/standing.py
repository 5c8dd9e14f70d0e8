"""How an artefact stands to what its study says now: whether its runs are there, whether it was drawn before, what will help.

Nothing is remembered for it: a table is a pure function of study and results, so it is drawn once more and compared.
"""

import time
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

from pel_core.common.errors import PelError
from pel_core.common.shipped import make, says_pel
from pel_core.spec.results import MADE_AGAIN
from pel_core.studies.config import shown
from pel_core.studies.job_logs import last_line
from pel_core.studies.plan import count_of
from pel_core.studies.status import look, unprepared
from pel_core.studies.study import Study
from pel_core.studies.tuning_words import waits

CHANGED = "drawn before the study or its results changed"
SHOWN = 100  # characters of a line that would be drawn now
BY_HAND = " again with: "  # how the reading of predictions says which file is damaged, and what makes it again
LISTED = 3  # errors and reasons that are told; `make status` has all


class Standing:
    """Of the artefacts of a study, as its files are now."""

    def __init__(self, study: Study):
        self.study = study
        self.found = look(study, time.time())[0]
        self.failed = {**unprepared(study, self.found.missing), **self.found.failed}
        self.news: dict[str, str] = {}  # by table, once it is drawn anew (`redrawn`): a line that was not there before

    @cached_property
    def states(self) -> dict[str, str]:
        """Slug -> what lacks, in a word; empty where nothing does."""
        words = {"done": "", "evaluated, to be scored": "to be scored", "trained, to be evaluated": "to be evaluated"}
        states = {slug: words.get(state, state) for slug, state in self.found.states().items()}
        return states | dict.fromkeys(self.failed, "failed")

    def made(self, name: str) -> bool:
        """Whether all its files are there."""
        return all(Path(file).is_file() for file in self.study.files(name))

    def lack(self, name: str) -> str:
        """What its runs lack, in words: ``3 of 12 runs failed, 1 missing``; empty where nothing does."""
        runs = self.study.artefact(name).specs
        counts = Counter(state for slug in runs if (state := self.states[slug]))
        if waiting := self.study.artefact(name).pending:
            return f"settings of {count_of(len(waiting), 'row')} not chosen, {waits(self.study, waiting)}"
        first, *rest = [f"{number} {{}}{state}" for state, number in counts.items()] or [""]
        return ", ".join([first.format(f"of {count_of(len(runs), 'run')} "), *(word.format("") for word in rest)])

    def outdated(self, name: str) -> str:
        """Why a drawn artefact is not what would be drawn now; empty where it is. A figure is judged by its runs alone."""
        if lack := self.lack(name):
            return f"{CHANGED}; {lack}"
        return self.redrawn(name)

    def redrawn(self, name: str) -> str:
        """Why a drawn table is not what would be drawn now, of the runs there are; empty where it is, and for a figure."""
        if "md" not in self.study.artefact(name).how.form:
            return ""
        try:
            with TemporaryDirectory() as folder:
                self.study.artefact(name).how.draw(self.study, name, Path(folder))
                now, drawn = self._text(Path(folder), name), self._text(self.study.folder(name), name)
        except PelError as error:
            return f"{CHANGED}: {error}"
        if now == drawn:
            return ""
        news = [line for line in now.splitlines() if line and line not in drawn.splitlines()]
        self.news[name] = next((line for line in news if BY_HAND in line), news[0] if news else "")
        return CHANGED

    def advice(self, absent: Sequence[str], outdated: Sequence[str]) -> list[str]:
        """What will help: to what is not made yet, and to what was drawn before."""
        told = [f"{name} ({lack})" if (lack := self.lack(name)) else name for name in absent]
        lines = [f"Not made yet: {', '.join(told)}."] if told else []
        lines += [f"Outdated: {', '.join(outdated)}."] if outdated else []
        news = {name: line for name in outdated if (line := self.news.get(name, ""))}
        damaged = dict.fromkeys(line for line in news.values() if BY_HAND in line)
        lines += [f"  {name} would say now: {shortened(line)}" for name, line in news.items() if line not in damaged]
        slugs = {slug: self.states[slug] for name in (*absent, *outdated) for slug in self.study.artefact(name).specs}
        errors = {error: log for log, error in (self.failed[slug] for slug in slugs if slug in self.failed)}
        unusable = {self.found.unusable[slug][1]: slug for slug in slugs if slug in self.found.unusable}
        drawing = dict(filter(None, (self._drawing(name) for name in absent if not self.lack(name))))
        reasons = [f"  {error}  ({log})" for error, log in (errors | drawing).items()]
        reasons += [f"  {line}" for line in damaged]
        reasons += [f"  cannot be used: {slug}: {reason}" for reason, slug in unusable.items()]
        lines += reasons[:LISTED] + ([f"  ... and {len(reasons) - LISTED} more"] if len(reasons) > LISTED else [])
        running = sum(state == "running" for state in slugs.values())
        lines += [f"{count_of(running, 'run')} at work now: `{make('status')}`."] if running else []
        both = "`pel run`" if says_pel() else "`make study` (or snakemake)"
        if reasons and all(MADE_AGAIN in reason for reason in (*errors, *drawing, *damaged, *unusable)):
            lines.append(f"Run {both}: it makes these again.")
        elif reasons:
            lines.append(f"Mend this first (`{make('status')}` names every run), then run {both} again.")
        elif lines and not running:
            lines.append(f"Run {both}, as before: it makes what is missing.")
        return lines

    def _drawing(self, name: str) -> tuple[str, str] | None:
        """The error with which drawing an artefact ended, and its log."""
        log = self.study.results / "logs" / f"{name}.log"
        line = last_line(log, Path(self.study.files(name)[0]))
        return (line, shown(log)) if line else None

    @staticmethod
    def _text(folder: Path, name: str) -> str:
        return (folder / f"{name}.md").read_text(encoding="utf-8")


def shortened(line: str) -> str:
    """A line of a table, as far as it says what it is."""
    return line if len(line) <= SHOWN else f"{line[:SHOWN]} ..."

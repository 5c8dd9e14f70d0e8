"""The results that an artefact is drawn from, and what stands for those that are not there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pel_core.common.errors import PelError
from pel_core.common.shipped import making, program
from pel_core.reporting.posthoc_text import posthoc_lines
from pel_core.reporting.soup_text import soup_lines
from pel_core.spec.outcomes import reason_of
from pel_core.spec.records import require_same_inputs
from pel_core.spec.results import invalid_reason, metrics_file, read_record, read_result
from pel_core.spec.run_spec import RunSpec
from pel_core.studies.cells import Artefact
from pel_core.studies.config import shown
from pel_core.studies.status import failure
from pel_core.studies.study import Study
from pel_core.studies.tuning_words import waits

Record = Mapping[str, Any]
LISTED = 5  # blanks that a footnote tells one by one


@dataclass(frozen=True)
class Blank:
    """A run without a result: what it did (``diverged``, ``failed``) or is (``missing``), and why or how to make it.

    ``record`` is what is known of one that diverged: all of a result's but its metrics and training.
    """

    slug: str
    word: str
    reason: str
    record: Record | None = None

    def __str__(self) -> str:
        return f"{self.slug} {'is ' if self.word == 'missing' else ''}{self.word}: {self.reason}"


class Runs(dict[str, Record]):
    """Results by slug. ``blanks`` stand for those that are not there; asking for the result of one is an error that names it.
    ``labels``: what the artefact calls its runs, by slug."""

    def __init__(self, found: Mapping[str, Record], blanks: Mapping[str, Blank], labels: Mapping[str, str] = {}):
        super().__init__(found)
        self.blanks, self.labels = dict(blanks), labels

    def __missing__(self, slug: str) -> Record:
        raise PelError(str(self.blanks[slug]) if slug in self.blanks else f"the run {slug} is not among those that were read")

    def described(self, slugs: Iterable[str] | None = None) -> list[Record]:
        """Records of runs, with those that diverged: spec, data, backbone and parameters are in each."""
        asked = [*self, *self.blanks] if slugs is None else slugs
        found = (self[slug] if slug in self else self.blanks[slug].record for slug in asked)
        return [record for record in found if record]

    def without(self, slugs: Sequence[str]) -> str:
        """What a cell says in place of a number: ``diverged (2 of 3)``; empty where every run has a result."""
        words = Counter(self.blanks[slug].word for slug in slugs if slug in self.blanks)
        return ", ".join(f"{word} ({count} of {len(slugs)})" for word, count in words.items())

    def notes(self) -> list[str]:
        """A line on each kind of soup and of post-hoc run, and on each blank, for a footnote."""
        made, lines = (
            soup_lines(self.values(), self.labels) + posthoc_lines(self.values(), self.labels),
            [f"Run {blank}." for blank in self.blanks.values()],
        )
        more = len(lines) - LISTED
        if more < 1:
            return [*made, *lines]
        return [*made, *lines[:LISTED], f"And {more} more without a result ({program()} status)."]


def read_runs(study: Study, artefact: Artefact) -> Runs:
    """The results of an artefact's runs by slug.

    A training that diverged is an outcome, so a blank stands for it. So it does for what is missing where the study is asked
    for what there is (``study.partial``).

    Raises:
        PelError: a run is missing, stale, or of another spec, data or weights than is meant, or than the others.
    """
    if artefact.pending:
        raise PelError(f"{artefact.name} waits for settings: {waits(study, artefact.pending)}")
    runs = find_runs(study, artefact.specs)
    runs.labels = labels_of(artefact)
    require_same_inputs(runs.described())
    return runs


def labels_of(artefact: Artefact) -> dict[str, str]:
    """What an artefact calls its runs: the label of the row, with the column's where the row has other runs in another column. A
    run of several rows has the first one's."""
    rows, columns = (artefact.declaration.get(key, []) for key in (artefact.how.rows, artefact.how.columns))
    found: dict[str, str] = {}
    alone = {row: {cell.slugs[0] for cell in artefact.cells if cell.row == row and cell.specs} for row in range(len(rows))}
    for cell in artefact.cells:
        words = [rows[cell.row].get("label")] if cell.row < len(rows) else []
        if cell.row < len(rows) and len(alone[cell.row]) > 1 and cell.column < len(columns):
            words.append(columns[cell.column].get("label"))
        for slug in cell.slugs:
            found.setdefault(slug, ", ".join(str(word) for word in words if word))
    return found


def find_runs(study: Study, specs: Mapping[str, RunSpec]) -> Runs:
    """The results of runs by slug, as `read_runs` finds those of an artefact, of whatever data and weights each is."""
    runs, blanks = {}, {}
    for slug, spec in specs.items():
        if blank := _blank(study, slug, spec):
            blanks[slug] = blank
        else:
            runs[slug] = read_result(study.results, spec, study.accept)
    return Runs(runs, blanks)


def _blank(study: Study, slug: str, spec: RunSpec) -> Blank | None:
    if record := study.diverged(slug):
        return Blank(slug, "diverged", reason_of(record), record)
    if not study.partial:
        return None
    path = metrics_file(study.results, slug)
    why = ""
    if path.is_file():
        try:
            why = invalid_reason(read_record(path), spec, study.accept, study.results)
        except PelError as error:
            why = str(error)
        if not why:
            return None
    command = f"make it with: {making(shown(path))}"
    if told := failure(study, slug, spec.train.slug if spec.trains else ""):
        log, error = told[1]
        return Blank(slug, "failed", f"{error}  ({shown(log)}); {command}")
    return Blank(slug, "missing", f"{why}; {command}" if why else command)

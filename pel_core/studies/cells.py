"""What a study is laid out in: a cell is one number over seeds; contrasts, claims and artefacts are made of cells.

How selections become cells: `layout`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from pel_core.common.registry import Entry
from pel_core.spec.posthoc import with_sources
from pel_core.spec.run_spec import RunSpec
from pel_core.studies.kinds import ArtefactKind, read_knobs
from pel_core.studies.tuning import TunedRow, Tuning

Selection = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """One number over seeds. ``dataset`` and ``method`` as the study writes them, ``value`` a path in metrics.json.

    A tuned one has no ``specs`` before its settings are chosen.
    """

    row: int
    column: int
    dataset: str
    method: str
    value: str
    specs: tuple[RunSpec, ...]
    tuned: TunedRow | None = None

    @property
    def slugs(self) -> list[str]:
        """The runs it is made of, one per seed."""
        return [spec.slug for spec in self.specs]

    @property
    def tested(self) -> str:
        """Its data set as the study writes it, and of a run that is evaluated on another one's images that one: its number is
        none of the data set itself."""
        other = self.expected[0].evaluate_on if self.expected else ""
        return f"{self.dataset} on {other}" if other else self.dataset

    @property
    def expected(self) -> tuple[RunSpec, ...]:
        """Its runs, or before its settings are chosen some that cost what they will."""
        return self.tuned.expected if self.tuned and not self.specs else self.specs


@dataclass(frozen=True)
class Contrast:
    """One contrast of a claim: pairs (a, b) of cells, one per data set that the configuration binds; ``absent`` names the others.

    ``minus`` holds further pairs, whose contrast is taken off: how much more a leads b there than here.
    """

    expect: Literal["higher", "lower", "equal"]
    margin: float
    value: str
    label: str
    pairs: tuple[tuple[Cell, Cell], ...]
    absent: tuple[str, ...] = ()
    minus: tuple[tuple[Cell, Cell], ...] = ()


@dataclass(frozen=True)
class Claim:
    """A conclusion and the contrasts that test it."""

    name: str
    statement: str
    source: str
    contrasts: tuple[Contrast, ...]


@dataclass(frozen=True)
class Artefact:
    """A table, figure or list that is drawn from results. ``declaration`` is its YAML, ``banner`` (mark, notice)."""

    name: str
    entry: Entry[ArtefactKind]
    title: str
    declaration: Mapping[str, Any]
    cells: tuple[Cell, ...]
    banner: tuple[str, str] = ("", "")
    claims: tuple[Claim, ...] = ()
    seeds: tuple[int, ...] = field(default=())

    @property
    def kind(self) -> str:
        """The name of its kind: table, bars, ..."""
        return self.entry.name

    @property
    def how(self) -> ArtefactKind:
        """How it is laid out and made."""
        return self.entry.value

    @property
    def knobs(self) -> dict[str, Any]:
        """The keys that its kind alone has, by name, defaults among them."""
        return read_knobs(self.entry, self.declaration)

    @cached_property
    def specs(self) -> dict[str, RunSpec]:
        """Its runs by slug, in reading order; none where it is drawn from models."""
        return {} if self.how.from_models else {spec.slug: spec for cell in self.cells for spec in cell.specs}

    @property
    def planned(self) -> set[str]:
        """Its runs by slug before a look at results: candidates, runs of a tuned row at the settings nearest to its own, and
        those whose logits post-hoc runs need."""
        rows = {*with_sources({spec.slug: spec for cell in self.cells for spec in cell.expected})}
        return rows.union(*(tuning.specs for tuning in self.tunings.values()))

    @cached_property
    def tunings(self) -> dict[str, Tuning]:
        """The tunings of its rows by name."""
        return {cell.tuned.tuning.name: cell.tuned.tuning for cell in self.cells if cell.tuned}

    @cached_property
    def pending(self) -> tuple[str, ...]:
        """The tunings that it waits for."""
        return tuple(dict.fromkeys(cell.tuned.tuning.name for cell in self.cells if cell.tuned and not cell.specs))

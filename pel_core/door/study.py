"""A study's finished results in Python: its cells as a frame, its tables and figures in a notebook, and what is missing."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from pathlib import Path
from shlex import quote
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pandas as pd

from pel_core.common.errors import PelError, unknown
from pel_core.common.shipped import command, says_pel
from pel_core.door.one_run import Paths, settings_of
from pel_core.door.plugin import use_plugins
from pel_core.reporting.figure_style import collected
from pel_core.reporting.html_text import markdown_html, picture
from pel_core.reporting.runs import Blank, Runs, find_runs
from pel_core.reporting.tables import statistic
from pel_core.spec.records import require_same_inputs
from pel_core.studies.cells import Artefact, Cell
from pel_core.studies.config import shown
from pel_core.studies.kinds import FIGURE
from pel_core.studies.study import Study, load

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TOLD = 5  # runs without a result that a summary names
CELLS = (
    "artefact", "row", "column", "row_label", "column_label", "dataset", "method", "metric", "mean", "std", "n", "seeds",
    "missing", "runs",
)  # fmt: skip


@dataclass(frozen=True, repr=False, eq=False)
class StudyFigure:
    """A figure of a study as it is drawn, which a notebook shows: ``title``, ``caption``, and ``figure``, matplotlib's own, to
    change and to save."""

    name: str
    title: str
    caption: str
    figure: "Figure"
    address: str  # the picture itself, as an address (data:image/svg+xml;...)

    def __repr__(self) -> str:
        return f"StudyFigure('{self.name}': {self.title})"

    def _repr_html_(self) -> str:
        return f'<img src="{self.address}" alt="{escape(self.title)}"><p style="max-width: 40em">{escape(self.caption)}</p>'


@dataclass(frozen=True, repr=False, eq=False)
class StudyResults:
    """What there is of a study. It reads finished runs and makes none: ``missing`` says which there are not, and ``command``
    makes them."""

    study: Study
    arguments: Mapping[str, str]

    @property
    def title(self) -> str:
        """The study's."""
        return self.study.title

    @cached_property
    def _runs(self) -> Runs:
        return find_runs(self.study, self.study.specs)

    @property
    def missing(self) -> dict[str, str]:
        """Every run without a result, and why: it diverged, failed, is not made yet, or cannot be used."""
        return {slug: f"{blank.word}: {blank.reason}" for slug, blank in self._runs.blanks.items()}

    @property
    def command(self) -> str:
        """What makes what is missing."""
        if says_pel():
            return " ".join([command("run"), *(f"--{key} {quote(value)}" for key, value in self.arguments.items())])
        words = [f"{key}={value}" for key, value in self.arguments.items()]
        return " ".join(["snakemake --cores 1 --resources gpu=1 --config", *map(quote, words)])

    @cached_property
    def cells(self) -> pd.DataFrame:
        """A row for each number of the study: where it stands (``artefact``, ``row``, ``column`` and their labels), what it is of
        (``dataset`` and ``method`` as the study writes them, with ``on NAME`` where another data set's images are evaluated;
        ``metric``), its ``mean`` over ``n`` runs with ``std``, the ``seeds``, the ``runs``. Where a run has no result ``mean`` is
        NaN and ``missing`` says what is missing.

        Raises:
            PelError: runs are of different data or weights.
        """
        require_same_inputs(self._runs.described())
        rows = [row for name, artefact in self.study.artefacts.items() for row in self._rows(name, artefact)]
        return pd.DataFrame(rows, columns=list(CELLS))

    def _rows(self, name: str, artefact: Artefact) -> Iterator[dict[str, Any]]:
        if artefact.how.from_models:
            return  # it is drawn from models, and shows no result
        for cell in artefact.cells:
            row, column = _labels(artefact, cell)
            about = {"artefact": name, "row": cell.row, "column": cell.column, "row_label": row, "column_label": column}
            about |= {"dataset": cell.tested, "method": cell.method, "metric": cell.value.removeprefix("metrics.")}
            about |= {"seeds": [spec.seed for spec in cell.specs], "runs": cell.slugs}
            if not cell.specs:
                yield {**about, "mean": float("nan"), "std": float("nan"), "n": 0, "missing": "settings are not chosen yet"}
                continue
            found = statistic(cell, self._runs)
            mean, std = (float("nan") if value is None else value for value in (found.mean, found.std))
            yield {**about, "mean": mean, "std": std, "n": found.n, "missing": found.blank or found.reason}

    @property
    def tables(self) -> list[str]:
        """The names of its tables, its comparison with reported values and its claims' verdicts among them."""
        return [name for name, artefact in self.study.artefacts.items() if artefact.how.form != FIGURE]

    @property
    def figures(self) -> list[str]:
        """The names of its figures."""
        return [name for name, artefact in self.study.artefacts.items() if artefact.how.form == FIGURE]

    def table(self, name: str) -> pd.DataFrame:
        """A table as it is printed, from what there is: numbers, not texts; runs that are missing leave an empty cell.

        Raises:
            PelError: there is no such table, or no run of it has a result.
        """
        with TemporaryDirectory() as folder:
            self._draw(name, self.tables, "table", Path(folder))
            return pd.read_csv(Path(folder, f"{name}.csv"))

    def figure(self, name: str) -> StudyFigure:
        """A figure, drawn anew from what there is; runs that are missing are named in it.

        Raises:
            PelError: there is no such figure, or no run of it has a result.
        """
        with TemporaryDirectory() as folder, collected() as drawn:
            self._draw(name, self.figures, "figure", Path(folder))
            made, caption = drawn[-1]
            address = picture(Path(folder, f"{name}.svg"))
        return StudyFigure(name, self.study.artefact(name).title, " ".join(caption[1:]), made, address)

    def _draw(self, name: str, names: Sequence[str], kind: str, folder: Path) -> None:
        artefact = self.study.artefact(name)  # which says of one that is left out why
        if name not in names:
            raise unknown(kind, name, names, f"({name} is of the kind {artefact.kind})")
        lacking = [slug for slug in artefact.specs if slug in self._runs.blanks]
        if artefact.specs and len(lacking) == len(artefact.specs):
            raise PelError(f"{name}: none of its {len(lacking)} runs has a result; make them with: {self.command}")
        artefact.how.draw(self.study, name, folder)

    def _summary(self) -> list[str]:
        runs = self.study.specs
        asked = self.arguments
        lines = [f"{self.title}: {asked['study']} on {asked['config']} ({self.study.config['title']})"]
        lines += [notice] if (notice := self.study.config.get("notice", "")) else []
        lines += [f"{len(runs) - len(self.missing):,} of {len(runs):,} runs have a result, in {shown(self.study.results)}"]
        lines += [f"Tables: {', '.join(self.tables) or 'none'}. Figures: {', '.join(self.figures) or 'none'}."]
        lines += [f"Left out: {name}: {reason}" for name, reason in self.study.left_out.items()]
        if self.missing:
            lines += [_told(blank) for blank in list(self._runs.blanks.values())[:TOLD]]
            more = len(self.missing) - TOLD
            lines += [f"and {more:,} more runs" if more > 0 else "", f"To make what is missing: {self.command}"]
        return list(filter(None, lines))

    def __repr__(self) -> str:
        return "\n".join(self._summary())

    def _repr_html_(self) -> str:
        parts = [f"<p>{escape(line)}</p>" for line in self._summary()]
        for name in self.tables:
            if all(slug in self._runs.blanks for slug in self.study.artefact(name).specs):
                continue  # named above
            try:
                with TemporaryDirectory() as folder:
                    self._draw(name, self.tables, "table", Path(folder))
                    parts.append(markdown_html(Path(folder, f"{name}.md").read_text(encoding="utf-8")))
            except PelError as error:
                parts.append(f"<p>{escape(name)} is not shown: {escape(str(error))}</p>")
        return "\n".join(parts)


def _told(blank: Blank) -> str:
    """A run without a result, in a line: of one that is not made yet its name says all."""
    return f"Missing: {blank.slug}" if blank.word == "missing" else f"Missing: {blank}"


def _labels(artefact: Artefact, cell: Cell) -> tuple[str, str]:
    """What a cell's row and column are called; empty where its kind has no such list."""
    lists = [artefact.declaration.get(key, ()) if key else () for key in (artefact.how.rows, artefact.how.columns)]
    places = zip(lists, (cell.row, cell.column), strict=True)
    found = [entries[at] if isinstance(entries, Sequence) and at < len(entries) else {} for entries, at in places]
    row, column = (str(entry.get("label", entry.get("at", ""))) for entry in found)
    return row, column


def study(
    study: Paths = "report",
    config: Paths = "demo",
    *,
    seeds: Any = None,
    backbone: str | None = None,
    weights: Paths | None = None,
    results: Paths | None = None,
    root: Paths | None = None,
) -> StudyResults:
    """A study on a configuration, as far as its runs are finished. Nothing is trained: ``command`` of the result does that.

    Args:
        study, config: names under ``workflow/config``, or paths of YAML files.
        seeds: instead of the configuration's: a number, a list, or ``"0..4"``.
        backbone, weights, results, root: instead of the configuration's, as a command line has them.

    Raises:
        PelError: a study or configuration that is not possible: which file and key, what was found, what is allowed.
    """
    use_plugins()
    asked = {"seeds": seeds, "backbone": backbone, "weights": weights, "results": results, "root": root}
    given = {
        key: os.fspath(value) if isinstance(value, os.PathLike) else value for key, value in asked.items() if value is not None
    }
    with settings_of(config, {key: value for key, value in given.items() if key == "root"}):
        loaded = load(os.fspath(study), os.fspath(config), **given)
    words = {"study": os.fspath(study), "config": os.fspath(config)}
    words |= {key: ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value) for key, value in given.items()}
    return StudyResults(replace(loaded, partial=True), words)

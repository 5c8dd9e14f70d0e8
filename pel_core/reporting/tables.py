"""Tables: a declared table, the runs' metrics.json, their predictions and the notes on their data -> a grid, which `table_text`
spells as CSV, Markdown and LaTeX. A pure function: same inputs, same bytes."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pel_core.common.errors import PelError, unknown
from pel_core.common.files import write_text
from pel_core.ingest.notes import data_notes, notes_footnote
from pel_core.models.backbones import BACKBONES
from pel_core.reporting.paired import Rows
from pel_core.reporting.recipe_text import data_line, recipe_line, recipe_note
from pel_core.reporting.runs import Record, Runs, read_runs
from pel_core.reporting.screen import Screen, table_lines
from pel_core.reporting.statistics.marks import Column
from pel_core.reporting.table_marks import mark_columns, mark_notes
from pel_core.reporting.table_text import SPREADS, table_texts
from pel_core.reporting.table_text import md_row as md_row  # others spell theirs alike
from pel_core.reporting.table_text import table_tex as table_tex
from pel_core.reporting.table_text import write_csv as write_csv
from pel_core.spec.records import data_sets, lookup, number, why_none
from pel_core.spec.values import SECTIONS
from pel_core.studies.cells import Cell
from pel_core.studies.kinds import TABLE, TABLES, ArtefactKind
from pel_core.studies.study import Study

INFO = ("backbone", "parameters", "epochs")  # the leading columns unless a table says otherwise
INFO_LABELS = {
    "backbone": "Backbone",
    "parameters": "Learnable Param.",
    "parameters_with_head": "Param. with head",
    "epochs": "#Epochs",
}


@dataclass(frozen=True)
class Statistic:
    """A value over seeds: mean, sample standard deviation, and why there is no mean where it is None. There is no deviation for
    n < 2, nor where nothing depends on the seed (zero-shot).

    A run without a result leaves no mean, or it would be of the survivors alone: ``blank`` is what the cell says then.
    """

    mean: float | None
    std: float | None
    n: int
    reason: str = ""
    blank: str = ""


@dataclass(frozen=True)
class Grid:
    """A table before it is spelled.

    Args:
        shown: which of the leading columns stand in the table; the others are the same in every row: ``shared`` says them.
        info, values, places: one list per row; a place is the cell's data set, method and value.
        columns: marks of each column, or why there are none.
        spread, intervals: what is printed beside a mean.
        recipe, departs: the whole of it, and what of it is not the default, in a line each.
    """

    name: str
    title: str
    banner: tuple[str, str]
    corner: str
    info_labels: list[str]
    shown: list[int]
    shared: str
    value_labels: list[str]
    row_labels: list[str]
    info: list[list[str]]
    values: list[list[Statistic]]
    places: list[list[tuple[str, str, str]]]
    columns: list[Column | str]
    digits: int
    spread: str
    intervals: bool
    recipe: str
    departs: str
    notes: list[str]
    parameters: list[str]


def statistic(cell: Cell, runs: Runs) -> Statistic:
    """A cell's value over its seeds. Empty shot groups are no zeros: they are left out, and n says so."""
    records = [runs[slug] for slug in cell.slugs if slug in runs]
    if blank := runs.without(cell.slugs):
        return Statistic(None, None, len(records), blank, blank)
    found = [number(record, cell.value) for record in records]
    values = [value for value in found if value is not None]
    if not values:
        return Statistic(None, None, 0, why_none(records[0], cell.value))
    std = statistics.stdev(values) if len(values) > 1 and cell.specs[0].seeded else None
    return Statistic(statistics.fmean(values), std, len(values))


def table_grid(study: Study, name: str) -> Grid:
    """Fill a declared table from results.

    Raises:
        PelError: a run is missing or cannot be used.
    """
    artefact = study.artefact(name)
    runs, entry = read_runs(study, artefact), artefact.declaration
    rows, columns, width = entry["rows"], entry["columns"], len(entry["columns"])
    cells = [artefact.cells[i * width : (i + 1) * width] for i in range(len(rows))]
    values = [[statistic(cell, runs) for cell in row] for row in cells]
    digits = entry.get("digits", 1)
    records = [runs.described(slug for cell in row for slug in cell.slugs) for row in cells]
    infos = [info if isinstance(info, dict) else {"label": INFO_LABELS[info], "value": info} for info in entry.get("info", INFO)]
    flat = [record for row in records for record in row]
    info = [[_joined(show_info(record, column["value"], flat) for record in row) for column in infos] for row in records]
    labels, value_labels = [str(column["label"]) for column in infos], [str(column["label"]) for column in columns]
    # Leading columns that a study asked for by name stay where they are.
    alike = [k for k in range(len(infos)) if "info" not in entry and len(rows) > 1 and len({row[k] for row in info}) == 1]
    shared = [f"{labels[k]}: {info[0][k]}" for k in alike]
    baseline = [str(row["label"]) for row in rows].index(entry["baseline"]) if entry.get("baseline") else None
    marked = mark_columns(cells, runs, Rows(study.results), baseline)
    # A value that is missing says why, once for each reason.
    noted = notes_footnote(data_notes(study.results, data_sets(flat)))
    empty = [(j, stat) for row in values for j, stat in enumerate(row) if not stat.n and not stat.blank]
    gaps = sorted({f"{columns[j]['label']}: none, {stat.reason}" for j, stat in empty})
    return Grid(
        name=name,
        title=artefact.title,
        banner=artefact.banner,
        corner=entry.get("corner", "Method"),
        info_labels=labels,
        shown=[k for k in range(len(infos)) if k not in alike],
        shared=f"{'; '.join(shared)}." if shared else "",
        value_labels=value_labels,
        row_labels=[str(row["label"]) for row in rows],
        info=info,
        values=values,
        places=[[(cell.tested, cell.method, cell.value.removeprefix("metrics.")) for cell in row] for row in cells],
        columns=marked,
        digits=digits,
        spread=entry.get("spread", "sd"),
        intervals=entry.get("intervals", False),
        recipe=recipe_line(flat),
        departs=recipe_note(flat),
        notes=[
            *([entry["note"]] if "note" in entry else []),
            seeds_words(artefact.seeds, entry.get("spread", "sd"), entry.get("intervals", False)),
            *mark_notes(marked, value_labels, entry.get("baseline", ""), [str(row["label"]) for row in rows]),
            *gaps,
            *runs.notes(),
            data_line(flat),
            *noted,
        ],
        parameters=[_joined(str(record["parameters"]["learnable"]) for record in row) for row in records],
    )


def seeds_words(seeds: Sequence[int], spread: str, intervals: bool) -> str:
    """What the numbers are over, and what stands beside them."""
    over = f"over seeds {', '.join(map(str, seeds))}: n = {len(seeds)}"
    if intervals:
        return f"Mean and 95 % interval [low, high] of another run on other test images, {over}."
    if len(seeds) == 1:
        return f"One seed ({seeds[0]}): no spread is known."
    return f"Mean ± {SPREADS[spread]} {over}."


def check_table(declaration: Mapping[str, Any]) -> None:
    """Refuse a baseline that is no row, or several.

    Raises:
        PelError: naming the rows there are.
    """
    labels = [str(row["label"]) for row in declaration["rows"]]
    found = declaration.get("baseline")
    if found is None or labels.count(found) == 1:
        return
    if found in labels:
        raise PelError(
            f"baseline: {labels.count(found)} rows are labelled '{found}'; give the one that is meant a label of its own"
        )
    raise unknown("baseline", found, labels, "(the label of a row of this table)")


def show_info(record: Record, what: str, beside: Sequence[Record]) -> str:
    """A leading column's entry of one run: a word of INFO_LABELS or a path in metrics.json; ``beside``: the table's runs. One
    that diverged has no metrics."""
    if what == "backbone":
        name = record["spec"]["backbone"]
        return BACKBONES[name].label if name in BACKBONES else name
    if what in ("parameters", "parameters_with_head"):
        key = "learnable" if what == "parameters" else "learnable_with_head"
        counts = [other["parameters"][key] for other in beside]
        return millions(record["parameters"][key], min(filter(None, counts), default=0))
    if what == "epochs":
        return str(record["spec"]["epochs"])
    path = what if what.split(".")[0] in SECTIONS else f"metrics.{what}"
    if path.split(".")[0] not in record:
        return ""
    value = lookup(record, path)
    return f"{value:g}" if isinstance(value, float) else f"{value:,}" if what.startswith("parameters.") else str(value)


def millions(count: int, smallest: int | None = None) -> str:
    """A parameter count as the report prints it: 101436 -> "0.10M".

    More digits where the smallest count beside it (itself, if none is given) would else lose its second one.
    """
    value, least = count / 1e6, (count if smallest is None else smallest) / 1e6
    digits = 2 if least >= 0.01 or least <= 0 else 1 - math.floor(math.log10(least))
    return f"{value:.{digits}f}M"


def _joined(words: Any) -> str:
    return " / ".join(dict.fromkeys(filter(None, words))) or "–"


def table_files(study: Study, name: str) -> dict[str, str]:
    """The text of a table in each format, by suffix."""
    return dict(table_texts(table_grid(study, name)))


def write_texts(texts: Mapping[str, str], name: str, folder: str | Path) -> None:
    """Write texts by suffix as the files of an artefact."""
    for suffix, text in texts.items():
        write_text(Path(folder) / f"{name}.{suffix}", text)


def save_table(study: Study, name: str, folder: str | Path) -> None:
    """Make a declared table into ``folder`` in each format.

    Raises:
        PelError: a run is missing or cannot be used.
    """
    write_texts(table_files(study, name), name, folder)


def on_screen(title: str, markdown: str, screen: Screen) -> list[str]:
    """A table in a terminal, whose Markdown has its title."""
    return table_lines(markdown, screen)


TABLES.register(
    "table",
    ArtefactKind(
        TABLE, save_table, rows="rows", columns="columns", check=check_table, compared=True, version=3, on_screen=on_screen
    ),
    about="a value for each row and column, the best of each column in bold, rows not separable from it underlined",
)

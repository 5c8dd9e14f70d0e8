"""Tables: a declared table, the runs' metrics.json and the notes on their data -> CSV, Markdown and LaTeX. A pure function: same
inputs, same bytes."""

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pel_core.common.files import write_text
from pel_core.ingest.notes import data_notes, notes_footnote
from pel_core.models.backbones import BACKBONES
from pel_core.reporting.latex_text import tex_needs, tex_row, tex_text
from pel_core.reporting.recipe_text import data_line, recipe_line, seeds_line
from pel_core.reporting.runs import Record, Runs, read_runs
from pel_core.spec.records import lookup, number, why_none
from pel_core.spec.results import METRICS, SECTIONS
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
    """A value over seeds: mean, sample standard deviation (None for n < 2), and why there is no mean where it is None.

    A run without a result leaves no mean, or it would be of the survivors alone: ``blank`` is what the cell says then.
    """

    mean: float | None
    std: float | None
    n: int
    reason: str = ""
    blank: str = ""


@dataclass(frozen=True)
class Grid:
    """A table before it is spelled. ``info`` and ``values`` hold one list per row; ``best`` the (row, column) in bold."""

    title: str
    banner: tuple[str, str]
    corner: str
    info_labels: list[str]
    value_labels: list[str]
    row_labels: list[str]
    info: list[list[str]]
    values: list[list[Statistic]]
    best: set[tuple[int, int]]
    digits: int
    recipe: str
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
    std = statistics.stdev(values) if len(values) > 1 else None
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
    # A value that is missing says why, once for each reason.
    noted = notes_footnote(data_notes(study.results, (record["data"]["name"] for record in flat)))
    empty = [(j, stat) for row in values for j, stat in enumerate(row) if not stat.n and not stat.blank]
    gaps = sorted({f"{columns[j]['label']}: none, {stat.reason}" for j, stat in empty})
    return Grid(
        title=artefact.title,
        banner=artefact.banner,
        corner=entry.get("corner", "Method"),
        info_labels=[str(info["label"]) for info in infos],
        value_labels=[str(column["label"]) for column in columns],
        row_labels=[str(row["label"]) for row in rows],
        info=[[_joined(show_info(record, info["value"], flat) for record in row) for info in infos] for row in records],
        values=values,
        best=_best(values, [cell.value for cell in cells[0]], digits),
        digits=digits,
        recipe=recipe_line(flat),
        notes=[
            *([entry["note"]] if "note" in entry else []),
            seeds_line(artefact.seeds),
            *gaps,
            *runs.notes(),
            data_line(flat),
            *noted,
        ],
        parameters=[_joined(str(record["parameters"]["learnable"]) for record in row) for row in records],
    )


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


def _best(values: list[list[Statistic]], paths: Sequence[str], digits: int) -> set[tuple[int, int]]:
    """The best of each column, as printed, so that equal prints are equally bold; nothing where there is no better end."""
    best: set[tuple[int, int]] = set()
    for j, path in enumerate(paths):
        metric = METRICS.get(path.removeprefix("metrics."))
        shown = {i: round(row[j].mean, digits) for i, row in enumerate(values) if row[j].mean is not None}
        if metric and metric.better != "neither" and len(shown) > 1:
            goal = max(shown.values()) if metric.better == "higher" else min(shown.values())
            best |= {(i, j) for i, value in shown.items() if value == goal}
    return best


def table_csv(grid: Grid) -> str:
    """For programs: plain numbers, a column of standard deviations where there are several seeds, and the banner in ``note``."""
    several = any(stat.n > 1 for row in grid.values for stat in row)
    spread = [f"{label} std" for label in grid.value_labels] if several else []
    header = [grid.corner, *grid.info_labels, *grid.value_labels, *spread, "n", "parameters", "recipe", "note"]
    lines = []
    for i, row in enumerate(grid.values):
        means = [_plain(stat.mean) for stat in row]
        stds = [_plain(stat.std) for stat in row] if several else []
        count = _joined(str(stat.n) for stat in row)
        lines.append([grid.row_labels[i], *grid.info[i], *means, *stds, count, grid.parameters[i], grid.recipe, grid.banner[1]])
    return write_csv([header, *lines])


def write_csv(rows: Sequence[Sequence[str]]) -> str:
    """Rows as CSV text with Unix line ends."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _plain(value: float | None) -> str:
    return "" if value is None else f"{round(value, 4):g}" if abs(value) >= 1e6 else str(round(value, 4))


def table_md(grid: Grid) -> str:
    """For people: a banner, the table with the best of each column bold, the recipe under it."""
    header = [grid.corner, *grid.info_labels, *grid.value_labels]
    rules = ["---"] * (1 + len(grid.info_labels)) + ["---:"] * len(grid.value_labels)
    body = []
    for i, row in enumerate(grid.values):
        shown = [_spell(stat, grid, (i, j), "±", ("**", "**")) for j, stat in enumerate(row)]
        body.append([grid.row_labels[i], *grid.info[i], *shown])
    mark = f"[{grid.banner[0]}] " if grid.banner[0] else ""
    parts = [f"## {mark}{grid.title}", ""]
    if grid.banner[1]:
        parts += [f"> **{grid.banner[1]}**", ""]
    parts += [md_row(header), "|" + "|".join(rules) + "|", *map(md_row, body), "", grid.recipe, ""]
    return "\n".join([*parts, *(f"{note}\n" for note in grid.notes)]).rstrip() + "\n"


def md_row(cells: Sequence[str]) -> str:
    """One line of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _spell(stat: Statistic, grid: Grid, at: tuple[int, int], sign: str, bold: tuple[str, str]) -> str:
    if stat.mean is None:
        return stat.blank or ("–" if sign == "±" else "--")
    text = f"{stat.mean:.{grid.digits}f}"
    if at in grid.best:
        text = f"{bold[0]}{text}{bold[1]}"
    text += f" {sign} {stat.std:.{grid.digits}f}" if stat.std is not None else ""
    few = stat.n < max(other.n for row in grid.values for other in row)
    return f"{text} (n={stat.n})" if few else text


def table_tex(grid: Grid) -> str:
    r"""For a paper: a self-contained ``tabular`` (``\usepackage{booktabs}``), the recipe in small print under it."""
    header = [grid.corner, *grid.info_labels, *grid.value_labels]
    columns = "l" * (1 + len(grid.info_labels)) + "r" * len(grid.value_labels)
    small = ([grid.banner[1]] if grid.banner[1] else []) + [grid.recipe, *grid.notes]
    words = [*header, *grid.row_labels, *(word for row in grid.info for word in row), grid.banner[0], *small]
    comments, checks = tex_needs(words, ["{booktabs}"])
    body = []
    for i, row in enumerate(grid.values):
        shown = [_spell(stat, grid, (i, j), r"$\pm$", (r"\textbf{", "}")) for j, stat in enumerate(row)]
        body.append(tex_row([*map(tex_text, [grid.row_labels[i], *grid.info[i]]), *shown]))
    lines = [f"% {' '.join(grid.title.split())}", *comments, r"\begingroup\small\setlength{\tabcolsep}{4pt}%", *checks]
    lines += [rf"\begin{{tabular}}{{@{{}}{columns}@{{}}}}", r"\toprule"]
    if grid.banner[0]:
        words = rf"\textbf{{{tex_text(grid.banner[0])}}}: not for comparison"
        lines += [rf"\multicolumn{{{len(header)}}}{{c}}{{{words}}} \\", r"\midrule"]
    lines += [tex_row(map(tex_text, header)), r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]
    lines += [r"\par\smallskip\footnotesize\raggedright", *(rf"{tex_text(line)}\par" for line in small), r"\endgroup"]
    return "\n".join(lines) + "\n"


def table_files(study: Study, name: str) -> dict[str, str]:
    """The text of a table in each format, by suffix."""
    grid = table_grid(study, name)
    return {"csv": table_csv(grid), "md": table_md(grid), "tex": table_tex(grid)}


def write_texts(texts: Mapping[str, str], name: str, folder: str | Path) -> None:
    """Write texts by suffix as the files of an artefact."""
    for suffix, text in texts.items():
        write_text(Path(folder) / f"{name}.{suffix}", text)


def save_table(study: Study, name: str, folder: str | Path) -> None:
    """Make a declared table into ``folder`` as csv, md and tex.

    Raises:
        PelError: a run is missing or cannot be used.
    """
    write_texts(table_files(study, name), name, folder)


def on_screen(title: str, markdown: str) -> list[str]:
    """A table's Markdown with its columns padded, so that it reads in a terminal; the lines on data and recipe are left out."""
    left_out = ("Data: ", "Recipe: ", "Notes on the data, ")
    lines = [line for line in markdown.splitlines() if line and not line.startswith(left_out)]
    rows = [[cell.strip().replace("**", "") for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    widths = [max(len(row[i]) for row in rows if not row[i].startswith("---")) for i in range(len(rows[0]))]
    left = iter(rows)
    text = []
    for line in lines:
        if line.startswith("|"):
            row = next(left)
            rule = row[0].startswith("---")
            cells = ["-" * width if rule else cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            text.append("  ".join(cells).rstrip())
        else:
            text.append(line.removeprefix("## ").removeprefix("> ").replace("**", ""))
    return text


TABLES.register(
    "table",
    ArtefactKind(TABLE, save_table, rows="rows", columns="columns", compared=True, on_screen=on_screen),
    about="a value for each row and column, the best of each column in bold",
)

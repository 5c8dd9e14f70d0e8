"""Interaction plot: a value at each level of one factor, a line for each level of another. Parallel lines are no interaction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pel_core.common.errors import PelError
from pel_core.reporting.figure_rows import (
    WIDTH,
    Ends,
    axis_label,
    data_names,
    ends_of,
    legend_of,
    look,
    seeds_of,
    sheet_of,
    whiskers,
)
from pel_core.reporting.figure_sheet import Sheet, drawing, frame, grid, room_for, saves
from pel_core.reporting.figure_text import fits, line_height, wrapped
from pel_core.reporting.runs import read_runs
from pel_core.reporting.statistics.effects import contrast, value_of
from pel_core.reporting.statistics.reading import Reader
from pel_core.reporting.statistics.runs import Row
from pel_core.reporting.statistics.values import is_metric
from pel_core.studies.cells import Artefact
from pel_core.studies.kinds import AXIS, FIGURE, FIGURES, ArtefactKind, Declaration
from pel_core.studies.study import Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_LEVELS, MOST_SERIES = 6, 4


@dataclass(frozen=True)
class Level:
    """A cell: where it stands, its line, its mean, and the ends of its general interval (None where that has no width)."""

    level: int
    series: int
    mean: float
    ends: Ends


@dataclass(frozen=True)
class InteractionFigure:
    """Cells before they are drawn."""

    sheet: Sheet
    axis: str
    levels: list[str]
    series: list[str]
    cells: list[Level]


def interaction_figure(study: Study, name: str) -> InteractionFigure:
    """Fill a declared interaction plot from stored predictions; of two by two cells the caption says the interaction itself.

    Raises:
        PelError: a run is missing or cannot be used.
    """
    artefact = study.artefact(name)
    runs, reader, entry = read_runs(study, artefact), Reader(study.results), artefact.declaration
    cells, rows, none = [], {}, []
    for cell in artefact.cells:
        label = f"{entry['levels'][cell.row]['label']}, {entry['series'][cell.column]['label']}"
        if runs.without(cell.slugs):
            continue
        row = reader.row(label, cell.specs)
        found = value_of(row, cell.value.removeprefix("metrics."))
        if found.mean is None:
            none.append(f"No value at {label}: {found.reason}.")
            continue
        rows[cell.row, cell.column] = row
        cells.append(Level(cell.row, cell.column, found.mean, ends_of(found)[1]))
    over = "training runs and test images" if len(artefact.seeds) > 1 else "test images alone"
    about = f"{seeds_of(artefact.seeds)}, {data_names(runs)}. Bars: 95 % interval over {over}. Parallel lines: no interaction. "
    about += "The axis does not start at zero."
    sheet = sheet_of(artefact, runs, [about, _interaction(artefact, rows), *none], cells, "".join(none[:1]))
    words = [[str(item["label"]) for item in entry[key]] for key in ("levels", "series")]
    return InteractionFigure(sheet, axis_label(artefact), *words, cells)


def _interaction(artefact: Artefact, rows: dict[tuple[int, int], Row]) -> str:
    """Of two levels by two lines: the difference of differences with its interval, in words."""
    values = {cell.value for cell in artefact.cells}
    if set(rows) != {(0, 0), (0, 1), (1, 0), (1, 1)} or len(values) != 1 or len(artefact.cells) != 4:
        return ""
    try:
        found = contrast([(rows[1, 1], rows[0, 1])], values.pop().removeprefix("metrics."), [(rows[1, 0], rows[0, 0])])
    except PelError as error:
        return f"Interaction: none, {error}."
    a, b = (str(item["label"]) for item in artefact.declaration["series"])
    if found.mean is None:
        return f"Interaction: none, {found.reason}."
    low, high = found.general.low, found.general.high
    ends = f", 95 % interval {low:+.1f} to {high:+.1f}" if low is not None and high is not None else ""
    wary = f"; no verdict from {found.undecidable}" if found.undecidable else ""
    return f"Interaction: from the first level to the second, {b} changes by {found.mean:+.1f} more than {a}{ends}{wary}."


@drawing
def draw_interaction(made: InteractionFigure) -> Figure:
    """A line for each series over the levels. Call it, and save the figure, inside ``style()``."""
    slot = (made.sheet.width - 0.75) / len(made.levels)
    size = next((size for size in (6.5, 5.5, 4.5) if all(fits(level, 0.92 * slot, size) for level in made.levels)), 4.5)
    labels = ["\n".join(wrapped(level, 0.92 * slot, size)) for level in made.levels]
    y_title = wrapped(made.axis, 1.6, 7)
    body = 2.0 + max(label.count("\n") + 1 for label in labels) * line_height(size)
    figure = frame(made.sheet, body, legend_of(made.series, markersize=3.6))
    axes = figure.subplots()
    several = len(made.series)
    for i in range(several):
        found = [cell for cell in made.cells if cell.series == i]
        at = {cell.level: cell.level + 0.05 * (i - (several - 1) / 2) for cell in found}  # apart, so that no bar hides another
        for cell in found:
            whiskers(axes, at[cell.level], None, cell.ends, look(i)["color"])
        means = {cell.level: cell.mean for cell in found}
        every = range(len(made.levels))  # a line stops where a cell has no value
        xs, ys = ([each.get(level, float("nan")) for level in every] for each in (at, means))
        axes.plot(xs, ys, linewidth=1.1, markersize=3.6, **look(i))
    axes.set_ylim(*room_for(end for cell in made.cells for end in (cell.mean, *(cell.ends or ()))))
    axes.set_xlim(-0.5, len(labels) - 0.5)
    axes.set_xticks(range(len(labels)), labels, fontsize=size)
    grid(axes)
    axes.set_ylabel("\n".join(y_title))
    return figure


def check_factors(declaration: Declaration) -> None:
    """Refuse factors of one level, or of more than there is room for, and values that are no metric.

    Raises:
        PelError: naming the factor.
    """
    for key, most in (("levels", MOST_LEVELS), ("series", MOST_SERIES)):
        if not 2 <= len(declaration.get(key, [])) <= most:
            found = len(declaration.get(key, []))
            raise PelError(f"{key} has {found} entries; an interaction is seen from 2 on, and there is room for {most}")
    for item in (declaration.get("where", {}), *declaration["levels"], *declaration["series"]):
        if not is_metric(item.get("value", "overall")):
            raise PelError(f"value: {item['value']} is no metric of test images and has no interval; draw it as a curve or bars")


FIGURES.register(
    "interaction",
    ArtefactKind(
        FIGURE,
        saves(interaction_figure, draw_interaction),
        rows="levels",
        columns="series",
        value="overall",
        check=check_factors,
        version=2,
    ),
    about="a metric at each level of one factor, a line for each level of another",
    knobs=(AXIS, WIDTH),
)

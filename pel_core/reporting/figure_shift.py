"""Accuracy on a run's own test images against that on others (`evaluate_on`), a dot for each method and test set.

As Taori et al. (2020), "Measuring robustness to natural distribution shifts in image classification", draw it: what lies on the
line y = x loses nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pel_core.common.errors import PelError
from pel_core.common.lazy import plt
from pel_core.reporting.figure_rows import (
    WIDTH,
    Ends,
    about_whiskers,
    axis_label,
    data_names,
    ends_of,
    look,
    seeds_of,
    sheet_of,
    whiskers,
)
from pel_core.reporting.figure_sheet import Sheet, drawing, frame, grid, saves
from pel_core.reporting.figure_style import COLOURS, SHAPES
from pel_core.reporting.runs import read_runs
from pel_core.reporting.statistics.effects import value_of
from pel_core.reporting.statistics.reading import Reader
from pel_core.reporting.tables import statistic
from pel_core.studies.bindings import TEST
from pel_core.studies.kinds import AXIS, FIGURE, FIGURES, ArtefactKind, Declaration
from pel_core.studies.study import Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 8  # methods, and test sets: as many as there are colours and markers


@dataclass(frozen=True)
class Side:
    """A mean, and the ends of both intervals (None where one has no width)."""

    mean: float
    training: Ends
    general: Ends


@dataclass(frozen=True)
class Point:
    """A method (by its place) on a test set (by its place): ``own``, on its own test images, and ``other``."""

    method: int
    test_set: int
    own: Side
    other: Side


@dataclass(frozen=True)
class ShiftFigure:
    """Points before they are drawn, with what methods and test sets are called."""

    sheet: Sheet
    axis: str
    methods: list[str]
    sets: list[str]
    points: list[Point]


def shift_figure(study: Study, name: str) -> ShiftFigure:
    """Fill a declared figure from results.

    Raises:
        PelError: a run cannot be used, or its predictions are damaged.
    """
    artefact = study.artefact(name)
    runs, reader = read_runs(study, artefact), Reader(study.results)
    labels = [str(item["label"]) for item in artefact.declaration["methods"]]
    sets = [str(item["label"]) for item in artefact.declaration["sets"]][1:]
    sides: dict[tuple[int, int], Side] = {}
    drawn, none, classes = [], [], {}
    for cell in artefact.cells:
        if runs.without(cell.slugs):
            continue  # which the caption names
        found = value_of(reader.row(labels[cell.row], cell.specs), cell.value.removeprefix("metrics."))
        if found.mean is None:
            none.append(f"No value of {labels[cell.row]}: {statistic(cell, runs).reason or found.reason}.")
            continue
        sides[cell.row, cell.column] = Side(found.mean, *ends_of(found))
        drawn.append(ends_of(found))
        classes[cell.column] = runs[cell.slugs[0]]["data"]["classes"]
    points = [
        Point(row, column - 1, sides[row, 0], side) for (row, column), side in sides.items() if column and (row, 0) in sides
    ]
    counts = ", ".join(f"{label} {classes[i]:,}" for i, label in enumerate(["own test images", *sets]) if i in classes)
    about = f"{seeds_of(artefact.seeds)}, {data_names(runs)}. {about_whiskers(artefact.seeds, drawn)} " if drawn else ""
    about += f"Dashed: the same on both. Classes that are told apart: {counts}." if counts else ""
    sheet = sheet_of(artefact, runs, [about, *none], points, " ".join(none))
    return ShiftFigure(sheet, axis_label(artefact), labels, sets, points)


@drawing
def draw_shift(made: ShiftFigure) -> Figure:
    """Dots, colour by method and marker by test set. Call it, and save the figure, inside ``style()``."""
    dots = {"linestyle": "", "markersize": 4}
    legend = [(plt.Line2D([], [], marker="o", color=COLOURS[i % 8], **dots), label) for i, label in enumerate(made.methods)]
    if len(made.sets) > 1:
        legend += [(plt.Line2D([], [], marker=SHAPES[i], color="#555555", **dots), label) for i, label in enumerate(made.sets)]
    figure = frame(made.sheet, 2.6, legend)
    axes = figure.subplots()
    for point in made.points:
        colour = look(point.method)["color"]
        whiskers(axes, point.own.mean, point.other.training, point.other.general, colour)
        whiskers(axes, point.other.mean, point.own.training, point.own.general, colour, upright=False)
        how = {"color": colour, "marker": SHAPES[point.test_set], "markeredgecolor": "white", "markeredgewidth": 0.4}
        axes.plot(point.own.mean, point.other.mean, linestyle="", markersize=5, zorder=3, **how)
    axes.axline((point.own.mean, point.own.mean), slope=1, color="#555555", linestyle="--", linewidth=0.8, zorder=1)
    everything = [side.mean for point in made.points for side in (point.own, point.other)]
    room = 0.06 * (max(everything) - min(everything)) or 1.0
    axes.set_xlim(min(p.own.mean for p in made.points) - room, max(p.own.mean for p in made.points) + room)
    axes.set_ylim(min(everything) - room, max(everything) + room)
    grid(axes)
    axes.set_xlabel(f"{made.axis}, own test images")
    axes.set_ylabel(made.sets[0] if len(made.sets) == 1 else "other test images")
    return figure


def _check(declaration: Declaration) -> None:
    methods, sets = declaration["methods"], declaration.get("sets", [])
    if len(methods) > MOST or not 2 <= len(sets) <= MOST + 1:
        found = f"methods has {len(methods)} entries and sets {len(sets)}"
        raise PelError(f"{found}; a figure of kind shift shows 1 to {MOST}, and the own test images and 1 to {MOST} others")
    if sets[0].get("evaluate_on") != TEST or any(item.get("evaluate_on", TEST) == TEST for item in sets[1:]):
        raise PelError("sets: expected the own test images first, then others: evaluate_on: [test, ROLE, ...]")


FIGURES.register(
    "shift",
    ArtefactKind(FIGURE, saves(shift_figure, draw_shift), rows="methods", columns="sets", value="overall", check=_check),
    about="a metric on other images (evaluate_on) against the same on the own test images",
    knobs=(AXIS, WIDTH),
)

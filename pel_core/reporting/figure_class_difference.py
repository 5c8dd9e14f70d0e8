"""Difference of each class's accuracy to a baseline, in order of training images, and of each shot group with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pel_core.reporting.figure_rows import (
    WIDTH,
    at_most,
    class_accuracy,
    class_counts,
    class_order,
    class_ticks,
    classes_without,
    data_names,
    no_value,
    read_methods,
    seeds_of,
    shade_groups,
    sheet_of,
)
from pel_core.reporting.figure_sheet import Sheet, drawing, frame, saves
from pel_core.reporting.figure_style import COLOURS
from pel_core.reporting.figure_text import line_height, thin_ticks, wrapped
from pel_core.reporting.statistics.effects import difference
from pel_core.studies.kinds import FIGURE, FIGURES, ArtefactKind
from pel_core.studies.study import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 7  # methods, the baseline among them: a panel each
PANEL = 1.15  # inches
DENSE = 500  # from more classes on they are points: bars would hide each other
BETTER, WORSE = COLOURS[0], COLOURS[5]
Group = tuple[float, float | None, float | None]


@dataclass(frozen=True)
class Differences:
    """A method less the baseline: points of each class, float (C,), NaN without test images; of each shot group the mean and the
    ends of its general interval, None where that has no width."""

    label: str
    values: np.ndarray
    groups: dict[str, Group]


@dataclass(frozen=True)
class DifferenceFigure:
    """Differences before they are drawn: training images (C,) and group (C,) of each class."""

    sheet: Sheet
    baseline: str
    counts: np.ndarray
    groups: Sequence[str]
    panels: list[Differences]


def difference_figure(study: Study, name: str) -> DifferenceFigure:
    """Fill a declared figure of differences from stored predictions; the first method is the baseline.

    Raises:
        PelError: a run is missing or cannot be used, or rows are of different data.
    """
    artefact, methods, runs = read_methods(study, name)
    base, panels = methods[0], []
    for other in methods[1:]:
        if base.row and other.row:
            found = {group: difference(other.row, base.row, group) for group in ("head", "med", "tail")}
            groups = {g: (e.mean, e.general.low, e.general.high) for g, e in found.items() if e.mean is not None}
            panels.append(Differences(other.label, class_accuracy(other.row) - class_accuracy(base.row), groups))
    counts, groups_ = class_counts(methods) if panels else (np.zeros(0, int), ())
    over = "training runs and test images" if len(artefact.seeds) > 1 else "test images alone"
    each = "Points" if len(counts) > DENSE else "Bars"
    about = (
        f"{seeds_of(artefact.seeds)}, {data_names(runs)}. {each}: single classes. Lines with bands: mean of a shot group with "
    )
    about += f"its 95 % interval over {over}. {classes_without(panels[0].values) if panels else ''}"
    sheet = sheet_of(artefact, runs, [about.rstrip()], panels)
    return DifferenceFigure(sheet, base.label, counts, groups_, panels)


@drawing
def draw_differences(made: DifferenceFigure) -> Figure:
    """A panel for each method, on the same axes. Call it, and save the figure, inside ``style()``."""
    width = made.sheet.width - 0.7
    titles = [wrapped(f"{panel.label} less {made.baseline}", width, 6.5) for panel in made.panels]
    figure = frame(made.sheet, 0.75 + sum(PANEL + len(lines) * line_height(6.5) for lines in titles))
    panels = figure.subplots(len(made.panels), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    order = class_order(made.counts, made.groups)
    for axes, panel, lines in zip(panels, made.panels, titles, strict=True):
        shade_groups(axes, [made.groups[i] for i in order], width, named=axes is panels[0])
        _draw_panel(axes, panel, order, [made.groups[i] for i in order])
        axes.set_title("\n".join(lines), loc="left", fontsize=6.5, pad=3)
    ends = [abs(end) for panel in made.panels for group in panel.groups.values() for end in group if end is not None]
    classes = [float(np.nanmax(np.abs(panel.values), initial=0.0)) for panel in made.panels]
    most = max(1.0, *classes, min(100.0, max(ends, default=0.0)))
    panels[0].set_ylim(-1.06 * most, 1.06 * most)
    figure.supylabel("difference in points", fontsize=7)
    panels[-1].set_xlabel("classes in order of their training images (numbers)")
    thin_ticks(figure, panels[-1].xaxis, *class_ticks(made.counts, order))
    return figure


def _draw_panel(axes: Axes, panel: Differences, order: np.ndarray, groups: Sequence[str]) -> None:
    at, values = np.arange(len(order)) + 0.5, panel.values[order]
    for chosen, colour in ((values > 0, BETTER), (values < 0, WORSE)):
        if len(order) > DENSE:
            axes.plot(
                at[chosen], values[chosen], "o", color=colour, markersize=0.7, alpha=0.5, markeredgewidth=0, rasterized=True
            )
        else:
            axes.vlines(at[chosen], 0, values[chosen], color=colour, linewidth=max(0.3, min(3.0, 100 / len(order))), alpha=0.55)
    equal = values == 0
    axes.plot(at[equal], values[equal], "o", color="#666666", markersize=1.2, markeredgewidth=0, rasterized=len(order) > DENSE)
    axes.axhline(0, color="#222222", linewidth=0.6)
    for group, (mean, low, high) in panel.groups.items():
        ends = groups.index(group), groups.index(group) + groups.count(group)
        if low is not None and high is not None:
            axes.fill_between(ends, low, high, color="#222222", alpha=0.25, linewidth=0, zorder=3)
        axes.plot(ends, [mean, mean], color="#222222", linewidth=1.3, zorder=4)


FIGURES.register(
    "class-difference",
    ArtefactKind(
        FIGURE,
        saves(difference_figure, draw_differences),
        rows="methods",
        value="overall",
        check=no_value(at_most("methods", MOST, 2), "methods"),
        version=2,
    ),
    about="each class's difference to the first method, sorted by training images",
    knobs=(WIDTH,),
)

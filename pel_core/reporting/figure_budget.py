"""A value against learnable parameters, with both intervals of each method and the front that no other method dominates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pel_core.common.lazy import plt
from pel_core.reporting.figure_rows import (
    WIDTH,
    Ends,
    about_whiskers,
    at_most,
    axis_label,
    data_names,
    ends_of,
    legend_of,
    look,
    read_methods,
    seeds_of,
    sheet_of,
    whiskers,
)
from pel_core.reporting.figure_sheet import Sheet, drawing, frame, grid, saves
from pel_core.reporting.figure_text import thin_ticks
from pel_core.reporting.statistics.effects import value_of
from pel_core.reporting.statistics.values import better
from pel_core.reporting.tables import statistic
from pel_core.studies.kinds import AXIS, FIGURE, FIGURES, ArtefactKind
from pel_core.studies.study import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 64  # as many as there are pairs of colour and marker


@dataclass(frozen=True)
class Point:
    """A method: its learnable parameters, its value, and the ends of both intervals (None where one has no width)."""

    label: str
    parameters: int
    mean: float
    training: Ends
    general: Ends


@dataclass(frozen=True)
class BudgetFigure:
    """Points before they are drawn. ``best``: the end of the axis that is good, or "neither"."""

    sheet: Sheet
    axis: str
    points: list[Point]
    best: str


def budget_figure(study: Study, name: str) -> BudgetFigure:
    """Fill a declared budget figure from results.

    Raises:
        PelError: a run is missing or cannot be used, or rows show different values.
    """
    artefact, methods, runs = read_methods(study, name)
    metric = artefact.cells[0].value.removeprefix("metrics.")
    points, none = [], []
    for cell, method in zip(artefact.cells, methods, strict=True):
        if method.row is None:
            continue
        found = value_of(method.row, metric)
        if found.mean is None:
            none.append(f"No value of {method.label}: {statistic(cell, runs).reason or found.reason}.")
            continue
        learnable = int(method.records[0]["parameters"]["learnable"])
        points.append(Point(method.label, learnable, found.mean, *ends_of(found)))
    drawn = [(point.training, point.general) for point in points]
    about = f"{seeds_of(artefact.seeds)}, {data_names(runs)}. {about_whiskers(artefact.seeds, drawn)} "
    about += "Methods with equal counts stand side by side; the head's are left out. The vertical axis does not start at zero."
    sheet = sheet_of(artefact, runs, [about, *none], points, " ".join(none))
    return BudgetFigure(sheet, axis_label(artefact), points, better(metric))


def front(points: Sequence[Point], best: str) -> list[Point]:
    """The points that no other one dominates, by rising parameters: none has as few or fewer and a better mean. None where no
    end of the value is the good one."""
    if best not in ("higher", "lower"):
        return []
    sign = 1 if best == "higher" else -1
    kept: list[Point] = []
    for point in sorted(points, key=lambda point: (point.parameters, -sign * point.mean)):
        if not kept or sign * point.mean > sign * kept[-1].mean:
            kept.append(point)
    return kept


def places(parameters: Sequence[int]) -> np.ndarray:
    """Where counts stand on the axis: at their logarithm, and zero (zero-shot) half a decade or more left of the smallest."""
    found = np.array(parameters, float)
    positive = found[found > 0]
    low = np.log10(positive.min()) if len(positive) else 0.0
    spread = np.log10(positive.max()) - low if len(positive) else 0.0
    return np.where(found > 0, np.log10(np.maximum(found, 1)), low - max(0.5, 0.2 * spread))


def side_by_side(at: np.ndarray) -> np.ndarray:
    """Places with those that (nearly) coincide set apart, in the order of the methods, so that no interval hides another."""
    made, gap = at.copy(), 0.03 * float(np.ptp(at)) or 0.02
    left = list(np.argsort(at, kind="stable"))
    while left:
        near = [i for i in left if at[i] - at[left[0]] < gap]
        for k, i in enumerate(sorted(near)):
            made[i] = at[near].mean() + (k - (len(near) - 1) / 2) * min(gap, 6 * gap / len(near))
        left = [i for i in left if i not in near]
    return made


@drawing
def draw_budget(made: BudgetFigure) -> Figure:
    """Points on a logarithmic axis of parameters. Call it, and save the figure, inside ``style()``."""
    labels = [f"{point.label} ({point.parameters:,})" for point in made.points]
    legend, kept = [*legend_of(labels, linestyle="", markersize=4)], front(made.points, made.best)
    if len(kept) > 1:
        legend.append((plt.Line2D([], [], color="#555555", linestyle="--", linewidth=0.8), "Pareto front of the means"))
    figure = frame(made.sheet, 2.3, legend)
    axes = figure.subplots()
    at = places([point.parameters for point in made.points])
    for number, (x, point) in enumerate(zip(side_by_side(at), made.points, strict=True)):
        whiskers(axes, x, point.training, point.general, look(number)["color"])
        how = {**look(number), "linestyle": "", "markersize": 5, "markeredgecolor": "white", "markeredgewidth": 0.4}
        axes.plot(x, point.mean, zorder=3, **how)
    if len(kept) > 1:
        steps = places([point.parameters for point in [*made.points, *kept]])[len(made.points) :]
        means = [point.mean for point in kept]
        axes.step(steps, means, where="post", color="#555555", linestyle="--", linewidth=0.8, zorder=1)
    _axes(figure, axes, made, at)
    return figure


def _axes(figure: Figure, axes: Axes, made: BudgetFigure, at: np.ndarray) -> None:
    low, high = float(at.min()), float(at.max())
    extra = max(0.12 * (high - low), 0.15)
    axes.set_xlim(low - extra, high + extra)
    counts = np.array([point.parameters for point in made.points])
    ticks = {float(x): f"{int(count):,}" if count < 1000 else _short(int(count)) for x, count in zip(at, counts, strict=True)}
    decades = {float(power): _short(10**power) for power in range(int(np.ceil(low)), int(high) + 1) if power >= 0}
    shown = decades if len(decades) > 2 else ticks
    if (counts == 0).any():
        zero = float(at[counts == 0][0])
        shown = {zero: "0", **{x: word for x, word in shown.items() if x > zero + 0.2}}
        axes.axvline(zero + 0.25, color="#888888", linewidth=0.6, linestyle=(0, (2, 2)), zorder=0)
    thin_ticks(figure, axes.xaxis, sorted(shown), [shown[x] for x in sorted(shown)])
    grid(axes)
    axes.margins(y=0.08)
    axes.set_ylabel(made.axis)
    axes.set_xlabel("learnable parameters, logarithmic" + (" right of zero" if (counts == 0).any() else ""))


def _short(count: int) -> str:
    for size, letter in ((10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.3g}{letter}"
    return str(count)


FIGURES.register(
    "budget",
    ArtefactKind(
        FIGURE, saves(budget_figure, draw_budget), rows="methods", value="overall", check=at_most("methods", MOST), version=2
    ),
    about="a metric against learnable parameters, with the Pareto front",
    knobs=(AXIS, WIDTH),
)

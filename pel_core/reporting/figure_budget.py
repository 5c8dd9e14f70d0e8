"""A value against learnable parameters, with both intervals of each method and the front that no other method dominates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pel_core.common.lazy import plt
from pel_core.reporting.figure_bars import axis_label
from pel_core.reporting.figure_rows import SHAPES, WIDTH, WIDTHS, at_most, data_names, no_result, read_methods, say_why, seeds_of
from pel_core.reporting.figure_style import COLOURS, frame, save, style
from pel_core.reporting.figure_text import thin_ticks
from pel_core.reporting.statistics.effects import Effect, value_of
from pel_core.reporting.statistics.values import better
from pel_core.reporting.tables import statistic
from pel_core.studies.kinds import AXIS, FIGURE, FIGURES, ArtefactKind
from pel_core.studies.study import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 64  # as many as there are pairs of colour and marker
Ends = tuple[float, float] | None


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

    title: str
    axis: str
    points: list[Point]
    best: str
    width: float
    notes: list[str]
    banner: tuple[str, str]
    why: str = ""


def budget_figure(study: Study, name: str) -> BudgetFigure:
    """Fill a declared budget figure from results.

    Raises:
        PelError: a run is missing or cannot be used, or rows show different values.
    """
    artefact = study.artefact(name)
    methods, runs = read_methods(study, artefact)
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
        points.append(Point(method.label, learnable, found.mean, *_ends(found)))
    notes = [f"{seeds_of(artefact.seeds)}, {data_names(runs)}. {_about(artefact.seeds)}", *none, *runs.notes()]
    notes.append(artefact.declaration.get("note", ""))
    axis, width = axis_label(artefact), WIDTHS[artefact.knobs["width"]]
    why = "" if points else no_result(runs) if runs.blanks else " ".join(none)
    return BudgetFigure(artefact.title, axis, points, better(metric), width, notes, artefact.banner, why)


def _ends(found: Effect) -> tuple[Ends, Ends]:
    pairs = [(each.low, each.high) for each in (found.training, found.general)]
    first, second = (None if low is None or high is None else (low, high) for low, high in pairs)
    return first, second


def _about(seeds: Sequence[int]) -> str:
    thick = "Thick: 95 % interval over training runs; thin: over training runs and test images. " if len(seeds) > 1 else ""
    thick = thick or "Thin: 95 % interval over test images. "
    return f"{thick}Methods with as many parameters stand side by side; the head's are left out."


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


def draw_budget(made: BudgetFigure) -> Figure:
    """Points on a logarithmic axis of parameters. Call it, and save the figure, inside ``style()``."""
    handles = [plt.Line2D([], [], markersize=4, **_look(i)) for i in range(len(made.points))]
    labels = [f"{point.label} ({point.parameters:,})" for point in made.points]
    legend = list(zip(handles, labels, strict=True))
    kept = front(made.points, made.best)
    if len(kept) > 1:
        legend.append((plt.Line2D([], [], color="#555555", linestyle="--", linewidth=0.8), "Pareto front of the means"))
    figure = frame(made.width, 2.3, made.title, made.notes, made.banner, legend)
    axes = figure.subplots()
    if made.why:
        say_why(axes, made.why, made.width - 0.4)
        return figure
    at = places([point.parameters for point in made.points])
    for number, (x, point) in enumerate(zip(side_by_side(at), made.points, strict=True)):
        for ends, width in ((point.general, 0.7), (point.training, 2.0)):
            if ends:
                axes.plot([x, x], ends, color=_look(number)["color"], linewidth=width, solid_capstyle="butt", zorder=2)
        axes.plot(x, point.mean, markersize=5, zorder=3, markeredgecolor="white", markeredgewidth=0.4, **_look(number))
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
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.margins(y=0.08)
    axes.set_ylabel(made.axis)
    axes.set_xlabel("learnable parameters, logarithmic" + (" right of zero" if (counts == 0).any() else ""))


def _short(count: int) -> str:
    for size, letter in ((10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.3g}{letter}"
    return str(count)


def _look(number: int) -> dict[str, str]:
    return {"color": COLOURS[number % 8], "marker": SHAPES[(number + number // 8) % 8], "linestyle": ""}


def save_budget(study: Study, name: str, folder: str | Path) -> None:
    """Draw a declared budget figure into ``folder`` as pdf, svg and png.

    Raises:
        PelError: a run is missing or cannot be used.
    """
    made = budget_figure(study, name)
    with style():
        save(draw_budget(made), folder, name)


FIGURES.register(
    "budget",
    ArtefactKind(FIGURE, save_budget, rows="methods", value="overall", check=at_most("methods", MOST)),
    about="a metric against learnable parameters, with the Pareto front",
    knobs=(AXIS, WIDTH),
)

"""Curves: a value against a number that is swept, one line per series, mean and standard deviation over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING

from pel_core.common.errors import PelError
from pel_core.common.lazy import plt
from pel_core.common.registry import Knob
from pel_core.reporting.figure_bars import axis_label
from pel_core.reporting.figure_style import COLOURS, COLUMN, footer, mark, save, style
from pel_core.reporting.runs import Runs, read_runs
from pel_core.reporting.tables import Statistic, statistic
from pel_core.studies.kinds import AXIS, FIGURE, FIGURES, REQUIRED, ArtefactKind, Declaration
from pel_core.studies.study import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = "oDs^vPX*"
TICKS = 9  # labels that fit under a column's width


@dataclass(frozen=True)
class Line:
    """One series: where its points stand and their values over seeds. Points without a value are left out; ``blanks`` are the
    places of those that a run has no result for (it diverged, say), and what is said there."""

    label: str
    at: list[float]
    values: list[Statistic]
    blanks: list[tuple[float, str]] = field(default_factory=list)


@dataclass(frozen=True)
class CurveFigure:
    """A curve figure before it is drawn."""

    title: str
    x: str
    axis: str
    log: bool
    lines: list[Line]
    notes: list[str]
    banner: tuple[str, str]


def curve_figure(study: Study, name: str) -> CurveFigure:
    """Fill a declared curve figure from results.

    Raises:
        PelError: a run is missing or cannot be used.
    """
    artefact = study.artefact(name)
    runs, entry = read_runs(study, artefact), artefact.declaration
    lines = []
    for column, series in enumerate(entry.get("series", [{"label": ""}])):
        found = [(entry["points"][cell.row]["at"], statistic(cell, runs)) for cell in artefact.cells if cell.column == column]
        known = sorted(((at, stat) for at, stat in found if stat.mean is not None), key=lambda pair: pair[0])
        blanks = [(float(at), stat.blank) for at, stat in found if stat.blank]
        lines.append(Line(str(series["label"]), [float(at) for at, _ in known], [stat for _, stat in known], blanks))
    notes = [_notes(artefact.seeds, runs), *runs.notes(), entry.get("note", "")]
    x, log = artefact.knobs["x"], artefact.knobs["log"]
    return CurveFigure(artefact.title, x, axis_label(artefact), log, lines, notes, artefact.banner)


def _notes(seeds: Sequence[int], runs: Runs) -> str:
    data = ", ".join(sorted({record["data"]["name"] for record in runs.described()}))
    count = f"{data}, one seed ({seeds[0]}): no spread is known."
    if len(seeds) > 1:
        count = f"Mean and standard deviation of {data}, n = {len(seeds)}."
    return f"{count} The vertical axis does not start at zero."


def draw_curve(made: CurveFigure) -> Figure:
    """Lines with a marker at each value; bars are one standard deviation. Call it, and save the figure, inside ``style()``."""
    figure, axes = plt.subplots(figsize=(COLUMN, 2.75), layout="constrained")
    for number, line in enumerate(made.lines):
        means = [stat.mean for stat in line.values]
        spread = [stat.std or 0.0 for stat in line.values] if any(stat.std is not None for stat in line.values) else None
        axes.errorbar(
            line.at, means, spread, label=line.label, color=COLOURS[number % len(COLOURS)], marker=MARKERS[number % len(MARKERS)],
            markersize=3.4, linewidth=1.1, elinewidth=0.8, capsize=2, capthick=0.8,
        )  # fmt: skip
    _x_axis(axes, made)
    _y_axis(axes, made)
    _mark_blanks(axes, made)
    figure.suptitle("\n".join(wrap(made.title, 44)), fontsize=8)
    if any(line.label for line in made.lines):
        columns = min(4, len(made.lines))
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns, fontsize=6, frameon=False, columnspacing=1.2)
    footer(figure, [*made.notes, made.banner[1]], int(24.5 * figure.get_figwidth()))
    mark(figure, made.banner[0])
    return figure


def _mark_blanks(axes: Axes, made: CurveFigure) -> None:
    """A cross on the bottom axis, with its word, where a run has no result: a curve that ends there did not go on well."""
    foot = axes.get_xaxis_transform()
    for number, line in enumerate(made.lines):
        for at, word in line.blanks:
            height = 0.02 + 0.06 * number
            axes.plot([at], [height], "x", color=COLOURS[number % len(COLOURS)], markersize=5, clip_on=False, transform=foot)
            axes.text(at, height + 0.03, word, rotation=90, fontsize=5, ha="center", va="bottom", transform=foot)


def _x_axis(axes: Axes, made: CurveFigure) -> None:
    places = sorted({at for line in made.lines for at in (*line.at, *(at for at, _ in line.blanks))})
    if made.log:
        axes.set_xscale("log")
    # A tick at each value, thinned where they would touch; the ends stay.
    step = -(-len(places) // TICKS)
    shown = places[::step] + (places[-1:] if (len(places) - 1) % step else [])
    axes.xaxis.set_major_locator(plt.FixedLocator(shown))
    axes.xaxis.set_minor_locator(plt.NullLocator())
    axes.set_xticks(shown, [f"{at:g}" for at in shown])
    axes.set_xlabel(made.x)


def _y_axis(axes: Axes, made: CurveFigure) -> None:
    """Room for the values; at least one unit, so that noise is not blown up to look like an effect."""
    axes.set_ylabel(made.axis)
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.5)
    axes.set_axisbelow(True)
    known = [(stat.mean, stat.std or 0.0) for line in made.lines for stat in line.values if stat.mean is not None]
    if known:
        low, high = min(mean - std for mean, std in known), max(mean + std for mean, std in known)
        extra = max(0.08 * (high - low), (1.0 - (high - low)) / 2)
        axes.set_ylim(low - extra, high + extra)


def save_curve(study: Study, name: str, folder: str | Path) -> None:
    """Draw a declared curve figure into ``folder`` as pdf, svg and png.

    Raises:
        PelError: a run is missing or cannot be used.
    """
    made = curve_figure(study, name)
    with style():
        save(draw_curve(made), folder, name)


def check_places(declaration: Declaration) -> None:
    """Refuse a point that a logarithmic axis has no place for.

    Raises:
        PelError: naming the point.
    """
    for point in declaration["points"]:
        if declaration.get("log") and point["at"] <= 0:
            raise PelError(f"point {point['at']}: a logarithmic axis has no place for it")


FIGURES.register(
    "curve",
    ArtefactKind(FIGURE, save_curve, rows="points", columns="series", places=True, check=check_places),
    about="a value against a number that is swept, a line for each series",
    knobs=(
        Knob("x", REQUIRED, "the title of the x axis", kind=str),
        Knob("log", False, "whether the x axis is logarithmic"),
        AXIS,
    ),
)

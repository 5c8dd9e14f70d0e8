"""Curves: a value against a number that is swept, one line per series, mean and standard deviation over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pel_core.common.errors import PelError
from pel_core.common.lazy import plt
from pel_core.common.registry import Knob
from pel_core.reporting.figure_bars import axis_label
from pel_core.reporting.figure_style import COLOURS, COLUMN, PAGE, frame, save, style
from pel_core.reporting.figure_text import line_height, text_width, thin_ticks, wrapped
from pel_core.reporting.tables import Record, Statistic, read_runs, statistic
from pel_core.studies.kinds import AXIS, FIGURE, FIGURES, REQUIRED, ArtefactKind, Declaration
from pel_core.studies.study import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINE_MARKERS = "oDs^vPX*"
SEVERAL = 12  # lines that one column of a paper has room for


@dataclass(frozen=True)
class Line:
    """One series: where its points stand and their values over seeds. Points without a value are left out."""

    label: str
    at: list[float]
    values: list[Statistic]


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
        lines.append(Line(str(series["label"]), [float(at) for at, _ in known], [stat for _, stat in known]))
    notes = [_notes(artefact.seeds, runs), entry.get("note", "")]
    x, log = artefact.knobs["x"], artefact.knobs["log"]
    return CurveFigure(artefact.title, x, axis_label(artefact), log, lines, notes, artefact.banner)


def _notes(seeds: Sequence[int], runs: Mapping[str, Record]) -> str:
    data = ", ".join(sorted({record["data"]["name"] for record in runs.values()}))
    count = f"{data}, one seed ({seeds[0]}): no spread is known."
    if len(seeds) > 1:
        count = f"Mean and standard deviation of {data}, n = {len(seeds)}."
    return f"{count} The vertical axis does not start at zero."


def draw_curve(made: CurveFigure) -> Figure:
    """Lines with a marker at each value; bars are one standard deviation. Call it, and save the figure, inside ``style()``."""
    many = len(made.lines) > SEVERAL or any(text_width(line.label, 6) > COLUMN - 0.5 for line in made.lines)
    width = PAGE if many else COLUMN
    handles = [plt.Line2D([], [], linewidth=1.1, markersize=3.4, **look(number)) for number in range(len(made.lines))]
    legend = [(handle, line.label) for handle, line in zip(handles, made.lines, strict=True)]
    named = any(line.label for line in made.lines)
    x_title = wrapped(made.x, width - 0.8, 7)
    body = (3.4 if many else 2.0) + len(x_title) * line_height(7)
    figure = frame(width, body, made.title, made.notes, made.banner, legend if named else ())
    axes = figure.subplots()
    for number, line in enumerate(made.lines):
        means = [stat.mean for stat in line.values]
        spread = [stat.std or 0.0 for stat in line.values] if any(stat.std is not None for stat in line.values) else None
        axes.errorbar(
            line.at, means, spread, **look(number), markersize=3.4, linewidth=1.1, elinewidth=0.8, capsize=2, capthick=0.8
        )  # fmt: skip
    axes.set_xlabel("\n".join(x_title))
    _y_axis(axes, made, body - 0.5)
    if made.log:
        axes.set_xscale("log")
    axes.xaxis.set_minor_locator(plt.NullLocator())
    places = sorted({at for line in made.lines for at in line.at})
    thin_ticks(figure, axes.xaxis, places, [f"{at:g}" for at in places])
    return figure


def look(number: int) -> dict[str, str]:
    """How a line is told from the others: a colour and a marker; where the colours start again another marker, then a dash."""
    turn = number // len(COLOURS)
    marker = LINE_MARKERS[(number + turn) % len(LINE_MARKERS)]
    return {"color": COLOURS[number % len(COLOURS)], "marker": marker, "linestyle": ("-", "--", ":", "-.")[turn // 8 % 4]}


def _y_axis(axes: Axes, made: CurveFigure, height: float) -> None:
    """Room for the values; at least one unit, so that noise is not blown up to look like an effect."""
    axes.set_ylabel("\n".join(wrapped(made.axis, height, 7)))
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

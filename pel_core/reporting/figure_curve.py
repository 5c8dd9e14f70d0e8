"""Curves: a value against a number that is swept, one line per series, mean and standard deviation over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pel_core.common.errors import PelError
from pel_core.common.lazy import plt
from pel_core.common.registry import Knob
from pel_core.reporting.figure_rows import axis_label, data_names, legend_of, look, sheet_of
from pel_core.reporting.figure_sheet import MARGIN, Legend, Sheet, drawing, frame, grid, room_for, saves
from pel_core.reporting.figure_style import COLOURS, COLUMN, PAGE
from pel_core.reporting.figure_text import line_height, text_width, thin_ticks, wrapped
from pel_core.reporting.runs import Runs, read_runs
from pel_core.reporting.tables import Statistic, statistic
from pel_core.studies.kinds import AXIS, FIGURE, FIGURES, REQUIRED, ArtefactKind, Declaration
from pel_core.studies.study import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ACROSS, PANEL, LEFT = 5, 0.75, 0.3  # panels beside each other; inches: the height of one, the room for its values


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

    sheet: Sheet
    x: str
    axis: str
    log: bool
    lines: list[Line]


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
    shown, none = any(line.at or line.blanks for line in lines), next((s.reason for _, s in found if s.reason), "")
    sheet = sheet_of(artefact, runs, [_about(artefact.seeds, runs), *_crosses(lines)], shown, f"No value: {none}.")
    return CurveFigure(sheet, artefact.knobs["x"], axis_label(artefact), artefact.knobs["log"], lines)


def _about(seeds: Sequence[int], runs: Runs) -> str:
    count = f"{data_names(runs)}, one seed ({seeds[0]}): no spread is known."
    if len(seeds) > 1:
        count = f"Mean and standard deviation of {data_names(runs)}, n = {len(seeds)}."
    return f"{count} The vertical axis does not start at zero."


def _crosses(lines: Sequence[Line]) -> list[str]:
    """What the crosses on the axis mean, once for each reason."""
    found: dict[str, list[str]] = {}
    for line in lines:
        for at, word in line.blanks:
            found.setdefault(word, []).append(f"{line.label} {at:g}".strip())
    return [f"Cross on the axis, no mean: {word} at {', '.join(at)}." for word, at in found.items()]


@drawing
def draw_curve(made: CurveFigure) -> Figure:
    """Lines with a marker at each value; bars are one standard deviation. As many lines as there are colours stand in one panel,
    more in a panel each. Call it, and save the figure, inside ``style()``."""
    if len(made.lines) > len(COLOURS):
        return _draw_panels(made)
    legend = [*legend_of([line.label for line in made.lines])] if any(line.label for line in made.lines) else []
    x_title = wrapped(made.x, COLUMN - 0.8, 7)
    body = 2.0 + len(x_title) * line_height(7)
    figure = frame(made.sheet, body, [*legend, *_cross(made)])
    axes = figure.subplots()
    for number, line in enumerate(made.lines):
        _draw_line(axes, line, look(number))
    axes.set_xlabel("\n".join(x_title))
    axes.set_ylabel("\n".join(wrapped(made.axis, body - 0.7, 7)))
    _scales(axes, made)
    places = _places(made)
    thin_ticks(figure, axes.xaxis, places, [f"{at:g}" for at in places])
    return figure


def _cross(made: CurveFigure) -> Legend:
    """The legend of the crosses: what the runs there did."""
    words = dict.fromkeys(word.split(" (")[0] for line in made.lines for _, each in line.blanks for word in each.split(", "))
    handle = plt.Line2D([], [], color="#222222", marker="x", linestyle="", markersize=4)
    return [(handle, f"no mean: {' or '.join(words)}")] if words else []


def _draw_panels(made: CurveFigure) -> Figure:
    """A panel for each line, on the same axes, `ACROSS` beside each other; their labels are the titles."""
    width, down = PAGE / ACROSS, -(-len(made.lines) // ACROSS)
    titles = [wrapped(line.label, width - LEFT, 5.5) for line in made.lines]
    x_title, y_title = wrapped(made.x, PAGE - 1, 7), wrapped(made.axis, PAGE - 1, 7)
    top, under = 0.1 + max(map(len, titles)) * line_height(5.5, 1.1), 0.2 + len(x_title) * line_height(7)
    body = down * (top + PANEL) + under + len(y_title) * line_height(7)
    figure = frame(replace(made.sheet, width=PAGE), body, _cross(made))
    height, end = figure.get_figheight(), sum(figure.get_layout_engine().get()["rect"][1::2])
    figure.set_layout_engine("none")  # a panel's place is known
    figure.text(MARGIN / PAGE, end, "\n".join(y_title), va="top", fontsize=7)
    end -= len(y_title) * line_height(7) / height
    figure.text(0.5, end - (down * (top + PANEL) + 0.18) / height, "\n".join(x_title), ha="center", va="top", fontsize=7)
    places = _places(made)
    labels = [f"{at:g}" for at in places]
    right = max(0.08, max(text_width(label, 5.5) for label in labels) / 2)
    shown: tuple[list[float], list[str]] | None = None
    for i, line in enumerate(made.lines):
        low = end - (i // ACROSS + 1) * (top + PANEL) / height
        axes = figure.add_axes(((i % ACROSS * width + LEFT) / PAGE, low, (width - LEFT - right) / PAGE, PANEL / height))
        _draw_line(axes, line, look(0))
        axes.set_title("\n".join(titles[i]), loc="left", fontsize=5.5, pad=2, linespacing=1.1)
        axes.tick_params(labelsize=5.5)
        axes.yaxis.set_major_locator(plt.MaxNLocator(3))
        _scales(axes, made)
        if shown is None:  # the axes are alike
            thin_ticks(figure, axes.xaxis, places, labels)
            shown = list(axes.get_xticks()), [label.get_text() for label in axes.get_xticklabels()]
        lowest = i + ACROSS >= len(made.lines)
        axes.set_xticks(shown[0], shown[1] if lowest else [""] * len(shown[0]))
    return figure


def _draw_line(axes: Axes, line: Line, how: Mapping[str, Any]) -> None:
    for at, _ in line.blanks:  # a cross on the axis where a run diverged, say: the legend and the caption tell which
        axes.plot([at], [0], "x", color=how["color"], markersize=5, clip_on=False, transform=axes.get_xaxis_transform())
    means = [stat.mean for stat in line.values]
    spread = [stat.std or 0.0 for stat in line.values] if any(stat.std is not None for stat in line.values) else None
    axes.errorbar(line.at, means, spread, markersize=3.4, linewidth=1.1, elinewidth=0.8, capsize=2, capthick=0.8, **how)


def _places(made: CurveFigure) -> list[float]:
    return sorted({at for line in made.lines for at in (*line.at, *(at for at, _ in line.blanks))})


def _scales(axes: Axes, made: CurveFigure) -> None:
    """All places on the x axis. On the other room for the values, at least one unit: noise is not to look like an effect."""
    if made.log:
        axes.set_xscale("log")
    axes.xaxis.set_minor_locator(plt.NullLocator())
    places = _places(made)
    if len(places) > 1:
        axes.update_datalim([(places[0], 0), (places[-1], 0)], updatey=False)
        axes.autoscale_view(scaley=False)
    grid(axes)
    known = [(stat.mean, stat.std or 0.0) for line in made.lines for stat in line.values if stat.mean is not None]
    if known:
        axes.set_ylim(*room_for((end for mean, std in known for end in (mean - std, mean + std)), 0.08))


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
    ArtefactKind(
        FIGURE,
        saves(curve_figure, draw_curve),
        rows="points",
        columns="series",
        places=True,
        check=check_places,
        version=2,
    ),
    about="a value against a number that is swept, a line for each series",
    knobs=(
        Knob("x", REQUIRED, "the title of the x axis", kind=str),
        Knob("log", False, "whether the x axis is logarithmic"),
        AXIS,
    ),
)

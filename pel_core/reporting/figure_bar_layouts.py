"""Bar figures, drawn: columns, lying bars or dots, as many entries and long labels as there are.

Bars start at zero; beside them the same values are enlarged as dots, since differences are often below a point.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pel_core.common.lazy import plt
from pel_core.reporting.figure_style import COLOURS, COLUMN, MARKERS, PAGE, Legend, frame
from pel_core.reporting.figure_text import fits, line_height, text_width, wrapped
from pel_core.reporting.tables import Statistic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pel_core.reporting.figure_bars import Bar, BarFigure

MIDDLE = 5.2  # inches: a width between one column of a paper and two
LYING, DOTS = 8, 15  # from so many groups bars lie; from so many bars they are dots
MOST_LINES = 4  # of a label under a column
ERROR = {"ecolor": "#222222", "elinewidth": 0.8, "capsize": 2, "capthick": 0.8}


@dataclass(frozen=True)
class Columns:
    """Standing bars that fit: the figure's width, and the size in points of the values over them, 0 where none fits."""

    width: float
    labels: list[list[str]]
    value_size: float


def draw_bars(made: BarFigure) -> Figure:
    """Draw a bar figure as columns where their labels and values fit, else as lying bars or dots. Call it, and save the figure,
    inside ``style()``."""
    standing = _columns(made)
    return _draw_columns(made, standing) if standing else _draw_rows(made)


def _columns(made: BarFigure) -> Columns | None:
    """How the bars stand, as narrow as they can; None where there are too many, or their words do not fit."""
    groups, several = _extent(made)
    if groups >= LYING or groups * several >= DOTS:
        return None
    natural = min(PAGE, max(COLUMN, (0.42 if groups * several < 5 else 0.55) * groups * several + 2.0))
    for width in sorted({natural, max(natural, MIDDLE), PAGE}):
        slot = (width - 1.15) * 0.44 / (groups + 0.2)  # of a group in the narrower panel
        labels = [_standing_label(made, group, 0.94 * slot) for group in range(groups)]
        values = [f"{bar.value.mean:.{made.digits}f}" for bar in made.bars if bar.value.mean is not None]
        widest = max((text_width(value, 1) for value in values), default=0)
        size = next((size for size in (6, 5, 4.2) if size * widest <= 0.66 * 1.25 * slot / several), 0)
        if size and all(labels):
            return Columns(width, labels, size)
    return None


def _standing_label(made: BarFigure, group: int, width: float) -> list[str]:
    """A group's label and parameters in lines under its column; none where they do not fit."""
    label = next(bar.label for bar in made.bars if bar.group == group)
    parts = [label] if text_width(label, 6.2) <= width else re.split("(?<=,) ", label)
    lines = [line for part in parts for line in wrapped(part, width, 6.2)]
    counts = _own_counts(made, group)
    whole = all(fits(text, width, 6.2) for text in (label, *counts))
    return [*lines, *counts] if whole and len(lines) <= MOST_LINES else []


def _draw_columns(made: BarFigure, how: Columns) -> Figure:
    """Left: bars on an axis from zero. Right: the same values enlarged, as dots, so that no bar is cut."""
    groups, several = _extent(made)
    body = 1.85 + max(map(len, how.labels)) * line_height(6.2, 1.3)
    figure = frame(how.width, body, made.title, _notes(made, lying=False), made.banner, _legend(made))
    whole, close = figure.subplots(1, 2, width_ratios=(1.25, 1))
    for axes in (whole, close):
        axes.set_xticks(range(groups), ["\n".join(lines) for lines in how.labels], linespacing=1.3, fontsize=6.2)
        axes.tick_params(axis="x", length=0)
        axes.set_xlim(-0.6, groups - 0.4)
    width = 0.66 / several
    for bar in _known(made):
        x = bar.group + (bar.series - (several - 1) / 2) * width
        colour = COLOURS[(bar.series if several > 1 else bar.group) % len(COLOURS)]
        whole.bar(x, bar.value.mean, 0.92 * width, color=colour, yerr=bar.value.std, error_kw=ERROR)
        text = f"{bar.value.mean:.{made.digits}f}"
        whole.text(x, max(0, _ends(bar.value)[1]), text, ha="center", va="bottom", fontsize=how.value_size)
        close.errorbar(x, bar.value.mean, bar.value.std, fmt="D", color=colour, markersize=3.6, **ERROR)
        if len(bar.seeds) > 1:
            spread = np.linspace(-0.12, 0.12, len(bar.seeds)) * (0.66 + width) / 1.32 + 0.28 * width
            close.plot(x + spread, bar.seeds, "o", color=colour, markersize=1.8, alpha=0.65, markeredgewidth=0)
    for bar in made.bars:
        if bar.value.mean is None:
            whole.text(bar.group + (bar.series - (several - 1) / 2) * width, 0, "–", ha="center", va="bottom", fontsize=6)
    whole.set_ylim(*_from_zero(made, 1.12))
    close.set_ylim(*_enlarged(made))
    whole.set_ylabel("\n".join(wrapped(made.axis, 1.5, 7)))
    whole.set_title("from zero", loc="left", fontsize=6, color="#444444")
    close.set_title("enlarged, not from zero", loc="left", fontsize=6, color="#444444")
    close.grid(axis="y", color="#DDDDDD", linewidth=0.5)
    close.set_axisbelow(True)
    return figure


def _draw_rows(made: BarFigure) -> Figure:
    """A row for each group, its label at the left: fewer than `DOTS` bars from zero, and beside them enlarged, else enlarged."""
    groups, several = _extent(made)
    dots = groups * several >= DOTS
    size = 6.2 if groups * several <= 30 else 5.0
    labels = [_row_label(made, group) for group in range(groups)]
    room = 1.0 if max(text_width(label, size) for label in labels) <= 1 else 2.4 if size > 5 else 3.0
    lines = [wrapped(label, room, size) for label in labels]
    pitch = max(max(map(len, lines)) * line_height(size, 1.15), several * line_height(size, 1.05), 0 if dots else 0.15)
    width = COLUMN if dots and room == 1 else PAGE
    axis_lines = wrapped(made.axis, width - room - 0.6 if dots else 0.42 * (width - room), 7)
    body = groups * pitch + 0.5 + len(axis_lines) * line_height(7)
    figure = frame(width, body, made.title, _notes(made, lying=True), made.banner, _legend(made))
    panels = [figure.subplots()] if dots else list(figure.subplots(1, 2, sharey=True, width_ratios=(1.25, 1)))
    close = panels[-1]
    step = 0.8 / several
    for bar in made.bars:
        y = bar.group + (bar.series - (several - 1) / 2) * step
        text = "–" if bar.value.mean is None else f"{bar.value.mean:.{made.digits}f}"
        if dots:  # values in a column at the right
            close.text(1.01, y, text, transform=close.get_yaxis_transform(), va="center", fontsize=min(size, 5.6))
        else:
            end = 0 if bar.value.mean is None else max(0, _ends(bar.value)[1])
            panels[0].annotate(text, (end, y), (2, 0), textcoords="offset points", va="center", fontsize=6)
    for bar in _known(made):
        y = bar.group + (bar.series - (several - 1) / 2) * step
        colour = COLOURS[bar.series % len(COLOURS)]
        if not dots:
            panels[0].barh(y, bar.value.mean, 0.92 * step, color=colour, xerr=bar.value.std, error_kw=ERROR)
        look = {"fmt": _marker(bar.series), "color": colour, "markersize": 3.0 if dots else 3.6, **ERROR, "capsize": 1.2}
        close.errorbar(bar.value.mean, y, xerr=bar.value.std, **look)
        if len(bar.seeds) > 1:
            below = [y + 0.36 * step] * len(bar.seeds)
            close.plot(bar.seeds, below, "o", color=colour, markersize=1.8, alpha=0.8, markeredgewidth=0)
    _finish_rows(made, panels, ["\n".join(each) for each in lines], size, "\n".join(axis_lines))
    return figure


def _finish_rows(made: BarFigure, panels: list[Axes], labels: list[str], size: float, axis: str) -> None:
    panels[0].set_yticks(range(len(labels)), labels, fontsize=size, linespacing=1.0)
    panels[0].set_ylim(len(labels) - 0.4, -0.6)
    panels[-1].set_xlim(*_enlarged(made))
    panels[-1].grid(axis="both", color="#E4E4E4", linewidth=0.5)
    panels[-1].set_title("enlarged, not from zero", loc="left", fontsize=6, color="#444444")
    if len(panels) > 1:
        panels[0].set_xlim(*_from_zero(made, 1.2))
        panels[0].set_title("from zero", loc="left", fontsize=6, color="#444444")
    if len(labels) > 30:  # the axis is far from the first rows
        panels[-1].tick_params(axis="x", top=True, labeltop=True)
    for axes in panels:
        axes.set_axisbelow(True)
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_locator(plt.MaxNLocator(5))
        axes.set_xlabel(axis)


def _extent(made: BarFigure) -> tuple[int, int]:
    return max(bar.group for bar in made.bars) + 1, max(1, len(made.series))


def _known(made: BarFigure) -> list[Bar]:
    return [bar for bar in made.bars if bar.value.mean is not None]


def _ends(value: Statistic) -> list[float]:
    return [] if value.mean is None else [value.mean - (value.std or 0), value.mean + (value.std or 0)]


def _from_zero(made: BarFigure, room: float) -> tuple[float, float]:
    """An axis with zero on it, and room for the values beyond the bars."""
    ends = [end for bar in made.bars for end in _ends(bar.value)]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    return room * low, (room * high) or (1.0 if not low else 0.0)


def _enlarged(made: BarFigure) -> tuple[float, float]:
    """Room around the enlarged dots; at least one unit, so that noise is not blown up to look like an effect."""
    ends = [value for bar in made.bars for value in (*bar.seeds, *_ends(bar.value))] or [0.0]
    low, high = min(ends), max(ends)
    extra = max(0.12 * (high - low), (1.0 - (high - low)) / 2, 0.0)
    return low - extra, high + extra


def _own_counts(made: BarFigure, group: int) -> list[str]:
    """A group's learnable parameters, where the legend does not say them."""
    found = (
        []
        if _series_counts(made)
        else [f"{bar.parameters:,}" for bar in made.bars if bar.group == group and bar.parameters is not None]
    )
    return list(dict.fromkeys(found))


def _row_label(made: BarFigure, group: int) -> str:
    label = next(bar.label for bar in made.bars if bar.group == group)
    counts = _own_counts(made, group)
    return f"{label} ({' / '.join(counts)})" if counts else label


def _series_counts(made: BarFigure) -> list[int]:
    """Learnable parameters of each series, where they are the same in every group: the legend says them then."""
    counts: dict[int, set[int]] = {}
    for bar in made.bars:
        if bar.parameters is not None:
            counts.setdefault(bar.series, set()).add(bar.parameters)
    return [min(found) for found in counts.values()] if made.series and all(len(found) == 1 for found in counts.values()) else []


def _legend(made: BarFigure) -> Legend:
    counts = _series_counts(made)
    labels = [f"{label} ({counts[i]:,})" if counts else label for i, label in enumerate(made.series)]
    look = {"linestyle": "", "markersize": 4}
    dots = len(labels) >= len(COLOURS)  # colours repeat, so that the markers count
    return [
        (plt.Line2D([], [], color=COLOURS[i % len(COLOURS)], marker=_marker(i) if dots else "s", **look), label)
        for i, label in enumerate(labels)
    ]


def _marker(series: int) -> str:
    """Diamonds; another marker where the colours start again."""
    return MARKERS[series // len(COLOURS) % len(MARKERS)]


def _notes(made: BarFigure, lying: bool) -> list[str]:
    """The small print: where the parameters are, and why a bar has no value, once for each reason."""
    where = "In brackets" if lying or _series_counts(made) else "Under each bar"
    gaps: dict[str, list[str]] = {}
    for bar in made.bars:
        if bar.value.mean is None:
            gaps.setdefault(bar.value.reason, []).append(" ".join([bar.label, *made.series[bar.series : bar.series + 1]]))
    none = [
        f"No value ({reason}): {', '.join(names[:10])}{f' and {len(names) - 10} more' if len(names) > 10 else ''}."
        for reason, names in gaps.items()
    ]
    return [f"{made.notes[0]} {where}: learnable parameters, the head left out.", *made.notes[1:], *none]

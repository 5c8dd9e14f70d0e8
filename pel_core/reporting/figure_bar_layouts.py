"""Values of methods, drawn: rows of points with both intervals, or bars from zero; of any number, with labels of any length."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pel_core.common.lazy import plt
from pel_core.reporting.figure_rows import legend_of, look, name_rows, say_blank, whiskers
from pel_core.reporting.figure_sheet import Legend, drawing, frame, grid, room_for
from pel_core.reporting.figure_style import COLOURS
from pel_core.reporting.figure_text import fits, line_height, text_width, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pel_core.reporting.figure_bars import Bar, BarFigure

LYING = 8  # from so many groups bars lie
MOST_LINES = 4  # of a label under a bar
MANY = 30  # rows beyond which letters are smaller, rows closer, and parameters beside the labels, not under them
INK = "#222222"
HATCHES = ("", "////", "....", "xxxx", "----", "\\\\\\\\", "++++", "oooo")  # bars are told apart in grey by these


@dataclass(frozen=True)
class Standing:
    """Bars that stand: their labels in lines, and the size in points of the values over them."""

    labels: list[list[str]]
    value_size: float


@drawing
def draw_bars(made: BarFigure) -> Figure:
    """Draw points in rows; bars standing where their labels and values fit, else lying. Call it, and save the figure, inside
    ``style()``."""
    standing = _standing(made) if made.form == "bars" else None
    return _draw_standing(made, standing) if standing else _draw_rows(made)


def _standing(made: BarFigure) -> Standing | None:
    """How bars stand; None where there are too many for the figure's width, or their words do not fit."""
    groups, several = _extent(made)
    beside = 0.45 + len(_upright(made)) * line_height(7)  # the axis at the left: inches
    slot = (made.sheet.width - beside) / (groups + 0.2)  # of a group
    labels = [_standing_label(made, group, 0.94 * slot) for group in range(groups)] if groups < LYING else []
    widest = max(text_width(_value(made, bar), 1) for bar in made.bars)
    size = next((size for size in (6, 5, 4.2) if size * widest <= 0.8 * slot / several), 0)
    return Standing(labels, size) if size and labels and all(labels) else None


def _standing_label(made: BarFigure, group: int, width: float) -> list[str]:
    """A group's label and parameters in lines under its bars; none where they do not fit."""
    label, counts = _label(made, group), _counts(made, group)
    parts = [label] if text_width(label, 6.2) <= width else re.split("(?<=,) ", label)
    lines = [line for part in parts for line in wrapped(part, width, 6.2)]
    whole = all(fits(text, width, 6.2) for text in (label, *counts))
    return [*lines, *counts] if whole and len(lines) <= MOST_LINES else []


def _draw_standing(made: BarFigure, how: Standing) -> Figure:
    groups, several = _extent(made)
    figure = frame(made.sheet, 1.7 + max(map(len, how.labels)) * line_height(6.2, 1.3), _legend(made))
    axes = figure.subplots()
    width = 0.8 / several
    for bar in made.bars:
        x = bar.group + (bar.series - (several - 1) / 2) * width
        if bar.value.mean is not None:
            axes.bar(x, bar.value.mean, 0.92 * width, **_fill(made, bar.series))
            whiskers(axes, x, bar.training, bar.general, INK)
        axes.text(x, max([0.0, *bar.ends]), _value(made, bar), ha="center", va="bottom", fontsize=how.value_size)
    axes.set_xticks(range(groups), ["\n".join(lines) for lines in how.labels], linespacing=1.3, fontsize=6.2)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.6, groups - 0.4)
    axes.set_ylim(*_from_zero(made, 1.12))
    axes.set_ylabel("\n".join(_upright(made)))
    grid(axes)
    return figure


def _upright(made: BarFigure) -> list[str]:
    """The title of the axis at the left, in lines."""
    return wrapped(made.axis, 1.5, 7)


def _draw_rows(made: BarFigure) -> Figure:
    """A row for each group, its label and parameters at the left, the values at the right."""
    (groups, several), width = _extent(made), made.sheet.width
    size, most, least = (6.2, 0.36, 0.17) if groups <= MANY else (5.0, 0.5, 0.0)
    texts = [_row_texts(made, group, groups > MANY) for group in range(groups)]
    room = min(most * width, max(text_width(text, size) for found in texts for text in found) + 0.01)
    labels = [[line for text in found for line in wrapped(text, room, size)] for found in texts]
    pitch = max(max(map(len, labels)) * line_height(size, 1.15) + 0.02, several * line_height(5.6, 1.1), least)
    inside = width - room - 0.25 - max(text_width(_value(made, bar), 5.6) for bar in made.bars)
    axis = wrapped(made.axis, width - room - 0.3, 7)
    body = groups * pitch + 0.3 + len(axis) * line_height(7) + (0.15 if groups > MANY else 0)
    figure = frame(made.sheet, body, _legend(made))
    axes = figure.subplots()
    step = 0.84 / several
    for bar in made.bars:
        y = bar.group + (bar.series - (several - 1) / 2) * step
        _draw_value(axes, made, bar, y, step)
        if bar.value.mean is None:
            say_blank(axes, y, bar.value.reason, inside)
        else:  # values in a column at the right
            axes.text(1.01, y, _value(made, bar), transform=axes.get_yaxis_transform(), va="center", fontsize=5.6)
    name_rows(axes, ["\n".join(lines) for lines in labels], size)
    if several > 1:  # lines between the groups, not through them
        grid(axes, "x")
        axes.yaxis.grid(False)
        for y in range(1, groups):
            axes.axhline(y - 0.5, color="#DDDDDD", linewidth=0.5, zorder=0)
    axes.set_xlim(*(_from_zero(made, 1.05) if made.form == "bars" else room_for(_all_ends(made))))
    axes.set_xlabel("\n".join(axis))
    return figure


def _draw_value(axes: Axes, made: BarFigure, bar: Bar, y: float, step: float) -> None:
    """A point or a lying bar, and its intervals."""
    if bar.value.mean is None:
        return
    if made.form == "bars":
        axes.barh(y, bar.value.mean, 0.9 * step, **_fill(made, bar.series))
        whiskers(axes, y, bar.training, bar.general, INK, upright=False)
        return
    how = look(bar.series)
    whiskers(axes, y, bar.training, bar.general, how["color"], upright=False)
    edge = {"markersize": 4.2, "markeredgecolor": "white", "markeredgewidth": 0.4, "zorder": 3}
    axes.plot(bar.value.mean, y, how["marker"], color=how["color"], **edge)


def _extent(made: BarFigure) -> tuple[int, int]:
    return max(bar.group for bar in made.bars) + 1, max(1, len(made.series))


def _all_ends(made: BarFigure) -> list[float]:
    return [end for bar in made.bars for end in bar.ends]


def _from_zero(made: BarFigure, room: float) -> tuple[float, float]:
    """An axis with zero on it, and room for the values beyond the bars."""
    low, high = min([0.0, *_all_ends(made)]), max([0.0, *_all_ends(made)])
    return room * low, (room * high) or (1.0 if not low else 0.0)


def _fill(made: BarFigure, series: int) -> dict[str, object]:
    hatch = HATCHES[(series + series // len(COLOURS)) % len(HATCHES)] if made.series else ""
    return {"facecolor": COLOURS[series % len(COLOURS)], "hatch": hatch, "edgecolor": INK, "linewidth": 0.3}


def _value(made: BarFigure, bar: Bar) -> str:
    return "–" if bar.value.mean is None else f"{bar.value.mean:.{made.digits}f}"


def _label(made: BarFigure, group: int) -> str:
    return next(bar.label for bar in made.bars if bar.group == group)


def _counts(made: BarFigure, group: int) -> list[str]:
    """A group's learnable parameters, where the legend does not say them."""
    if _series_counts(made):
        return []
    return list(dict.fromkeys(f"{bar.parameters:,}" for bar in made.bars if bar.group == group and bar.parameters is not None))


def _row_texts(made: BarFigure, group: int, beside: bool) -> list[str]:
    label, counts = _label(made, group), " / ".join(_counts(made, group))
    if not counts:
        return [label]
    return [f"{label} ({counts})"] if beside else [label, f"{counts} parameters"]


def _series_counts(made: BarFigure) -> list[int]:
    """Learnable parameters of each series, where they are the same in every group: the legend says them then."""
    counts: dict[int, set[int]] = {}
    for bar in made.bars:
        if bar.parameters is not None:
            counts.setdefault(bar.series, set()).add(bar.parameters)
    return [min(found) for found in counts.values()] if made.series and all(len(found) == 1 for found in counts.values()) else []


def _legend(made: BarFigure) -> Legend:
    counts = _series_counts(made)
    labels: Sequence[str] = [f"{label} ({counts[i]:,})" if counts else label for i, label in enumerate(made.series)]
    if made.form == "points":
        return legend_of(labels, linestyle="", markersize=4)
    return [(plt.Rectangle((0, 0), 1, 1, **_fill(made, i)), label) for i, label in enumerate(labels)]

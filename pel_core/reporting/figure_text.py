"""How wide text is, so that a figure is laid out for its words: wrapped lines, and tick labels that do not touch. In inches."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure


@cache
def text_width(text: str, size: float) -> float:
    """The width of a line of text in the figures' font, of ``size`` points."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    with warnings.catch_warnings():  # a letter that the font lacks is told of where it is drawn
        warnings.filterwarnings("ignore", message="Glyph")
        width, _, _ = text_to_path.get_text_width_height_descent(text, FontProperties("DejaVu Sans", size=size), ismath=False)
    return width / 72


def line_height(size: float, spacing: float = 1.25) -> float:
    """The height of a line, the gap to the next included."""
    return spacing * 1.17 * size / 72


def wrapped(text: str, width: float, size: float) -> list[str]:
    """A text in lines no wider than ``width``; a word that is wider is broken."""
    lines: list[str] = []
    for word in text.split():
        if lines and text_width(f"{lines[-1]} {word}", size) <= width:
            lines[-1] += f" {word}"
            continue
        while text_width(word, size) > width and len(word) > 1:
            fits = next((n for n in range(len(word) - 1, 1, -1) if text_width(word[:n], size) <= width), 1)
            lines.append(word[:fits])
            word = word[fits:]
        lines.append(word)
    return lines or [""]


def fits(text: str, width: float, size: float) -> bool:
    """Whether every word of a text fits into a width, so that wrapping breaks none."""
    return all(text_width(word, size) <= width for word in text.split())


def thin_ticks(figure: Figure, axis: Axis, places: Sequence[float], labels: Sequence[str]) -> None:
    """Label those of the places (in order) whose labels do not touch as the axis is laid out now; the first and the last stay."""
    axis.set_ticks(places, labels)
    figure.draw_without_rendering()
    horizontal = axis.axis_name == "x"
    boxes = [label.get_window_extent() for label in axis.get_ticklabels()]
    spans = [(box.x0, box.x1) if horizontal else (box.y0, box.y1) for box in boxes]
    gap, kept = 0.03 * figure.dpi, list(range(len(places)))[:1]
    for index in range(1, len(places)):
        while len(kept) > 1 and index == len(places) - 1 and spans[index][0] < spans[kept[-1]][1] + gap:
            kept.pop()  # the last is labelled, so those go that are too near to it
        if spans[index][0] >= spans[kept[-1]][1] + gap:
            kept.append(index)
    axis.set_ticks([places[i] for i in kept], [labels[i] for i in kept])

"""How wide text is, so that a figure is laid out for its words: wrapped lines, and tick labels that do not touch. In inches."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

from pel_core.reporting.figure_fonts import families

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure


@cache
def text_width(text: str, size: float) -> float:
    """The width of a line of text in the figures' font, of ``size`` points."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    with warnings.catch_warnings():  # a letter that the fonts lack is told of where it is saved
        warnings.filterwarnings("ignore", message="Glyph")
        width, _, _ = text_to_path.get_text_width_height_descent(text, FontProperties(family=families(), size=size), ismath=False)
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
    """Label every place (in order), else every second, third, ..., so that no labels touch as the axis is laid out now. The first
    and the last are labelled."""
    axis.set_ticks(places, labels)
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in axis.get_ticklabels()]
    spans = [(box.x0, box.x1) if axis.axis_name == "x" else (box.y0, box.y1) for box in boxes]
    gap, last = 0.06 * figure.dpi, len(places) - 1
    for step in range(1, len(places) + 1):
        kept = list(range(0, len(places), step))
        while len(kept) > 1 and kept[-1] != last and spans[last][0] < spans[kept[-1]][1] + gap:
            kept.pop()
        kept += [last] if kept and kept[-1] != last else []
        if all(spans[here][1] + gap <= spans[there][0] for here, there in pairwise(kept)):
            break
    axis.set_ticks([places[i] for i in kept], [labels[i] for i in kept])

"""What a figure of any kind has around its axes: title, legend, a mark in the corner; and its caption, a file beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pel_core.common.lazy import plt
from pel_core.reporting.figure_style import COLUMN, save, style
from pel_core.reporting.figure_text import text_width, wrapped
from pel_core.studies.study import Study

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

Legend = Sequence[tuple[Any, str]]
MARGIN = 0.045  # inches around texts


@dataclass(frozen=True)
class Sheet:
    """A figure but for what it shows.

    Args:
        title: at its top, and the first line of its caption.
        caption: the other lines of the file beside it; empty ones are left out.
        mark: a small word in the corner that says what it is not (DEMO).
        width: in inches.
        why: why there is nothing to draw, in place of the picture; empty where there is something.
    """

    title: str
    caption: Sequence[str] = ()
    mark: str = ""
    width: float = COLUMN
    why: str = ""

    def lines(self) -> list[str]:
        """The caption as it is stored."""
        return [f"[{self.mark}] {self.title}" if self.mark else self.title, *filter(None, self.caption)]


class Filled(Protocol):
    """A figure with all that it shows, before it is drawn."""

    @property
    def sheet(self) -> Sheet:
        """Its title, caption, width."""


Made = TypeVar("Made", bound=Filled)


def saves(fill: Callable[[Study, str], Made], draw: Callable[[Made], Figure]) -> Callable[[Study, str, str | Path], None]:
    """How a kind of figure is made: filled from results, drawn, and written with its caption."""

    def save_figure(study: Study, name: str, folder: str | Path) -> None:
        """Draw a declared figure into ``folder`` as pdf, svg and png, its caption beside them as txt.

        Raises:
            PelError: as ``fill``: a run is missing, say, or cannot be used.
        """
        made = fill(study, name)
        with style():
            save(draw(made), folder, name, made.sheet.lines())

    return save_figure


def drawing(draw: Callable[[Made], Figure]) -> Callable[[Made], Figure]:
    """A kind's function that draws; where there is nothing to draw, the reason stands in place of the picture."""

    @wraps(draw)
    def drawn(made: Made) -> Figure:
        if not made.sheet.why:
            return draw(made)
        figure = frame(made.sheet, 1.2)
        axes = figure.subplots()
        axes.set_axis_off()
        axes.set(xticks=[], yticks=[])
        lines = wrapped(made.sheet.why, made.sheet.width - 0.4, 7)
        text = axes.text(0.5, 0.5, "\n".join(lines), ha="center", va="center", transform=axes.transAxes)
        text.set_in_layout(False)  # it is in the middle, not beside the axes
        return figure

    return drawn


def frame(sheet: Sheet, body: float, legend: Legend = ()) -> Figure:
    """A figure with its title and legend, and ``body`` inches of height below them, where its axes are laid out.

    Every text is wrapped to the sheet's width, and the figure is as high as they need; ``legend``: handles with their labels.
    """
    width = sheet.width
    figure = plt.figure(figsize=(width, 1))
    right = width - 2 * MARGIN - (text_width(sheet.mark, 5.5) + 0.05 if sheet.mark else 0)
    head = figure.text(0, 0, "\n".join(wrapped(sheet.title, right, 8)), va="top", fontsize=8)
    parts = [head, *([_legend(figure, legend, width - 2 * MARGIN)] if legend else [])]
    sizes = [part.get_window_extent().height / figure.dpi for part in parts]
    height = body + sum(sizes) + MARGIN * (len(parts) + 1)
    figure.set_size_inches(width, height)
    head.set_position((MARGIN / width, 1 - MARGIN / height))
    if legend:
        parts[1].set_bbox_to_anchor((MARGIN / width, 1 - (2 * MARGIN + sizes[0]) / height), figure.transFigure)
    for part in parts:
        part.set_in_layout(False)
    figure.set_layout_engine("constrained", rect=(0, MARGIN / height, 1, body / height), w_pad=MARGIN / 2, h_pad=0.02)
    if sheet.mark:
        at = 1 - MARGIN / width, 1 - MARGIN / height
        figure.text(*at, sheet.mark, ha="right", va="top", fontsize=5.5, color="#B00020", weight="bold")
    return figure


def _legend(figure: Figure, entries: Legend, width: float) -> Artist:
    """A legend in as many columns as fit side by side."""
    size = 6.0 if len(entries) <= 24 else 5.0
    box = 2.9 * size / 72  # handle, and the gaps beside it
    labels = ["\n".join(wrapped(label, width - box, size)) for _, label in entries]
    widest = box + max(text_width(line, size) for label in labels for line in label.split("\n"))
    # Matplotlib fills columns first; as many as their rows need, so that none is nearly empty.
    columns = min(len(entries), max(1, int(width / (widest + 1.2 * size / 72))))
    columns = -(-len(entries) // -(-len(entries) // columns))
    style = {
        "handlelength": 1.5,
        "handletextpad": 0.6,
        "columnspacing": 1.2,
        "borderaxespad": 0,
        "borderpad": 0,
        "frameon": False,
    }
    made = figure.legend([handle for handle, _ in entries], labels, loc="upper left", ncols=columns, fontsize=size, **style)
    figure.canvas.draw()
    return made


def room_for(ends: Iterable[float], share: float = 0.06) -> tuple[float, float]:
    """The limits of an axis from the data: a little room around them, and at least one unit, so that noise is not blown up to
    look like an effect."""
    found = list(ends) or [0.0]
    low, high = min(found), max(found)
    extra = max(share * (high - low), (1.0 - (high - low)) / 2, 0.0)
    return low - extra, high + extra


def grid(axes: Any, axis: str = "y") -> None:
    """Thin lines behind what is drawn."""
    axes.grid(axis=axis, color="#DDDDDD", linewidth=0.5)
    axes.set_axisbelow(True)

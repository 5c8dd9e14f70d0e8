"""How every figure looks and is saved: colours for colour-blind readers, a paper column's width, the same bytes each time."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from pel_core.common.files import replace_file
from pel_core.common.lazy import plt
from pel_core.reporting.figure_text import text_width, wrapped

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

Legend = Sequence[tuple[Any, str]]
MARGIN = 0.045  # inches around texts
COLUMN, PAGE = 3.3, 6.9  # inches: one and both columns of a paper
# Okabe and Ito's palette, told apart by colour-blind readers and in grey print.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#666666")
MARKERS = "Dos^vPX*"
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # shipped with matplotlib, so that a figure has the same bytes everywhere
    "font.size": 7,
    "axes.titlesize": 8,
    "axes.labelsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 6.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "text.parse_math": False,  # a label's dollars are dollars
    "svg.hashsalt": "pel-lab",
    "pdf.fonttype": 42,
    "savefig.dpi": 300,
}


@contextmanager
def style() -> Iterator[None]:
    """Draw in this style, whatever the caller's settings are, and without a screen."""
    if "matplotlib" not in sys.modules:
        os.environ["MPLBACKEND"] = "Agg"  # an import fails where a notebook's is set that is not installed here
    import matplotlib

    matplotlib.use("Agg")
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield
        plt.close("all")


def footer(figure: Figure, lines: list[str], width: int) -> None:
    """Small print under a figure, wrapped at ``width`` letters; the figure's layout makes room for it."""
    text = "\n".join(part for line in lines if line for part in wrap(line, width))
    figure.supxlabel(text, x=0.01, ha="left", fontsize=5.2, color="#444444", linespacing=1.25)


def mark(figure: Figure, word: str) -> None:
    """A small word in the corner that says what the figure is not: DEMO."""
    if word:
        figure.text(0.995, 0.995, word, ha="right", va="top", fontsize=7, color="#B00020", weight="bold")


def frame(width: float, body: float, title: str, notes: Sequence[str], banner: tuple[str, str], legend: Legend = ()) -> Figure:
    """A figure with its title, legend and small print, and ``body`` inches of height between them, where its axes are laid out.

    Every text is wrapped to ``width`` (inches), and the figure is as high as they need.

    Args:
        banner: a word in the corner that says what it is not (DEMO), and the sentence for the small print.
        legend: handles with their labels.
    """
    figure = plt.figure(figsize=(width, 1))
    right = width - 2 * MARGIN - (text_width(banner[0], 7) + 0.05 if banner[0] else 0)
    room = 0.97 * (width - 2 * MARGIN)  # on pixels, letters are up to 2 % wider than their outlines
    print_ = "\n".join(line for note in [*notes, banner[1]] if note for line in wrapped(note, room, 5.2))
    head = figure.text(0, 0, "\n".join(wrapped(title, right, 8)), va="top", fontsize=8)
    foot = figure.text(0, 0, print_, va="bottom", fontsize=5.2, color="#444444", linespacing=1.25)
    parts = [head, *([_legend(figure, legend, width - 2 * MARGIN)] if legend else []), foot]
    sizes = [part.get_window_extent().height / figure.dpi for part in parts]
    height = body + sum(sizes) + MARGIN * (len(parts) + 1)
    figure.set_size_inches(width, height)
    head.set_position((MARGIN / width, 1 - MARGIN / height))
    foot.set_position((MARGIN / width, MARGIN / height))
    if legend:
        parts[1].set_bbox_to_anchor((MARGIN / width, 1 - (2 * MARGIN + sizes[0]) / height), figure.transFigure)
    for part in parts:
        part.set_in_layout(False)
    bottom = (2 * MARGIN + sizes[-1]) / height
    figure.set_layout_engine("constrained", rect=(0, bottom, 1, body / height), w_pad=MARGIN / 2, h_pad=0.02)
    mark(figure, banner[0])
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


def save(figure: Figure, folder: str | Path, name: str) -> None:
    """Write pdf, svg and png without dates or versions: a figure that did not change has the same bytes."""
    for suffix, metadata in (
        ("pdf", {"CreationDate": None, "Producer": None, "Creator": None}),
        ("svg", {"Date": None}),
        ("png", {"Software": None}),
    ):
        with replace_file(Path(folder) / f"{name}.{suffix}") as temporary:
            figure.savefig(temporary, metadata=metadata)

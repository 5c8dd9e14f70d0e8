"""How every figure looks and is saved: colours for colour-blind readers, a paper column's width, the same bytes each time."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from pel_core.common.files import replace_file, write_text
from pel_core.common.lazy import plt
from pel_core.reporting.figure_fonts import families, no_word_of_weights, prepare_letters

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMN, PAGE = 3.3, 6.9  # inches: one and both columns of a paper
# Okabe and Ito's palette, told apart by colour-blind readers, but for its yellow, which a white page swallows. In grey print a
# second sign tells apart: line and marker, or a hatch.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#666666")
LINES = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)), (0, (6, 2)), (0, (3, 1, 1, 1)), (0, (1, 2)))
SHAPES = "oDs^vPX<"
STYLE: dict[str, Any] = {
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
_collecting: ContextVar[list[tuple[Figure, list[str]]] | None] = ContextVar("figures that are saved", default=None)


@contextmanager
def style() -> Iterator[None]:
    """Draw in this style, whatever the caller's settings are, and without a screen. What the caller has of settings, backend (a
    notebook's) and open figures is there again afterwards."""
    before = _import_matplotlib()
    import matplotlib

    open_before = set(plt.get_fignums()) if "matplotlib.pyplot" in sys.modules else set()
    matplotlib.use("Agg")
    # It stays: a caller may save a figure of ours again, and its letters are looked for again.
    logging.getLogger("matplotlib.font_manager").addFilter(no_word_of_weights)
    try:
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(STYLE | {"font.family": families()})
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Glyph")  # a letter that no font has: told once, where it is saved
                yield
    finally:
        for number in set(plt.get_fignums()) - open_before:
            plt.close(number)
        with suppress(ValueError):  # MPLBACKEND named none that there is
            matplotlib.use(before or "Agg", force=False)


def _import_matplotlib() -> str | None:
    """Import matplotlib; the backend that its caller has, or has named by MPLBACKEND, whether or not it is installed."""
    if "matplotlib" in sys.modules:
        return sys.modules["matplotlib"].get_backend(auto_select=False)
    given = os.environ.get("MPLBACKEND")
    os.environ["MPLBACKEND"] = "Agg"  # an import fails where a notebook's is set that is not installed here
    import matplotlib  # noqa: F401

    if given is not None:
        os.environ["MPLBACKEND"] = given
    return given


@contextmanager
def collected() -> Iterator[list[tuple[Figure, list[str]]]]:
    """The figures that are saved inside, with their captions, for who shows them: a notebook."""
    figures: list[tuple[Figure, list[str]]] = []
    token = _collecting.set(figures)
    try:
        yield figures
    finally:
        _collecting.reset(token)


def footer(figure: Figure, lines: list[str], width: int) -> None:
    """Small print under a benchmark's plot, wrapped at ``width`` letters; the layout makes room for it."""
    text = "\n".join(part for line in lines if line for part in wrap(line, width))
    figure.supxlabel(text, x=0.01, ha="left", fontsize=5.2, color="#444444", linespacing=1.25)


def save(figure: Figure, folder: str | Path, name: str, caption: Iterable[str]) -> None:
    """Write pdf, svg and png without dates or versions, and beside them the lines of the caption as txt: a figure that did not
    change has the same bytes."""
    lines = [line for line in caption if line]
    settings = prepare_letters(figure)
    if (figures := _collecting.get()) is not None:
        figures.append((figure, lines))
    for suffix, metadata in (
        ("pdf", {"CreationDate": None, "Producer": None, "Creator": None}),
        ("svg", {"Date": None}),
        ("png", {"Software": None}),
    ):
        with replace_file(Path(folder) / f"{name}.{suffix}") as temporary, plt.rc_context(settings):
            figure.savefig(temporary, metadata=metadata)
    write_text(Path(folder) / f"{name}.txt", "".join(f"{line}\n" for line in lines))

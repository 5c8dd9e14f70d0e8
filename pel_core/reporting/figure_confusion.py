"""Head-to-tail confusion: of the test images of a shot group, how many are right, and into which group the others are put."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pel_core.common.lazy import plt
from pel_core.data.sampling import GROUPS
from pel_core.reporting.figure_counts import TITLES
from pel_core.reporting.figure_rows import WIDTH, at_most, data_names, no_value, read_methods, seeds_of, sheet_of
from pel_core.reporting.figure_sheet import Sheet, drawing, frame, saves
from pel_core.reporting.figure_text import line_height, text_width, wrapped
from pel_core.reporting.statistics.runs import Row
from pel_core.studies.kinds import FIGURE, FIGURES, ArtefactKind
from pel_core.studies.study import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 12
# Right, and wrong as a head, medium or tail class: colour, hatch, ink. The hatches tell them apart in grey.
PARTS = (
    ("right", "#E8E8E8", "", "black"),
    ("wrong, as a head class", "#0072B2", "", "white"),
    ("wrong, as a medium class", "#56B4E9", "///", "black"),
    ("wrong, as a tail class", "#E69F00", "...", "black"),
)
LEAST = 0.19  # inches: the narrowest part that has its number in it


@dataclass(frozen=True)
class Flow:
    """A method: for each shot group that has test images the shares in percent of PARTS, float (4,)."""

    label: str
    shares: dict[str, np.ndarray]


@dataclass(frozen=True)
class ConfusionFigure:
    """Flows before they are drawn."""

    sheet: Sheet
    flows: list[Flow]


def shares_of(row: Row) -> dict[str, np.ndarray]:
    """Shares of PARTS in percent for each shot group, the mean over seeds; groups without test images are left out."""
    place = np.array([GROUPS.index(group) for group in row.runs[0].groups])
    truth, found = place[row.images.labels], np.zeros((len(GROUPS), 4))
    for run in row.runs:
        part = np.where(run.right, 0, 1 + place[run.predicted])
        found += np.bincount(4 * truth + part, minlength=found.size).reshape(found.shape)
    totals = found.sum(1, keepdims=True)
    return {group: 100 * found[i] / totals[i] for i, group in enumerate(GROUPS) if totals[i, 0]}


def confusion_figure(study: Study, name: str) -> ConfusionFigure:
    """Fill a declared figure of confusion from stored predictions.

    Raises:
        PelError: a run is missing or cannot be used.
    """
    artefact, methods, runs = read_methods(study, name)
    flows = [Flow(method.label, shares_of(method.row)) for method in methods if method.row]
    about = f"{seeds_of(artefact.seeds)}, {data_names(runs)}. Every image counts alike; one that is wrong within its own group "
    return ConfusionFigure(sheet_of(artefact, runs, [about + "is there under that group."], flows), flows)


@drawing
def draw_confusion(made: ConfusionFigure) -> Figure:
    """A lying bar of 100 % for each shot group of each method. Call it, and save the figure, inside ``style()``."""
    legend = [
        (plt.Rectangle((0, 0), 1, 1, facecolor=colour, hatch=hatch, edgecolor="#222222", linewidth=0.3), label)
        for label, colour, hatch, _ in PARTS
    ]
    width = made.sheet.width
    titles = [wrapped(flow.label, width - 0.8, 6.5) for flow in made.flows]
    rows = [len(lines) * line_height(6.5) + 0.05 for lines in titles]  # inches above the bars of a method
    pitch = 0.155
    tall = sum(rows) + pitch * sum(len(flow.shares) for flow in made.flows)
    axes = (figure := frame(made.sheet, max(0.8, tall) + 0.42, legend)).subplots()
    y, ticks, scale = 0.0, [], (width - 0.75) / 100
    for flow, lines, room in zip(made.flows, titles, rows, strict=True):
        axes.text(0, y + room - 0.03, "\n".join(lines), fontsize=6.5, va="bottom")
        y += room + pitch / 2
        for group in (group for group in TITLES if group in flow.shares):
            ticks.append((y, TITLES[group]))
            _draw_bar(axes, y, flow.shares[group], 0.86 * pitch, scale)
            y += pitch
        y -= pitch / 2
    axes.set_ylim(y + 0.02, 0)
    axes.set_xlim(0, 100)
    axes.set_yticks([at for at, _ in ticks], [word for _, word in ticks], fontsize=6.2)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("test images of the group (%)")
    return figure


def _draw_bar(axes: Axes, y: float, shares: Sequence[float], height: float, scale: float) -> None:
    start = 0.0
    for share, (_, colour, hatch, ink) in zip(shares, PARTS, strict=True):
        axes.barh(y, share, height, left=start, color=colour, hatch=hatch, edgecolor="#222222", linewidth=0.3)
        word = f"{share:.0f}"
        if share * scale > max(LEAST, text_width(word, 5.5) + 0.06):
            box = {"facecolor": colour, "edgecolor": "none", "pad": 0.6} if hatch else None
            axes.text(start + share / 2, y, word, ha="center", va="center", fontsize=5.5, color=ink, bbox=box)
        start += share


FIGURES.register(
    "confusion",
    ArtefactKind(
        FIGURE,
        saves(confusion_figure, draw_confusion),
        rows="methods",
        value="overall",
        check=no_value(at_most("methods", MOST), "methods"),
        version=2,
    ),
    about="of each shot group, what is right and into which group the wrong images are put",
    knobs=(WIDTH,),
)

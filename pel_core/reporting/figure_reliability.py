"""Reliability diagram of each shot group: how often images of a confidence are right, and how many there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pel_core.data.sampling import GROUPS
from pel_core.evaluation.scored import CALIBRATION_BINS
from pel_core.reporting.figure_counts import TITLES
from pel_core.reporting.figure_rows import WIDE, at_most, data_names, legend_of, look, no_value, read_methods, sheet_of
from pel_core.reporting.figure_sheet import Sheet, drawing, frame, saves
from pel_core.reporting.statistics.runs import Row
from pel_core.studies.kinds import FIGURE, FIGURES, ArtefactKind
from pel_core.studies.study import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 6
FEW = 10  # images of a bin below which its point is small


@dataclass(frozen=True)
class Bins:
    """Images of a group by confidence, all seeds together: how many, their mean confidence and share of right ones (15,), the
    latter two NaN where there are none."""

    images: np.ndarray
    confidence: np.ndarray
    right: np.ndarray

    @property
    def error(self) -> float:
        """Expected calibration error in percent."""
        share = self.images / max(1, self.images.sum())
        return float(100 * np.nansum(share * np.abs(self.confidence - self.right)))


@dataclass(frozen=True)
class ReliabilityFigure:
    """Bins before they are drawn: of each method by shot group, for groups that have test images."""

    sheet: Sheet
    methods: list[tuple[str, dict[str, Bins]]]


def bins_of(row: Row) -> dict[str, Bins]:
    """A row's bins by shot group, from stored predictions; groups without test images are left out."""
    group_of = np.array([GROUPS.index(group) for group in row.runs[0].groups])[row.images.labels]
    sums = np.zeros((3, len(GROUPS), CALIBRATION_BINS))
    for run in row.runs:
        scored = run.scored()
        for place, weights in enumerate((None, scored.confidence, scored.right)):
            at = group_of * CALIBRATION_BINS + scored.bins
            sums[place] += np.bincount(at, weights, minlength=sums[0].size).reshape(sums[0].shape)
    images = np.where(sums[0] > 0, sums[0], np.nan)
    return {
        group: Bins(sums[0, i], sums[1, i] / images[i], sums[2, i] / images[i])
        for i, group in enumerate(GROUPS)
        if sums[0, i].any()
    }


def reliability_figure(study: Study, name: str) -> ReliabilityFigure:
    """Fill a declared reliability diagram from stored predictions.

    Raises:
        PelError: a run is missing or cannot be used.
    """
    artefact, methods, runs = read_methods(study, name)
    made = [(method.label, bins_of(method.row)) for method in methods if method.row]
    seeds = f"{len(artefact.seeds)} seeds together" if len(artefact.seeds) > 1 else f"one seed ({artefact.seeds[0]})"
    about = f"{data_names(runs)}, {seeds}; {CALIBRATION_BINS} equal bins of confidence. "
    about += "On the dashed line confidence is accuracy; below it the model is too sure. "
    about += f"Small, off the lines: fewer than {FEW} images. Below: the share of a group's images in each bin. "
    about += "In the legend: expected calibration error of head / medium / tail in percent."
    return ReliabilityFigure(sheet_of(artefact, runs, [about], made), made)


@drawing
def draw_reliability(made: ReliabilityFigure) -> Figure:
    """A panel for each shot group, shares of images below it. Call it, and save the figure, inside ``style()``."""
    labels, width = [f"{label} ({_errors(bins)})" for label, bins in made.methods], made.sheet.width
    groups = [group for group in TITLES if any(group in bins for _, bins in made.methods)]
    tall = width / max(1, len(groups)) if len(groups) > 1 else min(width, 2.6)
    figure = frame(made.sheet, min(3.0, max(1.9, tall + 0.5)), legend_of(labels))
    panels = figure.subplots(2, len(groups), sharex=True, sharey="row", squeeze=False, height_ratios=(3, 1))
    for group, top, below in zip(groups, *panels, strict=True):
        for number, (_, bins) in enumerate(made.methods):
            if group in bins:
                _draw(top, below, bins[group], number)
        top.plot([0, 100], [0, 100], "--", color="#666666", linewidth=0.7, zorder=1)
        top.set_title(TITLES[group], fontsize=7)
        below.set_xlim(0, 100)
        below.set_xticks((0, 50, 100))
    panels[0, 0].set(ylim=(-3, 103), yticks=range(0, 101, 25))
    panels[0, 0].set_ylabel("accuracy (%)")
    panels[1, 0].set_ylabel("images (%)")
    panels[1, 0].set_ylim(0, None)
    panels[1, len(groups) // 2].set_xlabel("confidence (%)")
    return figure


def _draw(top: Axes, below: Axes, bins: Bins, number: int) -> None:
    style_ = look(number)
    known = bins.images > 0
    x, y = 100 * bins.confidence[known], 100 * bins.right[known]
    enough = bins.images[known] >= FEW
    top.plot(x[enough], y[enough], color=style_["color"], linestyle=style_["linestyle"], linewidth=0.9)
    for chosen, size in ((enough, 3.4), (~enough, 1.6)):
        if chosen.any():  # no points, unclipped, have no size to lay out
            top.plot(x[chosen], y[chosen], style_["marker"], color=style_["color"], markersize=size, clip_on=False)
    edges = np.linspace(0, 100, CALIBRATION_BINS + 1)
    share = 100 * bins.images / bins.images.sum()
    below.stairs(share, edges, color=style_["color"], linestyle=style_["linestyle"], linewidth=0.9)


def _errors(bins: dict[str, Bins]) -> str:
    return " / ".join(f"{bins[group].error:.1f}" if group in bins else "–" for group in TITLES)


FIGURES.register(
    "reliability",
    ArtefactKind(
        FIGURE,
        saves(reliability_figure, draw_reliability),
        rows="methods",
        value="overall",
        check=no_value(at_most("methods", MOST), "methods"),
        version=2,
    ),
    about="how often images of a confidence are right, in each shot group",
    knobs=(WIDE,),
)

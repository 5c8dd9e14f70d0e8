"""Accuracy of each class, from that with the most training images to that with the fewest, smoothed, over shot-group bands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pel_core.common.registry import Knob, between
from pel_core.reporting.figure_rows import (
    WIDTH,
    at_most,
    class_accuracy,
    class_counts,
    class_order,
    class_ticks,
    classes_without,
    data_names,
    legend_of,
    look,
    no_value,
    read_methods,
    seeds_of,
    shade_groups,
    sheet_of,
)
from pel_core.reporting.figure_sheet import Sheet, drawing, frame, saves
from pel_core.reporting.figure_text import thin_ticks
from pel_core.studies.kinds import FIGURE, FIGURES, ArtefactKind
from pel_core.studies.study import Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POINTS = 3  # so many methods show a point for each class; more would hide each other
MOST = 8


@dataclass(frozen=True)
class ClassFigure:
    """Accuracies before they are drawn: training images (C,) and group (C,) of each class, of each method its label and its
    accuracies in percent, float (C,), NaN for a class without test images; and over how many classes they are smoothed."""

    sheet: Sheet
    counts: np.ndarray
    groups: Sequence[str]
    lines: list[tuple[str, np.ndarray]]
    window: int


def class_figure(study: Study, name: str) -> ClassFigure:
    """Fill a declared per-class figure from stored predictions.

    Raises:
        PelError: a run is missing or cannot be used, or rows are of different data.
    """
    artefact, methods, runs = read_methods(study, name)
    known = [(method.label, class_accuracy(method.row)) for method in methods if method.row]
    counts, groups = class_counts(methods) if known else (np.zeros(0, int), ())
    window = window_of(artefact.knobs["smooth"], len(counts))
    said = [f"{seeds_of(artefact.seeds)}, {data_names(runs)}."]
    said += [f"Line: mean over {window} neighbouring classes."] if window > 1 else []
    said += ["Points: single classes." if len(known) <= POINTS else "Single classes are not shown."]
    said += [classes_without(known[0][1]) if known else ""]
    return ClassFigure(sheet_of(artefact, runs, [" ".join(filter(None, said))], known), counts, groups, known, window)


def smoothed(values: np.ndarray, window: int) -> np.ndarray:
    """The mean over ``window`` neighbours in order, fewer at the ends; values (C,) that are NaN take no part."""
    known = np.isfinite(values)
    sums, sizes = (np.concatenate([[0.0], np.cumsum(each)]) for each in (np.where(known, values, 0.0), known))
    at = np.arange(len(values))
    low, high = np.maximum(at - window // 2, 0), np.minimum(at + window // 2 + 1, len(values))
    size = sizes[high] - sizes[low]
    return np.where(size > 0, (sums[high] - sums[low]) / np.maximum(size, 1), np.nan)


def window_of(smooth: float, classes: int) -> int:
    """How many neighbouring classes a smoothed value is the mean of: odd, at least three where there are so many."""
    return min(2 * (max(3, round(smooth * classes)) // 2) + 1, 2 * ((classes - 1) // 2) + 1) if smooth else 1


@drawing
def draw_classes(made: ClassFigure) -> Figure:
    """A line for each method over the classes in order. Call it, and save the figure, inside ``style()``."""
    order, classes, pointed = class_order(made.counts, made.groups), len(made.counts), len(made.lines) <= POINTS
    shape = {"markersize": 2.5} if pointed else {"marker": ""}
    figure = frame(made.sheet, 2.2, legend_of([label for label, _ in made.lines], linewidth=1.3, **shape))
    axes = figure.subplots()
    shade_groups(axes, [made.groups[i] for i in order], made.sheet.width - 0.7)
    at = np.arange(classes) + 0.5
    for number, (_, values) in enumerate(made.lines):
        style = look(number)
        if pointed:
            size = 2.2 if classes < 200 else 1.2 if classes < 2000 else 0.6
            axes.plot(
                at, values[order], style["marker"], color=style["color"], markersize=size, alpha=0.45, markeredgewidth=0,
                rasterized=classes > 500,
            )  # fmt: skip
        axes.plot(at, smoothed(values[order], made.window), color=style["color"], linestyle=style["linestyle"], linewidth=1.3)
    axes.set_ylim(-2, 102)
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel("accuracy of the class (%)")
    axes.set_xlabel("classes in order of their training images (numbers)")
    thin_ticks(figure, axes.xaxis, *class_ticks(made.counts, order))
    return figure


FIGURES.register(
    "per-class",
    ArtefactKind(
        FIGURE,
        saves(class_figure, draw_classes),
        rows="methods",
        value="overall",
        check=no_value(at_most("methods", MOST), "methods"),
        version=2,
    ),
    about="the accuracy of each class, sorted by training images and smoothed",
    knobs=(Knob("smooth", 0.1, "the share of the classes that a smoothed value is the mean of; 0: none", between(0, 1)), WIDTH),
)

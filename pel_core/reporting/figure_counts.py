"""The class-size curve of a data set: training images of each class from the largest to the smallest, head to tail shaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pel_core.common.lazy import plt
from pel_core.data.sampling import HEAD_ABOVE, TAIL_BELOW, shot_groups
from pel_core.reporting.figure_style import COLOURS, COLUMN, footer, save, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHADES = {"head": "#D9E6F2", "med": "#EDF3F8", "tail": "#FFFFFF"}
TITLES = {"head": "head", "med": "medium", "tail": "tail"}


def draw_counts(title: str, counts: Mapping[str, np.ndarray], reference: np.ndarray, at: str = "") -> Figure:
    """Draw training images of each class, int64 (C,), a line for each data set. Call it, and save it, inside ``style()``.

    ``reference`` (C,): the counts that say which classes are head, medium and tail; ``at``: of what, in words.
    """
    figure, axes = plt.subplots(figsize=(COLUMN, 2.4), layout="constrained")
    classes, start = len(reference), 0
    groups = shot_groups(reference)
    top = max(int(each.max()) for each in counts.values())
    for group in ("head", "med", "tail"):
        if size := groups.count(group):
            axes.axvspan(start, start + size, color=SHADES[group], linewidth=0, zorder=0)
            axes.text(start + size / 2, top * 1.9, f"{TITLES[group]}\n{size:,}", ha="center", va="center", fontsize=6)
            start += size
    for number, (name, each) in enumerate(counts.items()):
        place, values = np.arange(classes) + 0.5, np.sort(each)[::-1]
        axes.plot(place, values, color=COLOURS[number % len(COLOURS)], linewidth=1.2, label=name)
    axes.set(xlim=(0, classes), yscale="log", xlabel="class, from the largest to the smallest", ylabel="training images")
    axes.set_ylim(max(0.8, 0.8 * min(int(each.min()) for each in counts.values())), top * 4)
    axes.set_title(title)
    if len(counts) > 1:
        axes.legend(loc="lower left", fontsize=6, frameon=False)
    thresholds = f"Head: more than {HEAD_ABOVE} training images a class{at}; tail: fewer than {TAIL_BELOW}."
    images = ", ".join(f"{name}: {int(each.sum()):,} images" for name, each in counts.items())
    footer(figure, [thresholds, images], int(24.5 * figure.get_figwidth()))
    return figure


def save_counts(
    title: str, counts: Mapping[str, np.ndarray], reference: np.ndarray, folder: str | Path, name: str, at: str = ""
) -> None:
    """Draw the curve into ``folder`` as pdf, svg and png (see `draw_counts`)."""
    with style():
        save(draw_counts(title, counts, reference, at), folder, name)

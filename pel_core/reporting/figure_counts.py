"""The class-size curve of a data set: training images of each class from the largest to the smallest, head to tail shaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pel_core.common.lazy import plt
from pel_core.data.sampling import HEAD_ABOVE, TAIL_BELOW, shot_groups
from pel_core.reporting.figure_sheet import Sheet, frame
from pel_core.reporting.figure_style import COLOURS, LINES, save, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHADES = {"head": "#D9E6F2", "med": "#EDF3F8", "tail": "#FFFFFF"}
TITLES = {"head": "head", "med": "medium", "tail": "tail"}


def draw_counts(sheet: Sheet, counts: Mapping[str, np.ndarray], reference: np.ndarray) -> Figure:
    """Draw training images of each class, int64 (C,), a line for each data set. Call it, and save it, inside ``style()``.

    ``reference`` (C,): the counts that say which classes are head, medium and tail.
    """
    named = len(counts) > 1
    handles = [plt.Line2D([], [], linewidth=1.2, **_look(number)) for number in range(len(counts))]
    figure = frame(sheet, 2.1, list(zip(handles, counts, strict=True)) if named else [])
    axes = figure.subplots()
    classes, groups = len(reference), shot_groups(reference)
    sizes = {group: groups.count(group) for group in TITLES if groups.count(group)}
    start = 0
    for group, size in sizes.items():
        axes.axvspan(start, start + size, color=SHADES[group], linewidth=0, zorder=0)
        start += size
    for number, each in enumerate(counts.values()):
        axes.plot(np.arange(classes) + 0.5, np.sort(each)[::-1], linewidth=1.2, **_look(number))
    axes.set(xlim=(0, classes), yscale="log", xlabel="class, from the largest to the smallest", ylabel="training images")
    axes.set_ylim(max(0.8, 0.8 * min(int(each.min()) for each in counts.values())), None)
    axes.yaxis.set_major_formatter(plt.FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.yaxis.set_minor_formatter(plt.NullFormatter())
    # Above the curves, moved apart where a group is narrower than its name.
    names = axes.secondary_xaxis("top")
    names.tick_params(length=0)
    names.set_xticks(apart(sizes, classes, 2.6), [f"{TITLES[group]}\n{size:,}" for group, size in sizes.items()], fontsize=6)
    return figure


def _look(number: int) -> dict[str, Any]:
    return {"color": COLOURS[number % 8], "linestyle": LINES[(number + number // 8) % 8]}


def apart(sizes: Mapping[str, int], classes: int, width: float) -> list[float]:
    """Where the names of groups stand on an axis of ``width`` inches: in the middle of each, but so far apart that none touch."""
    ends = np.cumsum(list(sizes.values()))
    places = [end - size / 2 for end, size in zip(ends, sizes.values(), strict=True)]
    least = 0.45 / width * classes
    for index in range(len(places) - 2, -1, -1):  # the last has the room at the edge
        places[index] = min(places[index], places[index + 1] - least)
    places[0] = max(places[0], least / 2)
    for index in range(1, len(places)):
        places[index] = max(places[index], places[index - 1] + least)
    return places


def save_counts(
    title: str, counts: Mapping[str, np.ndarray], reference: np.ndarray, folder: str | Path, name: str, at: str = ""
) -> None:
    """Draw the curve into ``folder`` as pdf, svg and png, its caption beside them as txt (see `draw_counts`); ``at``: at what
    the classes are head, medium and tail, in words."""
    thresholds = f"Head: more than {HEAD_ABOVE} training images a class{at}; tail: fewer than {TAIL_BELOW}."
    images = f"{', '.join(f'{each}: {int(found.sum()):,} images' for each, found in counts.items())}."
    sheet = Sheet(title, [thresholds, images])
    with style():
        save(draw_counts(sheet, counts, reference), folder, name, sheet.lines())

"""Seeds as strips: each run's value, the runs of one seed joined from method to method, and each method's mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pel_core.reporting.figure_rows import (
    WIDTH,
    at_most,
    axis_label,
    data_names,
    legend_of,
    look,
    name_rows,
    say_blank,
    sheet_of,
)
from pel_core.reporting.figure_sheet import Sheet, drawing, frame, room_for, saves
from pel_core.reporting.figure_text import line_height, text_width, wrapped
from pel_core.reporting.runs import read_runs
from pel_core.spec.records import number, why_none
from pel_core.studies.kinds import AXIS, FIGURE, FIGURES, ArtefactKind
from pel_core.studies.study import Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 30


@dataclass(frozen=True)
class Strip:
    """A method: its value at each seed that has one; ``fixed``: nothing in it depends on the seed, so that one value is all."""

    label: str
    values: dict[int, float]
    fixed: bool = False
    blank: str = ""


@dataclass(frozen=True)
class SeedsFigure:
    """Strips before they are drawn."""

    sheet: Sheet
    axis: str
    seeds: tuple[int, ...]
    strips: list[Strip]


def seeds_figure(study: Study, name: str) -> SeedsFigure:
    """Fill a declared figure of seeds from results. A method keeps the seeds that have a result; the caption names others.

    Raises:
        PelError: a run is missing or cannot be used.
    """
    artefact = study.artefact(name)
    runs, strips = read_runs(study, artefact), []
    for cell in artefact.cells:
        label = str(artefact.declaration["methods"][cell.row]["label"])
        records = {spec.seed: runs[spec.slug] for spec in cell.specs if spec.slug in runs}
        found = {seed: number(record, cell.value) for seed, record in records.items()}
        values = {seed: value for seed, value in found.items() if value is not None}
        fixed = not cell.specs[0].seeded
        blank = "" if values else runs.without(cell.slugs) or why_none(next(iter(records.values())), cell.value)
        strips.append(Strip(label, dict(list(values.items())[:1]) if fixed else values, fixed, blank))
    lines = "Thin lines join runs of one seed. " if len(artefact.seeds) > 1 else ""
    count = f"n = {len(artefact.seeds)} seeds"
    if len(artefact.seeds) == 1:
        count = f"one seed ({artefact.seeds[0]}): no spread is known"
    mean = "Black line: mean of a method whose every seed has a value."
    about = f"Points: single runs of {data_names(runs)}, {count}. {lines}{mean} The axis does not start at zero."
    sheet = sheet_of(artefact, runs, [about], any(strip.values for strip in strips), strips[0].blank)
    return SeedsFigure(sheet, axis_label(artefact), artefact.seeds, strips)


@drawing
def draw_seeds(made: SeedsFigure) -> Figure:
    """A lying strip for each method. Call it, and save the figure, inside ``style()``."""
    width = made.sheet.width
    most = 0.36 * width
    widest = max(text_width(strip.label, 6.2) for strip in made.strips)
    labels = [wrapped(strip.label, min(most, widest + 0.01), 6.2) for strip in made.strips]
    pitch = max(0.24, max(map(len, labels)) * line_height(6.2, 1.15))
    x_title = wrapped(made.axis, width - most - 0.3, 7)
    body = len(labels) * pitch + 0.3 + len(x_title) * line_height(7)
    legend = legend_of([f"seed {seed}" for seed in made.seeds], linestyle="", markersize=4)
    figure = frame(made.sheet, body, legend if len(made.seeds) <= 8 else ())
    axes = figure.subplots()
    for i, seed in enumerate(made.seeds):
        at = [(strip.values.get(seed), y) for y, strip in enumerate(made.strips) if not strip.fixed]
        xs = [float("nan") if x is None else x for x, _ in at]  # a line stops where a run has no value
        how = {**look(i), "linestyle": "-", "linewidth": 0.6, "markersize": 3.6}
        axes.plot(xs, [y for _, y in at], markeredgecolor="white", markeredgewidth=0.3, **how)
    for y, strip in enumerate(made.strips):
        if strip.fixed:
            at = list(strip.values.values())
            axes.plot(at, [y] * len(at), "|", color="#222222", markersize=9, markeredgewidth=1.4)
        elif len(strip.values) == len(made.seeds) > 1:
            mean = sum(strip.values.values()) / len(strip.values)
            axes.plot([mean, mean], [y - 0.3, y + 0.3], color="#222222", linewidth=1.4, zorder=1.5)
        if not strip.values:
            say_blank(axes, y, strip.blank, width - most - 0.3)
    name_rows(axes, ["\n".join(lines) for lines in labels], 6.2)
    axes.set_xlim(*room_for(value for strip in made.strips for value in strip.values.values()))
    axes.set_xlabel("\n".join(x_title))
    return figure


FIGURES.register(
    "seeds",
    ArtefactKind(
        FIGURE, saves(seeds_figure, draw_seeds), rows="methods", value="overall", check=at_most("methods", MOST), version=2
    ),
    about="a value of each run, the runs of one seed joined from method to method",
    knobs=(AXIS, WIDTH),
)

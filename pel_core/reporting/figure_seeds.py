"""Seeds as strips: each run's value, the runs of one seed joined from method to method, and each method's mean."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pel_core.common.lazy import plt
from pel_core.reporting.figure_bars import axis_label
from pel_core.reporting.figure_rows import SHAPES, WIDTH, WIDTHS, at_most, data_names, no_result, say_why
from pel_core.reporting.figure_style import COLOURS, frame, save, style
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

    title: str
    axis: str
    seeds: tuple[int, ...]
    strips: list[Strip]
    width: float
    notes: list[str]
    banner: tuple[str, str]
    why: str = ""


def seeds_figure(study: Study, name: str) -> SeedsFigure:
    """Fill a declared figure of seeds from results. A method keeps the seeds that have a result; the small print names others.

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
    about = f"Points: single runs of {data_names(runs)}, {count}. {lines}{mean}"
    notes = [about, *runs.notes(), artefact.declaration.get("note", "")]
    why = "" if any(strip.values for strip in strips) else no_result(runs) if runs.blanks else strips[0].blank
    width = WIDTHS[artefact.knobs["width"]]
    return SeedsFigure(artefact.title, axis_label(artefact), artefact.seeds, strips, width, notes, artefact.banner, why)


def draw_seeds(made: SeedsFigure) -> Figure:
    """A lying strip for each method. Call it, and save the figure, inside ``style()``."""
    most = 0.36 * made.width
    widest = max(text_width(strip.label, 6.2) for strip in made.strips)
    labels = [wrapped(strip.label, min(most, widest + 0.01), 6.2) for strip in made.strips]
    pitch = max(0.24, max(map(len, labels)) * line_height(6.2, 1.15))
    x_title = wrapped(made.axis, made.width - most - 0.3, 7)
    look = {"linestyle": "", "markersize": 4}
    legend = [
        (plt.Line2D([], [], color=COLOURS[i % 8], marker=SHAPES[i % 8], **look), f"seed {seed}")
        for i, seed in enumerate(made.seeds)
    ]
    body = len(labels) * pitch + 0.3 + len(x_title) * line_height(7)
    figure = frame(made.width, body, made.title, made.notes, made.banner, legend if len(made.seeds) <= 8 else ())
    axes = figure.subplots()
    if made.why:
        say_why(axes, made.why, made.width - 0.4)
        return figure
    for i, seed in enumerate(made.seeds):
        look_ = {"color": COLOURS[i % 8], "marker": SHAPES[i % 8]}
        at = [(strip.values.get(seed), y) for y, strip in enumerate(made.strips) if not strip.fixed]
        xs = [float("nan") if x is None else x for x, _ in at]  # a line stops where a run has no value
        axes.plot(xs, [y for _, y in at], linewidth=0.6, markersize=3.6, markeredgecolor="white", markeredgewidth=0.3, **look_)
    for y, strip in enumerate(made.strips):
        if strip.fixed:
            at = list(strip.values.values())
            axes.plot(at, [y] * len(at), "|", color="#222222", markersize=9, markeredgewidth=1.4)
        elif len(strip.values) == len(made.seeds) > 1:
            mean = sum(strip.values.values()) / len(strip.values)
            axes.plot([mean, mean], [y - 0.3, y + 0.3], color="#222222", linewidth=1.4, zorder=1.5)
        if not strip.values:
            place = {"transform": axes.get_yaxis_transform(), "va": "center"}
            axes.text(0.01, y, f"– {strip.blank}", fontsize=5.6, color="#444444", **place)
    axes.set_yticks(range(len(labels)), ["\n".join(lines) for lines in labels], fontsize=6.2, linespacing=1.0)
    axes.set_ylim(len(labels) - 0.45, -0.55)
    found = [value for strip in made.strips for value in strip.values.values()]
    extra = max(0.06 * (max(found) - min(found)), (1 - max(found) + min(found)) / 2, 0)
    axes.set_xlim(min(found) - extra, max(found) + extra)
    axes.xaxis.set_major_locator(plt.MaxNLocator(5))
    axes.grid(axis="both", color="#E4E4E4", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("\n".join(x_title))
    return figure


def save_seeds(study: Study, name: str, folder: str | Path) -> None:
    """Draw a declared figure of seeds into ``folder`` as pdf, svg and png.

    Raises:
        PelError: a run is missing or cannot be used.
    """
    made = seeds_figure(study, name)
    with style():
        save(draw_seeds(made), folder, name)


FIGURES.register(
    "seeds",
    ArtefactKind(FIGURE, save_seeds, rows="methods", value="overall", check=at_most("methods", MOST)),
    about="a value of each run, the runs of one seed joined from method to method",
    knobs=(AXIS, WIDTH),
)

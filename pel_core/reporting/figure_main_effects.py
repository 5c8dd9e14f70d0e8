"""Figures of a factorial design: the mean at each level of each factor (main effects), and at each pair of levels
(interaction)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pel_core.reporting.factorial_effects import Measured, design_of
from pel_core.reporting.figure_interaction import InteractionFigure, Level, draw_interaction
from pel_core.reporting.figure_rows import axis_label, data_names, ends_of, look, seeds_of, sheet_of, whiskers
from pel_core.reporting.figure_sheet import Sheet, drawing, frame, grid, room_for, saves
from pel_core.reporting.figure_style import COLUMN, PAGE
from pel_core.reporting.figure_text import fits, line_height, wrapped
from pel_core.reporting.paired import Rows
from pel_core.reporting.runs import Runs, read_runs
from pel_core.reporting.statistics.effects import Effect
from pel_core.studies.cells import Artefact
from pel_core.studies.kinds import AXIS, DESIGNS, FIGURE, ArtefactKind
from pel_core.studies.study import Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROOMY = 6  # levels in a column's width


@dataclass(frozen=True)
class MainFigure:
    """Main effects before they are drawn: of each factor its name, its levels' labels and their means."""

    sheet: Sheet
    axis: str
    factors: list[tuple[str, tuple[str, ...], list[Effect]]]


def main_figure(study: Study, name: str) -> MainFigure:
    """The mean at each level of each factor, all levels of the others counting alike.

    Raises:
        PelError: a run cannot be used.
    """
    artefact = study.artefact(name)
    runs, design = read_runs(study, artefact), design_of(artefact)
    measured = Measured(design, list(artefact.cells), runs, Rows(study.results))
    factors = []
    for i, factor in enumerate(design.factors):
        weights = [design.marginal({i: level}) for level in range(len(factor))]
        factors.append((factor.name, factor.labels, [measured.combine(each) for each in weights if each]))
    more = "Differences between levels are paired: the analysis has their intervals."
    found = [effect for _, _, effects in factors for effect in effects]
    sheet = _sheet(artefact, runs, more, found, sum(map(len, design.factors)))
    return MainFigure(sheet, axis_label(artefact), factors)


def _sheet(artefact: Artefact, runs: Runs, more: str, found: Sequence[Effect], slots: int, shown: int = 1) -> Sheet:
    """``slots``: levels that stand beside each other; ``shown``: factors that the figure tells apart."""
    others = "; over the levels of all other factors" * (len(artefact.declaration["factors"]) > shown)
    over = "training runs and test images" if len(artefact.seeds) > 1 else "test images alone"
    head = f"{seeds_of(artefact.seeds)}, {data_names(runs)}{others}. Bars: 95 % interval over {over}. {more} "
    head += "The axis does not start at zero."
    gaps = dict.fromkeys(effect.reason for effect in found if effect.mean is None)
    anything = any(effect.mean is not None for effect in found)
    about = [head, *(f"No mean where it needs {reason}." for reason in gaps)]
    sheet = sheet_of(artefact, runs, about, anything, "" if anything else f"Nothing to draw: {next(iter(gaps))}.")
    return replace(sheet, width=COLUMN if slots <= ROOMY else PAGE)


@drawing
def draw_main(made: MainFigure) -> Figure:
    """A panel for each factor, on one axis of values. Call it, and save the figure, inside ``style()``."""
    counts = [len(labels) for _, labels, _ in made.factors]
    slot = (made.sheet.width - 0.7) / sum(counts)
    size = next((s for s in (6.5, 5.5, 4.5) if all(fits(t, 0.9 * slot, s) for _, labels, _ in made.factors for t in labels)), 4.5)
    ticks = [["\n".join(wrapped(label, 0.9 * slot, size)) for label in labels] for _, labels, _ in made.factors]
    body = 1.9 + max(text.count("\n") + 1 for texts in ticks for text in texts) * line_height(size)
    figure = frame(made.sheet, body)
    panels = figure.subplots(1, len(counts), sharey=True, squeeze=False, gridspec_kw={"width_ratios": counts})[0]
    for i, (axes, (name, labels, effects)) in enumerate(zip(panels, made.factors, strict=True)):
        for level, effect in enumerate(effects):
            if effect.mean is not None:
                whiskers(axes, level, None, ends_of(effect)[1], look(i)["color"])
        means = [float("nan") if effect.mean is None else effect.mean for effect in effects]
        axes.plot(range(len(labels)), means, linewidth=1.1, markersize=3.6, **look(i))
        axes.set_xlim(-0.5, len(labels) - 0.5)
        axes.set_xticks(range(len(labels)), ticks[i], fontsize=size)
        axes.set_title("\n".join(wrapped(name, slot * len(labels), 7)), fontsize=7)
        grid(axes)
    known = [effect for _, _, effects in made.factors for effect in effects if effect.mean is not None]
    panels[0].set_ylim(*room_for(end for each in known for end in (each.mean, *(ends_of(each)[1] or ()))))
    panels[0].set_ylabel("\n".join(wrapped(made.axis, 1.6, 7)))
    return figure


def design_interaction(study: Study, name: str) -> InteractionFigure:
    """The mean at each pair of two factors' levels, all levels of the others counting alike.

    Raises:
        PelError: a run cannot be used.
    """
    artefact = study.artefact(name)
    runs, design, about = read_runs(study, artefact), design_of(artefact), artefact.declaration
    measured = Measured(design, list(artefact.cells), runs, Rows(study.results))
    along, lines = (design.factors[about[key]] for key in ("along", "lines"))
    cells, found = [], []
    for level in range(len(along)):
        for series in range(len(lines)):
            weights = design.marginal({about["along"]: level, about["lines"]: series})
            assert weights is not None, "a plot is made of interactions in the model alone"
            found.append(effect := measured.combine(weights))
            if effect.mean is not None:
                cells.append(Level(level, series, effect.mean, ends_of(effect)[1]))
    sheet = _sheet(artefact, runs, "Parallel lines: no interaction.", found, len(along), shown=2)
    return InteractionFigure(sheet, axis_label(artefact), list(along.labels), list(lines.labels), cells)


DESIGNS.register(
    "main-effects",
    ArtefactKind(FIGURE, saves(main_figure, draw_main)),
    about="the mean at each level of each factor of a design",
    knobs=(AXIS,),
)
DESIGNS.register(
    "design-interaction",
    ArtefactKind(FIGURE, saves(design_interaction, draw_interaction)),
    about="the mean at each pair of levels of two factors of a design",
    knobs=(AXIS,),
)

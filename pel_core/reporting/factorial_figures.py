"""Figures of a factorial design: the mean at each level of each factor (main effects), and at each pair of levels (interaction)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pel_core.common.lazy import plt
from pel_core.reporting.factorial_effects import Measured, design_of
from pel_core.reporting.figure_bars import axis_label
from pel_core.reporting.figure_interaction import InteractionFigure, Level, draw_interaction
from pel_core.reporting.figure_rows import data_names, look, no_result, say_why, seeds_of
from pel_core.reporting.figure_style import COLUMN, PAGE, frame, save, style
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
    """Main effects before they are drawn: of each factor its levels' labels and their means, None where there is none."""

    title: str
    axis: str
    factors: list[tuple[str, tuple[str, ...], list[Effect]]]
    notes: list[str]
    banner: tuple[str, str]
    why: str = ""


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
    found = [effect for _, _, effects in factors for effect in effects]
    why = "" if any(effect.mean is not None for effect in found) else _nothing(runs, found)
    notes = _notes(
        artefact, runs, "Differences between levels are paired, and surer than these bars: the analysis has them.", found
    )
    return MainFigure(artefact.title, axis_label(artefact), factors, notes, artefact.banner, why)


def _nothing(runs: Runs, found: list[Effect]) -> str:
    return no_result(runs) if runs.blanks else f"Nothing to draw: {found[0].reason}."


def _notes(artefact: Artefact, runs: Runs, more: str, found: list[Effect]) -> list[str]:
    over = "training runs and test images" if len(artefact.seeds) > 1 else "test images alone"
    head = f"{seeds_of(artefact.seeds)}, {data_names(runs)}; over the levels of all other factors. Bars: 95 % interval over {over}. {more}"
    gaps = dict.fromkeys(effect.reason for effect in found if effect.mean is None)
    return [head, *(f"No mean where it needs {reason}." for reason in gaps), *runs.notes(), artefact.declaration.get("note", "")]


def draw_main(made: MainFigure) -> Figure:
    """A panel for each factor, on one axis of values. Call it, and save the figure, inside ``style()``."""
    counts = [len(labels) for _, labels, _ in made.factors]
    width = COLUMN if sum(counts) <= ROOMY else PAGE
    slot = (width - 0.7) / sum(counts)
    size = next((s for s in (6.5, 5.5, 4.5) if all(fits(t, 0.9 * slot, s) for _, labels, _ in made.factors for t in labels)), 4.5)
    ticks = [["\n".join(wrapped(label, 0.9 * slot, size)) for label in labels] for _, labels, _ in made.factors]
    body = 1.9 + max(text.count("\n") + 1 for texts in ticks for text in texts) * line_height(size)
    figure = frame(width, body, made.title, made.notes, made.banner)
    if made.why:
        say_why(figure.subplots(), made.why, width - 0.5)
        return figure
    panels = figure.subplots(1, len(counts), sharey=True, squeeze=False, gridspec_kw={"width_ratios": counts})[0]
    for i, (axes, (name, labels, effects)) in enumerate(zip(panels, made.factors, strict=True)):
        for level, effect in enumerate(effects):
            low, high = effect.general.low, effect.general.high
            if effect.mean is not None and low is not None and high is not None:
                axes.plot([level] * 2, [low, high], color=look(i)["color"], linewidth=0.9)
        means = [float("nan") if effect.mean is None else effect.mean for effect in effects]
        axes.plot(range(len(labels)), means, linewidth=1.1, markersize=3.6, **look(i))
        axes.set_xlim(-0.5, len(labels) - 0.5)
        axes.set_xticks(range(len(labels)), ticks[i], fontsize=size)
        axes.set_title("\n".join(wrapped(name, slot * len(labels), 7)), fontsize=7)
        axes.grid(axis="y", color="#DDDDDD", linewidth=0.5)
        axes.set_axisbelow(True)
    known = [effect for _, _, effects in made.factors for effect in effects if effect.mean is not None]
    ends = [end for each in known for end in (each.mean, each.general.low, each.general.high) if end is not None]
    extra = max(0.06 * (max(ends) - min(ends)), (1 - max(ends) + min(ends)) / 2, 0)
    panels[0].set_ylim(min(ends) - extra, max(ends) + extra)
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
                low, high = effect.general.low, effect.general.high
                cells.append(Level(level, series, effect.mean, None if low is None or high is None else (low, high)))
    notes = _notes(artefact, runs, "Parallel lines: no interaction.", found)
    labels = [[f"{label}" for label in factor.labels] for factor in (along, lines)]
    width = COLUMN if len(along) <= ROOMY else PAGE
    why = "" if cells else _nothing(runs, found)
    return InteractionFigure(artefact.title, axis_label(artefact), *labels, cells, width, notes, artefact.banner, why)


def save_main(study: Study, name: str, folder: str | Path) -> None:
    """Draw a design's main effects into ``folder`` as pdf, svg and png.

    Raises:
        PelError: a run cannot be used.
    """
    made = main_figure(study, name)
    with style():
        save(draw_main(made), folder, name)


def save_design_interaction(study: Study, name: str, folder: str | Path) -> None:
    """Draw an interaction of a design into ``folder`` as pdf, svg and png.

    Raises:
        PelError: a run cannot be used.
    """
    made = design_interaction(study, name)
    with style():
        save(draw_interaction(made), folder, name)


DESIGNS.register(
    "main-effects", ArtefactKind(FIGURE, save_main), about="the mean at each level of each factor of a design", knobs=(AXIS,)
)
DESIGNS.register(
    "design-interaction",
    ArtefactKind(FIGURE, save_design_interaction),
    about="the mean at each pair of levels of two factors of a design",
    knobs=(AXIS,),
)

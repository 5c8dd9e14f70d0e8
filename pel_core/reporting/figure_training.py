"""Training curves: what the log says of each epoch, the mean over seeds with the band that they span."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pel_core.common.lazy import plt
from pel_core.common.registry import Knob, one_of
from pel_core.reporting.figure_rows import WIDTH, at_most, data_names, legend_of, look, no_value, sheet_of
from pel_core.reporting.figure_sheet import Sheet, drawing, frame, grid, saves
from pel_core.reporting.runs import read_runs
from pel_core.studies.kinds import FIGURE, FIGURES, ArtefactKind
from pel_core.studies.study import Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 8
TITLES = {"accuracy": "accuracy on training images (%)", "loss": "training loss", "lr": "learning rate"}


@dataclass(frozen=True)
class Trace:
    """A method's curves: epochs (E,) from 1, and a value for each seed and epoch, float (S, E)."""

    label: str
    epochs: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class TrainingFigure:
    """Curves before they are drawn."""

    sheet: Sheet
    axis: str
    traces: list[Trace]


def training_figure(study: Study, name: str) -> TrainingFigure:
    """Fill a declared figure of training curves from results.

    Raises:
        PelError: a run is missing or cannot be used.
    """
    artefact = study.artefact(name)
    runs, what, traces, none = read_runs(study, artefact), artefact.knobs["shown"], [], []
    for cell in artefact.cells:
        label = str(artefact.declaration["methods"][cell.row]["label"])
        if runs.without(cell.slugs):
            continue
        curves = [(runs[slug].get("training") or {}).get("curve", []) for slug in cell.slugs]
        if not all(curves) or not cell.specs[0].trains:
            none.append(label)
            continue
        epochs = np.array([step["epoch"] + 1 for step in curves[0]])
        traces.append(Trace(label, epochs, np.array([[step[what] for step in curve] for curve in curves], float)))
    seeds = f"mean of n = {len(artefact.seeds)} seeds; band: from the lowest to the highest" if len(artefact.seeds) > 1 else ""
    seeds = seeds or f"one seed ({artefact.seeds[0]}): no spread is known"
    about = f"{data_names(runs)}, {seeds}. Training images as they are augmented, during the epoch."
    nothing = f"Nothing trains in {', '.join(none)}." if none else ""
    return TrainingFigure(sheet_of(artefact, runs, [about, nothing], traces, nothing), TITLES[what], traces)


@drawing
def draw_training(made: TrainingFigure) -> Figure:
    """A line with a band for each method. Call it, and save the figure, inside ``style()``."""
    figure = frame(made.sheet, 2.1, legend_of([trace.label for trace in made.traces], markersize=3))
    axes = figure.subplots()
    for number, trace in enumerate(made.traces):
        every = max(1, len(trace.epochs) // 8)
        axes.plot(trace.epochs, trace.values.mean(0), linewidth=1.1, markersize=3, markevery=every, **look(number))
        if len(trace.values) > 1:
            ends = trace.values.min(0), trace.values.max(0)
            axes.fill_between(trace.epochs, *ends, color=look(number)["color"], alpha=0.2, linewidth=0)
    axes.xaxis.set_major_locator(plt.MaxNLocator(6, integer=True))
    grid(axes)
    axes.set(xlabel="epoch", ylabel=made.axis)
    return figure


FIGURES.register(
    "training",
    ArtefactKind(
        FIGURE,
        saves(training_figure, draw_training),
        rows="methods",
        value="overall",
        check=no_value(at_most("methods", MOST), "methods"),
        version=2,
    ),
    about="training curves, the mean over seeds with the band that they span",
    knobs=(Knob("shown", "accuracy", "what of each epoch", one_of(*TITLES)), WIDTH),
)

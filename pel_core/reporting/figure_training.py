"""Training curves: what the log says of each epoch, the mean over seeds with the band that they span."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pel_core.common.lazy import plt
from pel_core.common.registry import Knob, one_of
from pel_core.reporting.figure_rows import WIDTH, WIDTHS, at_most, data_names, look, no_result, no_value, say_why
from pel_core.reporting.figure_style import frame, save, style
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

    title: str
    axis: str
    traces: list[Trace]
    width: float
    notes: list[str]
    banner: tuple[str, str]
    why: str = ""


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
    notes = [about, f"Nothing trains in {', '.join(none)}." if none else "", *runs.notes(), artefact.declaration.get("note", "")]
    why = "" if traces else no_result(runs) if runs.blanks else notes[1]
    width = WIDTHS[artefact.knobs["width"]]
    return TrainingFigure(artefact.title, TITLES[what], traces, width, notes, artefact.banner, why)


def draw_training(made: TrainingFigure) -> Figure:
    """A line with a band for each method. Call it, and save the figure, inside ``style()``."""
    handles = [plt.Line2D([], [], linewidth=1.1, markersize=3, **look(i)) for i in range(len(made.traces))]
    legend = list(zip(handles, [trace.label for trace in made.traces], strict=True))
    figure = frame(made.width, 2.1, made.title, made.notes, made.banner, legend)
    axes = figure.subplots()
    if made.why:
        say_why(axes, made.why, made.width - 0.4)
        return figure
    for number, trace in enumerate(made.traces):
        every = max(1, len(trace.epochs) // 8)
        axes.plot(trace.epochs, trace.values.mean(0), linewidth=1.1, markersize=3, markevery=every, **look(number))
        if len(trace.values) > 1:
            ends = trace.values.min(0), trace.values.max(0)
            axes.fill_between(trace.epochs, *ends, color=look(number)["color"], alpha=0.2, linewidth=0)
    axes.xaxis.set_major_locator(plt.MaxNLocator(6, integer=True))
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.set(xlabel="epoch", ylabel=made.axis)
    return figure


def save_training(study: Study, name: str, folder: str | Path) -> None:
    """Draw declared training curves into ``folder`` as pdf, svg and png.

    Raises:
        PelError: a run is missing or cannot be used.
    """
    made = training_figure(study, name)
    with style():
        save(draw_training(made), folder, name)


FIGURES.register(
    "training",
    ArtefactKind(FIGURE, save_training, rows="methods", value="overall", check=no_value(at_most("methods", MOST), "methods")),
    about="training curves, the mean over seeds with the band that they span",
    knobs=(Knob("shown", "accuracy", "what of each epoch", one_of(*TITLES)), WIDTH),
)

"""Bar figures from results: what they show. `figure_bar_layouts` draws them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pel_core.reporting.figure_bar_layouts import draw_bars
from pel_core.reporting.figure_style import save, style
from pel_core.reporting.runs import Runs, read_runs
from pel_core.reporting.tables import Statistic, statistic
from pel_core.spec.records import number
from pel_core.spec.results import METRICS
from pel_core.studies.cells import Artefact
from pel_core.studies.kinds import AXIS, DIGITS, FIGURE, FIGURES, ArtefactKind
from pel_core.studies.study import Study


@dataclass(frozen=True)
class Bar:
    """One bar: where it stands, its value over seeds, the single seeds' values and its learnable parameters
    (None where no run of it says them)."""

    group: int
    series: int
    label: str
    value: Statistic
    seeds: list[float]
    parameters: int | None


@dataclass(frozen=True)
class BarFigure:
    """A bar figure before it is drawn. ``series`` names the bars of a group where there are several."""

    title: str
    axis: str
    bars: list[Bar]
    series: list[str]
    notes: list[str]
    banner: tuple[str, str]
    digits: int


def bar_figure(study: Study, name: str) -> BarFigure:
    """Fill a declared bar figure from results.

    Raises:
        PelError: a run is missing or cannot be used.
    """
    artefact = study.artefact(name)
    runs, entry = read_runs(study, artefact), artefact.declaration
    series = [str(item["label"]) for item in entry.get("series", [])]
    bars = []
    for cell in artefact.cells:
        found = [number(runs[slug], cell.value) for slug in cell.slugs if slug in runs]
        bars.append(
            Bar(
                cell.row,
                cell.column,
                str(entry["bars"][cell.row]["label"]),
                statistic(cell, runs),
                [value for value in found if value is not None],
                next((record["parameters"]["learnable"] for record in runs.described(cell.slugs)), None),
            )
        )
    notes = _notes(entry, artefact.seeds, runs)
    return BarFigure(artefact.title, axis_label(artefact), bars, series, notes, artefact.banner, artefact.knobs["digits"])


def axis_label(artefact: Artefact) -> str:
    """What the values are called: as declared, else the metric's name; "Accuracy (%)" where several are drawn."""
    paths = list(dict.fromkeys(cell.value for cell in artefact.cells))
    labels = [METRICS[path.removeprefix("metrics.")].label for path in paths if path.removeprefix("metrics.") in METRICS]
    if len(paths) > 1 and all(label.endswith("accuracy (%)") for label in labels) and len(labels) == len(paths):
        labels = ["Accuracy (%)"]
    return artefact.knobs["axis"] or (labels[0] if labels else paths[0])


def _notes(entry: Mapping, seeds: Sequence[int], runs: Runs) -> list[str]:
    data = ", ".join(sorted({record["data"]["name"] for record in runs.described()}))
    count = f"Mean, standard deviation and single seeds of {data}, n = {len(seeds)}."
    if len(seeds) == 1:
        count = f"{data}, one seed ({seeds[0]}): no spread is known."
    return [count, *runs.notes(), entry.get("note", "")]


def save_bars(study: Study, name: str, folder: str | Path) -> None:
    """Draw a declared bar figure into ``folder`` as pdf, svg and png.

    Raises:
        PelError: a run is missing or cannot be used.
    """
    made = bar_figure(study, name)
    with style():
        save(draw_bars(made), folder, name)


FIGURES.register(
    "bars",
    ArtefactKind(FIGURE, save_bars, rows="bars", columns="series", compared=True),
    about="bars from zero, and the same values enlarged beside them",
    knobs=(AXIS, DIGITS),
)

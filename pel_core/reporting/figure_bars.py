"""Figures from results: bars from zero, and beside them the same values enlarged, since differences are often below a point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING

import numpy as np

from pel_core.common.lazy import plt
from pel_core.reporting.figure_style import COLOURS, COLUMN, PAGE, footer, mark, save, style
from pel_core.reporting.runs import Runs, read_runs
from pel_core.reporting.tables import Statistic, statistic
from pel_core.spec.results import METRICS, number
from pel_core.studies.cells import Artefact
from pel_core.studies.kinds import AXIS, DIGITS, FIGURE, FIGURES, ArtefactKind
from pel_core.studies.study import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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
    where, its = ("Under each bar", "its") if "series" not in entry else ("In brackets or under the bars", "the")
    return [f"{count} {where}: {its} learnable parameters, the head left out.", *runs.notes(), entry.get("note", "")]


def draw_bars(made: BarFigure) -> Figure:
    """Left: bars on an axis from zero. Right: the same values enlarged, as dots, so that no bar is cut.

    Call it, and save the figure, inside ``style()``.
    """
    groups = max(bar.group for bar in made.bars) + 1
    several = max(1, len(made.series))
    width = min(PAGE, max(COLUMN, (0.42 if groups * several < 5 else 0.55) * groups * several + 2.0))
    figure, (whole, close) = plt.subplots(1, 2, figsize=(width, 2.75), layout="constrained", width_ratios=(1.25, 1))
    for axes in (whole, close):
        _axis(axes, made, groups, several)
    for bar in made.bars:
        _draw_bar(whole, close, bar, several, made.digits)
    whole.set_ylim(0, 1.12 * max((bar.value.mean or 0) + (bar.value.std or 0) for bar in made.bars))
    whole.set_ylabel(made.axis)
    whole.set_title("from zero", loc="left", fontsize=6, color="#444444")
    close.set_title("enlarged, not from zero", loc="left", fontsize=6, color="#444444")
    _pad(close, made)
    close.grid(axis="y", color="#DDDDDD", linewidth=0.5)
    close.set_axisbelow(True)
    # A second, empty line of the title is the legend's.
    figure.suptitle(made.title + ("\n " if made.series else ""), fontsize=8, linespacing=1.5)
    if made.series:
        at = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.945)}
        figure.legend(*_handles(made), fontsize=6, frameon=False, ncols=4, **at).set_in_layout(False)
    footer(figure, [*made.notes, made.banner[1]], int(24.5 * figure.get_figwidth()))
    mark(figure, made.banner[0])
    return figure


def _pad(axes: Axes, made: BarFigure) -> None:
    """Room around the enlarged dots; at least one unit, so that noise is not blown up to look like an effect."""
    ends = [value for bar in made.bars for value in (*bar.seeds, *_ends(bar.value))]
    if ends:
        low, high = min(ends), max(ends)
        extra = max(0.12 * (high - low), (1.0 - (high - low)) / 2, 0.0)
        axes.set_ylim(low - extra, high + extra)


def _ends(value: Statistic) -> list[float]:
    return [] if value.mean is None else [value.mean - (value.std or 0), value.mean + (value.std or 0)]


def _axis(axes: Axes, made: BarFigure, groups: int, several: int) -> None:
    labels = []
    for group in range(groups):
        bars = [bar for bar in made.bars if bar.group == group]
        counts = [] if _counts(made) else dict.fromkeys(f"{bar.parameters:,}" for bar in bars if bar.parameters is not None)
        labels.append("\n".join([*(_short(bars[0].label) if groups > 4 else [bars[0].label]), *counts]))
    axes.set_xticks(range(groups), labels, linespacing=1.3, fontsize=6.2)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.6, groups - 0.4)


def _short(label: str) -> list[str]:
    """A label in lines that fit under a narrow bar."""
    return [line for part in label.split(", ") for line in wrap(part, 9)]


def _draw_bar(whole: Axes, close: Axes, bar: Bar, several: int, digits: int) -> None:
    width = 0.66 / several
    x = bar.group + (bar.series - (several - 1) / 2) * width
    if bar.value.mean is None:
        whole.text(x, 0, bar.value.blank or f"none: {bar.value.reason}", rotation=90, ha="center", va="bottom", fontsize=5)
        return
    colour = COLOURS[(bar.series if several > 1 else bar.group) % len(COLOURS)]
    error = {"ecolor": "#222222", "elinewidth": 0.8, "capsize": 2, "capthick": 0.8}
    whole.bar(x, bar.value.mean, 0.92 * width, color=colour, yerr=bar.value.std, error_kw=error)
    top = bar.value.mean + (bar.value.std or 0)
    whole.text(x, top, f"{bar.value.mean:.{digits}f}", ha="center", va="bottom", fontsize=6 if several < 4 else 4.2)
    close.errorbar(x, bar.value.mean, bar.value.std, fmt="D", color=colour, markersize=3.6, **error)
    if len(bar.seeds) > 1:
        spread = np.linspace(-0.12, 0.12, len(bar.seeds)) * (0.66 + width) / 1.32 + 0.28 * width
        close.plot(x + spread, bar.seeds, "o", color=colour, markersize=1.8, alpha=0.65, markeredgewidth=0)


def _counts(made: BarFigure) -> list[int]:
    """Learnable parameters of each series, where they are the same in every group: the legend says them then."""
    counts: dict[int, set[int]] = {}
    for bar in made.bars:
        if bar.parameters is not None:
            counts.setdefault(bar.series, set()).add(bar.parameters)
    return [min(found) for found in counts.values()] if made.series and all(len(found) == 1 for found in counts.values()) else []


def _handles(made: BarFigure) -> tuple[list, list[str]]:
    squares = [plt.Rectangle((0, 0), 1, 1, color=COLOURS[i % len(COLOURS)]) for i in range(len(made.series))]
    counts = _counts(made)
    return squares, [f"{label} ({counts[i]:,})" if counts else label for i, label in enumerate(made.series)]


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

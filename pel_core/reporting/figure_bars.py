"""Values of methods from results: points with both intervals, or bars from zero. `figure_bar_layouts` draws them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pel_core.common.registry import Knob, one_of
from pel_core.reporting.figure_bar_layouts import draw_bars
from pel_core.reporting.figure_rows import WIDTH, Ends, about_whiskers, axis_label, data_names, ends_of, seeds_of, sheet_of
from pel_core.reporting.figure_sheet import Sheet, room_for, saves
from pel_core.reporting.paired import Rows, value_effect
from pel_core.reporting.runs import Runs, read_runs
from pel_core.reporting.statistics.effects import LEAST_SEEDS
from pel_core.reporting.statistics.values import is_metric
from pel_core.reporting.tables import Statistic, statistic
from pel_core.spec.posthoc import is_ensemble
from pel_core.studies.cells import Cell
from pel_core.studies.kinds import AXIS, DIGITS, FIGURE, FIGURES, ArtefactKind
from pel_core.studies.study import Study

FORM = Knob(
    "form", "points", "points with both intervals, on an axis of the data's range, or bars from zero", one_of("points", "bars")
)
NAMED = 10  # entries without a value that a caption names for each reason


@dataclass(frozen=True)
class Bar:
    """A value: its group and its place in it, its mean over seeds, the ends of both intervals (None of one that has no width or
    is not known), and its learnable parameters (None where no run of it says them)."""

    group: int
    series: int
    label: str
    value: Statistic
    training: Ends
    general: Ends
    parameters: int | None

    @property
    def ends(self) -> list[float]:
        """The mean and the ends of the intervals; none where there is no value."""
        return [] if self.value.mean is None else [self.value.mean, *(self.training or ()), *(self.general or ())]


@dataclass(frozen=True)
class BarFigure:
    """Values before they are drawn. ``series`` names those of a group where there are several."""

    sheet: Sheet
    axis: str
    bars: list[Bar]
    series: list[str]
    digits: int
    form: str = "points"


def bar_figure(study: Study, name: str) -> BarFigure:
    """Fill a declared figure of values from results; its intervals are of the stored predictions.

    Raises:
        PelError: a run is missing or cannot be used.
    """
    artefact = study.artefact(name)
    runs, rows, entry = read_runs(study, artefact), Rows(study.results), artefact.declaration
    bars, reasons, several = [], [], len(artefact.seeds) > 1
    for cell in artefact.cells:
        label, stat = str(entry["bars"][cell.row]["label"]), statistic(cell, runs)
        learnable = next((record["parameters"]["learnable"] for record in runs.described(cell.slugs)), None)
        training, general, why = _intervals(cell, runs, rows) if several and stat.mean is not None else (None, None, [])
        bars.append(Bar(cell.row, cell.column, label, stat, training, general, learnable))
        reasons += why
    names = [str(item["label"]) for item in entry.get("series", [])]
    form, digits = artefact.knobs["form"], artefact.knobs["digits"]
    drawn = [(bar.training, bar.general) for bar in bars]
    count = f"{seeds_of(artefact.seeds)}, {data_names(runs)}"
    alone = "Intervals are of each value alone; whether two differ is tested in pairs (tables, claims)."
    about = [f"{count}. {about_whiskers(artefact.seeds, drawn)} {alone}" if several else f"{count}: no spread is known."]
    about += dict.fromkeys(reasons)
    about += [_axis(bars, digits) if form == "points" else "Bars start at zero."]
    about += ["With each label: learnable parameters, the head left out.", *_gaps(bars, names)]
    shown = [bar for bar in bars if bar.value.mean is not None]
    sheet = sheet_of(artefact, runs, about, shown, "" if shown else f"No value: {bars[0].value.reason}.")
    return BarFigure(sheet, axis_label(artefact), bars, names, digits, form)


def _intervals(cell: Cell, runs: Runs, rows: Rows) -> tuple[Ends, Ends, list[str]]:
    """The ends of both intervals over several seeds, and why one is not there."""
    if not cell.specs[0].seeded:
        one = "an ensemble" if is_ensemble(cell.specs[0]) else "a soup" if cell.specs[0].pooled else ""
        what = f"{one} of all seeds is one value" if one else "nothing in it depends on the seed"
        return None, None, [f"A point without lines: {what}."]
    found = value_effect(cell, runs, rows)
    training, general = ends_of(found)
    why = [] if training or len(found.seeds) < LEAST_SEEDS else [f"No thick line: {found.training.reason}."]
    if not is_metric(cell.value):
        return training, None, [*why, "No thin line: no test image makes this value."]
    return training, general, why if general else [*why, f"No thin line: {found.general.reason}."]


def _axis(bars: Iterable[Bar], digits: int) -> str:
    low, high = (f"{end:.{digits}f}" for end in limits(bars))
    return f"The axis runs from {low} to {high}, chosen to hold what is drawn; it does not start at zero."


def limits(bars: Iterable[Bar]) -> tuple[float, float]:
    """The axis of points: all intervals and a little room, at least one unit."""
    return room_for(end for bar in bars for end in bar.ends)


def _gaps(bars: Sequence[Bar], series: Sequence[str]) -> list[str]:
    """Which entries have no value, once for each reason."""
    gaps: dict[str, list[str]] = {}
    for bar in bars:
        if bar.value.mean is None:
            gaps.setdefault(bar.value.reason, []).append(" ".join([bar.label, *series[bar.series : bar.series + 1]]))
    return [
        f"No value ({reason}): {', '.join(names[:NAMED])}{f' and {len(names) - NAMED} more' if len(names) > NAMED else ''}."
        for reason, names in gaps.items()
    ]


save_bars = saves(bar_figure, draw_bars)

FIGURES.register(
    "bars",
    ArtefactKind(FIGURE, save_bars, rows="bars", columns="series", compared=True, version=2),
    about="a value of each entry: a point with both intervals, or a bar from zero",
    knobs=(FORM, AXIS, DIGITS, WIDTH),
)

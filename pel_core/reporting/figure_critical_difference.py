"""Critical-difference diagram: mean ranks of methods over data sets, and which of them the Nemenyi test does not tell apart.

Source: Demšar (2006), Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 7, 1-30: Friedman's test, then ranks
that differ by q sqrt(k (k + 1) / (6 N)) or more, where q is the studentized range's 95 % point for k methods over the root of 2.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pel_core.common.errors import PelError
from pel_core.data.datasets import split_name
from pel_core.reporting.figure_rows import WIDTH, at_most, axis_label, data_names, seeds_of, sheet_of
from pel_core.reporting.figure_sheet import Sheet, drawing, frame, saves
from pel_core.reporting.figure_text import line_height, text_width, wrapped
from pel_core.reporting.runs import read_runs
from pel_core.reporting.statistics.values import better, is_metric
from pel_core.reporting.tables import statistic
from pel_core.studies.bindings import TEST
from pel_core.studies.kinds import AXIS, FIGURE, FIGURES, ArtefactKind, Declaration
from pel_core.studies.study import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEAST_DATASETS, LEAST_METHODS, MOST = 6, 3, 20
ALPHA = 0.05


@dataclass(frozen=True)
class Ranks:
    """Mean ranks (k,), 1 the best; the critical difference; and the p-value of "all methods are alike"."""

    means: np.ndarray
    critical: float
    p: float


@dataclass(frozen=True)
class CriticalFigure:
    """Ranks before they are drawn, None where there are none: the sheet says why."""

    sheet: Sheet
    labels: list[str]
    ranks: Ranks | None


def ranks_of(values: np.ndarray) -> Ranks:
    """From values (N, k) of k methods on N data sets, of which the highest are the best; methods that tie share a rank."""
    from scipy import stats

    count, methods = values.shape
    means = stats.rankdata(-values, axis=1).mean(0)
    alike = bool((values == values[:, :1]).all())
    p = 1.0 if alike else float(stats.friedmanchisquare(*values.T).pvalue)
    q = float(stats.studentized_range.ppf(1 - ALPHA, methods, math.inf)) / math.sqrt(2)
    return Ranks(means, q * math.sqrt(methods * (methods + 1) / (6 * count)), p)


def cliques(ranks: Ranks) -> list[tuple[float, float]]:
    """First and last rank of each largest set of methods that are not told apart; all of them where Friedman's test says so."""
    found = sorted(ranks.means.tolist())
    if ranks.p >= ALPHA:
        return [(found[0], found[-1])]
    ends = [max(i for i, rank in enumerate(found) if rank - low < ranks.critical) for low in found]
    starts = [i for i in range(len(found)) if ends[i] > i and (i == 0 or ends[i] > ends[i - 1])]
    return [(found[i], found[ends[i]]) for i in starts]


def critical_figure(study: Study, name: str) -> CriticalFigure:
    """Fill a declared critical-difference diagram from results.

    Raises:
        PelError: a run is missing or cannot be used, or the configuration has fewer than six data sets for it.
    """
    artefact = study.artefact(name)
    require_datasets((cell.specs[0].dataset, cell.specs[0].evaluate_on) for cell in artefact.cells)
    runs, entry = read_runs(study, artefact), artefact.declaration
    metric = artefact.cells[0].value.removeprefix("metrics.")
    labels = [str(item["label"]) for item in entry["methods"]]
    values, why = np.zeros((len(entry["datasets"]), len(labels))), ""
    for cell in artefact.cells:
        found = statistic(cell, runs)
        if found.mean is None:
            why = (
                why or f"No ranks: {labels[cell.row]} has no value on {entry['datasets'][cell.column]['label']}: {found.reason}."
            )
            continue
        values[cell.column, cell.row] = round(found.mean, 9) * (1 if better(metric) == "higher" else -1)
    ranks = None if why else ranks_of(values)
    count = f"{seeds_of(artefact.seeds, 'Ranks of means')}; {len(values)} data sets ({data_names(runs)}); {axis_label(artefact)}."
    sheet = sheet_of(artefact, runs, [_told(ranks) if ranks else "", count], True)
    return CriticalFigure(replace(sheet, why=why), labels, ranks)


@drawing
def draw_critical(made: CriticalFigure) -> Figure:
    """An axis of ranks, each method's label led to its place, bars joining those that are not told apart. Call it, and save the
    figure, inside ``style()``."""
    assert made.ranks is not None
    width = made.sheet.width
    side = 0.31 * width  # of the labels at each side, in inches
    order = np.argsort(made.ranks.means, kind="stable")
    half = -(-len(order) // 2)
    labels = [wrapped(f"{made.labels[i]} ({made.ranks.means[i]:.2f})", side - 0.08, 6.2) for i in order]
    joined = cliques(made.ranks)
    pitch, bars = max(map(len, labels)) * line_height(6.2) + 0.04, 0.09 * len(joined) + 0.08
    body = 0.55 + bars + half * pitch
    figure = frame(made.sheet, body)
    axes, height = figure.subplots(), body - 0.05
    axes.set_axis_off()
    axes.set(xticks=[], yticks=[], xlim=(0, width), ylim=(height, 0))  # in inches, as far as the layout leaves them
    _axis(axes, made, side)
    for level, (first, last) in enumerate(joined):
        y = 0.56 + 0.09 * level
        ends = _place(made, side, np.array([first, last])) + np.array([-0.03, 0.03])
        axes.plot(ends, [y, y], color="#222222", linewidth=2.2, solid_capstyle="butt")
    for place, (i, lines) in enumerate(zip(order, labels, strict=True)):
        left = place < half
        y = 0.5 + bars + pitch * (0.5 + (place if left else len(order) - 1 - place))
        x, end = float(_place(made, side, made.ranks.means[i])), side + 0.02 if left else width - side - 0.02
        axes.plot([x, x, end], [0.44, y, y], color="#555555", linewidth=0.6)
        axes.text(end + (-0.04 if left else 0.04), y, "\n".join(lines), ha="right" if left else "left", va="center", fontsize=6.2)
    return figure


def _axis(axes: Axes, made: CriticalFigure, side: float) -> None:
    """The ranks from 1, the best, at the left, and above them the critical difference as a length."""
    assert made.ranks is not None
    count = len(made.labels)
    axes.plot(_place(made, side, np.array([1, count])), [0.44, 0.44], color="#222222", linewidth=0.8)
    for rank in range(1, count + 1):
        x = float(_place(made, side, rank))
        axes.plot([x, x], [0.40, 0.44], color="#222222", linewidth=0.8)
        if count * text_width("00", 6) < made.sheet.width - 2 * side or rank in (1, count):
            axes.text(x, 0.38, str(rank), ha="center", va="bottom", fontsize=6)
    start, end = _place(made, side, np.array([1.0, 1.0 + made.ranks.critical]))
    if end < made.sheet.width - 0.9:
        axes.plot([start, start, start, end, end, end], [0.08, 0.14, 0.11, 0.11, 0.08, 0.14], color="#222222", linewidth=0.8)
        axes.text(end + 0.05, 0.11, f"CD = {made.ranks.critical:.2f}", va="center", fontsize=6)


def _place(made: CriticalFigure, side: float, ranks: float | np.ndarray) -> np.ndarray:
    return side + 0.1 + (np.asarray(ranks, float) - 1) / (len(made.labels) - 1) * (made.sheet.width - 2 * side - 0.2)


def _told(ranks: Ranks) -> str:
    p = f"p = {ranks.p:.3f}" if ranks.p >= 0.001 else "p < 0.001"
    if ranks.p >= ALPHA:
        return f"Mean ranks, 1 is the best. Friedman's test does not tell the methods apart ({p}), so the bar joins all of them."
    return (
        f"Mean ranks, 1 is the best. Friedman's test: {p}. Bars join methods whose ranks differ by less than the critical "
        f"difference {ranks.critical:.2f} (Nemenyi, 5 %)."
    )


def require_datasets(sets: Iterable[tuple[str, str]]) -> None:
    """Refuse fewer than six data sets.

    Args:
        sets: of each column the data set that is trained on, and whose images are evaluated where these are another's (else "").

    Raises:
        PelError: saying why.
    """
    found: dict[str, set[str]] = {}
    for trained, tested in sets:
        base = split_name(trained)[0]
        found.setdefault(base, set()).add(tested or base)
    if (count := _independent(found)) < LEAST_DATASETS:
        named = ", ".join(base if at == base else f"{base} on {at}" for base in sorted(found) for at in sorted(found[base]))
        raise PelError(
            f"a critical-difference diagram needs {LEAST_DATASETS} data sets or more, and there are {count} "
            f"({named}): with fewer the test of ranks has hardly any power, and not the distribution that "
            "it assumes. Long-tailed versions of one data set have the same test images and count once, and so do those that one "
            "training, or one test set, has in common (evaluate_on). Use claims instead"
        )


def _independent(found: Mapping[str, Collection[str]]) -> int:
    """The most columns of which no two share what is trained on or what is tested on: the largest matching (Kuhn 1955) between
    data sets of trainings and those that each is tested on."""
    taken: dict[str, str] = {}

    def place(trained: str, seen: set[str]) -> bool:
        for tested in found[trained]:
            if tested not in seen:
                seen.add(tested)
                if tested not in taken or place(taken[tested], seen):
                    taken[tested] = trained
                    return True
        return False

    return sum(place(trained, set()) for trained in found)


def check_ranks(declaration: Declaration) -> None:
    """Refuse too few data sets or methods, methods on images of their own, and a value that has no good end or is not the same
    everywhere.

    Raises:
        PelError: saying why.
    """
    columns: Sequence[Declaration] = declaration.get("datasets", [])
    shared = declaration.get("where", {})
    if own := [key for item in declaration["methods"] for key in ("dataset", "evaluate_on") if key in item]:
        raise PelError(f"methods: {own[0]}: methods are ranked on the same images; name them in `datasets`, or in `where`")
    laid = [{**shared, **item} for item in columns]
    tested = [str(item.get("evaluate_on", TEST)) for item in laid]
    require_datasets((str(item["dataset"]), at if at != TEST else "") for item, at in zip(laid, tested) if item.get("dataset"))
    at_most("methods", MOST, LEAST_METHODS)(declaration)
    items = (*columns, *declaration["methods"])
    if any("value" in item for item in items):
        raise PelError("value: the ranks are of one value; give it in `where`")
    value = str(declaration.get("where", {}).get("value", "overall"))
    if not is_metric(value) or better(value.removeprefix("metrics.")) == "neither":
        raise PelError(f"value: {value} is no metric of which one end is better, so that there are no ranks")


FIGURES.register(
    "critical-difference",
    ArtefactKind(
        FIGURE,
        saves(critical_figure, draw_critical),
        rows="methods",
        columns="datasets",
        value="overall",
        check=check_ranks,
        version=2,
    ),
    about="mean ranks over six data sets or more, and which methods they do not tell apart",
    knobs=(AXIS, WIDTH),
)

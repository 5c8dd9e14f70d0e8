"""What a column of a table may mark: the best, rows that are not separable from it, and rows above or below a baseline.

Tests are of paired contrasts by the general interval, corrected by Holm (1979), Scandinavian Journal of Statistics 6(2), 65-70,
over the column's rows, once for the best and once for the baseline.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pel_core.reporting.statistics.effects import Effect, difference, value_of
from pel_core.reporting.statistics.intervals import LEVEL
from pel_core.reporting.statistics.power import detectable
from pel_core.reporting.statistics.resample import draw_values
from pel_core.reporting.statistics.runs import Row
from pel_core.reporting.statistics.values import better, is_linear, metric_name

Arrow = Literal["", "above", "below"]


@dataclass(frozen=True)
class Comparison:
    """A row against another: ``effect`` is this row minus that one, ``p`` as it is and ``adjusted`` by Holm (None: no width)."""

    effect: Effect
    p: float | None
    adjusted: float | None

    @property
    def separable(self) -> bool:
        """Whether the two can be told apart at 5 %."""
        return self.adjusted is not None and self.adjusted <= LEVEL


@dataclass(frozen=True)
class Marked:
    """A row of a column.

    Args:
        value: with both intervals; None for a row without runs.
        best: whether it is (among) the best of the column; bold.
        like_best: whether it is not separable from the best, being another row; underlined.
        arrow: separably above or below the baseline as a number, whichever end is good.
        to_best, to_baseline: the comparisons.
    """

    value: Effect | None
    best: bool = False
    like_best: bool = False
    arrow: Arrow = ""
    to_best: Comparison | None = None
    to_baseline: Comparison | None = None


@dataclass(frozen=True)
class Column:
    """A column with its marks.

    Args:
        metric: its name.
        rows: in the order that was given.
        reason: why nothing is marked; empty where marks are there.
        detectable: the smallest difference in points that so many seeds and images show with 80 % power, the middle one of the
            column's contrasts; None where it is not known (one seed).
        seeds: the fewest of a contrast; 0 where all rows are deterministic.
        images: of the test set that take part.
        family: how many comparisons Holm corrects for: with the best, with the baseline.
        apart: rows that were compared with none, being on other test images.
    """

    metric: str
    rows: tuple[Marked, ...]
    reason: str
    detectable: float | None
    seeds: int
    images: int
    family: tuple[int, int]
    apart: tuple[int, ...] = ()


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Holm's adjusted p-values; None stays and is no part of the family."""
    adjusted: list[float | None] = [None] * len(p)
    order = sorted((i for i, value in enumerate(p) if value is not None), key=lambda i: p[i])  # type: ignore[arg-type,return-value]
    largest = 0.0
    for place, i in enumerate(order):
        largest = max(largest, min((len(order) - place) * p[i], 1.0))  # type: ignore[operator]
        adjusted[i] = largest
    return adjusted


def table(rows: Sequence[Sequence[Row | None]], metrics: Sequence[str], baseline: int | None = None) -> list[Column]:
    """The columns of a table.

    Args:
        rows: for each row of the table its cells' runs, one for each column; None where there are none.
        metrics: of each column.
        baseline: which row the arrows compare with.

    Raises:
        PelError: as `column`.
    """
    wanted: dict[int, tuple[Row, list[str]]] = {}
    for cells in rows:
        for row, metric in zip(cells, metrics, strict=True):
            if row is not None and not is_linear(metric_name(metric)):
                wanted.setdefault(id(row.runs[0]), (row, []))[1].append(metric_name(metric))
    by_images = sorted(wanted.values(), key=lambda entry: entry[0].images.digest)
    for row, names in by_images:  # all metrics of a run at once, while the draws of its test set are in memory
        for run in row.runs:
            draw_values(run, names)
    return [column([cells[j] for cells in rows], metric, baseline) for j, metric in enumerate(metrics)]


def column(rows: Sequence[Row | None], metric: str, baseline: int | None = None) -> Column:
    """Compare the rows of a column with the best of them, and with a baseline.

    Raises:
        PelError: two rows of one data set have different test images.
    """
    name = metric_name(metric)
    values = [None if row is None else value_of(row, name) for row in rows]
    there = [i for i, value in enumerate(values) if value is not None and value.mean is not None]
    seeds = min((len(values[i].seeds) for i in there if not values[i].deterministic), default=0)  # type: ignore[union-attr]
    images = max((values[i].images for i in there), default=0)  # type: ignore[union-attr]

    def unmarked(reason: str) -> Column:
        return Column(name, tuple(map(Marked, values)), reason, None, seeds, images, (0, 0))

    if len(there) < 2:
        return unmarked("there is nothing to compare")
    if len({(rows[i].images.dataset, rows[i].images.split) for i in there}) > 1:  # type: ignore[union-attr]
        return unmarked("the rows are on different test sets")
    goal = better(name)
    sign = -1 if goal == "lower" else 1
    means = {i: sign * values[i].mean for i in there}  # type: ignore[union-attr,operator]
    first = max(there, key=lambda i: (means[i], -i))
    to_best = _compare(rows, there, first, name)
    to_baseline = _compare(rows, there, baseline, name) if baseline in there else {}
    compared = [each.effect for each in (*to_best.values(), *to_baseline.values())]
    sizes = [size for effect in compared if (size := detectable(effect.parts)) is not None]
    few = next((effect.undecidable for effect in compared if "at least three" in effect.undecidable), "")
    # A row without a p-value would be plain, which claims that it was told from the best.
    blind = next((each.effect.undecidable for each in to_best.values() if each.p is None), "")
    reason = few or blind or ("neither end of this value is better" if goal == "neither" else "")
    marked = []
    for i, value in enumerate(values):
        best, base = to_best.get(i), to_baseline.get(i)
        tie = i in means and abs(means[i] - means[first]) < 1e-9
        like = best is not None and not tie and best.adjusted is not None and not best.separable
        above: Arrow = "" if base is None or not base.separable else "above" if base.effect.mean > 0 else "below"  # type: ignore[operator]
        shown = (False, False, "") if reason else (tie, like, above)
        marked.append(Marked(value, *shown, best, base))  # type: ignore[arg-type]
    middle = statistics.median(sizes) if sizes else None
    family = tuple(sum(each.p is not None for each in group.values()) for group in (to_best, to_baseline))
    return Column(name, tuple(marked), reason, middle, seeds, images, family)  # type: ignore[arg-type]


def _compare(rows: Sequence[Row | None], there: Sequence[int], other: int, metric: str) -> dict[int, Comparison]:
    """Every other row minus row ``other``. Rows that no image tells apart have p = 1, also where there is no width."""
    effects = {i: difference(rows[i], rows[other], metric) for i in there if i != other}  # type: ignore[arg-type]
    p = [1.0 if effect.p is None and effect.mean == 0 else effect.p for effect in effects.values()]
    adjusted = holm(p)
    return {i: Comparison(effects[i], *both) for i, both in zip(effects, zip(p, adjusted, strict=True), strict=True)}

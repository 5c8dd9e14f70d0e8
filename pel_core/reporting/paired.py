"""From cells of a study to effects: their runs are read image by image, and what cannot be says why.

The general interval (another run, other test images) needs the stored predictions of every run. Where a file of them is missing
or damaged there is none, and the reason names the file and the command that makes it again; nothing else stands in for it.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pel_core.common.errors import PelError
from pel_core.reporting.runs import Runs
from pel_core.reporting.statistics.effects import Effect, contrast, value_of
from pel_core.reporting.statistics.intervals import Interval, Variances, general, training
from pel_core.reporting.statistics.reading import Disagreement, Reader
from pel_core.reporting.statistics.runs import Row, require_same_images
from pel_core.reporting.statistics.values import is_metric
from pel_core.spec.posthoc import is_ensemble
from pel_core.spec.records import number, why_none
from pel_core.spec.run_spec import RunSpec
from pel_core.studies.cells import Cell, Contrast

NO_IMAGES = "no value of the test images: its general interval is over seeds alone"
HELD = "{} is one value, of several seeds, and is held fixed: the interval is over the seeds of the other runs alone"
SAME = "the value is the same at every seed, which says nothing of its spread"


class Rows:
    """Rows of a results folder by their cells, each run read once."""

    def __init__(self, results: Path):
        self.reader = Reader(results)

    def row(self, cell: Cell) -> Row | str:
        """A cell's runs, or why their predictions cannot be read.

        Raises:
            PelError: they are of different test images, or those of a run do not give its recorded accuracy.
        """
        specs = cell.specs if cell.specs[0].seeded else cell.specs[:1]
        try:
            for spec in specs:
                self.reader.run(spec)
        except Disagreement:
            raise
        except PelError as error:
            return str(error)
        return self.reader.row(f"{cell.method} on {cell.tested}", cell.specs)


def contrast_effect(part: Contrast, runs: Runs, rows: Rows) -> Effect:
    """A contrast of a claim with both intervals, or the reason why it has none.

    Raises:
        PelError: two runs of a pair have different test images.
    """
    slugs = list(dict.fromkeys(slug for pair in (*part.pairs, *part.minus) for cell in pair for slug in cell.slugs))
    if blank := runs.without(slugs):  # what is left would be of the survivors alone
        return nothing(part.value, f"runs without a result: {blank}")
    if not part.pairs:
        return nothing(part.value, "there is nothing to compare")
    if not is_metric(part.pairs[0][0].value):
        return _of_results(part, runs, "")
    pairs, minus = ([tuple(rows.row(cell) for cell in pair) for pair in group] for group in (part.pairs, part.minus))
    if unread := next((row for pair in (*pairs, *minus) for row in pair if isinstance(row, str)), ""):
        return _of_results(part, runs, unread)
    for a, b in (*pairs, *minus):
        require_same_images(a.runs[0], b.runs[0])
    try:
        return contrast(pairs, part.pairs[0][0].value, minus)  # type: ignore[arg-type]
    except PelError as error:  # of metrics that read confidences as well
        return _of_results(part, runs, str(error))


def value_effect(cell: Cell, runs: Runs, rows: Rows) -> Effect:
    """A cell's value with both intervals, or the reason why it has none; without the general one where no prediction is read."""
    if blank := runs.without(cell.slugs):
        return nothing(cell.value, blank)
    unread = ""
    if is_metric(cell.value):
        row = rows.row(cell)
        try:
            if isinstance(row, Row):
                return value_of(row, cell.value)
            unread = row
        except PelError as error:  # a metric that reads confidences as well
            unread = str(error)
    found = [(spec.seed, number(runs[spec.slug], cell.value)) for spec in cell.specs]
    known = [(seed, value) for seed, value in found if value is not None]
    if not known:
        return nothing(cell.value, why_none(runs[cell.slugs[0]], cell.value))
    return _by_seed(cell.value, [value for _, value in known], tuple(seed for seed, _ in known), unread)


def nothing(metric: str, reason: str) -> Effect:
    """An effect that was not measured."""
    empty = Interval(None, None, reason=reason)
    return Effect(metric, None, None, (), (), 0, False, empty, empty, reason=reason)


def _of_results(part: Contrast, runs: Runs, unread: str) -> Effect:
    """The effect by the values in metrics.json, one per seed.

    Args:
        unread: why there are no predictions, and so no general interval; empty for a value that does not come from test images.
    """
    found: list[float] = []
    longest = max((cell for pair in (*part.pairs, *part.minus) for cell in pair), key=lambda cell: len(cell.specs))
    for index in range(len(longest.specs)):  # of a soup of seeds there is one, which stands beside each of the other side
        sides = []
        for group in (part.pairs, part.minus):
            values = [[number(runs[_at(cell, index)], cell.value) for cell in pair] for pair in group]
            for pair, cells in zip(values, group, strict=True):
                for value, cell in zip(pair, cells, strict=True):
                    if value is None:
                        why = why_none(runs[_at(cell, index)], cell.value)
                        return nothing(part.value, f"{cell.method} on {cell.tested}: {why}")
            sides.append(statistics.fmean(a - b for a, b in values) if values else 0.0)  # type: ignore[operator]
        found.append(sides[0] - sides[1])
    seeds = tuple(spec.seed for spec in longest.specs)
    cells = [cell for pair in (*part.pairs, *part.minus) for cell in pair]
    held = {f"{cell.method} on {cell.tested}": None for cell in cells if len(seeds) > 1 and is_one_value(cell.specs[0])}
    effect = _by_seed(part.value, found, seeds, unread)
    return replace(effect, notes=(*effect.notes, *(HELD.format(name) for name in held)))


def is_one_value(spec: RunSpec) -> bool:
    """Whether a run is made of several seeds, so that other seeds would make another: a soup of them, or an ensemble."""
    return spec.pooled or is_ensemble(spec)


def _at(cell: Cell, index: int) -> str:
    return cell.slugs[min(index, len(cell.slugs) - 1)]


def _by_seed(metric: str, values: Sequence[float], seeds: tuple[int, ...], unread: str) -> Effect:
    mean = statistics.fmean(values)
    v = statistics.variance(values) if len(values) > 1 else None
    if v is not None and v <= 1e-18 * max(mean**2, 1.0):  # rounding
        v = 0.0
    reason = unread or (SAME if v == 0 else "")
    spread = Variances(len(values), 0, False, v, None if reason else 0.0, 0.0, 1, reason)
    sd = None if v is None else math.sqrt(v)
    intervals = training(mean, [spread]), general(mean, [spread])
    notes = () if unread else (NO_IMAGES,)
    return Effect(metric, mean, sd, tuple(values), seeds, 0, False, *intervals, parts=(spread,), notes=notes)

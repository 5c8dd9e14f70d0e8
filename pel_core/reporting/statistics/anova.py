"""The test of an effect with several degrees of freedom by the variance of seeds x images, and its share of the variation.

For orthogonal contrasts e_1..e_q of cell means, each of unit length, with S seeds on one test set:

    F = mean of e_j^2 / (mean of v_j / S + mean of cov_j)
    df = q and (v + S cov)^2 / (v^2 / (q (S - 1)))      with v, cov the means over j

which is Obuchowski and Rockette's (1995) F for several treatments with Hillis's (2007) degrees of freedom; for q = 1 it is the
square of the t of the general interval, and where no variance comes from images it is the F of a repeated-measures analysis of
variance with seeds as subjects. One F takes the contrasts to vary alike over seeds (sphericity). Where the cells are on several
test sets, each set's variances add, and df is Satterthwaite's.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np

from pel_core.reporting.statistics.effects import Effect
from pel_core.reporting.statistics.intervals import Variances


@dataclass(frozen=True)
class FTest:
    """An effect's test; ``f``, ``df_error`` and ``p`` are None where ``reason`` says why."""

    df: int
    sum_of_squares: float | None  # of the contrasts of cell means, in squared points
    f: float | None = None
    df_error: float | None = None
    p: float | None = None
    noise: float | None = None  # the sum of squares that seeds and images alone would make
    reason: str = ""


@dataclass
class _OnSet:
    """What an effect's contrasts, each of unit length over all cells, have on one test set: sums over the contrasts."""

    v: float = 0.0
    within: float = 0.0
    cov: float = 0.0
    rows: list[np.ndarray] = field(default_factory=list)  # their weights there
    last: Variances | None = None

    def add(self, part: Variances, row: np.ndarray, square: float) -> None:
        """Add a contrast that was measured with weights whose squares sum to ``square``."""
        self.v += (part.v or 0.0) / square
        self.within += (part.within if part.v is not None else 0.0) / square
        self.cov += (part.cov or 0.0) / square
        self.rows.append(row / math.sqrt(square))
        self.last = part

    def variance(self, q: int) -> tuple[float, float]:
        """Its share of the variance of a mean over seeds, averaged over ``q`` contrasts; and that share's square over its degrees
        of freedom, which are (S - 1) times those of the contrasts here: q, or fewer where here they are multiples of each
        other."""
        assert self.last
        seeds, images = max(self.v, self.within) / q / self.last.seeds, self.cov / q
        if not seeds:
            return images, images**2 / self.last.df_images
        gram = np.stack(self.rows) @ np.stack(self.rows).T
        rank = float(np.trace(gram) ** 2 / (gram**2).sum())
        return seeds + images, seeds**2 / (rank * (self.last.seeds - 1))


def f_test(effects: Sequence[Effect], weights: Sequence[np.ndarray], sets: Sequence[Hashable]) -> FTest:
    """Test that all of some orthogonal contrasts are nothing.

    Args:
        effects: the contrasts as measured.
        weights: of each contrast the cells' weights, float (cells,).
        sets: of each cell its test set.
    """
    q = len(effects)
    if reason := next((effect.reason for effect in effects if effect.reason), ""):
        return FTest(q, None, reason=reason)
    lengths = [float(row @ row) for row in weights]
    squares = float(sum(effect.mean**2 / length for effect, length in zip(effects, lengths, strict=True)))  # type: ignore[operator]
    found: dict[Hashable, _OnSet] = {}
    for effect, row, length in zip(effects, weights, lengths, strict=True):
        there = dict.fromkeys(one for one, weight in zip(sets, row, strict=True) if weight)
        for one, part in zip(there, effect.parts, strict=True):
            if part.cov is None:
                return FTest(q, squares, reason=part.reason)
            here = np.where([other == one for other in sets], row, 0.0)
            found.setdefault(one, _OnSet()).add(part, here, length)
    shares = [each.variance(q) for each in found.values()]
    error, lower = (sum(each) for each in zip(*shares, strict=True))
    if error <= 0:
        return FTest(q, squares, reason="nothing differs between seeds or images, so there is no width to estimate")
    f, df = squares / q / error, error**2 / lower if lower else math.inf
    return FTest(q, squares, f, df, _beyond(f, q, df), q * error)


def _beyond(f: float, df: int, df_error: float) -> float:
    """P(F >= f)."""
    from scipy import special

    return float(special.fdtrc(df, df_error, f) if math.isfinite(df_error) else special.chdtrc(df, df * f))

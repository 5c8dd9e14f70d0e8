"""Intervals from variances: seeds x images, several data sets, one published cell. Points are percent; variances squared points.

Readers and cases of diagnostic radiology are seeds and images here. Sources: Obuchowski and Rockette (1995), Communications in
Statistics - Simulation and Computation 24(2), 285-308, for the model; Hillis (2007), Statistics in Medicine 26(3), 596-619, for
the degrees of freedom; Satterthwaite (1946), Biometrics Bulletin 2(6), 110-114, for sums of variances.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

LEVEL = 0.05  # two-sided; intervals are of 95 %
Side = Literal["two-sided", "greater", "less"]


@dataclass(frozen=True)
class Interval:
    """An estimate with its standard error, or the ``reason`` why it has none: ``se`` is None then, and ``mean`` is None where
    there is no value either.

    ``df`` may be infinite. ``floor`` and ``ceiling`` bound ``low`` and ``high`` where the value is a percentage.
    """

    mean: float | None
    se: float | None
    df: float = math.inf
    reason: str = ""
    floor: float = -math.inf
    ceiling: float = math.inf

    @property
    def half(self) -> float | None:
        """Half of the width."""
        return None if self.se is None else quantile(1 - LEVEL / 2, self.df) * self.se

    @property
    def low(self) -> float | None:
        """The lower end."""
        return None if self.half is None or self.mean is None else max(self.mean - self.half, self.floor)

    @property
    def high(self) -> float | None:
        """The upper end."""
        return None if self.half is None or self.mean is None else min(self.mean + self.half, self.ceiling)

    def p(self, null: float = 0.0, side: Side = "two-sided") -> float | None:
        """p-value of the hypothesis that the true value is ``null``; with a side: that it is not greater (less) than that."""
        if self.se is None or self.mean is None:
            return None
        t = (self.mean - null) / self.se
        if side == "two-sided":
            return 2 * below(-abs(t), self.df)
        return below(-t if side == "greater" else t, self.df)


@dataclass(frozen=True)
class Variances:
    """What a contrast's variance on one test set is made of, in squared points.

    Args:
        seeds: how many; 1 also where nothing depends on the seed.
        images: of the test set that take part.
        deterministic: nothing depends on the seed.
        v: sample variance over seeds; None for one seed.
        cov: what all seeds share of the images' variance; for one seed all of it. None: not known, see ``reason``.
        within: what each seed has of it for itself; ``v`` cannot be expected to be smaller.
        df_images: images less strata.
    """

    seeds: int
    images: int
    deterministic: bool
    v: float | None
    cov: float | None
    within: float
    df_images: int
    reason: str = ""

    @property
    def v_used(self) -> float:
        """``v``, at least ``within``: 0 for one seed. The expectation of ``v`` is the seeds' own variance plus ``within``, so a
        smaller one is chance (three runs that are wrong on equally many images, but on others)."""
        return 0.0 if self.v is None else max(self.v, self.within)

    @property
    def seed(self) -> float:
        """What remains of ``v`` with endless test images: the seeds' own variance."""
        return max((self.v or 0.0) - self.within, 0.0)

    @property
    def total(self) -> float | None:
        """Variance of the mean over seeds: v / S + cov."""
        return None if self.cov is None else self.v_used / self.seeds + self.cov


def general(mean: float, parts: Sequence[Variances]) -> Interval:
    """Another run, other test images: mean ± t_df sqrt(v / S + cov), df = (v + S cov)^2 / (v^2 / (S - 1)).

    ``v`` is `Variances.v_used`. Several test sets are fixed, not sampled: the variances of their contributions to the mean add,
    and df is Satterthwaite's, (sum of variances)^2 / sum of (v / S)^2 / (S - 1); on one test set that is the same. Where there is
    no v (one seed, nothing that depends on it, seeds that say the same of every image), df is that of the images.
    """
    for part in parts:
        if part.total is None:
            return Interval(mean, None, reason=part.reason)
    total = sum(part.total or 0.0 for part in parts)
    lower = 0.0
    for part in parts:
        if part.v_used:
            lower += (part.v_used / part.seeds) ** 2 / (part.seeds - 1)
        else:
            lower += (part.cov or 0.0) ** 2 / part.df_images
    if total <= 0:
        return Interval(mean, None, reason="nothing differs between seeds or images, so there is no width to estimate")
    return Interval(mean, math.sqrt(total), total**2 / lower if lower else math.inf)


def training(mean: float, parts: Sequence[Variances]) -> Interval:
    """Another run, this test set: Student's t over seeds, on one test set the paired t test."""
    total = lower = 0.0
    for part in parts:
        if part.v is None and not part.deterministic:
            return Interval(mean, None, reason="one seed: a repetition was not measured")
        variance = (part.v or 0.0) / part.seeds
        total += variance
        lower += variance**2 / max(part.seeds - 1, 1)
    if all(part.deterministic for part in parts):
        return Interval(mean, None, reason="nothing in it depends on the seed")
    if total == 0:
        return Interval(mean, None, reason="the value is the same at every seed, which says nothing of its spread")
    return Interval(mean, math.sqrt(total), total**2 / lower)


def prediction(values: Sequence[float]) -> Interval:
    """Where one more run on the same test set is expected, for one published number: mean ± t_{S-1} s sqrt(1 + 1 / S).

    It has a reason instead of a width for fewer than two values, or values without spread.
    """
    count = len(values)
    if not count:
        return Interval(None, None, reason="there is no value")
    mean = math.fsum(values) / count
    if count < 2:
        return Interval(mean, None, reason="one seed: a repetition was not measured")
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    if variance <= 1e-18 * max(mean**2, 1.0):
        return Interval(mean, None, reason="the value is the same at every seed, which says nothing of its spread")
    return Interval(mean, math.sqrt(variance * (1 + 1 / count)), count - 1)


def quantile(p: float, df: float) -> float:
    """Of Student's t; of the normal distribution for infinite df."""
    from scipy import special

    return float(special.stdtrit(df, p) if math.isfinite(df) else special.ndtri(p))


def below(t: float, df: float) -> float:
    """P(T <= t) of Student's t; of the normal distribution for infinite df."""
    from scipy import special

    return float(special.stdtr(df, t) if math.isfinite(df) else special.ndtr(t))

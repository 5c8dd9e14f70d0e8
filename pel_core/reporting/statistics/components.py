"""Variance components: how much of a single run's spread is its training subset, its seed, and the test images.

Every subset is trained with every seed and every run is asked the same images: a crossed design of three random factors with one
observation a cell, a "G study" of generalizability theory. Estimates are those of the analysis of variance. Sources: Brennan
(2001), Generalizability Theory, chapter 3; Searle, Casella and McCulloch (1992), Variance Components, chapter 4; Satterthwaite
(1946), Biometrics Bulletin 2(6), 110-114, for degrees of freedom.
Shapes: A subsets, S seeds, N images.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pel_core.common.errors import PelError
from pel_core.reporting.statistics.intervals import LEVEL

# What a source is made of: the squared standard deviations of one run's accuracy that they add up to.
SOURCES = ("subset", "seed", "subset x seed", "test images")
POINTS = 100.0


@dataclass(frozen=True)
class Component:
    """One source's part of the variance of a single run's accuracy.

    Args:
        estimate: squared points; unbiased, so that chance can bring it below zero.
        df: degrees of freedom of the estimate (Satterthwaite); small ones say that it is hardly known.
    """

    source: str
    estimate: float
    df: float

    @property
    def variance(self) -> float:
        """The estimate; zero where it is below."""
        return max(self.estimate, 0.0)

    @property
    def sd(self) -> float:
        """Points."""
        return math.sqrt(self.variance)

    @property
    def interval(self) -> tuple[float, float] | None:
        """Of the standard deviation, 95 %, by the chi-squared distribution; None where the estimate is zero, or has less than one
        degree of freedom: it is lost in the noise of the others then, and the approximation gives any number."""
        from scipy import stats

        if not self.variance or self.df < 1:
            return None
        high, low = stats.chi2.ppf([LEVEL / 2, 1 - LEVEL / 2], self.df)
        return math.sqrt(self.df * self.variance / low), math.sqrt(self.df * self.variance / high)


@dataclass(frozen=True)
class Components:
    """The components of one accuracy. ``mean`` in percent; ``shape`` is (A, S, N)."""

    mean: float
    shape: tuple[int, int, int]
    parts: Mapping[str, Component]

    @property
    def variance(self) -> float:
        """Of one run's accuracy: another subset, another seed, other test images. Squared points."""
        return math.fsum(part.variance for part in self.parts.values())

    def share(self, source: str) -> float | None:
        """A source's share of the variance, from 0 to 1; None where nothing varies."""
        return self.parts[source].variance / self.variance if self.variance else None


def components(correct: np.ndarray, classes: np.ndarray | None = None) -> Components:
    """Variance components of the accuracy of a single run.

    Args:
        correct: bool (A, S, N), whether the run of a subset and a seed is right about an image.
        classes: int (N,), the images' classes: other test images are other images of these. None: all of one class.

    Raises:
        PelError: fewer than two subsets, seeds or images of a class.
    """
    a, s, n = correct.shape
    classes = np.zeros(n, int) if classes is None else np.unique(classes, return_inverse=True)[1]
    if min(a, s, *np.bincount(classes, minlength=1)) < 2:
        least = min(np.bincount(classes, minlength=1))
        raise PelError(
            f"variance components need two subsets, two seeds and two test images of each class; there are {a}, {s} and {least}"
        )
    squares, df = _mean_squares(correct, classes)
    # What a run's accuracy on N images gains in variance from each: a combination of mean squares.
    combined = {
        "subset": {"a": 1 / (s * n), "as": -1 / (s * n), "ai": -1 / (s * n), "asi": 1 / (s * n)},
        "seed": {"s": 1 / (a * n), "as": -1 / (a * n), "si": -1 / (a * n), "asi": 1 / (a * n)},
        "subset x seed": {"as": 1 / n, "asi": -1 / n},
        "test images": {
            "i": 1 / (a * s * n),
            "ai": (1 / s - 1 / (a * s)) / n,
            "si": (1 / a - 1 / (a * s)) / n,
            "asi": (1 - 1 / a - 1 / s + 1 / (a * s)) / n,
        },
    }
    parts = {source: _component(source, combined[source], squares, df) for source in SOURCES}
    return Components(POINTS * float(correct.mean()), (a, s, n), parts)


def _component(source: str, weights: Mapping[str, float], squares: Mapping[str, float], df: Mapping[str, int]) -> Component:
    terms = {name: weight * squares[name] for name, weight in weights.items()}
    value = math.fsum(terms.values())
    spread = math.fsum(term**2 / df[name] for name, term in terms.items())
    freedom = value**2 / spread if spread else math.inf
    return Component(source, 0.0 if abs(value) <= 1e-15 else POINTS**2 * value, freedom)  # else rounding


def _mean_squares(correct: np.ndarray, classes: np.ndarray) -> tuple[dict[str, float], dict[str, int]]:
    """Mean squares of subsets a, seeds s, images i within classes and their interactions, and their degrees of freedom."""
    a, s, n = correct.shape
    run = correct.mean(2)
    about = run - run.mean()
    rows, columns = about.mean(1), about.mean(0)
    sums = {"a": s * n * (rows**2).sum(), "s": a * n * (columns**2).sum()}
    sums["as"] = n * ((about - rows[:, None] - columns) ** 2).sum()
    # Of each run what an image is above or below the mean of its class there.
    of_class = np.eye(int(classes.max()) + 1)[classes] / np.bincount(classes)
    within = correct - (correct @ of_class)[:, :, classes]
    sums["i"] = a * s * (within.mean((0, 1)) ** 2).sum()
    sums["ai"] = s * (within.mean(1) ** 2).sum() - sums["i"]
    sums["si"] = a * (within.mean(0) ** 2).sum() - sums["i"]
    sums["asi"] = (within**2).sum() - sums["ai"] - sums["si"] - sums["i"]
    of = {"a": a - 1, "s": s - 1, "i": n - int(classes.max()) - 1}
    df = {name: math.prod(of[letter] for letter in name) for name in sums}
    return {name: max(float(value), 0.0) / df[name] for name, value in sums.items()}, df

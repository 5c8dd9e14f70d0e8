"""What a study can show: power, the smallest detectable difference, seeds or images that would decide. Points are percent.

With other numbers of seeds and images than those of a measured effect, the seeds' own variance stays as it is, and the images' is
inversely as their number (`Variances`). Power is of the two-sided test at 5 %, with Student's noncentral t. Source: Hillis,
Obuchowski and Berbaum (2011), Academic Radiology 18(2), 129-142.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pel_core.reporting.statistics.effects import LEAST_SEEDS, Effect
from pel_core.reporting.statistics.intervals import LEVEL, Variances, general, quantile

POWER = 0.8
MOST_SEEDS = 1000  # more count as no number of seeds
LARGE = 300  # degrees of freedom from which t is normal


@dataclass(frozen=True)
class Needed:
    """What would decide: ``seeds`` with the images there are, else ``images`` at ``images_seeds`` seeds; in words ``text``."""

    seeds: int | None
    images: int | None
    images_seeds: int | None
    text: str


def power(size: float, se: float, df: float) -> float:
    """Probability that an effect of ``size`` is told from 0 by the two-sided test at 5 %."""
    from scipy import special

    critical, shift = quantile(1 - LEVEL / 2, df if df <= LARGE else math.inf), abs(size) / se
    if df > LARGE:
        return float(special.ndtr(shift - critical) + special.ndtr(-shift - critical))
    if shift > 30 + critical:
        return 1.0
    other_side = special.nctdtr(df, shift, -critical) if shift < 5 else 0.0  # of SciPy it can be NaN where it is nothing
    return float(1 - special.nctdtr(df, shift, critical) + other_side)


def smallest(se: float, df: float, wanted: float = POWER) -> float:
    """The smallest effect in points that is told from 0 with the wanted power."""
    low, high = 0.0, 1.0
    while power(high * se, se, df) < wanted and high < 1e6:
        low, high = high, 2 * high
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if power(middle * se, se, df) < wanted else (low, middle)
    return high * se


def assumed(images: int, seed_sd: float, disagreement: float, shared: float = 0.5) -> Variances:
    """The variances of a paired difference of accuracies before any run, from assumptions that the caller has to state.

    Args:
        images: of the test set, or of the group; of a mean over classes of unequal size the effective number.
        seed_sd: how much the difference would vary between seeds on endless test images, a standard deviation in points.
        disagreement: share of the images (0..1) on which one of two runs is right and the other wrong.
        shared: how much of the images' variance all seeds have in common (0..1).
    """
    single = 100.0**2 * disagreement / images
    within = (1 - shared) * single
    return Variances(2, images, False, seed_sd**2 + within, shared * single, within, images - 1)


def at(parts: Sequence[Variances], seeds: int | None = None, more: float = 1.0) -> list[Variances]:
    """The variances expected with another number of seeds, and ``more`` times the images."""
    changed = []
    for part in parts:
        within, cov = part.within / more, None if part.cov is None else part.cov / more
        count = part.seeds if part.deterministic or seeds is None else seeds
        v = None if part.deterministic or part.v is None or count < 2 else part.seed + within
        images, df = max(round(part.images * more), 1), max(round(part.df_images * more), 1)
        changed.append(replace(part, seeds=count, v=v, cov=cov, within=within, images=images, df_images=df))
    return changed


def detectable(parts: Sequence[Variances], seeds: int | None = None, more: float = 1.0) -> float | None:
    """The smallest difference in points that is shown with 80 % power; None where a variance is not known.

    Args:
        parts: `Effect.parts` of an effect like it, or of `assumed`.
        seeds: another number than the effect's.
        more: times the images.
    """
    if not parts or any(part.cov is None or (part.v is None and not part.deterministic) for part in parts):
        return None
    found = general(0.0, at(parts, seeds, more))
    return None if found.se is None else smallest(found.se, found.df)


def needed(effect: Effect, size: float | None = None) -> Needed:
    """Seeds, else images, for 80 % power.

    Args:
        effect: as measured.
        size: distance to tell from nothing, in points: from the observed effect to the margin; without one the effect itself.
    """
    size = abs((effect.mean or 0.0) if size is None else size)
    parts = effect.parts
    if effect.reason or any(part.cov is None for part in parts):
        return Needed(None, None, None, effect.reason or effect.general.reason)
    if any(part.v is None and not part.deterministic for part in parts):
        return Needed(LEAST_SEEDS, None, None, "one seed does not tell how runs differ; at least three")
    if size <= 0:
        return Needed(None, None, None, "the observed effect lies on the boundary: no number of seeds decides this")
    if not effect.deterministic and (seeds := _seeds(parts, size)):
        return Needed(seeds, None, None, f"{seeds} seeds would decide a difference of {size:.2g} with 80 % power")
    present = LEAST_SEEDS if effect.deterministic else max(LEAST_SEEDS, len(effect.seeds))
    for count in (present, *(more for more in (5, 10, 20, 50, 100, MOST_SEEDS) if more > present)):
        if images := _images(parts, size, count):
            word = "about {:,} images".format(float(f"{images:.2g}").__trunc__())
            here = "" if effect.deterministic else f" at {count} seeds"
            text = f"no number of seeds decides this: the test set is too small (needs {word}{here})"
            return Needed(None, images, None if effect.deterministic else count, text)
    return Needed(None, None, None, f"neither {MOST_SEEDS:,} seeds nor more images decide a difference of {size:.2g}")


def _enough(parts: Sequence[Variances], size: float, seeds: int, more: float) -> bool:
    found = general(0.0, at(parts, seeds, more))
    return found.se is None or power(size, found.se, found.df) >= POWER


def _seeds(parts: Sequence[Variances], size: float) -> int | None:
    """The fewest seeds, at least three; None where none are enough."""
    if not _enough(parts, size, MOST_SEEDS, 1.0):
        return None
    low, high = LEAST_SEEDS - 1, MOST_SEEDS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _enough(parts, size, middle, 1.0) else (middle, high)
    return high


def _images(parts: Sequence[Variances], size: float, seeds: int) -> int | None:
    """About how many images, all test sets together; None where no number is enough."""
    if not _enough(parts, size, seeds, 1e9):
        return None
    low, high = 0.0, math.log(1e9)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if _enough(parts, size, seeds, math.exp(middle)) else (middle, high)
    return math.ceil(math.exp(high) * sum(part.images for part in parts))

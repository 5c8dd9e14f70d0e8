"""The part of a contrast's variance that its finite test set makes.

A test set is a sample of images within fixed classes: another one would have the same classes, each with as many images. So
covariances are taken within classes (strata), also for overall accuracy, and the resampling draws within the same strata.

For a contrast whose value at seed s is the sum over images i of z[s, i], with m images in stratum h:

    Cov(d_s, d_t) = sum over h of m_h / (m_h - 1) x sum over i in h of (z[s, i] - mean_h z[s]) (z[t, i] - mean_h z[t])

which for z = weight x outcome is the sum over classes of weight^2 x images x sample covariance. Sources: Obuchowski and Rockette
(1995), Communications in Statistics - Simulation and Computation 24(2), 285-308, for the model; Cochran (1977), Sampling
Techniques, chapter 5, for strata, and section 5A.12 for classes of one image, which are collapsed into one stratum (that errs to
the wide side).
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ImagePart:
    """Variances over test images, in squared points, of a contrast at its seeds.

    Args:
        cov: mean covariance over pairs of different seeds, at least 0: what all runs share; None for one seed.
        single: mean variance of one seed's value.
        df: degrees of freedom over images (images less strata).
    """

    cov: float | None
    single: float
    df: int

    @property
    def within(self) -> float:
        """What each seed has for itself (single less cov): the seeds' variance cannot be expected to be below it."""
        rest = self.single - (self.cov or 0.0)
        return rest if rest > 1e-9 * self.single else 0.0  # else rounding


def strata_of(labels: np.ndarray, taken: np.ndarray) -> np.ndarray | None:
    """The stratum of each image: its class, where classes of one image are collapsed.

    Those of one image form one stratum; a single one joins the smallest other class, the lowest of several.

    Args:
        labels: int (N,), rising.
        taken: bool (N,), images that take part.

    Returns:
        int (N,) with -1 for images that take no part, or None where fewer than two do.
    """
    if taken.sum() < 2:
        return None
    counts = np.bincount(labels[taken])
    names = np.arange(len(counts))
    single = np.flatnonzero(counts == 1)
    if len(single) > 1:
        names[single] = single[0]
    elif len(single) == 1:
        several = np.flatnonzero(counts > 1)
        names[single] = several[counts[several].argmin()]
    return np.where(taken, names[np.minimum(labels, len(names) - 1)], -1)


def closed_form(z: np.ndarray, strata: np.ndarray) -> ImagePart:
    """The image part of a contrast from its images.

    Args:
        z: float (S, N), an image's addend to the value at each seed, in points.
        strata: int (N,) of `strata_of`.
    """
    used = strata >= 0
    if not used.all():
        z, strata = z[:, used], strata[used]
    sizes = np.bincount(strata)
    means = np.stack([np.bincount(strata, row) for row in z]) / np.maximum(sizes, 1)
    centred = z - means[:, strata]
    factors = sizes / np.maximum(sizes - 1, 1)
    return _part(centred, factors[strata], int((sizes - 1)[sizes > 0].sum()), float((z**2).sum()))


def resampled(draws: np.ndarray, df: int) -> ImagePart:
    """The image part of a contrast from its values at resampled test sets (S, B)."""
    scale = 1 / (draws.shape[1] - 1)
    return _part(draws - draws.mean(axis=1, keepdims=True), np.full(draws.shape[1], scale), df, float((draws**2).sum() * scale))


def _part(centred: np.ndarray, factors: np.ndarray, df: int, size: float) -> ImagePart:
    """From deviations (S, n) with factors (n,). Deviations that are rounding beside ``size``, a sum of squares, are none."""
    seeds = len(centred)
    own = float((centred**2 @ factors).sum())
    if own <= 1e-20 * size:
        return ImagePart(0.0 if seeds > 1 else None, 0.0, df)
    if seeds == 1:
        return ImagePart(None, own, df)
    total = float(centred.sum(axis=0) ** 2 @ factors)  # of the sum over seeds: all pairs, s = t among them
    return ImagePart(max((total - own) / (seeds * (seeds - 1)), 0.0), own / seeds, df)

"""Resampled test sets for metrics that are no weighted mean over images: macro F1, calibration, geometric mean and others.

Images are drawn with replacement within their strata (`image_part.strata_of`), the same draws for every seed and method. Of a
stratum with m images m - 1 are drawn, each with the weight m / (m - 1): drawing m would make variances too small by the factor
(m - 1) / m, a third for classes of three images (Rao and Wu 1988, Journal of the American Statistical Association 83, 231-241).
Generator: PCG64 of NumPy from ``SEED``; the same test set has the same draws, bit for bit.

Formulas are those of METRICS. One that is not known to need counts alone (a plugin's) gets the images that were drawn, without
weights.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache, partial

import numpy as np

from pel_core.evaluation.metrics import CLASS_FLOOR, calibration, f1, geometric, harmonic
from pel_core.evaluation.predictions import Predictions
from pel_core.evaluation.scored import CALIBRATION_BINS
from pel_core.reporting.statistics.image_part import strata_of
from pel_core.reporting.statistics.runs import Images, Lazy, Run
from pel_core.spec.choices import METRICS

SEED = 20261127
DRAWS = 250  # the standard error of a standard deviation is then 4.5 %


@dataclass(frozen=True, eq=False)
class Resamples:
    """Resampled test sets.

    Args:
        images: the test set.
        counts: uint8 (N, B), how often an image was drawn.
        factors: float (N,), the weight of each time.
        df: images less strata.
        collapsed: whether a stratum holds several classes, so that a class may be missing from a draw.
    """

    images: Images
    counts: np.ndarray
    factors: np.ndarray
    df: int
    collapsed: bool

    @cached_property
    def wide(self) -> np.ndarray:
        """``counts`` as uint16, for whole sums: a draw has fewer than 65,536 images or is summed as float."""
        return self.counts.astype(np.uint16)

    @cached_property
    def single(self) -> np.ndarray:
        """``counts`` as float32, for weighted sums."""
        return self.counts.astype(np.float32)

    @cached_property
    def factor(self) -> float | None:
        """The weight, where it is the same for every image (classes of equal size)."""
        return float(self.factors[0]) if np.ptp(self.factors) == 0 else None

    def sums(self, places: np.ndarray, images: np.ndarray, rows: int, values: np.ndarray | None = None) -> np.ndarray:
        """Weighted sums (rows, B) of ``values`` (n,), or ones, of some images (n,) by their ``places`` (n,)."""
        from scipy import sparse

        def total(data: np.ndarray, counts: np.ndarray) -> np.ndarray:
            return sparse.csr_matrix((data, (places, images)), (rows, len(counts))) @ counts

        if values is None and self.factor is not None and len(self.counts) < 1 << 16:
            return total(np.ones(len(images), np.uint16), self.wide) * np.float32(self.factor)
        weights = self.factors[images] if values is None else self.factors[images] * values
        return total(weights.astype(np.float32), self.single)

    def drawn(self, draw: int) -> np.ndarray:
        """The images of a draw, each as often as it was drawn."""
        return np.repeat(np.arange(len(self.counts)), self.counts[:, draw])


@lru_cache(maxsize=2)  # 90 MB of 50,000 images
def resamples(images: Images, seed: int = SEED, draws: int = DRAWS) -> Resamples | None:
    """The resampled test sets of a test set; None where it has one image."""
    strata = strata_of(images.labels, np.ones(len(images), bool))
    if strata is None:
        return None
    order = np.argsort(strata, kind="stable")
    sizes = np.bincount(strata)
    sizes = sizes[sizes > 0]
    slots = np.repeat(sizes, sizes - 1)  # one entry for each image to draw: how many it is drawn from, and where they begin
    starts = np.repeat(np.cumsum(sizes) - sizes, sizes - 1)
    generator = np.random.Generator(np.random.PCG64(seed))
    counts = np.zeros((draws, len(images)), np.uint8)
    for draw in counts:
        chosen = starts + (generator.random(len(slots)) * slots).astype(np.intp)
        draw[order] = np.bincount(chosen, minlength=len(images))  # 256 times is beyond chance
    factors = np.repeat(sizes / (sizes - 1), sizes)[np.argsort(order, kind="stable")]
    collapsed = len(sizes) < len(np.unique(images.labels))
    return Resamples(images, np.ascontiguousarray(counts.T), factors, len(slots), collapsed)


class Sums:
    """A run's counts in every draw, each made when a metric first asks for it: float32 (K, B) with K classes or bins."""

    def __init__(self, run: Run, made: Resamples):
        self.run, self.made, self.classes = run, made, len(run.groups)

    @cached_property
    def images(self) -> np.ndarray:
        labels = self.run.images.labels
        if self.made.collapsed:
            return self.made.sums(labels, np.arange(len(labels)), self.classes)
        counts = np.bincount(labels, minlength=self.classes).astype(np.float32)
        return np.broadcast_to(counts[:, None], (self.classes, self.made.counts.shape[1]))

    @cached_property
    def hits(self) -> np.ndarray:
        right = np.flatnonzero(self.run.right)
        return self.made.sums(self.run.images.labels[right], right, self.classes)

    @cached_property
    def answers(self) -> np.ndarray:
        wrong = np.flatnonzero(~self.run.right)  # the others are hits
        return self.hits + self.made.sums(self.run.predicted[wrong], wrong, self.classes)

    @cached_property
    def gaps(self) -> np.ndarray:
        scored = self.run.scored()
        all_images = np.arange(len(self.run.right))
        return self.made.sums(scored.bins, all_images, CALIBRATION_BINS, scored.confidence - scored.right)

    def present(self, draws: slice) -> np.ndarray | slice:
        """Classes with images in the first of some draws; they have them in all unless strata were collapsed."""
        there = self.images[:, draws][:, 0] > 0
        return slice(None) if there.all() else there

    def seen(self, draws: slice) -> np.ndarray:
        """Accuracies in percent of the classes that have images."""
        there = self.present(draws)
        return np.float32(100) * self.hits[there, draws] / self.images[there, draws]


# Metrics of counts alone: the same formulas as in METRICS, for many draws at once.
BY_COUNTS: dict[str, Callable[[Sums, slice], np.ndarray]] = {
    "macro_f1": lambda sums, at: f1(*(counts[sums.present(at), at] for counts in (sums.hits, sums.images, sums.answers))),
    "worst_class": lambda sums, at: sums.seen(at).min(axis=0),
    "hmean": lambda sums, at: harmonic(sums.seen(at)),
    "gmean": lambda sums, at: geometric(sums.seen(at)),
    "gmean_floor": lambda sums, at: geometric(np.maximum(sums.seen(at), CLASS_FLOOR)),
    "ece": lambda sums, at: calibration(sums.gaps[:, at], sums.images[:, at]),
}


def draw_values(run: Run, metrics: Sequence[str]) -> None:
    """Compute metrics of a run at every resampled test set, all that are wanted at once; they are kept in ``run.draws``: float
    (B,), or the reason why there is none."""
    missing = [metric for metric in metrics if metric not in run.draws]
    if not missing:
        return
    made = resamples(run.images)
    if made is None:
        run.draws |= dict.fromkeys(missing, "one test image says nothing of other images")
        return
    sums, draws = Sums(run, made), made.counts.shape[1]
    for metric in missing:
        if metric not in BY_COUNTS:
            run.draws[metric] = _one_by_one(run, metric, made)
        elif made.collapsed:  # a class of one image is in some draws and not in others
            run.draws[metric] = np.concatenate([BY_COUNTS[metric](sums, slice(i, i + 1)) for i in range(draws)])
        else:
            run.draws[metric] = BY_COUNTS[metric](sums, slice(None)).astype(np.float64)


def _one_by_one(run: Run, metric: str, made: Resamples) -> np.ndarray | str:
    """Any other formula, on the images of each draw, each with the weight 1."""
    stored = cache(run.load)
    values = []
    for draw in range(made.counts.shape[1]):
        drawn = made.drawn(draw)
        take = partial(_take, stored, drawn)
        found = METRICS[metric].formula(Lazy(run.images.labels[drawn], run.predicted[drawn], run.groups, take))
        if isinstance(found, tuple) or not np.isfinite(found):
            return f"it is null on a resampled test set ({found[1] if isinstance(found, tuple) else found})"
        values.append(found)
    return np.array(values)


def _take(stored: Callable[[], Predictions], drawn: np.ndarray) -> Predictions:
    return Predictions(**{name: getattr(stored(), name)[drawn] for name in Predictions.__dataclass_fields__})

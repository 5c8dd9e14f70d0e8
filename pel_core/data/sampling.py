"""Long-tailed profiles: how many images a class keeps, which ones, and whether it counts as head, medium or tail.

Shapes: N images, C classes.
"""

import math
from collections.abc import Callable, Sequence
from itertools import accumulate

import numpy as np

from pel_core.common.errors import PelError
from pel_core.common.seeds import generator

HEAD_ABOVE, TAIL_BELOW = 100, 20
GROUPS = ("head", "med", "tail")
PARETO_ALPHA = 6.0


HALF = 0.5  # of the classes are head classes, as profiles are published


def _exponential(classes: int, ratio: float, head: float = HALF) -> list[float]:
    factor = 1.0 / ratio  # float arithmetic in this order, so that truncation falls as in the reference
    places = [c / max(classes - 1.0, 1.0) for c in range(classes)]
    if head != HALF:  # bent, so that the class at this place, not the one in the middle, has the geometric mean of both ends
        places = [place ** (math.log(HALF) / math.log(head)) for place in places]
    return [factor**place for place in places]


def _pareto(classes: int, ratio: float, head: float = HALF) -> list[float]:
    quantiles = [((c + 0.5) / classes) ** (-1 / PARETO_ALPHA) for c in range(classes)]
    span = quantiles[0] - quantiles[-1] or 1.0
    places = [(q - quantiles[-1]) / span if classes > 1 else 1.0 for q in quantiles]
    return list(accumulate((place + (1 - place) / ratio for place in places), min))  # rounding makes none larger than the last


def _step(classes: int, ratio: float, head: float = HALF) -> list[float]:
    tail = min(max(int(classes * (1 - head) + 1e-9), 1), classes - 1)
    return [1.0] * (classes - tail) + [1.0 / ratio] * tail


# Share of the largest class's images that the class of each rank keeps; ``head``: share of classes that are larger than the
# geometric mean of the largest and the smallest (pareto has a shape of its own). Sources: exponential, Cui et al. 2019, as
# LDAM-DRW and LIFT sample it. step, Buda et al. 2018 with half the classes in the minority, as LDAM samples it. pareto, Liu et
# al. 2019 (OLTR, alpha 6), who draw class sizes at random: here the distribution's quantiles at (rank + 1/2) / C, scaled between
# the largest class and the smallest. With their numbers of Places (365 classes, 4,980 to 5) 182,415 images; they say 184.5K.
PROFILES: dict[str, Callable[..., list[float]]] = {"exponential": _exponential, "pareto": _pareto, "step": _step}


def profile_counts(profile: str, classes: int, largest: int, ratio: float, head: float = HALF) -> np.ndarray:
    """Images per class of a profile, ``int(largest * share)``, by rank from the largest class to the smallest.

    Args:
        profile: one of PROFILES.
        classes: C.
        largest: images of the largest class.
        ratio: imbalance ratio, largest over smallest class; 1 is balanced.
        head: share of classes that are larger than the geometric mean of the largest and the smallest.

    Returns:
        int64 (C,), not increasing.

    Raises:
        PelError: the ratio is below 1, or leaves a class without an image.
    """
    if not 1 <= ratio < np.inf:
        raise PelError(f"imbalance ratio {ratio:g} is not a number of 1 or more")
    counts = _counts(PROFILES[profile](classes, ratio, head), largest)
    if (counts < 1).any():
        raise PelError(
            f"imbalance ratio {ratio:g} leaves {int((counts < 1).sum())} of {classes} classes without an image "
            f"({largest} in the largest class); use a ratio of at most {largest}"
        )
    return counts


def _counts(shares: Sequence[float], largest: int) -> np.ndarray:
    return np.array([int(largest * share) for share in shares], np.int64)


def largest_fitting(profile: str, available: np.ndarray, ratio: float, head: float = HALF) -> int:
    """The most images that the largest class may keep so that the class of every rank has the images its share asks for.

    ``available``: int (C,), not increasing, the images there are by rank. The larger the ratio, the larger the result.
    """
    shares = PROFILES[profile](len(available), ratio, head)
    low, high = 0, int(available[0])
    while low < high:  # the counts grow with the largest class, so halving finds the border
        middle = (low + high + 1) // 2
        low, high = (middle, high) if (_counts(shares, middle) <= available).all() else (low, middle - 1)
    return low


def subset_counts(
    pool: Sequence[int] | np.ndarray,
    ratio: float | None,
    profile: str = "exponential",
    head: float = HALF,
    cap: int | None = None,
) -> np.ndarray:
    """Images of each class (C,) that a subset keeps of those there are, ``pool`` (C,): at most ``cap``, then a profile of them.

    The profile goes down the classes by what the cap leaves of them, of equal ones the first in label order first; the largest
    class keeps as many images as fit. Without a ``ratio`` there is no profile.

    Raises:
        PelError: the ratio is below 1, or leaves a class without an image.
    """
    available = np.asarray(pool, np.int64)
    available = available if cap is None else np.minimum(available, cap)
    if ratio is None:
        return available
    rank = np.argsort(-available, kind="stable")
    if not 1 <= ratio < np.inf:
        profile_counts(profile, len(available), 1, ratio)  # which says what is wrong
    counts = np.empty_like(available)
    largest = largest_fitting(profile, available[rank], ratio, head)
    counts[rank] = profile_counts(profile, len(available), largest, ratio, head)
    return counts


def profile_subset(labels: np.ndarray, keys: Sequence[str], counts: np.ndarray, seed: int) -> np.ndarray:
    """Positions (n,), ascending, of ``counts`` (C,) images of each class.

    A class is shuffled by a generator of its own, named by its key, whatever the count: a smaller subset lies inside a larger
    one, and images added to one class change no other.
    """
    chosen = [
        generator(seed, "profile", keys[label]).permutation(np.flatnonzero(labels == label))[:count]
        for label, count in enumerate(counts)
    ]
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def held_out_counts(images: int, test: float, val: float) -> tuple[int, int]:
    """Images of a class that go to the test and the validation split, of ``images`` and by fractions (0: no such split).

    The nearest whole number, but at least one each where the class has enough: one image always stays to be trained on, and
    the test split comes first. A class of one image is trained on alone.
    """
    tests = min(max(int(images * test + 0.5), 1), images - 1) if test and images > 1 else 0
    vals = min(max(int(images * val + 0.5), 1), images - tests - 1) if val and images - tests > 1 else 0
    return tests, vals


def held_out(labels: np.ndarray, keys: Sequence[str], test: float, val: float, seed: int) -> np.ndarray:
    """Divide a pool by class into training (0), test (1) and validation (2) images: int8 (N,).

    Each class is shuffled by a generator of its own, named by its key; a validation split leaves the test split as it is.
    """
    parts = np.zeros(len(labels), np.int8)
    for label, key in enumerate(keys):
        positions = generator(seed, "held-out", key).permutation(np.flatnonzero(labels == label))
        tests, vals = held_out_counts(len(positions), test, val)
        parts[positions[:tests]] = 1
        parts[positions[tests : tests + vals]] = 2
    return parts


def long_tail_counts(classes: int, per_class: int, ratio: float) -> np.ndarray:
    """Images per class of CIFAR-LT, ``int(per_class * ratio ** (-c / (C - 1)))``: the exponential profile (`profile_counts`)."""
    return profile_counts("exponential", classes, per_class, ratio)


def long_tail_subset(labels: np.ndarray, ratio: float, seed: int = 0) -> np.ndarray:
    """Positions of the long-tailed subset of a balanced pool, class by class.

    Each class is shuffled by one legacy generator in the order of the labels, whatever the ratio, so that the subset of
    a larger ratio lies inside that of a smaller one.

    Args:
        labels: int (N,) of the pool, every class 0..C-1 equally often.
        ratio: imbalance ratio, 1 or more.
        seed: of the shuffle; 0 is the subset the literature reports on.

    Returns:
        int64 (n,) positions in the pool, class-major.

    Raises:
        PelError: the pool is not balanced, or the ratio does not fit (see `long_tail_counts`).
    """
    labels = np.asarray(labels)
    pool = np.bincount(labels)
    if pool.min() != pool.max():
        raise PelError(f"a long-tailed subset needs a balanced pool, this one has {pool.min()} to {pool.max()} images a class")
    counts = long_tail_counts(len(pool), int(pool[0]), ratio)
    return np.concatenate([order[:count] for order, count in zip(reference_orders(labels, seed), counts, strict=True)])


def by_class(labels: np.ndarray, classes: int) -> list[np.ndarray]:
    """Positions of the images of each class, ascending, of labels (N,) in 0..C-1."""
    order = np.argsort(labels, kind="stable").astype(np.int64)
    return np.split(order, np.cumsum(np.bincount(labels, minlength=classes))[: classes - 1])


def reference_orders(labels: np.ndarray, seed: int) -> list[np.ndarray]:
    """Positions of the images of each class in the order in which a subset takes them, as in the reference: shuffled by one
    legacy generator, class after class."""
    random = np.random.RandomState(seed)
    orders = by_class(labels, int(labels.max()) + 1)
    for positions in orders:
        random.shuffle(positions)
    return orders


def shot_groups(counts: np.ndarray, above: float = HEAD_ABOVE, below: float = TAIL_BELOW) -> list[str]:
    """Group of each class by its number of *training* images: head above 100, tail below 20, med between (inclusive)."""
    return ["head" if n > above else "tail" if n < below else "med" for n in np.asarray(counts).tolist()]


def terciles(counts: np.ndarray) -> list[str]:
    """Group of each class (C,): a third of the classes each, the largest first; of equal ones the first in label order. A class
    or two that are over are head, then med."""
    groups = np.empty(len(counts), object)
    for group, ranks in zip(GROUPS, np.array_split(np.argsort(-np.asarray(counts), kind="stable"), 3), strict=True):
        groups[ranks] = group
    return groups.tolist()

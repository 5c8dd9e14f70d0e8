"""Long-tailed profiles: how many images a class keeps, which ones, and whether it counts as head, medium or tail.

Shapes: N images, C classes.
"""

import numpy as np

from pel_core.errors import PelError

HEAD_ABOVE, TAIL_BELOW = 100, 20
GROUPS = ("head", "med", "tail")


def long_tail_counts(classes: int, per_class: int, ratio: float) -> np.ndarray:
    """Images per class of the exponential profile of CIFAR-LT, ``int(per_class * ratio ** (-c / (C - 1)))``.

    Args:
        classes: C.
        per_class: images of the largest class.
        ratio: imbalance ratio, largest over smallest class; 1 is balanced.

    Returns:
        int64 (C,), not increasing.

    Raises:
        PelError: the ratio is below 1, or leaves a class without an image.

    Source: Cui et al. 2019, as LDAM-DRW and LIFT sample it.
    """
    if not 1 <= ratio < np.inf:
        raise PelError(f"imbalance ratio {ratio:g} is not a number of 1 or more")
    factor = 1.0 / ratio  # float arithmetic in this order, so that truncation falls as in the reference
    counts = np.array([int(per_class * factor ** (c / max(classes - 1.0, 1.0))) for c in range(classes)], np.int64)
    if (counts < 1).any():
        raise PelError(
            f"imbalance ratio {ratio:g} leaves {int((counts < 1).sum())} of {classes} classes without an image "
            f"({per_class} in the largest class); use a ratio of at most {per_class}"
        )
    return counts


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
    random = np.random.RandomState(seed)
    parts = []
    for label, count in enumerate(long_tail_counts(len(pool), int(pool[0]), ratio)):
        positions = np.flatnonzero(labels == label)
        random.shuffle(positions)
        parts.append(positions[:count])
    return np.concatenate(parts).astype(np.int64)


def shot_groups(counts: np.ndarray) -> list[str]:
    """Group of each class by its number of *training* images: head above 100, tail below 20, med between (inclusive)."""
    return ["head" if n > HEAD_ABOVE else "tail" if n < TAIL_BELOW else "med" for n in np.asarray(counts).tolist()]

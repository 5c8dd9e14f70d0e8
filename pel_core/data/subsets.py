"""What a run's factors (`pel_core.data.factors`) make of prepared labels: images to train on, images held out, their labels.

Pure functions of labels and factors. Each class has its images in one order, of which a subset takes the first, so that smaller
subsets lie inside larger ones. Shapes: N images and C classes as prepared, n images and c classes that a run uses.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pel_core.common.errors import PelError
from pel_core.common.seeds import generator
from pel_core.data.factors import Factors
from pel_core.data.sampling import by_class, held_out_counts, reference_orders, shot_groups, subset_counts, terciles


@dataclass(frozen=True)
class Drawn:
    """What is drawn: ``rows`` int64 (n,) are positions among the prepared training images, ``labels`` (n,) in 0..c-1, with their
    noise; ``val_rows``, ``val_labels`` the same of the images held out, without. ``counts`` (c,): images of each class that were
    drawn, before any was held out or had its label changed."""

    rows: np.ndarray
    labels: np.ndarray
    val_rows: np.ndarray
    val_labels: np.ndarray
    counts: np.ndarray


def chosen_classes(classes: int, factors: Factors) -> np.ndarray:
    """Labels, as prepared, of the classes that a run uses: int64 (c,), ascending.

    Raises:
        PelError: there are not so many.
    """
    if factors.classes == "all":
        return np.arange(classes)
    asked = int(factors.classes)
    if asked >= classes:
        raise PelError(f"data.classes={asked}: there are {classes} classes; expected 2..{classes - 1}, or all")
    return np.sort(generator(factors.class_seed, "data", "classes").permutation(classes)[:asked])


def sizes(pool: np.ndarray, ratio: float | None, factors: Factors) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each class that a run uses (c,): images drawn, and of those held out how many come from images that are not drawn and
    from drawn ones. ``pool`` (C,): prepared training images of each class.

    Raises:
        PelError: there are not so many classes, or the ratio leaves one without an image.
    """
    there = np.asarray(pool, np.int64)[chosen_classes(len(pool), factors)]
    cap = None if factors.per_class == "all" else int(factors.per_class)
    counts = subset_counts(there, ratio, factors.profile, factors.head_tail_ratio, cap)
    unused = factors.val_rule == "unused"
    held = np.array([held_out_counts(int(n), 0.0, factors.val)[1] for n in (there if unused else counts)], np.int64)
    spare = np.minimum(held, there - counts) if unused else np.zeros_like(held)
    return counts, spare, np.clip(held - spare, 0, np.maximum(counts - 1, 0))


def capped(left: np.ndarray, factors: Factors) -> np.ndarray:
    """Training images of each class (c,) after ``data.cap_ratio``, of the images that are ``left`` (c,) to train on: at most this
    many times those of the smallest class that has some, as LT-Soups draws its subsets (`sample_balance_factor` of the authors'
    code)."""
    left = np.asarray(left, np.int64)
    if factors.cap_ratio == "none" or not left.any():
        return left
    return np.minimum(left, int(left[left > 0].min() * float(factors.cap_ratio)))


def draw(labels: np.ndarray, classes: int, ratio: float | None, factors: Factors, reference: bool = False) -> Drawn:
    """Which of the prepared training images a run uses.

    Args:
        labels: int (N,) in 0..C-1, of the prepared training images.
        classes: C.
        ratio: the imbalance ratio that is drawn; None for the images as they are found.
        factors: the run's.
        reference: draw as CIFAR-100-LT is drawn in the literature (`reference_orders`), class after class.

    Raises:
        PelError: as `sizes`.
    """
    if ratio is None and not factors.content():
        return Drawn(np.arange(len(labels)), labels, np.zeros(0, np.int64), labels[:0], np.bincount(labels, minlength=classes))
    chosen = chosen_classes(classes, factors)
    counts, spare, taken = sizes(np.bincount(labels, minlength=classes), ratio, factors)
    found = by_class(labels, classes)
    subset = ratio is not None or factors.per_class != "all"
    orders = _orders(labels, found, factors.seed, reference) if subset else found
    train, val, most = [], [], capped(counts - taken, factors)
    for label, count, more, own, left in zip(chosen.tolist(), counts, spare, taken, most, strict=True):
        used, unused = orders[label][:count], orders[label][count:]
        if factors.val:
            turns = generator(factors.val_seed, "data", "val", label).random(len(found[label]))
            held = [part[np.argsort(turns[np.searchsorted(found[label], part)])][:n] for part, n in ((unused, more), (used, own))]
            used = used[~np.isin(used, held[1])]
            val += held
        if left < len(used):
            turns = generator(factors.cap_seed, "data", "cap", label).random(len(found[label]))
            used = used[np.sort(np.argsort(turns[np.searchsorted(found[label], used)])[:left])]  # in the order of before
        train.append(used)
    rows, val_rows = np.concatenate(train), np.sort(np.concatenate(val or [np.zeros(0, np.int64)]))
    rows = rows if subset and reference else np.sort(rows)  # in the reference's order; else in that of the list
    right, val_labels = np.searchsorted(chosen, labels[rows]), np.searchsorted(chosen, labels[val_rows])
    noisy = with_noise(right, rows, {label: found[label] for label in chosen.tolist()}, factors) if factors.noise else right
    return Drawn(rows, noisy, val_rows, val_labels, counts)


def _orders(labels: np.ndarray, found: list[np.ndarray], seed: int, reference: bool) -> list[np.ndarray]:
    if reference:
        return reference_orders(labels, seed)
    return [generator(seed, "data", "subset", label).permutation(rows) for label, rows in enumerate(found)]


def with_noise(labels: np.ndarray, rows: np.ndarray, found: Mapping[int, np.ndarray], factors: Factors) -> np.ndarray:
    """Labels (n,) in 0..c-1 of which the share ``factors.noise`` is of another class, any other alike.

    A larger share changes those that a smaller one changes, in the same way. The last image of a class in the order in which
    labels change keeps its own, so that no class is without an image.

    Args:
        labels: (n,), right.
        rows: (n,) positions of the images among the prepared ones, by which they are known.
        found: the prepared label of each class in label order -> its positions among the prepared images, ascending.
        factors: the run's.
    """
    turns, shifts = np.empty(len(labels)), np.empty(len(labels), np.int64)
    for here, (prepared, positions) in zip(by_class(labels, len(found)), found.items(), strict=True):
        draws = generator(factors.noise_seed, "data", "noise", prepared).random((len(positions), 2))
        draws = draws[np.searchsorted(positions, rows[here])]
        turns[here], shifts[here] = draws[:, 0], 1 + (draws[:, 1] * (len(found) - 1)).astype(np.int64)
        turns[here[np.argmax(draws[:, 0])]] = np.inf
    changed = np.argsort(turns, kind="stable")[: int(factors.noise * len(labels) + 0.5)]
    changed = changed[np.isfinite(turns[changed])]
    noisy = labels.copy()
    noisy[changed] = (labels[changed] + shifts[changed]) % len(found)
    return noisy


def grouped(counts: np.ndarray, factors: Factors) -> list[str]:
    """Head, med or tail of each class by counts (c,), as the run's factors say."""
    return terciles(counts) if factors.groups == "terciles" else shot_groups(counts, *factors.groups)


def group_rules(factors: Factors) -> dict[str, str]:
    """Which classes each group has, in words."""
    if factors.groups == "terciles":
        return {"head": "the largest third of the classes", "med": "the middle third", "tail": "the smallest third"}
    above, below = (f"{number:g}" for number in factors.groups)
    rules = {"head": f"more than {above}", "med": f"{below} to {above}", "tail": f"fewer than {below}"}
    return {group: f"{rule} training images" for group, rule in rules.items()}

"""What metrics are computed from: predictions of N images of C classes, and quantities derived from them. NumPy alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from pel_core.common.errors import PelError
from pel_core.data.sampling import GROUPS

if TYPE_CHECKING:
    from pel_core.evaluation.predictions import Predictions

CALIBRATION_BINS = 15


@dataclass(frozen=True)
class Scored:
    """Predictions of a network for N images and quantities derived from them; each is computed at its first use and kept.

    Args:
        predictions: of the N images, with their labels in 0..C-1.
        groups: "head", "med" or "tail" of each class.
        rules: which classes each group has, in words; None for more than 100 training images, fewer than 20, and between.

    Raises:
        PelError: no images, labels that are no classes, or unknown groups.
    """

    predictions: Predictions
    groups: Sequence[str]
    rules: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        require_labels(self.labels, self.groups)

    @property
    def labels(self) -> np.ndarray:
        """int (N,) in 0..C-1."""
        return self.predictions.labels

    @property
    def predicted(self) -> np.ndarray:
        """int (N,): the most probable class; of a tie the lowest index."""
        return self.predictions.predicted

    @cached_property
    def right(self) -> np.ndarray:
        """bool (N,): whether the most probable class is the label."""
        return self.predicted == self.labels

    @cached_property
    def confidence(self) -> np.ndarray:
        """float64 (N,): probability of the most probable class, whose logit less the largest is 0."""
        return np.exp(-np.log(self.predictions.totals))

    @cached_property
    def nll(self) -> np.ndarray:
        """float64 (N,): negative log-likelihood of the label in nats."""
        return np.log(self.predictions.totals) - (self.predictions.label_logits - self.predictions.top_logits[:, 0])

    @cached_property
    def images(self) -> np.ndarray:
        """int (C,): test images of each class."""
        return np.bincount(self.labels, minlength=len(self.groups))

    @cached_property
    def hits(self) -> np.ndarray:
        """int (C,): test images of each class that are right."""
        return np.bincount(self.labels[self.right], minlength=len(self.groups))

    @cached_property
    def answers(self) -> np.ndarray:
        """int (C,): test images of which each class is the most probable one."""
        return np.bincount(self.predicted, minlength=len(self.groups))

    @cached_property
    def bins(self) -> np.ndarray:
        """int (N,): which of 15 equal bins, open below and closed above, the confidence lies in."""
        return np.clip(np.ceil(self.confidence * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)

    @cached_property
    def gaps(self) -> np.ndarray:
        """float64 (15,): sum of confidence minus correctness over the images of each bin."""
        return np.bincount(self.bins, self.confidence - self.right, minlength=CALIBRATION_BINS)

    @cached_property
    def present(self) -> np.ndarray:
        """bool (C,): whether a class has a test image."""
        return self.images > 0

    @cached_property
    def accuracy(self) -> np.ndarray:
        """float64 (C,): accuracy of each class in percent, NaN without a test image."""
        return np.where(self.present, 100.0 * self.hits / np.maximum(self.images, 1), np.nan)

    @cached_property
    def seen(self) -> np.ndarray:
        """The accuracies of the classes that have test images; there is at least one."""
        return self.accuracy[self.present]


def require_labels(labels: np.ndarray, groups: Sequence[str]) -> None:
    """Refuse labels (N,) that are no classes, and classes of unknown groups.

    Raises:
        PelError: naming what was found.
    """
    if not len(labels):
        raise PelError("there are no test images to score")
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() >= len(groups):
        range_found = f"found {labels.min()} to {labels.max()} ({labels.dtype})"
        raise PelError(f"labels must be whole numbers from 0 to {len(groups) - 1}, {range_found}")
    if wrong := set(groups).difference(GROUPS):
        raise PelError(f"unknown class groups {sorted(wrong)}; known: {', '.join(GROUPS)}")

"""Head rows from image features, instead of class names. Shapes: N images, D width, C classes."""

import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pel_core.common.errors import PelError
from pel_core.common.seeds import generator


def class_mean(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Unit mean feature of each class (C, D) from features (N, D), which are not normalised first.

    Raises:
        PelError: a class without an image.
    """
    counts = _counts(labels, classes, "take a mean of")
    total = torch.zeros(classes, features.shape[1], dtype=features.dtype, device=features.device).index_add_(0, labels, features)
    return F.normalize(total / counts[:, None], dim=-1)


def linear_probe(features: Tensor, labels: Tensor, classes: int, iterations: int = 100) -> Tensor:
    """Unit rows (C, D) of a multinomial logistic regression on the features (N, D); its intercept is dropped.

    scikit-learn's with class weights "balanced", as in the reference; it holds N x C float64 in memory.

    Raises:
        PelError: a class without an image.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    _counts(labels, classes, "fit a probe on")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it stops at the declared number of iterations
        probe = LogisticRegression(class_weight="balanced", max_iter=iterations)
        rows = torch.from_numpy(probe.fit(features.double().cpu().numpy(), labels.cpu().numpy()).coef_)
    rows = torch.cat([-rows, rows]) if classes == 2 else rows  # scikit-learn keeps one row for two classes
    return F.normalize(rows, dim=-1).to(features)


# Each makes head rows (C, D) of tuner-free features (N, D) and labels (N,).
INITS: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "class-mean": class_mean,
    "shot-1": class_mean,
    "shot-10": class_mean,
    "shot-100": class_mean,
    "linear-probe": linear_probe,
}


def images_for(init: str, labels: np.ndarray, seed: int) -> np.ndarray:
    """Positions of the images that an initialisation looks at: all, or k of each class, drawn with the run's seed.

    A class of fewer than k images gives all it has.
    """
    if not init.startswith("shot-"):
        return np.arange(len(labels))
    shots, draw = int(init.removeprefix("shot-")), generator(seed, "shots", init)
    chosen = []
    for label in np.unique(labels):
        positions = np.flatnonzero(labels == label)
        chosen.append(draw.permutation(positions)[:shots])
    return np.sort(np.concatenate(chosen))


def _counts(labels: Tensor, classes: int, purpose: str) -> Tensor:
    counts = torch.bincount(labels, minlength=classes)
    if absent := (counts == 0).nonzero().flatten().tolist():
        raise PelError(f"class {absent[0]} has no training image to {purpose} ({len(absent)} such classes)")
    return counts

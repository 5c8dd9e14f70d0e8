"""INITS: what a head starts from: class names, training images, or chance. Shapes: N images, D width, C classes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from pel_core.common.errors import PelError
from pel_core.common.lazy import F, torch
from pel_core.common.registry import Registry
from pel_core.common.seeds import generator

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Init:
    """Where head rows come from. ``rows`` makes them (C, D) of the untuned features (N, D) of training images and their labels
    (N,); ``shots``: images of each class that it looks at, 0 for all."""

    start: Literal["text", "images", "random"]
    rows: Callable[[Tensor, Tensor, int], Tensor] | None = None
    shots: int = 0


INITS: Registry[Init] = Registry("init")


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


INITS.register("text", Init("text"), about="the features of the class names, as in the reference", reads=("prompt",))
INITS.register("class-mean", Init("images", class_mean), about="the mean feature of each class's training images")
for _shots in (1, 10, 100):
    _about = f"the mean feature of {_shots} training image{'s' if _shots > 1 else ''} of each class"
    INITS.register(f"shot-{_shots}", Init("images", class_mean, _shots), about=_about)
INITS.register("linear-probe", Init("images", linear_probe), about="logistic regression on the features of the training images")
INITS.register("random", Init("random"), about="the head's own random start")


def images_for(init: str, labels: np.ndarray, seed: int) -> np.ndarray:
    """Positions of the images that an initialisation looks at: all, or k of each class, drawn with the run's seed.

    A class of fewer than k images gives all it has. Each class has a generator of its own: which images there are of others
    changes nothing of its draw.
    """
    if not (shots := INITS[init].shots):
        return np.arange(len(labels))
    chosen = []
    for label in np.unique(labels):
        positions = np.flatnonzero(labels == label)
        chosen.append(generator(seed, "shots", init, int(label)).permutation(positions)[:shots])
    return np.sort(np.concatenate(chosen))


def _counts(labels: Tensor, classes: int, purpose: str) -> Tensor:
    counts = torch.bincount(labels, minlength=classes)
    if absent := (counts == 0).nonzero().flatten().tolist():
        raise PelError(f"class {absent[0]} has no training image to {purpose} ({len(absent)} such classes)")
    return counts

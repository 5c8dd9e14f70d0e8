"""Head rows from image features, instead of class names. Shapes: N images, D width, C classes."""

from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.nn import functional as F

from pel_core.errors import PelError
from pel_core.seeds import generator

CHUNK = 1 << 24  # logits that a probe holds at once


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

    As scikit-learn's with class weights "balanced", C = 1 and lbfgs: mean weighted cross-entropy + |W|^2 / (2 N), from zero.

    Raises:
        PelError: a class without an image.
    """
    counts = _counts(labels, classes, "fit a probe on")
    x, width = features.detach().double(), features.shape[1]
    weights = (len(labels) / (classes * counts.double()))[labels]
    total, size = float(weights.sum()), max(1, CHUNK // classes)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        variables = torch.from_numpy(flat).to(x).view(classes, width + 1)
        matrix, intercept = variables[:, :width], variables[:, width]
        loss, gradient = 0.5 * matrix.square().sum(), F.pad(matrix, (0, 1))
        for rows, label, weight in zip(x.split(size), labels.split(size), weights.split(size), strict=True):
            logits = (rows @ matrix.T + intercept).log_softmax(-1)
            loss = loss - weight @ logits.gather(1, label[:, None])[:, 0]
            error = (logits.exp() - F.one_hot(label, classes)) * weight[:, None]
            gradient = gradient + torch.cat([error.T @ rows, error.sum(0)[:, None]], 1)
        return float(loss) / total, (gradient / total).flatten().cpu().numpy()

    options = {"maxiter": iterations, "maxls": 50, "gtol": 1e-4, "ftol": 64 * np.finfo(float).eps}
    solution = minimize(objective, np.zeros(classes * (width + 1)), jac=True, method="L-BFGS-B", options=options)
    rows = torch.from_numpy(solution.x).view(classes, width + 1)[:, :width]
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

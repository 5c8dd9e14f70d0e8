"""Head rows from image features, instead of class names. Shapes: N images, D width, C classes."""

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.nn import functional as F

from pel_core.errors import PelError


def class_mean(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Unit mean feature of each class (C, D) from features (N, D), which are not normalised first.

    Raises:
        PelError: a class without an image.
    """
    counts = torch.bincount(labels, minlength=classes)
    if absent := (counts == 0).nonzero().flatten().tolist():
        raise PelError(f"class {absent[0]} has no training image to take a mean of ({len(absent)} such classes)")
    total = torch.zeros(classes, features.shape[1], dtype=features.dtype).index_add_(0, labels, features)
    return F.normalize(total / counts[:, None], dim=-1)


def linear_probe(features: Tensor, labels: Tensor, classes: int, iterations: int = 100) -> Tensor:
    """Unit rows (C, D) of a multinomial logistic regression on the features (N, D); its intercept is dropped.

    As scikit-learn's with class weights "balanced", C = 1 and lbfgs: mean weighted cross-entropy + |W|^2 / (2 N), from zero.

    Raises:
        PelError: a class without an image.
    """
    counts = torch.bincount(labels, minlength=classes)
    if absent := (counts == 0).nonzero().flatten().tolist():
        raise PelError(f"class {absent[0]} has no training image to fit a probe on ({len(absent)} such classes)")
    x, width = features.detach().double(), features.shape[1]
    weights = (len(labels) / (classes * counts.double()))[labels]

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        with torch.enable_grad():
            variables = torch.from_numpy(flat.copy()).view(classes, width + 1).requires_grad_(True)
            logits = x @ variables[:, :width].T + variables[:, width]
            loss = (weights * F.cross_entropy(logits, labels, reduction="none")).sum() / weights.sum()
            loss = loss + variables[:, :width].square().sum() / (2 * weights.sum())
            (gradient,) = torch.autograd.grad(loss, variables)
        return float(loss), gradient.flatten().numpy()

    options = {"maxiter": iterations, "maxls": 50, "gtol": 1e-4, "ftol": 64 * np.finfo(float).eps}
    solution = minimize(objective, np.zeros(classes * (width + 1)), jac=True, method="L-BFGS-B", options=options)
    rows = torch.from_numpy(solution.x).view(classes, width + 1)[:, :width]
    return F.normalize(rows, dim=-1).to(features.dtype)

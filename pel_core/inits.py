"""Head rows from image features, instead of class names. Shapes: N images, D width, C classes."""

import warnings

import torch
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
    """Unit rows (C, D) of a logistic regression on the features (N, D), class weights "balanced"; its intercept is dropped.

    Raises:
        PelError: a class without an image.
    """
    from sklearn.linear_model import LogisticRegression

    counts = torch.bincount(labels, minlength=classes)
    if absent := (counts == 0).nonzero().flatten().tolist():
        raise PelError(f"class {absent[0]} has no training image to fit a probe on ({len(absent)} such classes)")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it may stop at the declared number of iterations, as the reference's does
        probe = LogisticRegression(class_weight="balanced", max_iter=iterations).fit(features.double().numpy(), labels.numpy())
    rows = torch.from_numpy(probe.coef_)
    rows = torch.cat([-rows, rows]) if classes == 2 else rows  # scikit-learn keeps one row for two classes
    return F.normalize(rows.to(features.dtype), dim=-1)

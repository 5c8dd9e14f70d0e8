"""Every number of a result, from stored predictions alone. Shapes: N images, C classes; percentages are 0..100. Torch-free."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pel_core.common.errors import PelError
from pel_core.data.sampling import GROUPS
from pel_core.evaluation.predictions import Predictions, require_finite

CALIBRATION_BINS = 15
HMEAN_FLOOR = 1e-3  # percent


def score(logits: np.ndarray, labels: np.ndarray, groups: Sequence[str]) -> dict[str, Any]:
    """Score logits: `score_predictions` of what they say. A tie goes to the lowest class index.

    Args:
        logits: (N, C) of any floating type; a test-time ensemble's are the mean over its crops.
        labels: int (N,) in 0..C-1.
        groups: "head", "med" or "tail" of each class.

    Raises:
        PelError: as `score_predictions`, or a logit that is NaN or infinite, or the shapes do not fit.
    """
    logits, labels = np.asarray(logits), np.asarray(labels)
    if logits.ndim != 2 or logits.shape != (len(labels), len(groups)) or labels.ndim != 1:
        shapes = f"logits {logits.shape}, labels {labels.shape} and {len(groups)} classes"
        raise PelError(f"{shapes} do not fit; expected (N, C), (N,) and C")
    _check(labels, groups)
    require_finite(logits)
    return score_predictions(Predictions.of(logits, labels), groups)


def score_predictions(predictions: Predictions, groups: Sequence[str]) -> dict[str, Any]:
    """Score what a network said of N images of classes whose groups ("head", "med", "tail") are given.

    Returns:
        ``overall`` accuracy and ``error_rate``; ``head``, ``med``, ``tail`` and ``mean_class``, means of per-class
        accuracies; ``per_class`` (C,), None for a class without a test image; ``worst_class``; ``macro_f1`` over the classes that
        have test images; ``hmean``, the harmonic mean of per-class accuracies, each at least 0.001 %; ``gmean``, the geometric
        mean, which is 0 as soon as one class is never right; ``ece``, the calibration error of the most probable class
        over 15 equal bins (all these in percent); ``nll``, mean negative log-likelihood in nats.
        ``null_reasons``: why a value is None. No value is ever NaN.

    Raises:
        PelError: no images, labels that are no classes, or unknown groups.

    Source: FIDELITY.md section 8. Unlike the reference, the geometric mean is taken in logarithms (its running product
    underflows with 8,142 classes), and a class absent from the test set shifts nothing.
    """
    labels, predicted = predictions.labels, predictions.predicted
    _check(labels, groups)
    classes = len(groups)
    images = np.bincount(labels, minlength=classes)
    hits = np.bincount(labels[predicted == labels], minlength=classes)
    present = images > 0
    accuracy = np.where(present, 100.0 * hits / np.maximum(images, 1), np.nan)
    seen = accuracy[present]
    result: dict[str, Any] = {"overall": 100.0 * float(hits.sum()) / len(labels)}
    reasons: dict[str, str] = {}
    for group in GROUPS:
        result[group], reason = _group_mean(accuracy, np.array([g == group for g in groups]), group)
        if reason:
            reasons[group] = reason
    if not present.all():
        absent = np.flatnonzero(~present).tolist()
        more = ", ..." if len(absent) > 10 else ""
        reasons["per_class"] = f"{len(absent)} classes have no test image: {', '.join(map(str, absent[:10]))}{more}"
    ece, nll = _calibration(predictions)
    return {
        **result,
        "mean_class": float(seen.mean()),
        "error_rate": 100.0 - result["overall"],
        "macro_f1": float(np.mean(100.0 * 2 * hits[present] / (images + np.bincount(predicted, minlength=classes))[present])),
        "worst_class": float(seen.min()),
        "hmean": float(1 / np.mean(1 / np.maximum(seen, HMEAN_FLOOR))),
        "gmean": float(np.exp(np.mean(np.log(seen)))) if seen.min() > 0 else 0.0,
        "ece": ece,
        "nll": nll,
        "per_class": [None if np.isnan(a) else a for a in accuracy.tolist()],
        "null_reasons": reasons,
    }


def _check(labels: np.ndarray, groups: Sequence[str]) -> None:
    if not len(labels):
        raise PelError("there are no test images to score")
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() >= len(groups):
        found = f"found {labels.min()} to {labels.max()} ({labels.dtype})"
        raise PelError(f"labels must be whole numbers from 0 to {len(groups) - 1}, {found}")
    if wrong := set(groups).difference(GROUPS):
        raise PelError(f"unknown class groups {sorted(wrong)}; known: {', '.join(GROUPS)}")


def _group_mean(accuracy: np.ndarray, members: np.ndarray, group: str) -> tuple[float | None, str]:
    """Mean over the group's classes that have test images, or None and the reason."""
    if not members.any():
        rule = {"head": "more than 100", "med": "20 to 100", "tail": "fewer than 20"}[group]
        return None, f"no class is in this group ({rule} training images)"
    values = accuracy[members]
    values = values[~np.isnan(values)]
    if not len(values):
        return None, f"none of the {int(members.sum())} classes of this group has a test image"
    return float(values.mean()), ""


def _calibration(predictions: Predictions) -> tuple[float, float]:
    """Expected calibration error (percent; bins are open below, closed above) and mean negative log-likelihood (nats)."""
    log_totals = np.log(predictions.totals)
    confidence = np.exp(-log_totals)  # of the most probable class, whose logit less the largest is 0
    nll = log_totals - (predictions.label_logits - predictions.top_logits[:, 0])
    bins = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
    gap = np.bincount(bins, confidence - (predictions.predicted == predictions.labels), minlength=CALIBRATION_BINS)
    return float(100.0 * np.abs(gap).sum() / len(predictions.labels)), float(nll.mean())

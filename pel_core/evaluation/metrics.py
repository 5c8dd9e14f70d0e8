"""METRICS: every number of a result, from stored predictions alone. N images, C classes; percentages are 0..100.

A metric is one function of `Scored` here, under `metric(name, label)`, which also tells its definition, the table in
docs/studies.md. It returns a number, or None and the reason why there is none; never NaN. NumPy alone: planning reads the names.

Source: FIDELITY.md section 8. Unlike the reference, the geometric mean is taken in logarithms (its running product underflows
with 8,142 classes), and a class absent from the test set shifts nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pel_core.common.errors import PelError
from pel_core.data.factors import AS_IS
from pel_core.data.subsets import group_rules
from pel_core.evaluation.scored import CALIBRATION_BINS, Scored, require_labels
from pel_core.spec.choices import METRICS, metric

if TYPE_CHECKING:
    from pel_core.evaluation.predictions import Predictions

RULES = group_rules(AS_IS)
CLASS_FLOOR = 1e-3  # percent; the least that a class counts as in `hmean` (the reference's) and `gmean_floor`
BINNED = (
    f"100 × sum over {CALIBRATION_BINS} equal bins of |sum over a bin's images of (confidence - right)| / N; "
    f"bin k holds confidences above (k - 1) / {CALIBRATION_BINS} up to k / {CALIBRATION_BINS}"
)
GROUP_MEAN = "mean of A_c over the classes of the group"
# What becomes of a class without a test image.
LEFT_OUT = "left out of the mean"
GROUP = "left out of the mean; no value where the group has no class with a test image"
FLOORED = {"least": CLASS_FLOOR, "floor": f"each class at least {CLASS_FLOOR:g} %", "absent": LEFT_OUT}
NO_IMAGE = "has no part in it: every image counts alike"


def score(logits: np.ndarray, labels: np.ndarray, groups: Sequence[str]) -> dict[str, Any]:
    """Score logits: `score_predictions` of what they say. A tie goes to the lowest class index.

    Args:
        logits: (N, C) of any floating type; a test-time ensemble's are the mean over its crops.
        labels: int (N,) in 0..C-1.
        groups: "head", "med" or "tail" of each class.

    Raises:
        PelError: as `Scored`, or a logit that is NaN or infinite, or the shapes do not fit.
    """
    from pel_core.evaluation.predictions import Predictions

    logits, labels = np.asarray(logits), np.asarray(labels)
    if logits.ndim != 2 or logits.shape != (len(labels), len(groups)) or labels.ndim != 1:
        shapes = f"logits {logits.shape}, labels {labels.shape} and {len(groups)} classes"
        raise PelError(f"{shapes} do not fit; expected (N, C), (N,) and C")
    require_labels(labels, groups)
    return score_predictions(Predictions.of(logits, labels), groups)


def score_predictions(predictions: Predictions, groups: Sequence[str], rules: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Score what a network said of N images of classes whose groups ("head", "med", "tail") are given; ``rules``: as `Scored`.

    Returns:
        Every metric by name, None where there is none; ``per_class`` (C,), accuracies in percent, None for a class without a
        test image; ``null_reasons``: why a value is None. No value is ever NaN.

    Raises:
        PelError: as `Scored`.
    """
    scored = Scored(predictions, groups, rules)
    values: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    for name, each in METRICS.items():
        found = each.formula(scored)
        if found is None or isinstance(found, tuple):
            values[name], reasons[name] = found or (None, "its formula gives none")
        else:
            values[name] = found
    if not scored.present.all():
        absent = np.flatnonzero(~scored.present).tolist()
        more = ", ..." if len(absent) > 10 else ""
        reasons["per_class"] = f"{len(absent)} classes have no test image: {', '.join(map(str, absent[:10]))}{more}"
    per_class = [None if np.isnan(value) else value for value in scored.accuracy.tolist()]
    return {**values, "per_class": per_class, "null_reasons": reasons}


@metric("overall", "Overall accuracy (%)", definition="100 × right images / N", absent=NO_IMAGE)
def overall(scored: Scored) -> float:
    """Share of the images that are right."""
    return 100.0 * float(scored.hits.sum()) / len(scored.labels)


@metric("head", "Head accuracy (%)", definition=GROUP_MEAN, absent=GROUP)
def head(scored: Scored) -> float | tuple[None, str]:
    """Mean accuracy of the classes with more than 100 training images."""
    return _group_mean(scored, "head")


@metric("med", "Medium accuracy (%)", definition=GROUP_MEAN, absent=GROUP)
def med(scored: Scored) -> float | tuple[None, str]:
    """Mean accuracy of the classes with 20 to 100 training images."""
    return _group_mean(scored, "med")


@metric("tail", "Tail accuracy (%)", definition=GROUP_MEAN, absent=GROUP)
def tail(scored: Scored) -> float | tuple[None, str]:
    """Mean accuracy of the classes with fewer than 20 training images."""
    return _group_mean(scored, "tail")


@metric("mean_class", "Mean per-class accuracy (%)", definition="mean of A_c over classes (balanced accuracy)", absent=LEFT_OUT)
def mean_class(scored: Scored) -> float:
    """Mean over classes of their accuracies."""
    return float(scored.seen.mean())


@metric("error_rate", "Error rate (%)", "lower", definition="100 - `overall`", absent=NO_IMAGE)
def error_rate(scored: Scored) -> float:
    """Share of the images that are wrong."""
    return 100.0 - overall(scored)


@metric(
    "macro_f1",
    "Macro F1 (%)",
    definition="100 × mean over classes of 2 × right_c / (images_c + answered_c); 0 for a class that is never right",
    absent="left out of the mean; an image that is answered by it is wrong",
)
def macro_f1(scored: Scored) -> float:
    """Mean over the classes that have test images of the harmonic mean of precision and recall."""
    return float(f1(scored.hits[scored.present], scored.images[scored.present], scored.answers[scored.present]))


@metric("worst_class", "Worst class accuracy (%)", definition="min of A_c over classes", absent="left out")
def worst_class(scored: Scored) -> float:
    """The lowest accuracy of a class."""
    return float(scored.seen.min())


@metric("hmean", "Harmonic mean of class accuracies (%)", definition="1 / mean over classes of 1 / max(A_c, floor)", **FLOORED)
def hmean(scored: Scored) -> float:
    """Harmonic mean of the classes' accuracies, each at least 0.001 %."""
    return float(harmonic(scored.seen))


@metric(
    "gmean",
    "Geometric mean of class accuracies (%)",
    definition="exp(mean over classes of ln A_c); 0 if any A_c is 0",
    absent=LEFT_OUT,
)
def gmean(scored: Scored) -> float:
    """Geometric mean of the classes' accuracies; 0 as soon as one class is never right."""
    return float(geometric(scored.seen))


@metric(
    "gmean_floor",
    "Geometric mean of class accuracies with a floor (%)",
    definition="exp(mean over classes of ln max(A_c, floor))",
    **FLOORED,
)
def gmean_floor(scored: Scored) -> float:
    """Geometric mean of the classes' accuracies, each at least 0.001 %, as `hmean` has it."""
    return float(geometric(np.maximum(scored.seen, CLASS_FLOOR)))


@metric("ece", "Expected calibration error (%)", "lower", definition=BINNED, absent=NO_IMAGE)
def ece(scored: Scored) -> float:
    """Mean distance of confidence from accuracy over 15 equal bins of confidence, open below and closed above."""
    return float(calibration(scored.gaps, scored.images))


@metric(
    "nll",
    "Negative log-likelihood",
    "lower",
    definition="mean over images of -ln(probability of the label)",
    unit="nats",
    least=0.0,
    absent=NO_IMAGE,
)
def nll(scored: Scored) -> float:
    """Mean negative log-likelihood of the labels in nats."""
    return float(scored.nll.mean())


# The same of counts (C,) or (C, B), of B resampled test sets at once (reporting/statistics).


def f1(hits: np.ndarray, images: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Macro F1 in percent of the classes with images: true positives, test images and answers of each."""
    return np.mean(100.0 * 2 * hits / (images + answers), axis=0)


def harmonic(accuracies: np.ndarray) -> np.ndarray:
    """Harmonic mean over classes of accuracies in percent."""
    return 1 / np.mean(1 / np.maximum(accuracies, CLASS_FLOOR), axis=0)


def geometric(accuracies: np.ndarray) -> np.ndarray:
    """Geometric mean over classes of accuracies in percent."""
    with np.errstate(divide="ignore"):
        return np.exp(np.mean(np.log(accuracies), axis=0))  # the logarithm of 0 makes it 0


def calibration(gaps: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Expected calibration error in percent, of the sums in `Scored.gaps` and images of each class."""
    return 100.0 * np.abs(gaps).sum(axis=0) / images.sum(axis=0)


def _group_mean(scored: Scored, group: str) -> float | tuple[None, str]:
    """Mean over the group's classes that have test images, or None and the reason."""
    members = np.array([each == group for each in scored.groups])
    if not members.any():
        return None, f"no class is in this group ({(scored.rules or RULES)[group]})"
    values = scored.accuracy[members & scored.present]
    if not len(values):
        return None, f"none of the {int(members.sum())} classes of this group has a test image"
    return float(values.mean())

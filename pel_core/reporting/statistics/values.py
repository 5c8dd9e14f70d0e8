"""What a metric is of one run: exact where it is a weighted mean of right and wrong images, so that equal counts are equal.

A *linear* metric is a sum over images of weight x outcome. Weights are 1 / (classes x images of the class) for means over classes
(head, med, tail, mean_class, per_class.K) and 1 / images for overall, error_rate and nll. Percent: 0..100.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np

from pel_core.data.sampling import GROUPS
from pel_core.reporting.statistics.runs import Images, Run
from pel_core.spec.choices import METRICS
from pel_core.spec.values import value_path

PER_IMAGE = ("overall", "error_rate", "nll")
DIGITS = 9  # to which a value that is no exact fraction counts


@dataclass(frozen=True, eq=False)
class Linear:
    """Weights of a linear metric.

    Args:
        weights: float (N,), 0 for images that take no part; outcomes are 0 or 1 and the sum is in percent, except for nll.
        offset: added to the sum.
        classes: bool (C,), those that take part.
    """

    weights: np.ndarray
    offset: float
    classes: np.ndarray


def metric_name(text: str) -> str:
    """The metric of a value as a study writes it: ``metrics.tail`` -> ``tail``; ``metrics.per_class.3`` -> ``per_class.3``.

    Raises:
        PelError: unknown.
    """
    return value_path(text if text in METRICS or text.startswith("metrics.") else f"metrics.{text}").removeprefix("metrics.")


def is_metric(text: str) -> bool:
    """Whether a value of a study is a number of the test images, of which there are intervals; ``parameters.head`` is none."""
    name = text.removeprefix("metrics.")
    return name in METRICS or name.startswith("per_class.")


def better(metric: str) -> str:
    """Which end of a metric is good: higher, lower or neither."""
    return METRICS[metric].better if metric in METRICS else "higher"


@lru_cache(maxsize=128)
def linear(metric: str, images: Images, groups: tuple[str, ...]) -> Linear | None:
    """The weights of a linear metric on a test set whose classes are in ``groups``; None where it is not linear or is null."""
    counts = np.bincount(images.labels, minlength=len(groups))
    if metric in PER_IMAGE:
        scale = {"overall": 100.0, "error_rate": -100.0, "nll": 1.0}[metric]
        weights = np.full(len(images), scale / len(images))
        return Linear(weights, 100.0 if metric == "error_rate" else 0.0, counts > 0)
    taken = counts > 0
    if metric in GROUPS:
        taken &= np.array([group == metric for group in groups])
    elif metric.startswith("per_class."):
        taken &= np.arange(len(groups)) == int(metric.removeprefix("per_class."))
    elif metric != "mean_class":
        return None
    if not taken.any():
        return None
    weights = np.where(taken, 100.0 / (taken.sum() * np.maximum(counts, 1)), 0.0)
    return Linear(weights[images.labels], 0.0, taken)


def is_linear(metric: str) -> bool:
    """Whether a metric's image part is in closed form."""
    return metric in (*PER_IMAGE, *GROUPS, "mean_class") or metric.startswith("per_class.")


def outcomes(metric: str, run: Run) -> np.ndarray:
    """What a linear metric sums: bool (N,), or float nats of nll."""
    return run.nll if metric == "nll" else run.right


def value(metric: str, run: Run) -> Fraction | tuple[None, str]:
    """A metric of a run, or None and the reason why there is none; kept with the run."""
    if metric not in run.values:
        run.values[metric] = _value(metric, run)
    return run.values[metric]


def _value(metric: str, run: Run) -> Fraction | tuple[None, str]:
    if metric.startswith("per_class.") and linear(metric, run.images, run.groups) is None:
        return None, f"class {metric.removeprefix('per_class.')} has no test image"
    if is_linear(metric) and metric != "nll" and (how := linear(metric, run.images, run.groups)):
        return _exact(metric, run, how)
    found = METRICS[metric].formula(run.scored())
    if isinstance(found, tuple):
        return found
    if not math.isfinite(found):
        return None, f"{metric} of {run.slug} is {found}"
    return Fraction(round(found, DIGITS))


def _exact(metric: str, run: Run, how: Linear) -> Fraction:
    """The weighted mean of right images from whole counts; classes with equally many images share a denominator."""
    if metric in PER_IMAGE:
        share = Fraction(100 * int(run.hits.sum()), len(run.images))
        return 100 - share if metric == "error_rate" else share
    counts = np.bincount(run.images.labels, minlength=len(run.groups))[how.classes]
    sizes, where = np.unique(counts, return_inverse=True)
    hits = np.bincount(where, run.hits[how.classes])  # whole numbers below 2^53
    common = math.lcm(*sizes.tolist())
    top = sum(int(hit) * (common // size) for hit, size in zip(hits.tolist(), sizes.tolist(), strict=True))
    return Fraction(100 * top, common * len(counts))

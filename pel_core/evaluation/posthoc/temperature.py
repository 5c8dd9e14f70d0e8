"""``posthoc.temperature``: temperature scaling (Guo et al. 2017, "On calibration of modern neural networks", section 4.2)."""

import numpy as np

from pel_core.common.registry import above
from pel_core.evaluation.predictions import ROWS
from pel_core.spec.posthoc import POSTHOC, step_knob

SMALLEST, LARGEST = 0.01, 100.0


@POSTHOC.register(
    "temperature",
    knobs=(
        step_knob(
            "temperature",
            f"T of logits / T; val: the least negative log-likelihood on the validation split, of {SMALLEST:g} to {LARGEST:g}",
            above(0),
        ),
    ),
)
class TemperatureScaling:
    """logits / T (Guo et al. 2017): other confidences, the same answers; T above 1 makes them less sure."""

    ends = (SMALLEST, LARGEST)  # of what `fit` tries

    @staticmethod
    def apply(logits_NC: np.ndarray, counts_C: np.ndarray, value: float) -> np.ndarray:
        """The divided logits (N, C), float64."""
        return np.asarray(logits_NC, np.float64) / value

    @staticmethod
    def fit(logits_NC: np.ndarray, labels_N: np.ndarray, counts_C: np.ndarray) -> float:
        """The T of the least mean negative log-likelihood over images. It is convex in 1 / T, so that there is one."""
        from scipy.optimize import minimize_scalar

        found = minimize_scalar(
            lambda log_t: mean_nll(logits_NC, labels_N, float(np.exp(-log_t))),
            bounds=(np.log(SMALLEST), np.log(LARGEST)),
            method="bounded",
            options={"xatol": 1e-6},
        )
        return float(np.exp(found.x))


def mean_nll(logits_NC: np.ndarray, labels_N: np.ndarray, factor: float = 1.0) -> float:
    """Mean over images of the negative log-likelihood of the labels, of logits times ``factor``, in nats."""
    total = 0.0
    for start in range(0, len(labels_N), ROWS):
        logits = factor * logits_NC[start : start + ROWS].astype(np.float64)
        largest = logits.max(axis=1)
        own = logits[np.arange(len(logits)), labels_N[start : start + ROWS]]
        total += float((np.log(np.exp(logits - largest[:, None]).sum(axis=1)) + largest - own).sum())
    return total / len(labels_N)

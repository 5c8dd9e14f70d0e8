"""``posthoc.la``: post-hoc logit adjustment (Menon et al. 2021, "Long-tail learning via logit adjustment", section 4.1)."""

import numpy as np

from pel_core.common.counts import count_of
from pel_core.common.errors import PelError
from pel_core.evaluation.predictions import ROWS
from pel_core.spec.posthoc import POSTHOC, step_knob

TAUS = np.arange(-20, 61) / 20  # -1 to 3 by 0.05


@POSTHOC.register(
    "la",
    knobs=(
        step_knob(
            "la",
            "tau of logits - tau * log prior (post-hoc logit adjustment), the prior being the shares of training images; val: "
            "the best mean class accuracy on the validation split, of -1 to 3 by 0.05",
            trained=True,
        ),
    ),
)
class LogitAdjustment:
    """logits - tau * log prior (Menon et al. 2021): what training with LA adds to the logits, taken off after training.

    The prior is the share of each class among the training images. tau = 1 is the Bayes rule for balanced error if the softmax
    of the logits is the training distribution.
    """

    ends = (float(TAUS[0]), float(TAUS[-1]))  # of what `fit` tries

    @staticmethod
    def apply(logits_NC: np.ndarray, counts_C: np.ndarray, value: float) -> np.ndarray:
        """The adjusted logits (N, C), float64."""
        return logits_NC - value * log_prior(counts_C)

    @staticmethod
    def fit(logits_NC: np.ndarray, labels_N: np.ndarray, counts_C: np.ndarray) -> float:
        """The tau of `TAUS` with the highest mean class accuracy over the classes that have images; of equal ones the nearest
        to 0, of these the positive one."""
        prior_C, classes = log_prior(counts_C), len(counts_C)
        hits_TC = np.zeros((len(TAUS), classes))
        for start in range(0, len(labels_N), ROWS):
            logits, labels = logits_NC[start : start + ROWS].astype(np.float64), labels_N[start : start + ROWS]
            for place, tau in enumerate(TAUS):
                right = (logits - tau * prior_C).argmax(axis=1) == labels
                hits_TC[place] += np.bincount(labels[right], minlength=classes)
        images_C = np.bincount(labels_N, minlength=classes)
        accuracy_T = (hits_TC[:, images_C > 0] / images_C[images_C > 0]).mean(axis=1)
        best = np.flatnonzero(accuracy_T >= accuracy_T.max() - 1e-12)
        return float(min(TAUS[best], key=lambda tau: (abs(tau), -tau)))


def log_prior(counts_C: np.ndarray) -> np.ndarray:
    """The logarithm of each class's share of the training images (C,).

    Raises:
        PelError: a class without a training image.
    """
    counts_C = np.asarray(counts_C, np.float64)
    if (none := np.flatnonzero(counts_C <= 0)).size:
        raise PelError(
            f"posthoc.la: {count_of(none.size, 'class', 'classes')} without a training image, class {none[0]} first, "
            "so log prior has no value"
        )
    return np.log(counts_C / counts_C.sum())

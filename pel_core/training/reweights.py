"""REWEIGHTS: how much the loss of an image counts by its class, whatever the loss. Torch-free.

An entry is a function of the training counts (C,), float64, and its knobs; it returns weights (C,), which are scaled to a mean of
1 over classes. A batch's loss is the weighted mean of its images' losses, as in PyTorch and in LDAM-DRW: of the whole batch, also
where it goes in parts or to several processes. With the knob `defer_knob` images count alike before it begins: deferred
re-weighting (DRW, Cao et al. 2019).
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import TYPE_CHECKING, Any

from pel_core.common.lazy import Module
from pel_core.common.registry import Knob, at_least, between
from pel_core.spec.choices import LOSSES, REWEIGHTS
from pel_core.training.schedules import defer_knob, first_epoch

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from pel_core.spec.run_spec import RunSpec

BETA = Knob("beta", 0.9999, "an image counts (1 - beta) / (1 - beta^n) in a class of n", between(0, 1))


def by_image(loss: str) -> bool:
    """Whether a loss is the plain mean of what its ``forward(..., reduction="none")`` gives for each image (B,)."""
    return bool(getattr(LOSSES[loss], "decomposable", False)) and "reduction" in signature(LOSSES[loss].forward).parameters


def _needs_images(spec: RunSpec) -> str:
    return "" if by_image(spec.loss) else f"a loss that is a mean over images: loss={' or '.join(filter(by_image, LOSSES))}"


def add_reweight(name: str, *knobs: Knob) -> Callable[[Any], Any]:
    """Register the decorated function as an entry with these knobs and ``defer``."""
    return REWEIGHTS.register(name, knobs=(*knobs, defer_knob("reweight")), needs=_needs_images)


@REWEIGHTS.register("none")
def alike(counts: np.ndarray) -> np.ndarray:
    """Every image counts alike."""
    return counts**0


@add_reweight("effective", BETA)
def effective(counts: np.ndarray, beta: float) -> np.ndarray:
    """By a class's effective number of images: (1 - beta) / (1 - beta^n) (Cui et al. 2019; deferred by 0.8 of LDAM-DRW)."""
    return (1 - beta) / (1 - beta**counts)


@add_reweight("power", Knob("exponent", 1.0, "an image counts n^-exponent in a class of n", at_least(0)))
def inverse(counts: np.ndarray, exponent: float) -> np.ndarray:
    """By a power of the class's images, n^-exponent: 1 is inverse frequency, 1/2 its square root."""
    return counts**-exponent


class ByClass(Module):
    """A loss whose images count by their class from an epoch on: the mean of their losses, weighted by ``weights`` (C,).

    Parts of a batch weigh as much as their images together (`image_mass`), so that they add up to the whole batch's loss.
    """

    def __init__(self, loss: Any, weights: Tensor, first: int):
        super().__init__()
        self.loss, self.first, self.active = loss, first, first == 0
        self.register_buffer("weights", weights.float())

    def set_epoch(self, epoch: int) -> None:
        """Take the weights, or not, as this epoch does, counted from 0."""
        self.active = epoch >= self.first

    def image_mass(self, labels: Tensor) -> Tensor | int:
        """How much images of these labels (B,), or soft targets (B, C), count together: () on the device; before the first
        epoch their number."""
        if not self.active:
            return len(labels)
        return (self.weights[labels] if labels.ndim == 1 else labels * self.weights).sum()

    def image_weights(self, labels: Tensor) -> Tensor | None:
        """How much each image of these labels (B,), or soft targets (B, C), counts: (B,); before the first epoch None, alike."""
        if not self.active:
            return None
        return self.weights[labels] if labels.ndim == 1 else labels @ self.weights

    def begin(self, draw: Any, first: int) -> None:
        """Tell a loss that draws numbers that a batch begins."""
        if hasattr(self.loss, "begin"):
            self.loss.begin(draw, first)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        if not self.active:
            return self.loss(logits, labels)
        weights = self.weights[labels]
        return (weights * self.loss(logits, labels, reduction="none")).sum() / weights.sum()

    def per_class(self, logits: Tensor) -> Tensor:
        """As of any loss that takes soft targets (`soft_targets`): the weighted loss for each label that an image might have."""
        loss_BC = self.loss.per_class(logits)
        return self.weights * loss_BC if self.active else loss_BC

    mass = image_mass


def class_weights(spec: RunSpec, counts: Any) -> tuple[np.ndarray, int] | None:
    """The run's weights (C,), float64 with a mean of 1, and the epoch from which on they count; None where images count alike.
    A class without training images has the weight 0 and no part in the mean."""
    if spec.reweight == "none":
        return None
    import numpy as np

    knobs = spec.knobs_of("reweight")
    knobs.pop("defer", None)
    make: Callable[..., np.ndarray] = REWEIGHTS[spec.reweight]
    counts = np.asarray(counts, np.float64)
    weights, there = np.zeros_like(counts), counts > 0
    weights[there] = make(counts[there], **knobs)
    return weights / weights[there].mean(), first_epoch(spec, "reweight")

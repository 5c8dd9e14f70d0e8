"""Losses of soft targets q (B, C), rows of shares that sum to one, such as mixed images have: which losses take them, and how.

A loss takes them if it has a method ``per_class(logits)``, which gives the loss of each image for each label that it might have,
(B, C). Its value is then the loss expected of a label that is drawn from q, the mean over images of sum_c q_c loss(z, c): what
mixup is written for (Zhang et al. 2018: lambda loss(z, a) + (1 - lambda) loss(z, b)), and of one-hot rows the loss of the labels.
One that divides by something else than the images also has ``mass(q)``; of class weights that is sum_ic q_ic w_c.

A loss without the method takes labels alone, and is refused beside mixed images when a study is read. LADE is one: it sums
logits by class over the batch, inside of squares, so that targets between classes have several readings. Torch-free to import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pel_core.common.lazy import Module
from pel_core.spec.choices import LOSSES

if TYPE_CHECKING:
    from torch import Tensor


def takes_soft_targets(loss: str) -> bool:
    """Whether the loss of that name takes soft targets."""
    return hasattr(LOSSES[loss], "per_class")


class Expected(Module):
    """A loss of logits (B, C) and labels (B,) that takes soft targets (B, C) in their place, too."""

    def __init__(self, loss: Any):
        super().__init__()
        self.loss = loss
        for name in ("set_epoch", "image_mass", "image_weights", "begin"):  # what `step` asks of a loss that has it
            if hasattr(loss, name):
                setattr(self, name, getattr(loss, name))

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        if targets.ndim == 1:
            return self.loss(logits, targets)
        mass = self.loss.mass(targets) if hasattr(self.loss, "mass") else len(targets)
        return (targets * self.loss.per_class(logits.float())).sum() / mass

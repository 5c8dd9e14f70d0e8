"""SCHEDULES: the learning rate while a run trains. Torch-free."""

from __future__ import annotations

import math

from pel_core.spec.choices import SCHEDULES


@SCHEDULES.register("cosine")
def cosine(lr: float, epoch: int, epochs: int) -> float:
    """Cosine annealing stepped once per epoch: .5 lr (1 + cos(pi e / E)); constant within an epoch, as in the reference."""
    return 0.5 * lr * (1 + math.cos(math.pi * epoch / epochs))

"""AUGMENTATIONS: how training images are cropped. Boxes are drawn from a table of uniforms (`transforms.uniforms`). Torch-free.

An entry says which boxes are drawn, how the smallest area of a crop moves while a run trains, and what is done to crops after
that, if anything (`policies`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pel_core.common.registry import Registry

# u (n, DRAWS), height, width, smallest area as a share of the image's -> boxes int64 (n, 4), flips bool (n,).
Boxes = Callable[[np.ndarray, int, int, float], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Augmentation:
    """Crops and flips: ``boxes`` draws them; ``progress`` maps the part t in 0..1 of the training that is over to how far the
    smallest area has moved from ``crop_min_scale`` to the whole image.

    ``policy`` makes, of the entry's knobs, what is done to each crop then: a function of a uint8 tensor (3, R, R), which may draw
    from torch's generator of the CPU. The knobs ``crop``, another entry whose boxes are taken, and ``erase`` are read for it.
    """

    boxes: Boxes
    progress: Callable[[float], float] = lambda t: 0.0
    policy: Callable[..., Any] | None = None

    def smallest(self, min_scale: float, epoch: int, epochs: int) -> float:
        """The smallest area of a crop in an epoch, as a share of the image's.

        Source: LIFT+: s + (1 - s) f(t) at t = epoch / (epochs - 1); a training of one epoch stays at its start.
        """
        t = epoch / (epochs - 1) if epochs > 1 else 0.0
        return min_scale + (1 - min_scale) * self.progress(t)


AUGMENTATIONS: Registry[Augmentation] = Registry("augment", ("pel_core.data.policies",))


def _random(*drawn: Any) -> tuple[np.ndarray, np.ndarray]:
    from pel_core.data.transforms import random_boxes  # which imports PIL

    return random_boxes(*drawn)


def _square(*drawn: Any) -> tuple[np.ndarray, np.ndarray]:
    from pel_core.data.transforms import square_boxes

    return square_boxes(*drawn)


def _register(name: str, augmentation: Augmentation, about: str) -> None:
    AUGMENTATIONS.register(name, augmentation, about=about, reads=("crop_min_scale",))


_MDA = "LIFT+'s minimalist squares and flips; the smallest area grows to the whole image"
_register("rrc", Augmentation(_random), "torchvision's RandomResizedCrop and a horizontal flip, as in the reference")
_register("mda", Augmentation(_square, lambda t: 1 - math.sqrt(1 - t**2)), f"{_MDA}, late (convex)")
_register("mda-linear", Augmentation(_square, lambda t: t), f"{_MDA} evenly")
_register("mda-concave", Augmentation(_square, lambda t: math.sqrt(1 - (1 - t) ** 2)), f"{_MDA}, early (concave)")
_register("mda-min", Augmentation(_square, lambda t: 0.0), "LIFT+'s minimalist squares and flips; the smallest area stays")
_register("mda-max", Augmentation(_square, lambda t: 1.0), "the largest square that fits, and flips")

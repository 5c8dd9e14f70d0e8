"""What is done to a crop once it is cut: RandAugment, AutoAugment, TrivialAugment, random erasing. They are torchvision's v2.

Entries of AUGMENTATIONS whose boxes are those of another entry (``augment.crop``), with a policy behind. A policy is made of
its knobs and maps a crop, uint8 (3, R, R), to another one. torchvision draws from torch's own generator of the CPU; it is set by
the name of the crop (the spec's seed, the epoch, the position in the epoch's order) for as long as one crop takes, and then set
back. So neither workers nor batches move a draw, and image files and arrays go through the same code.

torchvision is imported where a run has a policy, and not before. Torch-free to import.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from pel_core.common.lazy import torch
from pel_core.common.registry import Check, Knob, at_least, one_of
from pel_core.common.seeds import derive
from pel_core.data.augmentations import AUGMENTATIONS, Augmentation

if TYPE_CHECKING:
    from torch import Tensor

Policy = Callable[["Tensor"], "Tensor"]
_DRAWING = threading.Lock()  # the generator is one for all threads, and a run may read in several


def _crops_alone(name: str) -> bool:
    return name in AUGMENTATIONS and AUGMENTATIONS[name].policy is None


SHARE = Check("at least 0 and at most 1", lambda value: 0 <= value <= 1)
CROP = Knob("crop", "rrc", "the entry whose crops and flips come first", Check("rrc or another entry of crops", _crops_alone))
ERASE = Knob("erase", 0.0, "share of the crops of which a box, 2 to 33 % of the area, is then erased to the mean colour", SHARE)


def boxes(u: np.ndarray, height: int, width: int, smallest: float) -> tuple[np.ndarray, np.ndarray]:
    """RandomResizedCrop's: read where the knob ``crop`` names no other entry."""
    return AUGMENTATIONS["rrc"].boxes(u, height, width, smallest)


def _add(name: str, policy: Callable[..., Policy | None], about: str, *knobs: Knob) -> None:
    AUGMENTATIONS.register(name, Augmentation(boxes, policy=policy), about=about, knobs=knobs, reads=("crop_min_scale",))


def randaugment(layers: int, magnitude: int) -> Policy:
    """``layers`` operations in a row, drawn from 14, all of one magnitude (Cubuk et al. 2020)."""
    from torchvision.transforms import v2

    return v2.RandAugment(layers, magnitude)


def autoaugment(policy: str) -> Policy:
    """One of 25 pairs of operations, found for the data set of that name (Cubuk et al. 2019)."""
    from torchvision.transforms import v2

    return v2.AutoAugment(v2.AutoAugmentPolicy(policy))


def trivialaugment() -> Policy:
    """One operation of 14 at a random magnitude of wide ranges (Müller and Hutter 2021)."""
    from torchvision.transforms import v2

    return v2.TrivialAugmentWide()


def nothing() -> None:
    """The crop as it is: what is erased comes behind."""


_add(
    "randaugment", randaugment, "crops as rrc, then operations of one magnitude (RandAugment, Cubuk et al. 2020)",
    Knob("layers", 2, "operations in a row", at_least(1)),
    Knob("magnitude", 9, "of every operation", Check("0..30", lambda value: 0 <= value <= 30)), CROP, ERASE,
)  # fmt: skip
_add(
    "autoaugment", autoaugment, "crops as rrc, then a learnt pair of operations (AutoAugment, Cubuk et al. 2019)",
    Knob("policy", "imagenet", "for which data set it was learnt", one_of("imagenet", "cifar10", "svhn")), CROP, ERASE,
)  # fmt: skip
_add(
    "trivialaugment", trivialaugment,
    "crops as rrc, then one operation of any magnitude (TrivialAugment Wide, Müller and Hutter 2021)", CROP, ERASE,
)  # fmt: skip
_ERASE = Knob(ERASE.name, 0.5, ERASE.meaning, Check("above 0 and at most 1", lambda value: 0 < value <= 1))
_add("erasing", nothing, "crops as rrc, of some of which a box is erased (random erasing, Zhong et al. 2020)", CROP, _ERASE)


@cache
def make_policy(name: str, knobs: tuple[tuple[str, Any], ...], fill: tuple[int, ...]) -> Policy:
    """The policy of an entry.

    Args:
        knobs: pairs of name and value, of which ``crop`` says nothing here.
        fill: what erased pixels become, in each channel, 0..255.
    """
    from torchvision.transforms import v2

    own = {key: value for key, value in knobs if key != "crop"}
    erase = own.pop("erase", 0.0)
    steps = [AUGMENTATIONS[name].policy(**own), v2.RandomErasing(erase, value=fill) if erase else None]
    return v2.Compose([step for step in steps if step is not None])


def apply_policy(policy: Policy, crops: Tensor, names: Sequence[tuple[object, ...]], seed: int) -> Tensor:
    """Crops uint8 (n, 3, R, R) through a policy, each with the draws of its name. On any device; equal bits on CPUs."""
    changed = []
    for crop, name in zip(crops, names, strict=True):
        with _drawing(derive(seed, *name)):
            changed.append(policy(crop))
    return torch.stack(changed) if changed else crops


@contextmanager
def _drawing(seed: int) -> Iterator[None]:
    """Let torch's CPU generator draw from a seed, and go on after that as if nothing had been."""
    with _DRAWING:
        before = torch.get_rng_state()
        torch.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            torch.set_rng_state(before)

"""The head of nearest training images: nothing trains; it is made of their features. Shapes: N images, B, D width, C classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pel_core.common.lazy import F, torch
from pel_core.common.registry import Knob, above, at_least
from pel_core.models.heads import FEATURE, HEADS, Head

if TYPE_CHECKING:
    from torch import Generator, Size, Tensor

LEAST = 1e-4  # the share of the votes that a class counts as that has none
K = Knob("k", 20, "how many training images vote, or all there are", at_least(1))
TEMPERATURE = Knob("temperature", 0.07, "an image votes with exp(cosine / temperature)", above(0))
NEEDS = "epochs=0, since nothing of it trains"


@HEADS.register("knn", knobs=(FEATURE, K, TEMPERATURE), needs=lambda spec: "" if spec.epochs == 0 else NEEDS)
class Nearest(Head):
    """log of a class's share in the votes of the k nearest training images, exp(cos / temperature) each (Wu et al. 2018)"""

    trains = rows = draws = False

    def __init__(self, width: int, classes: int, scale: float, generator: Generator, k: int = 20, temperature: float = 0.07):
        super().__init__()
        self.classes, self.k, self.temperature = classes, k, temperature
        self.register_buffer("features", torch.empty(0, width))
        self.register_buffer("labels", torch.empty(0, dtype=torch.int64))

    @staticmethod
    def remembers(labels_N: np.ndarray, seed: int, knobs: Mapping[str, Any]) -> np.ndarray:
        """Positions of all training images."""
        return np.arange(len(labels_N))

    def remember(self, features_ND: Tensor, labels_N: Tensor) -> None:
        """Take the features of training images and their labels."""
        self.features, self.labels = F.normalize(features_ND, dim=-1).to(self.features), labels_N.to(self.labels)

    def allocate(self, shapes: Mapping[str, Size]) -> None:
        """Make room for as many images as a checkpoint holds."""
        if not len(self.features) and {"features", "labels"} <= shapes.keys():
            self.features, self.labels = (getattr(self, name).new_zeros(shapes[name]) for name in ("features", "labels"))

    def forward(self, f_BD: Tensor) -> Tensor:
        cosine_BN = F.normalize(self.feature(f_BD), dim=-1) @ self.features.T
        near_BK, which_BK = cosine_BN.topk(min(self.k, len(self.features)), dim=-1)
        votes_BK = (near_BK / self.temperature).softmax(-1)
        shares_BC = votes_BK.new_zeros(f_BD.shape[0], self.classes).scatter_add(1, self.labels[which_BK], votes_BK)
        return shares_BC.clamp_min(LEAST).log()

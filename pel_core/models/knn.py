"""The head of nearest training images: nothing trains; it is made of their features. Shapes: N images, B, D width, C classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pel_core.common.lazy import F, Module, nn, torch
from pel_core.common.registry import Knob, above, at_least
from pel_core.models.heads import HEADS

if TYPE_CHECKING:
    from torch import Generator, Tensor

LEAST = 1e-4  # the share of the votes that a class counts as that has none
K = Knob("k", 20, "how many training images vote, or all there are", at_least(1))
TEMPERATURE = Knob("temperature", 0.07, "an image votes with exp(cosine / temperature)", above(0))


@HEADS.register(
    "knn", knobs=(K, TEMPERATURE), needs=lambda spec: "" if spec.epochs == 0 else "epochs=0, since nothing of it trains"
)
class Nearest(Module):
    """log of a class's share in the votes of the k nearest training images, exp(cos / temperature) each (Wu et al. 2018)"""

    def __init__(self, width: int, classes: int, scale: float, generator: Generator, k: int = 20, temperature: float = 0.07):
        super().__init__()
        self.classes, self.k, self.temperature = classes, k, temperature
        self.hold(torch.empty(0, width), torch.empty(0, dtype=torch.int64))

    def fit(self, features_ND: Tensor, labels_N: Tensor) -> None:
        """Take the features of training images and their labels."""
        self.hold(F.normalize(features_ND, dim=-1), labels_N)

    def make_room(self, images: int) -> None:
        """Hold as many images as a checkpoint that is about to be loaded."""
        self.hold(self.features.new_empty(images, self.features.shape[1]), self.labels.new_empty(images))

    def hold(self, features_ND: Tensor, labels_N: Tensor) -> None:
        """Parameters, though none trains, since these are what a checkpoint holds of a head."""
        self.features = nn.Parameter(features_ND, requires_grad=False)
        self.labels = nn.Parameter(labels_N, requires_grad=False)

    def forward(self, f_BD: Tensor) -> Tensor:
        near_BK, which_BK = (F.normalize(f_BD, dim=-1) @ self.features.T).topk(min(self.k, len(self.features)), dim=-1)
        votes_BK = (near_BK / self.temperature).softmax(-1)
        shares_BC = votes_BK.new_zeros(len(f_BD), self.classes).scatter_add(1, self.labels[which_BK], votes_BK)
        return shares_BC.clamp_min(LEAST).log()

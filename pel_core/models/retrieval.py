"""The head ``rac``: a classifier beside what near training images are called, after RAC (Long et al. 2022, arXiv 2202.11233).

Shapes: B images, D features, N training images, K retrieved, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pel_core.common.lazy import F, nn, torch
from pel_core.common.registry import Knob, above, at_least, one_of
from pel_core.models.heads import FEATURE, HEADS, Head

if TYPE_CHECKING:
    from torch import Generator, Size, Tensor

KNOBS = (
    FEATURE,
    Knob("k", 30, "how many training images are retrieved, or all there are", at_least(1)),
    Knob("temperature", 0.07, "a retrieved image counts exp(cosine / temperature)", above(0)),
    Knob(
        "values", "balanced", "balanced: a retrieved image counts one over the training images of its class, as logit adjustment "
        "corrects the classifier's prior; one-hot: all count alike", one_of("one-hot", "balanced"),
    ),
    Knob("weight", 1.0, "factor of the retrieved logits beside the classifier's; 0: the classifier alone", at_least(0)),
)  # fmt: skip
NEEDS = "epochs=0: its rows are trained as those of head=cosine in the run it starts from (from:), or are the class texts"


@HEADS.register("rac", knobs=KNOBS, reads=("scale",), needs=lambda spec: "" if spec.epochs == 0 else NEEDS)
class RetrievalAugmented(Head):
    """scale * (cos(f, w) + weight * cos(r, w)), r the mean row of the k nearest training images' classes: nothing of it trains

    r = sum over retrieved images of softmax(cos(f, k_i) / temperature - log n_i) w_i: n_i the training images of its class (or
    1), w_i the unit row of its label, which is what the image is called as the classifier has it (rows start as class-text
    features). Keys are the unit features of all training images, one central view each, of the network that the head stands on.
    Rows are those of a cosine head that was trained (``from:``), or start as any head's.
    """

    trains = False
    extends = "cosine"  # whose rows and options a run may take over

    def __init__(
        self,
        width: int,
        classes: int,
        scale: float,
        generator: Generator,
        k: int = 30,
        temperature: float = 0.07,
        values: str = "balanced",
        weight: float = 1.0,
    ):
        super().__init__()
        self.scale, self.k, self.temperature, self.factor = scale, k, temperature, weight
        self.balanced = values == "balanced"
        rows = torch.empty(classes, width).uniform_(-1, 1, generator=generator)
        self.weight = nn.Parameter(F.normalize(rows, dim=-1), requires_grad=False)
        self.register_buffer("keys", torch.empty(0, width))
        self.register_buffer("labels", torch.empty(0, dtype=torch.int64))

    @staticmethod
    def remembers(labels_N: np.ndarray, seed: int, knobs: Mapping[str, Any]) -> np.ndarray:
        """Positions of all training images."""
        return np.arange(len(labels_N))

    def remember(self, features_ND: Tensor, labels_N: Tensor) -> None:
        """Make the index."""
        self.keys, self.labels = F.normalize(features_ND, dim=-1).to(self.keys), labels_N.to(self.labels)

    def allocate(self, shapes: Mapping[str, Size]) -> None:
        """Make room for an index of as many images as a checkpoint holds."""
        if not len(self.keys) and {"keys", "labels"} <= shapes.keys():
            self.keys, self.labels = (getattr(self, name).new_zeros(shapes[name]) for name in ("keys", "labels"))

    def forward(self, f_BD: Tensor) -> Tensor:
        f_BD, rows_CD = F.normalize(self.feature(f_BD), dim=-1), F.normalize(self.weight, dim=-1)
        near_BK, which_BK = (f_BD @ self.keys.T).topk(min(self.k, len(self.keys)), dim=-1)
        prior_C = torch.bincount(self.labels, minlength=len(rows_CD)).log() if self.balanced else torch.zeros_like(rows_CD[:, 0])
        shares_BK = (near_BK / self.temperature - prior_C[self.labels[which_BK]]).softmax(-1)
        of_classes_BC = shares_BK.new_zeros(len(f_BD), len(rows_CD)).scatter_add(1, self.labels[which_BK], shares_BK)
        retrieved_BD = F.normalize(of_classes_BC @ rows_CD, dim=-1)
        return F.linear(f_BD + self.factor * retrieved_BD, rows_CD) * self.scale

"""The heads `tip-adapter` and `tip-adapter-f`: Tip-Adapter (Zhang et al. 2022, arXiv 2207.09519).

A cache of training features answers beside CLIP's text classifier. Shapes: B images, D features, E projected, M cached images,
C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pel_core.common.lazy import F, nn, torch
from pel_core.common.registry import Knob, above, at_least, one_of
from pel_core.common.seeds import generator
from pel_core.models.heads import HEADS, Head, feature_knob

if TYPE_CHECKING:
    from torch import Generator, Size, Tensor

KNOBS = (
    feature_knob("projected"),
    Knob("alpha", 1.0, "factor of the cache's logits beside CLIP's (residual ratio)", at_least(0)),
    Knob("beta", 5.5, "sharpness: a cached image at cosine c counts exp(-beta (1 - c))", above(0)),
    Knob(
        "per_class", 16, "training images of each class in the cache, at most, drawn with the run's seed; a rarer class gives "
        "all it has; 0: all images of all classes, which fills the cache with the head classes", at_least(0),
    ),
    Knob(
        "values", "one-hot", "one-hot: every cached image counts alike, so that a class counts by its cached images (the "
        "paper's, whose classes all have as many); balanced: every cached class counts alike", one_of("one-hot", "balanced"),
    ),
)  # fmt: skip


@HEADS.register("tip-adapter", knobs=KNOBS, reads=("scale",))
class TipAdapter(Head):
    """scale * cos(f, w) + alpha * sum over cached images of their class of exp(-beta (1 - cos(f, k))): nothing of it trains

    Keys k (M, E) are the unit features of training images, one central view each, before any tuning; the released code takes the
    mean over ten random crops. Class rows w stay at their start.
    """

    trains = False

    def __init__(
        self,
        width: int,
        classes: int,
        scale: float,
        generator: Generator,
        alpha: float = 1.0,
        beta: float = 5.5,
        per_class: int = 16,
        values: str = "one-hot",
    ):
        super().__init__()
        self.scale, self.alpha, self.beta, self.balanced = scale, alpha, beta, values == "balanced"
        rows = torch.empty(classes, width).uniform_(-1, 1, generator=generator)
        self.weight = nn.Parameter(F.normalize(rows, dim=-1), requires_grad=False)
        self.keys = nn.Parameter(torch.zeros(0, width), requires_grad=self.trains)
        self.register_buffer("labels", torch.zeros(0, dtype=torch.long))

    @staticmethod
    def remembers(labels_N: np.ndarray, seed: int, knobs: Mapping[str, Any]) -> np.ndarray:
        """Positions (M,) of the training images that go into the cache, in their own order; of each class drawn by itself, so
        that another class's images change none of its own."""
        if not (most := knobs["per_class"]):
            return np.arange(len(labels_N))
        drawn = [
            generator(seed, "tip-adapter", int(label)).permutation(np.flatnonzero(labels_N == label))[:most]
            for label in np.unique(labels_N)
        ]
        return np.sort(np.concatenate(drawn))

    def remember(self, features_ME: Tensor, labels_M: Tensor) -> None:
        """Fill the cache."""
        self.allocate({"keys": features_ME.shape, "labels": labels_M.shape})
        with torch.no_grad():
            self.keys.copy_(F.normalize(features_ME, dim=-1))
            self.labels.copy_(labels_M)

    def allocate(self, shapes: Mapping[str, Size]) -> None:
        """Make room in an empty cache."""
        if not len(self.keys) and {"keys", "labels"} <= shapes.keys():
            self.keys = nn.Parameter(self.keys.new_zeros(shapes["keys"]), requires_grad=self.keys.requires_grad)
            self.labels = self.labels.new_zeros(shapes["labels"])

    def forward(self, f_BD: Tensor) -> Tensor:
        f_BE = F.normalize(self.feature(f_BD), dim=-1)
        cosine_BC = F.linear(f_BE, F.normalize(self.weight, dim=-1)) * self.scale
        # In fp32 also under autocast: sums over thousands of cached images.
        affinity_BM = torch.exp(-self.beta * (1 - F.linear(f_BE, self.keys).float())) * self._values()
        cached_BC = torch.zeros_like(cosine_BC, dtype=affinity_BM.dtype).index_add(1, self.labels, affinity_BM)
        return cosine_BC + self.alpha * cached_BC

    def _values(self) -> Tensor | float:
        """What each cached image counts, (M,): 1, or M / (cached classes x cached images of its class)."""
        if not self.balanced:
            return 1.0
        counts_C = torch.bincount(self.labels, minlength=len(self.weight))
        return len(self.labels) / ((counts_C > 0).sum() * counts_C[self.labels])


@HEADS.register("tip-adapter-f", knobs=KNOBS, reads=("scale",))
class TipAdapterF(TipAdapter):
    """Tip-Adapter whose keys train from where the cache has them, and are not made unit again"""

    trains = True

"""Keys of a momentum encoder, for a loss that asks for them: a slow copy of what trains, which follows and has no gradient.

Shapes: B images, R pixels, D the width of what the head classifies, E of the space of contrast.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pel_core.training.averages import ema
from pel_core.training.classifier import Classifier


def momentum_keys(classifier: Classifier, criterion: Any, trained: Mapping[str, nn.Parameter]) -> "MomentumKeys | None":
    """The keys of a loss that asks for some; None for others. ``trained``: what trains, that of the loss as ``loss.NAME``."""
    return MomentumKeys(classifier, criterion, trained) if getattr(criterion, "keys", 0) else None


class MomentumKeys:
    """Images (B, 3, R, R) -> keys (B, E), through ``copies`` of the delta and of what the loss learns itself (its projector).

    Of the network only what trains is held once more: the frozen tower is the same for both. The head has no copy, as no key
    reads it. The copies start as what they follow.

    Args:
        criterion: a loss with ``momentum``, m below, and ``project``, features (B, D) -> keys (B, E).
    """

    def __init__(self, classifier: Classifier, criterion: Any, trained: Mapping[str, nn.Parameter]):
        self.classifier, self.criterion = classifier, criterion
        self.followed = {name: value for name, value in trained.items() if not name.startswith("head.")}
        self.copies = {name: value.detach().clone() for name, value in self.followed.items()}

    def follow(self) -> None:
        """Once a step, before it: copy <- m copy + (1 - m) parameter (MoCo, He et al. 2020, equation 2)."""
        ema(list(self.copies.values()), [value.detach() for value in self.followed.values()], 1, self.criterion.momentum)

    @torch.no_grad()
    def __call__(self, images: Tensor, size: int) -> Tensor:
        """Keys (B, E), ``size`` images at once through the network and all at once through the projector."""
        with self._instead():
            features = [self.classifier.head.feature(self.classifier.vit(part)) for part in images.split(size)]
            return self.criterion.project(torch.cat(features))

    @contextmanager
    def _instead(self) -> Iterator[None]:
        """Inside, parameters have the values of their copies, by exchange. No graph may be waiting for its gradient."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for name, parameter in self.followed.items():
            parameter.data, self.copies[name] = self.copies[name], parameter.data

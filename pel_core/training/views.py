"""Several crops of each training image, for a loss that asks for them, and two streams of images, for a sampler that has two.

Shapes: B images, V views, S = 2 streams, R pixels a side.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pel_core.data.batches import shuffled
from pel_core.spec.run_spec import RunSpec


def with_views(batches: Any, spec: RunSpec) -> Any:
    """The batches of a run with as many views as its loss asks for, or with a second stream beside them; ``batches`` itself (a
    `TrainBatches`) where neither is asked for."""
    if spec.streams > 1:
        return Streams(batches)
    return Views(batches, spec.train_views) if spec.train_views > 1 else batches


class Views:
    """Batches of V crops of each image: the first is what there is without the others, whose draws have names of their own."""

    def __init__(self, batches: Any, count: int):
        self.streams = [batches, *(batches.other_crops(f"view-{number}") for number in range(1, count))]

    def __len__(self) -> int:
        return len(self.streams[0])

    def epoch(self, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor, np.ndarray]]:
        """Yield (images (B, V, 3, R, R), labels (B,), indices) from an epoch's step ``first`` on."""
        for together in zip(*(stream.epoch(epoch, first) for stream in self.streams), strict=True):
            _, labels, indices = together[0]
            yield torch.stack([images for images, _, _ in together], 1), labels, indices


class Streams:
    """Batches of pairs: an image of the run's sampler, and one of the same training images shuffled, with draws of their own."""

    def __init__(self, batches: Any):
        self.streams = [batches, batches.second_stream("second", shuffled)]

    def __len__(self) -> int:
        return len(self.streams[0])

    def epoch(self, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor, np.ndarray]]:
        """Yield (images (B, S, 3, R, R), labels (B, S), indices of the first stream) from an epoch's step ``first`` on."""
        for pair in zip(*(stream.epoch(epoch, first) for stream in self.streams), strict=True):
            images, labels, indices = zip(*pair, strict=True)
            yield torch.stack(images, 1), torch.stack(labels, 1), indices[0]

"""Split: images of one purpose and their labels, as an array or as files. Shapes: N images, H x W pixels."""

from dataclasses import dataclass, replace

import numpy as np

from pel_core.data.image_cache import CachedImages


@dataclass(frozen=True)
class Split:
    """Images of one purpose, as an array or files: ``labels`` int64 (N,), ``images`` uint8 (N, H, W, 3), ``paths``, and the
    ``native`` pixels to which files are reduced when they are read, or ``cache``, which holds them decoded. ``file``: the list of
    the prepared folder that they are of, without suffix; ``rows`` int64 (N,): their positions in it, None for all of it."""

    labels: np.ndarray
    images: np.ndarray | None = None
    paths: list[str] | None = None
    native: int | None = None
    cache: CachedImages | None = None
    file: str = ""
    rows: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, positions: np.ndarray, labels: np.ndarray | None = None) -> "Split":
        """Some of the images (n,), in this order, with their labels or others (n,)."""
        return replace(
            self,
            labels=self.labels[positions] if labels is None else labels,
            images=None if self.images is None else self.images[positions],
            paths=self.paths and [self.paths[i] for i in positions.tolist()],
            cache=self.cache and self.cache.take(positions),
            rows=positions if self.rows is None else self.rows[positions],
        )

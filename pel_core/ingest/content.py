"""Content: what a source comes to, and a prepared folder holds. Shapes: N images, H x W pixels, C classes."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from pel_core.data import lists


@dataclass
class Content:
    """What a source yields. ``splits``: file name without suffix -> arrays to store; ``images``: the same for pixels;
    ``files``: split -> its list and file sizes (N,), where images are files, which lie below ``root``;
    ``finish`` puts in place what is not in these, just before the folder is written. ``class_ids`` and ``folders``: an
    identifier and the folder of the images of each class, where there are such. ``notes``: lines for
    a person."""

    class_names: list[str]
    train_counts: dict[str, list[int]]
    splits: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    images: dict[str, np.ndarray] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    finish: Callable[[], None] | None = None
    class_ids: list[str] | None = None
    folders: list[str] | None = None
    notes: list[str] = field(default_factory=list)
    root: str = ""
    files: dict[str, tuple[lists.ImageList, np.ndarray]] = field(default_factory=dict)

    def add_images(self, split: str, images: np.ndarray, labels: np.ndarray) -> None:
        """Add a split held as pixels, uint8 (N, H, W, 3), with labels (N,)."""
        self.images[split] = images = np.ascontiguousarray(images, np.uint8)
        self.splits[split] = {"labels": np.asarray(labels, np.int64)}
        self.digests[split] = hashlib.sha256(images.tobytes() + self.splits[split]["labels"].tobytes()).hexdigest()

    def add_files(self, split: str, images: lists.ImageList, sizes: np.ndarray) -> None:
        """Add a split held as files. Its digest is of paths, labels and sizes until `know_by_content` adds what files hold."""
        paths = np.frombuffer("\n".join(images.paths).encode(), np.uint8)
        self.splits[split] = {"labels": images.labels, "paths": paths}
        self.digests[split] = lists.digest(images, sizes)
        self.files[split] = images, sizes

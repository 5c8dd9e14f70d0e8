"""Decoded images: the files of a data set as uint8 pixels in one memory-mapped file, their shorter side at most S pixels.

``results/cache/BASE.S`` holds ``images.bin`` (pixels of one image after the other, (H, W, 3)), ``index.npz`` (``heights`` and
``widths``, int32 (M,), and for each split ``rows-SPLIT``, int64 (N,): which of the M images are its N) and, written last,
``cache.json``. `cache_build` makes it. Shapes: M images of a data set, N of a split, H x W pixels.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pel_core.common.errors import PelError
from pel_core.common.files import read_json, sha256
from pel_core.common.shipped import program, snakemake
from pel_core.common.versions import check_versions

FORMAT = 1


def cache_folder(results: str | Path, base: str, size: int) -> Path:
    """Where the decoded images of a data set lie."""
    return Path(results) / "cache" / f"{base}.{size}"


@dataclass(frozen=True)
class CachedImages:
    """The N images of a split: ``cache[i]`` is uint8 (H, W, 3), read-only, still on disk until it is used.

    ``rows``, ``starts`` (bytes), ``heights``, ``widths``: (N,). The file is mapped once in each process that reads it, so that
    the jobs of a machine share its pages; a worker that is sent this object maps it anew.
    """

    file: Path
    starts: np.ndarray
    heights: np.ndarray
    widths: np.ndarray

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, position: int) -> np.ndarray:
        start, height, width = (int(values[position]) for values in (self.starts, self.heights, self.widths))
        return self._pixels[start : start + height * width * 3].reshape(height, width, 3)

    def take(self, positions: np.ndarray) -> "CachedImages":
        """Some of them."""
        kept = {name: getattr(self, name)[positions] for name in ("starts", "heights", "widths")}
        return replace(self, **kept)

    @property
    def _pixels(self) -> np.ndarray:
        if "_mapped" not in self.__dict__:
            self.__dict__["_mapped"] = np.memmap(self.file, np.uint8, mode="r").view(np.ndarray)
        return self.__dict__["_mapped"]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_mapped"}


def open_cache(folder: str | Path, split: str, digest: str) -> CachedImages:
    """The decoded images of a split, in its order.

    Args:
        folder: of `cache_folder`.
        split: the name of its file in the prepared folder, such as ``train-ir100``.
        digest: of the split, as ``data.json`` has it.

    Raises:
        PelError: they were never built or only in part, of other images, by another version, or a file is damaged.
    """
    folder = Path(folder)
    base, _, size = folder.name.rpartition(".")
    again = f"run `{program()} data cache {base} --size {size} --results {folder.parents[1]}` ({snakemake()} does)"
    path = folder / "cache.json"
    if not path.is_file():
        raise PelError(f"the images of '{base}' are not decoded at {size} pixels ({path} does not exist): {again}")
    about = read_json(path, ("format", "digests", "bytes", "index_sha256"))
    check_versions(path, about, again)
    if about["format"] != FORMAT or about["digests"].get(split) != digest:
        raise PelError(f"{folder} was decoded from other images than '{base}' has now, or in another format: {again}")
    file, index = folder / "images.bin", folder / "index.npz"
    found = file.stat().st_size if file.is_file() else 0
    if found != about["bytes"] or not index.is_file() or sha256(index) != about["index_sha256"]:
        raise PelError(f"{folder} is damaged ({file.name}: {found} bytes of {about['bytes']}, or {index.name}): {again}")
    with np.load(index, allow_pickle=False) as arrays:
        rows, heights, widths = arrays[f"rows-{split}"], arrays["heights"], arrays["widths"]
    return CachedImages(file, offsets(heights, widths)[rows], heights[rows], widths[rows])


def offsets(heights: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Where each image begins, in bytes, and where the last one ends: int64 (M + 1,)."""
    return np.concatenate([[0], np.cumsum(3 * heights.astype(np.int64) * widths)])

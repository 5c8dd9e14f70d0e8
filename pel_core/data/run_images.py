"""The images of a run: a prepared data set at another native resolution, or read from decoded images."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from pel_core.common.errors import PelError
from pel_core.common.files import read_json
from pel_core.data.datasets import Prepared, split_name
from pel_core.data.image_cache import cache_folder, open_cache
from pel_core.data.split import Split
from pel_core.data.transforms import downscaled


def at_native(data: Prepared, native: int | None) -> Prepared:
    """The data set as if its images came at ``native`` pixels: arrays are reduced at once, files when they are read."""
    if native is None:
        return data

    def reduce(split: Split | None) -> Split | None:
        if split is None or split.images is None:
            return split and replace(split, native=native)
        return replace(split, images=np.stack([np.asarray(downscaled(Image.fromarray(image), native)) for image in split.images]))

    return replace(data, train=reduce(data.train), test=reduce(data.test), val=reduce(data.val))


def decoded(data: Prepared, results: Path, size: int | None) -> Prepared:
    """The data set with its files read from the images that `cache_build` decoded at ``size`` pixels.

    Raises:
        PelError: its images are no files, or are not decoded, or others are.
    """
    if size is None:
        return data
    if data.train.images is not None:
        raise PelError(f"image_cache={size}: the images of '{data.name}' are not files but held as pixels; leave it out")
    base = split_name(data.name)[0]
    digests = read_json(results / "data" / base / "data.json", ("digests",))["digests"]

    def cached(split: Split | None) -> Split | None:
        if split is None:
            return None
        images = open_cache(cache_folder(results, base, size), split.file, digests[split.file])
        return replace(split, cache=images if split.rows is None else images.take(split.rows))

    return replace(data, train=cached(data.train), test=cached(data.test), val=cached(data.val))

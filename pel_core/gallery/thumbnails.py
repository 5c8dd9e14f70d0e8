"""Small pictures of images as addresses that hold them, within a budget of bytes."""

import base64
import io
from collections.abc import Iterable, Iterator

import numpy as np
from PIL import Image, features

from pel_core.common.errors import PelError
from pel_core.data.split import Split
from pel_core.data.transforms import load_rgb

SIZES = ((72, 55), (56, 40), (40, 30))  # pixels of the longer side and quality, from what looks best to what takes least


def thumbnails(wanted: Iterable[tuple[Split, int]], budget: int) -> tuple[list[str], int, int]:
    """An address for each image, "" for one that cannot be read; how many could not; and the pixels of the longer side.

    Sizes are tried from large to small until all fit into ``budget`` bytes; with the smallest, what does not fit is left out at
    the end, so that the list may be shorter.
    """
    wanted = list(wanted)
    for pixels, quality in SIZES:
        found, spent = [], 0
        for address in _addresses(wanted, pixels, quality):
            spent += len(address)
            if spent > budget:
                break
            found.append(address)
        if len(found) == len(wanted) or pixels == SIZES[-1][0]:
            break
    return found, sum(not address for address in found), pixels


def _addresses(wanted: Iterable[tuple[Split, int]], pixels: int, quality: int) -> Iterator[str]:
    kind = "webp" if features.check("webp") else "jpeg"
    for split, position in wanted:
        try:
            image = picture(split, position)
        except PelError:
            yield ""
            continue
        image.thumbnail((pixels, pixels))
        held = io.BytesIO()
        image.save(held, kind, quality=quality)
        yield f"data:image/{kind};base64,{base64.b64encode(held.getvalue()).decode()}"


def picture(split: Split, position: int) -> Image.Image:
    """An image of a split as RGB.

    Raises:
        PelError: its file cannot be read.
    """
    if split.images is not None:
        return Image.fromarray(np.asarray(split.images[position]))
    if split.cache is not None:
        return Image.fromarray(np.asarray(split.cache[position]))
    return load_rgb(split.paths[position])

"""Images in the forms that Python has them in: files, PIL images, arrays. Shapes: N images, H x W pixels."""

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pel_core.common.errors import PelError
from pel_core.data.transforms import as_rgb, load_rgb
from pel_core.evaluation.new_images import find_images

ImageLike: TypeAlias = str | os.PathLike[str] | Image.Image | NDArray[Any]
EXPECTED = "expected uint8 (H, W, 3), (H, W, 4) or (H, W), or uint16 (H, W)"


def listed(images: ImageLike | Iterable[ImageLike]) -> list[ImageLike]:
    """The images that are meant, one by one. A path may be a file, a folder (all images below it), or a pattern; an array of four
    dimensions (N, H, W, 3 or 4) is N images.

    Raises:
        PelError: a path without images, none at all, or something that is no image.
    """
    found = list(_each(images))
    if not found:
        raise PelError("no image is given; expected files, folders, PIL images or arrays")
    return found


def _each(images: ImageLike | Iterable[ImageLike]) -> Iterator[ImageLike]:
    if isinstance(images, str | os.PathLike):
        yield from find_images([os.fspath(images)])
    elif isinstance(images, Image.Image):
        yield images
    elif isinstance(images, np.ndarray):
        yield from images if images.ndim == 4 else [images]
    elif isinstance(images, Iterable) and not hasattr(images, "detach"):  # a tensor's rows are no images
        for image in images:
            yield from _each(image)
    else:
        raise _no_image(images)


def _no_image(found: object) -> PelError:
    hint = "; of a tensor (3, H, W) give .permute(1, 2, 0).numpy(), bytes 0 to 255" if hasattr(found, "detach") else ""
    return PelError(f"{type(found).__name__} is no image: expected a path, a PIL image or an array{hint}")


def names_of(images: Sequence[ImageLike]) -> list[str]:
    """A name of each image: its path, or its number from 0."""
    return [os.fspath(x) if isinstance(x, str | os.PathLike) else f"image {i}" for i, x in enumerate(images)]


def opened(image: ImageLike, native: int | None, name: str = "the image") -> Image.Image:
    """An image as an evaluation reads one: 8-bit RGB, reduced to ``native`` pixels.

    Raises:
        PelError: it cannot be decoded, or is an array of another shape or kind of number; ``name`` is said.
    """
    if isinstance(image, str | os.PathLike):
        return load_rgb(os.fspath(image), native)
    if isinstance(image, np.ndarray):
        image = _from_array(image, name)
    if not isinstance(image, Image.Image):
        raise _no_image(image)
    try:
        return as_rgb(image, native)
    except Exception as error:  # PIL decodes only now, and a damaged file makes it raise nearly anything
        raise PelError(f"{name} cannot be decoded: {error}") from None


def _from_array(array: NDArray[Any], name: str) -> Image.Image:
    colour = array.ndim == 3 and array.shape[2] in (3, 4) and array.dtype == np.uint8
    grey = array.ndim == 2 and array.dtype in (np.uint8, np.uint16)
    if not (colour or grey) or not array.size:
        hint = "; numbers from 0 to 1 are (255 * x).round().astype('uint8')" if array.dtype.kind == "f" else ""
        raise PelError(f"{name} is an array {array.dtype} {array.shape}: {EXPECTED}{hint}")
    return Image.fromarray(np.ascontiguousarray(array))

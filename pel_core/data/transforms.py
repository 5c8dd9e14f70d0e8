"""Image geometry: crop boxes drawn from a table of uniforms, evaluation crops, and the exact PIL pipeline.

NumPy and PIL only, so that a loading worker needs nothing else. Shapes: n images; a box is (top, left, height, width).
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from pel_core.common.errors import PelError
from pel_core.common.seeds import derive
from pel_core.data.augmentations import AUGMENTATIONS
from pel_core.data.ensembling import find_ensemble
from pel_core.data.image_files import how_to_read, register_heic, suffix_of

if TYPE_CHECKING:
    from torch import Tensor

ATTEMPTS = 10  # of RandomResizedCrop, as in torchvision
DRAWS = 24  # per image: area and aspect of each attempt, vertical and horizontal position, flip, one unused
ASPECT = (3 / 4, 4 / 3)
# Philox yields four numbers a counter step, so a row of the table starts at a whole step only if this divides by four.
STEPS_PER_IMAGE = DRAWS // 4

LARGEST = 2**26  # pixels of a resized test image, 200 MB; beyond that its crops are resized one by one

register_heic()  # once in each process that decodes; by content, as of every format, whatever a file is called

RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def uniforms(seed: int, epoch: int, start: int, count: int, purpose: str = "augment") -> np.ndarray:
    """Rows ``start`` to ``start + count`` of an epoch's augmentation table, float64 (count, DRAWS) in [0, 1).

    The table is one stream entered anywhere, so that it does not depend on who reads it: neither the number of workers nor
    the batch size moves an image's crop. A row belongs to a position in the epoch's order. With the ``purpose`` "tte" the
    epoch is the number of a random test crop.
    """
    stream = np.random.Philox(derive(seed, purpose, epoch))
    stream.advance(start * STEPS_PER_IMAGE)
    return np.random.Generator(stream).random((count, DRAWS))


def random_boxes(u: np.ndarray, height: int, width: int, min_scale: float) -> tuple[np.ndarray, np.ndarray]:
    """RandomResizedCrop and horizontal flip (p = 0.5) of ``n`` images of one size.

    Args:
        u: (n, DRAWS) rows of `uniforms`.
        height, width: of the images, in pixels.
        min_scale: smallest crop area as a fraction of the image's; the largest is 1. The aspect ratio is log-uniform in 3/4..4/3.

    Returns:
        boxes int64 (n, 4) and flips bool (n,).

    Source: torchvision's RandomResizedCrop: the first of ten attempts that fits, else the largest central crop of a
    permitted aspect ratio.
    """
    area = height * width * (min_scale + (1 - min_scale) * u[:, 0 : 2 * ATTEMPTS : 2])
    low, high = np.log(ASPECT)
    aspect = np.exp(low + (high - low) * u[:, 1 : 2 * ATTEMPTS : 2])
    tries_w, tries_h = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
    fits = (tries_w > 0) & (tries_w <= width) & (tries_h > 0) & (tries_h <= height)
    first = fits.argmax(axis=1)[:, None]
    w, h = (np.take_along_axis(tries, first, 1)[:, 0].astype(np.int64) for tries in (tries_w, tries_h))
    top, left = (u[:, 20] * (height - h + 1)).astype(np.int64), (u[:, 21] * (width - w + 1)).astype(np.int64)
    boxes = np.stack([top, left, h, w], axis=1)
    boxes[~fits.any(axis=1)] = fallback_box(height, width)
    return boxes, u[:, 22] < 0.5


def square_boxes(u: np.ndarray, height: int, width: int, min_scale: float) -> tuple[np.ndarray, np.ndarray]:
    """LIFT+'s minimalist crops: squares whose area is uniform in min_scale..1 of the image's, anywhere; and horizontal flips.

    Arguments and result as of `random_boxes`. Both ends of the range are capped at the largest square that fits.
    """
    cap = min(height, width) ** 2 / (height * width)
    low, high = min(min_scale, cap), min(1.0, cap)
    side = np.rint(np.sqrt(height * width * (low + (high - low) * u[:, 0])))
    side = side.clip(1, min(height, width)).astype(np.int64)
    top, left = (u[:, 20] * (height - side + 1)).astype(np.int64), (u[:, 21] * (width - side + 1)).astype(np.int64)
    return np.stack([top, left, side, side], axis=1), u[:, 22] < 0.5


@dataclass(frozen=True)
class Augmenter:
    """How training images are cropped: ``augment`` (an entry of AUGMENTATIONS), its smallest area, the epochs it takes.

    ``knobs`` are the entry's, as pairs of name and value; ``fill`` (3,) in 0..255 is what erased pixels become.
    """

    augment: str
    min_scale: float
    epochs: int = 1
    knobs: tuple[tuple[str, Any], ...] = ()
    fill: tuple[int, ...] = (0, 0, 0)

    def boxes(self, u: np.ndarray, height: int, width: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Crop boxes (n, 4) and flips (n,) in an epoch, from the rows of its table."""
        entry = AUGMENTATIONS[dict(self.knobs).get("crop", self.augment)]
        return entry.boxes(u, height, width, entry.smallest(self.min_scale, epoch, self.epochs))

    @property
    def has_policy(self) -> bool:
        """Whether anything is done to the crops after they are cut."""
        return AUGMENTATIONS[self.augment].policy is not None

    def after(self, crops: "Tensor", seed: int, purpose: str, epoch: int, positions: Sequence[int]) -> "Tensor":
        """Crops uint8 (n, 3, R, R) after the entry's policy; ``positions`` (n,) are theirs in the epoch's order."""
        from pel_core.data.policies import apply_policy, make_policy  # which imports torch

        policy = make_policy(self.augment, self.knobs, self.fill)
        return apply_policy(policy, crops, [(f"{purpose}-policy", epoch, position) for position in positions], seed)


def fallback_box(height: int, width: int) -> tuple[int, int, int, int]:
    """The largest central crop whose aspect ratio is permitted."""
    h, w = height, width
    if width / height < ASPECT[0]:
        h = round(width / ASPECT[0])
    elif width / height > ASPECT[1]:
        w = round(height * ASPECT[1])
    return (height - h) // 2, (width - w) // 2, h, w


def resized(height: int, width: int, shorter: int) -> tuple[int, int]:
    """Size after the shorter edge is resized to ``shorter``; the longer is truncated to a whole number."""
    if height <= width:
        return shorter, int(shorter * width / height)
    return int(shorter * height / width), shorter


def evaluation_size(tte: str, resolution: int, expand: int) -> int:
    """Shorter edge before cropping, of an entry of TTE with fixed crops or ``plain``."""
    return find_ensemble(tte).shorter(resolution, expand)


def crop_corners(tte: str, height: int, width: int, resolution: int) -> list[tuple[int, int, bool]]:
    """Where the evaluation crops lie in a resized image: (top, left, mirrored) each (`ensembling`)."""
    return find_ensemble(tte).corners(height, width, resolution)


def downscaled(image: Image.Image, native: int | None) -> Image.Image:
    """The image with its shorter side at most ``native`` pixels, resized bilinearly with antialiasing; never enlarged."""
    if native is None or min(image.size) <= native:
        return image
    height, width = resized(image.height, image.width, native)
    return image.resize((width, height), RESAMPLING["bilinear"])


def load_rgb(path: str | Path, native: int | None = None) -> Image.Image:
    """Decode an image file to 8-bit RGB and reduce it to ``native`` pixels.

    Grey, palette, CMYK and 16-bit images are converted, transparency is dropped, of an animation the first frame is taken. As in
    the reference (torchvision's ``ImageFolder``), EXIF orientation and colour profiles have no effect, nor has the suffix. An
    AVIF or HEIC image is turned as its container says, which is a part of these formats.

    Raises:
        PelError: naming the path: the file is missing, damaged, no image, or has more pixels than PIL admits.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about palettes, EXIF and size: none changes the pixels
            with Image.open(path) as image:
                return as_rgb(image, native)
    except Image.DecompressionBombError as error:
        raise PelError(f"image {path} cannot be decoded ({error}); scale it down or take it away") from None
    except Exception as error:  # damaged files make PIL's decoders raise nearly anything
        what = how_to_read(suffix_of(str(path))) or "restore the file, or take it away (where a list names it, off the list)"
        raise PelError(f"image {path} cannot be decoded ({error}); {what}") from None


def as_rgb(image: Image.Image, native: int | None = None) -> Image.Image:
    """An opened image as `load_rgb` gives it.

    Raises:
        ValueError: floating-point or 32-bit pixels, whose range is unknown; or as PIL, which decodes it now.
    """
    if image.mode.startswith("I"):
        return downscaled(_sixteen_bits(image).convert("RGB"), native)
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose range is unknown")
    return downscaled(image.convert("RGB"), native)


def _sixteen_bits(image: Image.Image) -> Image.Image:
    """A grey image of 16 bits a pixel in 8: PIL's own conversion would clip at 255 instead of scaling."""
    pixels = np.asarray(image)
    if pixels.min() < 0 or pixels.max() > 0xFFFF:
        raise ValueError("32-bit pixels, whose range is unknown")
    return Image.fromarray((pixels >> 8).astype(np.uint8))


def train_crop(
    image: Image.Image, u: np.ndarray, resolution: int, augmenter: Augmenter, epoch: int = 0, interpolation: str = "bilinear"
) -> np.ndarray:
    """One augmented training image, uint8 (R, R, 3), from its row ``u`` (DRAWS,) of the table."""
    boxes, flips = augmenter.boxes(u[None], image.height, image.width, epoch)
    top, left, h, w = boxes[0].tolist()
    # Cropped first: PIL's resize with a box would let pixels outside the crop bleed into its border.
    crop = image.crop((left, top, left + w, top + h)).resize((resolution, resolution), RESAMPLING[interpolation])
    return np.asarray(crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flips[0] else crop)


def evaluation_crops(image: Image.Image, tte: str, resolution: int, expand: int, interpolation: str = "bilinear") -> np.ndarray:
    """The crops of one test image, uint8 (K, R, R, 3)."""
    height, width = resized(image.height, image.width, evaluation_size(tte, resolution, expand))
    corners = crop_corners(tte, height, width, resolution)
    if height * width > LARGEST:
        return np.stack([_window(image, height, width, corner, resolution, interpolation) for corner in corners])
    pixels = np.asarray(image.resize((width, height), RESAMPLING[interpolation]))
    views = {False: pixels, True: pixels[:, ::-1]}
    return np.stack([views[m][top : top + resolution, left : left + resolution] for top, left, m in corners])


def _window(
    image: Image.Image, height: int, width: int, corner: tuple[int, int, bool], resolution: int, interpolation: str
) -> np.ndarray:
    """One crop of the image resized to height x width, without resizing the rest: a strip of 1 x 5000 pixels would become one of
    248 x 1,240,000. PIL reads the pixels around a box too, so that the crop is the same but for rounding."""
    top, left, mirrored = corner
    left = width - left - resolution if mirrored else left
    down, right = image.height / height, image.width / width
    box = (left * right, top * down, min((left + resolution) * right, image.width), min((top + resolution) * down, image.height))
    crop = np.asarray(image.resize((resolution, resolution), RESAMPLING[interpolation], box=box))
    return crop[:, ::-1] if mirrored else crop

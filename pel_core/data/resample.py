"""PIL's antialiased bilinear or bicubic resize as two matrix products, for whole batches of boxes on the device.

Shapes: B images of H x W pixels, R output pixels a side.
"""

from collections.abc import Callable

import torch
from torch import Tensor

BITS = 22  # Pillow's fixed-point weights: whole multiples of 2**-22
HALF_BITS = 11  # of each of their two parts


def triangle(x: Tensor) -> Tensor:
    """The bilinear kernel."""
    return (1 - x.abs()).clamp(min=0)


def cubic(x: Tensor) -> Tensor:
    """The bicubic kernel of Keys with a = -0.5, Pillow's; it is negative beyond 1 and zero beyond 2."""
    a, x = -0.5, x.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


KERNELS: dict[str, Callable[[Tensor], Tensor]] = {"bilinear": triangle, "bicubic": cubic}


def resize_weights(
    start: Tensor, size: Tensor, source: int, target: int, flip: Tensor | None = None, interpolation: str = "bilinear"
) -> Tensor:
    """Weights with which ``target`` output pixels read ``source`` input pixels, of which ``size`` from ``start`` on are resized.

    Pillow's fixed-point weights w are given in two parts, w = 2**11 high + low, so that every product with a pixel and every
    sum is a whole number that float32 holds exactly (and bilinear ones TF32 too, in its products).

    Args:
        start, size: int64 (B,), a segment of the input axis; pixels outside it weigh nothing.
        source, target: lengths of the axes.
        flip: bool (B,), mirror the output.
        interpolation: the kernel.

    Returns:
        float32 (B, 2 target, source) of whole numbers: the high parts, then the low parts. A row's w sum to about 2**22.

    Source: Pillow's resampling: a kernel stretched by max(1, size / target), cut at the segment's ends, normalised.
    """
    start, size = (x.double()[:, None, None] for x in (start, size))
    out = torch.arange(target, device=start.device, dtype=torch.float64)[None, :, None]
    pixel = torch.arange(source, device=start.device, dtype=torch.float64)[None, None, :] - start
    if flip is not None:
        out = torch.where(flip[:, None, None], target - 1 - out, out)
    scale = size / target
    centre = (out + 0.5) * scale
    weight = KERNELS[interpolation]((pixel - centre + 0.5) / scale.clamp(min=1))
    weight = weight * ((pixel >= 0) & (pixel < size))
    fixed = weight / weight.sum(-1, keepdim=True) * 2**BITS
    fixed = (fixed.abs() + 0.5).floor() * fixed.sign()  # half away from zero
    high = (fixed / 2**HALF_BITS).round()
    return torch.cat([high, fixed - high * 2**HALF_BITS], dim=1).float()


def resize_batch(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Resize uint8 (B, H, W, 3) with the `resize_weights` of rows (B or 1, 2R, H) and of columns (B or 1, 2R, W).

    Returns:
        float32 (B, 3, R, R) of whole numbers 0..255, the very ones that PIL gives: horizontal first, rounded to a byte
        between the passes. (Pillow 13 takes the vertical pass first where the height shrinks much more than the width;
        those images differ by at most 1.)
    """
    with torch.autocast(images.device.type, enabled=False):
        across = images.permute(0, 3, 1, 2).float() @ columns.mT[:, None]
        across = _bytes(*across.chunk(2, dim=-1))
        return _bytes(*(rows[:, None] @ across).chunk(2, dim=-2))


def _bytes(high: Tensor, low: Tensor) -> Tensor:
    """Whole numbers 0..255, float32, from the two parts of a fixed-point sum, half rounded up."""
    total = (high.int() << HALF_BITS).add_(low.int()).add_(1 << BITS - 1)
    return total.bitwise_right_shift_(BITS).clamp_(0, 255).float()


def crop_resize(images: Tensor, boxes: Tensor, flips: Tensor, resolution: int, interpolation: str = "bilinear") -> Tensor:
    """Crop each image to its box, resize to R x R and mirror where asked; boxes int64 (B, 4), flips bool (B,).

    Returns:
        float32 (B, 3, R, R) of whole numbers 0..255.
    """
    rows = resize_weights(boxes[:, 0], boxes[:, 2], images.shape[1], resolution, None, interpolation)
    columns = resize_weights(boxes[:, 1], boxes[:, 3], images.shape[2], resolution, flips, interpolation)
    return resize_batch(images, rows, columns)


def normalise(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Pixels 0..255, float32 (..., 3, R, R), changed in place to (x / 255 - mean) / std; ``mean`` and ``std`` are (3, 1, 1)."""
    return pixels.div_(255).sub_(mean).div_(std)

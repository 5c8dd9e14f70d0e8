"""TTE: test-time ensembling, the crops of a test image whose logits are averaged. Torch-free.

Shapes: an image of H x W pixels is resized, then cropped at R x R; a corner is (top, left, mirrored).
"""

from collections.abc import Callable
from dataclasses import dataclass

from pel_core.common.registry import Registry

Corner = tuple[int, int, bool]


@dataclass(frozen=True)
class Ensemble:
    """Crops of one test image.

    ``shorter``: (R, expand) -> pixels of the shorter edge before cropping. ``corners``: (H, W, R) of the resized image -> where
    the crops lie. ``views``: how many; 0 for as many random training crops as the option ``crops`` says.
    """

    views: int
    shorter: Callable[[int, int], int] | None = None
    corners: Callable[[int, int, int], list[Corner]] | None = None


TTE: Registry[Ensemble] = Registry("tte")


def centre(height: int, width: int, resolution: int) -> list[Corner]:
    """The central crop. A half pixel rounds to even, as Python's ``round`` does."""
    return [(round((height - resolution) / 2), round((width - resolution) / 2), False)]


def five(height: int, width: int, resolution: int) -> list[Corner]:
    """Top left, top right, bottom left, bottom right, centre."""
    down, right = height - resolution, width - resolution
    return [(0, 0, False), (0, right, False), (down, 0, False), (down, right, False), *centre(height, width, resolution)]


def ten(height: int, width: int, resolution: int) -> list[Corner]:
    """The five, and the same five of the mirrored image, whose positions count in the mirrored image."""
    plain = five(height, width, resolution)
    return plain + [(top, left, True) for top, left, _ in plain]


def expanded(resolution: int, expand: int) -> int:
    """The network's side, and ``expand`` pixels around."""
    return resolution + expand


TTE.register("fivecrop", Ensemble(5, expanded, five), about="corners and centre of the enlarged image", reads=("expand",))
TTE.register("tencrop", Ensemble(10, expanded, ten), about="the five crops and those of the mirrored image", reads=("expand",))
TTE.register("randaug", Ensemble(0), about="random training crops", reads=("crops", "crop_min_scale"))
TTE.register("none", Ensemble(1, lambda resolution, expand: resolution * 8 // 7, centre), about="the central crop alone")

# The crop from which heads start: not a choice of a run's evaluation.
PLAIN = Ensemble(1, lambda resolution, expand: resolution, centre)


def find_ensemble(tte: str) -> Ensemble:
    """The entry of that name, or ``plain``: resized to R, central crop."""
    return PLAIN if tte == "plain" else TTE.entry(tte).value

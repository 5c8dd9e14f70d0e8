"""BACKBONES: every pre-trained ViT by name, as data. ``weights.py`` turns an entry into tensors.

The image statistics and the interpolation are declared here, never taken from a library's transform: open_clip's own
preprocessing is bicubic, the reference's is bilinear.
"""

from dataclasses import dataclass
from typing import Literal

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Backbone:
    """Where a ViT comes from and what it expects.

    ``source``: ``open_clip`` (``arch`` with a pre-trained ``tag``, or a local file), ``bundled`` (an open_clip model folder
    inside this package), ``timm`` (``arch`` names weights too) or ``random`` (seeded, for tests).
    """

    label: str
    source: Literal["open_clip", "bundled", "timm", "random"]
    arch: str
    layers: int
    width: int
    patch: int
    resolution: int
    tag: str = ""
    quick_gelu: bool = False
    text: bool = True
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"


BACKBONES: dict[str, Backbone] = {
    "clip-mini": Backbone("clip-mini (demo)", "bundled", "demo/clip-mini", 12, 128, 8, 32, quick_gelu=True),
    "clip-b32": Backbone("ViT-B/32", "open_clip", "ViT-B-32-quickgelu", 12, 768, 32, 224, "openai", quick_gelu=True),
    "clip-b16": Backbone("ViT-B/16", "open_clip", "ViT-B-16-quickgelu", 12, 768, 16, 224, "openai", quick_gelu=True),
    "clip-l14": Backbone("ViT-L/14", "open_clip", "ViT-L-14-quickgelu", 24, 1024, 14, 224, "openai", quick_gelu=True),
    "in21k-b16": Backbone(
        "ViT-B/16 (IN21K)", "timm", "vit_base_patch16_224.augreg_in21k", 12, 768, 16, 224, text=False, mean=HALF, std=HALF
    ),
    "toy": Backbone("toy", "random", "toy", 4, 32, 8, 16, quick_gelu=True),
}

"""BACKBONES: pre-trained ViTs by name, as data. ``weights.py`` turns an entry into tensors.

Any other ViT of timm or open_clip has its entry made from its own library's description (``by_name``).
The image statistics are declared here, never taken from a library's transform: open_clip's own preprocessing is bicubic,
the reference's is bilinear (the option ``interpolation`` of a run).
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from pel_core.common.errors import PLUGIN, PelError, unknown
from pel_core.common.paths import expand_user
from pel_core.common.registry import Entry, Registry
from pel_core.common.shipped import PACKAGE, require
from pel_core.models.by_name import SPELLINGS, file_safe, is_by_name, look_up

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Backbone:
    """Where a ViT comes from and what it expects.

    ``source``: ``open_clip`` (``arch`` with a pre-trained ``tag``, or a local file), ``bundled`` (an open_clip model folder
    inside this package), ``timm`` (``arch`` names weights too) or ``random`` (seeded, for tests). ``quick_gelu`` is asserted
    when the weights are loaded. ``native`` is the weights' own resolution where it is not ``resolution``, to which their
    position embeddings are then resized. ``interpolation`` is how upstream resizes images for these weights: a run does not
    follow it, but its own option of that name, whose default is the reference's bilinear.

    Of networks that are no plain ViT, for plans: ``prefix_tokens``, class token and registers; ``hidden``, the first MLP layer's
    outputs where not 4 widths; ``gated``: half of these gate the other half; ``reads_all``: the feature is pooled of all
    patches. ``repository``: the hub's, of a backbone by name. ``stages``: of a ResNet, the blocks of each; all of it is one block
    to methods, and ``patch`` its stride. ``plain_text``: a text tower, if there is one, is built as CLIP's.
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
    native: int = 0
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    prefix_tokens: int = 1
    hidden: int = 0
    gated: bool = False
    reads_all: bool = False
    repository: str = ""
    stages: tuple[int, ...] = ()
    plain_text: bool = True

    @property
    def causal_text(self) -> bool:
        """Whether its text tower is CLIP's, causal and read at the end token: the kind that heads can train through."""
        return self.text and self.plain_text

    @property
    def folder(self) -> Path:
        """Where a ``bundled`` model lies: ``arch`` below the package.

        Raises:
            PelError: the package was installed without it.
        """
        folder = PACKAGE / self.arch
        return require(folder, "the demo") if self.source == "bundled" else folder


def _clip(label: str, arch: str, layers: int, width: int, patch: int, tag: str, resolution: int = 224, **options) -> Backbone:
    """A CLIP of open_clip; its name says whether the activation is QuickGELU."""
    return Backbone(label, "open_clip", arch, layers, width, patch, resolution, tag, arch.endswith("-quickgelu"), **options)


def _resnet(label: str, arch: str, stages: tuple[int, ...], width: int) -> Backbone:
    """A ResNet of OpenAI's CLIP; the feature is the projected one, as in LIFT. QuickGELU is its text tower's."""
    return Backbone(label, "open_clip", arch, 1, width, 32, 224, "openai", quick_gelu=True, stages=stages)


def _siglip(label: str, arch: str, layers: int, width: int, patch: int, resolution: int, hidden: int = 0) -> Backbone:
    """A SigLIP or SigLIP 2 of open_clip: no class token, the feature is pooled of all patches by a learned query (Zhai et al.
    2023; Tschannen et al. 2025). Its texts live in the space of that feature, without a projection; the bias of its sigmoid is
    the same for every class and drops out of a softmax."""
    sizes = {"mean": HALF, "std": HALF, "prefix_tokens": 0, "reads_all": True, "hidden": hidden, "plain_text": False}
    return Backbone(label, "open_clip", arch, layers, width, patch, resolution, "webli", **sizes)


def _dino(label: str, size: str, layers: int, width: int) -> Backbone:
    """A DINOv2 of timm, trained at 518 pixels and used at 224; its layer scale is folded into the weights on loading."""
    arch = f"vit_{size}_patch14_dinov2.lvd142m"
    return Backbone(label, "timm", arch, layers, width, 14, 224, text=False, mean=IMAGENET_MEAN, std=IMAGENET_STD, native=518)


def _in21k(label: str, size: str, layers: int, width: int) -> Backbone:
    """A ViT trained on ImageNet-21k alone. timm's default tags are fine-tuned on ImageNet-1k, which ImageNet-LT is part of."""
    arch = f"vit_{size}_patch16_224.augreg_in21k"
    return Backbone(label, "timm", arch, layers, width, 16, 224, text=False, mean=HALF, std=HALF)


_BACKBONES: dict[str, Backbone] = {
    "clip-mini": Backbone(
        "clip-mini (demo)", "bundled", "demo/clip-mini", 12, 96, 8, 32, quick_gelu=True, interpolation="bilinear"
    ),
    "clip-b32": _clip("ViT-B/32", "ViT-B-32-quickgelu", 12, 768, 32, "openai"),
    "clip-b16": _clip("ViT-B/16", "ViT-B-16-quickgelu", 12, 768, 16, "openai"),
    "clip-l14": _clip("ViT-L/14", "ViT-L-14-quickgelu", 24, 1024, 14, "openai"),
    "clip-l14-336": _clip("ViT-L/14@336", "ViT-L-14-336-quickgelu", 24, 1024, 14, "openai", 336),
    "laion-b32": _clip("ViT-B/32 (LAION-2B)", "ViT-B-32", 12, 768, 32, "laion2b_s34b_b79k"),
    "laion-b16": _clip("ViT-B/16 (LAION-2B)", "ViT-B-16", 12, 768, 16, "laion2b_s34b_b88k"),
    "laion-l14": _clip("ViT-L/14 (LAION-2B)", "ViT-L-14", 24, 1024, 14, "laion2b_s32b_b82k", mean=HALF, std=HALF),
    "laion-h14": _clip("ViT-H/14 (LAION-2B)", "ViT-H-14", 32, 1280, 14, "laion2b_s32b_b79k"),
    "datacomp-b32": _clip("ViT-B/32 (DataComp)", "ViT-B-32", 12, 768, 32, "datacomp_xl_s13b_b90k"),
    "datacomp-b16": _clip("ViT-B/16 (DataComp)", "ViT-B-16", 12, 768, 16, "datacomp_xl_s13b_b90k"),
    "datacomp-l14": _clip("ViT-L/14 (DataComp)", "ViT-L-14", 24, 1024, 14, "datacomp_xl_s13b_b90k"),
    "dfn-b16": _clip("ViT-B/16 (DFN-2B)", "ViT-B-16-quickgelu", 12, 768, 16, "dfn2b"),
    "metaclip-b16": _clip("ViT-B/16 (MetaCLIP)", "ViT-B-16-quickgelu", 12, 768, 16, "metaclip_400m"),
    "clip-rn50": _resnet("RN50", "RN50-quickgelu", (3, 4, 6, 3), 1024),
    "clip-rn101": _resnet("RN101", "RN101-quickgelu", (3, 4, 23, 3), 512),
    "siglip-b16": _siglip("ViT-B/16 (SigLIP)", "ViT-B-16-SigLIP", 12, 768, 16, 224),
    "siglip-l16": _siglip("ViT-L/16@256 (SigLIP)", "ViT-L-16-SigLIP-256", 24, 1024, 16, 256),
    "siglip-so400m": _siglip("SO400M/14 (SigLIP)", "ViT-SO400M-14-SigLIP", 27, 1152, 14, 224, 4304),
    "siglip2-b16": _siglip("ViT-B/16 (SigLIP 2)", "ViT-B-16-SigLIP2", 12, 768, 16, 224),
    "siglip2-l16": _siglip("ViT-L/16@256 (SigLIP 2)", "ViT-L-16-SigLIP2-256", 24, 1024, 16, 256),
    "siglip2-so400m": _siglip("SO400M/14 (SigLIP 2)", "ViT-SO400M-14-SigLIP2", 27, 1152, 14, 224, 4304),
    "in21k-b16": _in21k("ViT-B/16 (IN21K)", "base", 12, 768),
    "in21k-l16": _in21k("ViT-L/16 (IN21K)", "large", 24, 1024),
    "dinov2-s14": _dino("ViT-S/14 (DINOv2)", "small", 12, 384),
    "dinov2-b14": _dino("ViT-B/14 (DINOv2)", "base", 12, 768),
    "dinov2-l14": _dino("ViT-L/14 (DINOv2)", "large", 24, 1024),
    "toy": Backbone("toy", "random", "toy", 4, 32, 8, 16, quick_gelu=True),
}


class Backbones(Registry[Backbone]):
    """The entries, and beside them every ViT that its library knows by name; of these only such as were asked for exist."""

    def entry(self, name: str) -> Entry[Backbone]:
        """The declaration of that name.

        Raises:
            PelError: there is none, or the library's network of that name does not fit.
        """
        return _made(file_safe(name)) if is_by_name(name) else super().entry(name)

    def __getitem__(self, name: str) -> Backbone:
        return self.entry(name).value if is_by_name(name) else super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        if not (isinstance(name, str) and is_by_name(name)):
            return super().__contains__(name)
        try:
            return bool(self.entry(name))
        except PelError:
            return False


@cache
def _made(name: str) -> Entry[Backbone]:
    fields, refused = look_up(name)
    if refused:
        raise PelError(refused)
    pixels = {key: tuple(fields[key]) for key in ("mean", "std")}
    return Entry(name, Backbone(**{**fields, **pixels}), fields["label"])


BACKBONES = Backbones("backbone")
for _name, _entry in _BACKBONES.items():
    BACKBONES.register(_name, _entry, about=_entry.label)


def find_backbone(name: str) -> Backbone:
    """The entry of that name.

    Raises:
        PelError: there is none, or its library's network does not fit.
    """
    if not is_by_name(name) and name not in BACKBONES:
        raise unknown("backbone", name, BACKBONES, f"(or any ViT of a library: {SPELLINGS}). {PLUGIN}")
    return BACKBONES.entry(name).value


def backbone_name(name: str) -> str:
    """A backbone's name as slugs and folders have it (``timm:NAME.TAG`` becomes ``timm--NAME--TAG``), once it is known to exist.

    Raises:
        PelError: there is no such backbone, or it does not fit.
    """
    find_backbone(name)
    return file_safe(name)


HUB, LOCAL_DIR = "hf-hub:", "local-dir:"


def local_weights(given: str | None) -> Path | None:
    """The file or folder that a ``weights`` value names, ``local-dir:FOLDER`` included; None for none and for a hub name."""
    if given is None or str(given).startswith(HUB):
        return None
    return Path(str(given).removeprefix(LOCAL_DIR))


def expand_weights(given: str) -> str:
    """What names weights, with ``~`` filled in: a file or folder, ``local-dir:`` before it or not, or ``hf-hub:owner/name``."""
    if given.startswith(HUB):
        return given
    path = given.removeprefix(LOCAL_DIR)
    return f"{LOCAL_DIR if path != given else ''}{expand_user(path)}"


# The hub's repository of each backbone's weights, which open_clip and timm themselves would ask for.
REPOSITORIES: dict[str, str] = {
    "clip-b32": "timm/vit_base_patch32_clip_224.openai",
    "clip-b16": "timm/vit_base_patch16_clip_224.openai",
    "clip-l14": "timm/vit_large_patch14_clip_224.openai",
    "clip-l14-336": "timm/vit_large_patch14_clip_336.openai",
    "clip-rn50": "timm/resnet50_clip.openai",
    "clip-rn101": "timm/resnet101_clip.openai",
    "laion-b32": "laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
    "laion-b16": "laion/CLIP-ViT-B-16-laion2B-s34B-b88K",
    "laion-l14": "laion/CLIP-ViT-L-14-laion2B-s32B-b82K",
    "laion-h14": "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    "datacomp-b32": "laion/CLIP-ViT-B-32-DataComp.XL-s13B-b90K",
    "datacomp-b16": "laion/CLIP-ViT-B-16-DataComp.XL-s13B-b90K",
    "datacomp-l14": "laion/CLIP-ViT-L-14-DataComp.XL-s13B-b90K",
    "dfn-b16": "apple/DFN2B-CLIP-ViT-B-16",
    "metaclip-b16": "timm/vit_base_patch16_clip_224.metaclip_400m",
    **{name: f"timm/{entry.arch}" for name, entry in BACKBONES.items() if name.startswith("siglip")},
    **{name: f"timm/{entry.arch}" for name, entry in BACKBONES.items() if entry.source == "timm"},
}


def repository(name: str) -> str:
    """The hub's repository of a backbone's weights; "" where it has none."""
    return REPOSITORIES.get(name, "") or BACKBONES[name].repository

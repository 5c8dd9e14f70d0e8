"""Pre-trained weights -> our ViT, once per backbone, and class-text features; nobody who trains imports open_clip or timm.

A prepared backbone is a folder of ``vit.safetensors`` (the ViT; with ``text.projection`` (D, E) and ``text.logit_scale`` where
there is a text tower) and ``backbone.json`` (how to build it, image statistics, hashes).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pel_core.common.errors import PelError
from pel_core.common.files import read_json, sha256, write_json
from pel_core.common.seeds import torch_generator
from pel_core.common.tensors import read_tensors, write_tensors
from pel_core.common.versions import check_versions, versions
from pel_core.models.backbones import Backbone, find_backbone
from pel_core.models.building import at_resolution, build_tower, build_vit
from pel_core.models.open_clip_towers import open_clip_tower
from pel_core.models.state_names import OPEN_CLIP_NAMES, TIMM_NAMES, State, fold_layer_scale, rename
from pel_core.models.towers import timm_tower, upstream_features
from pel_core.models.upstream import load_open_clip, load_timm
from pel_core.models.vit import ViT

SAME = 1e-3  # of the largest feature: rounding is 100 times less, a wrong activation 10 times more


def vit_from_clip(state: Mapping[str, Tensor], quick_gelu: bool = True, head_width: int = 64) -> tuple[ViT, State]:
    """Build the ViT of an OpenAI- or open_clip-format CLIP state dict; sizes are read off its shapes.

    Returns:
        The ViT and ``{"text.projection": (D, E), "text.logit_scale": ()}``, the scale as the factor it is used as.
    """
    visual = {key.removeprefix("visual."): value for key, value in state.items() if key.startswith("visual.")}
    tower = rename(visual, OPEN_CLIP_NAMES)
    text = {"text.projection": state["visual.proj"].float(), "text.logit_scale": state["logit_scale"].float().exp()}
    return build_vit(tower, {"head_width": head_width, "quick_gelu": quick_gelu, "norm_pre": True, "eps": 1e-5}), text


def vit_from_timm(state: Mapping[str, Tensor], head_width: int = 64) -> ViT:
    """Build the ViT of a timm ``VisionTransformer`` state dict; sizes are read off its shapes."""
    options = {"head_width": head_width, "quick_gelu": False, "norm_pre": False, "eps": 1e-6}
    return build_vit(rename(fold_layer_scale(state), TIMM_NAMES), options)


def prepare_backbone(name: str, out: str | Path, weights: str | None = None, cache_dir: str | None = None) -> None:
    """Write the prepared folder of backbone ``name``; ``weights`` is a local file or folder, or a hub name, used instead of
    the registry's source.

    Raises:
        PelError: an unknown backbone, weights that cannot be had or do not fit.
    """
    entry = find_backbone(name)
    if entry.source == "random":
        made = _random(entry)
    else:
        made = (_from_timm if entry.source == "timm" else _from_open_clip)(name, weights, cache_dir)
    vit, native = build_tower(made.tower, made.options), entry.native or entry.resolution
    if (vit.layers, vit.width, vit.patch, vit.resolution) != (entry.layers, entry.width, entry.patch, native):
        raise PelError(
            f"the weights of {name} are a ViT of {vit.layers} blocks, width {vit.width}, patch {vit.patch}, {vit.resolution} px; "
            f"expected {entry.layers}, {entry.width}, {entry.patch}, {native}"
        )
    if made.upstream is not None:
        _require_same(name, vit, made.upstream)
    out = Path(out)
    write_tensors(out / "vit.safetensors", {**vit.state_dict(), **made.text})
    written = sha256(out / "vit.safetensors")
    info = {
        "name": name,
        "versions": versions("prepare"),
        "registry": asdict(entry),
        "vit": made.options,
        "source": made.source,
        "sha256": written,
    }
    write_json(out / "backbone.json", info)


@dataclass(frozen=True)
class Made:
    """What a backbone is made of: the image tower's weights, ``text.projection`` and what belongs to it, the options of the ViT,
    where they come from, and the network of upstream that has to agree."""

    tower: State
    text: State
    options: dict[str, Any]
    source: dict[str, str]
    upstream: nn.Module | None = None


@torch.inference_mode()
def _require_same(name: str, vit: ViT, upstream: nn.Module) -> None:
    """See that a made-up image has the same feature as upstream's own code gives it: a part that was misread would train well and
    be another network.

    Raises:
        PelError: it has not.
    """
    image = torch.randn(1, 3, vit.resolution, vit.resolution, generator=torch_generator(0, "backbone", "same"))
    ours, theirs = vit(image), upstream_features(upstream, image)
    apart = float((ours - theirs).abs().max() / theirs.abs().max())
    if not apart < SAME:
        raise PelError(f"{name}: features differ from those of its own library by {apart:.2g} of the largest; it does not fit")


def _random(entry: Backbone) -> Made:
    options = {"head_width": 16, "norm_pre": True, "quick_gelu": entry.quick_gelu, "eps": 1e-5}
    size = {"layers": entry.layers, "width": entry.width, "heads": entry.width // 16, "patch": entry.patch}
    vit = ViT(**size, resolution=entry.resolution, quick_gelu=True)
    generator = torch_generator(0, "backbone", entry.arch)
    for name, value in vit.state_dict().items():
        norm = "norm" in name
        value.normal_(
            1.0 if norm and name.endswith("weight") else 0.0, 0.02 if norm else value.shape[-1] ** -0.5, generator=generator
        )
    projection = torch.randn(entry.width, 16, generator=generator)
    text = {"text.projection": projection, "text.logit_scale": torch.tensor(20.0)}
    return Made(vit.state_dict(), text, options, {"sha256": "random"})


def _from_open_clip(name: str, weights: str | None, cache_dir: str | None) -> Made:
    model, source = load_open_clip(name, weights, cache_dir)
    tower, options, text = open_clip_tower(model.visual)
    text["text.logit_scale"] = model.logit_scale.detach().exp().float()
    return Made(tower, text, options, source, model.visual)


def _from_timm(name: str, weights: str | None, cache_dir: str | None) -> Made:
    model, source = load_timm(name, weights, cache_dir)
    tower, options = timm_tower(model)
    return Made(tower, {}, options, source, model)


def load_vit(folder: str | Path, resolution: int | None = None) -> tuple[ViT, State, dict[str, Any]]:
    """The ViT of a prepared folder, its text projection and scale (empty without a text tower), and backbone.json.

    Its position embeddings are resized to ``resolution`` or the registry's.

    Raises:
        PelError: the folder is not a prepared backbone, or one made by another version.
    """
    info = read_json(Path(folder) / "backbone.json", ("name", "registry", "vit", "source", "sha256"))
    check_versions(Path(folder) / "backbone.json", info)
    state, _ = read_tensors(Path(folder) / "vit.safetensors")
    text = {key: state.pop(key) for key in list(state) if key.startswith("text.")}
    grid = (resolution or info["registry"]["resolution"]) // info["registry"]["patch"]
    return build_tower(at_resolution(state, grid), info["vit"]), text, info

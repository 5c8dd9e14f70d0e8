"""Our networks from their weights: sizes are read off shapes, the rest are options; position embeddings for another grid."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pel_core.models.resnet import ResNet
from pel_core.models.state_names import State
from pel_core.models.vit import ViT

POOLED_POSITIONS = "blocks.0.attnpool.positional_embedding"  # of a ResNet, in place of a ViT's "pos"


def build_tower(tower: State, options: Mapping[str, Any]) -> ViT | ResNet:
    """The network of weights under our names; ``options`` say which kind it is."""
    return build_resnet(tower, options) if "stages" in options else build_vit(tower, options)


def build_resnet(tower: State, options: Mapping[str, Any]) -> ResNet:
    """The ResNet of weights under its own names; ``options``: blocks of each of its ``stages`` and ``heads`` of its pooling."""
    grid = round((len(tower[POOLED_POSITIONS]) - 1) ** 0.5)
    sizes = {"stem": len(tower["blocks.0.conv3.weight"]), "width": len(tower["blocks.0.attnpool.c_proj.weight"])}
    with torch.device("meta"):
        net = ResNet(**options, **sizes, resolution=grid * ResNet.patch)
    net.load_state_dict(tower, assign=True)
    return net.eval()


def build_vit(tower: State, options: Mapping[str, Any]) -> ViT:
    """The ViT of weights under its own names; ``options``: ``head_width``, and those of `ViT` that no shape tells."""
    width, _, patch, _ = tower["embed.weight"].shape
    first, second = tower["blocks.0.ffn.fc1.weight"], tower["blocks.0.ffn.fc2.weight"]
    options, prefix = dict(options), num_prefix_tokens(tower)
    with torch.device("meta"):  # no time for initial values that are replaced at once
        vit = ViT(
            layers=1 + max(int(key.split(".")[1]) for key in tower if key.startswith("blocks.")),
            width=width,
            heads=width // options.pop("head_width"),
            patch=patch,
            resolution=round((len(tower["pos"]) - prefix) ** 0.5) * patch,
            hidden=len(first),
            patch_bias="embed.bias" in tower,
            qkv_bias="blocks.0.attn.qkv.bias" in tower,
            class_token="cls" in tower,
            registers=len(tower.get("registers", ())),
            attn_norm="blocks.0.attn.inner_norm.weight" in tower,
            mlp_norm="blocks.0.ffn.act.norm.weight" in tower,
            gated=len(first) != second.shape[1],
            pool_hidden=len(tower["pool.fc1.weight"]) if "pool.fc1.weight" in tower else None,
            **options,
        )
    vit.load_state_dict(tower, assign=True)
    return vit.eval()


def num_prefix_tokens(tower: State) -> int:
    """Class token and registers."""
    return ("cls" in tower) + len(tower.get("registers", ()))


def at_resolution(tower: State, grid: int) -> State:
    """The weights with position embeddings for ``grid`` patches a side."""
    key, prefix = (POOLED_POSITIONS, 1) if POOLED_POSITIONS in tower else ("pos", num_prefix_tokens(tower))
    if len(tower[key]) == prefix + grid**2:
        return tower
    return {**tower, key: resize_positions(tower[key], grid, prefix)}


def resize_positions(pos: Tensor, grid: int, prefix: int = 1) -> Tensor:
    """Position embeddings (P + G^2, D) for another grid, (P + grid^2, D): bicubic, antialiased, as timm and open_clip do; P:
    ``prefix``, of class token and registers."""
    old = round((len(pos) - prefix) ** 0.5)
    image = pos[prefix:].T.reshape(1, -1, old, old)
    image = F.interpolate(image, size=(grid, grid), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([pos[:prefix], image.flatten(2)[0].T])

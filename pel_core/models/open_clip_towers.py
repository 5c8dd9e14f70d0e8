"""Image towers of open_clip -> weights and options of our ViT, read off the modules themselves; `towers` reads timm's."""

from typing import Any

import torch
from torch import nn

from pel_core.models.state_names import State
from pel_core.models.towers import Reader, act_of, leaves, require, timm_tower


def open_clip_tower(visual: nn.Module, read: Reader | None = None) -> tuple[State, dict[str, Any], State]:
    """Weights and options of open_clip's own ViT or ResNet, or of a timm ViT inside it, and its projection into the space of
    texts: ``text.projection`` (D, E), with ``text.shift`` (E,) where that has a bias.

    Raises:
        PelError: it is of a kind, or has a part, that our ViT does not have.
    """
    if type(visual).__name__ == "TimmModel":
        state, options = timm_tower(visual.trunk, read)
        return state, options, _projection(visual, len(state["embed.weight"]))
    if type(visual).__name__ == "ModifiedResNet":
        return _resnet(visual)
    require(type(visual).__name__ == "VisionTransformer", f"its image tower is a {type(visual).__name__}, not a ViT")
    require(visual.attn_pool is None, "it pools by several learned queries (CoCa)")
    square = len({*visual.image_size}) == len({*visual.patch_size}) == 1
    require(square, "its patches are not those of one square convolution")
    read, width = read or Reader(visual), visual.conv1.out_channels
    read.linear("embed", visual.conv1, bias=False)
    read.tensor("cls", visual.class_embedding)
    read.tensor("pos", visual.positional_embedding)
    options: dict[str, Any] = {"norm_pre": read.norm("norm_pre", visual.ln_pre)}
    per_block = [_clip_block(read, f"blocks.{i}", block, width) for i, block in enumerate(visual.transformer.resblocks)]
    options |= per_block[0]
    kind, after = {"tok": "class", "avg": "mean"}.get(visual.pool_type), visual.final_ln_after_pool
    require(kind is not None, f"it pools by '{visual.pool_type}'")
    if kind == "mean":
        options |= {"pool": "mean", **({"norm": False, "pool_norm": True} if after else {})}
    read.norm("pool_norm" if kind == "mean" and after else "norm", visual.ln_post)
    text = {"text.projection": visual.proj.detach().float().clone()}
    read.tensor("proj", visual.proj)
    del read.state["proj"]
    state = read.finish()
    return state, {"quick_gelu": False, **options, "eps": read.eps.pop()}, text


def _resnet(visual: nn.Module) -> tuple[State, dict[str, Any], State]:
    """CLIP's ResNet under its own names; its feature is in the space of texts already."""
    kept = {key: value for key, value in visual.state_dict().items() if not key.endswith("num_batches_tracked")}
    state = {f"blocks.0.{key}": value.detach().float().clone() for key, value in kept.items()}
    stages = [len(getattr(visual, f"layer{number}")) for number in (1, 2, 3, 4)]
    return state, {"stages": stages, "heads": visual.attnpool.num_heads}, {"text.projection": torch.eye(visual.output_dim)}


def _clip_block(read: Reader, name: str, block: nn.Module, width: int) -> dict[str, Any]:
    kind, attn = type(block).__name__, block.attn
    plain = kind == "ResidualAttentionBlock" and isinstance(attn, nn.MultiheadAttention)
    require(plain, f"its blocks are {kind} with {type(attn).__name__}, not plain pre-norm ones")
    scales = [getattr(each, "gamma", None) for each in (block.ls_1, block.ls_2)]
    read.norm(f"{name}.attn.norm", block.ln_1)
    read.tensor(f"{name}.attn.qkv.weight", attn.in_proj_weight)
    read.tensor(f"{name}.attn.qkv.bias", attn.in_proj_bias)
    read.linear(f"{name}.attn.proj", attn.out_proj, scale=scales[0])
    read.norm(f"{name}.ffn.norm", block.ln_2)
    read.linear(f"{name}.ffn.fc1", block.mlp.c_fc)
    read.linear(f"{name}.ffn.fc2", block.mlp.c_proj, scale=scales[1])
    return {"head_width": width // attn.num_heads, **act_of(block.mlp.gelu)}


def _projection(visual: nn.Module, width: int) -> State:
    """From a timm tower's features into the space of texts: its classifier, a layer of its own, or nothing."""
    layers = [each for each in leaves(visual.trunk.head, visual.head) if not isinstance(each, nn.Identity | nn.Dropout)]
    require(all(isinstance(each, nn.Linear) for each in layers) and len(layers) < 2, "its projection is more than one matrix")
    if not layers:
        return {"text.projection": torch.eye(width)}
    text = {"text.projection": layers[0].weight.detach().float().T.contiguous()}
    return text if layers[0].bias is None else text | {"text.shift": layers[0].bias.detach().float().clone()}

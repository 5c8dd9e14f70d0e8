"""State dicts of open_clip's and timm's image towers, renamed for our ViT."""

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

from pel_core.common.errors import PelError

State = dict[str, Tensor]

OPEN_CLIP_NAMES = (
    (r"conv1\.weight", "embed.weight"),
    (r"class_embedding", "cls"),
    (r"positional_embedding", "pos"),
    (r"ln_pre\.(.*)", r"norm_pre.\1"),
    (r"ln_post\.(.*)", r"norm.\1"),
    (r"transformer\.resblocks\.(\d+)\.ln_1\.(.*)", r"blocks.\1.attn.norm.\2"),
    (r"transformer\.resblocks\.(\d+)\.attn\.in_proj_(.*)", r"blocks.\1.attn.qkv.\2"),
    (r"transformer\.resblocks\.(\d+)\.attn\.out_proj\.(.*)", r"blocks.\1.attn.proj.\2"),
    (r"transformer\.resblocks\.(\d+)\.ln_2\.(.*)", r"blocks.\1.ffn.norm.\2"),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_fc\.(.*)", r"blocks.\1.ffn.fc1.\2"),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_proj\.(.*)", r"blocks.\1.ffn.fc2.\2"),
)
TIMM_NAMES = (
    (r"patch_embed\.proj\.(.*)", r"embed.\1"),
    (r"cls_token", "cls"),
    (r"pos_embed", "pos"),
    (r"norm\.(.*)", r"norm.\1"),
    (r"blocks\.(\d+)\.norm1\.(.*)", r"blocks.\1.attn.norm.\2"),
    (r"blocks\.(\d+)\.attn\.(qkv|proj)\.(.*)", r"blocks.\1.attn.\2.\3"),
    (r"blocks\.(\d+)\.norm2\.(.*)", r"blocks.\1.ffn.norm.\2"),
    (r"blocks\.(\d+)\.mlp\.(fc1|fc2)\.(.*)", r"blocks.\1.ffn.\2.\3"),
)
# What a checkpoint may hold besides the image tower's blocks.
IGNORED = r"(proj|head\..*|fc_norm\..*|head_drop.*)"


def rename(state: Mapping[str, Tensor], names: Sequence[tuple[str, str]]) -> State:
    """Rename an image tower's state dict for ``ViT``.

    Raises:
        PelError: an entry that no rule covers (a tower of another kind).
    """
    renamed = {}
    for key, value in state.items():
        if new := rename_key(key, names):
            # Copies: the ViT takes these tensors as its own, and training must not write into the caller's.
            copy = value.detach().float().clone()
            renamed[new] = copy.reshape(copy.shape[-2:]) if new == "pos" else copy
        elif not re.fullmatch(IGNORED, key):
            raise PelError(f"the image tower has a weight '{key}' that this ViT has no place for; it is of another kind")
    renamed["cls"] = renamed["cls"].flatten()
    return renamed


def fold_layer_scale(state: Mapping[str, Tensor]) -> State:
    """A timm state dict whose layer scales (DINOv2's ``ls1`` and ``ls2``) are multiplied into the layers before them."""
    folded = dict(state)
    for key in [key for key in state if re.fullmatch(r"blocks\.\d+\.ls[12]\.gamma", key)]:
        block, scale, _ = key.rsplit(".", 2)
        layer, gamma = f"{block}.{'attn.proj' if scale == 'ls1' else 'mlp.fc2'}", folded.pop(key)
        folded[f"{layer}.weight"] = folded[f"{layer}.weight"] * gamma[:, None]
        folded[f"{layer}.bias"] = folded[f"{layer}.bias"] * gamma
    return folded


def rename_key(key: str, names: Sequence[tuple[str, str]]) -> str | None:
    """The first rule's result; None where no rule covers the key."""
    return next((re.sub(old, new, key) for old, new in names if re.fullmatch(old, key)), None)

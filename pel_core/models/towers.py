"""Image towers of timm (open_clip's: `open_clip_towers`) -> weights and options of our ViT, read off the modules themselves.

Whatever our ViT cannot do the same way is refused with its reason. What is read is checked off: a weight that is left over is a
part that nobody knew of. Works on the meta device too, where a tower has shapes and no numbers.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from pel_core.common.errors import PelError
from pel_core.models.state_names import State

ACTS = {"GELUTanh": "gelu_tanh", "QuickGELU": "quick_gelu", "SiLU": "silu", "ReLU": "relu"}  # by the class's name


class Reader:
    """Takes weights out of a tower under our names, and knows what was not taken."""

    def __init__(self, tower: nn.Module):
        self.state: State = {}
        self.sources: dict[str, list[tuple[Tensor | None, ...]]] = {}  # what each was put together from, in each reading
        self.scales: list[Tensor] = []  # multiplied in
        self.eps: set[float] = set()
        self._left = {
            id(value): name for name, value in tower.named_parameters() if not name.startswith(("head.", "trunk.head."))
        }

    def tensor(self, name: str, *parameters: Tensor | None, shape: tuple[int, ...] | None = None) -> None:
        """Parameters put together along their first dimension, as fp32 copies; None for zeros of the first one's size."""
        for value in parameters:
            self._left.pop(id(value), None)
        self.sources.setdefault(name, []).append(parameters)
        first = next(value for value in parameters if value is not None)
        whole = torch.cat([torch.zeros_like(first) if value is None else value.detach() for value in parameters]).float().clone()
        self.state[name] = whole if shape is None else whole.reshape(shape)

    def linear(self, name: str, *layers: nn.Module, scale: Tensor | None = None, bias: bool = True) -> None:
        """Linear layers (or one convolution) side by side; ``scale`` is a layer scale behind them, which is multiplied in."""
        self.tensor(f"{name}.weight", *(layer.weight for layer in layers))
        biases = [layer.bias for layer in layers]
        if any(value is not None for value in biases):
            self.tensor(f"{name}.bias", *biases)
        else:
            require(not bias, f"its {name.split('.', 2)[-1]} has no bias")
        if scale is not None:
            self._left.pop(id(scale), None)
            self.scales.append(scale)
            factor = scale.detach().float()
            self.state[f"{name}.weight"] = self.state[f"{name}.weight"] * factor[:, None]
            self.state[f"{name}.bias"] = self.state[f"{name}.bias"] * factor

    def norm(self, name: str, layer: nn.Module) -> bool:
        """A LayerNorm; False where there is none."""
        if isinstance(layer, nn.Identity):
            return False
        known = isinstance(layer, nn.LayerNorm) and layer.weight is not None and layer.bias is not None
        require(known, f"its normalisation is {type(layer).__name__}, not a LayerNorm with weight and bias")
        self.eps.add(layer.eps)
        self.linear(name, layer)
        return True

    @torch.no_grad()
    def write(self, state: State) -> None:
        """The way back: put weights under our names into the tower that was read. Layer scales become 1. What has no place
        there is lost, so that features have to be compared afterwards."""
        for scale in self.scales:
            scale.fill_(1)
        for name, readings in self.sources.items():
            if name not in state:
                continue
            for reading in readings[:-1]:  # a product with the last as its bias: the query of `AttentionPool`
                for value in reading:
                    value.zero_()
            left = state[name].flatten()
            for value in reversed(readings[-1]):  # from the end: positions may have zeros before them that upstream has not
                size = next(each for each in readings[-1] if each is not None).numel() if value is None else value.numel()
                if value is not None:
                    value.copy_(left[len(left) - size :].view_as(value))
                left = left[: len(left) - size]

    def finish(self) -> State:
        """The weights.

        Raises:
            PelError: something of the tower has no place in our ViT.
        """
        few = ", ".join(list(self._left.values())[:3])
        require(not self._left, f"it has weights that this ViT has no place for ({few})")
        require(len(self.eps) == 1, f"its LayerNorms have different eps {sorted(self.eps)}")
        return self.state


def timm_tower(model: nn.Module, read: Reader | None = None) -> tuple[State, dict[str, Any]]:
    """Weights and options of a timm ViT: its ``VisionTransformer`` (class token or none, registers, layer scale, SwiGLU, pooling
    by class token, mean or attention) or ``Eva`` (EVA, EVA-02, DINOv3, Perception Encoder: rotary positions too).

    A bias that only queries and values have (EVA, BEiT) becomes one of all three whose part of the keys is zero. ``read``: one
    that can write weights back afterwards.

    Raises:
        PelError: it is of a kind, or has a part, that our ViT does not have.
    """
    kind = type(model).__name__
    is_vit = kind in ("VisionTransformer", "Eva") and type(model).__module__.startswith("timm.models.")
    require(is_vit, f"it is timm's {kind}; what fits are its VisionTransformer and Eva")
    embed, read = model.patch_embed, read or Reader(model)
    plain = type(embed).__name__ == "PatchEmbed" and isinstance(embed.norm, nn.Identity)
    square = plain and len({*embed.img_size}) == len({*embed.patch_size}) == 1
    require(square, "its patches are not those of one square convolution")
    width, grid = model.embed_dim, embed.grid_size[0]
    read.linear("embed", embed.proj, bias=False)
    registers = 0 if model.reg_token is None else model.reg_token.shape[1]
    if model.cls_token is not None:
        read.tensor("cls", model.cls_token, shape=(width,))
    if registers:
        read.tensor("registers", model.reg_token, shape=(registers, width))
    prefix = registers + (model.cls_token is not None)
    _positions(read, model.pos_embed, prefix, grid, width)
    options: dict[str, Any] = {"norm_pre": read.norm("norm_pre", model.norm_pre)}
    per_block = [_timm_block(read, f"blocks.{index}", block, width) for index, block in enumerate(model.blocks)]
    require(all(each == per_block[0] for each in per_block), "its blocks differ from each other")
    options |= per_block[0] | _pooling(read, model, prefix) | _rotary(model, per_block[0]["head_width"])
    state = read.finish()
    return state, {"quick_gelu": False, **options, "eps": read.eps.pop()}


def _positions(read: Reader, pos: Tensor | None, prefix: int, grid: int, width: int) -> None:
    """Position embeddings of all tokens; zero for those that upstream adds none to."""
    if pos is None:
        read.state["pos"] = torch.zeros(prefix + grid**2, width)
        return
    read.tensor("pos", pos, shape=(pos.shape[-2], width))
    if pos.shape[-2] == grid**2 and prefix:
        read.state["pos"] = torch.cat([pos.new_zeros(prefix, width), read.state["pos"]])
    require(read.state["pos"].shape[0] == prefix + grid**2, "its position embeddings are not those of a square of patches")


def _timm_block(read: Reader, name: str, block: nn.Module, width: int) -> dict[str, Any]:
    """One block's weights under our names, and what of the options it shows."""
    kind, attn, mlp = type(block).__name__, getattr(block, "attn", None), getattr(block, "mlp", None)
    require(kind in ("Block", "EvaBlock"), f"its blocks are {kind}, not plain pre-norm ones")
    require(type(attn).__name__ in ("Attention", "AttentionRope", "EvaAttention"), f"its attention is {type(attn).__name__}")
    for part, what in (("q_norm", "queries"), ("k_norm", "keys")):
        require(isinstance(getattr(attn, part, nn.Identity()), nn.Identity), f"it normalises {what}")
    require(getattr(attn, "gate", None) is None, "its attention is gated")
    same = attn.head_dim * attn.num_heads == width and getattr(attn, "num_kv_heads", attn.num_heads) == attn.num_heads
    require(same, "its attention has heads of another size or number than width / heads")
    first, second = (getattr(block, f"ls{n}", None) for n in (1, 2))
    scales = [getattr(block, f"gamma_{n}", getattr(scale, "gamma", None)) for n, scale in ((1, first), (2, second))]
    read.norm(f"{name}.attn.norm", block.norm1)
    _qkv(read, f"{name}.attn.qkv", attn)
    read.norm(f"{name}.attn.inner_norm", attn.norm)
    read.linear(f"{name}.attn.proj", attn.proj, scale=scales[0])
    read.norm(f"{name}.ffn.norm", block.norm2)
    options = _mlp(read, f"{name}.ffn", mlp, scales[1])
    return {"head_width": attn.head_dim, **options}


def _qkv(read: Reader, name: str, attn: nn.Module) -> None:
    if attn.qkv is None:
        read.linear(name, attn.q_proj, attn.k_proj, attn.v_proj, bias=False)
        return
    read.linear(name, attn.qkv, bias=False)
    if getattr(attn, "q_bias", None) is not None:
        read.tensor(f"{name}.bias", attn.q_bias, None, attn.v_bias)


def _mlp(read: Reader, name: str, mlp: nn.Module, scale: Tensor | None) -> dict[str, Any]:
    kind = type(mlp).__name__
    require(kind in ("Mlp", "GluMlp", "SwiGLU") and not getattr(mlp, "gate_last", False), f"its MLP is {kind}")
    read.linear(f"{name}.fc1", *([mlp.fc1_g, mlp.fc1_x] if kind == "SwiGLU" else [mlp.fc1]))
    read.norm(f"{name}.act.norm", mlp.norm)
    read.linear(f"{name}.fc2", mlp.fc2, scale=scale)
    return act_of(mlp.act)


def act_of(module: nn.Module) -> dict[str, Any]:
    """The activation, as far as it is not GELU."""
    kind = type(module).__name__
    if kind == "GELU":
        return {"act": "gelu_tanh"} if getattr(module, "approximate", "none") == "tanh" else {}
    require(kind in ACTS, f"its activation is {kind}")
    return {"quick_gelu": True} if kind == "QuickGELU" else {"act": ACTS[kind]}


def _pooling(read: Reader, model: nn.Module, prefix: int) -> dict[str, Any]:
    """How timm makes one feature of the tokens: final norm, pooling, norm after it."""
    kind = {"token": "class", "avg": "mean", "map": "attention"}.get(model.global_pool)
    require(kind is not None, f"it pools by '{model.global_pool}'")
    norm = read.norm("norm", model.norm)
    after = read.norm("norm" if kind == "class" and not norm else "pool_norm", model.fc_norm)
    if kind == "class":  # of one token, it does not matter which comes first
        require(norm + after < 2, "it has two final norms")
        return {} if norm or after else {"norm": False}
    whole = kind == "mean" and getattr(model, "pool_include_prefix", False) and prefix
    require(not whole, "its mean includes the class token")
    options = {"pool": kind} | ({} if norm else {"norm": False}) | ({"pool_norm": True} if after else {})
    return options | (_attention_pool(read, model, prefix) if kind == "attention" else {})


def _attention_pool(read: Reader, model: nn.Module, prefix: int) -> dict[str, Any]:
    """`AttentionPool` of timm's ``AttentionPoolLatent``: one latent query, taken through its projection."""
    pool, kind = model.attn_pool, type(model.attn_pool).__name__
    plain = kind == "AttentionPoolLatent" and pool.latent_len == 1 and pool.pos_embed is None and pool.mlp is not None
    plain = plain and all(isinstance(each, nn.Identity) for each in (pool.q_norm, pool.k_norm))
    require(plain, f"its attention pooling ({kind}) is not one query with an MLP")
    with torch.no_grad():
        query = pool.q(pool.latent)
    for value in (pool.latent, *pool.q.parameters()):
        read.tensor("pool.query", value)
    read.state["pool.query"] = query.detach().float().flatten().clone()
    read.linear("pool.kv", pool.kv)
    read.linear("pool.proj", pool.proj)
    require(read.norm("pool.norm", pool.norm), "its attention pooling has no norm")
    read.linear("pool.fc1", pool.mlp.fc1)
    read.linear("pool.fc2", pool.mlp.fc2)
    require(act_of(pool.mlp.act) == act_of(model.blocks[0].mlp.act), "its attention pooling has an activation of its own")
    whole = prefix and (type(model).__name__ == "Eva" or model.pool_include_prefix)
    return {"pool_heads": pool.num_heads} | ({"pool_prefix": True} if whole else {})


def _rotary(model: nn.Module, head_width: int) -> dict[str, Any]:
    """What `Rotary` needs of timm's axial rotary embeddings: those of EVA-02 and those of DINOv3."""
    rope = getattr(model, "rope", None)
    if rope is None:
        return {}
    kind, quarter = type(rope).__name__, head_width // 4
    known = kind == "RotaryEmbeddingDinoV3" or (kind == "RotaryEmbeddingCat" and not rope.in_pixels)
    require(known and head_width % 4 == 0, f"its rotary positions ({kind}) are learned or counted in pixels")
    options = {"half": bool(rope.rotate_half), "xy": rope.grid_indexing == "xy", "offset": float(rope.grid_offset)}
    if kind == "RotaryEmbeddingDinoV3":
        freqs = 2 * torch.pi / rope._compute_periods()
        require(rope.normalize_coords == "separate", "its rotary positions are scaled by the longer side")
        options |= {"centered": True}
    else:
        freqs = rope.temperature ** -(torch.arange(quarter, device="cpu") / quarter)
        options |= {"reference": int(rope.ref_feat_shape[0]) if rope.ref_feat_shape else 0}
    return {"rotary": {"freqs": freqs.tolist(), **{key: value for key, value in options.items() if value}}}


def leaves(*modules: nn.Module) -> Iterator[nn.Module]:
    for module in modules:
        yield from (each for each in module.modules() if not list(each.children()) and not isinstance(each, nn.Sequential))


@torch.inference_mode()
def upstream_features(tower: nn.Module, images: Tensor) -> Tensor:
    """What timm or open_clip themselves make of images (B, 3, R, R): features (B, D) before any projection."""
    if type(tower).__name__ == "ModifiedResNet":
        return tower(images)
    if type(tower).__name__ == "VisionTransformer" and type(tower).__module__.startswith("open_clip"):
        projection, tower.proj = tower.proj, None
        try:
            return tower(images)
        finally:
            tower.proj = projection
    trunk = getattr(tower, "trunk", tower)
    return trunk.forward_head(trunk.forward_features(images), pre_logits=True)


def require(holds: bool, reason: str) -> None:
    if not holds:
        raise PelError(reason)

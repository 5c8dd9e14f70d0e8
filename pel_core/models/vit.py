"""The one Vision Transformer every backbone is loaded into. Every site a method may point at is a submodule.

What a CPU does in another way is in `hardware.cpu`.

Shape legend: B images, N tokens, D width, H heads, K head width, M tokens read out.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pel_core.hardware import cpu
from pel_core.models.vit_parts import ACTIVATIONS, AttentionPool, Gated, Normed, QuickGELU, Rotary


def attend(qkv_BNX: Tensor, heads: int, read: int | None = None) -> Tensor:
    """Softmax attention: queries, keys and values side by side, (B, N, 3 D) -> (B, M, D).

    Args:
        read: M, the first tokens whose output is computed; all when None.
    """
    qkv_BN3HK = qkv_BNX.unflatten(-1, (3, heads, -1))
    if qkv_BNX.device.type == "cpu":
        return cpu.attention(qkv_BN3HK, read).flatten(2)
    q_BHNK, k_BHNK, v_BHNK = qkv_BN3HK.permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q_BHNK[:, :, :read], k_BHNK, v_BHNK).transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """norm -> qkv (-> rotary positions) -> scaled dot-product attention (-> norm) -> proj; the residual is added by the block."""

    def __init__(
        self, width: int, heads: int, eps: float, qkv_bias: bool = True, rotary: Rotary | None = None, inner_norm: bool = False
    ):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width, eps)
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, width)
        self.rotary = rotary
        self.inner_norm = nn.LayerNorm(width, eps) if inner_norm else None

    def forward(self, x_BND: Tensor, read: int | None = None) -> Tensor:
        """The branch's output for the first ``read`` tokens (all when None)."""
        qkv_BNX = self.qkv(self.norm(x_BND))
        if self.rotary is not None:
            qkv_BNX = self.rotary(qkv_BNX)
        x_BMD = attend(qkv_BNX, self.heads, read)
        return self.proj(x_BMD if self.inner_norm is None else self.inner_norm(x_BMD))


class FeedForward(nn.Module):
    """norm -> fc1 -> act -> fc2; the residual is added by the block."""

    def __init__(self, width: int, hidden: int, act: nn.Module, eps: float, gated: bool = False, inner_norm: bool = False):
        super().__init__()
        inner = hidden // 2 if gated else hidden
        act = Gated(act) if gated else act
        self.norm = nn.LayerNorm(width, eps)
        self.fc1 = nn.Linear(width, hidden)
        self.act = Normed(act, inner, eps) if inner_norm else act
        self.fc2 = nn.Linear(inner, width)

    def forward(self, x_BND: Tensor) -> Tensor:
        x_BND = self.norm(x_BND)
        bare = type(self.fc1) is type(self.fc2) is nn.Linear  # nothing is attached to them
        if bare and isinstance(self.act, QuickGELU) and x_BND.device.type == "cpu":
            return cpu.quick_gelu_mlp(x_BND, self.fc1, self.fc2)
        return self.fc2(self.act(self.fc1(x_BND)))


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, attn: Attention, ffn: FeedForward):
        super().__init__()
        self.attn = attn
        self.ffn = ffn

    def forward(self, x_BND: Tensor, read: int | None = None) -> Tensor:
        """(B, N, D) -> (B, M, D), M = ``read`` or N."""
        x_BMD = x_BND[:, :read] + self.attn(x_BND, read)
        return x_BMD + self.ffn(x_BMD)


class ViT(nn.Module):
    """Images (B, 3, R, R) -> features (B, D), without any projection.

    Tokens are a class token (or none), registers, the patches, and prompts that a method adds at the end. The feature is the
    class token, the mean of the patches, or a learned pooling of all but prompts (``pool``), normalised before or after that.
    With a class token the last block computes queries, projection and MLP for it alone: nothing else is read.

    Args:
        hidden: the first MLP layer's outputs; ``gated``: half of them gate the other half.
        act: a word of ACTIVATIONS; None: by ``quick_gelu``.
        attn_norm, mlp_norm: whether attention's output is normalised before ``proj``, and the MLP's hidden units before ``fc2``.
        norm: whether there is a final norm before pooling; ``pool_norm``: one after it.
        pool_heads: those of ``pool="attention"``; as in the blocks where 0. ``pool_hidden``: its MLP's hidden width;
            ``pool_prefix``: it sees class token and registers too.
        rotary: what `Rotary` needs beside the grid; none where None.
    """

    def __init__(
        self,
        *,
        layers: int,
        width: int,
        heads: int,
        patch: int,
        resolution: int,
        hidden: int | None = None,
        quick_gelu: bool = False,
        norm_pre: bool = True,
        patch_bias: bool = False,
        eps: float = 1e-5,
        class_token: bool = True,
        registers: int = 0,
        act: str | None = None,
        gated: bool = False,
        mlp_norm: bool = False,
        attn_norm: bool = False,
        qkv_bias: bool = True,
        pool: Literal["class", "mean", "attention"] = "class",
        norm: bool = True,
        pool_norm: bool = False,
        pool_heads: int = 0,
        pool_hidden: int | None = None,
        pool_prefix: bool = False,
        rotary: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.layers, self.width, self.patch, self.resolution, self.pooling = layers, width, patch, resolution, pool
        self.num_prefix_tokens, grid, hidden = class_token + registers, resolution // patch, hidden or 4 * width
        self.tokens = self.num_prefix_tokens + grid**2
        self._pooled_from = 0 if pool_prefix else self.num_prefix_tokens
        activation = ACTIVATIONS[act or ("quick_gelu" if quick_gelu else "gelu")]()
        turn = Rotary(grid=grid, prefix=self.num_prefix_tokens, heads=heads, **rotary) if rotary else None
        self.embed = nn.Conv2d(3, width, patch, patch, bias=patch_bias)
        self.cls = nn.Parameter(torch.zeros(width)) if class_token else None
        self.registers = nn.Parameter(torch.zeros(registers, width)) if registers else None
        self.pos = nn.Parameter(torch.zeros(self.tokens, width))
        self.norm_pre = nn.LayerNorm(width, eps) if norm_pre else nn.Identity()
        self.blocks = nn.ModuleList(
            Block(
                Attention(width, heads, eps, qkv_bias, turn, attn_norm),
                FeedForward(width, hidden, activation, eps, gated, mlp_norm),
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width, eps) if norm else nn.Identity()
        if pool == "attention":
            self.pool = AttentionPool(width, pool_heads or heads, pool_hidden or 4 * width, activation, eps)
        self.pool_norm = nn.LayerNorm(width, eps) if pool_norm else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        return self.rest(self.prefix(images))

    def prefix(self, images: Tensor, depth: int = 0) -> Tensor:
        """What enters block ``depth``: tokens (B, N, D); with all blocks the features (B, D) themselves."""
        x_BND = self.embed(images).flatten(2).transpose(1, 2)
        first = [] if self.cls is None else [self.cls.to(x_BND.dtype).expand(x_BND.shape[0], 1, -1)]
        if self.registers is not None:
            first.append(self.registers.to(x_BND.dtype).expand(x_BND.shape[0], -1, -1))
        x_BND = self.norm_pre((torch.cat([*first, x_BND], 1) if first else x_BND) + self.pos.to(x_BND.dtype))
        if depth == self.layers:
            return self.rest(x_BND)
        for block in self.blocks[:depth]:
            x_BND = block(x_BND)
        return x_BND

    def rest(self, x_BND: Tensor, depth: int = 0) -> Tensor:
        """Features (B, D) from what ``prefix`` gave at the same ``depth``."""
        if depth == self.layers:
            return x_BND
        for block in self.blocks[depth:-1]:
            x_BND = block(x_BND)
        if self.pooling == "class":
            return self.norm(self.blocks[-1](x_BND, read=1)[:, 0])
        x_BND = self.norm(self.blocks[-1](x_BND)[:, self._pooled_from : self.tokens])
        return self.pool_norm(x_BND.mean(1) if self.pooling == "mean" else self.pool(x_BND))

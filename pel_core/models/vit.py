"""The one Vision Transformer every backbone is loaded into. Every site a method may point at is a submodule.

What a CPU does in another way is in `hardware.cpu`.

Shape legend: B images, N tokens, D width, H heads, K head width, M tokens read out.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pel_core.hardware import cpu


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), the activation of OpenAI's CLIP, written as a SiLU: one fused kernel each way, half the memory."""

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(1.702 * x) * (1 / 1.702)


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
    """norm -> qkv -> scaled dot-product attention -> proj; the residual is added by the block."""

    def __init__(self, width: int, heads: int, eps: float):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width, eps)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x_BND: Tensor, read: int | None = None) -> Tensor:
        """The branch's output for the first ``read`` tokens (all when None)."""
        return self.proj(attend(self.qkv(self.norm(x_BND)), self.heads, read))


class FeedForward(nn.Module):
    """norm -> fc1 -> act -> fc2; the residual is added by the block."""

    def __init__(self, width: int, hidden: int, act: nn.Module, eps: float):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps)
        self.fc1 = nn.Linear(width, hidden)
        self.act = act
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x_BND: Tensor) -> Tensor:
        x_BND = self.norm(x_BND)
        bare = type(self.fc1) is type(self.fc2) is nn.Linear  # nothing is attached to them
        if bare and isinstance(self.act, QuickGELU) and x_BND.device.type == "cpu":
            return cpu.quick_gelu_mlp(x_BND, self.fc1, self.fc2)
        return self.fc2(self.act(self.fc1(x_BND)))


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int, hidden: int, act: nn.Module, eps: float):
        super().__init__()
        self.attn = Attention(width, heads, eps)
        self.ffn = FeedForward(width, hidden, act, eps)

    def forward(self, x_BND: Tensor, read: int | None = None) -> Tensor:
        """(B, N, D) -> (B, M, D), M = ``read`` or N."""
        x_BMD = x_BND[:, :read] + self.attn(x_BND, read)
        return x_BMD + self.ffn(x_BMD)


class ViT(nn.Module):
    """Images (B, 3, R, R) -> features (B, D): the final norm of the class token, without any projection.

    The last block computes queries, projection and MLP for the class token alone: nothing else is read.
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
    ):
        super().__init__()
        self.layers, self.width, self.patch, self.resolution = layers, width, patch, resolution
        self.tokens = 1 + (resolution // patch) ** 2
        act = QuickGELU() if quick_gelu else nn.GELU()
        self.embed = nn.Conv2d(3, width, patch, patch, bias=patch_bias)
        self.cls = nn.Parameter(torch.zeros(width))
        self.pos = nn.Parameter(torch.zeros(self.tokens, width))
        self.norm_pre = nn.LayerNorm(width, eps) if norm_pre else nn.Identity()
        self.blocks = nn.ModuleList(Block(width, heads, hidden or 4 * width, act, eps) for _ in range(layers))
        self.norm = nn.LayerNorm(width, eps)

    def forward(self, images: Tensor) -> Tensor:
        return self.rest(self.prefix(images))

    def prefix(self, images: Tensor, depth: int = 0) -> Tensor:
        """What enters block ``depth``: tokens (B, N, D); with all blocks the features (B, D) themselves."""
        x_BND = self.embed(images).flatten(2).transpose(1, 2)
        cls_B1D = self.cls.to(x_BND.dtype).expand(len(x_BND), 1, -1)
        x_BND = self.norm_pre(torch.cat([cls_B1D, x_BND], 1) + self.pos.to(x_BND.dtype))
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
        return self.norm(self.blocks[-1](x_BND, read=1)[:, 0])

"""Parts that only some pre-trained ViTs have: activations, gated MLPs, rotary positions, pooling by attention.

Shape legend: B images, N tokens, T tokens of the image itself (prompts come after them), D width, H heads, K head width,
F hidden width, G side of the grid of patches.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), the activation of OpenAI's CLIP, written as a SiLU: one fused kernel each way, half the memory."""

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(1.702 * x) * (1 / 1.702)


ACTIVATIONS = {
    "gelu": nn.GELU,
    "gelu_tanh": partial(nn.GELU, approximate="tanh"),
    "quick_gelu": QuickGELU,
    "silu": nn.SiLU,
    "relu": nn.ReLU,
}


class Gated(nn.Module):
    """act(g) * x of the two halves [g, x] of the first layer's output: (B, N, 2 F) -> (B, N, F), with SiLU a SwiGLU (Shazeer
    2020)."""

    def __init__(self, act: nn.Module):
        super().__init__()
        self.act = act

    def forward(self, x_BNX: Tensor) -> Tensor:
        gate_BNF, x_BNF = x_BNX.chunk(2, -1)
        return self.act(gate_BNF) * x_BNF


class Normed(nn.Module):
    """A LayerNorm after the activation (EVA-02's sub-LayerNorm)."""

    def __init__(self, act: nn.Module, width: int, eps: float):
        super().__init__()
        self.act = act
        self.norm = nn.LayerNorm(width, eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.act(x))


class Rotary(nn.Module):
    """Axial rotary position embedding of queries and keys (Su et al. 2021; EVA-02, DINOv3): (B, N, 3 D) -> the same.

    A pair of channels of a patch at (y, x) is turned by y or x times one of ``freqs`` (K / 4). Class token, registers and
    prompts stay as they are. Coordinates count patches, scaled to a grid of ``reference`` patches where that is given, or are
    ``centered``: in -1..1. ``half``: channel i is paired with i + K / 2, not with its neighbour; ``xy``: x comes first.
    """

    def __init__(
        self,
        freqs: Sequence[float],
        grid: int,
        prefix: int,
        heads: int,
        centered: bool = False,
        reference: int = 0,
        offset: float = 0.0,
        half: bool = False,
        xy: bool = False,
    ):
        super().__init__()
        self.heads, self.half, self.tokens = heads, half, prefix + grid**2
        at_G = torch.arange(grid, dtype=torch.float32, device="cpu")  # also where a model is built without storage
        at_G = 2 * (at_G + 0.5 + offset) / grid - 1 if centered else at_G + offset
        at_G = at_G / grid * reference if reference else at_G
        turn = at_G[:, None] * torch.tensor(freqs, device="cpu")
        rows, columns = turn[:, None].expand(-1, grid, -1), turn[None].expand(grid, -1, -1)
        angle = torch.cat([columns, rows] if xy else [rows, columns], -1).flatten(0, 1)
        angle = torch.cat([angle, angle], -1) if half else angle.repeat_interleave(2, -1)
        angle_TK = torch.cat([angle.new_zeros(prefix, angle.shape[-1]), angle])
        self.register_buffer("cos_TK", angle_TK.cos(), persistent=False)
        self.register_buffer("sin_TK", angle_TK.sin(), persistent=False)

    def forward(self, qkv_BNX: Tensor) -> Tensor:
        qkv_BN3HK = qkv_BNX.unflatten(-1, (3, self.heads, -1))
        turned = qkv_BN3HK[:, : self.tokens, :2]
        cos, sin = self.cos_TK[:, None, None], self.sin_TK[:, None, None]
        turned = (turned * cos + self._partner(turned) * sin).to(qkv_BNX.dtype)
        image = torch.cat([turned, qkv_BN3HK[:, : self.tokens, 2:]], 2)
        return torch.cat([image, qkv_BN3HK[:, self.tokens :]], 1).flatten(2)

    def _partner(self, x: Tensor) -> Tensor:
        """What each channel is mixed with: (a, b) -> (-b, a)."""
        if self.half:
            first, second = x.chunk(2, -1)
            return torch.cat([-second, first], -1)
        return torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)


class AttentionPool(nn.Module):
    """Pooling by one learned query over all patches, and an MLP: (B, N, D) -> (B, D). SigLIP's head (Zhai et al. 2022, 2023).

    ``query`` is the learned probe after its projection, which never changes where the backbone is frozen.
    """

    def __init__(self, width: int, heads: int, hidden: int, act: nn.Module, eps: float):
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.zeros(width))
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps)
        self.fc1 = nn.Linear(width, hidden)
        self.act = act
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x_BND: Tensor) -> Tensor:
        k_BHNK, v_BHNK = self.kv(x_BND).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q_BH1K = self.query.to(k_BHNK.dtype).unflatten(0, (self.heads, 1, -1)).expand(x_BND.shape[0], -1, -1, -1)
        x_BD = self.proj(F.scaled_dot_product_attention(q_BH1K, k_BHNK, v_BHNK).flatten(1))
        return x_BD + self.fc2(self.act(self.fc1(self.norm(x_BD))))

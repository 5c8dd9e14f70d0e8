"""Convpass (Jie and Deng 2022, "Convolutional bypasses are better vision transformer adapters", arXiv 2207.07039).

Shape legend: B images, N tokens, G patches a side, R rank, D width.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pel_core.common.lazy import F, Module, nn, torch
from pel_core.common.registry import Knob, above, one_of
from pel_core.models.deltas import DELTAS, SiteContext
from pel_core.models.methods import Attach, Method, add_method

if TYPE_CHECKING:
    from torch import Tensor


@DELTAS.register("convpass", reads=("adapter_dim",))
class Convpass(Module):
    """A branch + scale * up(act(conv(act(down(LayerNorm(x)))))), conv being 3 x 3 over the patches; starts at zero.

    The LayerNorm is the branch's own, with whatever is attached to it. The class token, registers and prompts, if there are any,
    are each an image of one pixel to the convolution, as the class token in the public code, whose dropout (0.1) is not here.
    ``down`` is Xavier-uniform, the convolution starts as the identity, ``up`` at zero; the activation is QuickGELU.
    """

    def __init__(self, site: SiteContext):
        super().__init__()
        width, rank = site.width_in, site.rank
        self.prefix, self.grid = site.prefix, math.isqrt(site.tokens - site.prefix)
        self.scale = site.knobs["scale"]
        self.down, self.conv, self.up = nn.Linear(width, rank), nn.Conv2d(rank, rank, 3, padding=1), nn.Linear(rank, width)
        with torch.no_grad():
            bound = math.sqrt(6 / (width + rank))
            self.down.weight.uniform_(-bound, bound, generator=site.generator)
            for zero in (self.down.bias, self.conv.weight, self.conv.bias, self.up.weight, self.up.bias):
                zero.zero_()
            self.conv.weight[:, :, 1, 1] = torch.eye(rank)

    def forward(self, branch: nn.Module, x_BND: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        out = branch(x_BND, *args, **kwargs)
        # Where the class token alone is read out, it needs no other.
        bypass = self.up(_quick_gelu(self._convolved(_quick_gelu(self.down(branch.norm(x_BND[:, : out.shape[1]]))))))
        return out + (bypass * self.scale).to(out.dtype)

    def _convolved(self, x_BNR: Tensor) -> Tensor:
        centre = F.linear(x_BNR, self.conv.weight[:, :, 1, 1], self.conv.bias)  # of an image of one pixel
        if x_BNR.shape[1] <= self.prefix:  # the class token alone
            return centre
        end = self.prefix + self.grid**2
        image_BRGG = x_BNR[:, self.prefix : end].transpose(1, 2).unflatten(2, (self.grid, self.grid))
        convolved = self.conv(image_BRGG).flatten(2).transpose(1, 2)
        return torch.cat([centre[:, : self.prefix], convolved, centre[:, end:]], 1)


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


add_method(
    "convpass",
    Method(
        "bottleneck with a 3 x 3 convolution over the patches, beside attention and MLP (Jie and Deng 2022)",
        (
            Attach("attn", "inside", "convpass"),
            Attach("ffn", "inside", "convpass", when=lambda block: block.knobs["sites"] == "both"),
        ),
        knobs=(
            Knob("scale", 1.0, "factor of the bypass; its authors choose among 0.01 to 100 for each data set", above(0)),
            Knob("sites", "both", "beside attention and MLP, or beside attention alone", one_of("both", "attn")),
        ),
    ),
)

"""RepAdapter (Luo et al. 2023, "Towards efficient visual adaption via structural re-parameterization", arXiv 2302.08106).

A linear bottleneck between a LayerNorm and the layer that reads it, so that after training it folds into that layer's weights.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pel_core.common.lazy import Module, nn, torch
from pel_core.common.registry import Knob, above, at_least, one_of
from pel_core.models.deltas import DELTAS, SiteContext
from pel_core.models.methods import Attach, Method, add_method

if TYPE_CHECKING:
    from torch import Tensor


class GroupedLinear(Module):
    """A linear layer in G groups, of which each reads its own r / G of the inputs: (..., r) -> (..., D); starts at zero."""

    def __init__(self, width_in: int, width_out: int, groups: int):
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.zeros(width_out, width_in // groups))
        self.bias = nn.Parameter(torch.zeros(width_out))

    def forward(self, x: Tensor) -> Tensor:
        outputs = zip(x.chunk(self.groups, -1), self.weight.chunk(self.groups), strict=True)
        return torch.cat([part @ weight.T for part, weight in outputs], -1) + self.bias


@DELTAS.register("repadapter", reads=("adapter_dim",))
class RepAdapter(Module):
    """x + scale * (B (A x + a) + b): tokens (..., D) -> (..., D), without an activation; the identity at initialisation.

    A maps D to r densely, its weights uniform (Xavier); B maps r to D in ``groups`` groups and starts at zero. r is the rank, or
    the next multiple of ``groups`` above it. The public code's dropout (0.1) between the two is not here.
    """

    def __init__(self, site: SiteContext):
        super().__init__()
        width, groups = site.width_in, site.knobs["groups"]
        rank = -(-site.rank // groups) * groups
        self.down, self.up, self.scale = nn.Linear(width, rank), GroupedLinear(rank, width, groups), site.knobs["scale"]
        with torch.no_grad():
            bound = math.sqrt(6 / (width + rank))
            self.down.weight.uniform_(-bound, bound, generator=site.generator)
            self.down.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.up(self.down(x)) * self.scale


def _limit_groups(spec: Any) -> str:
    """What the groups have to be beside width and rank; a rank by rule is raised to a multiple instead."""
    groups, rank, width = spec.knob("repadapter.groups"), spec.adapter_dim, spec.vit.width
    if width % groups:
        return f"a divisor of the width {width}"
    return f"a divisor of adapter_dim={rank}" if isinstance(rank, int) and rank % groups else ""


add_method(
    "repadapter",
    Method(
        "linear bottleneck after the LayerNorms that folds into the next layer (Luo et al. 2023)",
        (
            Attach("attn.norm", "after", "repadapter"),
            Attach("ffn.norm", "after", "repadapter", when=lambda block: block.knobs["sites"] == "both"),
        ),
        knobs=(
            Knob("scale", 1.0, "factor of what the bottleneck adds; its authors search it for each data set", above(0)),
            Knob("groups", 2, "groups of the second layer, divisors of rank and width", at_least(1), limit=_limit_groups),
            Knob("sites", "both", "before attention and MLP, or before attention alone", one_of("both", "attn")),
        ),
    ),
)

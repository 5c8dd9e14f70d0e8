"""VeRA (Kopiczko et al. 2024, "VeRA: Vector-based random matrix adaptation", arXiv 2310.11454): LoRA whose matrices are random,
frozen and shared by all layers; what is learnt are two vectors of each updated matrix."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pel_core.common.lazy import nn, torch
from pel_core.common.registry import Knob, above, at_least
from pel_core.common.seeds import torch_generator
from pel_core.models.deltas import DELTAS, OfParts, SiteContext
from pel_core.models.methods import Method, add_method, matrices_knob, on_matrices

if TYPE_CHECKING:
    from torch import Tensor


@DELTAS.register("vera", reads=("adapter_dim",))
class VeRA(OfParts):
    """b * ((d * (x A)) B) for each updated part of a fused projection, zero for the others: (..., D) -> (..., parts * D_part).

    A (D, r) and B (r, D_part) are Kaiming-uniform (bounds sqrt(6 / D), sqrt(6 / r)), frozen, and shared by all matrices of these
    widths. They come from the knob ``projection_seed``, the same in every run, so that they need not be stored. d (r) starts at
    ``start``, b (D_part) at zero (the paper's equation 2).
    """

    def __init__(self, site: SiteContext, parts: tuple[bool | str, ...]):
        super().__init__(site, parts)
        self.a = _projection(site, "a", site.width_in, site.rank)
        self.b = _projection(site, "b", site.rank, self.part_width)
        updated = range(sum(self.parts))
        self.inner = nn.ParameterList(nn.Parameter(torch.full((site.rank,), site.knobs["start"])) for _ in updated)
        self.outer = nn.ParameterList(nn.Parameter(torch.zeros(self.part_width)) for _ in updated)

    def forward(self, x: Tensor) -> Tensor:
        low = x @ self.a
        return self.spread([((low * inner) @ self.b) * outer for inner, outer in zip(self.inner, self.outer, strict=True)])


def _projection(site: SiteContext, name: str, rows: int, columns: int) -> nn.Parameter:
    def make() -> Tensor:
        bound, generator = math.sqrt(6 / rows), torch_generator(site.knobs["projection_seed"], "vera", name)
        return torch.empty(rows, columns).uniform_(-bound, bound, generator=generator)

    return site.share(f"{name}{rows}x{columns}", make, trains=False)


add_method(
    "vera",
    Method(
        "two vectors of each updated matrix around random matrices that all blocks share (Kopiczko et al. 2024)",
        on_matrices("beside", "vera"),
        draws="nothing",
        knobs=(
            matrices_knob("q+v"),
            Knob("start", 0.1, "what the inner vectors start from", above(0)),
            Knob("projection_seed", 0, "draws the random matrices, the same in every run", at_least(0)),
        ),
    ),
)

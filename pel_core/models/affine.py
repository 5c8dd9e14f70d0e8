"""Methods that learn vectors beside the backbone's own: DiffFit's factors, BitFit's chosen biases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pel_core.common.lazy import Module, nn, torch
from pel_core.models.deltas import DELTAS, OfParts, SiteContext
from pel_core.models.methods import Attach, Method, add_method, matrices_knob, on_matrices

if TYPE_CHECKING:
    from torch import Tensor


@DELTAS.register("gain")
class Gain(Module):
    """x * gamma per channel; gamma starts at 1."""

    def __init__(self, site: SiteContext):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(site.width_out))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


@DELTAS.register("shift")
class Shift(OfParts):
    """x + shift in the chosen equal slices of a layer's output; starts at zero."""

    def __init__(self, site: SiteContext, parts: tuple[bool | str, ...]):
        super().__init__(site, parts)
        self.shift = nn.Parameter(torch.zeros(sum(self.parts) * self.part_width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.spread(list(self.shift.split(self.part_width))).to(x.dtype)


add_method(
    "difffit",
    Method(
        "every bias and LayerNorm, and a factor of each channel of both branches (Xie et al. 2023)",
        (Attach("attn", "after", "gain"), Attach("ffn", "after", "gain")),
        train=(r".*\.bias", r"(attn|ffn)\.norm\.weight"),
        draws="nothing",
    ),
)
# What is added to a frozen bias is learnt, so that weight decay pulls towards the pre-trained one, and towards zero in `bias`.
add_method(
    "bitfit",
    Method(
        "biases of chosen matrices; by default of query and the MLP's first layer, BitFit's small subset (Ben Zaken et al. 2022)",
        on_matrices("after", "shift"),
        draws="nothing",
        knobs=(matrices_knob("q+fc1"),),
    ),
)

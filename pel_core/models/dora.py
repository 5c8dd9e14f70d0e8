"""DoRA (Liu et al. 2024, "DoRA: Weight-decomposed low-rank adaptation", arXiv 2402.09353): direction by LoRA, length learnt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pel_core.common.lazy import nn, torch
from pel_core.common.registry import Knob
from pel_core.models.deltas import DELTAS, LoRA, SiteContext
from pel_core.models.methods import ALPHA, Method, add_method, matrices_knob, on_matrices

if TYPE_CHECKING:
    from torch import Tensor


@DELTAS.register("dora", reads=("adapter_dim",))
class DoRA(LoRA):
    """The layer with weights m V / |V|, V = W + alpha / r (A B)^T, in its updated parts (the paper's equation 5).

    Norms are of the rows of V, one for each output, and m starts as those of W: the identity at initialisation. A and B start
    as in LoRA here, so that the two differ in m alone. Gradients take the norms for constants (the paper's section 4.3) unless
    the knob ``full_gradient`` says otherwise.
    """

    def __init__(self, site: SiteContext, parts: tuple[bool | str, ...]):
        super().__init__(site, parts)
        weights = self.updated(site.module.weight.detach(), 0)
        self.magnitude = nn.ParameterList(nn.Parameter(torch.linalg.vector_norm(weight, dim=1)) for weight in weights)
        self.full_gradient = site.knobs["full_gradient"]

    def forward(self, linear: nn.Linear, x: Tensor) -> Tensor:
        y = linear(x)
        product = y if linear.bias is None else y - linear.bias
        layers = zip(self.updated(linear.weight, 0), self.updated(product), strict=True)
        factors = zip(self.magnitude, self.down, self.up, strict=True)
        updates = []
        for (weight, out), (magnitude, down, up) in zip(layers, factors, strict=True):
            with torch.set_grad_enabled(self.full_gradient and torch.is_grad_enabled()):
                norm = torch.linalg.vector_norm(weight + (down @ up).T / self.divisor, dim=1)
            gain = magnitude / norm
            # Added to what the layer gives, which is then exact where nothing has been learnt.
            updates.append((gain - 1) * out + gain * (x @ down @ up / self.divisor))
        return y + self.spread(updates).to(y.dtype)


add_method(
    "dora",
    Method(
        "low-rank update of the direction of matrices' rows, and their lengths learnt (Liu et al. 2024)",
        on_matrices("inside", "dora"),
        excludes=("mask",),
        knobs=(
            matrices_knob("q+v"),
            ALPHA,
            Knob("full_gradient", False, "gradients also flow through the norms of rows, which the paper takes for constants"),
        ),
    ),
)

"""HEADS: classifiers on features f (B, D) giving logits (B, C). The stored weight (C, D) is not renormalised while training.

A head is made of width D, classes C, the option ``scale``, a generator, and its own knobs by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pel_core.common.lazy import F, Module, nn, torch
from pel_core.common.registry import Registry

if TYPE_CHECKING:
    from torch import Generator, Tensor

HEADS: Registry[Any] = Registry("head")


class _Normed(Module):
    """A head of unit rows; its weight starts uniform in (-1, 1), scaled to unit rows."""

    def __init__(self, width: int, classes: int, scale: float, generator: Generator):
        super().__init__()
        rows = torch.empty(classes, width).uniform_(-1, 1, generator=generator)
        self.weight = nn.Parameter(F.normalize(rows, dim=-1))
        self.scale = scale


@HEADS.register("cosine", reads=("scale",))
class Cosine(_Normed):
    """scale * cos(f, w)"""

    def forward(self, f_BD: Tensor) -> Tensor:
        return F.linear(F.normalize(f_BD, dim=-1), F.normalize(self.weight, dim=-1)) * self.scale


@HEADS.register("linear")
class Linear(Module):
    """f W^T + b; Kaiming-normal weights (std sqrt(2/D)), zero bias."""

    def __init__(self, width: int, classes: int, scale: float, generator: Generator):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, width).normal_(0, (2 / width) ** 0.5, generator=generator))
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, f_BD: Tensor) -> Tensor:
        return F.linear(f_BD, self.weight, self.bias)


@HEADS.register("l2norm")
class L2Norm(_Normed):
    """f w / |w|"""

    def forward(self, f_BD: Tensor) -> Tensor:
        return F.linear(f_BD, F.normalize(self.weight, dim=-1))


@HEADS.register("layernorm")
class LayerNormed(_Normed):
    """LayerNorm(f) w / |w|, the norm without affine parameters (eps 1e-12)"""

    def forward(self, f_BD: Tensor) -> Tensor:
        return F.linear(F.layer_norm(f_BD, f_BD.shape[-1:], eps=1e-12), F.normalize(self.weight, dim=-1))


class ZeroShot(Module):
    """logit_scale * cos(f P, text): CLIP's own classifier; nothing trains.

    Args:
        projection: (D, E) of the image tower. text: (C, E) class-text features. logit_scale: CLIP's learned factor.
        shift: (E,) added to what is projected, of the few towers that have one.
    """

    def __init__(self, projection: Tensor, text: Tensor, logit_scale: float, shift: Tensor | None = None):
        super().__init__()
        self.register_buffer("projection", projection)
        self.register_buffer("shift", shift, persistent=False)
        self.register_buffer("text", F.normalize(text, dim=-1))
        self.logit_scale = logit_scale

    def forward(self, f_BD: Tensor) -> Tensor:
        image_BE = f_BD @ self.projection if self.shift is None else f_BD @ self.projection + self.shift
        return F.normalize(image_BE, dim=-1) @ self.text.T * self.logit_scale

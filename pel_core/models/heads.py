"""HEADS: classifiers on features f (B, D) giving logits (B, C). The stored weight (C, D) is not renormalised while training.

A head is made of width D, classes C, the option ``scale``, a generator, and its own knobs by name. One with a method ``fit``
(features (N, D), labels (N,)) is made of training images, and nothing of it trains (`models.knn`).

Kang et al. 2020 (Decoupling Representation and Classifier for Long-Tailed Recognition) divide a trained linear head's rows by
their norm to the power tau: a knob of ``linear``. The other heads normalise their rows, whatever length these have, so that it
would change nothing there: they are at tau = 1. Their learnable weight scaling (LWS) is the knob ``scales`` of a head with rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pel_core.common.lazy import F, Module, nn, torch
from pel_core.common.registry import Knob, Registry, at_least, one_of

if TYPE_CHECKING:
    from torch import Generator, Tensor

HEADS: Registry[Any] = Registry("head", ("pel_core.models.knn",))
SCALES = Knob(
    "scales", "none", "a factor of each class's logit, from 1: none, learnable with the rows, or alone, while the rows stay",
    one_of("none", "learnable", "alone"), needs=lambda spec: "" if spec.train_head else "train_head=true",
)  # fmt: skip
TAU_NORM = Knob(
    "tau_norm", 0.0, "rows are divided by their norm to this power, and the bias is left out as Kang et al. do; 0 does neither",
    at_least(0),
)  # fmt: skip


class _Rows(Module):
    """A head with a row of weights for each class, and perhaps a factor: ``scales`` (C,)."""

    def add_scales(self, scales: str) -> None:
        """What `SCALES` asks for, once the head has all else that trains."""
        if scales == "alone":
            for parameter in self.parameters():
                parameter.requires_grad_(False)
        self.scales = None if scales == "none" else nn.Parameter(torch.ones(len(self.weight)))

    def scaled(self, logits_BC: Tensor) -> Tensor:
        """Logits times the classes' factors, if there are some."""
        return logits_BC if self.scales is None else logits_BC * self.scales


class _Normed(_Rows):
    """A head of unit rows; its weight starts uniform in (-1, 1), scaled to unit rows."""

    def __init__(self, width: int, classes: int, scale: float, generator: Generator, scales: str = "none"):
        super().__init__()
        rows = torch.empty(classes, width).uniform_(-1, 1, generator=generator)
        self.weight = nn.Parameter(F.normalize(rows, dim=-1))
        self.scale = scale
        self.add_scales(scales)


@HEADS.register("cosine", knobs=(SCALES,), reads=("scale",))
class Cosine(_Normed):
    """scale * cos(f, w)"""

    def forward(self, f_BD: Tensor) -> Tensor:
        return self.scaled(F.linear(F.normalize(f_BD, dim=-1), F.normalize(self.weight, dim=-1)) * self.scale)


@HEADS.register("linear", knobs=(SCALES, TAU_NORM))
class Linear(_Rows):
    """f W^T + b; Kaiming-normal weights (std sqrt(2/D)), zero bias."""

    def __init__(self, width: int, classes: int, scale: float, generator: Generator, scales: str = "none", tau_norm: float = 0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, width).normal_(0, (2 / width) ** 0.5, generator=generator))
        self.bias = nn.Parameter(torch.zeros(classes))
        self.tau_norm = tau_norm
        self.add_scales(scales)

    def forward(self, f_BD: Tensor) -> Tensor:
        if not self.tau_norm:
            return self.scaled(F.linear(f_BD, self.weight, self.bias))
        return self.scaled(F.linear(f_BD, self.weight / self.weight.norm(dim=-1, keepdim=True) ** self.tau_norm))


@HEADS.register("l2norm", knobs=(SCALES,))
class L2Norm(_Normed):
    """f w / |w|"""

    def forward(self, f_BD: Tensor) -> Tensor:
        return self.scaled(F.linear(f_BD, F.normalize(self.weight, dim=-1)))


@HEADS.register("layernorm", knobs=(SCALES,))
class LayerNormed(_Normed):
    """LayerNorm(f) w / |w|, the norm without affine parameters (eps 1e-12)"""

    def forward(self, f_BD: Tensor) -> Tensor:
        return self.scaled(F.linear(F.layer_norm(f_BD, f_BD.shape[-1:], eps=1e-12), F.normalize(self.weight, dim=-1)))


class ZeroShot(Module):
    """logit_scale * cos(f P, text): CLIP's own classifier; nothing trains.

    Args:
        projection: (D, E) of the image tower. text: (C, E) class-text features. logit_scale: CLIP's learned factor.
    """

    def __init__(self, projection: Tensor, text: Tensor, logit_scale: float):
        super().__init__()
        self.register_buffer("projection", projection)
        self.register_buffer("text", F.normalize(text, dim=-1))
        self.logit_scale = logit_scale

    def forward(self, f_BD: Tensor) -> Tensor:
        return F.normalize(f_BD @ self.projection, dim=-1) @ self.text.T * self.logit_scale

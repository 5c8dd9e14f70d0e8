"""HEADS: classifiers on features f (B, D) giving logits (B, C). The stored weight (C, D) is not renormalised while training."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Linear(nn.Linear):
    """f W^T + b; Kaiming-normal weights (std sqrt(2/D)), zero bias."""

    def __init__(self, width: int, classes: int, scale: float, generator: torch.Generator):
        super().__init__(width, classes)
        with torch.no_grad():
            self.weight.normal_(0, (2 / width) ** 0.5, generator=generator)
            self.bias.zero_()


class _Normed(nn.Module):
    """A head of unit rows; its weight starts uniform in (-1, 1), scaled to unit rows."""

    def __init__(self, width: int, classes: int, scale: float, generator: torch.Generator):
        super().__init__()
        rows = torch.empty(classes, width).uniform_(-1, 1, generator=generator)
        self.weight = nn.Parameter(F.normalize(rows, dim=-1))
        self.scale = scale


class Cosine(_Normed):
    """scale * cos(f, w)"""

    def forward(self, f_BD: Tensor) -> Tensor:
        return F.linear(F.normalize(f_BD, dim=-1), F.normalize(self.weight, dim=-1)) * self.scale


class L2Norm(_Normed):
    """f w / |w|"""

    def forward(self, f_BD: Tensor) -> Tensor:
        return F.linear(f_BD, F.normalize(self.weight, dim=-1))


class LayerNormed(_Normed):
    """LayerNorm(f) w / |w|, the norm without affine parameters (eps 1e-12)"""

    def forward(self, f_BD: Tensor) -> Tensor:
        return F.linear(F.layer_norm(f_BD, f_BD.shape[-1:], eps=1e-12), F.normalize(self.weight, dim=-1))


HEADS: dict[str, type[nn.Module]] = {"cosine": Cosine, "linear": Linear, "l2norm": L2Norm, "layernorm": LayerNormed}


class ZeroShot(nn.Module):
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

"""HEADS: classifiers on features f (B, D) giving logits (B, C). The stored weight (C, D) is not renormalised while training.

A head is made of width D, classes C, the option ``scale``, a generator, and its own knobs by name. With the knob ``FEATURE`` it
may stand on CLIP's image projection f P (B, E) of the features; its width is then E. A head in a file of its own (`clip_adapter`,
`tip_adapter`, `knn`) is imported by this package.

Kang et al. 2020 (Decoupling Representation and Classifier for Long-Tailed Recognition) divide a trained linear head's rows by
their norm to the power tau: a knob of ``linear``. The other heads normalise their rows, whatever length these have, so that it
would change nothing there: they are at tau = 1. Their learnable weight scaling (LWS) is the knob ``scales`` of these four heads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pel_core.common.lazy import F, Module, nn, torch
from pel_core.common.registry import Knob, Registry, at_least, one_of

if TYPE_CHECKING:
    from torch import Generator, Tensor

HEADS: Registry[Any] = Registry("head")
SCALES = Knob(
    "scales", "none", "a factor of each class's logit, from 1: none, learnable with the rows, or alone, while the rows stay",
    one_of("none", "learnable", "alone"), needs=lambda spec: _needs_rows(spec),
)  # fmt: skip
TAU_NORM = Knob(
    "tau_norm", 0.0, "rows are divided by their norm to this power, and the bias is left out as Kang et al. do; 0 does neither",
    at_least(0),
)  # fmt: skip


def _needs_rows(spec: Any) -> str:
    """Factors alone (LWS of Kang et al. 2020) are a second stage: of a classifier that is trained."""
    if not spec.train_head:
        return "train_head=true"
    alone = spec.knob("head.scales") == "alone" and not spec.takes_head
    return "a run to start from whose head is taken over (from:, with take=all or take=head)" if alone else ""


def feature_knob(default: str = "width") -> Knob:
    """The knob ``feature`` of a head that derives from `Head`: which features it classifies."""
    return Knob(
        "feature", default,
        "what is classified: width, the class token after the final norm (the reference's), or projected, that times CLIP's "
        "image projection, where text features lie; rows from text are then the text features themselves",
        one_of("width", "projected"), limit=_no_projection,
    )  # fmt: skip


def _no_projection(spec: Any) -> str:
    """Why a run's features cannot be projected; empty where they can, or need not be."""
    if spec.knob("head.feature") == "width" or spec.vit.text:
        return ""
    return f"width: {spec.backbone} has no image projection"


FEATURE = feature_knob()


class Head(Module):
    """A head on features f (B, D), or on f P (B, E) once ``projection`` is set to P (D, E), which does not train
    (plus ``shift`` (E,), of the few towers that have one).

    ``trains``: whether it has parameters that train; ``rows``: whether it has rows, ``weight`` (C, D), that start as ``init``
    says; ``draws``: whether the seed says what it starts as, or which images it looks at. A head that also looks at training
    images has ``remembers`` (which ones: labels (N,), seed and knobs -> positions), ``remember`` (takes their features and labels
    before anything is trained) and ``allocate`` (makes room for what a checkpoint holds, by shape). ``extends``: another head
    whose stored tensors it may take over. ``projects``: whether it stands on projected features, whatever its knobs.

    A head with ``sentences`` is given all sentences of each class (``attach``), and ``choose`` the features and labels of the
    split that ``chooser`` names. One with ``branches`` (several logits (B, C) of the features) is trained by the sum of their
    losses; ``join`` makes one of them.
    """

    trains = True
    rows = True
    draws = True
    extends = ""
    projects = False
    sentences = False

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("projection", None, persistent=False)
        self.register_buffer("shift", None, persistent=False)

    def feature(self, f_BD: Tensor) -> Tensor:
        """What is classified: f (B, D), or f P (B, E)."""
        if self.projection is None:
            return f_BD
        projected = f_BD @ self.projection
        return projected if self.shift is None else projected + self.shift


class _Rows(Head):
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


@HEADS.register("cosine", knobs=(FEATURE, SCALES), reads=("scale",))
class Cosine(_Normed):
    """scale * cos(f, w)"""

    def forward(self, f_BD: Tensor) -> Tensor:
        return self.scaled(F.linear(F.normalize(self.feature(f_BD), dim=-1), F.normalize(self.weight, dim=-1)) * self.scale)


@HEADS.register("linear", knobs=(FEATURE, SCALES, TAU_NORM))
class Linear(_Rows):
    """f W^T + b; Kaiming-normal weights (std sqrt(2/D)), zero bias."""

    def __init__(self, width: int, classes: int, scale: float, generator: Generator, scales: str = "none", tau_norm: float = 0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, width).normal_(0, (2 / width) ** 0.5, generator=generator))
        self.bias = nn.Parameter(torch.zeros(classes))
        self.tau_norm = tau_norm
        self.add_scales(scales)

    def forward(self, f_BD: Tensor) -> Tensor:
        feature = self.feature(f_BD)
        if not self.tau_norm:
            return self.scaled(F.linear(feature, self.weight, self.bias))
        return self.scaled(F.linear(feature, self.weight / self.weight.norm(dim=-1, keepdim=True) ** self.tau_norm))


@HEADS.register("l2norm", knobs=(FEATURE, SCALES))
class L2Norm(_Normed):
    """f w / |w|"""

    def forward(self, f_BD: Tensor) -> Tensor:
        return self.scaled(F.linear(self.feature(f_BD), F.normalize(self.weight, dim=-1)))


@HEADS.register("layernorm", knobs=(FEATURE, SCALES))
class LayerNormed(_Normed):
    """LayerNorm(f) w / |w|, the norm without affine parameters (eps 1e-12)"""

    def forward(self, f_BD: Tensor) -> Tensor:
        feature = self.feature(f_BD)
        return self.scaled(F.linear(F.layer_norm(feature, feature.shape[-1:], eps=1e-12), F.normalize(self.weight, dim=-1)))


class ZeroShot(Module):
    """logit_scale * cos(f P, text): CLIP's own classifier; nothing trains.

    Args:
        projection: (D, E) of the image tower. text: (C, E) class-text features. logit_scale: CLIP's learned factor.
        shift: (E,) added to what is projected, of the few towers that have one.
    """

    def __init__(self, projection: Tensor, text: Tensor, logit_scale: float, shift: Tensor | None = None):
        super().__init__()
        self.register_buffer("projection", projection, persistent=False)
        self.register_buffer("shift", shift, persistent=False)
        self.register_buffer("text", F.normalize(text, dim=-1), persistent=False)
        self.logit_scale = logit_scale

    def forward(self, f_BD: Tensor) -> Tensor:
        image_BE = f_BD @ self.projection if self.shift is None else f_BD @ self.projection + self.shift
        return F.normalize(image_BE, dim=-1) @ self.text.T * self.logit_scale

"""LOSSES: long-tailed classification losses of raw logits (B, C) and labels (B,), given the training counts (C,).

Each is a module built from ``Prior(counts, tau, scale)`` and its own knobs; the statistics are float32 buffers, so they
follow the device. A loss that is a plain mean over images says ``decomposable = True``: parts of a batch then add up to it.
One whose ``forward`` also takes ``reduction="none"`` gives each image's loss (B,) then, which REWEIGHTS may weigh. One that has
``per_class(logits)``, the loss (B, C) for each label that an image might have, takes mixed images (`soft_targets`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pel_core.common.lazy import F, Module, torch
from pel_core.common.registry import Knob, above, at_least, between, one_of
from pel_core.spec.choices import LOSSES
from pel_core.training.reweights import ByClass, class_weights
from pel_core.training.soft_targets import Expected

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pel_core.spec.run_spec import RunSpec

SHAPES = ("concave", "linear", "convex")  # of label-aware smoothing
SMOOTHING = Knob("label_smoothing", 0.0, "share of the target that is spread evenly over all classes", between(0, 1))


@dataclass(frozen=True)
class Prior:
    """Training images per class (C,), the logit adjustment's temperature, and the head's scale (LDAM uses it)."""

    counts: Tensor
    tau: float = 1.0
    scale: float = 25.0

    @property
    def probabilities(self) -> Tensor:
        """Class priors (C,), float32."""
        return (self.counts.double() / self.counts.sum()).float()


@LOSSES.register("ce", knobs=(SMOOTHING,))
class CrossEntropy(Module):
    """Plain cross-entropy."""

    decomposable = True

    def __init__(self, prior: Prior, label_smoothing: float = 0.0):
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing, reduction=reduction)

    def per_class(self, logits: Tensor) -> Tensor:
        return _cross_entropies(logits, self.label_smoothing)


@LOSSES.register("la", knobs=(SMOOTHING,), reads=("tau",))
class LogitAdjusted(Module):
    """Cross-entropy of logits + tau * log prior (Menon et al. 2021; the report's equation 2)."""

    decomposable = True

    def __init__(self, prior: Prior, tau: float | None = None, label_smoothing: float = 0.0):
        super().__init__()
        self.label_smoothing = label_smoothing
        self.register_buffer("shift", (prior.tau if tau is None else tau) * prior.probabilities.log())

    def forward(self, logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
        return F.cross_entropy(logits + self.shift, labels, label_smoothing=self.label_smoothing, reduction=reduction)

    def per_class(self, logits: Tensor) -> Tensor:
        return _cross_entropies(logits + self.shift, self.label_smoothing)


@LOSSES.register("bs", knobs=(SMOOTHING,))
class BalancedSoftmax(LogitAdjusted):
    """Logit adjustment at tau = 1 (Ren et al. 2020)."""

    def __init__(self, prior: Prior, label_smoothing: float = 0.0):
        super().__init__(prior, 1.0, label_smoothing)


@LOSSES.register("focal", knobs=(Knob("gamma", 2.0, "exponent of 1 - p", at_least(0)),))
class Focal(Module):
    """(1 - p)^gamma * CE with p = exp(-CE) (Lin et al. 2017)."""

    decomposable = True

    def __init__(self, prior: Prior, gamma: float = 2.0):
        super().__init__()
        self.gamma = gamma

    def forward(self, logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
        loss = F.cross_entropy(logits, labels, reduction="none")
        return _reduced((1 - torch.exp(-loss)) ** self.gamma * loss, reduction)

    def per_class(self, logits: Tensor) -> Tensor:
        log_p = logits.log_softmax(1)
        return -(torch.expm1(log_p).neg().clamp(min=1e-12) ** self.gamma) * log_p  # at 0 a power below 1 has no gradient


class Weighted(Module):
    """Cross-entropy with class weights of mean 1, divided by the batch's weight sum."""

    def __init__(self, weights: Tensor):
        super().__init__()
        self.register_buffer("weights", (weights / weights.mean()).float())

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        # Autocast hands fp16 logits over, and PyTorch wants weights of the logits' own type.
        return F.cross_entropy(logits.float(), labels, weight=self.weights)

    def per_class(self, logits: Tensor) -> Tensor:
        return -self.weights * logits.log_softmax(1)

    def mass(self, targets: Tensor) -> Tensor:
        """The batch's weight sum, of soft targets (B, C)."""
        return (targets * self.weights).sum()


@LOSSES.register("cb", knobs=(Knob("beta", 0.9999, "weights are (1 - beta) / (1 - beta^n)", between(0, 1)),))
class ClassBalanced(Weighted):
    """Weights (1 - beta) / (1 - beta^n) (Cui et al. 2019), in float64: the reference's float32 is off by up to 4e-5."""

    def __init__(self, prior: Prior, beta: float = 0.9999):
        super().__init__((1 - beta) / (1 - beta ** prior.counts.double()))


@LOSSES.register("grw", knobs=(Knob("exponent", 1.0, "weights are n^-exponent", at_least(0)),))
class Reweighted(Weighted):
    """Generalised re-weighting: weights n^-exponent (Zhang et al. 2021)."""

    def __init__(self, prior: Prior, exponent: float = 1.0):
        super().__init__(prior.counts.double() ** -exponent)


@LOSSES.register("ldam", knobs=(Knob("largest", 0.5, "the largest margin, of the rarest class", above(0)),), reads=("scale",))
class LDAM(Module):
    """Cross-entropy with the true logit lowered by s * margin, margin = n^(-1/4) scaled to a largest of 0.5 (Cao et al. 2019).

    The logits come scaled already; s is the head's scale.
    """

    decomposable = True

    def __init__(self, prior: Prior, largest: float = 0.5):
        super().__init__()
        margins = prior.counts.double() ** -0.25
        self.register_buffer("margins", (margins * (largest / margins.max()) * prior.scale).float())

    def forward(self, logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
        true = F.one_hot(labels, logits.shape[-1]).to(logits.dtype)
        return F.cross_entropy(logits - true * self.margins[labels, None], labels, reduction=reduction)

    def per_class(self, logits: Tensor) -> Tensor:
        # Lowering z_c by m multiplies the sum of exponentials by 1 - p_c + p_c e^-m: in float64, or near p_c = 1 nothing is left.
        log_p, margins = logits.double().log_softmax(1), self.margins.double()
        return (margins - log_p + torch.log1p(log_p.exp() * torch.expm1(-margins))).float()


GAMMA = Knob("gamma", 0.3, "the logit of a class of n images is multiplied by (n / n_max)^gamma", at_least(0))


@LOSSES.register("vs", knobs=(GAMMA,), reads=("tau",))
class VectorScaling(Module):
    """Cross-entropy of (n / n_max)^gamma * logits + tau * log prior (VS loss, Kini et al. 2021; factors as in their code).

    With gamma = 0 it is logit adjustment, with tau = 0 the class-dependent temperatures of Ye et al. 2020 (CDT).
    """

    decomposable = True

    def __init__(self, prior: Prior, gamma: float = 0.3):
        super().__init__()
        counts = prior.counts.double()
        self.register_buffer("factor", ((counts / counts.max()) ** gamma).float())
        self.register_buffer("shift", prior.tau * prior.probabilities.log())

    def forward(self, logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
        return F.cross_entropy(logits * self.factor + self.shift, labels, reduction=reduction)

    def per_class(self, logits: Tensor) -> Tensor:
        return _cross_entropies(logits * self.factor + self.shift)


@LOSSES.register(
    "las",
    knobs=(
        Knob("head", 0.4, "smoothing of the largest class", between(0, 1)),
        Knob("tail", 0.1, "smoothing of the smallest class", between(0, 1)),
        Knob("shape", "concave", "how it rises with the images of a class: concave, linear, convex", one_of(*SHAPES)),
    ),
)
class LabelAwareSmoothing(Module):
    """Cross-entropy with more label smoothing the more images a class has (MiSLAS, Zhong et al. 2021).

    As in their code, whose defaults for CIFAR-100-LT at ratio 100 these are: like ``label_smoothing`` the smoothing is spread
    over all C classes. The paper's equation spreads it over the C - 1 others, as much as C / (C - 1) times the smoothing here.
    """

    decomposable = True

    def __init__(self, prior: Prior, head: float = 0.4, tail: float = 0.1, shape: str = "concave"):
        super().__init__()
        counts = prior.counts.double()
        span = counts.max() - counts.min()
        place = (counts - counts.min()) / span if span else torch.ones_like(counts)  # equal classes are all the largest
        rise = {"concave": torch.sin(place * math.pi / 2), "linear": place, "convex": 1 - torch.cos(place * math.pi / 2)}
        self.register_buffer("smoothing", (tail + (head - tail) * rise[shape]).float())

    def forward(self, logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
        surprise = -F.log_softmax(logits.float(), -1)
        true = surprise.gather(-1, labels[:, None])[:, 0]
        return _reduced(torch.lerp(true, surprise.mean(-1), self.smoothing[labels]), reduction)

    def per_class(self, logits: Tensor) -> Tensor:
        return _cross_entropies(logits, self.smoothing)


@LOSSES.register("lade", knobs=(Knob("weight", 0.1, "factor of the disentangling term", at_least(0)),))
class LADE(Module):
    """Logit adjustment (tau 1) + 0.1 * label distribution disentangling (Hong et al. 2021, with the reference's constants)."""

    def __init__(self, prior: Prior, weight: float = 0.1):
        super().__init__()
        self.weight = weight
        self.adjusted = LogitAdjusted(prior, tau=1.0)
        self.register_buffer("prior", prior.probabilities)
        uniform = torch.tensor(1 / len(prior.counts))
        self.register_buffer("shift", torch.log(uniform + 1e-9) - torch.log(prior.probabilities + 1e-9))

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        logits = logits.float()  # 1e-8 is zero in fp16, and an absent class would be 0 / 0
        own_BC = F.one_hot(labels, logits.shape[-1]).to(logits.dtype)
        own_C = (logits * own_BC).sum(0) / (own_BC.sum(0) + 1e-8)
        all_C = torch.logsumexp(logits + self.shift, 0) - torch.log(torch.tensor(float(len(labels))))
        estimate = -(self.prior * (own_C - all_C - 0.1 * all_C**2)).sum()
        return self.adjusted(logits, labels) + self.weight * estimate


def _reduced(each: Tensor, reduction: str) -> Tensor:
    """Losses of images (B,): their mean, or themselves."""
    return each.mean() if reduction == "mean" else each


def _cross_entropies(logits: Tensor, smoothing: float | Tensor = 0.0) -> Tensor:
    """Cross-entropy (B, C) for each label; of the target a share, () or (C,), is spread evenly over all classes."""
    surprise = -logits.log_softmax(1)
    return surprise + smoothing * (surprise.mean(1, keepdim=True) - surprise)


def make_loss(spec: RunSpec, counts: Tensor) -> nn.Module:
    """The loss of a run; ``counts``: training images per class (C,)."""
    loss = LOSSES[spec.loss](Prior(counts, spec.tau, spec.scale), **spec.knobs_of("loss"))
    weights = class_weights(spec, counts)
    loss = ByClass(loss, torch.from_numpy(weights[0]), weights[1]) if weights else loss
    return loss if spec.mix == "none" else Expected(loss)


def decomposable(loss: str) -> bool:
    """Whether a loss is a plain mean over images, so that parts of a batch add up to it."""
    return bool(getattr(LOSSES[loss], "decomposable", False))

"""LOSSES: long-tailed classification losses of raw logits (B, C) and labels (B,), given the training counts (C,).

Each is a module built from ``Prior(counts, tau, scale)`` and its own knobs; the statistics are float32 buffers, so they
follow the device. A loss that is a plain mean over images says ``decomposable = True``: parts of a batch then add up to it.

A loss that takes soft targets q (B, C), non-negative rows that sum to one, in the place of labels says ``soft_targets = True``;
one that does not is refused beside mixed images when a study is read. What it has to be then: of one-hot rows the loss of the
labels; of others the loss expected of a label that is drawn from q, sum_c q_c loss(z, c), for which mixup is written (Zhang et
al. 2018: lambda loss(z, a) + (1 - lambda) loss(z, b)). For a loss of single images this is one formula. Of `Weighted`, which
divides by the batch's weights, both sums are expected ones. LADE sums logits by class over the batch, inside of logarithms
and squares, so that it has several such readings: it refuses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pel_core.common.lazy import F, Module, torch
from pel_core.common.registry import Knob, above, at_least, between
from pel_core.spec.choices import LOSSES

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pel_core.spec.run_spec import RunSpec

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
    soft_targets = True

    def __init__(self, prior: Prior, label_smoothing: float = 0.0):
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)


@LOSSES.register("la", knobs=(SMOOTHING,), reads=("tau",))
class LogitAdjusted(Module):
    """Cross-entropy of logits + tau * log prior (Menon et al. 2021; the report's equation 2)."""

    decomposable = True
    soft_targets = True

    def __init__(self, prior: Prior, tau: float | None = None, label_smoothing: float = 0.0):
        super().__init__()
        self.label_smoothing = label_smoothing
        self.register_buffer("shift", (prior.tau if tau is None else tau) * prior.probabilities.log())

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits + self.shift, labels, label_smoothing=self.label_smoothing)


@LOSSES.register("bs", knobs=(SMOOTHING,))
class BalancedSoftmax(LogitAdjusted):
    """Logit adjustment at tau = 1 (Ren et al. 2020)."""

    def __init__(self, prior: Prior, label_smoothing: float = 0.0):
        super().__init__(prior, 1.0, label_smoothing)


@LOSSES.register("focal", knobs=(Knob("gamma", 2.0, "exponent of 1 - p", at_least(0)),))
class Focal(Module):
    """(1 - p)^gamma * CE with p = exp(-CE) (Lin et al. 2017)."""

    decomposable = True
    soft_targets = True

    def __init__(self, prior: Prior, gamma: float = 2.0):
        super().__init__()
        self.gamma = gamma

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        if labels.ndim == 2:
            log_p = logits.float().log_softmax(1)
            # Not quite 0, where a power below 1 has no gradient.
            return -(labels * torch.expm1(log_p).neg().clamp(min=1e-12) ** self.gamma * log_p).sum(1).mean()
        loss = F.cross_entropy(logits, labels, reduction="none")
        return ((1 - torch.exp(-loss)) ** self.gamma * loss).mean()


class Weighted(Module):
    """Cross-entropy with class weights of mean 1, divided by the batch's weight sum (of soft targets q: sum q_c w_c)."""

    soft_targets = True

    def __init__(self, weights: Tensor):
        super().__init__()
        self.register_buffer("weights", (weights / weights.mean()).float())

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        if labels.ndim == 2:  # PyTorch would divide by the images
            weights_BC = labels * self.weights
            return -(weights_BC * logits.float().log_softmax(1)).sum() / weights_BC.sum()
        # Autocast hands fp16 logits over, and PyTorch wants weights of the logits' own type.
        return F.cross_entropy(logits.float(), labels, weight=self.weights)


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
    soft_targets = True

    def __init__(self, prior: Prior, largest: float = 0.5):
        super().__init__()
        margins = prior.counts.double() ** -0.25
        self.register_buffer("margins", (margins * (largest / margins.max()) * prior.scale).float())

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        if labels.ndim == 2:
            # Lowering z_c by m multiplies the sum of exponentials by 1 - p_c + p_c e^-m. In float64: its rest is small.
            log_p, margins = logits.double().log_softmax(1), self.margins.double()
            loss_BC = margins - log_p + torch.log1p(log_p.exp() * torch.expm1(-margins))
            return (labels * loss_BC).sum(1).mean().float()
        true = F.one_hot(labels, logits.shape[-1]).to(logits.dtype)
        return F.cross_entropy(logits - true * self.margins[labels, None], labels)


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


def make_loss(spec: RunSpec, counts: Tensor) -> nn.Module:
    """The loss of a run; ``counts``: training images per class (C,)."""
    return LOSSES[spec.loss](Prior(counts, spec.tau, spec.scale), **spec.knobs_of("loss"))


def takes_soft_targets(loss: str) -> bool:
    """Whether a loss takes soft targets (B, C) in the place of labels (B,). Torch-free."""
    return bool(getattr(LOSSES[loss], "soft_targets", False))


def decomposable(loss: str) -> bool:
    """Whether a loss is a plain mean over images, so that parts of a batch add up to it."""
    return bool(getattr(LOSSES[loss], "decomposable", False))

"""The loss ``agcl``: asymmetric Gaussian clouded logits, of LPT (Dong et al. 2023, arXiv 2210.01033).

Logits are clouded as in GCL (Li et al. 2022, "Long-tailed visual recognition via Gaussian clouded logit adjustment"), then an
asymmetric loss (Ridnik et al. 2021) is taken of them. Formulas and defaults are those of LPT's public code, where the noise
lowers logits by its absolute value. Torch-free to import. Shapes: B images, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pel_core.common.lazy import Module, torch
from pel_core.common.registry import Knob, at_least, between
from pel_core.spec.choices import LOSSES
from pel_core.training.losses import Prior

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from pel_core.spec.run_spec import RunSpec

DEVIATION = 1 / 3  # of the noise, which is cut off at +-1
TINY = 1e-12  # at 0 a power below 1 has no gradient


def _needs_second(spec: RunSpec) -> str:
    return "" if spec.streams > 1 else "a sampler with a second stream (sampler=dual)"


@LOSSES.register(
    "agcl",
    knobs=(
        Knob("margin", 0.1, "what is taken from the cosine of the true class", at_least(0)),
        Knob("noise", 0.5, "factor of the noise, of the rarest class; a class of n images has (1 - log n / log n_max) / "
             "(1 - log n_min / log n_max) of it", at_least(0)),
        Knob("gamma_pos", 0.0, "exponent of 1 - p for the true class", at_least(0)),
        Knob("gamma_neg", 4.0, "exponent of p for the others", at_least(0)),
        Knob("second_gamma_pos", 0.5, "gamma_pos of a second stream", at_least(0), needs=_needs_second),
        Knob("second_gamma_neg", 8.0, "gamma_neg of a second stream", at_least(0), needs=_needs_second),
        Knob("label_smoothing", 0.1, "share of the target that is spread evenly over all classes", between(0, 1)),
    ),
    reads=("scale",),
)  # fmt: skip
class AsymmetricClouded(Module):
    """Cross-entropy with focused terms of noisy logits, noise and margin relative to the head's scale (A-GCL, Dong et al. 2023).

    z = logits - scale * (noise * |n| * m + margin * [true]), n normal with deviation 1/3 and cut off at +-1, one for each image
    and class; m from 0 of the largest class to 1 of the rarest, linear in log n. The loss is - sum_c q_c w_c log p_c,
    p = softmax(z), q the smoothed label, w = (1 - p)^gamma_pos of the true class and p^gamma_neg of the others.

    The noise of a batch is drawn by `begin`, image by image, so that it depends neither on micro-batches nor on how many
    processes share the batch. Without it, outside of a training, there is none.
    """

    decomposable = True

    def __init__(
        self,
        prior: Prior,
        margin: float = 0.1,
        noise: float = 0.5,
        gamma_pos: float = 0.0,
        gamma_neg: float = 4.0,
        second_gamma_pos: float = 0.5,
        second_gamma_neg: float = 8.0,
        label_smoothing: float = 0.1,
    ):
        super().__init__()
        rare = prior.counts.double().clamp(min=1).log()
        rare = rare.max() - rare
        self.register_buffer("cloud", (prior.scale * noise * rare / rare.max().clamp(min=TINY)).float())
        self.margin, self.label_smoothing = prior.scale * margin, label_smoothing
        self.gammas, self.second_gammas = (gamma_pos, gamma_neg), (second_gamma_pos, second_gamma_neg)
        self._draws: dict[str, np.random.Generator] = {}

    def begin(self, draw: Callable[[str], np.random.Generator], first: int) -> None:
        """A batch begins, or begins again: make its noise's generators, and pass over that of the images before ``first``."""
        self._draws = {name: draw(name) for name in ("first", "second")}
        for each in self._draws.values():
            each.standard_normal((first, len(self.cloud)))

    def forward(self, logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
        loss = self._losses(logits, labels, *self.gammas, self._noise("first", logits))
        return loss.mean() if reduction == "mean" else loss

    def second(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of a second stream, which has exponents of its own."""
        return self._losses(logits, labels, *self.second_gammas, self._noise("second", logits)).mean()

    def _noise(self, name: str, logits: Tensor) -> Tensor | float:
        """|n| of each image and class (B, C)."""
        if name not in self._draws:
            return 0.0
        drawn = torch.from_numpy(self._draws[name].standard_normal(tuple(logits.shape))).float()
        return (drawn * DEVIATION).clamp(-1, 1).abs().to(logits.device)

    def _losses(self, logits: Tensor, labels: Tensor, positive: float, negative: float, noise: Tensor | Any) -> Tensor:
        """(B,)"""
        true = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, labels[:, None], True)
        log_p = (logits.float() - self.cloud * noise - self.margin * true).log_softmax(1)
        others = torch.expm1(log_p).neg().clamp(min=TINY)  # 1 - p
        weight = torch.where(true, others**positive, log_p.exp() ** negative)
        target = self.label_smoothing / logits.shape[1] + (1 - self.label_smoothing) * true
        return -(target * weight * log_p).sum(1)

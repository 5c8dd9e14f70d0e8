"""The loss ``bcl``: balanced contrastive learning (Zhu et al. 2022, arXiv 2207.09052) beside logit adjustment.

It is a loss of features too. ``features = True`` declares that: `step` hands over what the head classifies of all views, and the
head's rows of classes. How many views (crops) of each image go through is its knob ``views``. Torch-free to import.

Shapes: B images, V views, C classes, D the width of what the head classifies, E of the space of contrast, N anchors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pel_core.common.lazy import F, Module, nn, torch
from pel_core.common.registry import Check, Knob, above, at_least
from pel_core.models.heads import HEADS
from pel_core.spec.choices import LOSSES
from pel_core.training.losses import LogitAdjusted, Prior

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from pel_core.spec.run_spec import RunSpec


def takes_features(loss: str) -> bool:
    """Whether the loss of that name reads features beside logits and labels."""
    return bool(getattr(LOSSES[loss], "features", False))


def _has_both(head: str) -> bool:
    """Whether a head says what it classifies and has rows of classes that no text tower writes."""
    entry: Any = HEADS[head]
    return hasattr(entry, "feature") and getattr(entry, "rows", False) and not getattr(entry, "tower", False)


def needs_features(spec: RunSpec) -> str:
    """What a run has to choose for its features to be contrasted, in words; empty where they can be."""
    if not _has_both(spec.head):
        fit = " or ".join(filter(_has_both, HEADS))
        return f"a head that says what it classifies and has rows of its own: head={fit}"
    if not spec.train_delta or not any(part.blocks for part in spec.parts):
        return "features that change: a method that trains in the blocks (adaptformer, lora, ...), and train_delta=true"
    return ""


class Projector(Module):
    """D -> E: linear, batch normalisation by the rows it is given, ReLU, linear, to unit length; the hidden width is D.

    As in the public code, where it is the same for images and for classes. It keeps no running statistics: it is of no use
    after training. A row alone, as the last of an epoch may be, is its own mean: the normalised row is zero.
    """

    def __init__(self, width: int, dim: int, generator: Generator):
        super().__init__()
        bound = width**-0.5  # torch's own start of a linear layer
        self.hidden, self.out = (
            nn.Parameter(torch.empty(size, width).uniform_(-bound, bound, generator=generator)) for size in (width, dim)
        )
        self.hidden_bias, self.out_bias = (
            nn.Parameter(torch.empty(size).uniform_(-bound, bound, generator=generator)) for size in (width, dim)
        )
        self.norm = nn.BatchNorm1d(width, track_running_stats=False)

    def forward(self, x_ND: Tensor) -> Tensor:
        hidden_ND = F.linear(x_ND, self.hidden, self.hidden_bias)
        alone = len(hidden_ND) == 1  # which torch refuses to normalise
        hidden_ND = (hidden_ND - hidden_ND) * self.norm.weight + self.norm.bias if alone else self.norm(hidden_ND)
        return F.normalize(F.linear(torch.relu(hidden_ND), self.out, self.out_bias), dim=-1)


def balanced_contrast(anchors_NE: Tensor, labels_N: Tensor, prototypes_CE: Tensor, temperature: float) -> Tensor:
    """Mean over anchors of the balanced contrastive loss: () of unit rows.

    Every anchor is contrasted with all other anchors and with the prototype of every class (class complement). In the sum over
    these each counts one over how many of its class are in it (class averaging), so that a class counts once, however many images
    it has. The loss is the mean of -log p over the others of the anchor's class, its prototype among them.
    """
    classes, itself = len(prototypes_CE), torch.arange(len(labels_N), device=labels_N.device)[:, None]
    of = torch.cat([labels_N, torch.arange(classes, device=labels_N.device)])
    logits = anchors_NE @ torch.cat([anchors_NE, prototypes_CE]).T / temperature
    same = (labels_N[:, None] == of).scatter(1, itself, False)
    members = torch.bincount(of, minlength=classes)[of] - same.to(of.dtype)  # without the anchor, where it is of that class
    parts = (logits - members.log()).scatter(1, itself, -torch.inf)
    log_p = logits - torch.logsumexp(parts, 1, keepdim=True)
    return -((log_p * same).sum(1) / same.sum(1)).mean()


@LOSSES.register(
    "bcl",
    knobs=(
        Knob("weight", 0.35, "factor of the contrastive term", above(0)),
        Knob("temperature", 0.07, "cosines are divided by it", above(0)),
        Knob("dim", 1024, "width of the space in which images and classes are contrasted", at_least(2)),
        Knob("views", 2, "crops of an image in a step: 2, both contrasted and the first classified; 3, two contrasted beside it "
             "(the public code's)", Check("2 or 3", lambda value: value in (2, 3))),
    ),
    reads=("tau",),
    needs=needs_features,
)  # fmt: skip
class BalancedContrast(Module):
    """Logit adjustment and a balanced contrastive term of two views (BCL, Zhu et al. 2022): a pass for each view.

    Class prototypes are the head's rows through a projector of their own. Defaults are those of the public code (for ImageNet-LT
    and iNaturalist), whose factor of the logit adjustment is 1. There the three views have different augmentations, here one.
    Projectors train at the head's rate and are left out of what a run stores.
    """

    features = True

    def __init__(self, prior: Prior, weight: float = 0.35, temperature: float = 0.07, dim: int = 1024, views: int = 2):
        super().__init__()
        self.weight, self.temperature, self.dim = weight, temperature, dim
        self.adjusted = LogitAdjusted(prior)

    def attach(self, width: int, generator: Generator) -> None:
        """Make what it learns itself, for features of this width, on the device of its buffers."""
        device = self.adjusted.shift.device
        self.of_images, self.of_classes = (Projector(width, self.dim, generator).to(device) for _ in range(2))

    def forward(self, logits: Tensor, labels: Tensor, features: Tensor, rows: Tensor) -> Tensor:
        """``features`` (B, V, D), of which the last two views are contrasted; ``rows`` (C, D) of the head."""
        with torch.autocast(logits.device.type, enabled=False):  # exponentials of cosines over the temperature
            views_NE = self.of_images(features.float().transpose(0, 1).flatten(0, 1))[-2 * len(labels) :]
            contrast = balanced_contrast(views_NE, labels.repeat(2), self.of_classes(rows.float()), self.temperature)
        return self.adjusted(logits, labels) + self.weight * contrast

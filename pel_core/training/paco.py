"""The losses ``paco`` and ``gpaco``: parametric contrastive learning (Cui et al. 2021, arXiv 2107.12028) and its generalised form
(Cui et al. 2023, arXiv 2209.12400), after their public code.

What is said of them here was read in the code (dvlab-research/Parametric-Contrastive-Learning, PaCo/LT and GPaCo/LT, commit
fe56535). Torch-free to import.

Shapes: B images, C classes, K entries of the queue, M what an image is contrasted with, D the width of what the head classifies,
E of the space of contrast.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pel_core.common.lazy import F, Module, nn, torch
from pel_core.common.registry import Knob, above, at_least, between
from pel_core.spec.choices import LOSSES
from pel_core.training.contrastive import Projector, needs_features
from pel_core.training.losses import LogitAdjusted, Prior

if TYPE_CHECKING:
    from torch import Generator, Tensor

MOST = 8192  # entries that `queue: auto` makes at most


def queue_size(images: int) -> int:
    """The entries K of `queue: auto`, for so many training images: a tenth, at most `MOST`.

    That is what the public scripts come to: 1024 of CIFAR-100-LT's 10,847 images, 8192 of ImageNet-LT's 115,846 and of
    iNaturalist's 437,513 (of Places-LT's 62,500 they have 8192 too, and this 6,250).
    """
    return max(1, min(MOST, images // 10))


class Queue(Module):
    """The newest K keys and their labels: ``keys`` (K, E) and ``labels`` (K,); ``oldest``: the place of the next to go.

    It starts as in the public code: normal numbers, of which each of the E columns (not each key) is scaled to unit length, with
    random labels. Keys are ``stage``d while a step's gradients are found, and enter at its end: a part of a batch that is taken
    again finds the queue as it was, and every group of the batch (`accumulate`) and both passes of SAM the same. Those of
    SAM's first pass enter.
    """

    def __init__(self, size: int, dim: int, classes: int, generator: Generator):
        super().__init__()
        self.register_buffer("keys", F.normalize(torch.randn(size, dim, generator=generator), dim=0))
        self.register_buffer("labels", torch.randint(classes, (size,), generator=generator))
        self.register_buffer("oldest", torch.zeros((), dtype=torch.int64))
        self._staged: list[tuple[Tensor, Tensor]] = []
        self._closed = False

    def drop(self) -> None:
        """Forget what is staged, unless closed: the images are gone through anew."""
        if not self._closed:
            self._staged.clear()

    def stage(self, keys: Tensor, labels: Tensor) -> None:
        """Keys (B, E) without gradient and labels (B,), to enter at the end of the step; none once closed."""
        if not self._closed:
            self._staged.append((keys, labels))

    def close(self) -> None:
        """The whole batch is staged."""
        self._closed = True

    def enter(self) -> None:
        """What is staged takes the place of the oldest entries; of more than K the last K do."""
        self._closed = False
        if not self._staged:
            return
        size = len(self.labels)
        keys, labels = (torch.cat(parts)[-size:] for parts in zip(*self._staged, strict=True))
        places = (self.oldest + torch.arange(len(labels), device=labels.device)) % size
        self.keys.index_copy_(0, places, keys)
        self.labels.index_copy_(0, places, labels)
        self.oldest.add_(len(labels)).remainder_(size)
        self.drop()


def parametric_contrast(
    logits_BC: Tensor,
    anchors_BE: Tensor,
    labels_B: Tensor,
    others_ME: Tensor,
    labels_M: Tensor,
    alpha: float,
    beta: float,
    gamma: float,
    temperature: float,
) -> Tensor:
    """Mean over anchors of the parametric contrastive loss: () of unit rows.

    Each anchor is contrasted with the centre of every class, by its logits, with the other anchors and with ``others`` (keys and
    queue), by cosines over the temperature. The loss is the mean of -log p over its own class's centre, which counts beta, and
    over the others of its class, which count alpha. In the sum below centres count one and images gamma.
    """
    cosines = anchors_BE @ torch.cat([anchors_BE, others_ME]).T / temperature  # (B, B + M)
    itself = torch.arange(len(labels_B), device=labels_B.device)[:, None]
    own = (labels_B[:, None] == torch.cat([labels_B, labels_M])).scatter(1, itself, False)
    counted = cosines + (math.log(gamma) if gamma else -math.inf)
    below = torch.logsumexp(torch.cat([logits_BC, counted.scatter(1, itself, -torch.inf)], 1), 1)
    centre = beta * logits_BC.gather(1, labels_B[:, None])[:, 0]
    weight = beta + alpha * own.sum(1)
    return (below - (centre + alpha * (cosines * own).sum(1)) / weight).mean()


KNOBS = (
    Knob("alpha", 0.05, "what another image of the class counts among an image's positives", at_least(0)),
    Knob("beta", 1.0, "what the class's centre counts among them", above(0)),
    Knob("gamma", 1.0, "what an image counts in the sum below the fraction, where a centre counts 1", at_least(0)),
    Knob("temperature", 0.2, "cosines are divided by it", above(0)),
    Knob("dim", 128, "width of the space in which images are contrasted", at_least(2)),
    Knob("queue", "auto", "keys of earlier batches that are kept, or auto for a tenth of the training images and at most "
         f"{MOST}", at_least(1), ("auto",), int),
)  # fmt: skip
MOMENTUM = Knob("momentum", 0.999, "share of itself that the momentum encoder keeps in a step", between(0, 1))


@LOSSES.register("paco", knobs=(*KNOBS, MOMENTUM), reads=("tau",), needs=needs_features)
class ParametricContrast(Module):
    """Logit adjustment and contrast with keys of a momentum encoder and a queue in one softmax (PaCo, Cui et al. 2021).

    Class centres are the head's rows and enter by the adjusted logits. Defaults are those of the public scripts for ImageNet-LT,
    Places-LT and iNaturalist (ResNet-50 and 152), and `queue_size`. The projector trains at the head's rate; it, its slow copy
    and the queue are left out of what a run stores.
    """

    features = True
    views = 2  # the second is the key's
    keys = 1  # how many of them go forward only
    projector: type[Module] = Projector

    def __init__(
        self,
        prior: Prior,
        alpha: float = 0.05,
        beta: float = 1.0,
        gamma: float = 1.0,
        temperature: float = 0.2,
        dim: int = 128,
        queue: int | str = "auto",
        momentum: float = 0.999,
    ):
        super().__init__()
        self.terms = {"alpha": alpha, "beta": beta, "gamma": gamma, "temperature": temperature}
        self.dim, self.momentum, self.classes = dim, momentum, len(prior.counts)
        self.size = queue_size(int(prior.counts.sum())) if queue == "auto" else int(queue)
        self.adjusted = LogitAdjusted(prior)

    def attach(self, width: int, generator: Generator) -> None:
        """Make what it learns itself and the queue, for features of this width, on the device of its buffers."""
        device = self.adjusted.shift.device
        self.of_images = self.projector(width, self.dim, generator).to(device)
        self.queue = Queue(self.size, self.dim, self.classes, generator).to(device)

    def project(self, features: Tensor) -> Tensor:
        """Features (B, D) -> unit rows (B, E) in fp32."""
        with torch.autocast(features.device.type, enabled=False):
            return self.of_images(features.float())

    def forward(self, logits: Tensor, labels: Tensor, features: Tensor, rows: Tensor, keys: Tensor) -> Tensor:
        """``features`` (B, 1, D) of the first view, ``keys`` (B, E) of the second through the momentum encoder."""
        anchors = self.project(features[:, 0])
        others = torch.cat([keys, self.queue.keys]), torch.cat([labels, self.queue.labels])
        self.queue.stage(keys, labels)
        with torch.autocast(logits.device.type, enabled=False):  # exponentials of cosines over the temperature
            return parametric_contrast(logits.float() + self.adjusted.shift, anchors, labels, *others, **self.terms)


class DeepProjector(Module):
    """D -> E: three linear layers with ReLU between them, to unit length; hidden widths are D. Without batch normalisation."""

    def __init__(self, width: int, dim: int, generator: Generator):
        super().__init__()
        bound = width**-0.5  # torch's own start of a linear layer
        first, second, last = (nn.utils.skip_init(nn.Linear, width, size) for size in (width, width, dim))
        self.layers = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound, generator=generator)

    def forward(self, x_ND: Tensor) -> Tensor:
        return F.normalize(self.layers(x_ND), dim=-1)


@LOSSES.register("gpaco", knobs=KNOBS, reads=("tau",), needs=needs_features)
class GeneralizedContrast(ParametricContrast):
    """PaCo without a momentum encoder: both views are classified and are anchors (GPaCo, Cui et al. 2023).

    The queue keeps the second view's. Two passes there and back. Defaults are those of the public scripts for ImageNet-LT and
    iNaturalist (theirs for Places-LT has alpha 0.02). Its label smoothing, for balanced ImageNet, is left out.
    """

    keys = 0
    every_view = True  # whose logits it takes
    projector = DeepProjector

    def forward(self, logits: Tensor, labels: Tensor, features: Tensor, rows: Tensor) -> Tensor:
        """``logits`` (B, 2, C) and ``features`` (B, 2, D) of both views."""
        anchors = self.project(features.transpose(0, 1).flatten(0, 1))
        self.queue.stage(anchors[len(labels) :].detach(), labels)
        logits, of, queue = logits.transpose(0, 1).flatten(0, 1), labels.repeat(2), self.queue
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits.float() + self.adjusted.shift
            return parametric_contrast(logits, anchors, of, queue.keys, queue.labels, **self.terms)

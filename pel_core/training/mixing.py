"""MIXES: how two images and their labels become one, on the device, batch by batch.

An entry is a `Mix`; its function gets a `Pair`, a generator and its knobs, and returns the mixed images and the share that the
label of the first image keeps. Targets are made of that here: share * one-hot(label) + (1 - share) * one-hot(other label).

The draw is the batch's: one for all its images, named by the spec's seed, epoch and step. So it depends neither on where a
training was resumed nor on micro-batches, which are parts of the mixed batch, nor on how many processes share the batch: each
mixes its own part with images that it may have to get from the process before. Shapes: B images, R pixels a side, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pel_core.common.errors import PelError
from pel_core.common.lazy import torch
from pel_core.common.registry import Check, Knob, above, at_least
from pel_core.common.seeds import generator
from pel_core.spec.choices import LOSSES, MIXES
from pel_core.training.soft_targets import takes_soft_targets

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from pel_core.hardware.process_group import ProcessGroup
    from pel_core.spec.run_spec import RunSpec


@dataclass(frozen=True)
class Pair:
    """Images (B, 3, R, R) with labels (B,), as many ``others`` with theirs, and the training images per class (C,)."""

    images: Tensor
    labels: Tensor
    others: Tensor
    other_labels: Tensor
    counts: Tensor


@dataclass(frozen=True)
class Mix:
    """One way to mix images, registered by `add_mix`.

    Args:
        function: of a `Pair`, a NumPy generator and the entry's knobs (but those of `WHEN` and `SECOND`, which are read here);
            returns mixed images (B, 3, R, R) and the share of the first label, a number or (B,). None mixes nothing.
        second: the others come from a second stream of training images, in which an image of a class of n counts n^-power
            (knob ``power``). Else an image's other is the one before it in the batch, whose order is random already.
        instead: of a mix that needs rarer classes than others, the one that does the same without them.
    """

    function: Callable[..., tuple[Tensor, Tensor | float]] | None
    second: bool = False
    instead: str = ""


def add_mix(
    name: str,
    function: Callable[..., tuple[Tensor, Tensor | float]],
    about: str,
    *knobs: Knob,
    second: bool = False,
    instead: str = "",
) -> None:
    """Register a `Mix`. That something trains, the loss takes two labels and a batch has two images is asked of every one."""
    MIXES.register(name, Mix(function, second, instead), about=about, knobs=knobs, needs=_needs_two_and_tail)


def _needs_two_and_tail(spec: RunSpec) -> str:
    if not spec.epochs:
        return "epochs above 0: nothing trains"
    if not takes_soft_targets(spec.loss):
        takers = " or ".join(name for name in LOSSES if takes_soft_targets(name))
        return f"a loss that takes the two labels of a mixed image: loss={takers}"
    if spec.batch_size == 1:
        return "a batch_size of at least 2: one image has one class"
    return _needs_tail(spec) if MIXES[spec.mix].instead and spec.drawn_ratio == 1 else ""


def _needs_tail(spec: RunSpec) -> str:
    return f"a long tail, and {spec.dataset} is balanced; mix={MIXES[spec.mix].instead} needs none"


def _some_epochs(spec: RunSpec) -> str:
    plain = spec.knob("mix.plain_start") + spec.knob("mix.plain_end")
    if plain < spec.epochs:
        return ""
    return f"smaller: mix.plain_start and mix.plain_end leave none of the {spec.epochs} epochs to be mixed"


SHARE = Check("above 0 and at most 1", lambda value: 0 < value <= 1)


def when(prob: float = 1.0) -> tuple[Knob, ...]:
    """The knobs that say which batches are mixed."""
    return (
        Knob("prob", prob, "share of the batches that are mixed", SHARE),
        Knob("plain_start", 0, "epochs at the start that are not mixed", at_least(0), limit=_some_epochs),
        Knob("plain_end", 0, "epochs at the end that are not mixed", at_least(0), limit=_some_epochs),
    )


WHEN = when()
ALPHA = Knob("alpha", 1.0, "of the distribution Beta(alpha, alpha) from which a batch's share lambda is drawn", above(0))
SECOND = (Knob("power", 1.0, "in the second stream an image counts n^-power, n its class's images; 1: classes alike", above(0)),)


def mixup(pair: Pair, draw: np.random.Generator, alpha: float) -> tuple[Tensor, float]:
    """lambda x + (1 - lambda) x' (Zhang et al. 2018, equation 1), as torchvision's MixUp."""
    share = draw.beta(alpha, alpha)
    return (pair.others * (1 - share)).add_(pair.images * share), share


def cutmix(pair: Pair, draw: np.random.Generator, alpha: float) -> tuple[Tensor, float]:
    """A box of x' of the area 1 - lambda, cut off at the border, in its place in x; the label's share is the rest's area
    (Yun et al. 2019, equations 1 and 2), as torchvision's CutMix."""
    height, width = pair.images.shape[-2:]
    half = 0.5 * math.sqrt(1 - draw.beta(alpha, alpha))
    (left, right), (top, bottom) = (_span(int(draw.integers(size)), int(half * size), size) for size in (width, height))
    images = pair.images.clone()
    images[..., top:bottom, left:right] = pair.others[..., top:bottom, left:right]
    return images, 1 - (right - left) * (bottom - top) / (width * height)


def _span(centre: int, half: int, size: int) -> tuple[int, int]:
    return max(centre - half, 0), min(centre + half, size)


def remix(pair: Pair, draw: np.random.Generator, alpha: float, kappa: float, tau: float) -> tuple[Tensor, Tensor]:
    """mixup whose label is the rarer class's alone where one class has kappa times the images of the other and its own share
    of the image is below tau (Chou et al. 2020, equation 8)."""
    images, share = mixup(pair, draw, alpha)
    ratio = pair.counts[pair.labels] / pair.counts[pair.other_labels]
    shares = torch.full_like(ratio, share)
    if share < tau:
        shares = shares.masked_fill(ratio >= kappa, 0.0)
    if 1 - share < tau:
        shares = shares.masked_fill(ratio <= 1 / kappa, 1.0)
    return images, shares


KAPPA = Knob(
    "kappa", 3.0, "a class with so many times the images of another is a majority", Check("at least 1", lambda kappa: kappa >= 1)
)
TAU = Knob("tau", 0.5, "a majority's label is given up where its share of the image is below", SHARE)

MIXES.register("none", Mix(None), about="images and labels as they come")
add_mix("mixup", mixup, "weighted mean of two images of a batch (Zhang et al. 2018)", ALPHA, *WHEN)
add_mix("cutmix", cutmix, "a box of another image of the batch pasted in (Yun et al. 2019)", ALPHA, *WHEN)
add_mix(
    "remix", remix, "mixup whose labels favour the rarer class (Chou et al. 2020)", ALPHA, KAPPA, TAU, *WHEN,
    instead="mixup",
)  # fmt: skip
add_mix(
    "cmo", cutmix, "CutMix that pastes images of a class-balanced second stream on those of the ordinary one (Park et al. 2022)",
    ALPHA, *SECOND, *when(0.5), second=True, instead="cutmix",
)  # fmt: skip


def mixed(batches: Any, spec: RunSpec, counts: Tensor, group: ProcessGroup) -> Any:
    """The batches of a run, mixed as its spec says; ``batches`` itself where it says nothing.

    Args:
        batches: yields (images (B, 3, R, R), labels (B,), indices) from ``epoch(e, first)``; of a second stream a `TrainBatches`.
        counts: training images per class (C,). group: the processes that train together.

    Raises:
        PelError: the mix favours rarer classes, and all have as many images; of what was not drawn at a ratio that is known here.
    """
    if MIXES[spec.mix].function is None:
        return batches
    if MIXES[spec.mix].instead and counts.min() == counts.max():
        raise PelError(f"mix={spec.mix} is not possible for {spec.method} here; it needs {_needs_tail(spec)}")
    return MixedBatches(batches, spec, counts, group)


class MixedBatches:
    """Batches whose images are mixed: see `mixed`. A batch that the draw leaves alone keeps its labels (B,)."""

    def __init__(self, batches: Any, spec: RunSpec, counts: Tensor, group: ProcessGroup):
        self.batches, self.spec, self.counts, self.group, self.mix = batches, spec, counts.float(), group, MIXES[spec.mix]
        knobs = spec.knobs_of("mix")
        self.prob = knobs.pop("prob", 1.0)
        self.epochs = range(knobs.pop("plain_start", 0), spec.epochs - knobs.pop("plain_end", 0))
        self.second = batches.second_stream("mix", _rare_first(knobs.pop("power", 1.0))) if self.mix.second else None
        self.knobs = knobs

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor, np.ndarray]]:
        """Yield (images (B, 3, R, R), targets float32 (B, C) or labels int64 (B,), indices) from an epoch's step ``first`` on."""
        draws = {step: draw for step in range(first, len(self)) if (draw := self._draw(epoch, step)) is not None}
        others = self.second.steps(epoch, list(draws)) if self.second else None
        for step, (images, labels, indices) in enumerate(self.batches.epoch(epoch, first), first):
            if step in draws:
                other = next(others)[:2] if others else self._before(images, labels, len(indices))
                images, labels = self._mixed(Pair(images, labels, *other, self._counts(labels)), draws[step])
            yield images, labels, indices

    def _draw(self, epoch: int, step: int) -> np.random.Generator | None:
        """The generator of a batch; None of one that is not mixed."""
        draw = generator(self.spec.seed, "mix", epoch, step)
        return draw if epoch in self.epochs and draw.random() < self.prob else None

    def _counts(self, labels: Tensor) -> Tensor:
        self.counts = self.counts.to(labels.device)
        return self.counts

    def _mixed(self, pair: Pair, draw: np.random.Generator) -> tuple[Tensor, Tensor]:
        images, share = self.mix.function(pair, draw, **self.knobs)
        own, other = (_one_hot(labels, len(pair.counts)) for labels in (pair.labels, pair.other_labels))
        share = share[:, None] if torch.is_tensor(share) else share
        return images, own * share + other * (1 - share)

    def _before(self, images: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The image and label before each in a batch of ``count`` images, and before the first the last."""
        others, other_labels = images.roll(1, 0), labels.roll(1, 0)
        if self.group.size == 1:
            return others, other_labels
        # Of several processes each has a part: what comes before it is the last of the part before. All sum what all see.
        last = images.new_zeros(self.group.size, *images.shape[1:])
        last_labels = labels.new_zeros(self.group.size)
        if len(labels):
            last[self.group.rank], last_labels[self.group.rank] = images[-1], labels[-1]
        last, last_labels = self.group.sum(last), self.group.sum(last_labels)
        parts = [self.group.part(count, rank) for rank in range(self.group.size)]
        position = (parts[self.group.rank].start - 1) % count
        owner = next(rank for rank, part in enumerate(parts) if part.start <= position < part.stop)
        if len(labels):
            others[0], other_labels[0] = last[owner], last_labels[owner]
        return others, other_labels


def _one_hot(labels: Tensor, classes: int) -> Tensor:
    """float32 (B, C)."""
    return torch.zeros(len(labels), classes, device=labels.device).scatter_(1, labels[:, None], 1.0)


def _rare_first(power: float) -> Callable[[np.random.Generator, np.ndarray], np.ndarray]:
    """A sampler of as many images as there are, with replacement, in which an image of a class of n counts n^-power.

    Source: the public code of Park et al. weighs images so, at power 1, by which classes come alike. Their q(r, k), as a
    probability of classes that falls with n_k^r, would be power = r + 1.
    """
    import numpy as np

    def sample(order: np.random.Generator, labels: np.ndarray, epoch: int = 0) -> np.ndarray:
        weights = np.bincount(labels)[labels].astype(np.float64) ** -power
        return order.choice(len(labels), len(labels), p=weights / weights.sum())

    return sample

"""SHARPNESS: sharpness-aware minimisation (SAM): the gradient that a step follows is taken where the loss is worst nearby.

An entry is a class made of the training counts (C,) and its knobs, with ``passes``, the most times that an image goes forward and
back in a step, and ``gradients(step, images, labels, count)``, which leaves the gradients to follow in the parameters. It calls
``step.accumulate`` for the sum over a part of the batch (all groups, micro-batches and processes) and ``away`` for the ascent.

Neighbourhoods are those of the whole batch's gradient, in groups or several processes too (in the papers' data-parallel runs each
process has its own). Nothing is kept between steps, so that checkpoints have nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pel_core.common.errors import PelError
from pel_core.common.lazy import torch
from pel_core.common.registry import Knob, above, at_least
from pel_core.spec.choices import LOSSES, SHARPNESS

if TYPE_CHECKING:
    from torch import Tensor

    from pel_core.spec.run_spec import RunSpec
    from pel_core.training.step import Step

RHO = Knob("rho", 0.05, "length of the ascent, over all that trains", above(0))


@contextmanager
def away(
    parameters: list[Tensor], rho: float, size: Callable[[Tensor], Tensor | float] = lambda parameter: 1.0
) -> Iterator[None]:
    """Inside, parameters are moved by ``rho`` along their gradients, which are dropped; after it they are as before, bit for bit.

    ``size`` of a parameter is T of ``rho T^2 g / |T g|``. A gradient that overflowed, as fp16's may, makes what follows not
    finite either, so that the scaler skips the step.
    """
    moved = [parameter for parameter in parameters if parameter.grad is not None]
    before = [parameter.detach().clone() for parameter in moved]
    with torch.no_grad():
        sizes = [size(parameter) for parameter in moved]
        scaled = [parameter.grad * factor for parameter, factor in zip(moved, sizes, strict=True)]
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(value) for value in scaled]))
        for parameter, value, factor in zip(moved, scaled, sizes, strict=True):
            parameter.add_(value * factor * (rho / (norm + 1e-12)))
            parameter.grad = None
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(moved, before, strict=True):
                parameter.copy_(value)


@SHARPNESS.register("none")
class Plain:
    """The gradient where the parameters are."""

    passes = 1

    def __init__(self, counts: Any):
        pass

    def gradients(self, step: Step, images: Tensor, labels: Tensor, count: int) -> Tensor:
        """The batch's gradient; returns its sums."""
        return step.accumulate(images, labels, count)


@SHARPNESS.register("sam", knobs=(RHO,))
class SAM:
    """The gradient at w + rho g / |g|, g being that at w (Foret et al. 2021): two passes a step."""

    passes = 2

    def __init__(self, counts: Any, rho: float = 0.05):
        self.rho = rho

    def gradients(self, step: Step, images: Tensor, labels: Tensor, count: int) -> Tensor:
        """Two passes over the batch; returns the sums of the first, at the parameters themselves."""
        sums = step.accumulate(images, labels, count)
        with away(step.parameters, self.rho):
            step.accumulate(images, labels, count)
        return sums


@SHARPNESS.register(
    "asam",
    knobs=(
        Knob("rho", 0.5, "length of the ascent, relative to the size of what trains", above(0)),
        Knob("eta", 0.01, "added to a weight's size, so that one that starts from zero moves too", at_least(0)),
    ),
)
class ASAM:
    """SAM whose ascent moves a weight by its size: rho T^2 g / |T g|, T = |w| + eta (Kwon et al. 2021): two passes a step.

    T is 1 for vectors (biases, norms, scales). The published code goes by names, and so takes a LayerNorm's weight for a matrix.
    """

    passes = 2

    def __init__(self, counts: Any, rho: float = 0.5, eta: float = 0.01):
        self.rho, self.eta = rho, eta

    def gradients(self, step: Step, images: Tensor, labels: Tensor, count: int) -> Tensor:
        """Two passes over the batch; returns the sums of the first, at the parameters themselves."""
        sums = step.accumulate(images, labels, count)
        with away(step.parameters, self.rho, lambda value: value.abs() + self.eta if value.ndim > 1 else 1.0):
            step.accumulate(images, labels, count)
        return sums


def _needs_mean(spec: RunSpec) -> str:
    if spec.mix != "none":
        return "mix=none: a mixed image is of two classes"
    means = [name for name in LOSSES if getattr(LOSSES[name], "decomposable", False)]
    if spec.loss not in means:
        return f"a loss that is a mean over images, to part them by class: loss={' or '.join(means)}"
    return "accumulation=exact: parts weigh by their images" if spec.accumulation == "reference" else ""


TAIL = (
    RHO,
    Knob("below", 20, "classes with fewer training images than this are the tail", at_least(2)),
    Knob("tail_weight", 1.0, "factor of the tail's loss; the published code has 2", above(0)),
)


@SHARPNESS.register("imbsam", knobs=TAIL, needs=_needs_mean)
class ImbSAM:
    """SAM's gradient for images of tail classes, the plain one for the others (Zhou et al. 2023): two passes for the tail.

    The ascent follows the tail's gradient alone. A batch without tail images is a plain step.

    Raises:
        PelError: no class is in the tail.
    """

    passes = 2

    def __init__(self, counts: Any, rho: float = 0.05, below: int = 20, tail_weight: float = 1.0):
        self.rho, self.tail_weight = rho, tail_weight
        self.tail = torch.as_tensor(counts) < below  # (C,)
        if not self.tail.any():
            raise PelError(
                f"sharpness=imbsam: no class has fewer than sharpness.below={below} training images (the fewest are "
                f"{int(torch.as_tensor(counts).min())}); ask for a larger sharpness.below, or for sharpness=sam"
            )

    def gradients(self, step: Step, images: Tensor, labels: Tensor, count: int) -> Tensor:
        """A pass over the images of head classes and two over those of the tail; returns the sums of the first of each."""
        tail = self.tail.to(labels.device)[labels]
        some = int(step.group.sum(tail.sum()))  # of all processes, so that they take the same passes
        if not some:
            return step.accumulate(images, labels, count)
        parts = [(images[tail], labels[tail]), (images[~tail], labels[~tail])]
        sums, rest = 0.0, []
        if some < count:
            sums = step.accumulate(*parts[1], count)
            rest = [parameter.grad for parameter in step.parameters]
            for parameter in step.parameters:
                parameter.grad = None
        sums = sums + step.accumulate(*parts[0], count)
        with away(step.parameters, self.rho):
            step.accumulate(*parts[0], count)
        for parameter, head in zip(step.parameters, rest or [None] * len(step.parameters), strict=True):
            if parameter.grad is not None:
                parameter.grad.mul_(self.tail_weight)
                parameter.grad.add_(0.0 if head is None else head)
        return sums


def make_sharpness(spec: RunSpec, counts: Any) -> Any:
    """The run's entry with its knobs. ``counts``: training images per class (C,)."""
    return SHARPNESS[spec.sharpness](counts, **spec.knobs_of("sharpness"))

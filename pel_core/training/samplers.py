"""SAMPLERS: the order in which an epoch's training images come. Torch-free.

An entry is a function of a generator, the labels (N,), int64, and its knobs; it returns N positions, int64, in the training
split: as many images make an epoch as there are, whatever the sampler, so that epochs cost and rates fall alike. One that has a
parameter ``progress`` is told it: 0 in the first epoch, 1 in the last. The generator is the epoch's own, so that a run that goes
on in the middle of an epoch, and each of several processes, finds the same order.

Those that balance draw with replacement: of a class with many images a part is seen in an epoch, one with few is seen repeatedly,
each time in another crop. With the knob `defer_knob` the run shuffles before they begin. One with the knob ``second`` has a
second, shuffled stream beside it (`objective`).
"""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING

from pel_core.common.errors import PelError
from pel_core.common.registry import Knob, above
from pel_core.spec.choices import LOSSES, SAMPLERS
from pel_core.training.reweights import BETA, effective
from pel_core.training.schedules import defer_knob, first_epoch

if TYPE_CHECKING:
    import numpy as np

    from pel_core.data.batches import Sampler
    from pel_core.spec.run_spec import RunSpec

DEFER = defer_knob("sampler")


@SAMPLERS.register("shuffle")
def shuffle(generator: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """Every image once, in random order, as in the reference."""
    from pel_core.data.batches import shuffled  # which imports torch

    return shuffled(generator, labels)


@SAMPLERS.register("balanced", knobs=(DEFER,))
def balanced(generator: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """Class-balanced: every class equally likely, then an image of it (Kang et al. 2020, equation 1 at q = 0)."""
    return power(generator, labels, 0.0)


@SAMPLERS.register("square-root", knobs=(DEFER,))
def square_root(generator: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """A class as likely as the square root of its images (Kang et al. 2020, equation 1 at q = 1/2)."""
    return power(generator, labels, 0.5)


@SAMPLERS.register("power", knobs=(Knob("q", 1.0, "a class is as likely as n^q: 1 like its images, 0 like the others"), DEFER))
def power(generator: np.random.Generator, labels: np.ndarray, q: float) -> np.ndarray:
    """A class as likely as n^q of its n images (Kang et al. 2020, equation 1); below 0 the rare ones are favoured."""
    return draw(generator, labels, _counts(labels) ** q)


@SAMPLERS.register("progressive", needs=lambda spec: "" if spec.epochs > 1 else "at least 2 epochs")
def progressive(generator: np.random.Generator, labels: np.ndarray, progress: float) -> np.ndarray:
    """Progressively balanced: from the classes' own shares in the first epoch to equal ones in the last (Kang et al. 2020)."""
    counts = _counts(labels)
    return draw(generator, labels, (1 - progress) * counts / counts.sum() + progress / len(counts))


@SAMPLERS.register("effective", knobs=(BETA, DEFER))
def by_effective_number(generator: np.random.Generator, labels: np.ndarray, beta: float) -> np.ndarray:
    """An image as likely as (1 - beta) / (1 - beta^n), by its class's effective number (as Cao et al. 2019 re-sample for DRS)."""
    counts = _counts(labels)
    return draw(generator, labels, counts * effective(counts, beta))


def _needs_unmixed(spec: RunSpec) -> str:
    if not getattr(LOSSES[spec.loss], "decomposable", False) or spec.train_views > 1:
        return "a loss that is a mean over images, of one view each"
    names = ("mix", "reweight", "sharpness")
    return "" if all(getattr(spec, name) == "none" for name in names) else f"none of {', '.join(names)}"


@SAMPLERS.register(
    "dual",
    knobs=(
        Knob("second", 0.5, "what the loss of the ordinary batch counts in the first epoch; it falls by as much in every epoch, "
             "to second / epochs in the last", above(0)),
    ),
    needs=_needs_unmixed,
)  # fmt: skip
def dual(generator: np.random.Generator, labels: np.ndarray, second: float = 0.5) -> np.ndarray:
    """Class-balanced, and beside each batch, not mixed with it, an ordinary one whose loss counts less (LPT, Dong et al. 2023).

    The order is that of the first stream; the second is `views.Streams`'. A step takes twice as many images.
    """
    return balanced(generator, labels)


def draw(generator: np.random.Generator, labels: np.ndarray, likely: np.ndarray) -> np.ndarray:
    """N positions with replacement: a class in proportion to ``likely`` (classes that have images, ascending), then any of its
    images."""
    import numpy as np

    _, own, counts = np.unique(labels, return_inverse=True, return_counts=True)
    each = (likely / counts)[own]
    return generator.choice(len(labels), len(labels), p=each / each.sum())


def _counts(labels: np.ndarray) -> np.ndarray:
    """Images of each class that has some, in ascending order of the classes, float64."""
    import numpy as np

    return np.unique(labels, return_counts=True)[1].astype(np.float64)


def make_sampler(spec: RunSpec) -> Sampler:
    """The run's sampler with its knobs; before its first epoch images are shuffled. What it returns is looked at: a
    plugin's may be of another length, and training would go on with fewer images than it says.

    Raises:
        PelError: by the order: it is not N whole numbers, or not positions of images.
    """
    sample, knobs, first = SAMPLERS[spec.sampler], spec.knobs_of("sampler"), first_epoch(spec, "sampler")
    knobs.pop("defer", None)
    paced = "progress" in signature(sample).parameters

    def order(generator: np.random.Generator, labels: np.ndarray, epoch: int) -> np.ndarray:
        if epoch < first:
            return shuffle(generator, labels)
        pace = {"progress": epoch / max(spec.epochs - 1, 1)} if paced else {}
        return positions(sample(generator, labels, **knobs, **pace), len(labels), spec.sampler)

    return order


def positions(found: object, count: int, name: str) -> np.ndarray:
    """What a sampler returned, as positions int64 (N,) of N = ``count`` images.

    Raises:
        PelError: it is something else; ``name`` is the sampler.
    """
    import numpy as np

    expected = f"expected {count} whole numbers from 0 to {count - 1}: as many positions as there are training images"
    try:
        order = np.asarray(found)
    except ValueError:  # lists of unequal lengths
        raise PelError(f"sampler '{name}' gave no array of numbers, {expected}") from None
    if order.shape != (count,):
        what = f"{len(order)} positions" if order.ndim == 1 else f"an array of shape {order.shape}"
        raise PelError(f"sampler '{name}' gave {what}, {expected}")
    if order.dtype.kind not in "iu":
        raise PelError(f"sampler '{name}' gave values of type {order.dtype}, {expected}")
    if count and (order.min() < 0 or order.max() >= count):
        wrong = order.min() if order.min() < 0 else order.max()
        raise PelError(f"sampler '{name}' gave the position {wrong}, {expected}")
    return order.astype(np.int64, copy=False)

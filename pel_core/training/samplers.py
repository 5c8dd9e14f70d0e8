"""SAMPLERS: the order in which an epoch's training images come. Torch-free.

An entry is a function of a generator, the labels (N,), int64, and its knobs; it returns N positions, int64, in the training
split: as many images make an epoch as there are.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pel_core.spec.choices import SAMPLERS

if TYPE_CHECKING:
    import numpy as np

    from pel_core.data.batches import Sampler
    from pel_core.spec.run_spec import RunSpec


@SAMPLERS.register("shuffle")
def shuffle(generator: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """Every image once, in random order, as in the reference."""
    from pel_core.data.batches import shuffled  # which imports torch

    return shuffled(generator, labels)


def make_sampler(spec: RunSpec) -> Sampler:
    """The run's sampler with its knobs."""
    return partial(SAMPLERS[spec.sampler], **spec.knobs_of("sampler"))

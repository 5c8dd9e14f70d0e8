"""Named random generators: every draw of a run comes from one of these, never from a global.

A generator is named by what it is for, so that adding a draw in one place shifts no draw in another.
"""

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derive(seed: int, *names: object) -> int:
    """A 63-bit seed that is a fixed function of the spec's ``seed`` and the ``names`` of what it is for."""
    text = "/".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *names: object) -> np.random.Generator:
    """A NumPy generator (counter-based Philox, so that a stream can be entered at any position)."""
    return np.random.Generator(np.random.Philox(derive(seed, *names)))


def torch_generator(seed: int, *names: object) -> "torch.Generator":
    """A CPU torch generator. Draws are made on the CPU on every device, so that runs start from equal values everywhere."""
    import torch

    return torch.Generator().manual_seed(derive(seed, *names))

"""What is computed again so that it need not be kept: cheap beside the matrix products, a third of a ViT-B's activations.

Only on CPUs, where a laptop's memory is soon full and there is no room to halve a batch once the system has killed the process.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

MANY_TOKENS = 64  # below, an image's activations are small and the twofold work is not


def should_checkpoint(x: Tensor) -> bool:
    """Whether what is made of ``x`` (B, N, ...) should be computed again in the backward pass."""
    return x.device.type == "cpu" and x.dim() > 2 and x.shape[1] >= MANY_TOKENS


def checkpointed(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``function(x)``, of whose inside nothing is kept for the backward pass where that should_checkpoint; the same bits."""
    if should_checkpoint(x) and torch.is_grad_enabled():
        return checkpoint(function, x, use_reentrant=False, preserve_rng_state=False)
    return function(x)

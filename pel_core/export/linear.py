"""A head as one matrix behind a normalisation of the feature: what zero-shot classification with any CLIP library does.

Shapes: D features, C classes.
"""

from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pel_core.common.seeds import torch_generator
from pel_core.models.heads import Head, ZeroShot

NORMALISED = {
    "none": lambda f_BD: f_BD,
    "l2": lambda f_BD: F.normalize(f_BD, dim=-1),
    "layernorm": lambda f_BD: F.layer_norm(f_BD, f_BD.shape[-1:], eps=1e-12),
}
FORMULAS = {
    "none": "features",
    "l2": "torch.nn.functional.normalize(features, dim=-1)",
    "layernorm": "torch.nn.functional.layer_norm(features, features.shape[-1:], eps=1e-12)",
}
EXACT = 1e-9


@dataclass(frozen=True)
class LinearHead:
    """logits = normalised(f) W^T + b; ``projected``: f is CLIP's projected feature."""

    normalised: str
    weight: Tensor
    bias: Tensor
    projected: bool


@torch.no_grad()
def linear_head(head: nn.Module) -> LinearHead | None:
    """The head in that form, in fp32; None where it has another: one that remembers training images, or has layers of its own.

    A head is asked for its logits, as deltas are in `merge`: W and b are solved for, then tried on other features.
    """
    rows = getattr(head, "text", getattr(head, "weight", None))
    if not isinstance(rows, Tensor):
        return None
    whole, width = _on_its_features(head), rows.shape[1]
    draw_ND = torch.randn(2 * width + 8, width, generator=torch_generator(0, "export", "head")).double()
    given_NC = whole(draw_ND)
    for name, normalise in NORMALISED.items():
        seen_ND = torch.cat([normalise(draw_ND), torch.ones(len(draw_ND), 1, dtype=draw_ND.dtype)], 1)
        solution = torch.linalg.lstsq(seen_ND[:-8], given_NC[:-8], driver="gelsd").solution
        if (seen_ND[-8:] @ solution - given_NC[-8:]).abs().max() <= EXACT * given_NC[-8:].abs().max():
            weight_CD, bias_C = solution[:-1].T.float().contiguous(), solution[-1].float().contiguous()
            return LinearHead(name, weight_CD, bias_C, getattr(head, "projection", None) is not None)
    return None


def _on_its_features(head: nn.Module) -> nn.Module:
    """A copy in fp64 that takes what it classifies, projected or not."""
    copy = deepcopy(head).double().eval()
    if isinstance(copy, ZeroShot):
        copy.projection, copy.shift = torch.eye(copy.text.shape[1], dtype=torch.float64), None
    elif isinstance(copy, Head):
        copy.projection = copy.shift = None
    return copy

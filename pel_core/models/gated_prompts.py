"""Gated prompts (Yoo et al. 2023, "Improving visual prompt tuning for self-supervised vision transformers", arXiv 2306.05067).

Prompts enter once, before the first block. Behind each block a learnt gate decides how much of what the block made of them
passes on, and how much of what had entered it. The paper also learns a temperature of each block's attention ("adaptive
attention shaping"). What the text leaves open follows the authors' public code: one scalar gate a block but for the last,
whose prompts nobody reads; temperatures held between 0.01 and 10. Its dropout of prompts (0.1) is not here.

Shape legend: B images, N tokens, P prompts, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pel_core.common.lazy import Module, nn, torch
from pel_core.common.registry import Knob
from pel_core.models.deltas import DELTAS, SiteContext
from pel_core.models.methods import Attach, Method, add_method

if TYPE_CHECKING:
    from torch import Tensor

COLDEST, HOTTEST = 0.01, 10.0


@DELTAS.register("prompt-gate")
class PromptGate(Module):
    """Prompts behind a block: g * what the block made of them + (1 - g) * what entered it, g = sigmoid of a scalar."""

    def __init__(self, site: SiteContext):
        super().__init__()
        self.tokens = site.tokens
        self.logit = nn.Parameter(torch.full((1,), float(site.knobs["gate"])))

    def forward(self, block: nn.Module, x_BND: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        out_BND = block(x_BND, *args, **kwargs)
        gate = torch.sigmoid(self.logit)
        prompts_BPD = gate * out_BND[:, self.tokens :] + (1 - gate) * x_BND[:, self.tokens :]
        return torch.cat([out_BND[:, : self.tokens], prompts_BPD.to(out_BND.dtype)], 1)


@DELTAS.register("attention-temperature")
class AttentionTemperature(Module):
    """Queries divided by a learnt scalar that starts at 1, so that attention is the softmax of q k^T / (sqrt(K) t)."""

    def __init__(self, site: SiteContext):
        super().__init__()
        self.width = site.width_out // 3
        self.temperature = nn.Parameter(torch.ones(1))

    def forward(self, qkv_BNX: Tensor) -> Tensor:
        learnt = self.temperature
        # Where it has left its range the border counts, but the gradient is still its own, so that it can come back.
        temperature = learnt + (learnt.clamp(COLDEST, HOTTEST) - learnt).detach()
        query = qkv_BNX[..., : self.width] / temperature
        return torch.cat([query.to(qkv_BNX.dtype), qkv_BNX[..., self.width :]], -1)


def _needs_gates(spec: Any) -> str:
    (part,) = [part for part in spec.parts if part.name == "vpt-gated"]
    return "" if part.start < spec.vit.layers - 1 else "vpt-gated on a block that is not the last"


add_method(
    "vpt-gated",
    Method(
        "tokens before the first block that learnt gates pass on, and learnt attention temperatures (Yoo et al. 2023)",
        (
            Attach("", "before", "prompt", when=lambda block: block.index == block.blocks.start),
            Attach("", "inside", "prompt-gate", when=lambda block: block.index < block.layers - 1),
            Attach("attn.qkv", "after", "attention-temperature", when=lambda block: block.knobs["shaping"]),
        ),
        excludes=("vpt-shallow", "vpt-deep"),
        knobs=(
            Knob(
                "gate",
                -5.0,
                "what gates start from: the share sigmoid(gate) of what a block makes of prompts passes on",
                needs=_needs_gates,
            ),
            Knob("shaping", True, "whether each block's attention has a learnt temperature, too"),
        ),
    ),
)

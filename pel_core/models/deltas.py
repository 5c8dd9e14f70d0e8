"""DELTAS: the small modules that methods attach to a frozen ViT.

Every factory takes a ``SiteContext`` (where it goes) and the method's options. Initial values are the reference's, drawn from
the generator the site carries.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pel_core.common.lazy import F, Module, nn, torch
from pel_core.common.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

DELTAS: Registry[Any] = Registry("delta")


@dataclass(frozen=True)
class SiteContext:
    """What a delta may know of its site: the module there and its widths, the ViT's numbers, the run's choices.

    ``adapter_scale`` None stands for learnable. ``knobs``: the values of the knobs of the method that attaches it.
    """

    module: nn.Module
    width_in: int
    width_out: int
    tokens: int
    patch: int
    rank: int
    vpt_len: int
    mask_ratio: float
    generator: torch.Generator
    adapter_scale: float | None = None
    knobs: Mapping[str, Any] = field(default_factory=dict)


class Bottleneck(Module):
    """scale * up(relu(down(norm(x)))): tokens (..., D) -> (..., D); starts at zero.

    Unless ``scaled``, there is no scale; else it is a parameter that starts at 1, or the constant ``site.adapter_scale``.
    LayerNorm before and N(0, 1/(3 D)) weights are the reference's, not the AdaptFormer paper's.
    """

    def __init__(self, site: SiteContext, scaled: bool):
        super().__init__()
        width, rank = site.width_in, site.rank
        self.norm = nn.LayerNorm(width)
        self.down = nn.Linear(width, rank)
        self.up = nn.Linear(rank, width)
        learnable = scaled and site.adapter_scale is None
        self.scale = nn.Parameter(torch.ones(1)) if learnable else site.adapter_scale if scaled else None
        with torch.no_grad():
            self.down.weight.normal_(0, (3 * width) ** -0.5, generator=site.generator)
            for zero in (self.down.bias, self.up.weight, self.up.bias):
                zero.zero_()

    def forward(self, x: Tensor) -> Tensor:
        from pel_core.hardware.cpu import checkpointed

        return checkpointed(self._branch, x)

    def _branch(self, x: Tensor) -> Tensor:
        out = self.up(torch.relu(self.down(self.norm(x))))
        return out if self.scale is None else out * self.scale


@DELTAS.register("adapter", reads=("adapter_dim",))
class Adapter(Bottleneck):
    """y + bottleneck(y), after the MLP (Houlsby et al. 2019); the identity at initialisation."""

    def __init__(self, site: SiteContext):
        super().__init__(site, scaled=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


@DELTAS.register("lora", reads=("adapter_dim",))
class LoRA(Module):
    """x A B / r for each updated part of a fused projection, zero for the others: (..., D) -> (..., parts * D_part).

    ``parts`` tells which equal slices of the output are updated: (True, False, True) are query and value of qkv. A is
    uniform with bound 1/sqrt(r), the reference's (its fan-in is taken from the transposed shape); B is zero.
    """

    def __init__(self, site: SiteContext, parts: tuple[bool, ...]):
        super().__init__()
        self.parts, self.rank = parts, site.rank
        self.part_width = site.width_out // len(parts)
        bound = site.rank**-0.5
        down = [
            torch.empty(site.width_in, site.rank).uniform_(-bound, bound, generator=site.generator) for _ in range(sum(parts))
        ]
        self.down = nn.ParameterList(map(nn.Parameter, down))
        self.up = nn.ParameterList(nn.Parameter(torch.zeros(site.rank, self.part_width)) for _ in down)

    def forward(self, x: Tensor) -> Tensor:
        updates = [x @ down @ up / self.rank for down, up in zip(self.down, self.up, strict=True)]
        if all(self.parts):
            return torch.cat(updates, -1)
        zero = torch.zeros_like(updates[0])
        queue = iter(updates)
        return torch.cat([next(queue) if part else zero for part in self.parts], -1)


@DELTAS.register("scale-shift")
class ScaleShift(Module):
    """x * scale + shift per channel (SSF); scale N(1, .02), shift N(0, .02), hence not the identity at initialisation."""

    def __init__(self, site: SiteContext):
        super().__init__()
        self.scale = nn.Parameter(torch.empty(site.width_out).normal_(1, 0.02, generator=site.generator))
        self.shift = nn.Parameter(torch.empty(site.width_out).normal_(0, 0.02, generator=site.generator))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


@DELTAS.register("prompt", reads=("vpt_len",))
class Prompt(Module):
    """Append P learnable tokens to the image's own: (B, N, D) -> (B, tokens + P, D), dropping earlier prompts."""

    def __init__(self, site: SiteContext):
        super().__init__()
        self.tokens = site.tokens
        bound = math.sqrt(6 / (3 * site.patch**2 + site.width_in))
        prompt = torch.empty(site.vpt_len, site.width_in).uniform_(-bound, bound, generator=site.generator)
        self.prompt = nn.Parameter(prompt)

    def forward(self, x_BND: Tensor) -> Tensor:
        prompt = self.prompt.to(x_BND.dtype).expand(len(x_BND), -1, -1)
        return torch.cat([x_BND[:, : self.tokens], prompt], 1)


@DELTAS.register("sparse", reads=("mask_ratio", "mask_seed"))
class Sparse(Module):
    """A random fraction of a linear layer's own weights and biases (if it has any), trained in the site of the frozen ones.

    ``int(ratio * n)`` of n entries in row-major order of [weight | bias], the bias being the last column (the reference's
    order). Starts at the pre-trained values, hence as the identity.
    """

    def __init__(self, site: SiteContext):
        super().__init__()
        weight, bias = site.module.weight.detach(), site.module.bias
        self.shape = tuple(weight.shape)
        width = weight.shape[1] + (bias is not None)
        total = len(weight) * width
        chosen = torch.randperm(total, generator=site.generator)[: int(site.mask_ratio * total)].sort().values
        of_bias = chosen % width == weight.shape[1]
        # Index lists rather than masks: a mask has to be counted in every forward pass.
        in_weight = chosen[~of_bias]
        self.register_buffer("index_weight", in_weight - (in_weight // width if bias is not None else 0), persistent=False)
        self.register_buffer("index_bias", chosen[of_bias] // width, persistent=False)
        self.weight = nn.Parameter(weight.cpu().flatten()[self.index_weight])
        self.bias = None if bias is None else nn.Parameter(bias.detach().cpu()[self.index_bias])

    def forward(self, linear: nn.Linear, x: Tensor) -> Tensor:
        weight = linear.weight.flatten().index_copy(0, self.index_weight, self.weight).view_as(linear.weight)
        bias = linear.bias if self.bias is None else linear.bias.index_copy(0, self.index_bias, self.bias)
        return F.linear(x, weight, bias)


@DELTAS.register("adaptformer", reads=("adapter_dim", "adapter_scale"))
def adaptformer(site: SiteContext) -> Bottleneck:
    """The bottleneck with a scale (Chen et al. 2022)."""
    return Bottleneck(site, scaled=True)

"""DELTAS: the small modules that methods attach to a frozen ViT.

Every factory takes a ``SiteContext`` (where it goes) and the method's options. Initial values are the reference's, drawn from
the generator the site carries. A delta may name parameters in ``carried``: they do not train and are stored all the same, since
they come from another run. One that adds to the loss has ``own_loss()``: what each image of the last pass adds, (B,).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pel_core.common.lazy import F, Module, nn, torch
from pel_core.common.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

DELTAS: Registry[Any] = Registry("delta")


class Notes(dict[str, Any]):
    """What deltas of one method tell each other in a pass, by name. It outlives no pass, so a copied network's is empty."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Notes:
        return Notes()


@dataclass(frozen=True)
class SiteContext:
    """What a delta may know of its site: the module there and its widths, the ViT's numbers, the run's choices.

    ``adapter_scale`` None stands for learnable. ``knobs``: the values of the knobs of the method that attaches it; ``blocks``:
    the blocks that it acts on; ``prefix``: how many of the tokens come before the patches; ``held``: what all deltas of the
    method hold together, to be asked for by ``share``. ``index``: the block; ``rest``: the network itself from a block on, as
    `ViT.rest`, for a delta that reads what it says of the whole image; ``notes``: what deltas of the method tell each other
    while images go through.
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
    blocks: range = range(1)
    prefix: int = 1
    held: dict[str, nn.Parameter] = field(default_factory=dict)
    index: int = 0
    rest: Callable[[Tensor, int], Tensor] | None = None
    notes: Notes = field(default_factory=lambda: Notes())

    def share(self, name: str, make: Callable[[], Tensor], trains: bool = True) -> nn.Parameter:
        """The parameter of this name that the deltas of all blocks and sites share; the first that asks makes it.

        A delta keeps it as an attribute of its own. It counts once and is stored once, as ``METHOD.shared.NAME``; one that does
        not train is stored nowhere.
        """
        if name not in self.held:
            like = next(self.module.parameters(), torch.empty(0))
            # On the device at once: moving it with each delta would part it where devices do not share memory layouts.
            self.held[name] = nn.Parameter(make().to(like.device, like.dtype), requires_grad=trains)
        return self.held[name]


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


class OfParts(Module):
    """What updates some of the equal slices of a layer's output.

    ``parts``: whether each slice is updated, or its name among the ``matrices`` of the method's knobs. (True, False, True) are
    query and value of qkv.
    """

    def __init__(self, site: SiteContext, parts: tuple[bool | str, ...]):
        super().__init__()
        chosen = site.knobs.get("matrices", "").split("+")
        self.parts = tuple(part if isinstance(part, bool) else part in chosen for part in parts)
        self.part_width = site.width_out // len(parts)

    def spread(self, updates: list[Tensor]) -> Tensor:
        """What belongs to the updated parts (..., D_part each), side by side with zeros for the others (..., parts * D_part)."""
        if all(self.parts):
            return torch.cat(updates, -1)
        zero = torch.zeros_like(updates[0])
        queue = iter(updates)
        return torch.cat([next(queue) if part else zero for part in self.parts], -1)

    def updated(self, whole: Tensor, dim: int = -1) -> list[Tensor]:
        """The updated slices of what is as wide as the layer's output."""
        slices = whole.chunk(len(self.parts), dim)
        return [own for own, part in zip(slices, self.parts, strict=True) if part]


@DELTAS.register("lora", reads=("adapter_dim",))
class LoRA(OfParts):
    """alpha / r * x A B for each updated part of a fused projection, zero for the others: (..., D) -> (..., parts * D_part).

    A is uniform with bound 1/sqrt(r), the reference's (its fan-in is taken from the transposed shape); B is zero. Without a
    knob ``alpha`` it is 1. There is no dropout, as in the reference.
    """

    def __init__(self, site: SiteContext, parts: tuple[bool | str, ...]):
        super().__init__(site, parts)
        self.divisor = site.rank / site.knobs.get("alpha", 1.0)
        bound = site.rank**-0.5
        down = [
            torch.empty(site.width_in, site.rank).uniform_(-bound, bound, generator=site.generator)
            for _ in range(sum(self.parts))
        ]
        self.down = nn.ParameterList(map(nn.Parameter, down))
        self.up = nn.ParameterList(nn.Parameter(torch.zeros(site.rank, self.part_width)) for _ in down)

    def forward(self, x: Tensor) -> Tensor:
        return self.spread([x @ down @ up / self.divisor for down, up in zip(self.down, self.up, strict=True)])


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
        prompt = self.prompt.to(x_BND.dtype).expand(x_BND.shape[0], -1, -1)
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

"""Model surgery: freeze a ViT, attach a stack of methods to it, and say exactly what trains.

Every site is resolved before anything is changed, so a mistake leaves the model as it was.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pel_core.common.errors import PelError
from pel_core.common.seeds import torch_generator
from pel_core.models.deltas import DELTAS, Notes, SiteContext
from pel_core.models.methods import METHODS, Attach, BlockContext, MethodPart
from pel_core.models.vit import ViT


class Wrapped(nn.Module):
    """A module with a delta around it; it takes the module's place in its parent."""

    def __init__(self, module: nn.Module, delta: nn.Module):
        super().__init__()
        self.module, self.delta = module, delta


class Before(Wrapped):
    """f(m(x))"""

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        return self.module(self.delta(x), *args, **kwargs)


class After(Wrapped):
    """m(f(x))"""

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        return self.delta(self.module(x, *args, **kwargs))


class Beside(Wrapped):
    """f(x) + m(x); where f reads out the first tokens only (``read``), so does m."""

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        out = self.module(x, *args, **kwargs)
        return out + self.delta(x[:, : out.shape[1]])


class Inside(Wrapped):
    """m(f, x): the delta computes with the module's own weights."""

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        return self.delta(self.module, x, *args, **kwargs)


WRAPS: dict[str, type[Wrapped]] = {"before": Before, "after": After, "beside": Beside, "inside": Inside}


@dataclass(frozen=True)
class Tuned:
    """One parameter that trains: its stored name, and where it sits (``site`` "" is the block itself).

    One that several deltas share is listed once, where it comes first; ``last`` is the last block that has it. ``carried``: it
    comes from another run and does not train.
    """

    name: str
    method: str
    block: int
    site: str
    parameter: nn.Parameter
    last: int = -1
    carried: bool = False

    def __post_init__(self) -> None:
        if self.last < 0:
            object.__setattr__(self, "last", self.block)


def auto_adapter_dim(classes: int, layers: int) -> int:
    """2^max(0, floor(log2(classes / (2 layers)))): the reference counts all layers even where few are tuned, LIFT+ the tuned."""
    return 2 ** max(0, (classes // (2 * layers)).bit_length() - 1)


def auto_mask_ratio(classes: int, layers: int, width: int) -> float:
    """The reference's rule: classes / (12 layers width), floored to thousandths, at least 0.001."""
    return max(1, 1000 * classes // (12 * layers * width)) / 1000


def apply(
    vit: ViT,
    parts: tuple[MethodPart, ...],
    *,
    adapter_dim: int,
    adapter_scale: float | None = None,
    vpt_len: int = 10,
    mask_ratio: float = 0.001,
    seed: int = 0,
    mask_seed: int = 0,
    knobs: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Tuned]:
    """Freeze ``vit``, attach ``parts`` to it in place and return what trains, block by block in the order of METHODS.

    ``adapter_scale`` None makes AdaptFormer's scale learnable; ``knobs``: the knobs of each method by name.

    Raises:
        PelError: a site or a trained pattern that no block has.
    """
    order = list(METHODS)
    parts = tuple(sorted(parts, key=lambda part: order.index(part.name)))
    unfreeze = [tuned for part in parts for tuned in _matching(vit, part)]
    choices = {"rank": adapter_dim, "adapter_scale": adapter_scale, "vpt_len": vpt_len, "mask_ratio": mask_ratio}
    given = {}
    for part in parts:
        of_masks = METHODS[part.name].draws == "mask"
        generator = torch.Generator().manual_seed(mask_seed) if of_masks else torch_generator(seed, "delta", part.name)
        own = {knob.name: knob.default for knob in METHODS[part.name].knobs} | dict((knobs or {}).get(part.name, {}))
        given[part] = choices | {
            "generator": generator,
            "knobs": own,
            "blocks": part.blocks,
            "held": {},
            "notes": Notes(),
            "rest": getattr(vit, "rest", None),
            "prefix": getattr(vit, "num_prefix_tokens", 0),  # a ResNet has none
        }
    network = getattr(vit, "network", "vit")
    places = [
        (part, attach, index)
        for part in parts
        for index in part.blocks
        for attach in METHODS[part.name].attached(BlockContext(index, part.blocks, vit.layers, given[part]["knobs"], network))
    ]
    for _, attach, index in places:
        _site(vit.blocks[index], attach.site, index)
    vit.requires_grad_(False)
    for tuned in unfreeze:
        tuned.parameter.requires_grad_(True)
    attached = []
    for part, attach, index in sorted(places, key=lambda place: place[1].depth):
        attached += _attach(vit, part, attach, index, given[part])
    return _once(attached) + _once(unfreeze)


def _matching(vit: ViT, part: MethodPart) -> list[Tuned]:
    found = []
    for index in part.blocks:
        named = list(vit.blocks[index].named_parameters())
        for pattern in METHODS[part.name].train:
            matches = [(name, parameter) for name, parameter in named if re.fullmatch(pattern, name)]
            if not matches:
                raise PelError(f"{part.name}: block {index} has no parameter like '{pattern}'; it has {', '.join(dict(named))}")
            for name, parameter in matches:
                found.append(Tuned(f"blocks.{index}.{name}", part.name, index, name.rpartition(".")[0], parameter))
    return found


def _once(tuned: list[Tuned]) -> list[Tuned]:
    """Stacked methods may train the same backbone parameter (``bias+ln``), deltas may share one; it counts for the first."""
    last = {id(entry.parameter): entry.block for entry in sorted(tuned, key=lambda entry: entry.block)}
    once = list({id(entry.parameter): entry for entry in reversed(tuned)}.values())[::-1]
    return [replace(entry, last=last[id(entry.parameter)]) for entry in once]


def _site(block: nn.Module, site: str, index: int) -> nn.Module:
    """The current occupant of a site, seen through the wraps around it."""
    module = block
    for word in filter(None, site.split(".")):
        module = getattr(_bare(module), word, None)
        if module is None:
            sites = [name for name, _ in _bare(block).named_modules() if name and "delta" not in name]
            raise PelError(f"block {index} has no site '{site}'; it has {', '.join(sites)}")
    return module


def _bare(module: nn.Module) -> nn.Module:
    while isinstance(module, Wrapped):
        module = module.module
    return module


def _attach(vit: ViT, part: MethodPart, attach: Attach, index: int, choices: Mapping[str, Any]) -> list[Tuned]:
    occupant = _site(vit.blocks[index], attach.site, index)
    width_in, width_out = _widths(_bare(occupant), vit.width)
    place = SiteContext(_bare(occupant), width_in, width_out, vit.tokens, vit.patch, index=index, **choices)
    reference = next(vit.parameters())
    delta = DELTAS[attach.delta](place, **attach.options).to(reference.device, reference.dtype)
    wrapped = WRAPS[attach.how](occupant, delta)
    if attach.site:
        parent, _, word = attach.site.rpartition(".")
        setattr(_bare(_site(vit.blocks[index], parent, index)), word, wrapped)
    else:
        vit.blocks[index] = wrapped
    prefix = ".".join(filter(None, [part.name, str(index), attach.site]))
    shared = {id(value): f"{part.name}.shared.{name}" for name, value in place.held.items()}
    carried = getattr(delta, "carried", ())
    return [
        Tuned(shared.get(id(value), f"{prefix}.{name}"), part.name, index, attach.site, value, carried=name in carried)
        for name, value in delta.named_parameters()
        if value.requires_grad or name in carried
    ]


def _widths(module: nn.Module, width: int) -> tuple[int, int]:
    return (module.in_features, module.out_features) if isinstance(module, nn.Linear) else (width, width)

"""FacT (Jie and Deng 2023, "FacT: Factor-tuning for lightweight adaptation on vision transformer", arXiv 2212.03145).

The updates of all D x D matrices of a ViT (query, key, value, output projection, and four each in the MLP's two layers: 12 a
block) are one tensor, which is decomposed. What belongs to every block is shared: U (D, r) and V (r, D), and in the Tucker form
the core. Shared tensors exist once, count once and are stored once.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pel_core.common.errors import PelError
from pel_core.common.lazy import Module, nn, torch
from pel_core.common.registry import Knob, above, one_of
from pel_core.models.deltas import DELTAS, SiteContext
from pel_core.models.methods import MATRICES, Attach, Method, add_method

if TYPE_CHECKING:
    from torch import Tensor

OF_A_BLOCK = {"both": 12, "attn": 4}  # D x D matrices of a block where the MLP is four times as wide


class FacT(Module):
    """scale * x U S V for each of a layer's D x D matrices: (..., I D) -> (..., O D), where I or O is 1.

    U is uniform with bound 1/sqrt(D), V zero: the layer is unchanged at initialisation. The public code's dropout (0.1) is not
    here.
    """

    def __init__(self, site: SiteContext):
        super().__init__()
        self.width = min(site.width_in, site.width_out)
        if site.width_in % self.width or site.width_out % self.width:
            asked = f"a layer of {site.width_in} x {site.width_out}"
            raise PelError(
                f"FacT takes layers for D x D matrices, and {asked} is none; take sites=attn, or another method, e.g. lora"
            )
        self.ins, self.outs, self.rank = site.width_in // self.width, site.width_out // self.width, site.rank
        self.scale, generator = site.knobs["scale"], site.generator
        self.u = site.share("u", lambda: _uniform((self.width, site.rank), self.width**-0.5, generator))
        self.v = site.share("v", lambda: torch.zeros(site.rank, self.width))

    def core(self) -> Tensor:
        """S of all the layer's matrices, (I r, O r)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        inner = (x.unflatten(-1, (self.ins, self.width)) @ self.u).flatten(-2) @ self.core()
        return (inner.unflatten(-1, (self.outs, self.rank)) @ self.v).flatten(-2) * self.scale


@DELTAS.register("fact-tt", reads=("adapter_dim",))
class TensorTrain(FacT):
    """S is the layer's own: I O r^2 parameters, uniform with bound 1/sqrt(I r)."""

    def __init__(self, site: SiteContext):
        super().__init__(site)
        inputs = self.ins * self.rank
        self.s = nn.Parameter(_uniform((inputs, self.outs * self.rank), inputs**-0.5, site.generator))

    def core(self) -> Tensor:
        return self.s


@DELTAS.register("fact-tk", reads=("adapter_dim",))
class Tucker(FacT):
    """S is a shared core (r, r, r) times the layer's own columns P (r, I O), both Xavier-uniform.

    Each of the layer's matrices has one column. The public code cuts the four of an MLP layer another way out of the same
    numbers.
    """

    def __init__(self, site: SiteContext):
        super().__init__(site)
        rank, generator = self.rank, site.generator
        columns = OF_A_BLOCK[site.knobs["sites"]] * len(site.blocks)  # of all layers: the fan of the whole P
        self.c = site.share("c", lambda: _uniform((rank, rank, rank), math.sqrt(3) / rank, generator))
        self.p = nn.Parameter(_uniform((rank, self.ins * self.outs), math.sqrt(6 / (columns + rank)), generator))

    def core(self) -> Tensor:
        each = (self.c @ self.p).unflatten(-1, (self.ins, self.outs))  # (r, r, I, O)
        return each.permute(2, 0, 3, 1).reshape(self.ins * self.rank, self.outs * self.rank)


def _uniform(shape: tuple[int, ...], bound: float, generator: torch.Generator) -> Tensor:
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)


def _limit_sites(name: str, spec: Any) -> str:
    """The MLP's layers have to consist of D x D matrices; their sizes are the backbone's."""
    width, hidden = spec.vit.width, spec.vit.hidden or 4 * spec.vit.width
    inner = hidden // 2 if spec.vit.gated else hidden
    if spec.knob(f"{name}.sites") == "attn" or not (hidden % width or inner % width):
        return ""
    return f"attn: the MLP of {spec.backbone} ({width} to {hidden}, {inner} to {width}) does not consist of square matrices"


_SCALE = Knob("scale", 1.0, "factor of the update; its authors choose among 0.01 to 100 for each data set", above(0))
for _name, _core in (("fact-tt", "a core of each layer's own"), ("fact-tk", "a core that is shared, too")):
    _about = f"updates of all matrices from factors that all blocks share, and {_core} (Jie and Deng 2023)"
    _sites = Knob(
        "sites", "both", "matrices of attention and MLP, or of attention alone", one_of("both", "attn"),
        limit=lambda spec, name=_name: _limit_sites(name, spec),
    )  # fmt: skip
    _attach = tuple(
        Attach(site, "beside", _name, when=lambda block, own=site[:4]: own == "attn" or block.knobs["sites"] == "both")
        for site in MATRICES
    )
    add_method(_name, Method(_about, _attach, knobs=(_SCALE, _sites)))

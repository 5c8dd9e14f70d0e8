"""LPT, long-tailed prompt tuning (Dong et al. 2023, arXiv 2210.01033): the network of its second phase.

The first phase is `vpt-deep`: prompts that all images share. Here they are frozen, and the class token that the network with them
gives is a query. Of a pool of groups of prompts, each with a key, the groups whose keys are nearest to the query (by cosine) are
averaged and put behind the shared prompts, from a block in the middle on. Choosing has no gradient: keys learn by a term that the
method adds to the loss, less ``weight`` times the sum of the cosines of the chosen ones. Read in the authors' public code of this
phase, whose numbers are the defaults; its dropout (0.1) between feature and classifier is not here.

The blocks below the first group see the same as in the query's pass, and go once; those from there on go twice, the first time
without gradients.

Shape legend: B images, N tokens, D width, P prompts, G groups of the pool, K chosen ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pel_core.common.lazy import F, Module, nn, torch
from pel_core.common.registry import Knob, above, at_least
from pel_core.models.deltas import DELTAS, SiteContext
from pel_core.models.methods import Attach, BlockContext, Method, add_method

if TYPE_CHECKING:
    from torch import Tensor

NAME, SHARED, SPREAD = "lpt", "vpt-deep", 0.02  # of the normal distribution, cut off at +-2, that groups and keys start from


def first_group(blocks: range, knobs: Mapping[str, Any]) -> int:
    """The block from which on groups join: ``lpt.start``, or the middle of the method's blocks."""
    start = knobs["start"]
    return (blocks.start + blocks.stop) // 2 if start == "half" else int(start)


def _grouped(block: BlockContext) -> bool:
    return block.index >= first_group(block.blocks, block.knobs)


@DELTAS.register("carried-prompt", reads=("vpt_len",))
class CarriedPrompt(Module):
    """Append P frozen tokens of another run to the image's own: (B, N, D) -> (B, tokens + P, D), dropping earlier prompts."""

    carried = ("prompt",)

    def __init__(self, site: SiteContext):
        super().__init__()
        self.tokens = site.tokens
        self.prompt = nn.Parameter(torch.zeros(site.vpt_len, site.width_in), requires_grad=False)

    def forward(self, x_BND: Tensor) -> Tensor:
        prompt = self.prompt.to(x_BND.dtype).expand(x_BND.shape[0], -1, -1)
        return torch.cat([x_BND[:, : self.tokens], prompt], 1)


@DELTAS.register("group-prompt", reads=("vpt_len",))
class GroupPrompt(CarriedPrompt):
    """The carried tokens, and behind them the mean of the P tokens of each group that was chosen for the image."""

    def __init__(self, site: SiteContext):
        super().__init__(site)
        self.notes = site.notes
        pool = torch.empty(site.knobs["pool"], site.vpt_len, site.width_in)
        self.pool = nn.Parameter(nn.init.trunc_normal_(pool, std=SPREAD, a=-2.0, b=2.0, generator=site.generator))

    def forward(self, x_BND: Tensor) -> Tensor:
        shared_BND = super().forward(x_BND)
        if self.notes.get("asking"):
            return shared_BND
        group_BPD = self.pool[self.chosen(x_BND)].mean(1)
        return torch.cat([shared_BND, group_BPD.to(x_BND.dtype)], 1)

    def chosen(self, x_BND: Tensor) -> Tensor:
        """The groups of each image (B, K), as a block before this one has chosen them."""
        return self.notes["chosen"]


@DELTAS.register("group-choice", reads=("vpt_len",))
class GroupChoice(GroupPrompt):
    """As `GroupPrompt`, of the first block that has groups: it asks the network and chooses, for itself and the others.

    ``keys`` (G, D).
    """

    def __init__(self, site: SiteContext):
        super().__init__(site)
        keys = torch.empty(site.knobs["pool"], site.width_in)
        self.keys = nn.Parameter(nn.init.trunc_normal_(keys, std=SPREAD, a=-2.0, b=2.0, generator=site.generator))
        self.rest, self.index = site.rest, site.index
        self.count, self.weight = site.knobs["topk"], site.knobs["weight"]

    def chosen(self, x_BND: Tensor) -> Tensor:
        """The K groups whose keys are nearest to what the network without groups says of the image."""
        similar_BG = F.normalize(self._query(x_BND).float(), dim=-1) @ F.normalize(self.keys.float(), dim=-1).T
        nearest_BK, self.notes["chosen"] = similar_BG.topk(self.count, dim=1)
        self.notes["own_loss"] = -self.weight * nearest_BK.sum(1)
        return self.notes["chosen"]

    def _query(self, x_BND: Tensor) -> Tensor:
        self.notes["asking"] = True
        try:
            with torch.no_grad():
                return self.rest(x_BND, self.index)
        finally:
            del self.notes["asking"]

    def own_loss(self) -> Tensor:
        """(B,): less ``weight`` times the cosines of query and chosen keys, of the last pass; asked once after each."""
        return self.notes.pop("own_loss")


def _needs_phase_1(spec: Any) -> str:
    if not spec.takes_delta:
        return f"a run of {SHARED} to start from: from: ROW, with take=all or take=delta"
    if spec.vit.reads_all or not spec.vit.prefix_tokens:
        return (
            f"a backbone whose feature is the class token, which is its query; that of {spec.backbone} is pooled of all patches"
        )
    goes_on = any(parent.method.partition("@")[0] == NAME for parent in spec.parent_specs)
    if not goes_on and (spec.soup != "none" or not (spec.epochs and spec.train_delta)):
        return (
            f"soup=none, epochs above 0 and train_delta=true to start from a run of {SHARED}, which has no groups of prompts yet"
        )
    return ""


def _inside(spec: Any) -> str:
    (blocks,) = [part.blocks for part in spec.parts if part.name == NAME]
    there = spec.knob(f"{NAME}.start") == "half" or int(spec.knob(f"{NAME}.start")) in blocks
    return "" if there else f"half or one of the method's blocks, {blocks.start} to {blocks.stop - 1}"


def _at_most_pool(spec: Any) -> str:
    pool = spec.knob(f"{NAME}.pool")
    return "" if spec.knob(f"{NAME}.topk") <= pool else f"at most the groups there are, {NAME}.pool={pool}"


add_method(
    NAME,
    Method(
        "beside vpt-deep's prompts, frozen, those of the groups whose keys are nearest to the image (LPT, Dong et al. 2023)",
        (
            Attach("", "before", "carried-prompt", when=lambda block: not _grouped(block)),
            Attach(
                "", "before", "group-choice", when=lambda block: block.index == first_group(block.blocks, block.knobs)
            ),
            Attach("", "before", "group-prompt", when=lambda block: block.index > first_group(block.blocks, block.knobs)),
        ),
        knobs=(
            Knob("pool", 20, "groups of prompts that there are", at_least(1)),
            Knob("topk", 2, "groups that are chosen for an image and averaged", at_least(1), limit=_at_most_pool),
            Knob(
                "start", "half", "block from which on groups join, counted from 0: half, the middle of the method's blocks, or a "
                "number", at_least(0), words=("half",), kind=int, limit=_inside,
            ),
            Knob("weight", 0.5, "factor of the cosines of query and chosen keys that are taken from the loss", above(0)),
        ),
        extends=SHARED,
        needs=_needs_phase_1,
        asks=first_group,
    ),
)  # fmt: skip

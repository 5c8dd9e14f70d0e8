"""The heads `coop` and `text-tower`, whose class rows are what CLIP's text tower says in every step: CoOp (Zhou et al. 2022,
arXiv 2109.01134), and the tower's own tuning.

A run that trains holds the tower; its checkpoint holds what trains and the rows (C, E) that came out, which is all that an
evaluation needs. Shapes: B images, D features, E projected, C classes, M context tokens, L tokens of a class, W the tower's
width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pel_core.common.errors import PelError
from pel_core.common.lazy import F, nn, torch
from pel_core.common.registry import Check, Knob, at_least
from pel_core.models.heads import HEADS, Head
from pel_core.models.methods import METHODS, PART, parse_method

if TYPE_CHECKING:
    from torch import Generator, Size, Tensor

TOWER = "tower"  # in the place of a prompt: names the file with tower and tokens, and what `pel_core text --prompt` takes
PREFIX = "text.tower."  # of the tower's tensors in that file
FROZEN = "frozen"
READ = {"adapter_dim", "adapter_scale", "delta_seed"}  # options that the tower's methods may read: rank, and the head's own draws
OF_IMAGES = ("convpass",)  # it convolves over a grid of patches


def _names(tuning: str) -> list[str]:
    """The methods of a stack; empty where it is none."""
    matches = [PART.fullmatch(part) for part in tuning.split("+")]
    return [match["name"] for match in matches if match] if all(matches) else []


def _fits(name: str) -> bool:
    """Whether a method acts inside blocks with a rank alone: prompts at the end of a causal tower would not be looked at."""
    method = METHODS.get(name)
    inside = method and method.blocks == "any" and "vit" in method.networks and all(attach.site for attach in method.attach)
    return bool(inside) and name not in OF_IMAGES and set(METHODS.entry(name).reads) <= READ


def _is_tuning(value: str) -> bool:
    return value == FROZEN or (bool(names := _names(value)) and all(map(_fits, names)))


def _ranked(spec: Any) -> str:
    """What else has to be chosen for the rank to have an effect."""
    names = _names(spec.knob("head.tuning"))
    ranked = any("adapter_dim" in METHODS.entry(name).reads for name in names if name in METHODS)
    return "" if ranked else "a head.tuning with a rank (lora, adaptformer, ...)"


def _nothing_trains(spec: Any) -> str:
    """What a frozen tower without a context has to be instead."""
    trains = spec.knob("head.tuning") != FROZEN or spec.knob("head.context")
    return "" if trains else "a method, or context above 0"


CHUNK = Knob(
    "chunk", 256, "classes that go through the text tower at once; with more classes than that, what is between is computed "
    "again in the backward pass, so that memory does not grow with them", at_least(1),
)  # fmt: skip
COOP = (
    Knob("context", 16, "learnable tokens before the class name, the same for all classes (unified context)", at_least(1)),
    Knob("words", False, 'the context starts as the words "a photo of a", one token each (context=4), not at random'),
    CHUNK,
)
TUNING = (
    Knob(
        "tuning", "lora", "what trains in the text tower: methods by name as for the image tower, with block ranges, or frozen",
        Check("frozen, or methods that act inside blocks and need a rank at most, joined by +", _is_tuning),
        limit=_nothing_trains,
    ),
    Knob("rank", 4, "rank of the text tower's bottlenecks and LoRA", at_least(1), needs=_ranked),
    Knob("context", 0, 'learnable tokens before the class name, as of coop; 0: the fixed words "a photo of a"', at_least(0)),
    Knob(
        "words", False, 'the context starts as the words "a photo of a", one token each (context=4), not at random',
        needs=lambda spec: "" if spec.knob("head.context") else "head.context above 0",
    ),
    CHUNK,
)  # fmt: skip


class TextHead(Head):
    """scale * cos(f P, t), t the text tower's features of [context] NAME, as it is now."""

    projects = True
    tower = True  # it reads the file `TOWER` in the place of a prompt's

    def __init__(
        self,
        width: int,
        classes: int,
        scale: float,
        generator: Generator,
        context: int = 0,
        words: bool = False,
        chunk: int = 256,
        tuning: str = FROZEN,
        rank: int = 4,
    ):
        super().__init__()
        self.scale, self.size, self.words, self.chunk, self.tuning, self.rank = scale, context, words, chunk, tuning, rank
        rows = torch.empty(classes, width).uniform_(-1, 1, generator=generator)
        self.register_buffer("weight", F.normalize(rows, dim=-1))
        self.register_parameter("context", None)
        self.tuned = nn.ParameterDict()
        self._tower: tuple[Any, ...] = ()  # not a submodule: a checkpoint does not hold it

    def attach(self, text: Mapping[str, Tensor], generator: Generator) -> None:
        """Take the text tower and the class names' tokens from a file of texts, for training.

        Raises:
            PelError: the context leaves no room for the class names, or a block range is not the tower's.
        """
        from pel_core.models.text_tower import load_tower, trimmed

        tower, tokens, words = load_tower(text).requires_grad_(False), trimmed(text["text.tokens"]), text["text.words"]
        size = self.size or len(words)
        if size > (room := tower.tokens - tokens.shape[1]):
            longest = f"reads {tower.tokens} tokens, and the longest class name takes {tokens.shape[1]} of them"
            raise PelError(f"head.context={size} is not possible: the text tower {longest}; it must be at most {room}")
        if self.words and size != len(words):
            raise PelError(f"head.words=true starts from {len(words)} words: head.context must be {len(words)}, not {size}")
        start = tower.embedding[words].detach().clone()
        if self.size and not self.words:
            start = torch.empty(size, tower.width).normal_(0, 0.02, generator=generator)
        if self.size:
            self.context = nn.Parameter(start)
        tower.register_buffer("fixed", start)
        tower.register_buffer("texts", tokens)
        self._tune(tower, generator)
        self._tower = (tower,)

    def _tune(self, tower: Any, generator: Generator) -> None:
        """Attach ``tuning`` to the tower's blocks."""
        from pel_core.models.surgery import apply

        if self.tuning == FROZEN:
            return
        parts = parse_method(self.tuning, tower.layers)
        seed = int(torch.randint(2**62, (), generator=generator))
        for each in apply(tower, parts, adapter_dim=self.rank, seed=seed):
            self.tuned[each.name.replace(".", "/")] = each.parameter

    def allocate(self, shapes: Mapping[str, Size]) -> None:
        """Make room for what a checkpoint holds, where there is no tower that says it."""
        if self._tower:
            return
        for name, shape in shapes.items():
            if name == "context":
                self.context = nn.Parameter(self.weight.new_zeros(shape))
            elif name.startswith("tuned."):
                self.tuned[name.removeprefix("tuned.")] = nn.Parameter(self.weight.new_zeros(shape))

    @property
    def tower_modules(self) -> list[nn.Module]:
        """The modules of the tower that it trains through, which are none of its own; none in an evaluation."""
        return [module for tower in self._tower for module in tower.modules()]

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> TextHead:
        super()._apply(function, recurse)
        for tower in self._tower:  # which shares its trained parameters with this module: each keeps what it is
            tower._apply(function, recurse)
        return self

    def refresh(self) -> None:
        """Keep the rows as the tower says them now: a checkpoint is about to be made."""
        if self._tower:
            with torch.no_grad():
                self.weight.copy_(F.normalize(self.rows().float(), dim=-1))

    def rows(self) -> Tensor:
        """Text features (C, E) as they are now."""
        from torch.utils.checkpoint import checkpoint

        parts = self._tower[0].texts.split(self.chunk)
        if len(parts) == 1 or not torch.is_grad_enabled():
            return torch.cat([self._features(part) for part in parts])
        return torch.cat([checkpoint(self._features, part, use_reentrant=False, preserve_rng_state=False) for part in parts])

    def _features(self, tokens_CL: Tensor) -> Tensor:
        from pel_core.models.text_tower import insert

        tower = self._tower[0]
        return tower(*insert(tower.fixed if self.context is None else self.context, tower.embedding, tokens_CL))

    def forward(self, f_BD: Tensor) -> Tensor:
        rows = self.rows() if self._tower else self.weight
        return F.linear(F.normalize(self.feature(f_BD), dim=-1), F.normalize(rows, dim=-1)) * self.scale


@HEADS.register("coop", knobs=COOP, reads=("scale",))
class CoOp(TextHead):
    """CoOp: learnable tokens, the same for all classes, before the class name in CLIP's frozen text tower (Zhou et al. 2022)"""


@HEADS.register("text-tower", knobs=TUNING, reads=("scale",))
class TunedText(TextHead):
    """CLIP's text tower, tuned by methods of the image tower's, says the class rows in every step"""

"""METHODS: every way to fine-tune a frozen ViT, as data. Adding a method is adding one entry.

A method attaches deltas (modules of ``deltas.py``) to sites (dotted names inside a block) and names the backbone parameters
it trains. Methods compose with ``+`` and take a half-open block range with ``@``: ``adaptformer@6:12+vpt-shallow``.

Sites of a block: ``""`` (the block itself), ``attn``, ``attn.norm``, ``attn.qkv``, ``attn.proj``, ``ffn``, ``ffn.norm``,
``ffn.fc1``, ``ffn.fc2``. The one block of a ResNet has ``attnpool``, whose output is the feature.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pel_core.common.errors import PLUGIN, PelError, unknown
from pel_core.common.registry import Check, Knob, Registry, above, one_of
from pel_core.models.deltas import DELTAS

# The matrices of a block by site: the equal parts of what the layer there puts out, by the names that knobs use.
MATRICES = {"attn.qkv": ("q", "k", "v"), "attn.proj": ("o",), "ffn.fc1": ("fc1",), "ffn.fc2": ("fc2",)}


@dataclass(frozen=True)
class BlockContext:
    """A block that a method acts on: its index, the method's blocks, how many the network has, the method's knobs, and the kind
    of network: vit or resnet."""

    index: int
    blocks: range
    layers: int
    knobs: Mapping[str, Any]
    network: str = "vit"


@dataclass(frozen=True)
class Attach:
    """One delta at one site of the blocks in range, in a ``network`` of this kind; of those for which ``when`` holds, where it is
    given.

    ``before``: f(m(x)); ``after``: m(f(x)); ``beside``: f(x) + m(x); ``inside``: m(f, x), the delta using f's own weights.
    Of stacked methods, what is inside a site is innermost, then what is beside a matrix (both are updates of its weights),
    then the others in the order of METHODS.
    """

    site: str
    how: Literal["before", "after", "beside", "inside"]
    delta: str
    options: Mapping[str, Any] = field(default_factory=dict)
    when: Callable[[BlockContext], bool] = lambda block: True
    network: str = "vit"

    @property
    def depth(self) -> int:
        """0 for what is innermost of a stack, 1 for what is next, 2 for the rest."""
        return 0 if self.how == "inside" else 1 if self.how == "beside" and self.site in MATRICES else 2


@dataclass(frozen=True)
class Method:
    """What is attached, which block parameters train (regular expressions on names inside a block), and where.

    ``blocks`` is ``"any"`` (all by default, a range may follow the name), ``"first"`` (block 0, no range) or ``"none"``.
    ``recipe`` holds values of RunSpec fields that the method needs; ``excludes`` the methods it cannot be stacked with.
    ``draws`` says which seed its initial values come from: the run's, or the masks' (the reference's masks are the same in
    every run), or ``"nothing"`` where they are the same in any case. ``knobs`` are options of its own, ``METHOD.KNOB`` in a
    study; its deltas find them in `SiteContext.knobs`. ``networks``: the kinds of backbone that it is for, ``"vit"`` and
    ``"resnet"``.

    ``extends``: the method that it goes on from, with more: a run of it starts from one of that, whose tensors it takes over
    under its own name; it is stacked with no other. ``needs``: of a run's spec, what else it has to choose, in words; empty where
    nothing. ``asks``: of its blocks and its knobs, the block from which on an image goes through the network a second time,
    without gradients, for what the network says of it as a whole; what trains lies no lower.
    """

    about: str
    attach: tuple[Attach, ...] = ()
    train: tuple[str, ...] = ()
    blocks: Literal["any", "first", "none"] = "any"
    trains_head: bool = True
    excludes: tuple[str, ...] = ()
    recipe: Mapping[str, Any] = field(default_factory=dict)
    draws: Literal["run", "mask", "nothing"] = "run"
    knobs: tuple[Knob, ...] = ()
    networks: tuple[str, ...] = ("vit",)
    extends: str = ""
    needs: Callable[[Any], str] = lambda spec: ""
    asks: Callable[[range, Mapping[str, Any]], int] | None = None

    def attached(self, block: BlockContext) -> tuple[Attach, ...]:
        """What it attaches to a block."""
        return tuple(attach for attach in self.attach if attach.network == block.network and attach.when(block))


ANY_NETWORK = ("vit", "resnet")
METHODS: Registry[Method] = Registry("method")


def methods_for(network: str) -> tuple[str, ...]:
    """The methods for a kind of network, vit or resnet, that a run may have that starts from the pre-trained network alone."""
    return tuple(name for name, method in METHODS.items() if network in method.networks and not method.extends)


def add_method(name: str, method: Method) -> None:
    """Add a method. It reads the options that its deltas read, and where it attaches some that start at random, their seed."""
    reads = dict.fromkeys(option for attach in method.attach for option in DELTAS.entry(attach.delta).reads)
    reads |= {"delta_seed": None} if method.attach and method.draws == "run" else {}
    METHODS.register(name, method, about=method.about, knobs=method.knobs, reads=tuple(reads), needs=method.needs)


MATRIX_NAMES = tuple(name for names in MATRICES.values() for name in names)


def _are_matrices(value: str) -> bool:
    words = value.split("+")
    return words == [name for name in MATRIX_NAMES if name in words]


def on_matrices(how: Literal["after", "beside", "inside"], delta: str) -> tuple[Attach, ...]:
    """The delta at every layer of which the method's knob ``matrices`` names a part; as option ``parts`` it gets their names."""
    return tuple(
        Attach(
            site, how, delta, {"parts": names}, lambda block, names=names: bool({*names} & {*block.knobs["matrices"].split("+")})
        )
        for site, names in MATRICES.items()
    )


def matrices_knob(default: str) -> Knob:
    """Which matrices a method updates."""
    words = f"some of {', '.join(MATRIX_NAMES)}"
    meaning = f"matrices that are updated: {words} (o: the attention's output projection), joined by +"
    return Knob("matrices", default, meaning, Check(f"{words}, in this order and joined by +", _are_matrices))


_BRANCH = {site: "attn" if site.startswith("attn") else "mlp" for site in MATRICES}
ALPHA = Knob("alpha", 1.0, "the update is alpha / r times the product of its two factors of rank r; 1 in LIFT", above(0))

# The order of entries is the order in which stacked methods are applied, innermost first. It is the reference's: LoRA's
# update is added before SSF scales it, and an adapter reads what SSF has scaled. Sparse weights replace those of the bare
# layer, so they come first.
_METHODS: dict[str, Method] = {
    "mask": Method(
        "a random fraction of the scalar weights of the four matrices and their biases",
        tuple(
            Attach(site, "inside", "sparse", when=lambda block, own=_BRANCH[site]: block.knobs["sites"] in ("all", own))
            for site in MATRICES
        ),
        draws="mask",
        knobs=(
            Knob(
                "sites", "all", "matrices with weights that train: all, or attention's or the MLP's", one_of("all", "attn", "mlp")
            ),
        ),
    ),
    "lora": Method(
        "low-rank update of the query and value projections, or of other matrices (Hu et al. 2021)",
        on_matrices("beside", "lora"),
        knobs=(matrices_knob("q+v"), ALPHA),
    ),
    "lora-mlp": Method(
        "low-rank update of the MLP's first matrix",
        (Attach("ffn.fc1", "beside", "lora", {"parts": (True,)}),),
        knobs=(ALPHA,),
    ),
    "ssf-ln": Method(
        "scale and shift after both LayerNorms (Lian et al. 2022)",
        (Attach("attn.norm", "after", "scale-shift"), Attach("ffn.norm", "after", "scale-shift")),
    ),
    "ssf-attn": Method(
        "scale and shift after the qkv and output projections; of a ResNet after the attention pooling",
        (
            Attach("attn.qkv", "after", "scale-shift"),
            Attach("attn.proj", "after", "scale-shift"),
            Attach("attnpool", "after", "scale-shift", network="resnet"),
        ),
        networks=ANY_NETWORK,
    ),
    "ssf-mlp": Method(
        "scale and shift after both MLP layers, the first before its activation",
        (Attach("ffn.fc1", "after", "scale-shift"), Attach("ffn.fc2", "after", "scale-shift")),
    ),
    "adapter": Method(
        "bottleneck after the MLP, sequential (Houlsby et al. 2019)",
        (Attach("ffn", "after", "adapter"),),
    ),
    "adaptformer": Method(
        "bottleneck beside the MLP with a learnable scale, reading the stream before its LayerNorm (Chen et al. 2022)",
        (Attach("ffn", "beside", "adaptformer"),),
    ),
    "vpt-shallow": Method(
        "learnable tokens before the first block, kept to the end (Jia et al. 2022)",
        (Attach("", "before", "prompt"),),
        blocks="first",
        excludes=("vpt-deep",),
    ),
    "vpt-deep": Method(
        "fresh learnable tokens before every block (Jia et al. 2022)",
        (Attach("", "before", "prompt"),),
        excludes=("vpt-shallow",),
    ),
    "ln": Method("both LayerNorms of every block", train=(r"(attn|ffn)\.norm\.(weight|bias)",)),
    "bn": Method(
        "scale and shift of every BatchNorm of a ResNet; its mean and variance stay",
        train=(r"(.*\.)?(bn\d|downsample\.1)\.(weight|bias)",),
        networks=("resnet",),
    ),
    "bias": Method("every bias of every block (BitFit)", train=(r".*\.bias",), networks=ANY_NETWORK),
    "full": Method("every parameter of the blocks", train=(r".*",), recipe={"lr": 5e-4}, networks=ANY_NETWORK),
    "head-only": Method("the classifier alone on frozen features", blocks="none", networks=ANY_NETWORK),
    "zero-shot": Method(
        "no training: scaled cosine of image and class-text features (Radford et al. 2021)",
        blocks="none",
        trains_head=False,
        recipe={"epochs": 0},
        networks=ANY_NETWORK,
    ),
}

for _name, _method in _METHODS.items():
    add_method(_name, _method)

PART = re.compile(r"(?P<name>[a-z0-9-]+)(@(?P<start>-?\d*):(?P<stop>-?\d*))?")


@dataclass(frozen=True, order=True)
class MethodPart:
    """One method of a stack with its half-open block range."""

    name: str
    start: int
    stop: int

    @property
    def blocks(self) -> range:
        """The blocks it acts on."""
        return range(self.start, self.stop)


def parse_method(text: str, layers: int) -> tuple[MethodPart, ...]:
    """Read ``adaptformer@-6:+vpt-shallow`` for a ViT of ``layers`` blocks; parts come sorted by name.

    Ranges are Python slices: ``@6:12``, ``@-6:`` (the last six), ``@:6``.

    Raises:
        PelError: an unknown or repeated method, a range outside the blocks, or methods that exclude each other.
    """
    parts = tuple(sorted(_parse_part(part, text, layers) for part in text.split("+")))
    names = [part.name for part in parts]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise PelError(f"method '{text}' names {', '.join(repeated)} twice; give each one block range")
    for name in names:
        if clash := [other for other in METHODS[name].excludes if other in names]:
            raise PelError(f"method '{text}': {name} and {clash[0]} exclude each other")
        if (METHODS[name].blocks == "none" or METHODS[name].extends) and len(names) > 1:
            raise PelError(f"method '{text}': {name} stands alone; it cannot be stacked")
    return parts


def _parse_part(text: str, whole: str, layers: int) -> MethodPart:
    match = PART.fullmatch(text)
    if not match:
        raise PelError(f"method '{whole}': '{text}' is not NAME or NAME@START:STOP, e.g. adaptformer@6:12")
    if (name := match["name"]) not in METHODS:
        raise unknown("method", name, METHODS, f"(in '{whole}'). {PLUGIN}" if whole != text else PLUGIN)
    if METHODS[name].blocks != "any":
        if match["start"] is not None:
            raise PelError(f"method '{whole}': {name} takes no block range")
        return MethodPart(name, 0, 1 if METHODS[name].blocks == "first" else 0)
    start, stop = int(match["start"] or 0), int(match["stop"] or layers)
    start, stop = (layers + value if value < 0 else value for value in (start, stop))
    if not 0 <= start < stop <= layers:
        raise PelError(f"method '{whole}': range {start}:{stop} of {name} is not inside the {layers} blocks 0:{layers}")
    return MethodPart(name, start, stop)


def format_method(parts: tuple[MethodPart, ...], layers: int) -> str:
    """The canonical text of a stack: sorted by name, a range only where it is not the whole depth."""
    words = []
    for part in sorted(parts):
        whole = METHODS[part.name].blocks != "any" or (part.start, part.stop) == (0, layers)
        words.append(part.name if whole else f"{part.name}@{part.start}:{part.stop}")
    return "+".join(words)

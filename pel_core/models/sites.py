"""What a block of a backbone is made of, by name and without its weights: sites, where methods attach, and parameters, which they
may train. Torch-free, so that a method that names one that is not there is refused when a study is read.

Some parts are there or not as the weights say (`OPTIONAL`); they count as there, and `surgery` looks again.
"""

import re
from functools import cache

from pel_core.common.errors import PelError, unknown
from pel_core.models.backbones import BACKBONES, Backbone
from pel_core.models.methods import METHODS

LAYERS = ("attn.norm", "attn.qkv", "attn.proj", "ffn.norm", "ffn.fc1", "ffn.fc2")  # of weights and, nearly all, a bias
OPTIONAL = ("attn.inner_norm", "ffn.act.norm")  # norms that few ViTs have
BARE = ("", "attn", "attn.rotary", "ffn", "ffn.act", "ffn.act.act", "ffn.act.act.act")  # sites without parameters of their own
POOL = "attnpool"  # of a ResNet


@cache
def sites(backbone: Backbone) -> tuple[str, ...]:
    """Sites of a block; "" is the block itself."""
    if not backbone.stages:
        return *BARE, *LAYERS, *OPTIONAL
    layers = [name for name, _ in _resnet_layers(backbone)]
    places = {prefix for name in layers for prefix in _prefixes(name)}
    blocks = [f"{_block(stage, index)}.pool" for stage, count in enumerate(backbone.stages) for index in range(count)]
    return "", *sorted({*places, *blocks})


@cache
def parameters(backbone: Backbone) -> tuple[str, ...]:
    """Names of parameters within a block."""
    if not backbone.stages:
        return tuple(f"{layer}.{kind}" for layer in (*LAYERS, *OPTIONAL) for kind in ("weight", "bias"))
    named = tuple(f"{name}.{kind}" for name, kinds in _resnet_layers(backbone) for kind in kinds)
    return *named, f"{POOL}.positional_embedding"


def _block(stage: int, index: int) -> str:
    return f"layer{stage + 1}.{index}"


def _prefixes(name: str) -> list[str]:
    words = name.split(".")
    return [".".join(words[: end + 1]) for end in range(len(words))]


def _resnet_layers(backbone: Backbone) -> list[tuple[str, tuple[str, ...]]]:
    """Every layer of a ResNet and what parameters it has."""
    conv, both, three = ("weight",), ("weight", "bias"), (1, 2, 3)
    prefixes = ["", *(f"{_block(s, i)}." for s, count in enumerate(backbone.stages) for i in range(count))]
    found = [(f"{at}{kind}{n}", which) for at in prefixes for kind, which in (("conv", conv), ("bn", both)) for n in three]
    for stage in range(len(backbone.stages)):
        found += [(f"{_block(stage, 0)}.downsample.0", conv), (f"{_block(stage, 0)}.downsample.1", both)]
    return found + [(f"{POOL}.{letter}_proj", both) for letter in "qkvc"]


def require_sites(method: str, backbone: str) -> None:
    """See that a block of the backbone has what a method attaches to and trains.

    Raises:
        PelError: it has no such site, or no parameter that a pattern of ``train`` matches; what it has is named.
    """
    entry, network = BACKBONES[backbone], "resnet" if BACKBONES[backbone].stages else "vit"
    known = sites(entry)
    for attach in METHODS[method].attach:
        if attach.network == network and attach.site not in known:
            what = f"site of the method {method} on {backbone}:"
            raise unknown(what, attach.site, filter(None, known), listed="pel_core/models/sites.py")
    for pattern in METHODS[method].train:
        if not any(re.fullmatch(pattern, name) for name in parameters(entry)):
            names = ", ".join(parameters(entry)[:20])
            raise PelError(
                f"the method {method} trains '{pattern}', and no parameter of a block of {backbone} is like it; it has {names}"
            )

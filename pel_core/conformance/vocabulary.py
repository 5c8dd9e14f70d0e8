"""The reference's vocabulary in ours: option names, parameter names, loss and classifier names."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from pel_core.conformance.report import Unsupported
from pel_core.models.methods import MethodPart, format_method, parse_method
from pel_core.models.state_names import OPEN_CLIP_NAMES, TIMM_NAMES, rename_key
from pel_core.models.surgery import auto_adapter_dim, auto_mask_ratio
from pel_core.training.losses import LOSSES, Prior

FLAGS = {
    "adaptformer": "adaptformer",
    "adapter": "adapter",
    "lora": "lora",
    "lora_mlp": "lora-mlp",
    "ssf_attn": "ssf-attn",
    "ssf_mlp": "ssf-mlp",
    "ssf_ln": "ssf-ln",
    "vpt_shallow": "vpt-shallow",
    "vpt_deep": "vpt-deep",
    "bias_tuning": "bias",
    "ln_tuning": "ln",
    "full_tuning": "full",
    "mask": "mask",
}
# "partial" means nothing to these: LayerNorm and bias tuning always take every block, shallow prompts the first.
WHOLE = ("bias", "ln", "vpt-shallow")
SETTINGS = ("partial", "vpt_len", "adapter_dim", "mask_ratio", "mask_seed", "classifier", "scale", "loss_type", "tau", "backbone")
SETTINGS += ("lr", "momentum", "weight_decay")
# Declared by the reference and read by nobody there (FIDELITY.md, wart 9).
WITHOUT_EFFECT = ("adaptformer_scale",)
CLASSIFIERS = {
    "CosineClassifier": "cosine",
    "LinearClassifier": "linear",
    "L2NormedClassifier": "l2norm",
    "LayerNormedClassifier": "layernorm",
}
SITES = {"attn_in": "attn.qkv", "attn_out": "attn.proj", "mlp_in": "ffn.fc1", "mlp_out": "ffn.fc2"}
TUNER_NAMES = (
    (r"(adapter|adaptformer)_list\.(\d+)\.ln\.(.+)", r"\1.\2.ffn.norm.\3"),
    (r"(adapter|adaptformer)_list\.(\d+)\.(down|up)_proj\.(.+)", r"\1.\2.ffn.\3.\4"),
    (r"adaptformer_list\.(\d+)\.scale", r"adaptformer.\1.ffn.scale"),
    (r"lora_list\.(\d+)\.q\.lora_A", r"lora.\1.attn.qkv.down.0"),
    (r"lora_list\.(\d+)\.q\.lora_B", r"lora.\1.attn.qkv.up.0"),
    (r"lora_list\.(\d+)\.v\.lora_A", r"lora.\1.attn.qkv.down.1"),
    (r"lora_list\.(\d+)\.v\.lora_B", r"lora.\1.attn.qkv.up.1"),
    (r"lora_mlp_list\.(\d+)\.(?:\w+\.)?lora_A", r"lora-mlp.\1.ffn.fc1.down.0"),
    (r"lora_mlp_list\.(\d+)\.(?:\w+\.)?lora_B", r"lora-mlp.\1.ffn.fc1.up.0"),
    (r"ssf_attn_list\.(\d+)\.attn_in\.(.+)", r"ssf-attn.\1.attn.qkv.\2"),
    (r"ssf_attn_list\.(\d+)\.attn_out\.(.+)", r"ssf-attn.\1.attn.proj.\2"),
    (r"ssf_mlp_list\.(\d+)\.mlp_in\.(.+)", r"ssf-mlp.\1.ffn.fc1.\2"),
    (r"ssf_mlp_list\.(\d+)\.mlp_out\.(.+)", r"ssf-mlp.\1.ffn.fc2.\2"),
    (r"ssf_ln_list\.(\d+)\.ln_1\.(.+)", r"ssf-ln.\1.attn.norm.\2"),
    (r"ssf_ln_list\.(\d+)\.ln_2\.(.+)", r"ssf-ln.\1.ffn.norm.\2"),
    (r"masked_linear_list\.(\d+)\.attn_in\.optimized_(.+)", r"mask.\1.attn.qkv.\2"),
    (r"masked_linear_list\.(\d+)\.attn_out\.optimized_(.+)", r"mask.\1.attn.proj.\2"),
    (r"masked_linear_list\.(\d+)\.mlp_in\.optimized_(.+)", r"mask.\1.ffn.fc1.\2"),
    (r"masked_linear_list\.(\d+)\.mlp_out\.optimized_(.+)", r"mask.\1.ffn.fc2.\2"),
)
BIASES = ("attn.qkv", "attn.proj", "attn.norm", "ffn.fc1", "ffn.fc2", "ffn.norm")
NORMS = ("attn.norm", "ffn.norm")


@dataclass(frozen=True)
class Options:
    """A configuration in our terms; ``choices`` are the keyword arguments of ``surgery.apply``."""

    parts: tuple[MethodPart, ...]
    choices: dict[str, Any]
    head: str
    scale: float
    loss: str
    tau: float

    def method(self, layers: int) -> str:
        """The stack as one of our method names."""
        return format_method(self.parts, layers) if self.parts else "head-only"


def read_options(config: Mapping[str, Any], classes: int, layers: int, width: int) -> Options:
    """Translate a configuration of the index.

    Raises:
        Unsupported: an option or value that has no counterpart here.
    """
    options = dict(config.get("options") or {})
    for name, value in options.items():
        if name not in FLAGS and name not in SETTINGS and name not in WITHOUT_EFFECT and value not in (None, False):
            raise Unsupported(f"option {name}={value!r}")
    words = []
    blocks = _blocks(options.get("partial"), layers)
    for flag, method in FLAGS.items():
        if options.get(flag) and method in WHOLE:
            words.append(method)
        elif options.get(flag) and blocks:
            words.append(f"{method}@{blocks.start}:{blocks.stop}")
    dim, ratio, length = (options.get(name) for name in ("adapter_dim", "mask_ratio", "vpt_len"))
    choices = {
        "adapter_dim": auto_adapter_dim(classes, layers) if dim is None else int(dim),
        "mask_ratio": auto_mask_ratio(classes, layers, width) if ratio is None else float(ratio),
        "mask_seed": int(options.get("mask_seed") or 0),
        "vpt_len": 10 if length is None else int(length),
    }
    classifier = options.get("classifier") or config.get("classifier") or "CosineClassifier"
    if classifier not in CLASSIFIERS:
        raise Unsupported(f"classifier {classifier}")
    scale = float(config.get("scale") or options.get("scale") or 25)
    loss = str(options.get("loss_type") or config.get("loss_type") or "LA")
    parts = parse_method("+".join(words), layers) if words else ()
    return Options(parts, choices, CLASSIFIERS[classifier], scale, loss, float(options.get("tau") or 1))


def _blocks(partial: Any, layers: int) -> range:
    """The blocks of ``partial``: None all, n the last n, [a, b) itself."""
    if partial is None:
        return range(layers)
    if isinstance(partial, bool) or not isinstance(partial, int | list | tuple):
        raise Unsupported(f"partial={partial!r}")
    start, stop = (layers - partial, layers) if isinstance(partial, int) else partial
    if not 0 <= start <= stop <= layers:
        raise Unsupported(f"partial={partial!r} of {layers} blocks")
    return range(start, stop)


def our_name(name: str, parts: tuple[MethodPart, ...], aliases: Mapping[str, str]) -> str:
    """Our stored name of a reference parameter, e.g. ``tuner.adaptformer_list.6.up_proj.weight``.

    Args:
        aliases: reference tuner names of backbone parameters -> their keys in the backbone's state dict.

    Raises:
        Unsupported: no rule covers the name.
    """
    if name.startswith("head."):
        return name
    bare = name.removeprefix("tuner.")
    if found := re.fullmatch(r"vpt_list\.(\d+)\.prompt", bare):
        shallow = any(part.name == "vpt-shallow" for part in parts)
        return f"{'vpt-shallow' if shallow else 'vpt-deep'}.{found[1]}.prompt"
    if ours := rename_key(bare, TUNER_NAMES):
        return ours
    ours = backbone_name(aliases[bare]) if bare in aliases else shared_name(bare)
    if ours is None:
        raise Unsupported(f"parameter {name}")
    return ours


def backbone_name(key: str) -> str | None:
    """Our name of a backbone parameter, from its key in OpenAI's or timm's state dict."""
    return rename_key(key.removeprefix("visual."), OPEN_CLIP_NAMES) or rename_key(key, TIMM_NAMES)


def shared_name(name: str) -> str | None:
    """Our name of a tuner parameter that is a backbone parameter, by the reference's order; None for any other."""
    if found := re.fullmatch(r"bias_tuned\.(\d+)", name):
        block, place = divmod(int(found[1]), len(BIASES))
        return f"blocks.{block}.{BIASES[place]}.bias"
    if found := re.fullmatch(r"ln_tuned\.(\d+)\.(weight|bias)", name):
        block, place = divmod(int(found[1]), len(NORMS))
        return f"blocks.{block}.{NORMS[place]}.{found[2]}"
    if found := re.fullmatch(r"block_tuned\.(\d+)\.(.+)", name):
        return backbone_name(f"transformer.resblocks.{found[1]}.{found[2]}") or backbone_name(f"blocks.{found[1]}.{found[2]}")
    return None


# Loss names as golden files spell them, with the suffixes that set a constant: Focal_g2, CB_b0.9999, LA_t0.5, LDAM_s30.
LOSS_NAMES = {"CE": "ce", "Focal": "focal", "CB": "cb", "GRW": "grw", "BS": "bs", "LA": "la", "LADE": "lade", "LDAM": "ldam"}
CONSTANTS = {("Focal", "g"): "gamma", ("CB", "b"): "beta", ("GRW", "e"): "exponent", ("LA", "t"): "tau", ("LDAM", "m"): "largest"}


def make_loss(name: str, counts: Tensor, tau: float = 1.0, scale: float = 25.0) -> nn.Module:
    """One of our losses from a golden name.

    Raises:
        Unsupported: a loss or a suffix that is not known.
    """
    base, *suffixes = name.split("_")
    if base not in LOSS_NAMES:
        raise Unsupported(f"loss {name}")
    constants = {}
    for suffix in suffixes:
        letter, value = suffix[:1], suffix[1:]
        if not re.fullmatch(r"\d+(\.\d+)?(e-?\d+)?", value):
            raise Unsupported(f"loss {name}")
        if (base, letter) == ("LDAM", "s"):
            scale = float(value)
        elif (base, letter) in CONSTANTS:
            constants[CONSTANTS[base, letter]] = float(value)
        else:
            raise Unsupported(f"loss {name}")
    return LOSSES[LOSS_NAMES[base]](Prior(counts, tau, scale), **constants)

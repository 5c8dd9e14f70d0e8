"""What timm or open_clip say of a network by name: the fields of a `Backbone`, or why it does not fit.

``python -m pel_core.models.lookup timm--NAME--TAG`` prints them as JSON, for processes that load neither library. No weights are
read: the network is built without storage, and its parts are looked at as they will be when there are weights (`towers`).
"""

import json
import logging
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

import torch

from pel_core.common.errors import PelError
from pel_core.models.building import num_prefix_tokens
from pel_core.models.by_name import name_parts
from pel_core.models.open_clip_towers import open_clip_tower
from pel_core.models.state_names import State
from pel_core.models.towers import timm_tower


def answer(name: str) -> dict[str, Any]:
    """The fields of a file-safe name's entry, or ``{"refused": why}``."""
    library, arch, tag = name_parts(name)
    try:
        return (of_timm if library == "timm" else of_open_clip)(arch, tag)
    except PelError as error:
        return {"refused": str(error)}


def of_timm(arch: str, tag: str) -> dict[str, Any]:
    """The entry of a timm ViT.

    Raises:
        PelError: there is no such architecture or tag, or it does not fit.
    """
    import timm

    _require_known("timm", "architecture", arch, timm.list_models(), timm.is_model(arch))
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{arch}.*")]
    _require_tag("timm", arch, tag, tags, ".")
    full = f"{arch}.{tag}" if tag else arch
    with torch.device("meta"):
        model = timm.create_model(full, pretrained=False, num_classes=0)
    tower, options = timm_tower(model)
    config = model.pretrained_cfg
    repo = config.get("hf_hub_id") or ""
    about = {"mean": config["mean"], "std": config["std"], "interpolation": config["interpolation"], "text": False}
    about |= {"label": f"{full} (timm)", "repository": repo + full if repo.endswith("/") else repo}
    return {"source": "timm", "arch": full, **about, **_sizes(tower, options)}


def of_open_clip(arch: str, tag: str) -> dict[str, Any]:
    """The entry of an open_clip model whose image tower is a ViT, its own or timm's.

    Raises:
        PelError: there is no such architecture or tag, its activation is not that of the weights, or it does not fit.
    """
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    config = open_clip.get_model_config(arch)
    _require_known("open_clip", "architecture", arch, open_clip.list_models(), config is not None)
    tags = list(open_clip.list_pretrained_tags_by_model(arch))
    _require_tag("open_clip", arch, tag, tags, "/")
    if text := config["text_cfg"].get("hf_model_name"):
        raise PelError(f"its text tower is {text} of the package transformers, which is not read here")
    weights = get_pretrained_cfg(arch, tag) if tag else {}
    quick, of_weights = bool(config.get("quick_gelu")), bool(weights.get("quick_gelu"))
    if tag and quick != of_weights and "timm_model_name" not in config["vision_cfg"]:
        other = f"{arch}-quickgelu" if of_weights else arch.removesuffix("-quickgelu")
        there = f"; open_clip:{other}/{tag} has it" if tag in open_clip.list_pretrained_tags_by_model(other) else ""
        needs, has = ("with", "without") if of_weights else ("without", "with")
        raise PelError(f"its weights were trained {needs} QuickGELU, the architecture is {has} it{there}")
    logging.disable(logging.WARNING)  # it warns that the model is untrained
    try:
        with torch.device("meta"):
            visual = open_clip.create_model(arch, load_weights=False, precision="fp32", device="meta").visual
    finally:
        logging.disable(logging.NOTSET)
    tower, options, _ = open_clip_tower(visual)
    if "stages" in options:
        raise PelError("it is a ResNet, not a ViT; of these there are clip-rn50 and clip-rn101")
    clip = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD, "interpolation": "bicubic"}
    about: dict[str, Any] = {key: weights.get(key) or value for key, value in clip.items()}
    about |= {"label": f"{arch}{'/' if tag else ''}{tag} (open_clip)", "repository": (weights.get("hf_hub") or "").rstrip("/")}
    text = config["text_cfg"]
    other = config.get("custom_text") or text.get("no_causal_mask") or text.get("pool_type", "argmax") != "argmax"
    about |= {"plain_text": False} if other else {}
    return {"source": "open_clip", "arch": arch, "tag": tag, **about, **_sizes(tower, options)}


def _sizes(tower: State, options: dict[str, Any]) -> dict[str, Any]:
    """What plans and checks want to know of a network, as far as it departs from a plain ViT."""
    width, _, patch, _ = tower["embed.weight"].shape
    hidden, inner = len(tower["blocks.0.ffn.fc1.weight"]), tower["blocks.0.ffn.fc2.weight"].shape[1]
    prefix = num_prefix_tokens(tower)
    sizes = {
        "layers": 1 + max(int(key.split(".")[1]) for key in tower if key.startswith("blocks.")),
        "width": width,
        "patch": patch,
        "resolution": round((len(tower["pos"]) - prefix) ** 0.5) * patch,
        "quick_gelu": options["quick_gelu"],
    }
    more = {"prefix_tokens": (prefix, 1), "hidden": (hidden, 4 * width), "gated": (hidden != inner, False)}
    more |= {"reads_all": ("pool" in options, False)}
    return sizes | {key: value for key, (value, plain) in more.items() if value != plain}


def _require_known(library: str, what: str, name: str, known: Iterable[str], holds: bool) -> None:
    if not holds:
        near = get_close_matches(name, list(known), n=3)
        raise PelError(f"{library} has no {what} '{name}'" + (f"; near it: {', '.join(near)}" if near else ""))


def _require_tag(library: str, arch: str, tag: str, tags: list[str], mark: str) -> None:
    """See that weights are named where there are some: which is the default changes between versions of a library."""
    if tag:
        _require_known(library, f"weights of {arch} called", tag, tags, tag in tags)
    elif tags:
        few = ", ".join(f"{library}:{arch}{mark}{each}" for each in tags[:6])
        raise PelError(f"say which weights: {few}{', ...' if len(tags) > 6 else ''}")


if __name__ == "__main__":
    print(json.dumps(answer(sys.argv[1])))

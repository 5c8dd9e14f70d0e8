"""Pre-trained weights -> our ViT, once per backbone: open_clip and timm are imported here and by nobody who trains.

A prepared backbone is a folder of ``vit.safetensors`` (the ViT; with ``text.projection`` (D, E) and ``text.logit_scale`` where
there is a text tower) and ``backbone.json`` (how to build it, image statistics, hashes).
"""

import json
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from pel_core.backbones import BACKBONES, Backbone
from pel_core.errors import PelError, unknown
from pel_core.files import read_json, replace_file, sha256, write_json
from pel_core.seeds import derive, torch_generator
from pel_core.vit import ViT

State = dict[str, Tensor]

OPEN_CLIP_NAMES = (
    (r"conv1\.weight", "embed.weight"),
    (r"class_embedding", "cls"),
    (r"positional_embedding", "pos"),
    (r"ln_pre\.(.*)", r"norm_pre.\1"),
    (r"ln_post\.(.*)", r"norm.\1"),
    (r"transformer\.resblocks\.(\d+)\.ln_1\.(.*)", r"blocks.\1.attn.norm.\2"),
    (r"transformer\.resblocks\.(\d+)\.attn\.in_proj_(.*)", r"blocks.\1.attn.qkv.\2"),
    (r"transformer\.resblocks\.(\d+)\.attn\.out_proj\.(.*)", r"blocks.\1.attn.proj.\2"),
    (r"transformer\.resblocks\.(\d+)\.ln_2\.(.*)", r"blocks.\1.ffn.norm.\2"),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_fc\.(.*)", r"blocks.\1.ffn.fc1.\2"),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_proj\.(.*)", r"blocks.\1.ffn.fc2.\2"),
)
TIMM_NAMES = (
    (r"patch_embed\.proj\.(.*)", r"embed.\1"),
    (r"cls_token", "cls"),
    (r"pos_embed", "pos"),
    (r"norm\.(.*)", r"norm.\1"),
    (r"blocks\.(\d+)\.norm1\.(.*)", r"blocks.\1.attn.norm.\2"),
    (r"blocks\.(\d+)\.attn\.(qkv|proj)\.(.*)", r"blocks.\1.attn.\2.\3"),
    (r"blocks\.(\d+)\.norm2\.(.*)", r"blocks.\1.ffn.norm.\2"),
    (r"blocks\.(\d+)\.mlp\.(fc1|fc2)\.(.*)", r"blocks.\1.ffn.\2.\3"),
)
# What a checkpoint may hold besides the image tower's blocks.
IGNORED = r"(proj|head\..*|fc_norm\..*|head_drop.*)"


def rename(state: Mapping[str, Tensor], names: Sequence[tuple[str, str]]) -> State:
    """Rename an image tower's state dict for ``ViT``.

    Raises:
        PelError: an entry that no rule covers (a tower of another kind).
    """
    renamed = {}
    for key, value in state.items():
        if new := rename_key(key, names):
            # Copies: the ViT takes these tensors as its own, and training must not write into the caller's.
            copy = value.detach().float().clone()
            renamed[new] = copy.reshape(copy.shape[-2:]) if new == "pos" else copy
        elif not re.fullmatch(IGNORED, key):
            raise PelError(f"the image tower has a weight '{key}' that this ViT has no place for; it is of another kind")
    renamed["cls"] = renamed["cls"].flatten()
    return renamed


def rename_key(key: str, names: Sequence[tuple[str, str]]) -> str | None:
    """The first rule's result; None where no rule covers the key."""
    return next((re.sub(old, new, key) for old, new in names if re.fullmatch(old, key)), None)


def vit_from_clip(state: Mapping[str, Tensor], quick_gelu: bool = True, head_width: int = 64) -> tuple[ViT, State]:
    """Build the ViT of an OpenAI- or open_clip-format CLIP state dict; sizes are read off its shapes.

    Returns:
        The ViT and ``{"text.projection": (D, E), "text.logit_scale": ()}``, the scale as the factor it is used as.
    """
    tower = rename({key.removeprefix("visual."): value for key, value in state.items() if key.startswith("visual.")}, OPEN_CLIP_NAMES)
    text = {"text.projection": state["visual.proj"].float(), "text.logit_scale": state["logit_scale"].float().exp()}
    return _build(tower, dict(head_width=head_width, quick_gelu=quick_gelu, norm_pre=True, eps=1e-5)), text


def vit_from_timm(state: Mapping[str, Tensor], head_width: int = 64) -> ViT:
    """Build the ViT of a timm ``VisionTransformer`` state dict; sizes are read off its shapes."""
    return _build(rename(state, TIMM_NAMES), dict(head_width=head_width, quick_gelu=False, norm_pre=False, eps=1e-6))


def _build(tower: State, options: Mapping[str, Any]) -> ViT:
    width, _, patch, _ = tower["embed.weight"].shape
    options = dict(options)
    with torch.device("meta"):  # no time for initial values that are replaced at once
        vit = ViT(
            layers=1 + max(int(key.split(".")[1]) for key in tower if key.startswith("blocks.")),
            width=width,
            heads=width // options.pop("head_width"),
            patch=patch,
            resolution=round((len(tower["pos"]) - 1) ** 0.5) * patch,
            hidden=len(tower["blocks.0.ffn.fc1.bias"]),
            patch_bias="embed.bias" in tower,
            **options,
        )
    vit.load_state_dict(tower, assign=True)
    return vit.eval()


def prepare_backbone(name: str, out: str | Path, weights: str | None = None, cache_dir: str | None = None) -> None:
    """Write the prepared folder of backbone ``name``; ``weights`` is a local file instead of the registry's source.

    Raises:
        PelError: an unknown backbone, weights that cannot be had or do not fit.
    """
    if name not in BACKBONES:
        raise unknown("backbone", name, BACKBONES)
    entry = BACKBONES[name]
    if entry.source == "random":
        tower, extra, options, source = _random(entry)
    elif entry.source == "timm":
        tower, extra, options, source = _from_timm(entry, weights)
    else:
        model, source = load_open_clip(name, weights, cache_dir)
        tower = rename(model.visual.state_dict(), OPEN_CLIP_NAMES)
        extra = {"text.projection": model.visual.proj.detach().float(), "text.logit_scale": model.logit_scale.detach().exp().float()}
        block = model.visual.transformer.resblocks[0]
        options = dict(head_width=entry.width // block.attn.num_heads, norm_pre=True, quick_gelu=entry.quick_gelu, eps=block.ln_1.eps)
    vit = _build(tower, options)
    if (vit.layers, vit.width, vit.patch, vit.resolution) != (entry.layers, entry.width, entry.patch, entry.resolution):
        raise PelError(
            f"the weights of {name} are a ViT of {vit.layers} blocks, width {vit.width}, patch {vit.patch}, {vit.resolution} px; "
            f"expected {entry.layers}, {entry.width}, {entry.patch}, {entry.resolution}"
        )
    out = Path(out)
    with replace_file(out / "vit.safetensors") as temporary:
        save_file({key: value.contiguous() for key, value in {**vit.state_dict(), **extra}.items()}, temporary)
    written = sha256(out / "vit.safetensors")
    info = {"name": name, "registry": asdict(entry), "vit": options, "source": source, "sha256": written}
    write_json(out / "backbone.json", info)


def _random(entry: Backbone) -> tuple[State, State, dict[str, Any], dict[str, str]]:
    options = dict(head_width=16, norm_pre=True, quick_gelu=entry.quick_gelu, eps=1e-5)
    vit = ViT(
        layers=entry.layers, width=entry.width, heads=entry.width // 16, patch=entry.patch, resolution=entry.resolution, quick_gelu=True
    )
    draw = torch_generator(0, "backbone", entry.arch)
    for name, value in vit.state_dict().items():
        norm = "norm" in name
        value.normal_(1.0 if norm and name.endswith("weight") else 0.0, 0.02 if norm else value.shape[-1] ** -0.5, generator=draw)
    projection = torch.randn(entry.width, 16, generator=draw)
    return vit.state_dict(), {"text.projection": projection, "text.logit_scale": torch.tensor(20.0)}, options, {"sha256": "random"}


def _from_timm(entry: Backbone, weights: str | None) -> tuple[State, State, dict[str, Any], dict[str, str]]:
    import timm

    try:
        overlay = {"pretrained_cfg_overlay": {"file": weights}} if weights else {}
        model = timm.create_model(entry.arch, pretrained=True, num_classes=0, **overlay)
    except Exception as error:  # timm, the hub client and the network each raise their own kinds
        raise _unavailable(entry.arch, f"timm's {entry.arch}", error) from None
    norm_pre = not isinstance(model.norm_pre, nn.Identity)
    options = dict(head_width=entry.width // model.blocks[0].attn.num_heads, norm_pre=norm_pre, eps=model.norm.eps)
    return rename(model.state_dict(), TIMM_NAMES), {}, {**options, "quick_gelu": False}, {"tag": entry.arch}


def load_open_clip(name: str, weights: str | None = None, cache_dir: str | None = None) -> tuple[nn.Module, dict[str, str]]:
    """The whole CLIP model in fp32 on the CPU, and where its weights came from (tag or file name, SHA-256).

    Raises:
        PelError: no network, a missing or unreadable file, weights of another architecture, or another activation.
    """
    import open_clip

    entry = BACKBONES[name]
    folder = Path(__file__).parent / entry.arch
    if entry.source == "bundled":
        path = folder / "open_clip_model.safetensors"
        model = open_clip.create_model(f"local-dir:{folder}", load_weights=False, precision="fp32", device="cpu")
    else:
        path = Path(weights) if weights else _download(entry, cache_dir)
        model = open_clip.create_model(entry.arch, precision="fp32", device="cpu")
    if not path.is_file():
        raise PelError(f"the weights file '{path}' of {name} does not exist")
    state, own = read_state(path), model.state_dict()
    try:
        model.load_state_dict({key: value for key, value in state.items() if key in own or "." in key})
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise PelError(f"'{path}' does not hold the weights of {entry.arch}: {reason}") from None
    act = type(model.visual.transformer.resblocks[0].mlp.gelu).__name__
    if (act == "QuickGELU") != entry.quick_gelu:
        raise PelError(f"{name}: open_clip built {act}, expected {'QuickGELU' if entry.quick_gelu else 'GELU'}")
    return model.eval(), {"tag": entry.tag or path.name, "file": path.name, "sha256": sha256(path)}


def _download(entry: Backbone, cache_dir: str | None) -> Path:
    from open_clip.pretrained import download_pretrained, get_pretrained_cfg

    try:
        return Path(download_pretrained(get_pretrained_cfg(entry.arch, entry.tag), cache_dir=cache_dir))
    except Exception as error:  # the hub client and the network each raise their own kinds
        raise _unavailable(entry.arch, f"open_clip's {entry.arch} '{entry.tag}'", error) from None


def _unavailable(arch: str, what: str, error: Exception) -> PelError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return PelError(
        f"could not get the weights of {what}: {reason}. On a machine with network run "
        f"`python -c \"import open_clip; open_clip.create_model('{arch}', pretrained='openai')\"` (or timm.create_model), copy the file "
        "it downloads, and name it in the config: `weights: {BACKBONE: /path/to/file}`"
    )


def read_state(path: str | Path) -> State:
    """A state dict from a safetensors file, an OpenAI JIT archive, or a ``torch.save``d state dict; nothing is unpickled freely.

    Raises:
        PelError: the file is none of these.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        try:
            with warnings.catch_warnings(action="ignore"):  # OpenAI's files are what they are, deprecated or not
                state = torch.jit.load(str(path), map_location="cpu").state_dict()
        except RuntimeError:  # not an archive of TorchScript
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, SafetensorError, ValueError, EOFError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise PelError(f"'{path}' is no readable weights file: {reason}") from None
    except Exception as error:  # pickle.UnpicklingError: torch refuses what is not tensors
        kind = type(error).__name__
        raise PelError(f"'{path}' is refused: it is no weights file, or holds more than tensors ({kind}); save a plain state dict") from None
    if not isinstance(state, Mapping):
        raise PelError(f"'{path}' holds a {type(state).__name__}, expected a state dict")
    state = state.get("state_dict", state)
    return {key.removeprefix("module."): value for key, value in state.items() if isinstance(value, Tensor)}


def load_vit(folder: str | Path, resolution: int | None = None) -> tuple[ViT, State, dict[str, Any]]:
    """The ViT of a prepared folder, its text projection and scale (empty without a text tower), and backbone.json.

    Raises:
        PelError: the folder is not a prepared backbone, or another resolution is asked for.
    """
    info = read_json(Path(folder) / "backbone.json")
    state = load_file(Path(folder) / "vit.safetensors")
    text = {key: state.pop(key) for key in list(state) if key.startswith("text.")}
    if resolution not in (None, info["registry"]["resolution"]):
        state["pos"] = resize_positions(state["pos"], resolution // info["registry"]["patch"])
    return _build(state, info["vit"]), text, info


def resize_positions(pos: Tensor, grid: int) -> Tensor:
    """Position embeddings (1 + G^2, D) for another grid, (1 + grid^2, D): bicubic, antialiased, as timm and open_clip do."""
    old = round((len(pos) - 1) ** 0.5)
    image = pos[1:].T.reshape(1, -1, old, old)
    image = F.interpolate(image, size=(grid, grid), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([pos[:1], image.flatten(2)[0].T])


TEMPLATES: dict[str, tuple[str, ...]] = {"default": ("a photo of a {}.",), "classname": ("{}",)}


@torch.inference_mode()
def text_features(
    name: str,
    class_names: Sequence[str],
    prompt: str,
    weights: str | None = None,
    cache_dir: str | None = None,
    sha: str | None = None,
) -> Tensor:
    """Class-text features (C, E) of unit length; with several templates, the mean of unit features, made unit again.

    Underscores in class names become spaces, as in the reference. ``sha`` is the SHA-256 the weights must have, if known.

    Raises:
        PelError: the backbone has no text tower, an unknown prompt, or other weights.
    """
    entry = BACKBONES[name]
    if not entry.text:
        raise PelError(f"{name} has no text tower: use init=random for it, or a CLIP backbone")
    if entry.source == "random":
        seeds = [derive(0, "text", prompt, each) for each in spoken(class_names)]
        draws = [torch.randn(16, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return F.normalize(torch.stack(draws), dim=-1)
    import open_clip

    folder = Path(__file__).parent / entry.arch
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}" if entry.source == "bundled" else entry.arch)
    model, source = load_open_clip(name, weights, cache_dir)
    if sha not in (None, source["sha256"]):
        raise PelError(f"{name} was prepared from weights {sha[:12]}..., {source['file']} is {source['sha256'][:12]}...; prepare it again")
    return encode_text(model, tokenizer, class_names, templates(prompt))


def spoken(class_names: Sequence[str]) -> list[str]:
    """Class names as prompts spell them: underscores become spaces."""
    return [name.replace("_", " ") for name in class_names]


def templates(prompt: str) -> Sequence[str]:
    if prompt == "ensemble":
        from open_clip import OPENAI_IMAGENET_TEMPLATES

        return [template("{}") for template in OPENAI_IMAGENET_TEMPLATES]
    if prompt not in TEMPLATES:
        raise unknown("prompt", prompt, [*TEMPLATES, "ensemble"])
    return TEMPLATES[prompt]


def encode_text(model: nn.Module, tokenizer: Any, names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Unit text features (C, E) of a CLIP model, averaged over ``templates``; class names as in ``spoken``."""
    total = torch.zeros(())
    for template in templates:
        tokens = tokenizer([template.format(name) for name in spoken(names)])
        features = torch.cat([model.encode_text(chunk) for chunk in tokens.split(256)])
        total = total + F.normalize(features.float(), dim=-1)
    return F.normalize(total, dim=-1)


def prepare_text(
    backbone_dir: str | Path, data_dir: str | Path, prompt: str, out: str | Path, weights: str | None = None, cache_dir: str | None = None
) -> None:
    """Write ``text.features`` (C, E) of a prepared data set's class names, with the names and the weights' hash as metadata.

    Raises:
        PelError: the weights are not those the backbone was prepared from.
    """
    info, about = read_json(Path(backbone_dir) / "backbone.json"), read_json(Path(data_dir) / "data.json")
    features = text_features(info["name"], about["class_names"], prompt, weights, cache_dir, info["source"].get("sha256"))
    metadata = {"class_names": json.dumps(about["class_names"]), "backbone_sha256": info["sha256"], "prompt": prompt}
    with replace_file(out) as temporary:
        save_file({"text.features": features.contiguous()}, temporary, metadata=metadata)

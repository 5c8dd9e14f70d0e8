"""Pre-trained weights -> our ViT, once per backbone, and class-text features; nobody who trains imports open_clip or timm.

A prepared backbone is a folder of ``vit.safetensors`` (the ViT; with ``text.projection`` (D, E) and ``text.logit_scale`` where
there is a text tower) and ``backbone.json`` (how to build it, image statistics, hashes).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pel_core.common.errors import PelError
from pel_core.common.files import read_json, sha256, write_json
from pel_core.common.plugins import used
from pel_core.common.seeds import derive, torch_generator
from pel_core.common.tensors import read_tensors, write_tensors
from pel_core.common.versions import check_versions, versions
from pel_core.data.datasets import DATASETS
from pel_core.models.backbones import BACKBONES, Backbone, find_backbone
from pel_core.models.building import at_resolution, build_tower, build_vit
from pel_core.models.open_clip_towers import open_clip_tower
from pel_core.models.prompt_tokens import check_prompts
from pel_core.models.prompts import DESCRIBED, SENTENCES, spoken, templates
from pel_core.models.sentences import sentence_tensors
from pel_core.models.state_names import OPEN_CLIP_NAMES, TIMM_NAMES, State, fold_layer_scale, rename
from pel_core.models.text_heads import TOWER
from pel_core.models.text_sets import TextSet, read_descriptions, text_set
from pel_core.models.text_tower import digest, tower_tensors
from pel_core.models.towers import timm_tower, upstream_features
from pel_core.models.upstream import load_open_clip, load_timm, load_tokenizer, open_clip_model
from pel_core.models.vit import ViT

SAME = 1e-3  # of the largest feature: rounding is 100 times less, a wrong activation 10 times more


def vit_from_clip(state: Mapping[str, Tensor], quick_gelu: bool = True, head_width: int = 64) -> tuple[ViT, State]:
    """Build the ViT of an OpenAI- or open_clip-format CLIP state dict; sizes are read off its shapes.

    Returns:
        The ViT and ``{"text.projection": (D, E), "text.logit_scale": ()}``, the scale as the factor it is used as.
    """
    visual = {key.removeprefix("visual."): value for key, value in state.items() if key.startswith("visual.")}
    tower = rename(visual, OPEN_CLIP_NAMES)
    text = {"text.projection": state["visual.proj"].float(), "text.logit_scale": state["logit_scale"].float().exp()}
    return build_vit(tower, {"head_width": head_width, "quick_gelu": quick_gelu, "norm_pre": True, "eps": 1e-5}), text


def vit_from_timm(state: Mapping[str, Tensor], head_width: int = 64) -> ViT:
    """Build the ViT of a timm ``VisionTransformer`` state dict; sizes are read off its shapes."""
    options = {"head_width": head_width, "quick_gelu": False, "norm_pre": False, "eps": 1e-6}
    return build_vit(rename(fold_layer_scale(state), TIMM_NAMES), options)


def prepare_backbone(name: str, out: str | Path, weights: str | None = None, cache_dir: str | None = None) -> None:
    """Write the prepared folder of backbone ``name``; ``weights`` is a local file or folder, or a hub name, used instead of
    the registry's source.

    Raises:
        PelError: an unknown backbone, weights that cannot be had or do not fit.
    """
    entry = find_backbone(name)
    if entry.source == "random":
        made = _random(entry)
    else:
        made = (_from_timm if entry.source == "timm" else _from_open_clip)(name, weights, cache_dir)
    vit, native = build_tower(made.tower, made.options), entry.native or entry.resolution
    if (vit.layers, vit.width, vit.patch, vit.resolution) != (entry.layers, entry.width, entry.patch, native):
        raise PelError(
            f"the weights of {name} are a ViT of {vit.layers} blocks, width {vit.width}, patch {vit.patch}, {vit.resolution} px; "
            f"expected {entry.layers}, {entry.width}, {entry.patch}, {native}"
        )
    if made.upstream is not None:
        _require_same(name, vit, made.upstream)
    out = Path(out)
    write_tensors(out / "vit.safetensors", {**vit.state_dict(), **made.text})
    written = sha256(out / "vit.safetensors")
    info = {
        "name": name,
        "versions": versions("prepare"),
        "registry": asdict(entry),
        "vit": made.options,
        "source": made.source,
        "sha256": written,
    }
    write_json(out / "backbone.json", info)


@dataclass(frozen=True)
class Made:
    """What a backbone is made of: the image tower's weights, ``text.projection`` and what belongs to it, the options of the ViT,
    where they come from, and the network of upstream that has to agree."""

    tower: State
    text: State
    options: dict[str, Any]
    source: dict[str, str]
    upstream: nn.Module | None = None


@torch.inference_mode()
def _require_same(name: str, vit: ViT, upstream: nn.Module) -> None:
    """See that a made-up image has the same feature as upstream's own code gives it: a part that was misread would train well and
    be another network.

    Raises:
        PelError: it has not.
    """
    image = torch.randn(1, 3, vit.resolution, vit.resolution, generator=torch_generator(0, "backbone", "same"))
    ours, theirs = vit(image), upstream_features(upstream, image)
    apart = float((ours - theirs).abs().max() / theirs.abs().max())
    if not apart < SAME:
        raise PelError(f"{name}: features differ from those of its own library by {apart:.2g} of the largest; it does not fit")


def _random(entry: Backbone) -> Made:
    options = {"head_width": 16, "norm_pre": True, "quick_gelu": entry.quick_gelu, "eps": 1e-5}
    size = {"layers": entry.layers, "width": entry.width, "heads": entry.width // 16, "patch": entry.patch}
    vit = ViT(**size, resolution=entry.resolution, quick_gelu=True)
    generator = torch_generator(0, "backbone", entry.arch)
    for name, value in vit.state_dict().items():
        norm = "norm" in name
        value.normal_(
            1.0 if norm and name.endswith("weight") else 0.0, 0.02 if norm else value.shape[-1] ** -0.5, generator=generator
        )
    projection = torch.randn(entry.width, 16, generator=generator)
    text = {"text.projection": projection, "text.logit_scale": torch.tensor(20.0)}
    return Made(vit.state_dict(), text, options, {"sha256": "random"})


def _from_open_clip(name: str, weights: str | None, cache_dir: str | None) -> Made:
    model, source = load_open_clip(name, weights, cache_dir)
    tower, options, text = open_clip_tower(model.visual)
    text["text.logit_scale"] = model.logit_scale.detach().exp().float()
    return Made(tower, text, options, source, model.visual)


def _from_timm(name: str, weights: str | None, cache_dir: str | None) -> Made:
    model, source = load_timm(name, weights, cache_dir)
    tower, options = timm_tower(model)
    return Made(tower, {}, options, source, model)


def load_vit(folder: str | Path, resolution: int | None = None) -> tuple[ViT, State, dict[str, Any]]:
    """The ViT of a prepared folder, its text projection and scale (empty without a text tower), and backbone.json.

    Its position embeddings are resized to ``resolution`` or the registry's.

    Raises:
        PelError: the folder is not a prepared backbone, or one made by another version.
    """
    info = read_json(Path(folder) / "backbone.json", ("name", "registry", "vit", "source", "sha256"))
    check_versions(Path(folder) / "backbone.json", info)
    state, _ = read_tensors(Path(folder) / "vit.safetensors")
    text = {key: state.pop(key) for key in list(state) if key.startswith("text.")}
    grid = (resolution or info["registry"]["resolution"]) // info["registry"]["patch"]
    return build_tower(at_resolution(state, grid), info["vit"]), text, info


@torch.inference_mode()
def text_features(
    name: str,
    class_names: Sequence[str],
    prompt: str,
    weights: str | None = None,
    cache_dir: str | None = None,
    sha: str | None = None,
    descriptions: str | Path | None = None,
    allow_equal: bool = False,
    notes: list[str] | None = None,
    texts: TextSet | None = None,
) -> Tensor:
    """Class-text features (C, E) of unit length; with several sentences a class, the mean of unit features, made unit again.

    Underscores in class names become spaces, as in the reference. ``sha`` is the SHA-256 the weights must have, if known;
    ``descriptions`` the file of ``prompt="descriptions"``; ``allow_equal``: classes of the same text are no error; ``notes``
    takes what is to be told of the texts (`check_prompts`); ``texts`` is the prompt's text set, where it has one.

    Raises:
        PelError: the backbone has no text tower, an unknown prompt, no usable descriptions, classes that it cannot tell apart,
            or other weights.
    """
    entry = BACKBONES[name]
    if not entry.text:
        raise PelError(f"{name} has no text tower: start its head from images (init=class-mean), or use a CLIP backbone")
    described = texts.sentences(class_names) if texts else None
    if prompt == DESCRIBED:
        described = read_descriptions(descriptions, class_names)
    notes = [] if notes is None else notes
    if entry.source == "random":
        lines = described or [[line] for line in spoken(class_names)]
        notes += check_prompts(lines, class_names, None, allow_equal)
        return F.normalize(torch.stack([_made_up(prompt, sentences) for sentences in lines]), dim=-1)
    tokenizer = load_tokenizer(name, weights, cache_dir)
    texts = described or [[line.format(name) for line in templates(prompt)] for name in spoken(class_names)]
    notes += check_prompts(texts, class_names, tokenizer, allow_equal, allow_cut=entry.source == "bundled")  # its 20 tokens
    model = open_clip_model(name, weights, cache_dir, sha)
    if described:
        return encode_sentences(model, tokenizer, described)
    return encode_text(model, tokenizer, class_names, templates(prompt))


def _made_up(prompt: str, sentences: Sequence[str]) -> Tensor:
    seeds = [derive(0, "text", prompt, each) for each in sentences]
    return torch.stack([torch.randn(16, generator=torch.Generator().manual_seed(seed)) for seed in seeds]).mean(0)


def encode_text(model: nn.Module, tokenizer: Any, names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Unit text features (C, E) of a CLIP model, averaged over ``templates``; class names as in ``spoken``."""
    total = torch.zeros(())
    for template in templates:
        tokens = tokenizer([template.format(name) for name in spoken(names)])
        features = torch.cat([model.encode_text(chunk) for chunk in tokens.split(256)])
        total = total + F.normalize(features.float(), dim=-1)
    return F.normalize(total, dim=-1)


def encode_sentences(model: nn.Module, tokenizer: Any, sentences: Sequence[Sequence[str]]) -> Tensor:
    """Unit text features (C, E): the mean of each class's unit features, made unit again. Sentences are cut at 77 tokens."""
    tokens = tokenizer([line for lines in sentences for line in lines])
    features = F.normalize(torch.cat([model.encode_text(chunk) for chunk in tokens.split(256)]).float(), dim=-1)
    return F.normalize(torch.stack([each.mean(0) for each in features.split([len(lines) for lines in sentences])]), dim=-1)


def prepare_text(
    backbone_dir: str | Path,
    data_dir: str | Path,
    prompt: str,
    out: str | Path,
    weights: str | None = None,
    cache_dir: str | None = None,
    descriptions: str | Path | None = None,
    texts: Mapping[str, Any] | None = None,
    texts_sha256: str = "",
) -> None:
    """Write ``text.features`` (C, E) of a prepared data set's class names, with the names and the weights' hash as metadata; for
    the ``prompt`` `TOWER` also the text tower and the names' tokens (`tower_tensors`), with `SENTENCES` before a prompt also each
    of its sentences (`sentence_tensors`). ``texts`` is the text set of a prompt ``texts:NAME`` (`text_sets.make_text_set`),
    ``texts_sha256`` the digest that it has to have.

    Raises:
        PelError: the weights are not those the backbone was prepared from, or as ``text_features``.
    """
    info, about = read_json(Path(backbone_dir) / "backbone.json"), read_json(Path(data_dir) / "data.json")
    sha = info["source"].get("sha256")
    published = (base := about.get("name")) in DATASETS and not used([DATASETS.entry(base)])  # ImageNet has two pairs
    names, notes, said, prompt = about["class_names"], [], prompt, prompt.removeprefix(SENTENCES)
    about_tower, chosen = {}, None if prompt == TOWER else text_set(prompt, base, texts)
    if texts_sha256 and (chosen is None or chosen.digest() != texts_sha256):
        raise PelError(f"prompt={prompt}: the texts are not those that were planned with; they changed meanwhile: start again")
    if prompt == TOWER:
        made = tower_tensors(info["name"], names, weights, cache_dir, sha, published, notes)
        about_tower = {"text_tower": digest(made)}
    else:
        source = weights, cache_dir, sha, descriptions, published and not (chosen and chosen.names), notes, chosen
        one_by_one = said != prompt
        given = info["name"], names, prompt, *source
        made = sentence_tensors(*given) if one_by_one else {"text.features": text_features(*given)}
    metadata = {"class_names": json.dumps(names), "backbone_sha256": info["sha256"], "prompt": said}
    metadata |= {"versions": json.dumps(versions("prepare")), **about_tower}
    if chosen:
        metadata |= {"texts": chosen.digest(), "source": chosen.source}
    if prompt == DESCRIBED:
        metadata["descriptions"] = sha256(descriptions)
    if notes:
        metadata["notes"] = json.dumps(notes)
    write_tensors(out, made, metadata)

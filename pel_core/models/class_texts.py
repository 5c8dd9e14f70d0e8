"""Class-text features: made once for a backbone, a data set and a prompt. Nobody who trains imports open_clip.

Shapes: C classes, E projected.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pel_core.common.errors import PelError
from pel_core.common.files import read_json, sha256
from pel_core.common.plugins import used
from pel_core.common.seeds import derive
from pel_core.common.tensors import write_tensors
from pel_core.common.versions import versions
from pel_core.data.datasets import DATASETS
from pel_core.models.prompts import DESCRIBED, SENTENCES, spoken, templates
from pel_core.models.sentences import sentence_tensors
from pel_core.models.text_heads import TOWER
from pel_core.models.text_sets import TextSet, text_set, written
from pel_core.models.text_source import TextSource
from pel_core.models.text_tower import digest, tower_tensors


@torch.inference_mode()
def text_features(
    source: TextSource, prompt: str, descriptions: str | Path | None = None, texts: TextSet | None = None
) -> Tensor:
    """Class-text features (C, E) of unit length; with several sentences a class, the mean of unit features, made unit again.

    Underscores in class names become spaces, as in the reference. ``descriptions`` is the file of ``prompt="descriptions"``,
    ``texts`` the prompt's text set, where it has one.

    Raises:
        PelError: an unknown prompt, no usable descriptions, classes that the tower cannot tell apart, or other weights.
    """
    names, said = source.class_names, written(source.class_names, prompt, descriptions, texts)
    if source.tokenizer is None:
        lines = said or [[line] for line in spoken(names)]
        source.check(lines)
        return F.normalize(torch.stack([_made_up(prompt, sentences) for sentences in lines]), dim=-1)
    source.check(said or [[line.format(name) for line in templates(prompt)] for name in spoken(names)])
    if said:
        return encode_sentences(source.model(), source.tokenizer, said)
    return encode_text(source.model(), source.tokenizer, names, templates(prompt))


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
        PelError: the backbone has no text tower, the weights are not those it was prepared from, or as ``text_features``.
    """
    info, about = read_json(Path(backbone_dir) / "backbone.json"), read_json(Path(data_dir) / "data.json")
    published = (base := about.get("name")) in DATASETS and not used([DATASETS.entry(base)])  # ImageNet has two pairs
    said, prompt = prompt, prompt.removeprefix(SENTENCES)
    chosen = None if prompt == TOWER else text_set(prompt, base, texts)
    if texts_sha256 and (chosen is None or chosen.digest() != texts_sha256):
        raise PelError(f"prompt={prompt}: the texts are not those that were planned with; they changed meanwhile: start again")
    sha, may_be_equal = info["source"].get("sha256"), published and not (chosen and chosen.names)
    source = TextSource(info["name"], about["class_names"], weights, cache_dir, sha, may_be_equal)
    if prompt == TOWER:
        made = tower_tensors(source)
    elif said != prompt:
        made = sentence_tensors(source, prompt, descriptions, chosen)
    else:
        made = {"text.features": text_features(source, prompt, descriptions, chosen)}
    metadata = {"class_names": json.dumps(about["class_names"]), "backbone_sha256": info["sha256"], "prompt": said}
    metadata |= {"versions": json.dumps(versions("prepare"))}
    if prompt == TOWER:
        metadata["text_tower"] = digest(made)
    if chosen:
        metadata |= {"texts": chosen.digest(), "source": chosen.source}
    if prompt == DESCRIBED:
        metadata["descriptions"] = sha256(descriptions)
    if source.notes:
        metadata["notes"] = json.dumps(source.notes)
    write_tensors(out, made, metadata)

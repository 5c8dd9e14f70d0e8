"""What a run starts from, found under the results folder and checked: prepared data, backbone, class-text features, and for an
evaluation the trained parameters."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pel_core.common.errors import PelError, unknown
from pel_core.common.files import read_json, sha256
from pel_core.common.shipped import program
from pel_core.common.tensors import read_tensors
from pel_core.common.versions import check_versions, made_by, stale, versions
from pel_core.data.datasets import DATASETS, Prepared, open_prepared, split_name
from pel_core.data.run_images import at_native, decoded
from pel_core.data.split import Split
from pel_core.models.sentences import sentences_of
from pel_core.models.text_tower import PER_CLASS
from pel_core.models.weights import load_vit
from pel_core.spec.choices import SOUPS
from pel_core.spec.plugins import other_plugins, with_plugins
from pel_core.spec.results import inputs_of, run_folder
from pel_core.spec.run_spec import RunSpec, completed, differences
from pel_core.training.classifier import Classifier, adapter_dim, build, image_projection, start_head
from pel_core.training.look import Look, digest
from pel_core.training.parents import read_parents, take_over
from pel_core.training.prefix_cache import PrefixCache
from pel_core.training.soups import cook
from pel_core.training.validation import validation_logits


def load(
    spec: RunSpec, results: Path, device: torch.device, fresh: bool = False, prefix_cache_gb: float = 0.0
) -> tuple[Prepared, Classifier, dict[str, Any]]:
    """The prepared data, the untrained classifier on ``device`` and backbone.json of a run.

    ``fresh`` starts delta and head as the spec says, also where that takes a look at the training images or at the run that it
    starts from; a run that loads a checkpoint saves itself that, unless it is evaluated between the two (``wise_ft``).
    """
    base = split_name(spec.dataset)[0]
    prepared = [path.parent.name for path in (results / "data").glob("*/data.json")]
    if base not in prepared:
        if base not in DATASETS:
            raise unknown("data set", base, {*DATASETS, *prepared}, "(one of your own is prepared with `data prepare --config`)")
        raise PelError(f"data set '{base}' is not prepared: run `{program()} data prepare {base} --out {results}/data/{base}`")
    # What is read from files has to be what was prepared; decoded images are those that they were decoded from.
    read = [("train", fresh), (spec.split, not fresh or spec.wise_ft != 1), ("val", fresh and spec.validates)]
    compare = () if spec.image_cache else tuple(dict.fromkeys(split for split, needed in read if needed))
    data = at_native(open_prepared(results / "data" / base, spec.dataset, compare, spec.factors), spec.native)
    data = decoded(data, results, spec.image_cache)
    vit, text, info = load_vit(results / "backbones" / spec.backbone, spec.resolution)
    if spec.needs_text:
        path = results / "text" / spec.backbone / f"{base}.{spec.text_file}.safetensors"
        features, about = load_text(path, data, info)
        info |= about
        text |= features if fresh else {"text.features": features["text.features"]}  # the tower is for training
    projection, seen = image_projection(spec, text) if spec.trains else None, {}
    looks = fresh and spec.trains and (not spec.takes_head or spec.extends_head)
    if looks and not spec.takes_delta:  # the untuned network looks, before a delta is attached
        cache = PrefixCache(results, prefix_cache_gb)
        seen = Look(spec, vit.to(device), data, device, cache, info["sha256"], projection).start()
    classifier = build(spec, vit.to(device), len(data.class_names), text, **seen).to(device)
    if fresh and spec.parents:
        start = classifier.trainable_state() if SOUPS[spec.soup].shares else None
        parents = read_parents(spec, results)
        take_over(classifier, spec, parents, data)
        info["parents"] = [parent.record for parent in parents]
        if spec.soup != "none":
            about = test_images(spec, results, info, data.split("val")) if spec.validates else {}
            validation = partial(validation_logits, classifier, spec, data, PrefixCache(results, prefix_cache_gb), about)
            info["soup"] = cook(classifier, spec, parents, validation, start)
    if looks and spec.takes_delta:
        start_head(classifier.head, **Look(spec, classifier.vit, data, device, projection=projection).start())
    return data, classifier, info


# SHA-256 of what texts were made of beside class names and weights: a file of descriptions, the text tower to train through, a
# text set.
TEXTS = ("descriptions", "text_tower", "texts")


def load_text(path: Path, data: Prepared, info: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Class-text features, and hashes of `TEXTS`, as far as there are.

    Raises:
        PelError: row i is not class i of the data, the weights are not the backbone's, or it is of another version.
    """
    features, metadata = read_tensors(path)
    check_versions(path, metadata)
    names = json.loads(metadata["class_names"])
    if data.classes is not None and len(names) > max(data.classes):  # the file has all of the data set's
        names = [names[label] for label in data.classes]
        chosen = torch.as_tensor(data.classes)
        features |= {name: features[name][chosen] for name in PER_CLASS if name in features}
        features |= sentences_of(features, data.classes)
    if names != list(data.class_names):
        raise PelError(f"{path} was made for other class names than {data.name} has now; delete it and run again")
    if metadata["backbone_sha256"] != info["sha256"]:
        raise PelError(f"{path} was made with other weights than {info['name']} has now; delete it and run again")
    return features, {name: metadata[name] for name in TEXTS if name in metadata}


def load_trained(
    spec: RunSpec, results: Path, classifier: Classifier, record: dict[str, Any], accept: bool = False
) -> dict[str, Any]:
    """Load the trained parameters of a run; returns its train.json.

    Raises:
        PelError: it is missing or damaged, or was trained by another version or from another spec, data set or weights.
    """
    folder = run_folder(results, spec.train.slug)
    stored = read_json(folder / "train.json", ("spec", "data", "backbone", "delta_sha256", "training"))
    again = "delete the folder to train it again"
    if (reason := stale(stored, ("prepare", "train"))) and not accept:
        raise PelError(f"{folder} is stale: {reason}, whose numbers may differ; {again}")
    changed = differences(stored["spec"], spec.train)
    changed += [f"{key} hash" for key in ("data", "backbone") if stored[key]["sha256"] != record[key]["sha256"]]
    changed += [reason] if (reason := other_plugins(stored, spec.train)) else []
    changed += [name for name in TEXTS if stored.get(name) != record.get(name)]
    if changed:
        raise PelError(f"{folder} was trained from another spec ({'; '.join(changed)}); {again}")
    state, _ = read_tensors(folder / "delta.safetensors")
    if sha256(folder / "delta.safetensors") != stored["delta_sha256"]:
        raise PelError(f"{folder / 'delta.safetensors'} is not the file that train.json describes; {again}")
    classifier.load_trainable(state)
    return stored


def identity(record: dict[str, Any]) -> dict[str, Any]:
    """All that decides the numbers of a training run; a checkpoint with another identity is discarded."""
    # `engine` is what checkpoints from before call the version of TRAIN: they are gone on with.
    kept = {"slug": record["slug"], "engine": made_by(record)["train"], "spec": record["spec"]}
    kept |= {name: record[name] for name in ("plugins", "parents", "text_tower", "texts") if name in record}
    return kept | {"descriptions": record.get("descriptions")} | {key: record[key]["sha256"] for key in ("data", "backbone")}


def is_trained(spec: RunSpec, results: Path, record: dict[str, Any]) -> bool:
    """Whether the run's folder holds a finished training with the same identity."""
    folder = run_folder(results, spec.slug)
    try:
        stored = read_json(folder / "train.json", ("slug", "spec", "data", "backbone", "delta_sha256"))
        stored["spec"] = completed(stored["spec"], spec)  # of before some fields: at their defaults
        return identity(stored) == identity(record) and sha256(folder / "delta.safetensors") == stored["delta_sha256"]
    except (PelError, OSError):
        return False


def test_images(spec: RunSpec, results: Path, info: dict[str, Any], split: Split) -> dict[str, Any]:
    """What identifies a run's backbone and the images it is evaluated on, ``split``, for the prefix cache: not the imbalance
    ratio."""
    digests = read_json(results / "data" / split_name(spec.dataset)[0] / "data.json", ("digests",))["digests"]
    some = {} if split.rows is None else {"positions": digest(split.rows)}
    return {"backbone": info["sha256"], "images": digests[split.file], "native": spec.reduction, **some}


def describe(spec: RunSpec, data: Prepared, info: dict[str, Any], classifier: Classifier) -> dict[str, Any]:
    """The part of train.json that is known before training."""
    counts = np.asarray(data.train_counts)
    dataset = {
        "name": data.name,
        "classes": len(data.class_names),
        "train_images": int(counts.sum()),
        "test_images": len(data.split(spec.split).labels),
        "train_counts": counts.tolist(),
        "groups": {group: list(data.groups).count(group) for group in ("head", "med", "tail")},
        "sha256": data.sha256,
    }
    dataset |= {"factors": asked} if (asked := spec.factors.content()) else {}
    backbone = {
        "name": spec.backbone,
        "arch": spec.vit.arch,
        "label": spec.vit.label,
        "layers": spec.vit.layers,
        "sha256": info["sha256"],
        "source_sha256": info["source"].get("sha256"),
    }
    parameters = classifier.census() | {"adapter_dim": adapter_dim(spec, len(data.class_names))}
    record = {
        "slug": spec.slug,
        "inputs": inputs_of({"data": dataset, "backbone": backbone}),
        "versions": versions("prepare", "train"),
    }
    record |= {"spec": spec.to_json(), **with_plugins(spec)}
    record |= {name: info[name] for name in TEXTS if info.get(name)}
    record |= {name: info[name] for name in ("parents", "soup") if name in info}
    return record | {"data": dataset, "backbone": backbone, "parameters": parameters}

"""A trained run (or zero-shot) ready to classify: its files found, checked against each other, and loaded.

All it needs is ``delta.safetensors`` (whose metadata holds spec and class names) and the prepared backbone, so that a copied run
folder will do. C classes.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pel_core.common.errors import PelError
from pel_core.common.files import read_json, sha256
from pel_core.common.tensors import read_tensors
from pel_core.common.versions import check_versions
from pel_core.data.datasets import split_name
from pel_core.data.subsets import chosen_classes
from pel_core.evaluation.run_names import find_run
from pel_core.models.weights import load_vit
from pel_core.spec.long_names import tell
from pel_core.spec.run_spec import RunSpec, differences
from pel_core.training.classifier import Classifier, build, cast_frozen_weights
from pel_core.training.step import PRECISIONS


def open_run(
    run: str,
    results: Path,
    device: torch.device,
    evaluation: str = "",
    among: Iterable[RunSpec] | None = None,
    cast: bool = True,
) -> tuple[RunSpec, Classifier, list[str]]:
    """A trained run (or zero-shot) ready to classify: its spec, its classifier on ``device`` and its class names (C,).

    Args:
        run, evaluation, among: as `find_run`, which says which evaluation is meant.
        cast: hold frozen matrices in the precision of that evaluation; else all stays fp32.

    Raises:
        PelError: it is not there, damaged, stale, or of other weights than the prepared backbone; or as `find_run`.
    """
    given = Path(run) / "delta.safetensors"
    told = read_tensors(given)[1] if given.is_file() else {}
    tell(json.loads(told.get("spec", "{}")))
    trained = told.get("slug", given.absolute().parent.name) if given.is_file() else ""
    folder, spec = find_run(run, results, trained, evaluation, among)
    if not spec.trains:
        classifier, names = _zero_shot(spec, results)
        return spec, _ready(classifier, spec, device, cast), names
    path = folder / "delta.safetensors"
    state, about = read_tensors(path)
    check_versions(path, about, "train it again, or use the version that made it")
    stored = _stored(folder, about, spec, results)
    if about.get("slug", spec.train.slug) != spec.train.slug or (changed := differences(stored["spec"], spec.train)):
        found = about.get("slug") if about.get("slug") != spec.train.slug else "; ".join(changed)
        raise PelError(f"{path} was trained from another spec ({found}); train it again")
    features = _start(spec, results, stored["class_names"], stored["backbone"]["sha256"]) if spec.wise_ft != 1 else {}
    classifier = _classifier(spec, results, stored["backbone"]["sha256"], len(stored["class_names"]), features)
    start = classifier.trainable_state() if spec.wise_ft != 1 else {}
    classifier.load_trainable(state)
    if start:
        classifier.interpolate(start, spec.wise_ft)
    return spec, _ready(classifier, spec, device, cast), stored["class_names"]


def _stored(folder: Path, about: Mapping[str, str], spec: RunSpec, results: Path) -> dict[str, Any]:
    """Spec, class names and backbone of a trained run: from the checkpoint's metadata, or, where it is older than those, from
    train.json and the prepared data. Where train.json is, the checkpoint has to be the one it describes."""
    path = folder / "train.json"
    record = read_json(path, ("spec", "backbone", "data", "delta_sha256")) if path.is_file() else None
    if record and record["delta_sha256"] != sha256(folder / "delta.safetensors"):
        raise PelError(f"{folder / 'delta.safetensors'} is not the file that train.json describes; copy or train it again")
    if "class_names" in about:
        return {key: json.loads(about[key]) for key in ("spec", "class_names", "backbone")}
    data = results / "data" / split_name(spec.dataset)[0] / "data.json"
    if record is None or not data.is_file():
        raise PelError(f"{folder / 'delta.safetensors'} does not say its class names: it needs train.json beside it and {data}")
    return {**record, "class_names": read_json(data, ("class_names",))["class_names"]}


def _start(spec: RunSpec, results: Path, class_names: list[str], backbone: str) -> dict[str, Tensor]:
    """The class-text features that a run's head started from.

    Raises:
        PelError: it started from images, or the prepared features are of other classes or weights (``backbone``: their SHA-256).
    """
    if spec.init != "text":
        raise PelError(
            f"{spec.slug}: wise_ft={spec.wise_ft:g} needs where the head started, which init={spec.init} takes from the training "
            "images; new images are classified between start and end with init=text only (--evaluation default takes the end)"
        )
    features, names, sha = _text_features(spec, results)
    if names != class_names or sha != backbone:
        what = "classes" if names != class_names else "weights"
        raise PelError(f"{spec.slug}: the class-text features prepared in {results} are of other {what}; prepare its own")
    return features


def _text_features(spec: RunSpec, results: Path) -> tuple[dict[str, Tensor], list[str], str]:
    """The prepared features of a run's classes, their names, and the SHA-256 of the backbone that they are of."""
    path = results / "text" / spec.backbone / f"{split_name(spec.dataset)[0]}.{spec.prompt}.safetensors"
    features, about = read_tensors(path)
    check_versions(path, about)
    names = json.loads(about["class_names"])
    chosen = chosen_classes(len(names), spec.factors)
    names = [names[label] for label in chosen]
    return {name: rows[torch.as_tensor(chosen)] for name, rows in features.items()}, names, about["backbone_sha256"]


def _zero_shot(spec: RunSpec, results: Path) -> tuple[Classifier, list[str]]:
    features, names, sha = _text_features(spec, results)
    return _classifier(spec, results, sha, len(names), features), names


def _classifier(spec: RunSpec, results: Path, sha: str, classes: int, features: Mapping[str, Tensor]) -> Classifier:
    folder = results / "backbones" / spec.backbone
    vit, text, info = load_vit(folder, spec.resolution)
    if info["sha256"] != sha:
        raise PelError(f"{spec.slug} was made with other weights of {spec.backbone} ({sha[:12]}) than {folder} holds")
    if spec.needs_text and not features:  # a checkpoint replaces the head's first values, whatever they are
        features = {"text.features": torch.zeros(classes, len(text["text.projection"].T))}
    return build(spec, vit, classes, {**text, **features})


def _ready(classifier: Classifier, spec: RunSpec, device: torch.device, cast: bool) -> Classifier:
    """On its device and, if ``cast``, in its evaluation's precision, as the stage `predict` has it."""
    cast_frozen_weights(classifier.to(device), PRECISIONS[spec.eval_precision] if cast else None)
    return classifier

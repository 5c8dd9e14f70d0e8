"""What `export` writes: a folder that the library loads, with the classifier, class names, how to prepare an image, and a card.

Every file is there or none: the folder is made beside its place and moved there last.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from pel_core import __version__
from pel_core.common.errors import PelError
from pel_core.common.files import read_json
from pel_core.evaluation.trained_run import open_run
from pel_core.export.cards import card_text
from pel_core.export.formats import BEFORE, FORMATS, INSIDE, Card, Opened
from pel_core.export.graph import Whole, write_onnx, write_torch
from pel_core.export.linear import LinearHead, linear_head
from pel_core.export.merge import merged
from pel_core.export.upstream import filled, library_of
from pel_core.models.backbones import BACKBONES
from pel_core.models.hub import CONFIGS
from pel_core.models.weights import load_vit
from pel_core.spec.options import evaluation_options
from pel_core.spec.posthoc import is_posthoc
from pel_core.spec.run_spec import RunSpec


def export_run(run: str, results: Path, form: str, out: Path) -> Path:
    """Write a trained run (or zero-shot) as ``form`` into the new folder ``out``.

    Raises:
        PelError: an unknown format, a folder that is there, a run that cannot be opened, or one that the format cannot hold.
    """
    write = FORMATS.entry(form).value
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise PelError(f"{out} is there already: name another folder with --out, or remove it")
    spec, classifier, names = open_run(run, results, torch.device("cpu"), cast=False)
    if is_posthoc(spec):
        raise PelError(
            f"{spec.slug} has steps after its network ({', '.join(evaluation_options(spec))}): export {spec.train.slug}"
        )
    folder = results / "backbones" / spec.backbone
    opened = Opened(spec, classifier.eval().requires_grad_(False), names, load_vit(folder, spec.resolution)[1])
    new = out.with_name(f".{out.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        card = write(new, opened)
        (new / "class_names.json").write_text(json.dumps(names, ensure_ascii=False, indent=1), encoding="utf-8")
        (new / "README.md").write_text(card_text(spec, results, card), encoding="utf-8")
        if out.is_dir():
            out.rmdir()
        new.rename(out)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    return out


def preprocessing(spec: RunSpec, normalise: str) -> dict[str, Any]:
    """How an image becomes the network's input: that of the evaluation ``tte: none``, one central crop.

    ``normalise``: ``BEFORE``, or ``INSIDE`` of a graph that does it itself, which is given pixels in 0..1; mean and deviation
    are then not said, as who finds them uses them.
    """
    entry = BACKBONES[spec.backbone]
    values = {"mean": list(entry.mean), "std": list(entry.std)} if normalise == BEFORE else {"value_range": [0, 1]}
    return {
        "resolution": spec.pixels,
        "resize_shorter_side": spec.pixels * 8 // 7,
        "crop": "center",
        "interpolation": spec.interpolation,
        "channels": "RGB",
        **values,
        "normalise": normalise,
    }


def _head(opened: Opened) -> LinearHead:
    head = linear_head(opened.classifier.head)
    if head is None:
        raise PelError(
            f"the head {opened.spec.head} of {opened.spec.slug} is no matrix behind a normalised feature, which is all that "
            "another library can be given; export the whole classifier: --as onnx or --as torch"
        )
    return head


def _library(folder: Path, opened: Opened, library: str) -> Card:
    spec = opened.spec
    if (own := library_of(spec.backbone)) != library:
        raise PelError(f"{spec.backbone} is a network of {own}: --as {own}")
    head = _head(opened)
    made = filled(spec.backbone, merged(opened.classifier), dict(opened.text))
    whole = library == "timm" and head.normalised == "none"
    state = {name: value.contiguous().clone() for name, value in made.tower.state_dict().items()}
    if whole:
        state |= {"head.weight": head.weight, "head.bias": head.bias}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    if not whole:
        save_file({"weight": head.weight, "bias": head.bias}, folder / "classifier.safetensors", {"format": "pt"})
    config = _timm_config(opened, whole) if library == "timm" else _open_clip_config(opened)
    (folder / CONFIGS[library]).write_text(json.dumps(config, indent=1, ensure_ascii=False), encoding="utf-8")
    return Card(library, made.arch, None if whole else head, preprocessing(spec, BEFORE))


@FORMATS.register("open_clip", about="the image tower as a state dict of open_clip, deltas merged, and the classifier beside it")
def as_open_clip(folder: Path, opened: Opened) -> Card:
    """``model.safetensors`` for ``open_clip.create_model(...).visual``."""
    return _library(folder, opened, "open_clip")


@FORMATS.register("timm", about="a model folder that timm loads, deltas merged; with a linear head, the classifier in it")
def as_timm(folder: Path, opened: Opened) -> Card:
    """``config.json`` and ``model.safetensors`` for ``timm.create_model("local-dir:...")``, or ``hf-hub:...`` once uploaded."""
    return _library(folder, opened, "timm")


@FORMATS.register("onnx", about="the whole classifier as an ONNX graph, deltas and head as they are")
def as_onnx(folder: Path, opened: Opened) -> Card:
    """``model.onnx``: RGB pixels in 0..1 (B, 3, R, R) -> logits (B, C)."""
    write_onnx(folder / "model.onnx", _whole(opened))
    return _graph_card(folder, opened, "onnx")


@FORMATS.register("torch", about="the whole classifier as a program of torch.export, deltas and head as they are")
def as_torch(folder: Path, opened: Opened) -> Card:
    """``model.pt2``: RGB pixels in 0..1 (B, 3, R, R) -> logits (B, C)."""
    write_torch(folder / "model.pt2", _whole(opened))
    return _graph_card(folder, opened, "torch")


def _whole(opened: Opened) -> Whole:
    entry = BACKBONES[opened.spec.backbone]
    return Whole(opened.classifier, entry.mean, entry.std)


def _graph_card(folder: Path, opened: Opened, library: str) -> Card:
    about = preprocessing(opened.spec, INSIDE)
    config = {"made_by": f"pel-lab {__version__}", "run": opened.spec.slug, "preprocessing": about}
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    return Card(library, "", None, about)


def _timm_config(opened: Opened, whole: bool) -> dict[str, Any]:
    spec, entry = opened.spec, BACKBONES[opened.spec.backbone]
    classes = len(opened.class_names) if whole else 0
    about = {"mean": list(entry.mean), "std": list(entry.std), "interpolation": spec.interpolation, "crop_pct": 0.875}
    about |= {"input_size": [3, spec.pixels, spec.pixels], "fixed_input_size": True, "num_classes": classes, "classifier": "head"}
    config: dict[str, Any] = {"architecture": entry.arch.partition(".")[0], "num_classes": classes, "pretrained_cfg": about}
    if spec.pixels != (entry.native or entry.resolution):
        config["model_args"] = {"img_size": spec.pixels}
    return config | ({"label_names": opened.class_names} if whole else {})


def _open_clip_config(opened: Opened) -> dict[str, Any]:
    import open_clip

    spec, entry = opened.spec, BACKBONES[opened.spec.backbone]
    bundled = entry.source == "bundled"
    model = read_json(entry.folder / "open_clip_config.json")["model_cfg"] if bundled else open_clip.get_model_config(entry.arch)
    about = {"mean": list(entry.mean), "std": list(entry.std), "interpolation": spec.interpolation, "resize_mode": "shortest"}
    return {"architecture": entry.arch, "model_cfg": model, "preprocess_cfg": about | {"size": spec.pixels}}

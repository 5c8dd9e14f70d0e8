"""The README.md of an exported folder: metadata as the Hugging Face hub reads it, how to load it, and the numbers of its run."""

from contextlib import suppress
from pathlib import Path

import yaml

from pel_core import __version__
from pel_core.common.errors import PelError
from pel_core.common.files import read_json
from pel_core.export.formats import BEFORE, INSIDE, Card
from pel_core.export.linear import FORMULAS
from pel_core.models.backbones import BACKBONES
from pel_core.spec.results import train_folder
from pel_core.spec.run_spec import RunSpec
from pel_core.training.model_card import evaluations, front_matter, notice, results_of

TIMM = """\
import timm

model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()  # or "hf-hub:you/name"
"""
OPEN_CLIP = """\
import open_clip
from safetensors.torch import load_file

# open_clip logs "No pretrained weights loaded": as it should, the line after loads them
model = open_clip.create_model({arch}, load_weights=False{size}).visual.eval()
model.load_state_dict(load_file("FOLDER/model.safetensors"))
"""
WIDTH = """\
if hasattr(model, "trunk"):
    model.head = model.trunk.head = torch.nn.Identity()  # features before the projection
elif getattr(model, "proj", None) is not None:
    model.proj = None  # features before the projection
"""
CLASSIFIER = """\
features = model(images)  # float32 (B, 3, R, R), RGB, normalised with the mean and std below
head = load_file("FOLDER/classifier.safetensors")
logits = {formula} @ head["weight"].T + head["bias"]
"""
ONNX = """\
import onnxruntime

session = onnxruntime.InferenceSession("FOLDER/model.onnx")
(logits,) = session.run(None, {"pixels": pixels})  # float32 (B, 3, R, R), RGB in 0..1, not normalised
"""
TORCH = """\
import torch

model = torch.export.load("FOLDER/model.pt2").module()
logits = model(pixels)  # float32 (B, 3, R, R), RGB in 0..1, not normalised
"""


def loading_code(spec: RunSpec, card: Card) -> str:
    """Python that loads the folder FOLDER and gives the run's ``logits`` of prepared ``images`` (of ``pixels``, where the network
    prepares them itself)."""
    if card.code:
        return card.code
    if card.library in ("onnx", "torch"):
        return ONNX if card.library == "onnx" else TORCH
    if card.library == "timm":
        if card.head is None:
            return TIMM + "logits = model(images)  # float32 (B, 3, R, R), RGB, normalised with the mean and std below\n"
        return "import torch\nfrom safetensors.torch import load_file\n" + TIMM + _classifier(card)
    entry = BACKBONES[spec.backbone]
    arch = f'"{entry.arch}"' if entry.source != "bundled" else '"local-dir:FOLDER"'
    size = f", force_image_size={spec.pixels}" if spec.pixels != (entry.native or entry.resolution) else ""
    code = "import torch\n" + OPEN_CLIP.format(arch=arch, size=size)
    return code + ("" if card.head is None or card.head.projected else WIDTH) + _classifier(card)


def _classifier(card: Card) -> str:
    return CLASSIFIER.format(formula=FORMULAS[card.head.normalised])


def _preparation(card: Card) -> str:
    """How an image is prepared, in words; of a graph that normalises inside, that nobody is to do it before."""
    about = ", ".join(f"{name} {value}" for name, value in card.preprocessing.items() if name != "normalise")
    last = {
        INSIDE: " Pixels are given in 0..1 as they are: the graph subtracts the mean and divides by the deviation itself. "
        "Normalising them before does it twice, and the logits are wrong without an error.",
        BEFORE: " Pixels in 0..1 are normalised before: `(pixels - mean) / std`.",
    }
    return f"Images: {about}.{last.get(card.preprocessing.get('normalise', ''), '')}"


def card_text(spec: RunSpec, results: Path, card: Card) -> str:
    """The whole card."""
    folder = train_folder(results, spec.slug)
    evaluated = []
    with suppress(PelError):  # a copied run may have its checkpoint alone; zero-shot has no training
        evaluated = evaluations(folder, read_json(folder / "train.json") if spec.trains else {})
    library = {"torch": "pytorch"}.get(card.library, card.library)
    front = yaml.safe_dump(front_matter(spec, evaluated, library, "finetune"), sort_keys=False, allow_unicode=True, width=1000)
    made = f"fine-tuned with `{spec.method}`" if spec.trains else f"as it is (`{spec.method}`), with a classifier"
    lines = [
        f"---\n{front}---\n",
        f"# {spec.slug}\n",
        f"{BACKBONES[spec.backbone].label}, {made} by PEL-Lab {__version__}; `class_names.json` has "
        "the classes in the order of the logits.",
        *notice(spec),
        "\n## Load",
        f"```python\n{loading_code(spec, card)}```",
        f"`FOLDER` is this folder. {_preparation(card)} Crops beyond the central one are averaged by their logits.",
        "\n## Results of the run",
        *([line for each in evaluated for line in results_of(each)] or ["None are recorded beside the checkpoint."]),
        "\nThe numbers are of the run's own precision; these files are in fp32.",
    ]
    return "\n".join(lines) + "\n"

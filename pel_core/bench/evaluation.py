"""Evaluation with five crops against the baseline, and what reduced precision changes: logits and decisions."""

import copy
import statistics
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pel_core.bench.machine import Bench
from pel_core.bench.measure import Work, alternate, gflop, matrix_peak, ratio
from pel_core.bench.models import make_pair, require_equal
from pel_core.bench.step import emulated
from pel_core.common.seeds import torch_generator
from pel_core.data.batches import EvalBatches
from pel_core.ingest.prepare import prepare
from pel_core.models.class_texts import prepare_text
from pel_core.models.weights import prepare_backbone
from pel_core.spec.run_spec import RunSpec
from pel_core.training.classifier import Classifier, cast_frozen_weights
from pel_core.training.loop import autocast, predict
from pel_core.training.run_inputs import load

CLASSES, CROPS = 100, 5
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}


def run(bench: Bench) -> dict[str, Any]:
    """Speed of a ViT-B/16 with random weights, and differences on the demo's images with weights that were trained."""
    device, quick, say = bench.device, bench.quick, bench.say
    backbone, images, repeats = ("toy", 2, 2) if quick else ("clip-b16", 16, 3)
    if device.type == "cuda" and not quick:
        images, repeats = 64, 5
    elif emulated(device, bench.flags) and not quick:
        images, repeats = 8, 2  # bf16 takes minutes
    rows, others = bench.quietly(lambda: speeds(backbone, images, repeats, device, quick))
    for row in rows:
        part = f"{row['ratio']['median']:.2f}x the baseline in fp32, {row['peak_fraction']:.0%} of the matrix peak"
        say(f"{row['name']}: {row['images_per_second']:.2f} images/s, {part}")
    dataset, model = ("toy-ir20", "toy") if quick else ("demo-cifar-ir100", "clip-mini")
    differences = agreement(dataset, model, device)
    for row in differences:
        say(f"{row['precision']}: logits differ by {row['max_logit_difference']:.3g}, {row['top1_agreement']:.2%} decide alike")
    settings = {"backbone": backbone, "images": images, "crops": CROPS, "repeats": repeats, "method": "adaptformer"}
    settings |= {"agreement_dataset": dataset, "agreement_backbone": model}
    return {"settings": settings, "others": others, "rows": rows, "agreement": differences}


@torch.inference_mode()
def _whole_batch(classifier: Classifier, crops: Tensor, precision: str) -> Tensor:
    """Mean logits (B, C) of crops (B, K, 3, R, R) in one forward pass."""
    with autocast(precision, crops.device):
        return classifier(crops.flatten(0, 1)).unflatten(0, crops.shape[:2]).mean(1)


def speeds(backbone: str, images: int, repeats: int, device: torch.device, quick: bool) -> list[dict[str, Any]]:
    """Baseline, all crops at once, and ours, through `training.loop.predict`, in each precision, turn by turn."""
    spec = RunSpec.make("cifar100-ir100", backbone, "adaptformer", 0, init="random")
    pair = dict(zip(("baseline", "ours"), (model.eval() for model in make_pair(spec, CLASSES, device)), strict=True))
    generator = torch_generator(0, "bench", "crops")
    crops = torch.randn(images, CROPS, 3, spec.pixels, spec.pixels, generator=generator).to(device)
    require_equal(*pair.values(), crops.flatten(0, 1)[:8])
    batches = [(crops, torch.zeros(images))]
    works: dict[str, Work] = {}
    for word in PRECISIONS:
        works[f"baseline, {word}"] = partial(_whole_batch, pair["baseline"], crops, word)
        ours = copy.deepcopy(pair["ours"])
        cast_frozen_weights(ours, PRECISIONS[word])  # as runs do
        works[f"ours, {word}"] = partial(predict, ours, batches, precision=word)
    taken = alternate(works, repeats, device)
    peaks = {word: matrix_peak(device, dtype or torch.float32, quick) for word, dtype in PRECISIONS.items()}
    with torch.no_grad():  # in training mode, for the CPU's fused block of open_clip's attention is not counted
        work = {name: CROPS * gflop(lambda model=model: model.train()(crops[0, :1])) for name, model in pair.items()}
    rows = []
    for name, values in taken.items():
        who, word = name.split(", ")
        speed = images / statistics.median(values)
        row = {"name": name, "precision": word, "model": who, "seconds": values, "images_per_second": speed}
        row |= {
            "ratio": ratio(taken["baseline, fp32"], values),
            "ratio_same_precision": ratio(taken[f"baseline, {word}"], values),
        }
        row |= {"gflop_per_image": work[who], "peak_gflops": peaks[word], "peak_fraction": speed * work[who] / peaks[word]}
        rows.append(row)
    return rows


def agreement(dataset: str, backbone: str, device: torch.device) -> list[dict[str, Any]]:
    """Zero-shot on a rendered test set: reduced precision against fp32 in logits, top-1 decisions and accuracy."""
    base = dataset.partition("-ir")[0]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        prepare_backbone(backbone, root / "backbones" / backbone)
        prepare(base, root / "data" / base)
        prepare_text(
            root / "backbones" / backbone,
            root / "data" / base,
            "default",
            root / "text" / backbone / f"{base}.default.safetensors",
        )
        spec = RunSpec.make(dataset, backbone, "zero-shot", 0, tte="fivecrop")
        data, classifier, _ = load(spec, root, device)
        vit = spec.vit
        batches = EvalBatches(data.test, "fivecrop", spec.expand, spec.pixels, vit.mean, vit.std, device)
        logits = {}
        for word in PRECISIONS:
            logits[word] = predict(classifier.eval(), batches, precision=word)
        labels = torch.as_tensor(data.test.labels[:])
    exact = logits["fp32"]
    return [
        {
            "precision": word,
            "images": len(exact),
            "max_logit_difference": (found - exact).abs().max().item(),
            "top1_agreement": (found.argmax(1) == exact.argmax(1)).float().mean().item(),
            "accuracy": 100 * (found.argmax(1) == labels).float().mean().item(),
        }
        for word, found in logits.items()
    ]

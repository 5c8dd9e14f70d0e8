"""Image pipeline: evaluation crops bit for bit, and test-time ensembling of a configuration."""

import re

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pel_core.conformance.configs import Subject
from pel_core.conformance.golden import Arrays, Golden
from pel_core.conformance.report import Report, Unsupported
from pel_core.data.batches import EvalBatches
from pel_core.data.resample import normalise
from pel_core.data.split import Split
from pel_core.data.transforms import crop_corners, evaluation_crops, evaluation_size, resized
from pel_core.models.backbones import CLIP_MEAN, CLIP_STD, HALF
from pel_core.training.classifier import Classifier
from pel_core.training.loop import predict

MODES = {"fivecrop": "fivecrop", "tencrop": "tencrop", "single": "none", "none": "none", "plain": "plain"}


def check_images(golden: Golden, report: Report, file: str) -> None:
    """``<mode>/<image>`` from ``image/<image>``, and ``eval/*``."""
    arrays = golden.arrays(file)
    stated = (golden.named.get(file) or {}).get("expand") or re.search(r"expand (\d+)", golden.about(file))
    expand = int(stated[1] if isinstance(stated, re.Match) else stated or 24)
    statistics = channels(golden)
    for match in arrays.match(r"image/(.+)"):
        for mode, tte in MODES.items():
            if (key := f"{mode}/{match[1]}") in arrays:
                with report.section(f"{file}: {key}"):
                    check_crops(report, f"{file}: {key}", arrays[match[0]], arrays[key], tte, expand, statistics, golden.device)
    for key, stated in (golden.index.get("tte") or {}).items():
        if geometry := re.fullmatch(r"(\w+crop)_topleft_yx_h(\d+)w(\d+)_res(\d+)", key):
            with report.section(f"index.json: {key}"):
                mode, height, width, resolution = geometry[1], *map(int, geometry.groups()[1:])
                size = resized(height, width, evaluation_size(mode, resolution, expand))
                corners = [[y, x] for y, x, mirrored in crop_corners(mode, *size, resolution) if not mirrored]
                report.close(f"index.json: {key}", corners, np.reshape(stated, (-1, 2))[: len(corners)])
    if "eval/images" in arrays:
        with report.section(f"{file}: eval"):
            check_ensembles(golden, report, file, arrays, expand, statistics)


def channels(golden: Golden) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (3, 1, 1): CLIP's, or timm's where there is no CLIP."""
    mean, std = (CLIP_MEAN, CLIP_STD) if golden.files("clip") else (HALF, HALF)
    return torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None]


def to_input(crops: np.ndarray, statistics: tuple[Tensor, Tensor]) -> Tensor:
    """uint8 (K, R, R, 3) -> normalised float32 (K, 3, R, R)."""
    return normalise(torch.from_numpy(np.ascontiguousarray(crops)).permute(0, 3, 1, 2).float(), *statistics)


def check_crops(
    report: Report,
    where: str,
    image: np.ndarray,
    expected: np.ndarray,
    tte: str,
    expand: int,
    statistics: tuple[Tensor, Tensor],
    device: torch.device,
) -> None:
    """The PIL path exactly, as whole pixel values; the device path within one of them."""
    resolution = expected.shape[-1]
    expected = expected.reshape(-1, 3, resolution, resolution)
    mean, std = statistics
    pixels = (torch.from_numpy(expected) * std + mean) * 255
    crops = evaluation_crops(Image.fromarray(image), tte, resolution, expand)
    report.close(where, torch.from_numpy(crops).permute(0, 3, 1, 2), pixels.round())
    report.close(f"{where}, normalised", to_input(crops, statistics), expected, atol=1e-6)
    split = Split(np.zeros(1, np.int64), images=image[None])
    batches = EvalBatches(split, tte, expand, resolution, mean.flatten().tolist(), std.flatten().tolist(), device)
    found = next(iter(batches))[0][0].cpu()
    report.close(f"{where}, on the device", found * std + mean, pixels / 255, atol=1 / 255 + 1e-6)


def check_ensembles(
    golden: Golden, report: Report, file: str, arrays: Arrays, expand: int, statistics: tuple[Tensor, Tensor]
) -> None:
    """Logits of every crop, their mean, and which class each way of averaging picks."""
    name = config_of(golden, file)
    classifier = Subject(golden, name, golden.configs[name]).classifier
    labels = arrays["eval/labels"]
    for match in arrays.match(r"eval/(?:avg|crop)_logits/(.+)"):
        if match[1] not in MODES:
            report.fail(f"{file}: {match[0]}", f"test-time ensemble {match[1]} is unsupported")
            arrays.declare_inputs(match[0])
            continue
        logits, mean = ensemble(classifier, arrays["eval/images"], labels, MODES[match[1]], expand, statistics)
        found, expected = (mean if match[0].startswith("eval/avg") else logits), arrays[match[0]]
        report.close(f"{file}: {match[0]}", found.reshape(expected.shape), expected, golden.tolerance("feature_logits"))
        stated = (golden.index.get("tte") or {}).get(f"tte_{match[1]}") or {}
        choices = {
            "argmax_mean_logits": mean,
            "argmax_mean_logprob": logits.log_softmax(-1).mean(1),
            "argmax_mean_prob": logits.softmax(-1).mean(1),
        }
        for key in choices.keys() & stated.keys() if match[0].startswith("eval/avg") else ():
            report.close(f"index.json: {match[1]} {key}", choices[key].argmax(1), stated[key])


def config_of(golden: Golden, file: str) -> str:
    """The configuration that the index says the images go through."""
    said = f"{golden.about(file)} {(golden.named.get(file) or {}).get('config', '')}"
    names = [name for name in golden.configs if re.search(rf"\bcfg_{re.escape(name)}\b", said)] or [
        name for name in golden.configs if re.search(rf"\b{re.escape(name)}\b", said)
    ]
    if not names:
        raise Unsupported("the index does not say which configuration eval/* goes through")
    return max(names, key=len)


def ensemble(
    classifier: Classifier, images: np.ndarray, labels: np.ndarray, tte: str, expand: int, statistics: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Logits (N, K, C) of every crop and (N, C) of the ensemble."""
    resolution = classifier.vit.resolution
    crops = [evaluation_crops(Image.fromarray(image), tte, resolution, expand) for image in images]
    inputs = torch.stack([to_input(each, statistics) for each in crops]).to(next(classifier.parameters()).device)
    with torch.no_grad():
        logits = classifier(inputs.flatten(0, 1)).unflatten(0, inputs.shape[:2])
    return logits.cpu(), predict(classifier, [(inputs, torch.from_numpy(labels))])

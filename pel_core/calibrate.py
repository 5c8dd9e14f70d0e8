"""How fast this machine trains and evaluates a backbone, measured in seconds, without weights: speed does not depend on them."""

import socket
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from pel_core.classifier import build, hold_frozen
from pel_core.cost import calibration_file, forward_gflop, training_gflop
from pel_core.devices import device_name, pick_device
from pel_core.engine import predict
from pel_core.files import read_json, write_json
from pel_core.losses import LOSSES, Prior
from pel_core.seeds import torch_generator
from pel_core.spec import RunSpec
from pel_core.step import PRECISIONS, Step
from pel_core.vit import ViT
from pel_core.world import World

SECONDS = 3.0  # of repeats, after one to warm up
CPU_BATCH = 16  # images at once on a CPU, where more are hardly faster and one step of a large ViT takes seconds
CLASSES = 100


def calibrate(spec: RunSpec, results: Path, threads: int, device: str = "auto") -> str:
    """Time training steps and evaluations of a run's backbone, method and precision on made images, and keep the speeds.

    ``threads`` are those of one job on a CPU.

    Returns:
        What was found, in words. On a CPU half precision is not measured: one step would take minutes.
    """
    target = pick_device(device)
    if target.type == "cpu" and spec.precision != "fp32":
        return f"{spec.backbone}: {spec.precision} is for a GPU and there is none here, so nothing was measured"
    torch.set_num_threads(threads)
    train, evaluate, batch = _speeds(spec, target)
    path = calibration_file(results)
    known = read_json(path) if path.is_file() else {}
    name = device_name(target)
    found = {"train": train, "evaluate": evaluate, "device": name, "batch": batch, "precision": spec.precision}
    known.setdefault(socket.gethostname(), {})[spec.backbone] = found
    write_json(path, known)
    speeds = f"{train:,.0f} GFLOP/s in training ({spec.precision}), {evaluate:,.0f} in evaluation"
    return f"{spec.backbone} on {name}: {speeds}"


def _speeds(spec: RunSpec, device: torch.device) -> tuple[float, float, int]:
    """GFLOP/s of training and of evaluation, and how many images went at once."""
    batch = min(spec.batch_size, CPU_BATCH) if device.type == "cpu" else spec.batch_size
    draw = torch_generator(0, "calibrate")
    images = torch.randn(batch, 3, spec.pixels, spec.pixels, generator=draw).to(device)
    labels = torch.randint(0, CLASSES, (batch,), generator=draw).to(device)
    classifier = build(spec, _network(spec).to(device), CLASSES, _text(spec, draw)).to(device)
    criterion = LOSSES[spec.loss](Prior(torch.ones(CLASSES), spec.tau, spec.scale)).to(device)
    step = Step(classifier, criterion, spec, device, World())
    evaluate = batch * forward_gflop(spec) / _seconds(lambda: predict(classifier, [(images[:, None], labels)]), device)
    hold_frozen(classifier, PRECISIONS[spec.precision])  # as a run that trains does
    train = batch * training_gflop(spec) / _seconds(lambda: step(images, labels, batch), device)
    return train, evaluate, batch


def _network(spec: RunSpec) -> ViT:
    entry = spec.vit
    size = {"layers": entry.layers, "width": entry.width, "patch": entry.patch, "resolution": spec.pixels}
    return ViT(**size, heads=entry.width // (32 if entry.width % 64 else 64), quick_gelu=entry.quick_gelu)


def _text(spec: RunSpec, draw: torch.Generator) -> dict[str, Tensor]:
    if not spec.needs_text:
        return {}
    features = torch.randn(CLASSES, 64, generator=draw)
    return {"text.features": features, "text.projection": torch.randn(spec.vit.width, 64, generator=draw)}


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call: the median of those that fit into ``SECONDS``, one at least, after one that does not count."""

    def once() -> float:
        clock = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - clock

    once()
    times: list[float] = []
    while sum(times) < SECONDS:
        times.append(once())
    return sorted(times)[len(times) // 2]

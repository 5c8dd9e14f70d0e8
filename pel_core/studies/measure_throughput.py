"""How fast this machine trains and evaluates a backbone, measured in seconds, without weights: speed does not depend on them."""

import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from pel_core.common.files import read_json, write_json
from pel_core.common.seeds import torch_generator
from pel_core.hardware.devices import device_name, pick_device
from pel_core.hardware.process_group import ProcessGroup
from pel_core.models.resnet import ResNet
from pel_core.models.vit import ViT
from pel_core.spec.run_spec import RunSpec
from pel_core.studies.config import make_results
from pel_core.studies.cost import forward_gflop, throughput_file, training_gflop
from pel_core.studies.gflop import STEM
from pel_core.training.classifier import build, cast_frozen_weights
from pel_core.training.loop import predict
from pel_core.training.losses import make_loss
from pel_core.training.sharpness import make_sharpness
from pel_core.training.step import PRECISIONS, Step

SECONDS = 3.0  # of repeats, after one to warm up
CPU_BATCH = 16  # images at once on a CPU, where more are hardly faster and one step of a large ViT takes seconds
CLASSES = 100


def measure_throughput(spec: RunSpec, results: Path, threads: int, device: str = "auto") -> str:
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
    path = throughput_file(results)
    known = read_json(path) if path.is_file() else {}
    name = device_name(target)
    record = {"train": train, "evaluate": evaluate, "device": name, "batch": batch, "precision": spec.precision}
    known.setdefault(socket.gethostname(), {})[spec.backbone] = record
    make_results(results)
    write_json(path, known)
    speeds = f"{train:,.0f} GFLOP/s in training ({spec.precision}), {evaluate:,.0f} in evaluation"
    return f"{spec.backbone} on {name}: {speeds}"


def _speeds(spec: RunSpec, device: torch.device) -> tuple[float, float, int]:
    """GFLOP/s of training and of evaluation, and how many images went at once."""
    batch = min(spec.batch_size, CPU_BATCH) if device.type == "cpu" else spec.batch_size
    # Some heads need training images or a text tower, and a head's own time is small.
    kept = tuple(pair for pair in spec.knobs if not pair[0].startswith("head."))
    spec = replace(spec, head="cosine", init="random", train_head=True, knobs=kept)
    generator = torch_generator(0, "measure_throughput")
    images = torch.randn(batch, 3, spec.pixels, spec.pixels, generator=generator).to(device)
    labels = torch.randint(0, CLASSES, (batch,), generator=generator).to(device)
    several = max(spec.train_views, spec.streams)
    seen = torch.stack([images] * several, 1) if several > 1 else images
    known = torch.stack([labels] * spec.streams, 1) if spec.streams > 1 else labels
    classifier = build(spec, _network(spec).to(device), CLASSES, {}).to(device)
    criterion = make_loss(spec, torch.ones(CLASSES)).to(device)
    step = Step(classifier, criterion, spec, device, ProcessGroup(), sharpness=make_sharpness(spec, torch.ones(CLASSES)))
    evaluate = batch * forward_gflop(spec) / _seconds(lambda: predict(classifier, [(images[:, None], labels)]), device)
    cast_frozen_weights(classifier, PRECISIONS[spec.precision])  # as a run that trains does
    train = batch * training_gflop(spec) / _seconds(lambda: step(seen, known, batch), device)
    return train, evaluate, batch


def _network(spec: RunSpec) -> ViT | ResNet:
    entry = spec.vit
    if entry.stages:
        return ResNet(stages=entry.stages, stem=STEM, width=entry.width, heads=32, resolution=spec.pixels)
    size = {"layers": entry.layers, "width": entry.width, "patch": entry.patch, "resolution": spec.pixels}
    return ViT(**size, heads=entry.width // (32 if entry.width % 64 else 64), quick_gelu=entry.quick_gelu)


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

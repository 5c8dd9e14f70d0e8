"""The training loop and prediction. One loop, no host synchronisation between log steps on a GPU.

Shape legend: B images, K crops per image, R pixels, C classes.
"""

import math
import resource
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pel_core.classifier import Classifier
from pel_core.errors import PelError
from pel_core.losses import LOSSES, Prior
from pel_core.progress import Progress
from pel_core.spec import RunSpec

AT_ONCE = 640  # images in one forward pass of an evaluation: 64 of ten crops
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Training:
    """What a training run reports: one record per epoch, seconds, images per second, peak memory in MB."""

    curve: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    images_per_second: float = 0.0
    peak_memory_mb: float = 0.0


def learning_rate(spec: RunSpec, epoch: int) -> float:
    """Cosine annealing stepped once per epoch: .5 lr (1 + cos(pi e / E)); constant within an epoch."""
    return 0.5 * spec.lr * (1 + math.cos(math.pi * epoch / spec.epochs))


def make_optimizer(classifier: Classifier, spec: RunSpec) -> torch.optim.SGD:
    """SGD with momentum and weight decay on everything that trains, biases and norms too, as the reference does."""
    parameters = list(classifier.trainable().values())
    # The fused step leaves it to the GPU to skip a step whose fp16 gradients overflowed; else the host waits every step.
    fused = parameters[0].is_cuda
    return torch.optim.SGD(parameters, lr=spec.lr, momentum=spec.momentum, weight_decay=spec.weight_decay, fused=fused)


def train(classifier: Classifier, batches: Any, spec: RunSpec, counts: Tensor, progress: Progress | None = None) -> Training:
    """Train ``classifier`` in place.

    Args:
        batches: yields (images (B, 3, R, R), labels (B,), indices) from ``epoch(e)``; its ``len`` is steps per epoch.
        counts: training images per class (C,).

    Raises:
        PelError: the loss is not finite; names epoch, step and learning rate.
    """
    device = next(classifier.parameters()).device
    criterion = LOSSES[spec.loss](Prior(counts, spec.tau, spec.scale)).to(device)
    optimizer = make_optimizer(classifier, spec)
    scaler = torch.amp.GradScaler(device.type, enabled=spec.precision == "fp16")
    progress = progress or Progress(spec.slug, spec.epochs * len(batches), quiet=True)
    log, started, seen = Training(), time.perf_counter(), 0
    reset_peak_memory(device)
    for epoch in range(spec.epochs):
        rate = optimizer.param_groups[0]["lr"] = learning_rate(spec, epoch)
        total = torch.zeros(2, dtype=torch.float64, device=device)  # summed loss, correct images
        images_seen = 0
        for step, (images, labels, _) in enumerate(batches.epoch(epoch)):
            total += optimize(classifier, criterion, optimizer, scaler, images, labels, spec)
            images_seen += len(labels)
            # Reading the loss waits for the GPU, so it is done at log steps only; on a CPU it costs nothing.
            if device.type == "cpu" or step % progress.every == 0:
                loss = _finite(total[0].item() / images_seen, spec, epoch, step, rate)
                progress.step(epoch * len(batches) + step + 1, rate, loss)
        loss, accuracy = (total / images_seen).tolist()
        seen += images_seen
        log.curve.append({"epoch": epoch, "lr": rate, "loss": _finite(loss, spec, epoch, step, rate), "accuracy": 100 * accuracy})
        progress.epoch(log.curve[-1])
    log.seconds = time.perf_counter() - started
    log.images_per_second = seen / max(log.seconds, 1e-9)
    log.peak_memory_mb = peak_memory_mb(device)
    return log


def optimize(
    classifier: Classifier,
    criterion: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    images: Tensor,
    labels: Tensor,
    spec: RunSpec,
) -> Tensor:
    """One optimiser step on a batch, in micro-batches where ``spec.accumulate`` > 1.

    Micro-batches weigh by their images, so that a left-over group at the end of an epoch counts fully. The reference always
    divides by the number of micro-batches of a whole batch: ``accumulation="reference"`` does that too.

    Returns:
        (2,) float64 on the device: loss summed over images, correct images.
    """
    size = math.ceil(spec.batch_size / spec.accumulate)
    dtype = PRECISIONS[spec.precision]
    total = torch.zeros(2, dtype=torch.float64, device=images.device)
    for chunk, target in zip(images.split(size), labels.split(size), strict=True):
        share = 1 / math.ceil(spec.batch_size / size) if spec.accumulation == "reference" else len(target) / len(labels)
        with torch.autocast(images.device.type, dtype, enabled=dtype is not None):
            logits = classifier(chunk)
            loss = criterion(logits, target)
        scaler.scale(loss * share).backward()
        total += torch.stack([loss.detach().double() * len(target), (logits.detach().argmax(1) == target).sum().double()])
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return total


def _finite(loss: float, spec: RunSpec, epoch: int, step: int, rate: float) -> float:
    if not math.isfinite(loss):
        raise PelError(
            f"{spec.slug}: the loss became {loss} by step {step} of epoch {epoch} at learning rate {rate:g}; "
            "nothing was written. Try a lower lr, or precision=bf16 or fp32"
        )
    return loss


@torch.inference_mode()
def predict(
    classifier: Classifier, batches: Iterable[tuple[Tensor, Tensor]], on_batch: Callable[[int], None] = lambda n: None
) -> Tensor:
    """Test-time ensembling: the mean logit over an image's crops, in fp32 as in the reference.

    The mean logit and the mean log-probability (the report's equation 1) differ by a constant per image, the mean
    log-partition, so they rank the classes alike and have the same softmax.

    Args:
        batches: yields (crops (B, K, 3, R, R), labels (B,)).

    Returns:
        Logits (images, C) on the CPU, in the order of ``batches``.
    """
    logits = []
    for crops, _ in batches:
        # Many random crops of an image go through in parts, so that memory does not grow with their number.
        parts = [classifier(part).float() for part in crops.flatten(0, 1).split(AT_ONCE)]
        logits.append(torch.cat(parts).unflatten(0, crops.shape[:2]).mean(1).cpu())
        on_batch(len(crops))
    return torch.cat(logits)


def reset_peak_memory(device: torch.device) -> None:
    """Start measuring the peak anew (a CPU process's peak cannot be reset)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory in MB: allocated on a GPU, resident of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)  # bytes on macOS, kB on Linux

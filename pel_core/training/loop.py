"""The training loop and prediction. One loop, no host synchronisation between log steps on a GPU.

Shape legend: B images, K crops per image, R pixels, C classes.
"""

import math
import resource
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pel_core.common.errors import PelError
from pel_core.common.progress import Progress
from pel_core.data.loading import DataError
from pel_core.hardware.process_group import ProcessGroup
from pel_core.spec.choices import SCHEDULES
from pel_core.spec.run_spec import RunSpec
from pel_core.training.checkpoints import CheckpointManager
from pel_core.training.classifier import Classifier
from pel_core.training.losses import make_loss
from pel_core.training.step import PRECISIONS, OutOfMemory, Step

AT_ONCE = 640  # crops in one forward pass of an evaluation on a GPU: ten of 64 images
TOKENS_AT_ONCE = 1600  # on a CPU: a pass that its caches hold is up to half as fast again as a larger one
# What a reduced precision may change in an evaluation: a logit, as a part of the largest one; the images that change class.
EVALUATION_TOLERANCE = {"bf16": (0.01, 0.02), "fp16": (0.002, 0.01)}


@dataclass
class Training:
    """What a training run reports: one record per epoch, seconds, images per second, peak memory in MB, and the images that
    went through at once. Seconds and peak are those of all its parts, where it was interrupted."""

    curve: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    images_per_second: float = 0.0
    peak_memory_mb: float = 0.0
    micro_batch: int = 0


class State:
    """A training between two steps: all that a checkpoint holds, and how it is read and brought back.

    ``epoch`` and ``step`` (of the epoch) are those to come; ``total`` (2,) is the epoch's summed loss and correct images,
    ``losses`` (steps,) the summed loss of each of its steps, both float64 on the device. While a step is under way the state
    is not ``whole``.
    """

    def __init__(self, step: Step, spec: RunSpec, steps: int, device: torch.device):
        self.take, self.spec, self.steps, self.device = step, spec, steps, device
        self.total = torch.zeros(2, dtype=torch.float64, device=device)
        self.losses = torch.zeros(steps, dtype=torch.float64, device=device)
        self.epoch = self.step = self.images = self.seen = 0
        self.curve: list[dict[str, float]] = []
        self.whole, self.seconds, self.peak_memory_mb = True, 0.0, 0.0
        self._clock = time.perf_counter()

    @property
    def done(self) -> int:
        """Steps of the run that are finished."""
        return self.epoch * self.steps + self.step

    def add(self, images: Tensor, labels: Tensor, count: int) -> None:
        """Take a step on a batch, or on this process's part of one of ``count`` images."""
        self.whole = False
        sums = self.take(images, labels, count)
        self.total += sums
        self.losses[self.step] = sums[0]
        self.step += 1
        self.images += count
        self.whole = True

    def end_epoch(self, rate: float) -> None:
        """Put the epoch's means into the curve and begin the next one."""
        loss, accuracy = (self.total / self.images).tolist()
        self.curve.append({"epoch": self.epoch, "lr": rate, "loss": loss, "accuracy": 100 * accuracy})
        self.seen += self.images
        self.epoch, self.step, self.images = self.epoch + 1, 0, 0
        self.total.zero_()
        self.losses.zero_()

    def spend(self) -> None:
        """Bring ``seconds`` and ``peak_memory_mb`` up to now."""
        now = time.perf_counter()
        self.seconds, self._clock = self.seconds + now - self._clock, now
        self.peak_memory_mb = max(self.peak_memory_mb, peak_memory_mb(self.device))

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of a checkpoint, on the CPU."""
        return self.take.tensors() | {"total": self.total.cpu()}

    def numbers(self) -> dict[str, Any]:
        """The rest of a checkpoint, as JSON."""
        self.spend()
        names = ("epoch", "step", "images", "seen", "curve", "seconds", "peak_memory_mb")
        kept = {name: getattr(self, name) for name in names}
        kept |= {"done": self.done, "steps": self.spec.epochs * self.steps}
        kept |= {"micro_batch": self.take.micro_batch, "device": self.device.type}
        return kept | {"scaler": self.take.scaler.state_dict()}

    def load(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Go on from ``tensors()`` and ``numbers()``."""
        kept = {name: numbers[name] for name in ("epoch", "step", "images", "seen", "curve", "seconds", "peak_memory_mb")}
        alike = numbers.get("device") == self.device.type  # a CPU's micro-batch would waste a GPU
        self.take.load(tensors, numbers["scaler"], numbers["micro_batch"] if alike else self.take.micro_batch)
        self.__dict__.update(kept)
        self.total.copy_(tensors["total"])
        self._clock = time.perf_counter()


def learning_rate(spec: RunSpec, epoch: int) -> float:
    """The rate of an epoch (`schedules`)."""
    return SCHEDULES[spec.schedule](spec.lr, epoch, spec.epochs)


def train(
    classifier: Classifier,
    batches: Any,
    spec: RunSpec,
    counts: Tensor,
    progress: Progress | None = None,
    manager: CheckpointManager | None = None,
    group: ProcessGroup | None = None,
) -> Training:
    """Train ``classifier`` in place.

    Args:
        batches: yields (images (B, 3, R, R), labels (B,), indices) from ``epoch(e, first)``, from its step ``first`` on; its
            ``len`` is steps per epoch.
        counts: training images per class (C,).
        manager: saves checkpoints, brings one back, and stops when asked to. group: the processes that train together.

    Raises:
        PelError: the loss is not finite (names epoch, step, learning rate and images), images cannot be read, or one image
            does not fit into the device's memory.
        Stopped: a signal asked for it.
    """
    device = next(classifier.parameters()).device
    manager, group = manager or CheckpointManager(), group or ProcessGroup()
    criterion = make_loss(spec, counts).to(device)
    step = Step(classifier, criterion, spec, device, group)
    progress = progress or Progress(spec.slug, spec.epochs * len(batches), quiet=True)
    step.say = progress.say
    reset_peak_memory(device)
    state = State(step, spec, len(batches), device)
    manager.restore(state, progress)
    group.same_start(classifier.trainable().values(), state.done)
    manager.agree = group.largest
    try:
        while state.epoch < spec.epochs:
            step.rate = rate = learning_rate(spec, state.epoch)
            for images, labels, indices in batches.epoch(state.epoch, state.step):
                state.add(images, labels, len(indices))
                # Reading the loss waits for the GPU, so it is done at log steps only; on a CPU it costs nothing.
                if device.type == "cpu" or (state.step - 1) % progress.every == 0:
                    loss = _finite(state, batches, manager)
                    progress.step(state.done, rate, loss, epoch=state.epoch, epochs=spec.epochs)
                manager.step(state, progress)
            _finite(state, batches, manager)
            state.end_epoch(rate)
            progress.epoch(state.curve[-1])
            if state.epoch == spec.epochs:
                _whole(classifier, spec, manager)
            manager.epoch(state, progress, last=state.epoch == spec.epochs)
    except DataError as error:
        if manager.requests.number:  # a scheduler signals a run's data workers too
            manager.stop(state, progress)
        raise PelError(f"{error}; {_kept(manager, manager.save(state, progress))}") from None
    state.spend()
    rest = state.seconds, state.seen / max(state.seconds, 1e-9), state.peak_memory_mb, step.micro_batch
    return Training(state.curve, *rest)


def _finite(state: State, batches: Any, manager: CheckpointManager) -> float:
    """The epoch's mean loss so far.

    Raises:
        PelError: it is not finite; names the first step whose loss was not.
    """
    loss = state.total[0].item() / state.images
    if math.isfinite(loss):
        return loss
    bad = (~state.losses.isfinite()).nonzero()
    step = int(bad[0]) if len(bad) else state.step - 1
    names = batches.names(state.epoch, step) if hasattr(batches, "names") else "unnamed images"
    raise PelError(
        f"{state.spec.slug}: the loss became {float(state.losses[step]):g} at step {step} of epoch {state.epoch} at learning "
        f"rate {state.take.rate:g}, on {names}; no result was written (last good checkpoint: {manager.last}). "
        "Try a lower lr, or precision=bf16 or fp32"
    )


def _whole(classifier: Classifier, spec: RunSpec, manager: CheckpointManager) -> None:
    """The last step's update, which no later loss would show.

    Raises:
        PelError: a trained parameter is not finite.
    """
    if bad := [name for name, value in classifier.trainable().items() if not bool(value.isfinite().all())]:
        raise PelError(
            f"{spec.slug}: {bad[0]} is not finite after the last step ({len(bad)} such parameters); no result was written "
            f"(last good checkpoint: {manager.last}). Try a lower lr, or precision=bf16 or fp32"
        )


def _kept(manager: CheckpointManager, saved: bool) -> str:
    return f"the same command goes on after it is mended ({manager.last})" if saved else f"last checkpoint: {manager.last}"


@torch.inference_mode()
def predict(
    classifier: torch.nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    on_batch: Callable[[int], None] = lambda n: None,
    precision: str = "fp32",
) -> Tensor:
    """Test-time ensembling: the mean logit over an image's crops, in fp32 as in the reference.

    ``precision`` is that of the backbone: the head, the mean and all that follows are in fp32.

    The mean logit and the mean log-probability (the report's equation 1) differ by a constant per image, the mean
    log-partition, so they rank the classes alike and have the same softmax.

    Args:
        classifier: or a ViT, whose features come in the place of logits.
        batches: yields (crops (B, K, 3, R, R), labels (B,)).

    Returns:
        Logits (images, C) on the CPU, in the order of ``batches``.
    """
    known = isinstance(classifier, Classifier)
    body, head = (classifier.vit, classifier.head) if known else (classifier, torch.nn.Identity())
    logits, limit = [], AT_ONCE
    for crops, _ in batches:
        # In parts, so that memory does not grow with the number of crops of an image.
        limit = min(limit, at_once(body, crops.device))
        while (found := _forward(body, head, crops.flatten(0, 1), limit, precision)) is None:
            limit = _half(min(limit, crops.shape[0] * crops.shape[1]))
        logits.append(found.unflatten(0, crops.shape[:2]).mean(1).cpu())
        on_batch(len(crops))
    return torch.cat(logits)


def at_once(vit: torch.nn.Module, device: torch.device) -> int:
    """The crops that go through in one forward pass of an evaluation."""
    return max(1, TOKENS_AT_ONCE // vit.tokens) if device.type == "cpu" else AT_ONCE


def _forward(body: torch.nn.Module, head: torch.nn.Module, crops: Tensor, size: int, precision: str) -> Tensor | None:
    """Logits (N, C) of crops (N, 3, R, R), ``size`` at once; None where the device has too little memory for so many."""
    parts = []
    try:
        for part in crops.split(size):
            with reduced(precision, crops.device):
                features = body(part)
            parts.append(head(features.float()).float())
    except OutOfMemory:
        return None
    return torch.cat(parts)


def _half(size: int) -> int:
    """The images to try at once where ``size`` did not fit.

    Raises:
        PelError: it was one.
    """
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if size == 1:
        raise PelError("the device runs out of memory with one image at a time; use a device with more memory that is free")
    print(f"out of memory with {size} crops at once: going on with {size // 2}", file=sys.stderr, flush=True)
    return size // 2


def reduced(precision: str, device: torch.device) -> AbstractContextManager:
    """Autocast to a reduced precision; frozen weights that are held in it already (`cast_frozen_weights`) need no cast."""
    dtype = PRECISIONS[precision]
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


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

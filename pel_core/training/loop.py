"""The training loop and prediction. One loop, no host synchronisation between log steps on a GPU.

Shape legend: B images, K crops per image, R pixels, C classes.
"""

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pel_core.common.errors import PelError
from pel_core.common.logs import logger
from pel_core.common.progress import Progress
from pel_core.data.loading import DataError
from pel_core.hardware import cpu
from pel_core.hardware.process_group import ProcessGroup
from pel_core.spec.run_spec import RunSpec
from pel_core.training.checkpoints import CheckpointManager
from pel_core.training.classifier import Classifier
from pel_core.training.losses import make_loss
from pel_core.training.mixing import mixed
from pel_core.training.schedules import check_warmup, learning_rate, rate_factor
from pel_core.training.sharpness import make_sharpness
from pel_core.training.state import State, reset_peak_memory
from pel_core.training.state import peak_memory_mb as peak_memory_mb
from pel_core.training.step import PRECISIONS, OutOfMemory, Step
from pel_core.training.views import with_views

CROPS_PER_PASS = 640  # of an evaluation on a GPU: ten crops of 64 images
CHECKED = 8  # images that a trained network is asked, to see that its last step left it finite
# What a reduced precision may change in an evaluation: a logit, as a part of the largest one; the images that change class.
EVALUATION_TOLERANCE = {"bf16": (0.01, 0.02), "fp16": (0.002, 0.01)}


@dataclass
class Training:
    """What a training run reports: one record per epoch, seconds, images per second, peak memory in MB, and the images that
    went through at once. Seconds and peak are those of all its parts, where it was interrupted. ``average_scores``: what means
    scored on the validation split (`Average.check`), by the steps that were done. ``compile_seconds``: those of ``seconds`` in
    which the network was compiled, since the run was last started."""

    curve: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    images_per_second: float = 0.0
    peak_memory_mb: float = 0.0
    micro_batch: int = 0
    average_scores: dict[int, float] = field(default_factory=dict)
    compile_seconds: float = 0.0


class Diverged(PelError):
    """A training whose loss or parameters became not finite; ``failed`` says where: reason, step, epoch, learning_rate."""

    def __init__(self, message: str, failed: dict[str, Any]):
        super().__init__(message)
        self.failed = failed


def train(
    classifier: Classifier,
    batches: Any,
    spec: RunSpec,
    counts: Tensor,
    progress: Progress | None = None,
    manager: CheckpointManager | None = None,
    group: ProcessGroup | None = None,
    validate: Callable[[], float] | None = None,
    compiling: str = "off",
) -> Training:
    """Train ``classifier`` in place.

    Args:
        batches: yields (images (B, 3, R, R), labels (B,), indices) from ``epoch(e, first)``, from its step ``first`` on; its
            ``len`` is steps per epoch.
        counts: training images per class (C,).
        manager: saves checkpoints, brings one back, and stops when asked to. group: the processes that train together.
        validate: what the classifier scores on the validation split, for an average that keeps its best; rank 0 is asked.
        compiling: auto or off, see `compiling`.

    Raises:
        PelError: the warm-up is longer than the run, no class is in ImbSAM's tail, the loss is not finite (names epoch, step,
            learning rate and images), images cannot be read, one image does not fit into the device's memory, or ``validate`` is
            needed and not there.
        Stopped: a signal asked for it.
    """
    if not classifier.trainable():  # a run of no epochs, or a head that only remembers: it is what it starts from
        return Training()
    device = next(classifier.parameters()).device
    manager, group = manager or CheckpointManager(), group or ProcessGroup()
    criterion = make_loss(spec, counts).to(device)
    steps = len(batches)
    check_warmup(spec, steps)
    progress = progress or Progress(spec.slug, spec.epochs * steps, quiet=True)
    step = Step(classifier, criterion, spec, device, group, progress.say, make_sharpness(spec, counts), compiling)
    reset_peak_memory(device)
    state = State(step, spec, steps, device)
    manager.restore(state, progress)
    group.same_start(classifier.stored().values(), state.done)
    manager.agree = group.largest
    score = _score_of(state, validate, group, device)
    stream, images = mixed(with_views(batches, spec), spec, counts, group), None
    try:
        while state.epoch < spec.epochs:
            step.set_epoch(state.epoch)
            for images, labels, indices in stream.epoch(state.epoch, state.step):
                step.set_rates(rate_factor(spec, state.epoch, state.step, steps))
                state.add(images, labels, len(indices))
                if state.average:
                    state.average.check(state.done, score)
                # Reading the loss waits for the GPU, so it is done at log steps only; on a CPU it costs nothing.
                if device.type == "cpu" or (state.step - 1) % progress.every == 0:
                    loss, rates = _finite(state, batches, manager), state.rates
                    progress.step(state.done, rates.pop("lr"), loss, epoch=state.epoch, epochs=spec.epochs, **rates)
                manager.step(state, progress)
            _finite(state, batches, manager)
            state.end_epoch()
            progress.epoch(state.curve[-1])
            if state.epoch == spec.epochs:
                _whole(classifier, spec, manager, steps, images, group)
            manager.epoch(state, progress, last=state.epoch == spec.epochs)
    except DataError as error:
        if manager.requests.number:  # a scheduler signals a run's data workers too
            manager.stop(state, progress)
        raise PelError(f"{error}; {_kept(manager, manager.save(state, progress))}") from None
    if state.average:
        state.average.write()
        _whole(classifier, spec, manager, steps, images, group)
    state.spend()
    rest = state.seconds, state.seen / max(state.seconds, 1e-9), state.peak_memory_mb, step.micro_batch
    return Training(state.curve, *rest, state.average.scores if state.average else {}, step.network.seconds)


def _score_of(
    state: State, validate: Callable[[], float] | None, group: ProcessGroup, device: torch.device
) -> Callable[[], float]:
    """What rank 0 finds on the validation split, told to all ranks."""
    if state.average and state.average.moments and validate is None:
        raise PelError(f"{state.spec.slug}: average.keep=val needs validation images, and none are given")

    def score() -> float:
        found = validate() if validate and not group.rank else 0.0
        return float(group.sum(torch.tensor(found, dtype=torch.float64, device=device)))

    return score


def _finite(state: State, batches: Any, manager: CheckpointManager) -> float:
    """The epoch's mean loss so far.

    Raises:
        Diverged: it is not finite; names the first step whose loss was not.
    """
    loss = state.total[0].item() / state.images
    if math.isfinite(loss):
        return loss
    bad = (~state.losses.isfinite()).nonzero()
    step = int(bad[0]) if len(bad) else state.step - 1
    names = batches.names(state.epoch, step) if hasattr(batches, "names") else "unnamed images"
    rate = learning_rate(state.spec, state.epoch, step, state.steps)
    became = f"the loss became {float(state.losses[step]):g}"
    raise Diverged(
        f"{state.spec.slug}: {became} at step {step} of epoch {state.epoch} at learning "
        f"rate {rate:g}; no result was written (last good checkpoint: {manager.last}). {_advice(state.spec)}. "
        f"In the batch were {names}; they need not be the cause",
        {"reason": became, "step": step, "epoch": state.epoch, "learning_rate": rate},
    )


def _advice(spec: RunSpec) -> str:
    """What helps a training that diverged: what it has not tried yet."""
    finer = {"fp16": "precision=bf16 or fp32", "bf16": "precision=fp32"}.get(spec.precision, "")
    slower = "a warm-up (schedule.warmup=1)" if spec.knobs_of("schedule").get("warmup") == 0 else ""
    return "Try " + " or ".join(filter(None, ["a lower lr", slower, finer]))


def _whole(
    classifier: Classifier, spec: RunSpec, manager: CheckpointManager, steps: int, images: Tensor | None, group: ProcessGroup
) -> None:
    """The last step's update, which no later loss would show. ``images`` (B, 3, R, R), or views (B, V, 3, R, R): of the last
    batch, if there was one.

    Raises:
        Diverged: a trained parameter is not finite, or what the network says of these images.
    """
    bad = [name for name, value in classifier.trainable().items() if not bool(value.isfinite().all())]
    number = f"{bad[0]} is not finite after the last step ({len(bad)} such parameters)" if bad else ""
    if not bad and images is not None:
        some = images[:CHECKED] if images.ndim == 5 else images[:CHECKED, None]
        logits = predict(classifier, [(some, images)], precision=spec.precision)
        bad = ["a logit"] if group.largest(int(not logits.isfinite().all())) else []  # each rank has images of its own
        number = "a logit of the last batch is not finite after the last step"
    if bad:
        rate, step = learning_rate(spec, spec.epochs - 1, steps - 1, steps), steps - 1
        raise Diverged(
            f"{spec.slug}: {number}; no result was written (last good checkpoint: {manager.last}). {_advice(spec)}",
            {"reason": f"{bad[0]} was not finite", "step": step, "epoch": spec.epochs - 1, "learning_rate": rate},
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
    logits, limit = [], CROPS_PER_PASS
    for crops, _ in batches:
        # In parts, so that memory does not grow with the number of crops of an image.
        limit = min(limit, crops_per_pass(body, crops.device))
        while (found := _forward(body, head, crops.flatten(0, 1), limit, precision)) is None:
            limit = _half(min(limit, crops.shape[0] * crops.shape[1]))
        logits.append(found.unflatten(0, crops.shape[:2]).mean(1).cpu())
        on_batch(len(crops))
    return torch.cat(logits)


def crops_per_pass(vit: torch.nn.Module, device: torch.device) -> int:
    """The crops that go through in one forward pass of an evaluation."""
    return cpu.crops_per_pass(vit.tokens) if device.type == "cpu" else CROPS_PER_PASS


def _forward(body: torch.nn.Module, head: torch.nn.Module, crops: Tensor, size: int, precision: str) -> Tensor | None:
    """Logits (N, C) of crops (N, 3, R, R), ``size`` at once; None where the device has too little memory for so many."""
    parts = []
    try:
        for part in crops.split(size):
            with autocast(precision, crops.device):
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
    logger.warning("out of memory with %d crops at once: going on with %d", size, size // 2)
    return size // 2


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """Autocast to a reduced precision; frozen weights that are held in it already (`cast_frozen_weights`) need no cast."""
    dtype = PRECISIONS[precision]
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)

"""One optimizer step: micro-batches, precision, and what is done where the device has too little memory.

Shape legend: B images, V views of an image, S streams, R pixels, C classes, D features.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pel_core.common.errors import PelError
from pel_core.common.logs import logger
from pel_core.common.seeds import generator, torch_generator
from pel_core.hardware import cpu
from pel_core.hardware.process_group import ProcessGroup
from pel_core.spec.run_spec import RunSpec
from pel_core.training.classifier import Classifier
from pel_core.training.compiling import Network
from pel_core.training.losses import decomposable
from pel_core.training.momentum import momentum_keys
from pel_core.training.objective import Objective
from pel_core.training.optimizer_state import load_optimizer, optimizer_numbers, optimizer_tensors
from pel_core.training.optimizers import make_optimizer
from pel_core.training.paco import Queue
from pel_core.training.sharpness import Plain

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
OutOfMemory: type[RuntimeError] = getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError)  # the former from torch 2.5 on


class Step:
    """Optimizer steps on batches, in micro-batches where ``spec.accumulate`` > 1, memory is short, or a CPU's caches are.

    Groups of ``batch_size / accumulate`` images weigh by their images, so that a left-over group at the end of an epoch counts
    fully. The reference always divides by the number of groups of a whole batch: ``accumulation="reference"`` does that too.

    Where the device runs out of memory a group is taken in smaller micro-batches, which leaves its numbers as they are (up to
    rounding); ``micro_batch`` is the images that go through at once. Shapes: see ``__call__``.

    What is minimised: `Objective`. What a loss learns itself is trained, and kept in checkpoints, with the rest (``trained``).
    ``place``: the epoch and its step that come, by which a loss draws numbers.
    A loss that asks for keys gets them, of the images' last view, from a slow copy (`momentum`), which follows once a step; one
    that has a ``queue`` fills it at the end of a step. Both are in checkpoints (``kept``).

    ``say`` is told of what a person should know: that memory was short. ``sharpness`` is an entry of SHARPNESS, plain by default.
    ``compiling``: auto or off, see `compiling`.
    """

    def __init__(
        self,
        classifier: Classifier,
        criterion: torch.nn.Module,
        spec: RunSpec,
        device: torch.device,
        group: ProcessGroup,
        say: Callable[[str], None] = logger.info,
        sharpness: Any = None,
        compiling: str = "off",
    ):
        self.classifier, self.criterion, self.spec, self.group, self.say = classifier, criterion, spec, group, say
        self.objective, self.place = Objective(classifier, criterion, spec), (0, 0)
        if self.objective.features:
            criterion.attach(classifier.head.weight.shape[1], torch_generator(spec.seed, "loss"))
        self.own = {f"loss.{name}": value for name, value in criterion.named_parameters()}
        self.trained = classifier.trainable() | self.own
        self.keys = momentum_keys(classifier, criterion, self.trained)
        self.queue = queue if isinstance(queue := getattr(criterion, "queue", None), Queue) else None
        self.sharpness, self.parameters = sharpness or Plain(None), list(self.trained.values())
        self.clip_norm = spec.knobs_of("optimizer").get("clip_norm", "none")
        self.optimizer = make_optimizer(classifier, spec, criterion=criterion)
        self.scaler = torch.amp.GradScaler(device.type, enabled=spec.precision == "fp16")
        self._average: Tensor | None = None
        self.micro_batch = math.ceil(spec.batch_size / spec.accumulate)
        if device.type == "cpu" and decomposable(spec.loss):
            self.micro_batch = min(self.micro_batch, cpu.images_per_micro_batch(classifier.vit.tokens))
        part = group.part(spec.batch_size)
        self.network, self._part = Network(classifier, compiling, device, say, self.objective.more), part.stop - part.start

    def set_rates(self, factor: float) -> None:
        """Set every parameter group's learning rate to its initial one times ``factor``."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor

    def set_epoch(self, epoch: int) -> None:
        """Tell the loss which epoch begins, from 0: also after a checkpoint."""
        self.objective.set_epoch(epoch)

    def __call__(self, images: Tensor, labels: Tensor, count: int) -> Tensor:
        """Take one step on images (B, 3, R, R), or views of them (B, V, 3, R, R) for a loss that takes features, and labels (B,)
        or soft targets (B, C), this process's part of a batch of ``count`` images. Of two streams: (B, S, 3, R, R) and (B, S).

        Returns:
            (2,) float64 on the device: loss summed over images, correct images (of soft targets their share of the prediction, of
            two streams those of the first).

        Raises:
            PelError: not even one image fits into memory.
        """
        self._weigh(labels, count)
        if self.keys:
            self.keys.follow()
        total = self.sharpness.gradients(self, images, labels, count)
        if self.clip_norm != "none":
            self.scaler.unscale_(self.optimizer)  # what overflowed is found here, and the step skipped
            torch.nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.queue:
            self.queue.enter()
        return self.group.sum(total)

    def accumulate(self, images: Tensor, labels: Tensor, count: int) -> Tensor:
        """Leave the gradients of these images' part of the batch's loss, of all processes, in the parameters; they have none yet.

        Returns:
            (2,) sums of this process as ``__call__`` has them of all.
        """
        while (total := self._fits(images, labels, count)) is None:
            # Out of the handler: nothing holds the failed attempt's activations any more.
            self._halve(len(labels))
        if self.queue:
            self.queue.close()
        self.group.sum_gradients(self.parameters)
        return total

    def _weigh(self, labels: Tensor, count: int) -> None:
        """See how much an average image of the batch of ``count`` counts, of which this process has those of ``labels``."""
        mass = self.criterion.image_mass(labels) if hasattr(self.criterion, "image_mass") else count
        self._average = self.group.sum(mass) / count if isinstance(mass, Tensor) else None

    def _weight(self, labels: Tensor) -> Tensor | int:
        """As how many average images of the batch those of these labels count: their number, but for `losses.ByClass`."""
        return len(labels) if self._average is None else self.criterion.image_mass(labels) / self._average

    def _fits(self, images: Tensor, labels: Tensor, count: int) -> Tensor | None:
        size = math.ceil(self.spec.batch_size / self.spec.accumulate)
        total = torch.zeros(2, dtype=torch.float64, device=images.device)
        self.objective.begin(partial(generator, self.spec.seed, "loss", *self.place), self.group.part(count).start)
        groups = math.ceil(self.spec.batch_size / size)
        if not len(labels):
            return total  # fewer images than processes
        if self.queue:
            self.queue.drop()
        try:
            for chunk, target in zip(images.split(size), labels.split(size), strict=True):
                share = 1 / groups if self.spec.accumulation == "reference" else self._weight(target) / count
                total += self._backward(chunk, target, share)
        except OutOfMemory:
            return None
        return total

    @property
    def _whole(self) -> int:
        """The images of a whole micro-batch of this process."""
        return min(self.micro_batch, self._part)

    def _backward(self, images: Tensor, labels: Tensor, share: float | Tensor) -> Tensor:
        """Add a group's gradients, weighted by ``share``; returns its sums as ``__call__`` does."""
        with self.network.counted(len(images), self._whole):
            return self._gradients(images, labels, share)

    def _gradients(self, images: Tensor, labels: Tensor, share: float | Tensor) -> Tensor:
        images, keys = self._keyed(images)
        if self.micro_batch >= len(labels) or decomposable(self.spec.loss):
            parts = zip(images.split(self.micro_batch), labels.split(self.micro_batch), strict=True)
            whole = self._weight(labels)
            sums = [self._direct(chunk, target, share * (self._weight(target) / whole), keys) for chunk, target in parts]
            return torch.stack(sums).sum(0) if len(sums) > 1 else sums[0]
        # The loss's gradient at the outputs of the whole group first, then each part again, with its share of that gradient.
        with torch.no_grad():
            parts = [self._outputs(chunk) for chunk in images.split(self.micro_batch)]
        outputs = [torch.cat(pieces).requires_grad_(True) for pieces in zip(*parts, strict=True)]
        with self._autocast(images):
            loss = self.objective(outputs, labels, keys)
        self.scaler.scale(loss * share).backward()
        grads = zip(*(output.grad.split(self.micro_batch) for output in outputs), strict=True)
        for chunk, part in zip(images.split(self.micro_batch), grads, strict=True):
            torch.autograd.backward(self._outputs(chunk), part)
        return _sums(loss, self.objective.logits(outputs), labels, self._weight(labels))

    def _keyed(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The images that go forward and back, and the keys of their last view, if the loss asks for some."""
        if not self.keys:
            return images, ()
        with self._autocast(images):
            return images[:, :-1], (self.keys(images[:, -1], self.micro_batch),)

    def _direct(self, images: Tensor, labels: Tensor, share: float | Tensor, keys: Sequence[Tensor]) -> Tensor:
        with self._autocast(images):
            outputs = self._outputs(images)
            loss = self.objective(outputs, labels, keys)
        self.scaler.scale(loss * share).backward()
        return _sums(loss, self.objective.logits(outputs), labels, self._weight(labels))

    def _outputs(self, images: Tensor) -> tuple[Tensor, ...]:
        with self._autocast(images):
            return self.objective.outputs(self.network, images, self._whole)

    def _autocast(self, images: Tensor) -> torch.autocast:
        dtype = PRECISIONS[self.spec.precision]
        return torch.autocast(images.device.type, dtype, enabled=dtype is not None)

    def _halve(self, images: int) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        tried = min(self.micro_batch, images)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if tried == 1:
            raise PelError(
                f"{self.spec.slug}: the device runs out of memory with one image at a time; use a device with more memory "
                "that is free, or a smaller backbone or resolution"
            )
        self.micro_batch = tried // 2
        self.say(f"out of memory with {tried} images at once: going on with {self.micro_batch}; the batch stays as it is")

    @property
    def kept(self) -> dict[str, Tensor]:
        """What goes from step to step beside what trains: ``key.NAME`` of the momentum encoder, ``queue.NAME``."""
        keys = {f"key.{name}": value for name, value in self.keys.copies.items()} if self.keys else {}
        return keys | ({f"queue.{name}": value for name, value in self.queue.named_buffers()} if self.queue else {})

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps of parameters, those of the loss itself, and optimizer, on the CPU: ``parameter.NAME``,
        ``loss.NAME``, ``optimizer.KEY.NAME``, and `kept`."""
        tensors = {f"parameter.{name}": value for name, value in self.classifier.trainable_state().items()}
        tensors |= {name: value.detach().cpu().clone() for name, value in (self.own | self.kept).items()}
        return tensors | optimizer_tensors(self.optimizer, self.trained)

    def numbers(self) -> dict[str, Any]:
        """The other part of a checkpoint, as JSON."""
        groups, states = optimizer_numbers(self.optimizer, self.trained)
        return {"scaler": self.scaler.state_dict(), "groups": groups, "optimizer": states}

    def load(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any], micro_batch: int) -> None:
        """Go on from ``tensors()``, ``numbers()`` and at most the micro-batch that fitted a device like this one.

        Raises:
            PelError: they are of another method, head or class count.
        """
        prefix = "parameter."
        self.classifier.load_trainable({key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)})
        with torch.no_grad():
            for name, value in (self.own | self.kept).items():
                value.copy_(tensors[name])
        load_optimizer(self.optimizer, self.trained, tensors, numbers)
        self.scaler.load_state_dict(numbers["scaler"])
        self.micro_batch = min(self.micro_batch, micro_batch)


def _sums(loss: Tensor, logits: Tensor, labels: Tensor, weight: Tensor | int) -> Tensor:
    if logits.ndim == 3:  # two streams, or views that share a label
        logits, labels = logits[:, 0], labels if labels.ndim == 1 else labels[:, 0]
    predicted = logits.detach().argmax(1)
    correct = (predicted == labels if labels.ndim == 1 else labels.gather(1, predicted[:, None])).sum()
    return torch.stack([loss.detach().double() * weight, correct.double()])

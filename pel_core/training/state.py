"""A training between two steps: what a checkpoint holds of it, and the memory it took."""

import resource
import sys
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pel_core.spec.run_spec import RunSpec
from pel_core.training.averages import make_average
from pel_core.training.schedules import rate_factor
from pel_core.training.step import Step


class State:
    """The state of a training between two steps: what a checkpoint stores, with saving and loading.

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
        self.average = make_average(spec, step.classifier.trainable(), steps)
        self._clock = time.perf_counter()

    @property
    def done(self) -> int:
        """Steps of the run that are finished."""
        return self.epoch * self.steps + self.step

    @property
    def rates(self) -> dict[str, float]:
        """``lr``, the learning rate of the epoch's last finished step; ``head_lr`` where the head has another one."""
        factor = rate_factor(self.spec, self.epoch, max(0, self.step - 1), self.steps)
        head = self.spec.knobs_of("optimizer").get("head_lr", "same")
        return {"lr": self.spec.lr * factor} | ({} if head == "same" else {"head_lr": head * factor})

    def add(self, images: Tensor, labels: Tensor, count: int) -> None:
        """Take a step on a batch, or on this process's part of one of ``count`` images."""
        self.whole, self.take.place = False, (self.epoch, self.step)
        sums = self.take(images, labels, count)
        self.total += sums
        self.losses[self.step] = sums[0]
        self.step += 1
        self.images += count
        if self.average:
            self.average.step(self.done)
        self.whole = True

    def end_epoch(self) -> None:
        """Put the epoch's means and its last rates into the curve and begin the next one."""
        loss, accuracy = (self.total / self.images).tolist()
        self.curve.append({"epoch": self.epoch, **self.rates, "loss": loss, "accuracy": 100 * accuracy})
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
        average = self.average.tensors() if self.average else {}
        return self.take.tensors() | {"total": self.total.cpu()} | average

    def numbers(self) -> dict[str, Any]:
        """The rest of a checkpoint, as JSON."""
        self.spend()
        names = ("epoch", "step", "images", "seen", "curve", "seconds", "peak_memory_mb")
        entries = {name: getattr(self, name) for name in names}
        entries |= {"done": self.done, "steps": self.spec.epochs * self.steps}
        entries |= self.average.numbers() if self.average else {}
        return entries | {"micro_batch": self.take.micro_batch, "device": self.device.type} | self.take.numbers()

    def load(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Restore the state from ``tensors()`` and ``numbers()`` of a checkpoint."""
        entries = {name: numbers[name] for name in ("epoch", "step", "images", "seen", "curve", "seconds", "peak_memory_mb")}
        alike = numbers.get("device") == self.device.type  # a CPU's micro-batch would waste a GPU
        self.take.load(tensors, numbers, numbers["micro_batch"] if alike else self.take.micro_batch)
        if self.average:
            self.average.load(tensors, numbers)
        self.__dict__.update(entries)
        self.total.copy_(tensors["total"])
        self._clock = time.perf_counter()


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

"""AVERAGES: the mean of what trains over the steps of one training, which becomes the run's result.

torch.optim.swa_utils does the sums. An entry is a function of the means and of the values of now (lists of tensors of the same
shapes, fp32 as they train), of how many values the means are of already (at least 1), and of its own knobs; it changes the means
in place. The first value is taken as it is. The knobs that ``shared`` gives say after which steps there is a value; an entry
without them takes one after each.

Only what trains is held, once more. Batch norms would need new statistics for averaged weights (Izmailov et al. 2018;
`torch.optim.swa_utils.update_bn`); no backbone here has any that move: the ViTs have layer norms, which keep none, and batch
norms that are frozen, as those of CLIP's ResNets are in LIFT, stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pel_core.common.errors import PelError
from pel_core.common.lazy import torch
from pel_core.common.registry import Knob, at_least, between, one_of
from pel_core.spec.choices import AVERAGES

if TYPE_CHECKING:
    from torch import Tensor

    from pel_core.spec.run_spec import RunSpec


def _late(spec: Any) -> str:
    """Of whole epochs it is known before training how many there are to average."""
    if not spec.epochs:
        return ""  # `trained` says so
    if spec.knob("average.every") == "step" or spec.epochs - _before(spec.knob("average.start"), spec.epochs) >= 2:
        return ""
    if spec.epochs < 2:
        return "beside average.every=step: no two epochs' ends are there to average"
    latest = f"{(spec.epochs - 1) / spec.epochs:g}"
    return f"below {latest}, so that the ends of at least two of {spec.epochs} epochs are averaged, or beside average.every=step"


def trained(spec: Any) -> str:
    """What an average needs: a training."""
    return "" if spec.epochs else "epochs above 0: in 0 epochs nothing trains, and there is nothing to average"


def _before(start: float, of: int) -> int:
    """How many of ``of`` steps or epochs come before the first value."""
    return math.floor(start * of + 1e-9)


def shared(start: float, every: str) -> tuple[Knob, Knob]:
    """The knobs that every entry has, with its own defaults."""
    return (
        Knob("start", start, "the part of the training that is over before the first value", between(0, 1), limit=_late),
        Knob("every", every, "when a value is taken: after each step, or at the end of each epoch", one_of("step", "epoch")),
    )


@AVERAGES.register("none")
def none(means: list[Tensor], values: list[Tensor], count: int) -> None:
    """No average: the parameters after the last step, as in the reference."""


DECAY = Knob("decay", 0.999, "weight d of the mean so far: d mean + (1 - d) value", between(0, 1))


KEEP = Knob(
    "keep",
    "last",
    "which mean becomes the result: the last one, or of those at average.checks moments the best on the validation split, by the "
    "mean accuracy of classes (as LT-Soups' public code does)",
    one_of("last", "val"),
)
CHECKS = Knob(
    "checks",
    5,
    "how often the mean is asked, evenly over the training, the last time at its end",
    at_least(1),
    needs=lambda spec: "" if spec.knob("average.keep") == "val" else "average.keep=val",
)


@AVERAGES.register("ema", knobs=(*shared(0.0, "step"), DECAY, KEEP, CHECKS), needs=trained)
def ema(means: list[Tensor], values: list[Tensor], count: int, decay: float) -> None:
    """Exponential moving average: mean <- d mean + (1 - d) value (as Tarvainen and Valpola 2017 have it of a teacher)."""
    torch.optim.swa_utils.get_ema_multi_avg_fn(decay)(means, values, count)


@AVERAGES.register("swa", knobs=shared(0.75, "epoch"), needs=trained)
def swa(means: list[Tensor], values: list[Tensor], count: int) -> None:
    """Stochastic weight averaging: the mean of the ends of the last epochs (Izmailov et al. 2018, there at a constant rate).

    Their algorithm 1 counts the weights at the start of the averaging as well; as in torch, these are left out here.
    """
    torch.optim.swa_utils.get_swa_multi_avg_fn()(means, values, count)


class Average:
    """The mean of a training's parameters so far; with ``average.keep=val`` also the best one so far.

    ``scores``: what means scored on the validation split, in percent, by the steps that were done.

    Args:
        parameters: what trains, by name.
        steps: of an epoch.

    Raises:
        PelError: there would be fewer than two values.
    """

    def __init__(self, spec: RunSpec, parameters: Mapping[str, Tensor], steps: int):
        knobs = spec.knobs_of("average")
        total = spec.epochs * steps
        self.period = steps if knobs.pop("every", "step") == "epoch" else 1
        self.first = (_before(knobs.pop("start", 0.0), total // self.period) + 1) * self.period
        if total - self.first < self.period:
            raise PelError(
                f"{spec.slug}: average={spec.average} starts after {self.first - self.period} of {total} steps: fewer than two "
                "values, which are no average; choose a lower average.start, average.every=step or average=none"
            )
        checks, keeps_best = knobs.pop("checks", 1), knobs.pop("keep", "last") == "val"
        self.moments = {round(total * turn / checks) for turn in range(1, checks + 1)} if keeps_best else set()
        self.update, self.knobs, self.parameters = AVERAGES[spec.average], knobs, parameters
        self.means: dict[str, Tensor] = {}
        self.best: dict[str, Tensor] = {}
        self.scores: dict[int, float] = {}
        self.count = 0

    def step(self, done: int) -> None:
        """Take the parameters into the mean, if it is their turn after ``done`` steps of the run."""
        if done < self.first or done % self.period:
            return
        values = {name: value.detach() for name, value in self.parameters.items()}
        if self.means:
            self.update(list(self.means.values()), list(values.values()), self.count, **self.knobs)
        else:
            self.means = {name: value.clone() for name, value in values.items()}
        self.count += 1

    def check(self, done: int, score: Callable[[], float]) -> None:
        """Keep the mean, if it is asked after ``done`` steps and none before scored as high. ``score`` asks the parameters, which
        hold the mean meanwhile; the training goes on with its own."""
        if done not in self.moments or not self.means:
            return
        own = {name: value.detach().clone() for name, value in self.parameters.items()}
        self._set(self.means)
        found = score()
        self._set(own)
        if not self.scores or found > max(self.scores.values()):
            self.best = {name: value.clone() for name, value in self.means.items()}
        self.scores[done] = found

    def write(self) -> None:
        """Set the parameters to the mean, or to the best of those that were asked."""
        self._set(self.best or self.means)

    def _set(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self.parameters[name].data.copy_(value)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps of it, on the CPU: ``average.NAME``, and of the best ``average.best.NAME``."""
        best = {f"average.best.{name}": value.cpu() for name, value in self.best.items()}
        return {f"average.{name}": value.cpu() for name, value in self.means.items()} | best

    def numbers(self) -> dict[str, Any]:
        """What a checkpoint keeps beside the tensors."""
        return {"averaged": self.count} | ({"average_scores": list(self.scores.items())} if self.scores else {})

    def load(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Go on from ``tensors()`` and ``numbers()``.

        Raises:
            KeyError: they are of other parameters.
        """

        def read(prefix: str) -> dict[str, Tensor]:
            return {name: tensors[f"{prefix}{name}"].to(value.device, copy=True) for name, value in self.parameters.items()}

        self.count, self.scores = numbers["averaged"], dict(numbers.get("average_scores", []))
        self.means = read("average.") if self.count else {}
        self.best = read("average.best.") if self.scores else {}


def make_average(spec: RunSpec, parameters: Mapping[str, Tensor], steps: int) -> Average | None:
    """The run's average over what trains, by name; None where it has none."""
    return None if spec.average == "none" else Average(spec, parameters, steps)

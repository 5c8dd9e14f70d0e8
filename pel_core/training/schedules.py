"""SCHEDULES: the learning rate while a run trains, as a factor of each parameter group's own rate. Torch-free.

An entry is a function of a ``Position`` after the warm-up and of its own knobs; it returns the factor. The warm-up, a linear
ramp, is common to all that have the knobs ``WARMUP``. A rate depends on the position alone, so that nothing has to be kept
of it in a checkpoint.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pel_core.common.errors import PelError
from pel_core.common.registry import Knob, at_least, between, one_of
from pel_core.spec.choices import SCHEDULES


@dataclass(frozen=True)
class Position:
    """Where a training is: ``epoch`` of ``epochs`` and ``step`` of the run's ``steps``, both counted from 0."""

    epoch: float
    epochs: float
    step: float
    steps: float


def _needs_warmup(spec: Any) -> str:
    return "" if spec.knob("schedule.warmup") else "schedule.warmup above 0"


def _longest_warmup(spec: Any) -> str:
    in_epochs = spec.knob("schedule.warmup_unit") == "epochs"
    return f"at most the {spec.epochs} epochs of the run" if in_epochs and spec.knob("schedule.warmup") > spec.epochs else ""


WARMUP = (
    Knob("warmup", 0.0, "length of a linear warm-up, part of the training; 0 for none", at_least(0), limit=_longest_warmup),
    Knob("warmup_unit", "epochs", "what warmup counts: epochs or steps", one_of("epochs", "steps"), needs=_needs_warmup),
    Knob("warmup_start", 0.0, "factor of the rate at the first step of the warm-up", between(0, 1), needs=_needs_warmup),
)


def _defers(scope: str) -> Callable[[Any], str]:
    return lambda spec: "" if first_epoch(spec, scope) else f"more epochs than {spec.epochs}, so that one passes before it"


def defer_knob(scope: str) -> Knob:
    """The knob by which an entry of a ``scope`` (sampler, reweight) begins late: deferred re-sampling and re-weighting."""
    meaning = "part of the epochs that pass before this begins, rounded down to whole ones; 0: from the start"
    return Knob("defer", 0.0, meaning, between(0, 1), needs=_defers(scope))


def first_epoch(spec: Any, scope: str) -> int:
    """The epoch, counted from 0, in which the entry of a scope begins: ``floor(defer * epochs)``, the last one at the latest."""
    return math.floor(spec.knobs_of(scope).get("defer", 0.0) * spec.epochs + 1e-9)


FINAL = Knob("final", 0.0, "factor of the rate towards which the schedule falls", between(0, 1))


@SCHEDULES.register("cosine", knobs=(*WARMUP, FINAL))
def cosine(at: Position, final: float = 0.0) -> float:
    """Cosine annealing once per epoch: .5 (1 + cos(pi e / E)); constant within an epoch, as in the reference."""
    return _annealed(at.epoch, at.epochs, final)


@SCHEDULES.register("cosine-step", knobs=(*WARMUP, FINAL))
def cosine_step(at: Position, final: float = 0.0) -> float:
    """Cosine annealing at every optimizer step: .5 (1 + cos(pi t / T))."""
    return _annealed(at.step, at.steps, final)


@SCHEDULES.register("linear", knobs=(*WARMUP, FINAL))
def linear(at: Position, final: float = 0.0) -> float:
    """A straight line at every optimizer step: 1 - t / T."""
    return final + (1 - final) * (1 - at.step / at.steps)


@SCHEDULES.register("constant", knobs=WARMUP)
def constant(at: Position) -> float:
    """The same rate throughout."""
    return 1.0


def _annealed(done: float, total: float, final: float) -> float:
    return final + (1 - final) * (0.5 * (1 + math.cos(math.pi * done / total)))


def rate_factor(spec: Any, epoch: int, step: int = 0, steps: int = 1) -> float:
    """The factor of every rate at ``step`` (from 0) of ``steps`` of an epoch.

    Args:
        spec: the run's `RunSpec`.
    """
    knobs = spec.knobs_of("schedule")
    done, total = epoch * steps + step, spec.epochs * steps
    warm = knobs.pop("warmup", 0.0) * (1 if knobs.pop("warmup_unit", "") == "steps" else steps)  # steps
    start = knobs.pop("warmup_start", 0.0)
    if done < warm:
        return start + (1 - start) * done / warm
    at = Position(epoch, spec.epochs, done, total)
    if warm:
        skipped = warm / steps
        at = Position(max(0.0, epoch - skipped), spec.epochs - skipped, done - warm, total - warm)
    return SCHEDULES[spec.schedule](at, **knobs)


def learning_rate(spec: Any, epoch: int, step: int = 0, steps: int = 1) -> float:
    """The rate of the backbone's and deltas' parameters there; see ``rate_factor``."""
    return spec.lr * rate_factor(spec, epoch, step, steps)


def check_warmup(spec: Any, steps: int) -> None:
    """Refuse a warm-up that is longer than the run, now that the ``steps`` of an epoch are known.

    Raises:
        PelError: it is.
    """
    knobs = spec.knobs_of("schedule")
    total, warmup = spec.epochs * steps, knobs.get("warmup", 0.0)
    if knobs.get("warmup_unit") == "steps" and warmup > total:
        raise PelError(
            f"{spec.slug}: schedule.warmup={warmup:g} steps, but the run has {total} ({spec.epochs} epochs of {steps}); "
            "use a shorter warm-up or more epochs"
        )

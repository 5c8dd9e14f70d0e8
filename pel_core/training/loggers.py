"""Metrics of a training run for TensorBoard and, on request, Weights & Biases. Torch-free; imports its libraries when used.

``results/tensorboard/<slug>/`` holds one file of the training (one more for each resumption, which takes back what a killed
process had written beyond its checkpoint) and one of the evaluation. What cannot be written is told once and stops no training.
"""

import hashlib
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from pel_core.common.errors import PelError
from pel_core.common.logs import logger
from pel_core.spec.results import METRICS
from pel_core.spec.run_spec import RunSpec

EVERY = 10  # steps between two points of a curve
FLUSH = 10.0  # seconds after which points are on disk


class Logger(Protocol):
    """A destination of logged values; ``step`` counts optimizer steps of the run."""

    def point(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Writes a TensorBoard event file.

    Args:
        folder: the run's. kind: ``train`` or ``evaluate``: ends the file's name. first: steps that an earlier process has done;
            0 replaces what is there.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, folder: Path, kind: str, first: int = 0):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import SessionLog

        folder.mkdir(parents=True, exist_ok=True)
        if not first:
            for old in folder.glob(f"events.*.{kind}"):
                old.unlink(missing_ok=True)
        # Written in this thread: the library's own writer thread would die of a full disk, and the training wait for it for ever.
        # The library names files by the second: what is resumed within it needs a name of its own.
        self._writer = EventsWriter(str(folder / "events"), f".from{first}.{kind}" if first else f".{kind}")
        self._flushed = time.monotonic()
        if first:
            self._add(first + 1, session_log=SessionLog(status=SessionLog.START))

    def point(self, step: int, values: Mapping[str, float]) -> None:
        """Values of curves at a step."""
        from tensorboardX.summary import scalar

        for name, value in values.items():
            self._add(step, summary=scalar(name, value))

    def hyperparameters(self, spec: Mapping[str, Any], metrics: Mapping[str, float], step: int) -> None:
        """A row of the HPARAMS page: what a run was made with and what came out."""
        from tensorboardX.summary import hparams

        for part in hparams(dict(spec), dict(metrics)):
            self._add(0, summary=part)
        self.point(step, metrics)

    def close(self) -> None:
        """Write buffered events to disk."""
        self._writer.close()

    def _add(self, step: int, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._writer.write_event(Event(wall_time=time.time(), step=step, **content))
        if time.monotonic() - self._flushed > FLUSH:
            self._writer.flush()
            self._flushed = time.monotonic()


def wandb_id(slug: str) -> str:
    """The id under which Weights & Biases knows a run, at most 64 of the letters that it allows.

    It is the slug's beginning, to be recognised, and a hash of all of it, so that two slugs never share one.
    """
    return f"{re.sub('[^A-Za-z0-9_.-]', '-', slug)[:47]}-{hashlib.sha256(slug.encode()).hexdigest()[:16]}"


class WandB:
    """A run of Weights & Biases, named by its slug; it goes on where an earlier process of the same run stopped.

    Raises:
        PelError: wandb is not installed, or refuses to start.
    """

    def __init__(self, folder: Path, spec: RunSpec):
        try:
            import wandb
        except ImportError:
            raise PelError("--wandb (wandb: true) needs the package wandb: pip install wandb, or leave it out") from None
        folder.mkdir(parents=True, exist_ok=True)
        identity = wandb_id(spec.slug)
        try:
            self._run = wandb.init(
                project="pel-lab", name=spec.slug, id=identity, resume="allow", dir=str(folder), config=spec.to_json()
            )
        except Exception as error:  # of its own many kinds
            raise PelError(f"Weights & Biases does not start: {error}; WANDB_MODE=offline needs no account") from None

    def point(self, step: int, values: Mapping[str, float]) -> None:
        """Values of curves at a step."""
        self._run.log({**values, "step": step})

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()


class MetricLogger:
    """Passes what `Progress` reports of a training to the enabled loggers.

    Args:
        folder: the results folder. steps: optimizer steps of an epoch. tensorboard, wandb: which loggers.

    Raises:
        PelError: Weights & Biases is asked for and not there.
    """

    def __init__(self, folder: Path, spec: RunSpec, steps: int, tensorboard: bool = True, wandb: bool = False):
        self.folder, self.spec, self.steps, self.tensorboard = folder, spec, steps, tensorboard
        self.loggers: list[Logger] = [WandB(folder, spec)] if wandb else []
        self._begun, self._last = False, -EVERY

    def __call__(self, values: Mapping[str, Any]) -> None:
        if not self._begun:
            self._begun = True
            if self.tensorboard:
                # A run that was stopped between an epoch's last step and its end begins with that end.
                first = values.get("first_step", (values["epoch"] + 1) * self.steps)
                with told("TensorBoard events"):
                    self.loggers.append(TensorBoard(self.folder / "tensorboard" / self.spec.slug, "train", first))
        if "accuracy" in values:  # an epoch's end
            step, names = (values["epoch"] + 1) * self.steps, {"loss": "epoch/loss", "accuracy": "epoch/accuracy"}
        elif values["step"] - self._last >= EVERY:
            step, names = values["step"], {"loss": "train/loss", "lr": "train/lr", "head_lr": "train/head_lr"}
            self._last = step
        else:
            return
        self._each(lambda each: each.point(step, {name: values[key] for key, name in names.items() if key in values}))

    def close(self) -> None:
        """Close all loggers."""
        self._each(lambda each: each.close())

    def _each(self, do: Any) -> None:
        for each in list(self.loggers):
            with told("TensorBoard events", lambda each=each: self.loggers.remove(each)):
                do(each)


@contextmanager
def told(what: str, after: Any = lambda: None) -> Iterator[None]:
    """Turn an OSError of the block into a warning that names ``what``; ``after`` is called first."""
    try:
        yield
    except OSError as error:
        after()
        logger.warning("no more %s of this run: %s", what, error)


def evaluated(
    folder: Path, spec: RunSpec, metrics: Mapping[str, Any], step: int, tensorboard: bool = True, wandb: bool = False
) -> None:
    """A run's hyperparameters and final metrics, after ``step`` optimizer steps.

    Raises:
        PelError: Weights & Biases is asked for and not there.
    """
    values = {f"test/{name}": float(metrics[name]) for name in METRICS if isinstance(metrics.get(name), int | float)}
    if tensorboard:
        with told("TensorBoard events"):
            writer = TensorBoard(folder / "tensorboard" / spec.slug, "evaluate")
            writer.hyperparameters(spec.to_json(), values, step)
            writer.close()
    if wandb:
        run = WandB(folder, spec)
        with suppress(OSError):
            run.point(step, values)
        run.close()

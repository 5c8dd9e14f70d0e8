"""Mid-run checkpoints: one file a run that holds all a training needs to go on at the step where it was.

``results/checkpoints/<slug>.safetensors``: tensors, and in its metadata JSON and a digest of both, so that a torn file is known.
Every random draw of a run is a function of its seed, the epoch and the position (`common.seeds`), and no layer draws or keeps
running statistics, so that no generator's state is among them.
"""

import hashlib
import json
import math
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from pel_core.common.errors import PelError
from pel_core.common.logs import logger
from pel_core.common.progress import Progress
from pel_core.common.signals import Requests, Stopped
from pel_core.common.tensors import read_tensors, write_tensors
from pel_core.spec.run_spec import RunSpec, completed

FORMAT = 1
SHARE = 0.01  # of the training time that saving may take
FIRST_COST = 0.05  # seconds a save is taken to cost until one was measured


def checkpoint_path(results: str | Path, slug: str) -> Path:
    """Where the checkpoint of a training run lies."""
    return Path(results) / "checkpoints" / f"{slug}.safetensors"


def drop_checkpoint(results: str | Path, slug: str) -> None:
    """Remove a run's checkpoint once its results are written, unless a process is training the run."""
    path = checkpoint_path(results, slug)
    if not path.with_name(f"{slug}.lease").exists():
        path.unlink(missing_ok=True)


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write tensors (on the CPU) and a JSON-serialisable mapping into one file, atomically."""
    text = json.dumps(about, allow_nan=False)
    write_tensors(path, tensors, {"about": text, "digest": digest(tensors, text)})


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What ``write_checkpoint`` wrote.

    Raises:
        PelError: the file is missing, damaged, or not what its digest says.
    """
    tensors, metadata = read_tensors(path)
    if metadata.get("digest") != digest(tensors, metadata.get("about", "")):
        raise PelError(f"{path} is damaged (its content is not what its digest says)")
    return tensors, json.loads(metadata["about"])


def digest(tensors: Mapping[str, Tensor], text: str) -> str:
    """SHA-256 of a text and of named tensors: names, types, shapes and bytes."""
    total = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        value = tensors[name]
        total.update(f"\n{name} {value.dtype} {tuple(value.shape)}\n".encode())
        total.update(value.contiguous().flatten().view(torch.uint8).numpy())
    return total.hexdigest()


class Checkpointable(Protocol):
    """What a manager saves: the training's state between two steps."""

    whole: bool

    def tensors(self) -> dict[str, Tensor]: ...

    def numbers(self) -> dict[str, Any]: ...

    def load(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None: ...


class CheckpointManager:
    """Saves the state of a training by time, at ends of epochs and when asked to stop, and brings it back.

    Args:
        path: the file; None keeps nothing.
        identity: what the run is made of (JSON). A checkpoint of another identity is discarded.
        seconds: between two saves within an epoch; 0 keeps nothing. Any two saves are at least as far apart as it takes for
            saving to cost ``SHARE`` of the time; the last one, and one when asked to stop, are made in any case.
        requests: signals that ask to stop.
        holds: called before a save; raises where the run has gone to another process.
        writes: False for every rank but the first.
    """

    def __init__(
        self,
        path: Path | None = None,
        identity: Mapping[str, Any] | None = None,
        seconds: float = 300.0,
        requests: Requests | None = None,
        holds: Callable[[], None] = lambda: None,
        writes: bool = True,
    ):
        self.path = path if seconds else None
        self.identity, self.seconds, self.holds, self.writes = {"format": FORMAT, **_plain(identity)}, seconds, holds, writes
        self.requests = requests or Requests()
        self.cost, self.at, self.last = FIRST_COST, time.monotonic(), "none was saved"
        self.resumed: list[int] = []
        # Of several processes that train together, so that all stop at the same step.
        self.agree: Callable[[int], int] = lambda number: number

    def restore(self, state: Checkpointable, progress: Progress) -> None:
        """Bring ``state`` to where the checkpoint is, if there is one of this run; else say why it is discarded."""
        if self.path is None or not self.path.exists():
            return
        try:
            tensors, about = read_checkpoint(self.path)
            if why := differs(_completed(about.get("identity", {}), self.identity), self.identity):
                raise PelError(f"{self.path} is of another run ({why})")
            state.load(tensors, about["state"])
        except (PelError, KeyError, ValueError) as error:
            progress.say(f"checkpoint discarded, training starts anew: {error}")
            if self.writes:
                self.path.unlink(missing_ok=True)
            return
        numbers = about["state"]
        self.resumed = [*about.get("resumed", []), numbers["done"]]
        self._tell(numbers)
        if about.get("torch") != torch.__version__:
            progress.say(f"the checkpoint was made with torch {about.get('torch')}, this is {torch.__version__}: going on")
        progress.say(f"resumed from {self.path}: {numbers['done']} of {numbers['steps']} steps are done")

    def step(self, state: Checkpointable, progress: Progress) -> None:
        """Called after each step: stop if asked to; save if the last save is long enough ago.

        Raises:
            Stopped: a signal asked for it.
        """
        agreed = self.agree(self.requests.number)
        if agreed:  # else nothing is set: a signal that came meanwhile has set it, and is agreed on after the next step
            self.requests.number = agreed
            self.stop(state, progress)
        if time.monotonic() - self.at >= max(self.seconds, self.cost / SHARE):
            self.save(state, progress)

    def epoch(self, state: Checkpointable, progress: Progress, last: bool) -> None:
        """Called after each epoch: save if the interval is over; always save the final state."""
        if last or time.monotonic() - self.at >= self.cost / SHARE:
            self.save(state, progress)

    def stop(self, state: Checkpointable, progress: Progress) -> None:
        """Save the state and raise `Stopped`.

        Raises:
            Stopped: always.
        """
        number, numbers = self.requests.number, state.numbers()
        name, where = signal.Signals(number).name, f"{numbers['done']} of {numbers['steps']} (epoch {numbers['epoch']})"
        saved = self.save(state, progress)
        how = "saved" if saved else f"not saved; last checkpoint: {self.last}"
        raise Stopped(
            f"stopped by {name} after step {where}, {how}; the same command goes on from there",
            number,
        )

    def save(self, state: Checkpointable, progress: Progress) -> bool:
        """Write the state unless it is not finite or not between two steps; a full disk is told and does not stop a training."""
        if self.path is None or not state.whole:
            return False
        self.holds()
        if not self.writes:
            return True
        clock = time.monotonic()
        tensors, numbers = state.tensors(), state.numbers()
        if not all(bool(value.isfinite().all()) for value in tensors.values()) or not _finite(numbers):
            return False
        about = {"identity": self.identity, "torch": torch.__version__, "state": numbers, "resumed": self.resumed}
        try:
            write_checkpoint(self.path, tensors, about)
        except (OSError, PelError) as error:
            progress.say(f"no checkpoint was saved, training goes on: {error}")
            self.at = time.monotonic()
            return False
        self._tell(numbers)
        self.at = time.monotonic()
        self.cost = self.at - clock
        logger.debug("checkpoint saved in %.2f s: %s", self.cost, self.last)
        return True

    def _tell(self, numbers: Mapping[str, Any]) -> None:
        self.last = f"{self.path}, epoch {numbers['epoch']}, step {numbers['step']}"


def differs(stored: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What two identities differ in, in words; empty where they are equal."""
    differences = []
    for key in sorted(stored.keys() | now.keys()):
        before, after = stored.get(key), now.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            names = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
            differences += [f"{name}: stored {before.get(name)}, now {after.get(name)}" for name in names]
        elif before != after:
            differences.append(f"{key}: stored {_short(before)}, now {_short(after)}")
    return "; ".join(differences)


def _completed(stored: Mapping[str, Any], now: Mapping[str, Any]) -> Mapping[str, Any]:
    """A stored identity with the options of the run that are younger than it at their defaults."""
    if "spec" not in stored or "spec" not in now:
        return stored
    return {**stored, "spec": completed(stored["spec"], RunSpec.parse(now["slug"]))}


def _plain(identity: Mapping[str, Any] | None) -> dict[str, Any]:
    """As it comes back from JSON: tuples are lists."""
    return json.loads(json.dumps(identity or {}))


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 20 else f"{text[:12]}..."


def _finite(numbers: Mapping[str, Any]) -> bool:
    return all(math.isfinite(value) for record in numbers["curve"] for value in record.values())

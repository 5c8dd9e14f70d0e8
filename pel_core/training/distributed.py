"""Data-parallel training: a process per GPU, each with its part of every batch, gradients added up; torchrun's agent starts them.

Every part weighs by its images of the whole batch, so that uneven parts are exact and the result is that of one process up to the
order of additions. Rank 0 writes and reports; a signal that reaches one rank stops all at the same step.
"""

import ctypes
import os
import signal
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pel_core.common.errors import PelError
from pel_core.common.signals import Stopped
from pel_core.hardware.process_group import ProcessGroup
from pel_core.spec.run_spec import RunSpec
from pel_core.training.losses import LOSSES, decomposable

# Rank 0 may wait for hours for a run that another process trains. A rank that dies is noticed by the agent, not by this.
EXCHANGE_TIMEOUT = timedelta(days=2)
PR_SET_PDEATHSIG = 1  # prctl(2)


class DistributedGroup(ProcessGroup):
    """Several processes. Tensors travel by NCCL from GPUs and by gloo from the CPU; numbers by gloo, which waits for no GPU."""

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._used: list[bool] | None = None

    def part(self, images: int, rank: int | None = None) -> slice:
        """This rank's contiguous part of a batch, or another's; parts differ by one image at most, and may be empty."""
        rank = self.rank if rank is None else rank
        return slice(images * rank // self.size, images * (rank + 1) // self.size)

    def same_start(self, parameters: Iterable[nn.Parameter], done: int) -> None:
        """Take rank 0's parameters (a start may be computed on the device, whose sums differ), at the same step on all.

        Raises:
            PelError: the ranks found different checkpoints.
        """
        if self.largest(done) != -self.largest(-done):
            raise PelError(f"the processes found different checkpoints (rank {self.rank}: step {done}); start the command again")
        for parameter in parameters:
            self._call(dist.broadcast, parameter.data, 0)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add up gradients over ranks, all at once. A parameter that has none on any rank keeps none."""
        parameters = list(parameters)
        if self._used is None:  # a rank whose part is empty cannot know which these are
            used = torch.tensor([float(parameter.grad is not None) for parameter in parameters], device=parameters[0].device)
            self._used = (self.sum(used) > 0).tolist()
        chosen = [parameter for parameter, used in zip(parameters, self._used, strict=True) if used]
        for parameter in chosen:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        flat = self.sum(torch.cat([parameter.grad.flatten() for parameter in chosen]))
        for parameter, total in zip(chosen, flat.split([parameter.numel() for parameter in chosen]), strict=True):
            parameter.grad.copy_(total.view_as(parameter))

    def sum(self, value: Tensor) -> Tensor:
        """A tensor added up over ranks, in place."""
        self._call(dist.all_reduce, value)
        return value

    def largest(self, number: int) -> int:
        """The largest of the ranks' numbers."""
        value = torch.tensor(number)
        self._call(dist.all_reduce, value, dist.ReduceOp.MAX)
        return int(value)

    def _call(self, operation: Callable[..., Any], *words: Any) -> None:
        try:
            operation(*words)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise PelError(
                f"rank {self.rank} lost the other processes of this run, see above for why one ended ({reason})"
            ) from None


class FollowerLease:
    """The lease of ranks above 0: it holds no file, since rank 0 holds and checks the lease of the run."""

    waited = False

    def __enter__(self) -> "FollowerLease":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def note(self, values: Mapping[str, Any]) -> None:
        """Does nothing: rank 0 writes the progress."""

    def check(self) -> None:
        """Does nothing: rank 0 checks the lease, and its stop reaches all ranks."""


def check(spec: RunSpec) -> None:
    """Refuse what several processes would compute differently from one.

    Raises:
        PelError: the loss does not add up over parts of a batch, or accumulation follows the reference's weights.
    """
    if not decomposable(spec.loss):
        raise PelError(
            f"{spec.slug}: the loss '{spec.loss}' is no mean over images, so that parts of a batch do not add up to it; train on "
            f"one GPU (resources: gpus: 1), or choose of {', '.join(filter(decomposable, LOSSES))}"
        )
    if spec.accumulate > 1 and spec.accumulation == "reference":
        raise PelError(f"{spec.slug}: accumulation=reference is for one GPU; choose accumulation=exact, or gpus: 1")


@contextmanager
def join(spec: RunSpec, device: torch.device) -> Iterator[ProcessGroup]:
    """The processes that torchrun started with this one; one process alone where it did not.

    Raises:
        PelError: as `check`.
    """
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ProcessGroup()
        return
    check(spec)
    die_with_parent()
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=EXCHANGE_TIMEOUT)
    together = False
    try:
        yield DistributedGroup()
        together = True
    except Stopped:
        together = True
        raise
    finally:
        # NCCL's farewell waits for all ranks: one that fails alone just ends, so that the agent sees it and ends the others.
        if together or device.type != "cuda":
            dist.destroy_process_group()


def die_with_parent() -> None:
    """Have this process asked to stop (SIGTERM) when the agent that started it dies, however it dies. On Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def launch(words: Sequence[str], devices: Sequence[str]) -> None:
    """Run this program's command ``words`` once per device with torchrun's agent, and wait.

    Args:
        devices: from `devices.claim`: cuda:N of each process; other names are passed over.

    Raises:
        PelError: a process failed; it has said why.
        Stopped: a signal asked for it.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    def ask(number: int, _: Any) -> None:
        raise SignalException("asked to stop", signal.Signals(number))

    count = len(devices)
    os.environ |= visible(devices)
    os.environ["OMP_NUM_THREADS"] = str(max(1, int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1) // count))
    about = {"nproc_per_node": count, "rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "run_id": uuid.uuid4().hex}
    about |= {"min_nodes": 1, "max_nodes": 1, "max_restarts": 0, "local_addr": "localhost"}
    if "signals_to_handle" in {field.name for field in fields(LaunchConfig)}:  # torch 2.8 on
        # Not SIGINT: a terminal sends it to every process itself, and a second one would cut them short.
        about["signals_to_handle"] = "SIGTERM,SIGHUP,SIGQUIT"
        signal.signal(signal.SIGINT, lambda *_: ask(signal.SIGTERM, None))
    signal.signal(signal.SIGUSR1, ask)
    try:
        elastic_launch(LaunchConfig(**about), sys.executable)("-m", "pel_core", *words)
    except SignalException as error:
        raise Stopped(
            f"stopped by {error.sigval.name}; the same command goes on from the last checkpoint", error.sigval
        ) from None
    except ChildFailedError as error:
        rank, failure = next(iter(error.failures.items()))
        if failure.exitcode > 128:
            raise Stopped(
                f"process {rank} of {count} stopped with status {failure.exitcode}, see above", failure.exitcode - 128
            ) from None
        raise PelError(f"process {rank} of {count} failed with status {failure.exitcode}, see above for why") from None


def visible(devices: Sequence[str], environment: Any = os.environ) -> dict[str, str]:
    """The CUDA_VISIBLE_DEVICES that shows just these, first to last; nothing where they are no numbered GPUs."""
    numbers = [int(index) for kind, _, index in (name.partition(":") for name in devices) if kind == "cuda" and index]
    if not numbers:
        return {}
    shown = environment.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return {"CUDA_VISIBLE_DEVICES": ",".join(shown[n].strip() if n < len(shown) and shown[n] else str(n) for n in numbers)}

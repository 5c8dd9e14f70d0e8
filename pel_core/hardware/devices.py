"""Which device a run uses, and what is recorded of the machine and the code."""

import atexit
import gc
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch

from pel_core import __version__
from pel_core.common.errors import PelError
from pel_core.hardware import cpu, gpu_slots
from pel_core.hardware.cores import usable_cpus


def pick_device(name: str) -> torch.device:
    """``auto`` is CUDA where there is one, else the CPU.

    Raises:
        PelError: the name is not auto, cpu, cuda or cuda:N, or torch finds no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not (index.isascii() and index.isdigit())) or (kind == "cpu" and index):
        raise PelError(f"device '{name}' is not one of auto, cpu, cuda, cuda:N")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise PelError(
            f"device '{name}' was asked for, but torch finds {torch.cuda.device_count()} CUDA devices; use --device cpu"
        )
    return torch.device(name)


def claim(name: str, share: float = 1.0, count: int = 1) -> list[str]:
    """The devices this process may use: with ``auto`` its own GPUs, for which it waits and which it locks until it ends.

    A device that is named is taken as it is; so is what torchrun or a scheduler gave. Without a GPU there is nothing to lock.

    Args:
        share: of each GPU, in 0 < share <= 1: several small jobs fit on one. count: GPUs.

    Raises:
        PelError: a share that is none, more devices than there are.
    """
    gpu_slots.parts(share)
    if name != "auto" or not torch.cuda.is_available():
        return [name] * count
    visible = torch.cuda.device_count()
    if (rank := os.environ.get("LOCAL_RANK")) is not None:
        chosen = [int(rank)]
    elif gpu_slots.assigned(count, visible):
        chosen = list(range(visible))
    else:
        chosen = gpu_slots.take([device_key(index) for index in range(visible)], count, share)
    if count == 1:
        torch.cuda.set_device(chosen[0])  # so that nothing is ever put onto another job's device
    return [f"cuda:{index}" for index in chosen]


def release() -> None:
    """Give the GPUs that `claim` locked to other jobs: this process has no more tensors there and goes on on the CPU."""
    if torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()
    gpu_slots.release()


def device_key(index: int) -> str:
    """A visible GPU's name for all processes of the machine, whatever CUDA_VISIBLE_DEVICES hides: its UUID, or a MIG part's."""
    return str(getattr(torch.cuda.get_device_properties(index), "uuid", index))


def loader_workers(files: bool, device: torch.device, processes: int = 1) -> int:
    """Worker processes that decode image files: one per usable core, 8 at most; a CPU run keeps its cores for the network.

    ``processes`` that train together share the cores.
    """
    return max(1, min(8, usable_cpus() // processes)) if files and device.type == "cuda" else 0


def tune_process(device: str) -> None:
    """What makes a process that does one job faster, once it has imported what it needs.

    The garbage collector leaves alone what is there already; on a CPU freed memory is kept for the next tensors (`hardware.cpu`).
    On a GPU fp32 is fp32: PyTorch would let convolutions, that of the patches among them, drop to TF32's ten bits.
    """
    if not gc.get_freeze_count():
        gc.collect()
        gc.freeze()
        atexit.register(gc.unfreeze)  # some libraries complain of what is left at the end
    if pick_device(device).type == "cpu":
        cpu.keep_freed_memory()
    else:
        torch.backends.cudnn.allow_tf32 = False


@contextmanager
def exact_fp32() -> Iterator[None]:
    """As `tune_process` has it on a GPU, for as long as it is entered: fp32 is fp32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def device_name(device: torch.device) -> str:
    """A device in words: its kind and model."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return f"{device.type}: {name}"


def environment(device: torch.device, started: str) -> dict[str, Any]:
    """Versions, device and commit of a run."""
    versions = {"pel_core": __version__, "python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    where: dict[str, Any] = {
        "platform": platform.platform(),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
    }
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        where["gpu"] = {"index": index, "uuid": device_key(index), "visible": os.environ.get("CUDA_VISIBLE_DEVICES")}
    return versions | {"pillow": PIL.__version__} | where | {"commit": commit(), "started": started}


def commit() -> str | None:
    """The git commit of the code, with ``+`` appended where files differ from it; None outside a checkout of it."""
    root = Path(__file__).resolve().parents[2]

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root:
            return None  # a copy inside somebody's own repository
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no", "--", "pel_core") else "")
    except (OSError, subprocess.CalledProcessError):
        return None

"""A GPU for every job: locks on this machine that die with their holder. Torch-free.

Snakemake's ``--resources gpu=N`` limits how many jobs run and tells none of them which device is its own; schedulers do tell.
Each device is a file of 100 bytes in a folder of this machine and user, and a job locks one byte for each hundredth of the
device that it declares. The kernel drops the locks when the process ends, however it ends, so nothing is left to clean up.
"""

import fcntl
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from pel_core.common.environment import own_folder
from pel_core.common.errors import PelError
from pel_core.common.logs import logger

BYTES = 100  # of a whole device
# Environment variables of jobs whose scheduler (SLURM, PBS, LSF, SGE) chooses devices.
ALLOCATIONS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "SGE_TASK_ID")

_held: list[int] = []  # file descriptors whose locks this process keeps until it ends: closing one would drop its locks


def parts(share: float) -> int:
    """Bytes that a share of a device takes: a third takes 33, so that three fit.

    Raises:
        PelError: the share is not in 0 < share <= 1.
    """
    if not 0 < share <= 1:
        raise PelError(f"a GPU share of {share:g} was asked for; expected more than 0, at most 1 (a whole device)")
    return max(1, math.floor(BYTES * share + 1e-9))


def at_once(devices: int, share: float = 1.0) -> int:
    """Jobs that fit on so many devices at the same time."""
    return devices * (BYTES // parts(share))


def lock_folder() -> Path:
    """Where locks lie: on this machine (locks on network file systems cannot be relied on), one folder per user.

    Raises:
        PelError: somebody else made the folder.
    """
    try:
        return own_folder("pel-lab-gpus")
    except PelError as error:
        raise PelError(f"GPUs cannot be locked: {error}, or name a device: --device cuda:0") from None


def assigned(asked: int, visible: int, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a scheduler has given this job the devices it sees, as many as it asked for: then none is locked.

    An allocation of more devices (an interactive one in which Snakemake runs several jobs) is shared out like a workstation.
    """
    return any(name in environment for name in ALLOCATIONS) and visible == asked


def take(devices: Sequence[str], count: int = 1, share: float = 1.0, folder: Path | None = None, poll: float = 0.5) -> list[int]:
    """Wait until ``count`` of the devices have ``share`` to spare, and lock that on all of them until this process ends.

    A process may call this once: a second call would find its own locks free.

    Args:
        devices: a name for each visible device that is the same for every process here, such as its UUID.
        count: devices to take, all or none, so that two jobs of several devices cannot wait for each other.
        share: of each device, in 0 < share <= 1.
        folder: instead of `lock_folder`. poll: seconds between two looks.

    Returns:
        Positions in ``devices``, the emptiest first.

    Raises:
        PelError: there are fewer devices than asked for, or the file system cannot lock.
    """
    need = parts(share)
    if count > len(devices):
        raise PelError(f"{count} GPUs were asked for, {len(devices)} can be seen; see nvidia-smi and CUDA_VISIBLE_DEVICES")
    folder = folder or lock_folder()
    folder.mkdir(parents=True, exist_ok=True)
    told = False
    while not (chosen := _try(devices, count, need, folder)):
        if not told:
            logger.info("waiting for a free GPU: %d seen, all taken by other jobs (%s)", len(devices), folder)
            told = True
        time.sleep(poll)
    return chosen


def release() -> None:
    """Give back what `take` locked, before the process ends."""
    while _held:
        os.close(_held.pop())


def _try(devices: Sequence[str], count: int, need: int, folder: Path) -> list[int]:
    """Lock at once or not at all; the positions of the devices, or nothing."""
    mutex = _open(folder / "mutex")
    opened: dict[int, tuple[int, list[int]]] = {}
    kept: list[int] = []
    try:
        fcntl.lockf(mutex, fcntl.LOCK_EX)  # held for microseconds: nobody sees another's half-made choice
        for position, device in enumerate(devices):
            handle = _open(folder / f"{device}.lock")
            opened[position] = handle, []  # at once, so that it is closed below whatever happens
            opened[position][1].extend(byte for byte in range(BYTES) if _lock(handle, byte))
        fitting = [position for position, (_, free) in opened.items() if len(free) >= need]
        if len(fitting) < count:
            return []
        kept = sorted(fitting, key=lambda position: -len(opened[position][1]))[:count]
        for position in kept:
            handle, free = opened[position]
            for byte in free[need:]:
                fcntl.lockf(handle, fcntl.LOCK_UN, 1, byte)
            _held.append(handle)
        return kept
    except OSError as error:
        raise PelError(f"cannot lock a GPU in {folder}: {error.strerror}; name a device instead: --device cuda:0") from None
    finally:
        for position, (handle, _) in opened.items():
            if position not in kept:
                os.close(handle)
        os.close(mutex)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _lock(handle: int, byte: int) -> bool:
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
    except (BlockingIOError, PermissionError):
        return False
    return True

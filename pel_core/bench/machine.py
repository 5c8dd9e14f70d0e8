"""What a number was measured on: machine, versions, commit; and how busy the machine was with other things meanwhile."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

from pel_core.hardware.cores import usable_cpus
from pel_core.hardware.devices import environment

# What decides how fast a CPU multiplies matrices in fp32 and in bf16.
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16")
BUSY = 0.5  # processes per core that were running before: above it, timings mean little
DISTURBED = 0.1  # share of the cores that others took meanwhile: above it, a measurement is worth another try
GLANCE = 2.0  # seconds in which it is seen whether others are at work

Found = TypeVar("Found")


def machine(device: torch.device) -> dict[str, Any]:
    """CPU model, cores, flags, memory, load averages, versions and commit; the GPU where the device is one."""
    about = _cpuinfo()
    flags = set((about.get("flags") or about.get("Features") or "").split())
    cores = usable_cpus()
    found = {
        "cpu": about.get("model name") or "unknown",
        "cores": cores,
        "flags": [flag for flag in FLAGS if flag in flags],
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load": [round(value, 2) for value in os.getloadavg()],
        "busy": os.getloadavg()[0] > BUSY * cores,
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {"gpu": properties.name, "gpu_memory_gb": round(properties.total_memory / 2**30, 1)}
        found |= {"cuda": torch.version.cuda}
    kept = environment(device, time.strftime("%Y-%m-%dT%H:%M:%S%z"))
    names = ("pel_core", "python", "torch", "numpy", "pillow", "threads", "commit", "started")
    return found | {name: kept[name] for name in names}


def _cpuinfo() -> dict[str, str]:
    """The first processor's entry of /proc/cpuinfo; empty where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


class Others:
    """The share of the machine's cores that other processes took, between making it and ``share()``; None if it is not known."""

    def __init__(self) -> None:
        self._busy, self._all = _ticks()
        self._own = _own()

    def share(self) -> float | None:
        """In 0..1."""
        busy, total = _ticks()
        if total == self._all:
            return None
        own = (_own() - self._own) * os.sysconf("SC_CLK_TCK")
        return round(max(0.0, busy - self._busy - own) / (total - self._all), 3)


@dataclass
class Bench:
    """How to measure: where, how much, which CPU flags there are, how to report, and for how many seconds of a part to wait for,
    and to repeat what was not measured on, a quiet machine."""

    device: torch.device
    quick: bool
    flags: list[str]
    say: Callable[[str], None] = print
    patience: float = 0.0
    batch: int = 0  # of the training step; 0: by device
    start: float = field(default_factory=time.monotonic)

    def quietly(self, work: Callable[[], Found]) -> tuple[Found, float | None]:
        """What ``work`` returns and the share of the cores that others took meanwhile: the least disturbed of its tries."""
        best: tuple[Found, float | None] | None = None
        while best is None or ((best[1] or 0) > DISTURBED and self._patient()):
            self.wait()
            others, found = Others(), work()
            share = others.share()
            if best is None or (share or 0) < (best[1] or 0):
                best = found, share
        return best

    def wait(self) -> float:
        """Until the machine is quiet, or patience ends: what others take of it then."""
        while (share := glance()) > DISTURBED and self._patient():
            pass
        return share

    def _patient(self) -> bool:
        return time.monotonic() < self.start + self.patience


def glance() -> float:
    """The share of the cores that others take, over ``GLANCE`` seconds."""
    others = Others()
    time.sleep(GLANCE)
    return others.share() or 0.0


def _own() -> float:
    return sum(os.times()[:4])  # this process and its ended children


def _ticks() -> tuple[int, int]:
    try:
        values = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    except OSError:
        return 0, 0
    return sum(values) - values[3] - values[4], sum(values)  # idle, waiting for a disk

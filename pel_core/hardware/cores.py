"""The CPU cores of this process. Torch-free."""

import os


def usable_cpus() -> int:
    """CPU cores that this process may run on: its affinity mask's, or all where the system has no such mask (macOS)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

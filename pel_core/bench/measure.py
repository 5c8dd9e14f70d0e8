"""Seconds, matrix operations and memory of a function, and the matrix speed that the machine has at most."""

import os
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

Work = Callable[[], object]
PEAK_SHAPES = {"cpu": ((3152, 768, 3072), (4096, 4096, 4096)), "cuda": ((25216, 768, 3072), (8192, 8192, 8192))}


def processor_time() -> float:
    """Seconds that processors spent on this process, all its threads, and on its children that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


# Wall time, or on a machine that others keep busy processor time: with one thread the two are the same but for the waiting.
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "processor": processor_time}
_clock = ["wall"]


def use_clock(name: str) -> None:
    """Measure in this one of ``CLOCKS`` from now on."""
    _clock[0] = name


def clock_in_use() -> str:
    """Its name."""
    return _clock[0]


def seconds(work: Work, device: torch.device, times: int = 1) -> float:
    """Seconds of one call, over ``times`` calls; on a GPU until it has finished."""
    clock = CLOCKS[_clock[0]]
    _wait(device)
    start = clock()
    for _ in range(times):
        work()
    _wait(device)
    return (clock() - start) / times


def alternate(
    works: Mapping[str, Work], repeats: int, device: torch.device, times: int = 1, warm: int = 1
) -> dict[str, list[float]]:
    """Seconds of each work, ``repeats`` of them, turn by turn: what else the machine does meets all of them alike."""
    for work in works.values():
        for _ in range(warm):
            work()
    rounds = [{name: seconds(work, device, times) for name, work in works.items()} for _ in range(repeats)]
    return {name: [one[name] for one in rounds] for name in works}


def ratio(slow: Sequence[float], fast: Sequence[float]) -> dict[str, float]:
    """How many times faster: the median of the rounds' ratios, with the smallest and the largest."""
    each = [a / b for a, b in zip(slow, fast, strict=True)]
    return {"median": statistics.median(each), "min": min(each), "max": max(each)}


def matrix_peak(device: torch.device, dtype: torch.dtype, quick: bool = False) -> float:
    """The most GFLOP/s that a matrix product of this type reaches here: of a ViT-B's first MLP layer, and of a large square.

    On a CPU also as a 1 x 1 convolution: that is oneDNN's product, where torch's own may be another library's that is slow here.
    """
    if quick:
        return _product(device, dtype, (64, 64, 64))
    layer, square = PEAK_SHAPES[device.type]
    return max(_product(device, dtype, layer), _square(device, dtype, square))


@cache  # it takes seconds; the layer's is measured anew beside each model
def _square(device: torch.device, dtype: torch.dtype, shape: tuple[int, int, int]) -> float:
    return _product(device, dtype, shape, tries=3)


def _product(device: torch.device, dtype: torch.dtype, shape: tuple[int, int, int], tries: int = 5) -> float:
    m, k, n = shape
    a, b = (torch.randn(size, device=device).to(dtype) for size in ((m, k), (n, k)))
    works: list[Work] = [lambda: a @ b.T]
    if device.type == "cpu":
        image = a.T.reshape(1, k, m, 1).contiguous(memory_format=torch.channels_last)
        works.append(lambda: F.conv2d(image, b[:, :, None, None]))
    for work in works:
        work()
    return max(2e-9 * m * k * n / seconds(work, device) for work in works for _ in range(tries))


def gflop(work: Work) -> float:
    """GFLOP of the matrix products and convolutions in a call (a multiply-add counts two), attention's included."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # else a CPU's fused attention is not counted
        work()
    return counter.get_total_flops() / 1e9


def peak_mb(work: Work, device: torch.device) -> float:
    """The most memory in MB that a call holds above what was there before it: activations, gradients, work space."""
    if device.type == "cuda":
        _wait(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        _wait(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    held = most = 0
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()  # negative where memory is given back
        most = max(most, held)
    return most / 1e6


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rounded(value: Any, digits: int = 5) -> Any:
    """Numbers of a JSON value to so many significant digits: more is noise."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}")
    if isinstance(value, Mapping):
        return {key: rounded(item, digits) for key, item in value.items()}
    return [rounded(item, digits) for item in value] if isinstance(value, list | tuple) else value

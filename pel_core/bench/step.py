"""The training step of each method against the baseline: images per second, fraction of the matrix peak, memory."""

import statistics
from functools import partial
from typing import Any

import torch

from pel_core.bench.machine import Bench
from pel_core.bench.measure import alternate, gflop, matrix_peak, peak_mb, ratio
from pel_core.bench.models import make_pair, make_step, require_equal
from pel_core.common.seeds import torch_generator
from pel_core.spec.run_spec import RunSpec
from pel_core.training.classifier import cast_frozen_weights
from pel_core.training.step import PRECISIONS

CLASSES = 100
FAST_BF16 = ("avx512_bf16", "amx_bf16", "bf16")  # CPU flags without which bf16 is emulated: then one method is enough


def methods(layers: int) -> list[str]:
    """The report's methods and probes, partial ones on the last half of the blocks."""
    last = f"adaptformer@{layers // 2}:{layers}"
    return ["adaptformer", last, f"vpt-shallow+{last}", "ln+adaptformer", "ssf-attn", "ssf-ln", "ssf-mlp", "head-only"]


def emulated(device: torch.device, flags: list[str]) -> bool:
    """Whether bf16 is fp32 in disguise here."""
    return device.type == "cpu" and not set(flags) & set(FAST_BF16)


def cases(layers: int, device: torch.device, flags: list[str], quick: bool) -> list[tuple[str, str]]:
    """(method, precision) pairs to measure."""
    names = methods(layers)
    reduced = names[:1] if emulated(device, flags) else names
    pairs = [(name, "fp32") for name in names] + [(name, "bf16") for name in reduced]
    return [pair for pair in pairs if pair[0] in names[:3:2]] if quick else pairs


def run(bench: Bench) -> dict[str, Any]:
    """Settings and a row for each method and precision."""
    device, quick, flags = bench.device, bench.quick, bench.flags
    backbone, batch, repeats, times = ("toy", 4, 2, 1) if quick else ("clip-b16", 16, 3, 1)
    if device.type == "cuda" and not quick:
        batch, repeats, times = 128, 5, 10
    batch = bench.batch or batch
    rows: list[dict[str, Any]] = []
    layers = RunSpec.make("cifar100-ir100", backbone, "head-only", 0, init="random").vit.layers
    try:
        for method, precision in cases(layers, device, flags, quick):
            # Where bf16 is emulated it takes minutes, and a turn of few images says as much as three of many.
            slow = precision == "bf16" and emulated(device, flags) and not quick
            size, turns = (max(1, batch // 4), 1) if slow else (batch, repeats)
            row, others = bench.quietly(partial(measure, backbone, method, precision, size, turns, times, device, quick))
            rows.append({**row, "others": others})
            bench.say(spell(rows[-1]))
    except KeyboardInterrupt:
        if not rows:
            raise
        bench.say("interrupted: what was measured so far is kept")
    for row in rows:  # the best of all tries: the machine may have been busy at one of them
        of_precision = [other["peak_gflops"] for other in rows if other["precision"] == row["precision"]]
        _put_peak(row, max(of_precision))
    settings = {"backbone": backbone, "batch": batch, "repeats": repeats, "steps_per_repeat": times, "classes": CLASSES}
    return {"settings": settings, "rows": rows}


def measure(
    backbone: str, method: str, precision: str, batch: int, repeats: int, times: int, device: torch.device, quick: bool
) -> dict[str, Any]:
    """One method in one precision: equal logits first, then operations, memory and time."""
    options = {"init": "random", "precision": precision, "batch_size": batch}
    spec = RunSpec.make("cifar100-ir100", backbone, method, 0, **options)
    baseline, ours = make_pair(spec, CLASSES, device)
    generator = torch_generator(0, "bench", "images")
    images = torch.randn(batch, 3, spec.pixels, spec.pixels, generator=generator).to(device)
    labels = torch.randint(CLASSES, (batch,), generator=generator).to(device)
    error = require_equal(baseline, ours, images)
    cast_frozen_weights(ours, PRECISIONS[precision])  # as runs do
    models = {"baseline": baseline, "ours": ours}
    steps = {name: make_step(model, spec, CLASSES, device) for name, model in models.items()}
    operations = {name: gflop(lambda step=step: step(images[:1], labels[:1])) for name, step in steps.items()}
    works = {name: (lambda step=step: step(images, labels)) for name, step in steps.items()}
    dtype = PRECISIONS[precision] or torch.float32
    peak = matrix_peak(device, dtype, quick)
    # The memory run is each step's warm-up too; momentum is there since the operations were counted.
    memory = {name: peak_mb(work, device) for name, work in works.items()}
    taken = alternate(works, repeats, device, times, warm=0)
    row = {
        "method": method,
        "precision": precision,
        "batch": batch,
        "logit_error_fp32": error,
        "gflop_per_image": operations,
        "seconds": taken,
        "images_per_second": {name: batch / statistics.median(values) for name, values in taken.items()},
        "ratio": {name: ratio(taken["baseline"], values) for name, values in taken.items() if name != "baseline"},
        "memory_mb": memory,
        "memory_ratio": {name: value / memory["baseline"] for name, value in memory.items() if name != "baseline"},
    }
    _put_peak(row, max(peak, matrix_peak(device, dtype, quick)))
    return row


def _put_peak(row: dict[str, Any], peak: float) -> None:
    """The peak and what follows from it: fractions of it, and the ratio that ours would have at the peak itself."""
    row["peak_gflops"] = peak
    speed = {name: row["images_per_second"][name] * row["gflop_per_image"][name] for name in row["images_per_second"]}
    row["peak_fraction"] = {name: value / peak for name, value in speed.items()}
    row["ratio_at_peak"] = peak / row["gflop_per_image"]["ours"] / row["images_per_second"]["baseline"]


def spell(row: dict[str, Any]) -> str:
    """A row in words."""
    parts = [f"{row['method']} {row['precision']}: baseline {row['images_per_second']['baseline']:.2f} images/s"]
    for name, value in row["ratio"].items():
        part = row["peak_fraction"][name]
        parts.append(f"{name} {row['images_per_second'][name]:.2f} = {value['median']:.2f}x, {part:.0%} of the matrix peak")
    parts.append(f"baseline {row['peak_fraction']['baseline']:.0%}, at the peak ours would be {row['ratio_at_peak']:.2f}x")
    return "; ".join(parts) + f"; memory {row['memory_ratio']['ours']:.0%} of the baseline's"

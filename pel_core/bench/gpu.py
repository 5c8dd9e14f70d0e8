"""A GPU in one short call: ways to take the training step and to evaluate, an epoch, and images up to the device.

Ways: ``reference`` (as the public implementation does it, see `reference_way`), ``eager`` (ours), ``compile`` (`torch.compile` of
ours) and ``graphs`` (that with CUDA graphs). A row that could not be measured says why; one whose time had not come says so too.
On a CPU it runs at toy size and says nothing of speed: it shows that the call will not fail for a slip of the pen.
"""

import copy
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pel_core.bench.evaluation import speeds
from pel_core.bench.inputs import CACHED, decoded, make_files, on_cuda
from pel_core.bench.machine import Bench
from pel_core.bench.measure import gflop, matrix_peak, peak_mb, seconds
from pel_core.bench.models import make_pair, make_step, require_equal
from pel_core.bench.reference_way import ReferenceStep, flatten_attention
from pel_core.bench.step import CLASSES, methods
from pel_core.common.errors import PelError
from pel_core.common.seeds import generator, torch_generator
from pel_core.data.batches import TrainBatches
from pel_core.data.split import Split
from pel_core.hardware.devices import loader_workers
from pel_core.spec.run_spec import RunSpec
from pel_core.training.classifier import Classifier, cast_frozen_weights
from pel_core.training.loop import autocast, train
from pel_core.training.step import PRECISIONS

Row = dict[str, Any]
BUDGET = 240  # seconds after which no further row is begun
WARM, TIMED = 3, 20  # steps
CIFAR_IR100 = 10_847  # training images of CIFAR-100-LT at ratio 100


def run(bench: Bench) -> dict[str, Any]:
    """Rows of every part, most wanted first.

    Raises:
        PelError: on a CPU at full size, which would say nothing and take an hour.
    """
    if bench.device.type != "cuda" and not bench.quick:
        raise PelError("part gpu asks for a CUDA device, and found the CPU: use --device cuda, or --quick to see that it runs")
    size = _Size(bench.quick, bench.batch)
    rows: list[Row] = []
    start = time.monotonic()
    for part, name, work in _plan(bench.device, size):
        began = time.monotonic()
        row: Row = {"part": part, "name": name}
        if began - start > BUDGET:
            row["why"] = f"{BUDGET} s were over"
        else:
            try:
                row |= work()
            except Exception as error:  # one call is all there is: the next row is still wanted
                row["why"] = f"{type(error).__name__}: {error}".splitlines()[0]
        row["took"] = time.monotonic() - began
        rows.append(row)
        bench.say(spell(row))
    settings = {"backbone": size.backbone, "batch": size.batch, "classes": CLASSES, "timed_steps": size.timed, "budget": BUDGET}
    return {"settings": settings, "rows": rows}


class _Size:
    """How large everything is."""

    def __init__(self, quick: bool, batch: int = 0):
        self.quick = quick
        self.backbone = "toy" if quick else "clip-b16"
        self.batch = batch or (4 if quick else 128)
        self.warm, self.timed = (1, 1) if quick else (WARM, TIMED)
        self.epoch = 24 if quick else CIFAR_IR100
        self.files = 8 if quick else 512

    def spec(self, method: str, precision: str) -> RunSpec:
        """A run's spec on CIFAR-100-LT."""
        how = {"init": "random", "precision": precision, "batch_size": self.batch, "epochs": 1}
        return RunSpec.make("cifar100-ir100", self.backbone, method, 0, **how)


def _plan(device: torch.device, size: _Size) -> Iterator[tuple[str, str, Callable[[], Row]]]:
    """Part, name and work of every row. What compiles comes last: it may take long, or fail."""
    layers = size.spec("head-only", "fp32").vit.layers
    names = [*methods(layers), "full"]
    reduced = ["fp16", "bf16"]
    for precision in ["fp32", *reduced]:
        yield "peak", precision, partial(_peak, precision, device, size)
    for method in names[:2] if size.quick else names:
        for precision in reduced if method == names[0] else ["bf16"]:
            yield "step", f"{method}, {precision}, eager", partial(_step, method, precision, "eager", device, size)
        if method in names[:2]:
            yield "step", f"{method}, fp16, reference", partial(_step, method, "fp16", "reference", device, size)
    yield "evaluation", "five crops", partial(_evaluation, device, size)
    yield "epoch", f"{size.epoch:,} images of 32 px", partial(_epoch, device, size)
    for way in ("JPEG", "cache", "JPEG decoded on the GPU"):
        yield "input", way, partial(_input, way, device, size)
    yield "step", f"{names[0]}, fp32, eager", partial(_step, names[0], "fp32", "eager", device, size)
    for way in ("compile", "graphs"):
        yield "step", f"{names[0]}, bf16, {way}", partial(_step, names[0], "bf16", way, device, size)
    yield "evaluation", "five crops, bf16, compile", partial(_compiled_evaluation, device, size)


def _peak(precision: str, device: torch.device, size: _Size) -> Row:
    return {"peak_gflops": matrix_peak(device, PRECISIONS[precision] or torch.float32, size.quick)}


def _step(method: str, precision: str, way: str, device: torch.device, size: _Size) -> Row:
    """Images per second, fraction of the peak and memory of one way to take a step."""
    spec = size.spec(method, precision)
    images, labels = _batch(spec, device)
    compiling = 0.0
    if method == "full":
        classifier = _full(size, device)
        steps = make_step(classifier, spec, CLASSES, device)
    else:
        baseline, classifier = make_pair(spec, CLASSES, device)
        require_equal(baseline, classifier, images[:8])
        if way == "reference":
            flatten_attention(baseline)
            classifier = baseline
            steps = ReferenceStep(baseline, spec, CLASSES, device)
        else:
            cast_frozen_weights(classifier, PRECISIONS[precision])  # as runs do
            steps = make_step(compiled(classifier, way, size.quick), spec, CLASSES, device)
            del baseline
    work = partial(steps, images, labels)
    if way in ("compile", "graphs"):
        compiling = seconds(work, device)
    operations = gflop(lambda: make_step(classifier, spec, CLASSES, device)(images[:1], labels[:1]))
    for _ in range(size.warm):
        work()
    memory = peak_mb(work, device) if device.type == "cuda" else 0.0
    taken = [seconds(work, device, size.timed) for _ in range(3)]
    peak = matrix_peak(device, PRECISIONS[precision] or torch.float32, size.quick)
    speed = len(labels) / statistics.median(taken)
    told = {"method": method, "precision": precision, "way": way, "seconds": taken, "images_per_second": speed}
    told |= {"gflop_per_image": operations, "peak_gflops": peak, "peak_fraction": speed * operations / peak}
    return told | {"memory_mb": memory, "compile_seconds": compiling}


def compiled(classifier: Classifier, way: str, quick: bool = False) -> Any:
    """A classifier as a way wants it. On a CPU at toy size nothing is generated: no compiler may be there."""
    if way == "eager":
        return classifier
    if quick:
        return torch.compile(classifier, backend="eager", dynamic=False)
    return torch.compile(classifier, dynamic=False, mode="reduce-overhead" if way == "graphs" else None)


def _full(size: _Size, device: torch.device) -> Classifier:
    """Our classifier with every parameter of the backbone training."""
    from pel_core.bench.models import make_ours, make_tower

    return make_ours(size.spec("full", "fp32"), make_tower(size.backbone), CLASSES).to(device)


def _batch(spec: RunSpec, device: torch.device) -> tuple[Tensor, Tensor]:
    draw = torch_generator(0, "bench", "images")
    images = torch.randn(spec.batch_size, 3, spec.pixels, spec.pixels, generator=draw).to(device)
    return images, torch.randint(CLASSES, (spec.batch_size,), generator=draw).to(device)


def _evaluation(device: torch.device, size: _Size) -> Row:
    images = 2 if size.quick else 64
    rows = speeds(size.backbone, images, 2 if size.quick else 5, device, size.quick)
    best = max((row for row in rows if row["model"] == "ours"), key=lambda row: row["images_per_second"])
    return {"ways": rows, "images_per_second": best["images_per_second"], "peak_fraction": best["peak_fraction"]}


def _compiled_evaluation(device: torch.device, size: _Size) -> Row:
    """Five crops of a batch in one pass of the compiled classifier."""
    spec = size.spec("adaptformer", "bf16")
    _, classifier = make_pair(spec, CLASSES, device)
    images = 2 if size.quick else 64
    crops = torch.randn(images * 5, 3, spec.pixels, spec.pixels, generator=torch_generator(0, "bench", "crops")).to(device)
    operations = 5 * gflop(lambda: classifier(crops[:1]))
    cast_frozen_weights(classifier.eval(), torch.bfloat16)
    plain, quick = copy.deepcopy(classifier), compiled(classifier, "compile", size.quick)

    @torch.inference_mode()
    def ask(model: Any) -> Tensor:
        with autocast("bf16", device):
            return model(crops).float()

    compiling = seconds(lambda: ask(quick), device)
    difference = float((ask(quick) - ask(plain)).abs().max())
    taken = [seconds(lambda: ask(quick), device) for _ in range(3)]
    speed = images / statistics.median(taken)
    peak = matrix_peak(device, torch.bfloat16, size.quick)
    return {
        "seconds": taken,
        "images_per_second": speed,
        "peak_fraction": speed * operations / peak,
        "compile_seconds": compiling,
        "max_logit_difference": difference,
    }


def _epoch(device: torch.device, size: _Size) -> Row:
    """An epoch of the training loop on an array held on the device, from its order to its last step, the second time."""
    spec = size.spec("adaptformer", "bf16")
    pixels = generator(0, "bench", "epoch").integers(0, 256, (size.epoch, 32, 32, 3), np.uint8)
    split = Split(np.arange(size.epoch) % CLASSES, pixels)
    counts = torch.bincount(torch.as_tensor(split.labels), minlength=CLASSES).clamp(min=1)
    batches = TrainBatches(split, spec, spec.pixels, spec.vit.mean, spec.vit.std, device)
    _, classifier = make_pair(spec, CLASSES, device)
    cast_frozen_weights(classifier, PRECISIONS[spec.precision])
    if not size.quick:
        train(classifier, batches, spec, counts)
    taken = seconds(lambda: train(classifier, batches, spec, counts), device)
    return {"seconds": [taken], "images_per_second": size.epoch / taken, "images": size.epoch}


def _input(way: str, device: torch.device, size: _Size) -> Row:
    """Training batches up to the device, without a network: what the loader gives at most."""
    spec = size.spec("adaptformer", "bf16")
    with tempfile.TemporaryDirectory() as folder:
        paths = make_files(Path(folder), min(64, size.files), 500, 375)
        if way == "JPEG decoded on the GPU":
            return on_cuda(paths, "500x375 JPEG", 1 if size.quick else 3, device)
        files = [str(path) for path in paths] * (size.files // len(paths))
        cache = decoded(paths, Path(folder)).take(np.arange(len(files)) % len(paths)) if way == "cache" else None
        split = Split(np.arange(len(files)) % CLASSES, None, files, cache=cache)
        workers = loader_workers(True, device)
        batches = TrainBatches(split, spec, spec.pixels, spec.vit.mean, spec.vit.std, device, workers)

        def epoch() -> None:
            for images, *_ in batches.epoch(0):
                images.sum()

        epoch()
        taken = [seconds(epoch, device) for _ in range(1 if size.quick else 3)]
    source = f"{CACHED}-px cache" if cache else "500x375 JPEG"
    return {"seconds": taken, "images_per_second": len(files) / statistics.median(taken), "workers": workers, "source": source}


def spell(row: Row) -> str:
    """A row in words."""
    if "why" in row:
        return f"{row['part']}, {row['name']}: not measured ({row['why']})"
    if row["part"] == "peak":
        return f"matrix peak, {row['name']}: {row['peak_gflops'] / 1e3:,.0f} TFLOP/s"
    words = [f"{row['part']}, {row['name']}: {row['images_per_second']:,.0f} images/s"]
    words += [f"{row['peak_fraction']:.0%} of the matrix peak"] if "peak_fraction" in row else []
    words += [f"compiled in {row['compile_seconds']:.0f} s"] if row.get("compile_seconds") else []
    return ", ".join(words)

"""Statistics of a table: reading stored predictions and comparing every row with the best and with a baseline, on one core.

python -m pel_core.bench.statistics FOLDER DATASET CLOCK ROWS SEEDS   # what the measured process does; prints JSON
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pel_core.common.seeds import generator
from pel_core.evaluation.outputs import CLASSES, PREDICTIONS, write_csv, write_parquet
from pel_core.spec.results import run_folder
from pel_core.spec.run_spec import RunSpec

if TYPE_CHECKING:  # it imports torch, which the measured process does without
    from pel_core.bench.machine import Bench

ROWS, SEEDS = 20, 5
METRICS = ("overall", "head", "med", "tail", "macro_f1", "gmean_floor", "ece", "nll")
SETS = {"imagenet-lt": (1_000, 50_000), "inat2018": (8_142, 24_426)}  # classes, test images
QUICK = {"imagenet-lt": (20, 400)}
GROUPS = ("head", "med", "tail")


def run(bench: Bench) -> dict[str, Any]:
    """A row for each test set: seconds and memory of a process of its own."""
    rows, seeds = (3, 3) if bench.quick else (ROWS, SEEDS)
    found, others = bench.quietly(
        lambda: [measure(*each, rows, seeds) for each in (QUICK if bench.quick else SETS).items()],
    )
    for row in found:
        bench.say(
            ", ".join(f"{key} {value:,.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items())
        )
    return {"settings": {"columns": METRICS, "processes": "one core"}, "others": others, "rows": found}


def measure(dataset: str, size: tuple[int, int], rows: int, seeds: int) -> dict[str, Any]:
    """Make stored predictions, and have another process read and compare them."""
    from pel_core.bench.measure import clock_in_use

    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), dataset, size, rows, seeds)
        command = [sys.executable, "-m", "pel_core.bench.statistics", folder, dataset, clock_in_use(), str(rows), str(seeds)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    about = {"dataset": dataset, "classes": size[0], "images": size[1], "rows": rows, "columns": len(METRICS), "seeds": seeds}
    return about | json.loads(done.stdout)


def specs(dataset: str, row: int, seeds: int) -> list[RunSpec]:
    """The runs of a row of the table: one recipe, a rate for each row."""
    return [RunSpec.make(dataset, "clip-b16", "adaptformer", seed, lr=0.001 * (row + 1)) for seed in range(seeds)]


def write(results: Path, dataset: str, size: tuple[int, int], rows: int, seeds: int) -> None:
    """Stored predictions of drawn runs, which are right where an image is easy; the better the later the row.

    Logits of every class are left out of the files (10 GB of ImageNet-LT's); statistics read what stands beside them.
    """
    from safetensors.numpy import save_file

    classes, images = size
    rng = generator(0, "bench", "statistics", dataset)
    labels = np.sort(np.arange(images) % classes)
    easy = rng.normal(size=images)
    paths = [f"val/{label:05}/{place:08}.jpg" for place, label in enumerate(labels)]
    groups = [(label, GROUPS[label * 3 // classes]) for label in range(classes)]
    for row in range(rows):
        for spec in specs(dataset, row, seeds):
            folder = run_folder(results, spec.slug)
            right = easy + 0.5 * rng.normal(size=images) > -0.8 - 0.02 * row
            said = np.where(right, labels, (labels + rng.integers(1, classes, images)) % classes).astype(np.int32)
            columns = {"index": np.arange(images, dtype=np.int32), "path": paths, "label": labels.astype(np.int32)}
            about = {"slug": spec.slug, "split": "test", "data_sha256": dataset}
            write_parquet(folder / PREDICTIONS, columns | {"prediction": said}, about)
            write_csv(folder / CLASSES, ("label", "group"), groups)
            top = np.sort(rng.uniform(2, 20, (images, 5)).astype(np.float32))[:, ::-1]
            ranked = np.stack([said, *((said + place) % classes for place in range(1, 5))], 1).astype(np.int32)
            own = np.where(right, top[:, 0], rng.uniform(-5, 2, images)).astype(np.float32)
            stored = {"logits": np.zeros((images, 0), np.float16), "labels": labels.astype(np.int64), "label_logits": own}
            stored |= {"top_classes": ranked, "top_logits": np.ascontiguousarray(top), "totals": rng.uniform(1, 3, images)}
            save_file(stored, folder / "logits.safetensors")


def compare(results: Path, dataset: str, clock_name: str, rows: int, seeds: int) -> dict[str, Any]:
    """Read every run and mark every column, as a table does: seconds of each, and the most memory the process had."""
    from pel_core.reporting.statistics.marks import table
    from pel_core.reporting.statistics.reading import Reader

    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    clock = {"wall": time.perf_counter, "processor": time.process_time}[clock_name]
    start = clock()
    reader = Reader(results)
    read = [reader.row(str(row), specs(dataset, row, seeds)) for row in range(rows)]
    middle = clock()
    columns = table([[row] * len(METRICS) for row in read], METRICS, baseline=0)
    end = clock()
    assert all(column.detectable is not None and column.family == (rows - 1, rows - 1) for column in columns)
    return {"seconds": end - start, "read_seconds": middle - start, "compare_seconds": end - middle, "peak_memory_mb": peak_mb()}


def peak_mb() -> float:
    """The most memory in MB that this process has held; ``getrusage`` counts what the one that started it held as well."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024 / 1e6


if __name__ == "__main__":
    print(json.dumps(compare(Path(sys.argv[1]), *sys.argv[2:4], *map(int, sys.argv[4:]))))

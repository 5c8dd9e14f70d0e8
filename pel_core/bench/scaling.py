"""What the cost of a study grows with: images, classes, runs."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pel_core.bench.machine import Bench
from pel_core.bench.measure import alternate, seconds
from pel_core.bench.models import make_ours, make_step, make_tower
from pel_core.bench.study import ROOT
from pel_core.common.files import write_text
from pel_core.common.seeds import generator, torch_generator
from pel_core.data.batches import TrainBatches
from pel_core.data.split import Split
from pel_core.data.transforms import Augmenter, uniforms
from pel_core.evaluation.metrics import score
from pel_core.spec.run_spec import RunSpec
from pel_core.training.classifier import adapter_dim
from pel_core.training.loop import train

CLASSES = (100, 365, 1000, 8142)
TABLES = (1_000, 10_000, 115_846, 437_513)
TRAINED = (500, 2_000, 8_000)
RUNS = (10, 100, 500, 2_000)
ROWS = ("adaptformer", "ln+adaptformer", "ssf-attn", "ssf-ln", "ssf-mlp", "lora", "adapter", "bias", "ln", "vpt-deep")


def run(bench: Bench) -> dict[str, Any]:
    """Rows of four kinds: an epoch's table, its training, a step and a score by classes, a plan by runs."""
    device, quick = bench.device, bench.quick
    tables = [_table(count) for count in (TABLES[:1] if quick else TABLES)]
    sizes = (64,) if quick else TRAINED
    trained, of_trained = bench.quietly(lambda: [_trained(count, "toy" if quick else "clip-mini", device) for count in sizes])
    classes, of_classes = bench.quietly(lambda: _classes(CLASSES[:1] if quick else CLASSES, quick, device))
    runs, of_runs = bench.quietly(lambda: [_planned(count) for count in (RUNS[:1] if quick else RUNS)])
    for row in (*tables, *trained, *classes, *runs):
        bench.say(", ".join(f"{key} {value:,.4g}" for key, value in row.items()))
    settings = {"methods": len(ROWS), "trained_backbone": "toy" if quick else "clip-mini", "quick": quick}
    others = {"trained": of_trained, "classes": of_classes, "runs": of_runs}
    return {"settings": settings, "others": others, "tables": tables, "trained": trained, "classes": classes, "runs": runs}


def _table(images: int) -> dict[str, Any]:
    """What an epoch's order, random numbers and crop boxes cost before its first step."""

    def work() -> None:
        generator(0, "order", 0).permutation(images)
        Augmenter("rrc", 0.08).boxes(uniforms(0, 0, 0, images), 375, 500, 0)

    taken = alternate({"": work}, 3, torch.device("cpu"))[""]
    return {"images": images, "seconds": statistics.median(taken)}


def _trained(images: int, backbone: str, device: torch.device) -> dict[str, Any]:
    """An epoch of the demo's own kind on images held as an array."""
    spec = RunSpec.make("cifar100-ir100", backbone, "adaptformer", 0, init="random", precision="fp32", batch_size=16, epochs=1)
    rng = generator(0, "bench", "train")
    pixels, labels = rng.integers(0, 256, (images, 20, 20, 3), np.uint8), np.arange(images) % 24
    batches = TrainBatches(Split(labels, pixels), spec, spec.pixels, spec.vit.mean, spec.vit.std, device)
    classifier = make_ours(spec, make_tower(backbone), 24).to(device)
    taken = seconds(lambda: train(classifier, batches, spec, torch.bincount(torch.as_tensor(labels))), device)
    return {"images": images, "seconds": taken, "images_per_second": images / taken}


def _classes(counts: tuple[int, ...], quick: bool, device: torch.device) -> list[dict[str, Any]]:
    """A step (the automatic bottleneck grows with the classes), and the score of 5,000 test images."""
    backbone, batch, repeats = ("toy", 4, 2) if quick else ("clip-b16", 16, 2)
    if device.type == "cuda" and not quick:
        batch, repeats = 128, 10
    tower, works, rows = make_tower(backbone), {}, []
    generator = torch_generator(0, "bench", "images")
    for count in counts:
        rank = {"adapter_dim": 2} if quick else {}
        spec = RunSpec.make(
            "cifar100-ir100", backbone, "adaptformer", 0, init="random", precision="fp32", batch_size=batch, **rank
        )
        classifier = make_ours(spec, tower, count).to(device)
        images = torch.randn(batch, 3, spec.pixels, spec.pixels, generator=generator).to(device)
        labels, step = torch.randint(count, (batch,), generator=generator).to(device), make_step(classifier, spec, count, device)
        works[str(count)] = lambda step=step, images=images, labels=labels: step(images, labels)
        rows.append(
            {"classes": count, "adapter_dim": adapter_dim(spec, count), "trained": classifier.census()["learnable_with_head"]}
        )
    taken = alternate(works, repeats, device)
    for row in rows:
        logits = np.random.default_rng(0).standard_normal((5_000, row["classes"]), np.float32)
        labels, groups = np.arange(5_000) % row["classes"], ["head", "med", "tail"] * (row["classes"] // 3 + 1)
        row["images_per_second"] = batch / statistics.median(taken[str(row["classes"])])
        row["score_seconds"] = seconds(lambda args=(logits, labels, groups[: row["classes"]]): score(*args), torch.device("cpu"))
    return rows


def _planned(runs: int) -> dict[str, Any]:
    """Seconds of ``pel_core plan`` and of Snakemake's own planning, each a process from its start to its end."""
    seeds = ",".join(map(str, range(runs // len(ROWS))))
    rows = [{"label": method, "method": method} for method in ROWS]
    table = {"title": "T", "where": {"dataset": "cifar100-ir100"}, "rows": rows, "columns": [{"label": "O", "value": "overall"}]}
    study = {"title": "Scaling", "roles": {"cifar100": "CIFAR100-LT"}, "tables": {"one": table}}
    demo = ROOT / "workflow" / "config" / "demo.yaml"
    plan = [sys.executable, "-m", "pel_core", "plan", "--study", "study.yaml", "--config", str(demo), "--seeds", seeds]
    snakemake = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "-n", "--quiet", "all", "--cores", "2"]
    snakemake += ["--workflow-profile", str(ROOT / "workflow" / "profiles" / "default"), "--resources", "gpu=2"]
    snakemake += ["--config", "study=study.yaml", f"config={demo}", f"seeds={seeds}"]
    with tempfile.TemporaryDirectory() as folder:
        write_text(Path(folder) / "study.yaml", json.dumps(study))  # JSON is YAML
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}

        def work(command: list[str]) -> None:
            subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)

        taken = {
            name: seconds(lambda c=c: work(c), torch.device("cpu")) for name, c in (("plan", plan), ("snakemake", snakemake))
        }
    return {"runs": runs, "plan_seconds": taken["plan"], "snakemake_seconds": taken["snakemake"]}

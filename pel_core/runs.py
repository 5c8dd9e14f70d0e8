"""A run from its name to its files: find the prepared inputs under the results folder, train, evaluate, write atomically."""

import math
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pel_core import distributed
from pel_core.batches import EvalBatches, TrainBatches
from pel_core.checkpoint import Keeper, checkpoint_path, drop_checkpoint
from pel_core.classifier import hold_frozen
from pel_core.devices import environment, loader_workers, pick_device
from pel_core.engine import peak_memory_mb, reset_peak_memory, train
from pel_core.errors import PelError
from pel_core.events import Course, evaluated
from pel_core.files import require_writable, sha256, write_json
from pel_core.lease import Lease
from pel_core.loading import RandomCrops
from pel_core.metrics import score
from pel_core.model_card import card_metadata, write_card
from pel_core.numerics import ENGINE
from pel_core.outputs import write_outputs
from pel_core.prefix_cache import GIGABYTES, PrefixCache
from pel_core.progress import Progress
from pel_core.run_inputs import describe, identity, is_trained, load, load_trained, test_images
from pel_core.signals import Requests
from pel_core.spec import RunSpec
from pel_core.step import PRECISIONS
from pel_core.tensors import write_tensors
from pel_core.world import World


def train_run(
    slug: str,
    results: str | Path,
    device: str = "auto",
    checkpoint_seconds: float = 300.0,
    sinks: Mapping[str, bool] = {"tensorboard": True},
    prefix_cache_gb: float = GIGABYTES,
) -> None:
    """Train the run and write ``delta.safetensors`` and ``train.json`` into its folder; go on where a checkpoint is.

    Where torchrun started this process, it trains with the others; rank 0 writes.

    Args:
        checkpoint_seconds: between two checkpoints within an epoch; 0 keeps none.
        sinks: where its course goes: tensorboard, wandb.
        prefix_cache_gb: what features that runs share may take, for a head that starts from images.

    Raises:
        PelError: an evaluation-only slug, inputs that are missing or do not fit, a loss that is not finite.
        Stopped: a signal asked for it; what was done is saved.
    """
    spec = RunSpec.parse(slug)
    if not spec.trains:
        raise PelError(f"{slug} trains nothing; evaluate it directly")
    if spec.train != spec:
        raise PelError(f"{slug} differs from its training run in evaluation only; train '{spec.train.slug}'")
    folder, kept = Path(results) / "runs" / slug, checkpoint_path(results, slug)
    target, started = pick_device(device), time.strftime("%Y-%m-%dT%H:%M:%S%z")
    with distributed.join(spec, target) as world, _lease(world, kept.with_name(f"{slug}.lease"), slug, target) as lease:
        data, classifier, info = load(spec, Path(results), target, fresh=True, prefix_cache_gb=prefix_cache_gb)
        record = describe(spec, data, info, classifier)
        if world.largest(int(lease.waited and is_trained(spec, Path(results), record))):
            print("trained by the process that was waited for", file=sys.stderr)
            return
        require_writable(folder)
        hold_frozen(classifier, PRECISIONS[spec.precision])
        workers = loader_workers(data.train.images is None, target, world.size)
        kind = spec.pixels, spec.vit.mean, spec.vit.std, target, workers, world
        batches, first = TrainBatches(data.train, spec, *kind), world.rank == 0
        course = Course(Path(results), spec, len(batches), **(sinks if first else {"tensorboard": False}))
        progress = Progress(slug, spec.epochs * len(batches), quiet=not first, watchers=[lease.note, course])
        with Requests() as requests, closing(course):
            keeper = Keeper(kept, identity(record), checkpoint_seconds, requests, lease.check, writes=first)
            training = train(classifier, batches, spec, torch.as_tensor(data.train_counts), progress, keeper, world)
        if not first:
            return
        lease.check()
        write_tensors(folder / "delta.safetensors", classifier.trainable_state(), card_metadata(record, data.class_names))
        record |= {"delta_sha256": sha256(folder / "delta.safetensors")}
        resumed = {"resumed_at": keeper.resumed} if keeper.resumed else {}  # steps
        several = {"processes": world.size} if world.size > 1 else {}
        record |= {"training": asdict(training), "environment": environment(target, started) | resumed | several}
        write_json(folder / "train.json", record)
        write_card(folder, record)


def _lease(world: World, path: Path, slug: str, device: torch.device) -> Any:
    """Rank 0's right to train the run; the others follow it."""
    return (
        distributed.Led() if world.rank else Lease(path, slug, f"{device}, {world.size} GPUs" if world.size > 1 else str(device))
    )


def evaluate_run(
    slug: str,
    results: str | Path,
    device: str = "auto",
    accept: bool = False,
    sinks: Mapping[str, bool] = {"tensorboard": True},
    prefix_cache_gb: float = GIGABYTES,
) -> None:
    """Evaluate a trained run (or zero-shot) and write ``logits.safetensors``, the files of `outputs` and ``metrics.json``.

    ``accept`` takes a checkpoint of another engine, and its number into the result. ``sinks``: as for `train_run`;
    ``prefix_cache_gb`` is what evaluations may keep for each other (`prefix_cache`), 0 nothing.

    Raises:
        PelError: the trained run is missing, or was trained from another spec, data or weights.
    """
    spec = RunSpec.parse(slug)
    target, started = pick_device(device), time.strftime("%Y-%m-%dT%H:%M:%S%z")
    data, classifier, info = load(spec, Path(results), target)
    record = describe(spec, data, info, classifier)
    stored = load_trained(spec, Path(results), classifier, record, accept) if spec.trains else {"training": None}
    record["engine"] = stored.get("engine", ENGINE)
    hold_frozen(classifier, PRECISIONS[spec.eval_precision])
    folder = Path(results) / "runs" / slug
    require_writable(folder)
    split = data.split(spec.split)
    workers = loader_workers(data.train.images is None, target)
    batches = EvalBatches(
        split, spec.tte, spec.expand, spec.pixels, spec.vit.mean, spec.vit.std, target, workers=workers,
        interpolation=spec.interpolation, random=RandomCrops(spec.crops, spec.seed, spec.crop_min_scale),
    )  # fmt: skip
    reset_peak_memory(target)
    clock = time.perf_counter()
    cache = PrefixCache(results, prefix_cache_gb)
    images = test_images(spec, Path(results), info)
    logits = cache.predict(classifier, batches, spec.untouched, images, spec.eval_precision)
    seconds = time.perf_counter() - clock
    write_tensors(folder / "logits.safetensors", {"logits": logits, "labels": torch.as_tensor(np.asarray(split.labels))})
    evaluation = {
        "tte": spec.tte,
        "crops": batches.crops,
        "precision": spec.eval_precision,
        "seconds": seconds,
        "images_per_second": len(logits) / seconds,
        "peak_memory_mb": peak_memory_mb(target),
    }
    metrics = score(logits.numpy(), np.asarray(split.labels), data.groups)
    record |= {
        "metrics": metrics,
        "training": stored["training"],
        "evaluation": evaluation,
        "environment": environment(target, started) | {"blocks_from_cache": cache.used},
    }
    write_outputs(folder, spec, data, Path(results), logits.numpy())
    write_json(folder / "metrics.json", record)
    curve = (stored["training"] or {}).get("curve", [])
    evaluated(Path(results), spec, metrics, len(curve) * math.ceil(len(data.train) / spec.batch_size), **sinks)
    drop_checkpoint(results, spec.train.slug)
    if spec.trains and spec == spec.train:
        write_card(folder, record)

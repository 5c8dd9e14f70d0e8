"""A trained run's evaluation: find it and the prepared data, pass every test image through, write the numbers."""

import math
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from pel_core.common.files import require_writable, write_json
from pel_core.common.tensors import write_tensors
from pel_core.common.versions import ENGINE
from pel_core.data.batches import EvalBatches
from pel_core.data.loading import RandomCrops
from pel_core.evaluation.metrics import score
from pel_core.evaluation.outputs import write_outputs
from pel_core.hardware.devices import environment, loader_workers, pick_device
from pel_core.spec.plugins import parse_run
from pel_core.training.checkpoints import drop_checkpoint
from pel_core.training.classifier import cast_frozen_weights
from pel_core.training.loggers import evaluated
from pel_core.training.loop import peak_memory_mb, reset_peak_memory
from pel_core.training.model_card import write_card
from pel_core.training.prefix_cache import GIGABYTES, PrefixCache
from pel_core.training.run_inputs import describe, load, load_trained, test_images
from pel_core.training.step import PRECISIONS


def evaluate_run(
    slug: str,
    results: str | Path,
    device: str = "auto",
    accept: bool = False,
    loggers: Mapping[str, bool] = {"tensorboard": True},
    prefix_cache_gb: float = GIGABYTES,
) -> None:
    """Evaluate a trained run (or zero-shot) and write ``logits.safetensors``, the files of `outputs` and ``metrics.json``.

    ``accept`` takes a checkpoint of another engine, and its number into the result. ``loggers``: as for `train_run`;
    ``prefix_cache_gb`` is what evaluations may keep for each other (`prefix_cache`), 0 nothing.

    Raises:
        PelError: the trained run is missing, or was trained from another spec, data or weights.
    """
    spec = parse_run(slug, results)
    target, started = pick_device(device), time.strftime("%Y-%m-%dT%H:%M:%S%z")
    data, classifier, info = load(spec, Path(results), target)
    record = describe(spec, data, info, classifier)
    stored = load_trained(spec, Path(results), classifier, record, accept) if spec.trains else {"training": None}
    record["engine"] = stored.get("engine", ENGINE)
    cast_frozen_weights(classifier, PRECISIONS[spec.eval_precision])
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
    logits = cache.predict(classifier, batches, spec.num_frozen_prefix_blocks, images, spec.eval_precision)
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
    evaluated(Path(results), spec, metrics, len(curve) * math.ceil(len(data.train) / spec.batch_size), **loggers)
    drop_checkpoint(results, spec.train.slug)
    if spec.trains and spec == spec.train:
        write_card(folder, record)

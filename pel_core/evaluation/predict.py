"""The stage `predict`: a trained run's forward pass over test images -> ``logits.safetensors`` and ``predict.json``.

The only part of an evaluation that holds a device. What lies there already and was made from the same is not made again.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pel_core.common.errors import PelError
from pel_core.common.files import read_json, require_writable, write_json
from pel_core.common.versions import made_by, versions
from pel_core.data.batches import EvalBatches
from pel_core.data.datasets import Prepared
from pel_core.data.loading import RandomCrops
from pel_core.data.test_sets import AS_NAMED, TestSet
from pel_core.evaluation.predictions import KINDS, NotFinite, images_in, kind_of, write_predictions
from pel_core.evaluation.shifted import open_test_set
from pel_core.hardware.devices import environment, loader_workers, pick_device
from pel_core.models.inits import INITS
from pel_core.spec.outcomes import failed_file
from pel_core.spec.results import inputs_of, run_folder
from pel_core.spec.run_spec import RunSpec, differences
from pel_core.training.classifier import cast_frozen_weights
from pel_core.training.loop import peak_memory_mb, reset_peak_memory
from pel_core.training.prefix_cache import GIGABYTES, PrefixCache
from pel_core.training.run_inputs import TEXTS, describe, load, load_trained, test_images
from pel_core.training.step import PRECISIONS


def predict_run(
    spec: RunSpec,
    results: Path,
    device: str = "auto",
    accept: bool = False,
    prefix_cache_gb: float = GIGABYTES,
    logits: str = "compact",
    test_set: TestSet = AS_NAMED,
    watcher: Callable[[Mapping[str, Any]], None] = lambda values: None,
) -> Prepared:
    """Pass a run's test images through its network, unless predictions of the same lie in its folder; returns the data.

    Args:
        accept: take a checkpoint of another version, and its number into the record.
        prefix_cache_gb: what evaluations may keep for each other (`prefix_cache`), 0 nothing.
        test_set: what the configuration says of the data set that the run is evaluated on (``evaluate_on``).
        logits: ``compact`` or ``full`` (`predictions`). Full ones serve where compact ones are asked for.
        watcher: called after each batch with ``images``, those that are done, and ``of``, how many there are.

    Raises:
        PelError: the trained run is missing, or was trained from another spec, data or weights; or its logits are not finite,
            which ``evaluation-failed.json`` in its folder keeps.
    """
    if logits not in KINDS:
        raise PelError(f"logits={logits}: expected {' or '.join(KINDS)}")
    target, started = pick_device(device), time.strftime("%Y-%m-%dT%H:%M:%S%z")
    between = spec.wise_ft != 1
    data, classifier, info = load(spec, results, target, between and INITS[spec.init].start == "images", prefix_cache_gb)
    shifted = open_test_set(spec, results, data, test_set) if spec.evaluate_on else None
    start = classifier.trainable_state() if between else {}
    record = describe(spec, data, info, classifier)
    stored = load_trained(spec, results, classifier, record, accept) if spec.trains else {"training": None}
    record["parameters"] |= classifier.census()  # a head that remembers images has its size from the checkpoint
    trained = {stage: made_by(stored)[stage] for stage in ("prepare", "train")} if spec.trains else versions("prepare")
    record |= {"versions": trained | versions("predict"), "training": stored["training"]}
    record |= {key: stored[key] for key in ("delta_sha256", "parents", "soup") if key in stored}
    if shifted:
        data = shifted.data
        record |= shifted.record(record["data"])
        record["inputs"] = inputs_of(record)
    folder = run_folder(results, spec.slug)
    require_writable(folder)
    if is_predicted(folder, spec, record, logits):
        return data
    if between:
        classifier.interpolate(start, spec.wise_ft)
    cast_frozen_weights(classifier, PRECISIONS[spec.eval_precision])
    split = data.split(spec.split)
    workers = loader_workers(data.train.images is None, target)
    batches = EvalBatches(
        split, spec.tte, spec.expand, spec.pixels, spec.vit.mean, spec.vit.std, target, workers=workers,
        interpolation=spec.interpolation, random=RandomCrops(spec.crops, spec.seed, spec.crop_min_scale),
    )  # fmt: skip
    reset_peak_memory(target)
    clock = time.perf_counter()
    cache = PrefixCache(results, prefix_cache_gb)
    images = test_images(spec, results, info, split) if shifted is None else shifted.images(spec, info)
    done = 0

    def on_batch(count: int) -> None:
        nonlocal done
        done += count
        watcher({"images": done, "of": len(split.labels)})

    found = cache.predict(classifier, batches, spec.num_frozen_prefix_blocks, images, spec.eval_precision, on_batch)
    seconds = time.perf_counter() - clock
    said = found.numpy() if shifted is None else shifted.classes.restrict(found.numpy())
    # Removed first: a process that is killed in between leaves no logits beside a record that describes others.
    (folder / "predict.json").unlink(missing_ok=True)
    failed = failed_file(results, spec.slug, "predict")
    try:
        kind = write_predictions(folder / "logits.safetensors", said, np.asarray(split.labels), logits)
    except NotFinite as error:
        record |= {"failed": {"stage": "predict", "reason": error.reason}, "environment": environment(target, started)}
        write_json(failed, record)
        raise PelError(f"{error}. That it diverged is kept in {failed}: a study counts it as an outcome") from None
    failed.unlink(missing_ok=True)
    record["evaluation"] = {
        "tte": spec.tte,
        "crops": batches.crops,
        "precision": spec.eval_precision,
        "seconds": seconds,
        "images_per_second": len(found) / seconds,
        "peak_memory_mb": peak_memory_mb(target),
        "logits": kind,
    }
    record["environment"] = environment(target, started) | {"blocks_from_cache": cache.used}
    write_json(folder / "predict.json", record)
    return data


def is_predicted(folder: Path, spec: RunSpec, record: dict[str, Any], logits: str) -> bool:
    """Whether predictions of just this run, checkpoint, data and weights lie in its folder, stored at least so finely."""
    try:
        stored = read_json(folder / "predict.json", ("slug", "versions", "spec", "data", "backbone", "evaluation"))
        same = all(stored.get(key) == record.get(key) for key in ("slug", "versions", *TEXTS, "delta_sha256"))
        same = same and all(stored[key]["sha256"] == record[key]["sha256"] for key in ("data", "backbone"))
        same = same and stored.get("test_set") == record.get("test_set")
        fine = logits == "compact" or kind_of(stored) == "full"
        there = images_in(folder / "logits.safetensors") == record["data"]["test_images"]
        return same and fine and there and not differences(stored["spec"], spec)
    except (PelError, OSError, KeyError, TypeError):
        return False

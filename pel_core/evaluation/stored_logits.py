"""A post-hoc run's predictions from the logits that other runs have stored: averaged, stepped through, fitted on validation.

Shapes: N images, C classes. Torch-free.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pel_core.common.errors import PelError
from pel_core.evaluation.predictions import Predictions, read_logits
from pel_core.spec.posthoc import POSTHOC, VAL, fitting_runs, steps_of, stored_runs
from pel_core.spec.results import run_folder
from pel_core.spec.run_spec import RunSpec


def fit_steps(spec: RunSpec, results: Path, counts: Sequence[int]) -> dict[str, float]:
    """The number of each step of a run, in their order: as given, or fitted on the validation split of the same trainings.

    Args:
        counts: training images of each class (C,).

    Raises:
        PelError: predictions that it takes are missing or damaged.
    """
    steps, counts_C = steps_of(spec), np.asarray(counts)
    if VAL not in steps.values():
        return {name: float(value) for name, value in steps.items()}
    logits, labels = mean_logits([logits_file(results, run) for run in fitting_runs(spec)])
    found: dict[str, float] = {}
    for name, value in steps.items():
        step = POSTHOC[name]
        found[name] = step.fit(logits, labels, counts_C) if value == VAL else float(value)
        logits = step.apply(logits, counts_C, found[name])
    return found


def adjusted_predictions(spec: RunSpec, results: Path, counts: Sequence[int], values: Mapping[str, float]) -> Predictions:
    """What a post-hoc run says of the images of its split. ``values``: the number of each step (`fit_steps`).

    Raises:
        PelError: as `fit_steps`, or logits that are not finite after a step.
    """
    logits, labels = mean_logits([logits_file(results, run) for run in stored_runs(spec)])
    return Predictions.of(take_steps(logits, counts, values), labels)


def take_steps(logits: np.ndarray, counts: Sequence[int], values: Mapping[str, float]) -> np.ndarray:
    """Logits (N, C) after the steps, in the order of POSTHOC."""
    for name in POSTHOC:
        if name in values:
            logits = POSTHOC[name].apply(logits, np.asarray(counts), values[name])
    return logits


def mean_logits(files: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
    """The mean of stored logits (N, C), and the labels (N,) of their images; of one file its logits as they are.

    Raises:
        PelError: a file is missing or damaged, or they are of other images.
    """
    total, labels = read_logits(files[0])
    if len(files) == 1:
        return total, labels
    total = total.astype(np.float64)
    for file in files[1:]:
        logits, others = read_logits(file)
        if logits.shape != total.shape or not np.array_equal(labels, others):
            raise PelError(f"{files[0]} and {file} are of other images, so their logits have no mean; delete both and run again")
        total += logits
    return total / len(files), labels


def logits_file(results: Path, spec: RunSpec) -> Path:
    """Where a run that is not post-hoc keeps its logits."""
    return run_folder(results, spec.slug) / "logits.safetensors"


def posthoc_record(spec: RunSpec, records: Sequence[Mapping[str, Any]], values: Mapping[str, float]) -> dict[str, Any]:
    """What is known of a post-hoc run's predictions: as predict.json of the run (of an ensemble the first) whose logits it takes,
    with the steps' numbers; of an ensemble the time of all, and which checkpoints."""
    record = {**records[0], "slug": spec.slug, "spec": spec.to_json(), "posthoc": dict(values)}
    if len(records) == 1:
        return record
    for part in ("training", "evaluation"):
        if all(other.get(part) for other in records):
            record[part] = {**record[part], "seconds": sum(other[part]["seconds"] for other in records)}
    runs = {other["slug"]: other.get("delta_sha256") for other in records}
    return {**record, "ensemble": runs}

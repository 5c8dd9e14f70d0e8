"""Trainings that diverged: an outcome, which a run's folder keeps as ``failed.json``. Torch-free."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pel_core.common.errors import PelError
from pel_core.common.files import read_json
from pel_core.common.versions import STAGES, made_by
from pel_core.spec.results import invalid_reason, train_folder
from pel_core.spec.run_spec import RunSpec


def failed_file(results: str | Path, slug: str) -> Path:
    """Where it is kept that the training of a run diverged."""
    return train_folder(results, slug) / "failed.json"


def diverged(results: str | Path, slug: str, spec: RunSpec) -> dict[str, Any] | None:
    """The record of a training that diverged: what train.json says before training, and ``failed`` (reason, step, epoch, loss,
    learning_rate). None where there is none, or it is of another spec, data, weights or version than the run means now.

    A run that starts from one that diverged has its outcome too: ``failed`` then names that one as ``run``."""
    path = failed_file(results, slug)
    if not path.is_file() or not spec.trains:
        return next(filter(None, (_of_parent(results, parent, spec) for parent in spec.parent_specs)), None)
    try:
        record = read_json(path, ("slug", "spec", "failed"))
    except PelError:
        return None  # cut off: the training is made again
    meant = {**record, "metrics": {}, "versions": {**STAGES, **made_by(record)}}
    return None if invalid_reason(meant, spec.train, (), results) else record


def _of_parent(results: str | Path, parent: RunSpec, spec: RunSpec) -> dict[str, Any] | None:
    record = diverged(results, parent.slug, parent)
    if record is None or (train_folder(results, parent.slug) / "delta.safetensors").is_file():
        return None
    failed = {"run": parent.slug, **record["failed"]}
    failed["reason"] = f"the run it starts from, {parent.slug}, diverged: {record['failed']['reason']}"
    return {**record, "slug": spec.train.slug, "spec": spec.train.to_json(), "failed": failed}


def reason_of(record: Mapping[str, Any]) -> str:
    """Why it diverged, in words."""
    failed = record["failed"]
    where = f"at step {failed['step']} of epoch {failed['epoch']}, learning rate {failed['learning_rate']:g}"
    return f"{failed['reason']} {where}"

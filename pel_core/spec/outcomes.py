"""Runs that diverged, in training or in evaluation alone: an outcome, which a run's folder keeps as a file. Torch-free."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pel_core.common.errors import PelError
from pel_core.common.files import read_json
from pel_core.common.versions import STAGES, made_by
from pel_core.spec.posthoc import sources
from pel_core.spec.results import invalid_reason, run_folder, train_folder
from pel_core.spec.run_spec import RunSpec

Stage = Literal["train", "predict"]


def failed_file(results: str | Path, slug: str, stage: Stage = "train") -> Path:
    """Where it is kept that the training of a run diverged, or that its network gives logits that are not finite."""
    if stage == "train":
        return train_folder(results, slug) / "failed.json"
    return run_folder(results, slug) / "evaluation-failed.json"


def diverged(results: str | Path, slug: str, spec: RunSpec) -> dict[str, Any] | None:
    """The record of a run that diverged: of a training what train.json says before it, of an evaluation what predict.json does,
    and ``failed`` (reason; of a training also step, epoch, loss, learning_rate; of an evaluation ``stage``: predict). None where
    there is none, or it is of another spec, data, weights, version or checkpoint than the run means now.

    A run that starts from one that diverged has its outcome too: ``failed`` then names that one as ``run``."""
    runs = {run.slug: run for run in sources(spec)} or {slug: spec}  # a post-hoc run diverges as one that it is made of
    found = [_record(results, name, run, stage) for name, run in runs.items() for stage in ("train", "predict")]
    of_parents = (_of_parent(results, parent, spec) for parent in spec.parent_specs)
    return next((record for record in (*found, *of_parents) if record), None)


def _record(results: str | Path, slug: str, spec: RunSpec, stage: Stage) -> dict[str, Any] | None:
    path = failed_file(results, slug, stage)
    if not path.is_file() or (stage == "train" and not spec.trains):
        return None
    try:
        record = read_json(path, ("slug", "spec", "failed"))
        if stage == "predict" and spec.trains:
            trained = read_json(train_folder(results, slug) / "train.json", ("delta_sha256",))
            if trained["delta_sha256"] != record.get("delta_sha256"):
                return None
    except PelError:
        return None  # cut off, or its training is gone: it is made again
    meant = {**record, "metrics": {}, "versions": {**STAGES, **made_by(record)}}
    return None if invalid_reason(meant, spec.train if stage == "train" else spec, (), results) else record


def stage_of(record: Mapping[str, Any]) -> Stage:
    """In which stage it diverged."""
    return record["failed"].get("stage", "train")


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
    if stage_of(record) == "predict":
        return f"in evaluation, {failed['reason']}"
    where = f"at step {failed['step']} of epoch {failed['epoch']}, learning rate {failed['learning_rate']:g}"
    return f"{failed['reason']} {where}"

"""Trainings that may not be scored on a split, candidates of studies that say ``seal: test``: ``sealed.json`` of the results."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from pel_core.common.errors import PelError
from pel_core.common.files import read_json, write_json
from pel_core.common.shipped import snakemake
from pel_core.spec.run_spec import RunSpec

FILE = "sealed.json"


def set_seals(results: str | Path, study: str, split: str, trainings: Collection[str]) -> None:
    """Seal just these trainings for a study; without a split none: what it sealed before is open again."""
    path = Path(results) / FILE
    known = _read(path)
    sealed = {**known, study: {"split": split, "trainings": sorted(trainings)}}
    if not split:
        sealed.pop(study)
    if sealed != known:
        write_json(path, sealed)


def require_unsealed(results: str | Path, spec: RunSpec) -> None:
    """Refuse to score a sealed training, or what was made of one without training.

    Raises:
        PelError: it is sealed, or the file is damaged.
    """
    trainings = trainings_held(spec)
    for study, sealed in _read(Path(results) / FILE).items():
        if spec.split == sealed["split"] and (found := trainings & {*sealed["trainings"]}):
            what = "its training" if spec.train.slug in found else f"it trains no further than {min(found)}, which"
            raise PelError(
                f"{spec.slug}: {what} is a candidate of the study '{study}', which seals the {spec.split} split (seal: "
                f"{spec.split}): a candidate that is scored on it could be chosen by it. Give your row other seeds, or a results "
                "folder of its own"
            )


def trainings_held(spec: RunSpec) -> set[str]:
    """The trainings whose parameters a run holds: its own, and where that trains nothing those that it starts from."""
    own = {spec.train.slug}
    return own if spec.epochs else own.union(*map(trainings_held, spec.parent_specs))


def _read(path: Path) -> dict[str, dict[str, Any]]:
    known = read_json(path) if path.is_file() else {}
    forms = known.values() if isinstance(known, dict) else [None]
    if not all(isinstance(form, dict) and {"split", "trainings"} <= {*form} for form in forms):
        raise PelError(f"{path} is damaged: expected split and trainings of each study; remove it, and start {snakemake()} again")
    return known

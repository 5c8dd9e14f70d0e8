"""The versions of the four stages, stored in everything that is made and compared with everything that is read.

Raise the number of the stage whose numbers change for the same spec: what an older one made is then made again from there on, or
refused as stale by the stage's name. Records from before stages had numbers of their own hold ``engine: 1``: all four at 1.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pel_core.common.errors import PelError
from pel_core.common.shipped import snakemake

# Weights, data, decoded images, text features: a changed rendering, draw or conversion. Everything is made again.
PREPARE = 1
# A changed default, augmentation, initialisation, loss, optimiser; of a few entries alone:
# spec/revisions.py. tests/golden/defaults.json pins the defaults.
TRAIN = 1
# The forward pass over test images: a changed crop or ensemble. Trains nothing again.
PREDICT = 1
# Metrics and tables of predictions, from stored logits: seconds. A new name in METRICS scores again by itself.
SCORE = 1

STAGES = {"prepare": PREPARE, "train": TRAIN, "predict": PREDICT, "score": SCORE}
VERBS = {"prepare": "prepared", "train": "trained", "predict": "predicted", "score": "scored"}


def versions(*stages: str) -> dict[str, int]:
    """What a file stores that these stages have made now."""
    return {stage: STAGES[stage] for stage in stages}


def made_by(record: Mapping[str, Any]) -> dict[str, int]:
    """The versions that made a record (JSON, or the text metadata of a tensor file); a stage that had no part in it is left out.

    One with an ``engine``, or without any number, is from before stages were numbered apart.
    """
    if "versions" in record:
        stored = record["versions"]
        stored = json.loads(stored) if isinstance(stored, str) else stored
        if any(stage in stored for stage in STAGES):
            return {stage: int(stored[stage]) for stage in STAGES if stage in stored}
    return dict.fromkeys(STAGES, int(record.get("engine", 1)))


def stale(record: Mapping[str, Any], stages: Iterable[str] = STAGES) -> str:
    """``trained by version 1, this is 2`` of the first stage whose version is another now; empty where there is none."""
    made = made_by(record)
    other = (stage for stage in stages if made.get(stage, STAGES[stage]) != STAGES[stage])
    return next((f"{VERBS[stage]} by version {made[stage]}, this is {STAGES[stage]}" for stage in other), "")


def check_versions(path: str | Path, record: Mapping[str, Any], again: str = f"prepare it again ({snakemake()} does)") -> None:
    """Refuse a prepared or trained file of another version. One without a number is from before numbers were stored.

    Raises:
        PelError: stale.
    """
    if reason := stale(record, ("prepare", "train")):
        raise PelError(f"{path} is stale: {reason}, whose numbers may differ; {again}")

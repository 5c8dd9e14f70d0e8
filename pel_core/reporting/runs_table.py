"""Where every run of a study comes from: a line per run with its code, data, weights, machine, times, numbers. Torch-free."""

import csv
import io
from collections.abc import Mapping
from typing import Any

from pel_core.common.versions import made_by
from pel_core.spec.outcomes import reason_of
from pel_core.spec.results import METRICS, read_result
from pel_core.studies.study import Study

VERSIONS = ("pel_core", "python", "torch", "numpy")
DIGITS = 12  # of a hash in Markdown; CSV has them whole
SHORT = ("overall", "head", "med", "tail")  # metrics in Markdown; CSV has all


def run_row(record: Mapping[str, Any]) -> dict[str, Any]:
    """A run's line: what a result says of itself; empty where it says nothing (zero-shot trains nothing)."""
    data, backbone, environment = record["data"], record["backbone"], record.get("environment") or {}
    tested = record.get("test_set") or {}  # of a run that is evaluated on another data set's images
    training, evaluation = record.get("training") or {}, record.get("evaluation") or {}
    row = {
        "run": record["slug"],
        "outcome": reason_of(record) if "failed" in record else "",
        "versions": " ".join(f"{stage}={number}" for stage, number in made_by(record).items()),
        "commit": environment.get("commit"),
        "data": data.get("name"),
        "data_sha256": data.get("sha256"),
        "test_set": tested.get("name"),
        "test_set_sha256": tested.get("sha256"),
        "backbone": backbone.get("name"),
        "backbone_sha256": backbone.get("sha256"),
        "device": environment.get("device"),
        "gpu_uuid": (environment.get("gpu") or {}).get("uuid"),
        "platform": environment.get("platform"),
        "started": environment.get("started"),
        "train_seconds": training.get("seconds"),
        "evaluate_seconds": evaluation.get("seconds"),
        "learnable_with_head": record.get("parameters", {}).get("learnable_with_head"),
    }
    row |= {f"version_{name}": environment.get(name) for name in VERSIONS}
    return row | {name: record.get("metrics", {}).get(name) for name in METRICS}


def runs_files(study: Study) -> dict[str, str]:
    """The table of all runs as ``csv`` and ``md``.

    Raises:
        PelError: a run has no usable result.
    """
    rows = [run_row(study.diverged(slug) or read_result(study.results, spec, study.accept)) for slug, spec in study.specs.items()]
    return {"csv": _csv(rows), "md": _markdown(study, rows)}


def _csv(rows: list[dict[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _markdown(study: Study, rows: list[dict[str, Any]]) -> str:
    hidden = {"gpu_uuid", "platform", *METRICS} - set(SHORT)
    hidden |= set() if any(row["test_set"] for row in rows) else {"test_set", "test_set_sha256"}
    names = [name for name in rows[0] if name not in hidden]
    head = f"## Runs of {study.title}\n\nHashes are shortened; `provenance.csv` beside this file has them whole.\n\n"
    lines = [f"| {' | '.join(names)} |", f"|{' --- |' * len(names)}"]
    lines += [f"| {' | '.join(_cell(name, row[name]) for name in names)} |" for row in rows]
    return head + "\n".join(lines) + "\n"


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.2f}"
    text = str(value).replace("|", "\\|")
    return text[:DIGITS] + ("+" if text.endswith("+") else "") if name == "commit" or name.endswith("sha256") else text

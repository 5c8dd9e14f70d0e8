"""All finished runs of a results folder as one tidy frame."""

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from pel_core.common.errors import PelError
from pel_core.common.logs import logger
from pel_core.common.paths import user_path
from pel_core.common.shipped import command, snakemake_or_make
from pel_core.door.plugin import use_plugins
from pel_core.reporting.runs_table import run_row
from pel_core.spec.choices import METRICS
from pel_core.spec.outcomes import diverged, reason_of
from pel_core.spec.plugins import parse_run
from pel_core.spec.records import number, why_none
from pel_core.spec.results import invalid_reason, read_record, result_files, slug_of
from pel_core.spec.run_spec import RunSpec
from pel_core.spec.values import value_path

FIRST = ("run", "metric", "value", "reason")
IDENTITY = ("dataset", "backbone", "method", "seed")
# Of a run's line in provenance.csv, beside what the spec says: where the numbers come from.
ORIGIN = (
    "data_sha256", "backbone_sha256", "commit", "versions", "device", "started", "train_seconds", "evaluate_seconds",
    "learnable_with_head",
)  # fmt: skip
DIVERGED = "diverged"
TOLD = 5  # runs without a usable result that the log names
STAGES = ("metrics.json", "train.json", "failed.json", "evaluation-failed.json")  # files that tell of a run


def results(
    folder: str | os.PathLike[str] = "results", values: Iterable[str] | None = None, *, accept: Collection[str] = ()
) -> pd.DataFrame:
    """The finished runs of a results folder: a row for each run and metric.

    Columns: ``run`` (its name), ``metric``, ``value`` (NaN where a run has no such number, then ``reason`` says why), what the
    run is (``dataset``, ``backbone``, ``method``, ``seed``, then every option by its name in a study; those of an entry that a
    run has not chosen are empty), and where its numbers come from (hashes of data and weights, commit, device, seconds).

    Runs that are not finished or cannot be used are left out: the log says so, and ``frame.attrs["left_out"]`` has all of them
    with the reason.

    Args:
        values: metrics, or paths such as ``parameters.learnable_with_head`` or ``training.seconds``, as a study writes them; by
            default every metric.
        accept: runs whose results of another version are accepted by name.

    Raises:
        PelError: the folder does not exist or holds no runs, or a value that there is not.
    """
    use_plugins()
    root = user_path(os.fspath(folder))
    asked = [(value, value_path(value)) for value in (METRICS if values is None else values)]
    specs, left_out = _runs(root)
    evaluated = {slug_of(path.parent) for path in result_files(root)}
    trainings = {specs[slug].train.slug for slug in evaluated if slug in specs}
    rows: list[dict[str, Any]] = []
    for slug, spec in specs.items():
        record, why = _usable(root, slug, spec, accept)
        if record is None and (slug in evaluated or slug not in trainings or why.startswith(DIVERGED)):
            left_out[slug] = why  # else a training that has no evaluation of its own, but others
        elif record is None:
            continue
        else:
            rows += _rows(record, asked)
    if not specs and not left_out:
        raise _no_runs(root)
    _tell(left_out, len(specs))
    frame = pd.DataFrame(rows, columns=_columns(rows))
    frame.attrs["left_out"] = left_out
    return frame


def _runs(root: Path) -> tuple[dict[str, RunSpec], dict[str, str]]:
    """The runs that the folder tells of, by name in order, and those whose name means nothing here, with the reason."""
    specs, unknown = {}, {}
    for slug in sorted({slug_of(path.parent) for stage in STAGES for path in result_files(root, stage)}):
        try:
            specs[slug] = parse_run(slug, root)
        except PelError as error:
            unknown[slug] = str(error)
    return specs, unknown


def _usable(root: Path, slug: str, spec: RunSpec, accept: Collection[str]) -> tuple[Mapping[str, Any] | None, str]:
    """A run's result; or None, and why there is none that can be used."""
    if failed := diverged(root, slug, spec):
        return None, f"{DIVERGED}: {reason_of(failed)}"
    path = next((file for file in result_files(root, run=spec.train.slug) if slug_of(file.parent) == slug), None)
    path = path or root / "runs" / slug / "metrics.json"  # of before evaluations lay inside
    if not path.is_file():
        return None, "trained, not evaluated: " + command(f"evaluate '{slug}' --results '{root}'")
    try:
        record: Mapping[str, Any] = read_record(path)
        reason = invalid_reason(record, spec, accept, root)
    except PelError as error:
        return None, str(error)
    return (None, reason) if reason else (record, "")


def _rows(record: Mapping[str, Any], asked: Iterable[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    about, spec, row = {"run": record["slug"]}, record["spec"], run_row(record)
    options = {name: ",".join(map(str, value)) if isinstance(value, list) else value for name, value in spec.items()}
    rest = {**options, **{name: row[name] for name in ORIGIN}}
    for name, path in asked:
        value = number(record, path)
        reason = "" if value is not None else why_none(record, path)
        yield {**about, "metric": name, "value": float("nan") if value is None else float(value), "reason": reason, **rest}


def _columns(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """What a frame has, in its order: options of entries that only some runs chose stand behind those of every run."""
    found = dict.fromkeys(name for row in rows for name in row)
    ends = {*FIRST, *IDENTITY, *ORIGIN}
    options = sorted((name for name in found if name not in ends), key=lambda name: "." in name)
    return [*FIRST, *IDENTITY, *options, *ORIGIN]


def _tell(left_out: Mapping[str, str], known: int) -> None:
    for slug, reason in list(left_out.items())[:TOLD]:
        logger.warning("left out: %s: %s", slug, reason)
    if (more := len(left_out) - TOLD) > 0:
        logger.warning("left out: %d more of %d runs; frame.attrs['left_out'] has all", more, known)


def _no_runs(root: Path) -> PelError:
    """That there are none in the folder, and where some are, if they are near."""
    made = f"{snakemake_or_make('make study, snakemake')} or pel.train make some"
    if not root.is_dir():
        return PelError(f"the results folder {root} does not exist (looked from {Path.cwd()}); {made}")
    for near in (root.parent, root.parent.parent, root / "results"):
        if result_files(near) or result_files(near, "train.json"):
            return PelError(f"{root} is no results folder, {near} is: give that one")
    return PelError(f"{root} holds no runs (expected runs/RUN/metrics.json in it); {made}")

"""The stage `score`: stored predictions -> ``metrics.json`` and the files of `outputs`; seconds for many runs, and no torch.

A pure function of what `predict` has stored and of the prepared data's names and groups: scoring again gives the same bits.
A post-hoc run (`spec.posthoc`) has no predictions of its own: it is scored from the logits of the runs that it is made of.
"""

import os
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

from pel_core.common.errors import PelError
from pel_core.common.files import read_json, require_writable, write_json
from pel_core.common.logs import logger
from pel_core.common.versions import made_by, versions
from pel_core.data.datasets import Prepared, open_prepared, split_name
from pel_core.data.factors import Factors
from pel_core.data.subsets import group_rules
from pel_core.evaluation.metrics import score_predictions
from pel_core.evaluation.outputs import write_outputs
from pel_core.evaluation.predictions import Predictions, read_predictions
from pel_core.evaluation.shifted import stored_test_set
from pel_core.evaluation.stored_logits import adjusted_predictions, fit_steps, logits_file, posthoc_record
from pel_core.spec.plugins import other_plugins, with_plugins
from pel_core.spec.posthoc import fitting_runs, is_ensemble, is_posthoc, sources, stored_runs
from pel_core.spec.results import head_is_scored, inputs_of, needs_score, result_files, run_folder, scoring, slug_of
from pel_core.spec.run_spec import RunSpec, differences
from pel_core.training.model_card import write_card

SEEN = ("predict.json", "logits.safetensors")
_opening = Lock()


def score_run(spec: RunSpec, results: Path, data: Prepared | None = None, replace_only: bool = False) -> dict[str, Any]:
    """Score the predictions of a run and write its result; returns the record.

    Args:
        data: the prepared data set, where it is open already.
        replace_only: leave a result alone that is not there (any more) or whose predictions were replaced meanwhile: a process
            that predicts the run is at work on it, and scores it itself.

    Raises:
        PelError: there are no predictions, they are damaged, of another spec than the run's name means now, or of other data than
            are prepared.
    """
    folder = run_folder(results, spec.slug)
    seen = _state(results, spec)
    data = data or data_of(spec, results)
    record, predictions = _read(spec, results, data)
    metrics = score_predictions(predictions, data.groups, group_rules(spec.factors))
    made = {stage: number for stage, number in made_by(record).items() if spec.trains or stage != "train"}
    head = {
        "slug": spec.slug,
        "versions": made | versions("score"),
        "scored": scoring(),
        "inputs": inputs_of(record),
    }  # first, for planning
    tail = {key: record[key] for key in ("training", "evaluation", "environment")}
    rest = {key: value for key, value in record.items() if key not in {*head, *tail, "engine", "metrics"}}
    record = head | rest | {"metrics": metrics} | tail
    if replace_only and (_state(results, spec) != seen or not (folder / "metrics.json").is_file()):
        return record
    write_outputs(folder, spec, data, results, predictions)
    write_json(folder / "metrics.json", record)
    if spec.trains and not is_ensemble(spec):
        write_card(run_folder(results, spec.train.slug), record)
    return record


def _read(spec: RunSpec, results: Path, data: Prepared) -> tuple[dict[str, Any], Predictions]:
    """What is known of a run's predictions, and what they say.

    Raises:
        PelError: as `score_run`.
    """
    if not is_posthoc(spec):
        return _record(spec, results, data), read_predictions(logits_file(results, spec))
    records = [_record(run, results, data) for run in stored_runs(spec)]
    for run in fitting_runs(spec):
        _record(run, results, data)
    counts = records[0]["data"]["train_counts"]
    values = fit_steps(spec, results, counts)
    record = posthoc_record(spec, records, values) | with_plugins(spec)
    return record, adjusted_predictions(spec, results, counts, values)


def _record(spec: RunSpec, results: Path, data: Prepared) -> dict[str, Any]:
    """What is known of the stored predictions of a run that is not post-hoc, which are of this spec, plugins and data."""
    folder = run_folder(results, spec.slug)
    record = stored_predictions(folder)
    if changed := differences(record["spec"], spec):
        raise PelError(f"{folder}: predicted from another spec ({'; '.join(changed)}); delete the folder and run again")
    if reason := other_plugins(record, spec):
        raise PelError(f"{folder}: its predictions were {reason}; delete the folder and run again, or give the earlier file")
    if data.sha256 != record["data"]["sha256"]:
        raise PelError(f"{folder}: its predictions are of other data than are prepared; delete the folder and run again")
    return record


def stored_predictions(folder: Path) -> dict[str, Any]:
    """What is known of the predictions in a run's folder: its predict.json; of those from before there was one, metrics.json.

    Raises:
        PelError: neither is there.
    """
    path = folder / "predict.json"
    path = path if path.is_file() or not (folder / "metrics.json").is_file() else folder / "metrics.json"
    return read_json(path, ("slug", "spec", "data", "backbone", "training", "evaluation", "environment"))


def _state(results: Path, spec: RunSpec) -> list[tuple[int, int] | None]:
    """What tells the files that a run is scored from, and its result, from those that replaced them."""

    def stamp(path: Path) -> tuple[int, int] | None:
        try:
            status = os.stat(path)
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns

    runs = sources(spec) or (spec,)
    files = [run_folder(results, run.slug) / name for run in runs for name in SEEN]
    return [*map(stamp, files), stamp(run_folder(results, spec.slug) / "metrics.json")]


def data_of(spec: RunSpec, results: Path) -> Prepared:
    """The prepared data set of a run; of one that is evaluated on another, as its predictions say."""
    data = _prepared(results / "data" / split_name(spec.dataset)[0], spec)
    if not spec.evaluate_on:
        return data
    record = stored_predictions(run_folder(results, stored_runs(spec)[0].slug))
    return stored_test_set(spec, results, data, record)


def _prepared(folder: Path, spec: RunSpec) -> Prepared:
    with _opening:  # once, whichever threads ask for it
        return _open(folder, spec.dataset, spec.factors, (folder / "data.json").stat().st_mtime_ns if folder.is_dir() else 0)


@cache
def _open(folder: Path, dataset: str, factors: Factors, changed: int) -> Prepared:
    return open_prepared(folder, dataset, factors=factors)


@dataclass
class Scored:
    """Runs that were scored, and those that could not be, with the reason."""

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def score_runs(
    results: Path, runs: Sequence[str] = (), accept: Collection[str] = (), threads: int = 1, stamp: Path | None = None
) -> Scored:
    """Score runs in one process: those that are named, or all of a results folder whose scores are of another version of SCORE or
    lack a metric, and whose predictions lie there and can be used.

    Args:
        runs: slugs.
        accept: slugs whose results of another version are accepted as they are.
        threads: that score at once.
        stamp: a file to write at the end, which says how results are scored now.

    Raises:
        PelError: no run is called by one of the names; none at all can be written.
    """
    outcome = Scored()

    def one(spec: RunSpec) -> None:
        try:
            require_writable(run_folder(results, spec.slug))
            score_run(spec, results, replace_only=not runs)
            outcome.done.append(spec.slug)
        except (PelError, OSError, KeyError, TypeError) as error:
            outcome.failed[spec.slug] = str(error) or type(error).__name__

    with ThreadPoolExecutor(max(1, threads)) as pool:
        list(pool.map(one, map(RunSpec.parse, runs) if runs else _to_score(results, accept)))
    for slug, reason in outcome.failed.items():
        logger.warning("not scored: %s: %s", slug, reason)
    if stamp:
        write_json(stamp, {"scored": scoring()})
    return outcome


def _to_score(results: Path, accept: Collection[str]) -> list[RunSpec]:
    specs = []
    for path in result_files(results):
        if head_is_scored(path):
            continue
        try:
            spec = RunSpec.parse(slug_of(path.parent))
        except PelError:
            continue  # of another program, or a name that means nothing now
        if needs_score(results, spec, accept):
            specs.append(spec)
    return specs

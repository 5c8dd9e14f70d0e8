"""Results: where a run's files lie, its ``metrics.json`` read strictly. Torch-free.

A result is used only if it is there, comes from these versions of the stages, stores the spec its name means now, and was made
from the data and weights that lie prepared beside it.
"""

import hashlib
import os
import re
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pel_core.common.errors import PelError
from pel_core.common.files import read_json
from pel_core.common.plugins import used
from pel_core.common.shipped import command, make, making, program, snakemake, snakemake_or_make
from pel_core.common.versions import SCORE, STAGES, made_by, stale
from pel_core.data.datasets import content_hash, split_name
from pel_core.data.factors import AS_IS, Factors
from pel_core.data.test_sets import content_of
from pel_core.spec.choices import METRICS
from pel_core.spec.options import is_evaluation
from pel_core.spec.plugins import other_plugins, with_plugins
from pel_core.spec.posthoc import sources
from pel_core.spec.records import damage
from pel_core.spec.revisions import KEY, revised
from pel_core.spec.run_spec import OVERRIDE, SLUG, RunSpec, differences

# What scoring writes beside metrics.json for others to build on (docs/outputs.md).
MADE_AGAIN = "makes it again"  # a reason that holds this needs nothing but the next call of Snakemake
OUTPUTS = ("predictions.parquet", "confusion.csv", "classes.csv")


def run_folder(results: str | Path, slug: str) -> Path:
    """Where the files of a run lie. An evaluation that departs from its training's own lies inside the training's folder:
    ``runs/x.s0`` holds the run ``x.s0``, ``runs/x.s0/tte=none`` the run ``x.s0.tte=none``. A name that is no run stays whole."""
    return Path(results, "runs", *_folders(slug))


def train_folder(results: str | Path, slug: str) -> Path:
    """Where the files of a run's training lie."""
    return Path(results, "runs", _folders(slug)[0])


@cache
def _folders(slug: str) -> tuple[str, ...]:
    name = SLUG.fullmatch(slug)  # evaluation's options are the last of it
    options = OVERRIDE.finditer(slug, name.start("overrides")) if name else iter(())
    start = next((option.start() for option in options if is_evaluation(option[1])), None)
    return (slug,) if start is None else (slug[:start], slug[start + 1 :])


def slug_of(folder: str | Path) -> str:
    """The run whose files lie in a folder: the inverse of `run_folder`."""
    parts = Path(folder).parts[-2:]
    option = OVERRIDE.match(f".{parts[-1]}")
    return ".".join(parts if option and is_evaluation(option[1]) else parts[-1:])


def metrics_file(results: str | Path, slug: str) -> Path:
    """Where a run's result lies."""
    return run_folder(results, slug) / "metrics.json"


def result_files(results: str | Path, name: str = "metrics.json", run: str = "*") -> list[Path]:
    """Every file of that name in a results folder, of all runs or those whose training's name fits a pattern, in order."""
    runs = Path(results) / "runs"
    return sorted([*runs.glob(f"{run}/{name}"), *runs.glob(f"{run}/*=*/{name}")])


@cache
def scoring() -> str:
    """What scores depend on besides predictions, in a word: the version of SCORE, the names of the metrics, and the content of
    plugins that define some."""
    return hashlib.sha256(" ".join([str(SCORE), *METRICS, *used(METRICS.entries()).values()]).encode()).hexdigest()[:12]


INPUT_PARTS = ("data", "backbone", "test_set")  # of a record, with the sha256 of what was read
HEAD = 1024  # bytes of a record that hold `scored` and `inputs`; reading 2,000 files whole would slow planning
INPUTS = re.compile(rb'"inputs": \{\s*"data": "([0-9a-f]{64})",\s*"backbone": "([0-9a-f]{64})"\s*\}')


def needs_score(results: str | Path, spec: RunSpec, accept: Collection[str] = ()) -> bool:
    """Whether a run's metrics are of another scoring, while its predictions can be used and lie there."""
    path = metrics_file(results, spec.slug)
    runs = sources(spec) or (spec,)
    if head_is_scored(path) or not all((run_folder(results, run.slug) / "logits.safetensors").is_file() for run in runs):
        return False
    try:
        record = read_record(path)
    except PelError:
        return False
    if not _is_result(record) or (spec.slug in accept and stale(record, stages_of(spec))):
        return False  # what is accepted by name stays as it is
    made = {**record, "versions": {**made_by(record), "score": SCORE}}
    return not is_scored(record) and not invalid_reason(made, spec, accept, results)


def head_is_scored(path: Path) -> bool:
    """Whether the beginning of a metrics.json says that it is of this scoring; also where there is none, so nothing to score."""
    try:
        with open(path, "rb") as handle:
            return f'"scored": "{scoring()}"'.encode() in handle.read(HEAD)
    except OSError:
        return True


def is_scored(record: Mapping[str, Any]) -> bool:
    """Whether the metrics of a result are those of this scoring. One from before says no ``scored``: its metrics show."""
    if "scored" in record:
        return record["scored"] == scoring()
    return made_by(record)["score"] == SCORE and set(METRICS) <= set(record["metrics"])


def read_record(path: Path) -> Any:
    """A metrics.json, of whichever program and version: what `invalid_reason` judges.

    Raises:
        PelError: it is missing, no JSON, or was edited or damaged so that no evaluation can have written it; the message names
            file and key, and the command that makes it again.
    """
    try:
        record = read_json(path)
        if reason := damage(record) if _is_result(record) else "":
            raise PelError(f"{path}: {reason}; the file was edited or damaged")
    except PelError as error:
        if not path.is_file():
            raise
        again = f"delete it and run again ({make('study')})"
        if (path.parent / "logits.safetensors").is_file():
            slug = slug_of(path.parent)
            results = path.parents[3 if path.parent.name != slug else 2]
            again = f"make it again from its predictions: {program()} score '{slug}' --results '{results}'"
        raise PelError(f"{str(error).removesuffix('; delete it and run again')}; {again}") from None
    return record


def read_result(results: str | Path, spec: RunSpec, accept: Collection[str] = ()) -> dict[str, Any]:
    """A run's result.

    Args:
        results: the results folder.
        spec: the run.
        accept: slugs whose results of another version are accepted by name.

    Raises:
        PelError: it is missing, damaged, stale (of another version of a stage), of another spec than the slug means now, or of
            other data or weights than are prepared; each names the run and says what to do.
    """
    path = metrics_file(results, spec.slug)
    if not path.is_file():
        how = making(f"'{path}'")
        raise PelError(f"the run {spec.slug} has no result: {path} is missing. Make it with: {how}")
    record = read_record(path)
    if reason := invalid_reason(record, spec, accept, results):
        raise PelError(f"{path}: {reason}")
    return record


def invalid_reason(record: Any, spec: RunSpec, accept: Collection[str] = (), results: str | Path | None = None) -> str:
    """Why a record cannot stand for ``spec`` now; empty where it can.

    ``results`` is the folder whose prepared data and weights it is compared with, as far as they are there; a result of
    another version that is accepted is not.
    """
    if not _is_result(record):
        return "not a result of this program (slug, versions, spec and metrics are expected); delete it and run again"
    if record["slug"] != spec.slug:
        return f"it holds the result of {record['slug']}; delete the folder and run again"
    old = stale(record, stages_of(spec))
    if old and spec.slug not in accept:
        again = "Delete the folder and run again"
        if not stale(record, [stage for stage in stages_of(spec) if stage != "score"]):
            again = f"Score it again ({snakemake()} does; or {command('score')}), if its logits are gone delete it and run again"
        return f"stale: {old}, whose numbers may differ. {again}, or accept it by name in the config (accept: ['{spec.slug}'])"
    if changed := differences(record["spec"], spec):
        if len(changed) == 1 and changed[0].startswith(f"{KEY}:"):
            return f"its numbers are others since a change: {spec.to_json()[KEY]}. {_maker()} {MADE_AGAIN}"
        return (
            f"the name {spec.slug} means something else now ({'; '.join(changed)}): a default or recipe changed. "
            "Delete the folder and run again, or change it back"
        )
    if reason := other_plugins(record, spec):
        return f"{reason}. {_maker()} {MADE_AGAIN}; or give the earlier file"
    if results is not None and not old:
        return _other_inputs(record, spec, Path(results))
    return ""


def stages_of(spec: RunSpec) -> tuple[str, ...]:
    """The stages that make a run's result: zero-shot trains nothing."""
    return tuple(stage for stage in STAGES if spec.trains or stage != "train")


def _is_result(record: Any) -> bool:
    needed = {"slug", "spec", "metrics"}
    return isinstance(record, Mapping) and needed <= set(record) and not {"versions", "engine"}.isdisjoint(record)


def _other_inputs(record: Mapping[str, Any], spec: RunSpec, results: Path) -> str:
    stored = {part: record.get(part, {}).get("sha256") for part in INPUT_PARTS}
    reason = _differing(stored, spec, results) or _other_test_set(record, spec, results)
    if reason := reason or _other_parents(record, spec, results):
        return f"{reason}. {_maker()} {MADE_AGAIN}; or prepare the earlier one again"
    return ""


def _maker() -> str:
    return snakemake_or_make("snakemake (make study)")


def read_other_inputs(path: Path, spec: RunSpec, results: Path) -> str:
    """Whether the record in a file (train.json, metrics.json) is of other data, weights, parents or plugins than there are now,
    or of before its numbers were revised, and which, in words; empty where it is not, says nothing of them, or is not there. Of a
    new record only the beginning is read, unless the run has parents, plugins, another test set or revised numbers."""
    try:
        with open(path, "rb") as handle:
            head = INPUTS.search(handle.read(HEAD))
        whole = spec.parents or spec.evaluate_on or revised(spec) or with_plugins(spec) or not head
        record = read_json(path) if whole else {}
        if head:
            stored = {"data": head[1].decode(), "backbone": head[2].decode()}
        else:
            stored = {part: record[part]["sha256"] for part in INPUT_PARTS if part in record}
        other = _differing(stored, spec, results) or _other_test_set(record, spec, results)
        other = other or _other_parents(record, spec, results) or _not_yet_revised(record, spec)
        return other or (other_plugins(record, spec) if with_plugins(spec) else "")
    except (PelError, OSError, KeyError, TypeError):
        return ""  # not there, of another program, or damaged: whoever opens it says so


def inputs_of(record: Mapping[str, Any]) -> dict[str, str]:
    """What a record says of its inputs near its beginning, where planning reads it (`read_other_inputs`)."""
    return {part: record[part]["sha256"] for part in INPUT_PARTS if part in record}


def _differing(stored: Mapping[str, Any], spec: RunSpec, results: Path) -> str:
    base = split_name(spec.dataset)[0]
    now = {
        "data": _prepared_hash(results / "data" / base / "data.json", spec.dataset, spec.factors),
        "backbone": _prepared_hash(results / "backbones" / spec.backbone / "backbone.json"),
    }
    for part, word in (("data", f"data set {base}"), ("backbone", f"weights of {spec.backbone}")):
        if now[part] and stored[part] != now[part]:
            return f"made from another {word} ({str(stored[part])[:12]}) than is prepared now ({now[part][:12]})"
    return ""


def _not_yet_revised(record: Mapping[str, Any], spec: RunSpec) -> str:
    """Whether a record is of before what its run computes was changed (`spec.revisions`), in words."""
    now = revised(spec).get(KEY)
    return f"made before a change, since which {now}" if now and record["spec"].get(KEY) != now else ""


def _other_test_set(record: Mapping[str, Any], spec: RunSpec, results: Path) -> str:
    """Whether a result is of other images of the data set that it is evaluated on than are prepared, in words: of its test split,
    or of all of its images, as the record says which."""
    path, stored = results / "data" / spec.evaluate_on / "data.json", record.get("test_set")
    if not spec.evaluate_on or not stored or not path.is_file():
        return ""
    if stored["sha256"] == (now := content_of(read_json(path), stored["images"])):
        return ""
    return f"made from other images of {spec.evaluate_on} ({str(stored['sha256'])[:12]}) than are prepared now ({now[:12]})"


def _other_parents(record: Mapping[str, Any], spec: RunSpec, results: Path) -> str:
    """Why a record is of other parents than lie there now; a parent that does not lie there says nothing."""
    stored = {parent["slug"]: parent["delta_sha256"] for parent in record.get("parents", ())}
    for parent in spec.parent_specs:
        path = train_folder(results, parent.slug) / "train.json"
        now = read_json(path).get("delta_sha256") if path.is_file() else None
        if now and stored.get(parent.slug) != now:
            return (
                f"made from another training of {parent.slug} ({str(stored.get(parent.slug))[:12]}) than lies there ({now[:12]})"
            )
        if reason := read_other_inputs(path, parent, results):
            return f"made from {parent.slug}, which was {reason}"
    return ""


def _prepared_hash(path: Path, dataset: str = "", factors: Factors = AS_IS) -> str | None:
    """The hash of what lies prepared, None where nothing does."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return _read_hash(path, dataset, factors, status.st_mtime_ns)


@cache
def _read_hash(path: Path, dataset: str, factors: Factors, changed: int) -> str | None:
    about = read_json(path)
    try:
        return content_hash(about, dataset, factors) if dataset else about["sha256"]
    except (KeyError, TypeError):
        return None  # of another program: whoever opens it says so

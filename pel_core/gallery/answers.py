"""What runs said of test images, from the tables that scoring stored. Shapes: N images, C classes."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pel_core.common.errors import PelError
from pel_core.common.files import read_json
from pel_core.data.datasets import Prepared, open_prepared, split_name
from pel_core.data.split import Split
from pel_core.spec.posthoc import stored_runs
from pel_core.spec.results import OUTPUTS, metrics_file, run_folder
from pel_core.spec.run_spec import RunSpec
from pel_core.studies.study import Study

GROUPS = ("head", "med", "tail")


@dataclass(frozen=True)
class Answers:
    """A run's: its name and label, its most probable class (N,) and that class's probability (N,)."""

    slug: str
    label: str
    predicted: np.ndarray
    probability: np.ndarray


@dataclass(frozen=True)
class AnsweredSet:
    """Images that several runs answered: the data set, the split, and the answers in order; ``base``: whose images they are."""

    data: Prepared
    split: Split
    name: str
    answers: tuple[Answers, ...]
    base: str = ""

    def summary(self, answers: Answers) -> dict[str, Any]:
        """Accuracy in percent of all images and of each group; None where a group has no test images."""
        hit = answers.predicted == self.split.labels
        of = np.array(self.data.groups)[self.split.labels]
        means = {"all": hit.mean()} | {name: hit[of == name].mean() if (of == name).any() else None for name in GROUPS}
        return {name: None if mean is None else round(100 * float(mean), 2) for name, mean in means.items()}


def of_runs(specs: Mapping[str, RunSpec], results: Path, labels: Mapping[str, str] | None = None) -> list[AnsweredSet]:
    """The test sets of runs (specs by slug), each with all its runs; ``labels``: what runs are called.

    Raises:
        PelError: a run has not been evaluated, or its table is not of the prepared images.
    """
    sets: dict[tuple[Any, ...], AnsweredSet] = {}
    for slug, spec in specs.items():
        key, one = _answered(spec, results, sets)
        sets.setdefault(key, one)
        found = _read(sets[key], slug, results, (labels or {}).get(slug) or _short(spec))
        sets[key] = replace(sets[key], answers=(*sets[key].answers, found))
    return [_apart(one) for one in sets.values()]


def _answered(spec: RunSpec, results: Path, known: Mapping[tuple[Any, ...], AnsweredSet]) -> tuple[tuple[Any, ...], AnsweredSet]:
    """The images that a run answered, without answers, and what they are known by: of ``known`` ones, or opened."""
    if spec.evaluate_on:  # whose images and classes its predictions say
        from pel_core.evaluation.score import data_of, stored_predictions

        record = stored_predictions(run_folder(results, stored_runs(spec)[0].slug))
        images = "test" if record["test_set"]["images"] == "test" else "all"
        key = spec.dataset, spec.factors, spec.evaluate_on, json.dumps(record["test_set"], sort_keys=True)
        if key in known:
            return key, known[key]
        data = data_of(spec, results)
        name = f"{spec.dataset} evaluated on {spec.evaluate_on}, {images} images"
        return key, AnsweredSet(data, data.test, name, (), spec.evaluate_on)
    key = spec.dataset, spec.factors, spec.split
    if key in known:
        return key, known[key]
    base = split_name(spec.dataset)[0]
    data = open_prepared(results / "data" / base, spec.dataset, factors=spec.factors)
    return key, AnsweredSet(data, data.split(spec.split), f"{spec.dataset}, {spec.split} images", (), base)


def of_study(study: Study) -> list[AnsweredSet]:
    """The test sets of a study: of every row its first seed, called as the study calls it.

    Raises:
        PelError: none of its runs has been evaluated.
    """
    labels: dict[str, str] = {}
    for artefact in study.artefacts.values():
        rows = artefact.declaration.get(artefact.how.rows) or []
        for cell in artefact.cells:
            if cell.specs and cell.row < len(rows) and isinstance(rows[cell.row], Mapping):
                labels.setdefault(cell.specs[0].slug, str(rows[cell.row].get("label", "")))
    specs = {slug: study.specs[slug] for slug in labels if metrics_file(study.results, slug).with_name(OUTPUTS[0]).is_file()}
    if not specs:
        raise PelError(f"the study {study.title!r} has no evaluated run in {study.results}: run it first")
    return of_runs(specs, study.results, labels)


def _short(spec: RunSpec) -> str:
    """A run's name without what all runs of a data set share."""
    return spec.slug.removeprefix(f"{spec.dataset}.{spec.backbone}.")


def _apart(one: AnsweredSet) -> AnsweredSet:
    """The same with labels that tell runs apart: the name is added where two are called alike."""
    labels = [answers.label for answers in one.answers]
    told = [a if labels.count(a.label) == 1 else replace(a, label=f"{a.label} ({a.slug})") for a in one.answers]
    return replace(one, answers=tuple(told))


def _read(one: AnsweredSet, slug: str, results: Path, label: str) -> Answers:
    from pyarrow import ArrowInvalid, parquet

    path = metrics_file(results, slug).with_name(OUTPUTS[0])
    if not path.is_file():
        raise PelError(f"{slug} has no {OUTPUTS[0]} in {path.parent}: evaluate it first")
    columns = ["index", "label", "prediction", "probability"]
    try:
        table = parquet.read_table(path, columns=columns)
        said = dict(zip(columns, (table[name].to_numpy() for name in columns), strict=True))
        content = read_json(path.with_name("metrics.json"), ("data",))["data"]["sha256"]
    except (ArrowInvalid, OSError, KeyError) as error:
        raise PelError(f"{path} cannot be read ({str(error).splitlines()[0]}): score {slug} again") from None
    rows = np.arange(len(one.split)) if one.split.rows is None else one.split.rows
    same = np.array_equal(said["index"], rows) and np.array_equal(said["label"], one.split.labels)
    if content != one.data.sha256 or not same:
        raise PelError(f"{path} is of other images than those prepared for {one.data.name}: evaluate {slug} again")
    return Answers(slug, label, said["prediction"], said["probability"])


def named_runs(names: Iterable[str], results: Path) -> dict[str, RunSpec]:
    """Specs of runs by name or folder."""
    from pel_core.evaluation.run_names import find_run

    found = (find_run(name, results)[1] for name in names)
    return {spec.slug: spec for spec in found}

"""One run as a study of its own: what it needs, whether that is there and of the inputs there are now, and how it is made."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pel_core.common.errors import PelError
from pel_core.common.logs import logger
from pel_core.data.datasets import find_dataset, require_factors, split_name
from pel_core.spec.posthoc import sources
from pel_core.spec.run_spec import RunSpec
from pel_core.studies.artefacts import make_bindings
from pel_core.studies.cells import Artefact, Cell
from pel_core.studies.config import carried, find, make_results, read_config
from pel_core.studies.inputs import told, write_weights_source
from pel_core.studies.kinds import TABLES
from pel_core.studies.settings import apply_settings
from pel_core.studies.study import Study

Paths = str | os.PathLike[str]


# What is prepared, in order, and from what of it.
KINDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("backbone", ()),
    ("data", ()),
    ("test_set", ()),
    ("cache", ("data",)),
    ("text", ("backbone", "data")),
)


@contextmanager
def settings_of(config: Paths, settings: Mapping[str, Any]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A configuration with settings in the place of its values, as a command line has them; where images lie (``root``) holds as
    long as it is entered."""
    before = {name: os.environ.get(name) for name in ("PEL_DATA", "PEL_ROOTS")}
    try:
        path = find(os.fspath(config))
        values = read_config(path)
        apply_settings(values, settings)
        yield path, values
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def study_of_run(spec: RunSpec, path: Path, values: Mapping[str, Any]) -> Study:
    """A study that holds nothing but a run, on a configuration's values.

    Raises:
        PelError: its data set is not declared, or cannot be as the run asks for it.
    """
    bindings = make_bindings({"roles": {}}, values, path)
    for run in (spec, *sources(spec), *spec.ancestors.values()):
        require_factors(run.dataset, run.factors, bindings.datasets)
    if spec.evaluate_on:
        find_dataset(spec.evaluate_on, bindings.datasets)
    cell = Cell(0, 0, spec.dataset, spec.method, "metrics.overall", (spec,))
    declaration = {"title": spec.slug, "rows": [{"label": spec.slug}], "columns": [{"label": "Overall"}]}
    artefact = Artefact("run", TABLES.entry("table"), spec.slug, declaration, (cell,))
    return Study(
        title=spec.slug, path=path, config_path=path, config=values, bindings=bindings,
        results=Path(carried("results", values.get("results", "results"))), figures=Path(values.get("figures", "figures")),
        declared={"run": artefact}, left_out={}, reported={},
    )  # fmt: skip


def prepare_inputs(study: Study) -> dict[str, str]:
    """Prepare what the runs of a study read and what is not there, or is of other inputs than there are now: data, weights,
    texts, decoded images; as Snakemake's rules do. Returns every file that has to be made again, and why.

    Raises:
        PelError: images or weights that are not there, or anything wrong with them.
    """
    study.check_sources()
    study.compare_inputs()
    stale = study.stale()
    for line in told(stale):
        logger.info(line)
    make_results(study.results)
    made: set[str] = set()
    for slug, spec in {**study.trainings, **study.specs}.items():  # evaluations, since one may be on other images
        files = study.prepared(slug)
        for kind, needs in KINDS:
            path = files.get(kind, "")
            again = path in stale or any(files[need] in made for need in needs)
            if path and path not in made and (again or not Path(path).is_file()):
                logger.info("preparing %s", Path(path).parent.relative_to(study.results))
                _PREPARE[kind](study, spec, Path(path))
                made.add(path)
    return stale | _after_other_texts(study, stale)


def _after_other_texts(study: Study, stale: dict[str, str]) -> dict[str, str]:
    """What runs made of texts that are others now; of other data and weights `inputs.other_runs` and their records tell."""
    found: dict[str, str] = {}
    for slug in (*study.known, *study.trainings):
        if reason := stale.get(study.prepared(slug).get("text", "")):
            found |= {file: reason for file in (study.delta(slug), study.result_file(slug)) if file}
    return found


def _backbone(study: Study, spec: RunSpec, path: Path) -> None:
    from pel_core.models.weights import prepare_backbone

    params = study.backbone_params(spec.backbone)  # before they are read
    prepare_backbone(spec.backbone, path.parent, *_weights(study, spec))
    write_weights_source(path.parent, params)


def _weights(study: Study, spec: RunSpec) -> tuple[str | None, str | None]:
    return study.config.get("weights", {}).get(spec.backbone), study.config.get("cache_dir")


def _data(study: Study, spec: RunSpec, path: Path) -> None:
    from pel_core.ingest.prepare import prepare

    prepare(path.parent.name, path.parent, study.config, study.check_images)


def _cache(study: Study, spec: RunSpec, path: Path) -> None:
    from pel_core.ingest.cache_build import build

    build(split_name(spec.dataset)[0], int(spec.image_cache or 0), study.results)


def _text(study: Study, spec: RunSpec, path: Path) -> None:
    from pel_core.models.class_texts import prepare_text

    base = split_name(spec.dataset)[0]
    sentences = next(iter(study.descriptions(base, spec.text_file)), None)
    folders = study.results / "backbones" / spec.backbone, study.results / "data" / base
    prepare_text(*folders, spec.text_file, path, *_weights(study, spec), sentences, study.given_texts(base, spec.text_file))


_PREPARE = {"backbone": _backbone, "data": _data, "test_set": _data, "cache": _cache, "text": _text}


def spec_of(
    run: str | RunSpec | None, named: Mapping[str, Any], values: Mapping[str, Any], options: Mapping[str, Any]
) -> RunSpec:
    """The run that is meant: by its name, or by data set, method and options over what a configuration shares among its runs.

    Args:
        named: dataset, method, backbone and seed; None where it is not said.

    Raises:
        PelError: both ways at once, neither, or a run that is not possible.
    """
    said = {name: value for name, value in named.items() if value is not None}
    if run is not None:
        if said or options:
            raise PelError(
                f"the run is named, and {', '.join([*said, *options])} would say it once more: give the one or the others"
            )
        return run if isinstance(run, RunSpec) else RunSpec.parse(run)
    if missing := [name for name in ("dataset", "method") if name not in said]:
        raise PelError(f"no run is named: give its name, or dataset= and method= ({' and '.join(missing)} not given)")
    backbone, seed = said.get("backbone", values["backbone"]), said.get("seed", 0)
    return RunSpec.make(said["dataset"], backbone, said["method"], seed, values.get("recipe", {}), **options)

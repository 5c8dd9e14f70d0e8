"""Which trained run a name means, and which of its evaluations: what results record, or what the words say. Nothing is guessed.

A run is named by its slug, by the beginning of it that a study writes (without what a configuration shares among its runs), or by
its folder. Where that leaves several, they are listed; where it leaves one that was not named in full, that is said. Torch-free.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from glob import escape
from pathlib import Path
from typing import Any

from pel_core.common.errors import PelError
from pel_core.common.files import read_json
from pel_core.common.logs import logger
from pel_core.common.shipped import make, program
from pel_core.spec.long_names import tell
from pel_core.spec.options import GROUPING_KNOBS, evaluation_options, is_evaluation
from pel_core.spec.plugins import parse_run
from pel_core.spec.results import run_folder, slug_of
from pel_core.spec.run_spec import OVERRIDE, SLUG, RunSpec, differences

DEFAULT = "default"  # the word for a training's own evaluation
RECORDS = ("metrics.json", "predict.json")
LISTED = 20


def find_run(
    run: str, results: Path, trained: str = "", evaluation: str = "", among: Iterable[RunSpec] | None = None
) -> tuple[Path, RunSpec]:
    """The folder of a run's training, and the spec of training and evaluation that a name means.

    Args:
        run: a slug, the beginning of one, or a folder.
        trained: where ``run`` is a folder with a checkpoint, the slug that the checkpoint says.
        evaluation: its options in words, whatever is recorded (``tte=none``, ``tte=tencrop.expand=4``; ``default`` for the
            training's own).
        among: the runs that may be meant; None for all.

    Raises:
        PelError: no trained run is called so, or several; or what is recorded was evaluated otherwise than the name means now.
    """
    given = Path(run)
    if trained:
        folder, named = given, parse_run(trained, results).train
    elif given.is_dir():
        named = _of_folder(given)
        folder = _training(given, named)
    else:
        named = parse_run(run, results)
        if not _is_known(named, results):
            named = _only(run, _shortened(named, results, among), named)
        folder = run_folder(results, named.train.slug)
    if named.trains and not (folder / "delta.safetensors").is_file():
        raise _untrained(folder)
    beside = folder.parent.glob(f"{escape(named.train.slug)}.*=*/*.json")  # of before evaluations lay inside
    records = _records([*folder.glob("*.json"), *folder.glob("*=*/*.json"), *beside], results)
    records = {slug: record for slug, record in records.items() if record[0].train == named.train}
    specs = [spec for spec, _ in records.values()]
    if among is not None:
        specs = [spec for spec in among if spec.train == named.train]
        if not specs:
            raise PelError(f"{named.train.slug} is no run of the study; leave out --study and --config, or name another")
    spec = _with_evaluation(named, evaluation) if evaluation else _choose(named, specs, run)
    if spec.slug in records and (changed := differences(records[spec.slug][1], spec)):
        raise PelError(
            f"{spec.slug} was evaluated otherwise than its name means now ({'; '.join(changed)}): evaluate it again "
            f"({make('study')}, or {program()} evaluate {spec.slug}), or say what is meant by --evaluation"
        )
    return folder, spec


def results_of(run: Path) -> Path:
    """The results folder that a run's folder lies in; ``results`` of a name, or of a copy elsewhere."""
    whole = run.absolute()
    depth = 2 if slug_of(whole) != whole.name else 1  # the folder of an evaluation lies inside its training's
    inside = run.is_dir() and whole.parents[depth - 1].name == "runs"
    return run.parents[depth] if inside and len(run.parents) > depth else whole.parents[depth] if inside else Path("results")


def how(spec: RunSpec) -> str:
    """What an evaluation does with an image, in words."""
    return ", ".join(f"{name} {value}" for name, value in evaluation_options(spec).items())


def words_of(spec: RunSpec) -> str:
    """What ``--evaluation`` is to say for a spec's evaluation."""
    return spec.slug.removeprefix(spec.train.slug).removeprefix(".") or DEFAULT


def _training(given: Path, named: RunSpec) -> Path:
    """The folder of a training, from that of one of its evaluations: above it, in results of before beside it."""
    whole = Path(os.path.abspath(given))
    return whole.parent if slug_of(whole) != whole.name else whole.parent / named.train.slug


def _of_folder(given: Path) -> RunSpec:
    try:
        return RunSpec.parse(slug_of(os.path.abspath(given)))
    except PelError:  # a copy under a name of its own
        raise _untrained(given) from None


def _untrained(folder: Path) -> PelError:
    """That a run is not trained; and the trained one beside it whose name is nearest."""
    names = [path.parent.name for path in folder.parent.glob("*/delta.safetensors")]
    near = get_close_matches(folder.name, names, n=1) or (names if len(names) == 1 else [])
    hint = "" if names else f" (no trained run lies in {folder.parent}: --results FOLDER says where yours are)"
    hint = f". Did you mean '{near[0]}'?" if near else hint
    return PelError(f"{folder} holds no delta.safetensors: train the run first, or name the folder of one that is trained{hint}")


def _records(files: Iterable[Path], results: Path) -> dict[str, tuple[RunSpec, Mapping[str, Any]]]:
    """Slug -> spec and stored spec of each evaluation whose record is among the files."""
    found: dict[str, tuple[RunSpec, Mapping[str, Any]]] = {}
    for path in sorted(file for file in files if file.name in RECORDS):
        try:
            record = read_json(path, ("slug", "spec"))
            tell(record["spec"])
            found[record["slug"]] = parse_run(record["slug"], results), record["spec"]
        except PelError as error:
            logger.warning("%s is passed over: %s", path, error)
    return found


def _is_known(spec: RunSpec, results: Path) -> bool:
    """Whether results tell of just this run, trained or not: then its name is not the beginning of another's."""
    logs = [results / "logs" / f"{run_folder('', run).relative_to('runs')}" for run in (spec.slug, spec.train.slug)]
    there = [run_folder(results, spec.train.slug), *(Path(f"{log}.{job}.log") for log in logs for job in ("train", "predict"))]
    return any(path.exists() for path in there)


def _shortened(named: RunSpec, results: Path, among: Iterable[RunSpec] | None) -> list[RunSpec]:
    """The trainings whose names hold all that a name says, and more."""
    if among is not None:
        candidates = {spec.train.slug: spec.train for spec in among}
    else:
        start = escape(f"{named.dataset}.{named.backbone}.{named.method}.s{named.seed}")
        candidates = {}
        for path in sorted((results / "runs").glob(f"{start}.*=*")) + sorted((results / "runs").glob(start)):
            try:
                candidates |= {(spec := RunSpec.parse(path.name)).train.slug: spec.train}
            except PelError:
                continue  # of another program: its name says nothing here
    said = _departures(named.train)
    return [spec for spec in candidates.values() if _head(spec) == _head(named) and said.items() <= _departures(spec).items()]


def _only(run: str, found: Sequence[RunSpec], named: RunSpec) -> RunSpec:
    """The one training that a short name means, with the evaluation that the name says."""
    if not found:
        return named
    if len(found) > 1:
        raise PelError(f"'{run}' may be any of {len(found)} runs; name one: {_list(spec.slug for spec in found)}")
    logger.info("%s: taken is %s, the only run here that is called so", run, found[0].slug)
    return _with_options(found[0], {name: value for name, value in _options(named.slug) if is_evaluation(name)})


def _choose(named: RunSpec, specs: Sequence[RunSpec], run: str) -> RunSpec:
    """The evaluation that is meant, among those that are recorded (or a study has)."""
    said = _departures(named).items() - _departures(named.train).items()
    same = {spec.slug: spec for spec in specs if said <= _departures(spec).items()}
    ways = {_without_split(spec, named).slug: spec for spec in same.values()}
    if named.slug in same:
        if not said and len(ways) > 1:
            others = _list(words_of(spec) for spec in ways.values() if spec != named)
            logger.info("%s: its own evaluation is taken (%s); --evaluation names another: %s", named.slug, how(named), others)
        return named
    if len(ways) > 1:
        told = _list(spec.slug for spec in ways.values())
        raise PelError(
            f"'{run}' was evaluated in {len(ways)} ways; name one by --run, or say it by --evaluation "
            f"({words_of(next(iter(ways.values())))}): {told}"
        )
    if ways:
        spec = next(iter(ways.values()))
        logger.info("%s: evaluated as recorded: %s (%s)", named.train.slug, words_of(spec), how(spec))
        return spec
    there = _list(dict.fromkeys(words_of(spec) for spec in specs)) or "none"
    text = "%s: no such evaluation is recorded (there: %s); taken is what the name says: %s"
    logger.warning(text, named.slug, there, how(named))
    return named


def _without_split(spec: RunSpec, named: RunSpec) -> RunSpec:
    """New images are of no split, and have no group of classes."""
    knobs = tuple((name, value) for name, value in spec.knobs if name not in GROUPING_KNOBS)
    return replace(spec, split=named.train.split, evaluate_on="", knobs=knobs)


def _with_evaluation(named: RunSpec, words: str) -> RunSpec:
    pairs = [] if words == DEFAULT else OVERRIDE.findall(f".{words}")
    if words != DEFAULT and ("".join(f".{name}={value}" for name, value in pairs) != f".{words}" or not pairs):
        raise PelError(f"--evaluation {words}: expected {DEFAULT}, or option=value[.option=value...], e.g. tte=tencrop.expand=4")
    if bad := [name for name, _ in pairs if not is_evaluation(name)]:
        expected = "tte, expand, crops, eval_precision or wise_ft"
        raise PelError(f"--evaluation {words}: {bad[0]} is an option of training; expected {expected}")
    spec = _with_options(named.train, dict(pairs))
    if named not in (named.train, spec):
        raise PelError(f"the run is named with the evaluation {words_of(named)}, and --evaluation says {words}; say it once")
    return spec


def _with_options(train: RunSpec, options: Mapping[str, str]) -> RunSpec:
    return RunSpec.make(train.dataset, train.backbone, train.method, train.seed, **(dict(_options(train.slug)) | options))


def _options(slug: str) -> list[tuple[str, str]]:
    name = SLUG.fullmatch(slug)
    return OVERRIDE.findall(name["overrides"]) if name else []


def _head(spec: RunSpec) -> tuple[Any, ...]:
    return spec.dataset, spec.backbone, spec.method, spec.seed


def _departures(spec: RunSpec) -> dict[str, Any]:
    return spec.departures(spec.base)


def _list(words: Iterable[str]) -> str:
    every = list(words)
    return ", ".join(every[:LISTED]) + (f" and {len(every) - LISTED} more" if len(every) > LISTED else "")

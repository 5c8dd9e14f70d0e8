"""What a study as a whole must hold to: at most ``max_runs`` runs, no candidate scored on the sealed split. Torch-free."""

from collections.abc import Collection, Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pel_core.common.errors import PelError
from pel_core.spec.posthoc import with_sources
from pel_core.spec.results import result_files, slug_of
from pel_core.spec.run_spec import RunSpec
from pel_core.spec.seals import set_seals, trainings_held
from pel_core.studies.cells import Cell
from pel_core.studies.config import shown

if TYPE_CHECKING:
    from pel_core.studies.study import Study


def check_tunings(study: "Study", content: Mapping[str, Any]) -> None:
    """See that a study keeps within its ``max_runs`` and its ``seal``.

    Raises:
        PelError: it has more runs, or a run of a candidate's training is scored on the sealed split, or nothing is sealed.
    """
    most, where = content.get("max_runs"), shown(study.path)
    cells = [cell for each in study.declared.values() if not each.how.from_models for cell in each.cells]
    # Of later rungs it is known how many candidates there are, not which.
    first = {spec.slug: spec for each in study.tunings.values() for candidate in each.candidates for spec in candidate.rungs[0]}
    later = sum(sum(each.sizes[1:]) * len(each.declaration["seeds"]) for each in study.tunings.values())
    given = {*with_sources({spec.slug: spec for cell in cells for spec in cell.specs} | first)}
    finals = with_sources({spec.slug: spec for spec in most_finals(cells, given)}).keys() - given
    if most is not None and (count := len(given) + later + len(finals)) > most:
        tried = len(first) + later
        raise PelError(
            f"{where}: max_runs: {most:,}, but the study comes to {count:,} runs, {tried:,} of them candidates of "
            "`tune`; make the grid smaller, use fewer seeds (seeds=0,1), or raise max_runs"
        )
    if study.seal and not study.tunings:
        raise PelError(f"{where}: seal: {study.seal}: no row is tuned here, so there is no candidate to seal; leave it out")
    tried = {spec.train.slug for spec in study.candidates.values()}
    for slug, spec in study.planned.items():
        if study.seal and spec.split == study.seal and trainings_held(spec) & tried:
            raise PelError(
                f"{where}: seal: {study.seal}: {slug} would score a candidate of `tune` on {_images(spec)}; give its row other "
                "seeds than the candidates have, or split: val"
            )


def _images(spec: RunSpec) -> str:
    return f"the test images of {spec.evaluate_on}" if spec.evaluate_on else f"the {spec.split} split"


def most_finals(cells: Iterable[Cell], known: Collection[str]) -> list[RunSpec]:
    """The runs of tuned cells, as many as there can be: with the settings nearest to the row's own whose runs are none of another
    row's, nor ``known`` (a row of the default settings beside the tuned one). ``known``: the other runs' slugs."""
    rows, found = dict[str, list[Cell]](), dict[str, RunSpec]()
    for cell in cells:
        if cell.tuned:
            rows.setdefault(cell.tuned.tuning.name, []).append(cell)
    for shared in rows.values():
        by_change = shared[0].tuned.tuning.by_change
        runs = ({spec.slug: spec for cell in shared for spec in cell.tuned.finals(candidate)} for candidate in by_change)
        nearest = next(runs)
        new = (made for made in chain([nearest], runs) if not any(slug in known or slug in found for slug in made))
        found |= next(new, nearest)
    return [spec for slug, spec in found.items() if slug not in known]


def seal(study: "Study") -> None:
    """Tell the results folder which trainings may not be scored on the sealed split, whoever asks."""
    set_seals(study.results, study.path.stem, study.seal, {spec.train.slug for spec in study.candidates.values()})


def scored_on_test(results: Path, specs: Mapping[str, RunSpec]) -> tuple[int, int]:
    """How many results lie there of some runs' trainings, each way of evaluating one counting: of their own data set's test
    split, and of other data sets' images (`evaluate_on`)."""
    own = others = 0
    for train in {spec.train.slug for spec in specs.values()}:
        slugs = {slug_of(path.parent) for path in result_files(results, run=glob_escape(train))}
        found = [spec for spec in map(RunSpec.parse, slugs) if spec.split == "test"]
        others += (elsewhere := sum(bool(spec.evaluate_on) for spec in found))
        own += len(found) - elsewhere
    return own, others


def glob_escape(name: str) -> str:
    """A run's name as a pattern that fits it alone."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)

"""What effects of a factorial design its seeds and test images could decide, said before its first run.

The size of an effect is that of one contrast with a first level: of a main effect a difference of levels, of an interaction a
difference of differences. With m cells at each level it is surer than a comparison of two cells by as much as the squares of its
weights say.
"""

from collections.abc import Hashable, Sequence
from dataclasses import replace

from pel_core.common.errors import PelError
from pel_core.reporting.factorial_effects import design_of
from pel_core.reporting.paired import Rows
from pel_core.reporting.sensitivity import DISAGREE, SEED_SD
from pel_core.reporting.statistics.effects import LEAST_SEEDS, difference
from pel_core.reporting.statistics.intervals import Variances
from pel_core.reporting.statistics.power import assumed, detectable
from pel_core.reporting.statistics.runs import Row
from pel_core.spec.results import metrics_file
from pel_core.studies.cells import Artefact, Cell
from pel_core.studies.data_sizes import data_size, images_of_test_set
from pel_core.studies.design import Design, Weights
from pel_core.studies.design import Effect as Name
from pel_core.studies.factorial import images_of
from pel_core.studies.study import Study

ASSUMED = (
    f"assumed that two cells disagree on {DISAGREE:.0%} of the images and seeds move their difference by {SEED_SD:g}, alike for "
    "all cells"
)
MEASURED = "by the variance of two finished cells"


def designs_will_show(study: Study) -> str:
    """A line for each factorial design: its runs, and the smallest effects in overall accuracy that are shown with 80 % power.

    Variances are those of two finished cells of a data set where they have two seeds in common, else assumed, which is said.
    """
    designs = [artefact for artefact in study.artefacts.values() if artefact.kind == "anova"]
    return "\n".join(_line(study, artefact) for artefact in designs)


def _line(study: Study, artefact: Artefact) -> str:
    design, seeds = design_of(artefact), max(len(artefact.seeds), LEAST_SEEDS)
    cells = [cell for cell in artefact.cells if cell.column == 0]
    sets, how = {images_of(cell): cell.expected[0].evaluate_on or cell.expected[0].dataset for cell in reversed(cells)}, []
    pairs: dict[Hashable, Variances] = {}
    for images, name in sets.items():
        found, source = _pair(study, [cell for cell in cells if images_of(cell) == images], seeds)
        if found is None:
            return f"Factorial {name_of(artefact)}: {_size(artefact, design)}; {name} is not known before it is prepared."
        pairs[images] = found
        how.append(source)
    told = []
    for name in design.modelled:
        least = _least(design, name, list(map(images_of, cells)), pairs, seeds)
        aliased = " (aliased)" * bool(design.aliases(name))
        told.append(f"{design.name(name)} {f'{least:.2g}' if least else 'not said: its images are not paired'}{aliased}")
    lost = [f"{design.name(name)} not at all: {why}" for name, why in design.model.items() if why]
    return (
        f"Factorial {name_of(artefact)}: {_size(artefact, design)}. Effects that {seeds} seeds will show with 80 % power, in "
        f"points of overall accuracy (interactions: differences of differences): {'; '.join([*told, *lost])} "
        f"({'; '.join(dict.fromkeys(how))})."
    )


def name_of(artefact: Artefact) -> str:
    """The design that an analysis is of."""
    return artefact.name.removesuffix("-anova")


def _size(artefact: Artefact, design: Design) -> str:
    factors = " x ".join(f"{factor.name} ({len(factor)})" for factor in design.factors)
    return f"{factors}, {len(design.cells)} cells, {len({spec.slug for cell in artefact.cells for spec in cell.expected})} runs"


def _least(design: Design, name: Name, sets: Sequence[Hashable], pairs: dict[Hashable, Variances], seeds: int) -> float | None:
    """The largest of the smallest sizes of an effect's contrasts; None where one compares unpaired images."""
    sizes = [_detectable(weights, sets, pairs, seeds) for _, weights in design.contrasts(name)]
    return None if None in sizes else max(sizes)  # type: ignore[type-var]


def _detectable(weights: Weights, sets: Sequence[Hashable], pairs: dict[Hashable, Variances], seeds: int) -> float | None:
    parts = []
    for images, pair in pairs.items():
        here = [float(weight) for weight, other in zip(weights, sets, strict=True) if other == images]
        if abs(sum(here)) > 1e-9:
            return None
        share = sum(weight**2 for weight in here) / 2  # a pair of cells has the weights 1 and -1
        if share:
            v = None if pair.v is None else share * pair.v
            cov = None if pair.cov is None else share * pair.cov
            parts.append(replace(pair, v=v, cov=cov, within=share * pair.within))
    return detectable(parts, seeds)


def _pair(study: Study, cells: Sequence[Cell], seeds: int) -> tuple[Variances | None, str]:
    """The variances of a difference of two cells on one test set, and where they come from."""
    finished, rows = [], Rows(study.results)
    for cell in cells:
        specs = tuple(spec for spec in cell.specs if metrics_file(study.results, spec.slug).is_file())
        if len(specs) > 1 and specs[0].seeded and len(finished) < 2:
            try:
                row = rows.row(replace(cell, specs=specs))
            except PelError:  # planning says what is there; drawing refuses it by name
                continue
            finished += [row] if isinstance(row, Row) else []
    if len(finished) == 2 and finished[0].images == finished[1].images:
        effect = difference(*finished, "overall")
        if len(effect.seeds) > 1 and detectable(effect.parts, seeds):
            return effect.parts[0], MEASURED
    spec = cells[0].expected[0]
    images = images_of_test_set(study, spec) if spec.evaluate_on else (data_size(study, spec.dataset, spec.factors) or (0, 0))[1]
    return (assumed(images, SEED_SD, DISAGREE), ASSUMED) if images else (None, "")

"""The effects of a factorial design from its runs: each a set of contrasts of cells over the same seeds and test images.

The variance is that of all comparisons, seeds x images (docs/statistics.md). Cells on one test set are paired over seeds and
images; on several (data sets as levels) only within each: their contrasts' variances add.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from pel_core.common.errors import PelError
from pel_core.reporting.paired import Rows, nothing
from pel_core.reporting.runs import Runs
from pel_core.reporting.statistics.anova import FTest, f_test
from pel_core.reporting.statistics.effects import Effect, combination
from pel_core.reporting.statistics.marks import holm
from pel_core.reporting.statistics.runs import Row, require_same_images
from pel_core.studies.cells import Artefact, Cell
from pel_core.studies.design import Design, Factor, Weights
from pel_core.studies.design import Effect as Name
from pel_core.studies.factorial import images_of


@dataclass(frozen=True)
class EffectLine:
    """An effect of a design on one metric.

    Args:
        name: the effect in words.
        test: its F.
        p_holm: by Holm over the metric's effects.
        eta, epsilon: its share of the sum of squares between cells (eta squared), and the same less what noise alone would make
            (Kelley's epsilon squared, at least 0); None where there is no test.
        aliases: effects outside the model that would move it.
        effect: of one with one degree of freedom, the effect itself.
    """

    name: str
    test: FTest
    p_holm: float | None
    eta: float | None
    epsilon: float | None
    aliases: tuple[str, ...]
    effect: Effect | None


@dataclass(frozen=True)
class ContrastLine:
    """A contrast of an effect with the first levels; ``p_holm`` is by Holm over the metric's contrasts."""

    name: str
    contrast: str
    effect: Effect
    p_holm: float | None


@dataclass(frozen=True)
class Analysis:
    """The effects of a design on one metric. ``total``: sum of squares between cell means; ``rest``: of what no tested effect
    takes, with its degrees of freedom; None where sums of squares do not add up, or a cell has no value."""

    value: str
    effects: tuple[EffectLine, ...]
    contrasts: tuple[ContrastLine, ...]
    total: float | None
    rest: tuple[float, int] | None


def design_of(artefact: Artefact) -> Design:
    """The design that an artefact was made of."""
    about = artefact.declaration
    factors = tuple(Factor(name, tuple(labels)) for name, labels in about["factors"])
    return Design(factors, tuple(map(tuple, about["cells"])), about["order"])


class Measured:
    """A design's cells for one metric, image by image, or why a cell has no value.

    Raises:
        PelError: runs that should have the same test images have not.
    """

    def __init__(self, design: Design, cells: list[Cell], runs: Runs, rows: Rows):
        self.design, self.value = design, cells[0].value.removeprefix("metrics.")
        self.rows: list[Row | str] = []
        for cell, levels in zip(cells, design.cells, strict=True):
            blank = runs.without(cell.slugs)
            self.rows.append(f"cell ({design.label(levels)}): {blank}" if blank else rows.row(cell))
        first: dict[tuple[object, ...], Row] = {}
        for cell, row in zip(cells, self.rows, strict=True):
            if isinstance(row, Row):
                require_same_images(first.setdefault(images_of(cell), row).runs[0], row.runs[0])

    @property
    def sets(self) -> list[str]:
        """Of each cell its test set."""
        return [row.images.digest if isinstance(row, Row) else "" for row in self.rows]

    def combine(self, weights: Weights) -> Effect:
        """A weighted sum of cells; of one that needs a cell without a value the reason."""
        terms = [(row, weight) for row, weight in zip(self.rows, weights, strict=True) if weight]
        if lost := [row for row, _ in terms if isinstance(row, str)]:
            return nothing(self.value, "; ".join(lost[:3]) + (f"; and {len(lost) - 3} more" if len(lost) > 3 else ""))
        try:
            return combination(terms, self.value)  # type: ignore[arg-type]
        except PelError as error:  # of metrics that read confidences as well
            return nothing(self.value, str(error))


def analyse(artefact: Artefact, runs: Runs, rows: Rows) -> list[Analysis]:
    """The effects on each of the design's metrics.

    Raises:
        PelError: runs on one data set have different test images.
    """
    design, made = design_of(artefact), []
    for column in range(len(artefact.declaration["values"])):
        cells = [cell for cell in artefact.cells if cell.column == column]
        made.append(_analysis(Measured(design, cells, runs, rows)))
    return made


def _analysis(measured: Measured) -> Analysis:
    design, tests, alone = measured.design, {}, {}
    for name in design.modelled:
        weights = design.orthogonal(name)
        effects = [measured.combine(row) for row in weights]
        tests[name] = f_test(effects, [np.array(row, float) for row in weights], measured.sets)
        if len(effects) == 1:
            (_, scaled), *_ = design.contrasts(name)
            alone[name] = measured.combine(scaled)
    total = _between(measured)
    p = dict(zip(tests, holm([test.p for test in tests.values()]), strict=True))
    lines = []
    for name, lost in design.model.items():
        test = FTest(design.degrees(name), None, reason=f"not computed: {lost}") if lost else tests[name]
        aliases = () if lost else tuple(map(design.name, design.aliases(name)))
        lines.append(EffectLine(design.name(name), test, p.get(name), *_shares(test, total), aliases, alone.get(name)))
    return Analysis(measured.value, tuple(lines), _contrasts(measured), total, _rest(design, tests, total))


def _contrasts(measured: Measured) -> tuple[ContrastLine, ...]:
    design = measured.design
    found = [(name, words, measured.combine(row)) for name in design.modelled for words, row in design.contrasts(name)]
    adjusted = holm([effect.p for _, _, effect in found])
    return tuple(
        ContrastLine(design.name(name), words, effect, p) for (name, words, effect), p in zip(found, adjusted, strict=True)
    )


def _between(measured: Measured) -> float | None:
    """The sum of squares between cell means; None where a cell has no value."""
    count, means = len(measured.rows), []
    for i in range(count):
        effect = measured.combine(tuple(Fraction(i == j) for j in range(count)))
        if effect.mean is None:
            return None
        means.append(effect.mean)
    return float(np.var(means) * count)


def _shares(test: FTest, total: float | None) -> tuple[float | None, float | None]:
    if test.sum_of_squares is None or not total:
        return None, None
    less = None if test.noise is None else max(test.sum_of_squares - test.noise, 0.0) / total
    return test.sum_of_squares / total, less


def _rest(design: Design, tests: Mapping[Name, FTest], total: float | None) -> tuple[float, int] | None:
    known = [test.sum_of_squares for test in tests.values()]
    degrees = len(design.cells) - 1 - sum(map(design.degrees, tests))
    if total is None or not degrees or not design.is_orthogonal or None in known:
        return None
    return max(total - sum(known), 0.0), degrees  # type: ignore[arg-type]

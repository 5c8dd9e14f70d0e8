"""A factorial design: factors with levels -> cells; which of its effects the cells can tell apart, and what each stands for.

Pure: no runs, no study. Cells are tuples of level numbers, one per factor. Effects are tuples of factor numbers: (0,) is the main
effect of the first factor, (0, 1) its interaction with the second. Effects are coded by Helmert contrasts (a level with the mean
of those before it), whose products are orthogonal where every combination of levels is a cell: then an effect's sum of squares
is the textbook's. In a fraction each effect is adjusted for all others that are in the model (type III), in exact arithmetic.
Source: Montgomery, Design and Analysis of Experiments, chapters 5, 8 (fractions, aliases) and 15 (unbalanced data).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import combinations, product
from math import prod

Levels = tuple[int, ...]
Effect = tuple[int, ...]
Weights = tuple[Fraction, ...]  # one per cell


@dataclass(frozen=True)
class Factor:
    """A factor and the labels of its levels."""

    name: str
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Design:
    """Factors, the cells that are run, and the highest order of the effects in the model."""

    factors: tuple[Factor, ...]
    cells: tuple[Levels, ...]
    order: int

    @cached_property
    def is_full(self) -> bool:
        """Whether every combination of levels is a cell."""
        return len(self.cells) == prod(map(len, self.factors))

    def label(self, cell: Levels) -> str:
        """A cell in words: the labels of its levels."""
        return ", ".join(factor.labels[level] for factor, level in zip(self.factors, cell, strict=True))

    def name(self, effect: Effect) -> str:
        """An effect in words: ``part``, or ``part x native``."""
        return " x ".join(self.factors[i].name for i in effect)

    def degrees(self, effect: Effect) -> int:
        """Degrees of freedom of an effect."""
        return prod(len(self.factors[i]) - 1 for i in effect)

    def effects(self, order: int | None = None) -> list[Effect]:
        """All effects up to an order, main effects first."""
        most = min(order or len(self.factors), len(self.factors))
        return [effect for size in range(1, most + 1) for effect in combinations(range(len(self.factors)), size)]

    def columns(self, effect: Effect) -> list[list[int]]:
        """The Helmert-coded columns of an effect: one per degree of freedom, an entry per cell. The empty effect is the mean."""
        codes = [_helmert(len(self.factors[i])) for i in effect]
        return [[prod(code[cell[i]] for i, code in zip(effect, chosen)) for cell in self.cells] for chosen in product(*codes)]

    @cached_property
    def model(self) -> dict[Effect, str]:
        """Every effect up to ``order``: empty where it is in the model, else why it is not.

        Effects come in by their order. One of which some degree of freedom cannot be told from those before it stays out: it is
        taken to be nothing, and `aliases` says which estimates it would move.
        """
        effects = self.effects(self.order)
        if self.is_full:
            return dict.fromkeys(effects, "")
        import numpy as np

        made, basis = {}, np.array(self.columns(())).T
        for effect in effects:
            both, degrees = np.hstack([basis, np.array(self.columns(effect)).T]), self.degrees(effect)
            more = int(np.linalg.matrix_rank(both)) - basis.shape[1]
            if more == degrees:
                made[effect], basis = "", both
            else:
                made[effect] = f"{more} of its {degrees} degrees of freedom can be told from other effects by these cells"
        return made

    @property
    def modelled(self) -> list[Effect]:
        """The effects in the model."""
        return [effect for effect, lost in self.model.items() if not lost]

    @cached_property
    def coefficients(self) -> dict[Effect, list[Weights]]:
        """Weights of the cells' values that estimate the coefficients of each effect in the model, by least squares; the empty
        effect is the mean over cells."""
        effects = [(), *self.modelled]
        columns = {effect: self.columns(effect) for effect in effects}
        if self.is_full:
            return {
                effect: [tuple(Fraction(x, sum(y * y for y in column)) for x in column) for column in columns[effect]]
                for effect in effects
            }
        flat = [column for effect in effects for column in columns[effect]]
        gram = [[Fraction(sum(map(_times, a, b))) for b in flat] for a in flat]
        solved = iter(_solve(gram, [list(map(Fraction, column)) for column in flat]))
        return {effect: [tuple(next(solved)) for _ in columns[effect]] for effect in effects}

    def orthogonal(self, effect: Effect) -> list[Weights]:
        """Orthogonal contrasts, not of unit length, that span an effect, adjusted for all others in the model."""
        if self.is_full:
            return self.coefficients[effect]
        made: list[Weights] = []
        for weights in self.coefficients[effect]:
            for other in made:
                if share := dot(weights, other):
                    share /= dot(other, other)
                    weights = tuple(x - share * y for x, y in zip(weights, other, strict=True))
            made.append(weights)
        return made

    @cached_property
    def is_orthogonal(self) -> bool:
        """Whether the effects' sums of squares add up: no estimate is adjusted for another effect."""
        if self.is_full:
            return True
        spans = [self.columns(effect) for effect in ((), *self.modelled)]
        return not any(sum(map(_times, a, b)) for one, two in combinations(spans, 2) for a in one for b in two)

    def aliases(self, effect: Effect) -> list[Effect]:
        """The effects outside the model, of any order, that would move the estimate of one inside it."""
        if self.is_full:
            return []
        weights = self.coefficients[effect]
        others = [other for other in self.effects() if self.model.get(other) != ""]
        return [other for other in others if any(dot(row, column) for row in weights for column in self.columns(other))]

    def marginal(self, levels: dict[int, int]) -> Weights | None:
        """Weights of the mean at some factors' levels, all levels of the others counting alike (least-squares mean); None where
        the model lacks an interaction of these factors."""
        parts = [tuple(part) for size in range(len(levels) + 1) for part in combinations(sorted(levels), size)]
        if any(part not in self.coefficients for part in parts):
            return None
        total = [Fraction(0)] * len(self.cells)
        for part in parts:
            codes = [[column[levels[i]] for column in _helmert(len(self.factors[i]))] for i in part]
            for chosen, row in zip(product(*codes), self.coefficients[part], strict=True):
                total = [x + prod(chosen) * y for x, y in zip(total, row, strict=True)]
        return tuple(total)

    def contrasts(self, effect: Effect) -> list[tuple[str, Weights]]:
        """The effect's contrasts with the first level of each of its factors, in words and as weights: of a main effect
        differences, of an interaction of two differences of differences."""
        codes = [_helmert(len(self.factors[i])) for i in effect]
        made = []
        for levels in product(*(range(1, len(self.factors[i])) for i in effect)):
            steps = [[c[level] - c[0] for c in code] for code, level in zip(codes, levels, strict=True)]
            total = [Fraction(0)] * len(self.cells)
            for chosen, row in zip(product(*steps), self.coefficients[effect], strict=True):
                total = [x + prod(chosen) * y for x, y in zip(total, row, strict=True)]
            labels = [self.factors[i].labels for i in effect]
            words = [f"{names[level]} - {names[0]}" for names, level in zip(labels, levels, strict=True)]
            made.append((words[0] if len(words) == 1 else " x ".join(f"({word})" for word in words), tuple(total)))
        return made


def regular_fraction(sizes: Sequence[int], one_in: int, offset: int) -> list[Levels]:
    """The combinations of levels whose numbers add up to ``offset``, up to multiples of ``one_in``. Of factors of two levels and
    ``one_in`` 2 these are the two halves of the defining relation I = ABC...; each level is in equally many cells."""
    return [levels for levels in product(*map(range, sizes)) if sum(levels) % one_in == offset]


def dot(a: Sequence[Fraction], b: Sequence[Fraction | int]) -> Fraction:
    """The exact inner product."""
    return sum((x * y for x, y in zip(a, b, strict=True) if x and y), Fraction(0))


def _times(a: int, b: int) -> int:
    return a * b


def _helmert(levels: int) -> list[list[int]]:
    """Contrasts of a factor's levels, orthogonal to each other and to the mean: (-1, 1, 0, ...), (-1, -1, 2, 0, ...), ..."""
    return [[-1] * k + [k] + [0] * (levels - k - 1) for k in range(1, levels)]


def _solve(matrix: list[list[Fraction]], right: list[list[Fraction]]) -> list[list[Fraction]]:
    """Gauss and Jordan's elimination in exact arithmetic: X of matrix X = right; the matrix is positive definite."""
    rows = [[*left, *more] for left, more in zip(matrix, right, strict=True)]
    for i, row in enumerate(rows):
        pivot = row[i]
        rows[i] = row = [x / pivot if x else x for x in row]
        for j, other in enumerate(rows):
            if j != i and (share := other[i]):
                rows[j] = [x - share * y if y else x for x, y in zip(other, row, strict=True)]
    return [row[len(matrix) :] for row in rows]

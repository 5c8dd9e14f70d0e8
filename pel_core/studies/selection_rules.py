"""SELECTION_RULES: how one of several candidates is chosen by its scores on the validation split. Torch-free.

A rule is a class; `Scored` is all that it sees of a candidate.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pel_core.common.registry import Registry

ALIKE = 1e-9  # means that differ by less are equal: they are sums of the same shares in another order


@dataclass(frozen=True)
class Scored:
    """A candidate as rules see it.

    Args:
        mean: of its scores over seeds, higher being better.
        error: the standard error of the mean; None of one seed.
        cost: what one run costs: GFLOP of training, then parameters that are learnt.
        change: how far it is from the row's own settings (`tuning.Candidate`), then its place in the grid.
    """

    mean: float
    error: float | None
    cost: tuple[float, int]
    change: tuple[float, ...]


class SelectionRule(Protocol):
    """What a rule has: ``least_seeds`` that candidates need, and ``choose``."""

    least_seeds: int

    def choose(self, scored: Sequence[Scored]) -> Scored:
        """One of them; there is at least one."""


SELECTION_RULES: Registry[type[SelectionRule]] = Registry("selection rule")


class BestMean:
    """The highest mean; of equal ones the smaller change from the row's own settings."""

    least_seeds = 1

    def choose(self, scored: Sequence[Scored]) -> Scored:
        """The first of the best."""
        best = max(each.mean for each in scored)
        return min((each for each in scored if each.mean >= best - ALIKE), key=lambda each: each.change)


class OneStandardError:
    """The cheapest of those within one standard error of the highest mean; of equally cheap ones the smaller change."""

    least_seeds = 2

    def choose(self, scored: Sequence[Scored]) -> Scored:
        """As the one-standard-error rule of Breiman et al. (1984), the standard error being the best candidate's."""
        best = BestMean().choose(scored)
        near = [each for each in scored if each.mean >= best.mean - (best.error or 0.0) - ALIKE]
        return min(near, key=lambda each: (each.cost, each.change))


SELECTION_RULES.register("best_mean", BestMean)
SELECTION_RULES.register("one_se", OneStandardError)

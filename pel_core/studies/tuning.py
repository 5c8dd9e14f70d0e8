"""``tune`` of a study: a row's candidates, their runs, and the row's runs once one of them is chosen. Torch-free.

A *tuning* is what is chosen at once: a row's training on one data set, its grid, its seeds. Rows, columns and studies that ask
for the same share it, and its candidates are ordinary runs: each is trained once, whoever asks for it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from pel_core.common.registry import spell
from pel_core.spec.posthoc import ENSEMBLE
from pel_core.spec.run_spec import RunSpec, is_evaluation


@dataclass(frozen=True)
class Base:
    """A row's run without its seed: what `RunSpec.make` is given. ``fields``: what the study's selections say; ``parents``: the
    runs that it starts from, at its own seed; or at all these seeds (``over``), of which it is one run, called by the first."""

    dataset: str
    backbone: str
    method: str
    recipe: Mapping[str, Any]
    fields: Mapping[str, Any]
    parents: "tuple[Base, ...]" = ()
    over: tuple[int, ...] = ()

    def spec(self, seed: int, settings: Mapping[str, Any] | None = None) -> RunSpec:
        """The run of a seed, with other settings if some are given; those about the data are its parents' too, so that images
        which are held out for it are held out of their training."""
        given = {**self.fields, **(settings or {})}
        seed = self.over[0] if self.over else seed
        if self.parents:
            shared = {name: value for name, value in (settings or {}).items() if name.startswith("data.")}
            given["parents"] = tuple(parent.spec(each, shared) for parent in self.parents for each in self.over or (seed,))
        return RunSpec.make(self.dataset, self.backbone, self.method, seed, self.recipe, **given)

    def specs(self, seeds: Sequence[int], settings: Mapping[str, Any] | None = None) -> tuple[RunSpec, ...]:
        """The runs of several seeds."""
        first, *others = seeds
        if self.parents or ENSEMBLE in self.fields:
            return tuple(self.spec(seed, settings) for seed in seeds)
        made = self.spec(first, settings)  # checked once: nothing else is another at another seed
        return (made, *(replace(made, seed=seed) for seed in others))

    def training(self) -> "Base":
        """The same without what evaluation alone reads: a training is chosen once, whatever ways of evaluating it are shown."""
        fields = {name: value for name, value in self.fields.items() if not is_evaluation(name)}
        return replace(self, fields=fields)


@dataclass(frozen=True)
class Candidate:
    """Settings that are tried.

    ``rungs``: for each rung a run for each of the tuning's seeds; most tunings have one rung. ``change``: how far they are from
    the row's own settings: how many depart from them, and the sum over these of the logarithms of their ratios (1 where a value
    is no positive number).
    """

    settings: Mapping[str, Any]
    rungs: tuple[tuple[RunSpec, ...], ...]
    change: tuple[int, float]

    @property
    def specs(self) -> tuple[RunSpec, ...]:
        """Its runs on every rung, should it come so far."""
        return tuple(spec for rung in self.rungs for spec in rung)

    @property
    def words(self) -> str:
        """``lr=0.02, weight_decay=0.0005``."""
        return ", ".join(f"{name}={spell(value)}" for name, value in self.settings.items())


@dataclass(frozen=True)
class Tuning:
    """What is chosen at once. ``declaration``: the resolved ``tune``; ``candidates`` in the order of the grid; ``sizes``: how
    many of them are trained on each rung, at most (fewer where some have no score)."""

    name: str
    declaration: Mapping[str, Any]
    candidates: tuple[Candidate, ...]
    sizes: tuple[int, ...]

    @cached_property
    def specs(self) -> dict[str, RunSpec]:
        """The candidates' runs by slug: on later rungs those of every candidate, of which few are made."""
        return {spec.slug: spec for candidate in self.candidates for spec in candidate.specs}

    @property
    def steps(self) -> tuple[str, ...]:
        """What is decided, rung by rung: who goes on, and by the last, called as the tuning is, what is chosen."""
        return (*(f"{self.name}.rung{place + 1}" for place in range(len(self.sizes) - 1)), self.name)

    @cached_property
    def by_change(self) -> list[Candidate]:
        """The candidates, that which changes least first."""
        return sorted(self.candidates, key=lambda candidate: candidate.change)

    @property
    def nearest(self) -> Candidate:
        """The candidate that changes least."""
        return self.by_change[0]

    def edges(self, chosen: Candidate) -> dict[str, str]:
        """Of the chosen settings those at an end of the numbers that are tried, given or drawn: field -> ``lowest`` or
        ``highest``."""
        found = {}
        for name, value in chosen.settings.items():
            numbers = {other for each in self.candidates if is_number(other := each.settings[name])}
            if len(numbers) > 1 and value in (min(numbers), max(numbers)):
                found[name] = "lowest" if value == min(numbers) else "highest"
        return found


@dataclass(frozen=True)
class TunedRow:
    """A cell's way to its runs: the tuning, and the row that takes what is chosen. ``seeds``: the row's own."""

    tuning: Tuning
    base: Base
    seeds: tuple[int, ...]
    _made: dict[int, tuple[RunSpec, ...]] = field(default_factory=dict, compare=False, repr=False)

    def finals(self, candidate: Candidate) -> tuple[RunSpec, ...]:
        """The row's runs with a candidate's settings, one per seed of the row."""
        key = self.tuning.candidates.index(candidate)
        if key not in self._made:
            self._made[key] = self.base.specs(self.seeds, candidate.settings)
        return self._made[key]

    @property
    def expected(self) -> tuple[RunSpec, ...]:
        """Runs that cost what the row's will, before anything is chosen: those of the settings that change least."""
        return self.finals(self.tuning.nearest)


def is_number(value: Any) -> bool:
    """Whether a setting is a number: true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)

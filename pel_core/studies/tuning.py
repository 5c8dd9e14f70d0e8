"""``tune`` of a study: a row's candidates, which settings each has, and the row's runs once one of them is chosen. Torch-free.

A *tuning* is what is chosen at once: a row's training on one data set, its grid, its seeds. Rows, columns and studies that ask
for the same share it, and its candidates are ordinary runs: each is trained once, whoever asks for it.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import Any

from pel_core.common.errors import PelError, unknown
from pel_core.common.fingerprints import canonical
from pel_core.common.registry import spell
from pel_core.common.seeds import generator
from pel_core.data.datasets import LongTailed
from pel_core.ingest.sources import require_split, validation_options
from pel_core.spec.choices import METRICS
from pel_core.spec.posthoc import ENSEMBLE
from pel_core.spec.run_spec import RunSpec, is_evaluation
from pel_core.studies.selection_rules import SELECTION_RULES

DEFAULTS = {
    "kind": "grid", "split": "val", "by": "mean_class", "epochs": "same", "select": "best_mean", "draws": None, "draw_seed": 0,
    "hold_out": None,
}  # fmt: skip
DIGITS = 3  # significant digits of a value drawn from a range
NOT_TUNED = ("dataset", "backbone", "method", "value", "seed", "split", "tune")


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

    def training(self) -> "Base":
        """The same without what evaluation alone reads: a training is chosen once, whatever ways of evaluating it are shown."""
        fields = {name: value for name, value in self.fields.items() if not is_evaluation(name)}
        return replace(self, fields=fields)


@dataclass(frozen=True)
class Candidate:
    """Settings that are tried.

    ``specs``: a run for each of the tuning's seeds. ``change``: how far they are from the row's own settings: how many depart
    from them, and the sum over these of the logarithms of their ratios (1 where a value is no positive number).
    """

    settings: Mapping[str, Any]
    specs: tuple[RunSpec, ...]
    change: tuple[int, float]

    @property
    def words(self) -> str:
        """``lr=0.02, weight_decay=0.0005``."""
        return ", ".join(f"{name}={spell(value)}" for name, value in self.settings.items())


@dataclass(frozen=True)
class Tuning:
    """What is chosen at once. ``declaration``: the resolved ``tune``; ``candidates`` in the order of the grid."""

    name: str
    declaration: Mapping[str, Any]
    candidates: tuple[Candidate, ...]

    @cached_property
    def specs(self) -> dict[str, RunSpec]:
        """The candidates' runs by slug."""
        return {spec.slug: spec for candidate in self.candidates for spec in candidate.specs}

    @property
    def nearest(self) -> Candidate:
        """The candidate that changes least."""
        return min(self.candidates, key=lambda candidate: candidate.change)

    def edges(self, chosen: Candidate) -> dict[str, str]:
        """Of the chosen settings those at an end of the numbers that are tried, given or drawn: field -> ``lowest`` or
        ``highest``."""
        found = {}
        for name, value in chosen.settings.items():
            numbers = {other for each in self.candidates if _is_number(other := each.settings[name])}
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
            self._made[key] = tuple(self.base.spec(seed, candidate.settings) for seed in self.seeds)
        return self._made[key]

    @property
    def expected(self) -> tuple[RunSpec, ...]:
        """Runs that cost what the row's will, before anything is chosen: those of the settings that change least."""
        return self.finals(self.tuning.nearest)


def make_tuned(
    base: Base,
    seeds: tuple[int, ...],
    tune: Mapping[str, Any],
    datasets: Mapping[str, LongTailed],
    known: dict[str, Tuning],
    validation: dict[tuple[str, float], dict[str, Any]],
) -> TunedRow:
    """A row's tuning.

    Args:
        base: the row.
        seeds: the row's own.
        tune: the declaration, as the study has it.
        datasets: the declared data sets.
        known: takes tunings by what was asked for, so that each is laid out once.
        validation: takes the options that hold images out, by data set and fraction: a user's images are looked at once.

    Raises:
        PelError: it would choose on the test set or on a split that there is not, its seeds are the row's, or its settings are
            none, no choice, not possible, without effect, or fixed by the row.
    """
    declaration = {**DEFAULTS, **tune}
    try:
        _check(base, seeds, declaration)
        parents = [base.spec(0).parents] if base.parents else []
        key = canonical([base.dataset, base.backbone, base.method, base.training().fields, declaration, *parents])
        if key not in known:
            held = _held_out(base, declaration, datasets, validation)
            known[key] = _lay_out(base.training(), declaration, {"split": declaration["split"], **held})
        return TunedRow(known[key], base, seeds)
    except PelError as error:
        raise PelError(f"tune: {error}") from None


def _held_out(
    base: Base,
    tune: Mapping[str, Any],
    datasets: Mapping[str, LongTailed],
    known: dict[tuple[str, float], dict[str, Any]],
) -> dict[str, Any]:
    """What candidates alone have so that there are validation images: the row trains on these, once its settings are chosen."""
    val = base.training().spec(0).factors.val
    if val or not tune["hold_out"]:
        try:
            require_split(base.dataset, tune["split"], datasets, val)
        except PelError as error:
            raise PelError(f"{error}; tune: {{hold_out: 0.1}} holds them out for the candidates alone") from None
        return {}
    key = base.dataset, tune["hold_out"]
    if key not in known:
        known[key] = validation_options(base.dataset, datasets, tune["hold_out"])
    return known[key]


def _check(base: Base, seeds: tuple[int, ...], tune: Mapping[str, Any]) -> None:
    if tune["split"] != "val":
        told = "the test set is for the runs with chosen settings alone" if tune["split"] == "test" else "expected val"
        raise PelError(f"split={tune['split']}: settings are chosen on the validation split (split: val); {told}")
    seeds = tuple(base.fields.get(ENSEMBLE, seeds))  # of an ensemble the row has one run, and reads several
    if shared := sorted({*seeds} & {*tune["seeds"]}):
        raise PelError(
            f"seeds {', '.join(map(str, shared))} are the row's own too: it would be shown with the luck it was chosen by; "
            f"give the candidates others (the row's are {', '.join(map(str, seeds))})"
        )
    if tune["by"] not in METRICS or METRICS[tune["by"]].better == "neither":
        raise unknown("metric to choose by:", tune["by"], [name for name in METRICS if METRICS[name].better != "neither"])
    least = SELECTION_RULES.entry(tune["select"]).value.least_seeds
    if len(tune["seeds"]) < least:
        raise PelError(f"select={tune['select']} needs {least} seeds or more, for a standard error; given {len(tune['seeds'])}")
    _check_grid(base, tune)


def _check_grid(base: Base, tune: Mapping[str, Any]) -> None:
    for name in tune["grid"]:
        if name in NOT_TUNED or name.startswith("data."):
            raise PelError(f"grid: {name} is no setting of a training to be chosen; give it rows of its own")
        if name in base.fields:
            raise PelError(
                f"grid: {name} is fixed by the row ({name}={spell(base.fields[name])}); leave it out of the one or the other, "
                "or say `tune: false` in the row"
            )
    if "epochs" in tune["grid"] and tune["epochs"] != "same":
        raise PelError(f"epochs={tune['epochs']} and a grid of epochs: say one of the two")
    ranges = [name for name, values in tune["grid"].items() if isinstance(values, Mapping)]
    if tune["kind"] == "grid" and (ranges or tune["draws"]):
        raise PelError(f"{'draws' if tune['draws'] else f'grid: {ranges[0]}: a range {{low, high}}'} is for kind: random")
    if tune["kind"] == "random" and not tune["draws"]:
        raise PelError("kind: random needs `draws`, the number of settings that are tried")
    for name in ranges:
        _check_range(name, tune["grid"][name])


def _check_range(name: str, ends: Mapping[str, Any]) -> None:
    if ends["low"] >= ends["high"] or (ends.get("scale", "log") == "log" and ends["low"] <= 0):
        found = f"low {ends['low']} and high {ends['high']}"
        raise PelError(f"grid: {name}: found {found}, expected low below high, and on a log scale (the default) above 0")


def _lay_out(base: Base, tune: Mapping[str, Any], fixed: Mapping[str, Any]) -> Tuning:
    """A tuning of a row that has no evaluation of its own. ``fixed``: what every candidate has."""
    settings = POINTS[tune["kind"]](tune)
    if len(settings) < 2:
        raise PelError("the grid is of one candidate, which is no choice; give a field two values or more, or leave `tune` out")
    fixed = {**fixed, **({} if tune["epochs"] == "same" else {"epochs": tune["epochs"]})}
    values = base.spec(0).to_json()
    candidates: dict[tuple[str, ...], Candidate] = {}
    for point in settings:
        try:
            specs = tuple(base.spec(seed, {**point, **fixed}) for seed in tune["seeds"])
        except PelError as error:
            hint = "leave that out of the grid, or say `tune: false` in the row"
            raise PelError(f"{error}; {hint}" if "has no effect" in str(error) else str(error)) from None
        after = specs[0].to_json()
        # A number that is quoted in YAML is one: it may lie at an end of the grid.
        point = {
            name: after[name] if isinstance(given, str) and _is_number(after.get(name)) else given
            for name, given in point.items()
        }
        candidate = Candidate(point, specs, _change(point, values, after))
        slugs = tuple(spec.slug for spec in specs)
        if slugs in candidates:
            raise PelError(f"grid: {candidate.words} and {candidates[slugs].words} are the same run; give each value once")
        candidates[slugs] = candidate
    if tune["epochs"] != "same" and tune["epochs"] > values["epochs"]:
        raise PelError(f"epochs={tune['epochs']} is more than the row's {values['epochs']}; expected same, or fewer")
    plugin = SELECTION_RULES.entry(tune["select"]).plugin
    identity = [tune["by"], tune["select"], *([plugin.sha256] if plugin else []), *candidates]
    digest = hashlib.sha256(canonical(identity).encode()).hexdigest()[:10]
    one = next(iter(candidates.values())).specs[0]
    return Tuning(f"{one.dataset}.{one.backbone}.{one.method}.{digest}", tune, tuple(candidates.values()))


def _change(settings: Mapping[str, Any], before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[int, float]:
    count, size = 0, 0.0
    for name in settings:
        old, new = before.get(name), after.get(name)
        if old != new:
            both = _is_number(old) and _is_number(new) and old > 0 and new > 0
            count, size = count + 1, size + (abs(math.log(new / old)) if both else 1.0)
    return count, round(size, 9)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _all_points(tune: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every combination, the last field changing first."""
    return [dict(zip(tune["grid"], values)) for values in product(*tune["grid"].values())]


def _random_points(tune: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Different combinations. Each field has a generator of its own, so that neither another field nor more draws moves it."""
    grid, draws = tune["grid"], tune["draws"]
    lists = [values for values in grid.values() if not isinstance(values, Mapping)]
    if len(lists) == len(grid) and draws > (count := math.prod(map(len, lists))):
        raise PelError(f"draws={draws} of the grid's {count} combinations; expected fewer, or kind: grid, which tries them all")
    streams = {name: _draws(values, generator(tune["draw_seed"], "tune", name)) for name, values in grid.items()}
    points: list[dict[str, Any]] = []
    for _ in range(1000 * draws):
        point = {name: next(stream) for name, stream in streams.items()}
        points += [point] if point not in points else []
        if len(points) == draws:
            return points
    raise PelError(f"draws={draws}: the ranges hold no more than {len(points)} different settings of {DIGITS} digits")


def _draws(values: Any, random: Any) -> Iterator[Any]:
    while True:
        if not isinstance(values, Mapping):
            yield values[int(random.integers(len(values)))]
            continue
        low, high = values["low"], values["high"]
        log = values.get("scale", "log") == "log"
        drawn = math.exp(random.uniform(math.log(low), math.log(high))) if log else random.uniform(low, high)
        whole = isinstance(low, int) and isinstance(high, int)
        yield round(drawn) if whole else float(f"{drawn:.{DIGITS}g}")


POINTS = {"grid": _all_points, "random": _random_points}

"""POSTHOC: what is done to a run's stored logits before they are scored, and which stored logits that takes. Torch-free.

Knobs of the scope ``posthoc`` that every run has: ``posthoc.la``, ``posthoc.temperature``, one for each entry of POSTHOC, with
the step's number, ``val`` (fitted on the validation split of the same training) or ``none``; and ``posthoc.ensemble``, the seeds
whose logits are averaged first. They are no part of training or predicting: a run with some of them reads the logits of the same
run without. Steps follow the ensemble in the order in which POSTHOC lists them.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from pel_core.common.errors import PelError
from pel_core.common.registry import ANYTHING, Check, Entry, Knob, Registry

if TYPE_CHECKING:
    from pel_core.spec.run_spec import RunSpec

SCOPE, NONE, VAL = "posthoc", "none", "val"
ENSEMBLE = f"{SCOPE}.ensemble"
# An entry is a class with `apply` and `fit` (`pel_core.evaluation.posthoc`), and a knob of the entry's own name.
POSTHOC: Registry[Any] = Registry("post-hoc step", ("pel_core.evaluation.posthoc",))


def step_knob(name: str, meaning: str, check: Check = ANYTHING, trained: bool = False) -> Knob:
    """The knob of a step: a number, ``val`` or ``none``. ``trained``: whether it has a meaning for a run that trains alone."""

    def needs(spec: "RunSpec") -> str:
        return "a method that trains" if trained and not spec.trains else ""

    def limit(spec: "RunSpec") -> str:
        if spec.knob(f"{SCOPE}.{name}") != VAL:
            return ""
        if spec.evaluate_on:
            return f"a number: evaluate_on={spec.evaluate_on} has other classes than the validation images that it is fitted on"
        return "a number: with split=val it would be fitted to the images that are scored" if spec.split == VAL else ""

    return Knob(name, NONE, meaning, check, words=(NONE, VAL), kind=float, needs=needs, limit=limit)


def _are_seeds(values: tuple[float, ...]) -> bool:
    return list(values) == sorted({int(value) for value in values}) and all(value >= 0 for value in values)


def _limit_ensemble(spec: "RunSpec") -> str:
    seeds = _seeds(spec)
    if not seeds or seeds[0] == spec.seed:
        return ""
    own = f"a list that begins with the run's own seed {spec.seed}"
    return f"{own}; in a study, whose row is of several seeds, say `seeds`: those of the row, which is then one value"


def _needs_seed(spec: "RunSpec") -> str:
    return "" if replace(spec, knobs=()).seeded else "a run that depends on its seed"


ENSEMBLE_KNOB = Knob(
    "ensemble",
    (),
    "seeds whose logits are averaged, the run's own first; in a study `seeds`: those of the row, which is then one value",
    Check("different seeds in rising order", _are_seeds),
    needs=_needs_seed,
    limit=_limit_ensemble,
)


def scope_entry() -> Entry[Any]:
    """The knobs of the scope, as an entry that every run has chosen."""
    return _entry(len(POSTHOC))


@cache
def _entry(count: int) -> Entry[Any]:
    knobs = [knob for entry in POSTHOC.entries() for knob in entry.knobs]
    return Entry("every run", None, "what is done to stored logits before they are scored", (*ensemble_entry().knobs, *knobs))


def ensemble_entry() -> Entry[Any]:
    """What belongs to no step: whose logits are averaged before the first."""
    return Entry("ensemble", None, "the mean of several seeds' logits", (ENSEMBLE_KNOB,))


def flat(selection: Mapping[str, Any]) -> dict[str, Any]:
    """A study's selection, ``posthoc: {la: 1}`` written as ``posthoc.la: 1``: a nearer one changes only what it names.

    Raises:
        PelError: it has one step both ways.
    """
    steps = {f"{SCOPE}.{name}": value for name, value in selection.get(SCOPE, {}).items()}
    if twice := [name for name in steps if name in selection]:
        raise PelError(f"{twice[0]} is given twice: {selection[twice[0]]} and {steps[twice[0]]} (in `posthoc`); say it once")
    return {key: value for key, value in selection.items() if key != SCOPE} | steps


def steps_of(spec: "RunSpec") -> dict[str, Any]:
    """The steps of a run in the order in which they are taken: name -> number, or ``val``."""
    given = dict(spec.knobs)
    return {name: value for name in POSTHOC if (value := given.get(f"{SCOPE}.{name}", NONE)) != NONE}


def is_posthoc(spec: "RunSpec") -> bool:
    """Whether a run is scored from other runs' stored logits."""
    return any(name.startswith(f"{SCOPE}.") for name, _ in spec.knobs)


def is_ensemble(spec: "RunSpec") -> bool:
    """Whether a run is the mean of several seeds' logits."""
    return any(name == ENSEMBLE for name, _ in spec.knobs)


def _seeds(spec: "RunSpec") -> tuple[int, ...]:
    return tuple(int(seed) for seed in dict(spec.knobs).get(ENSEMBLE, ()))


def stored_runs(spec: "RunSpec") -> tuple["RunSpec", ...]:
    """The runs whose logits are scored, one for each seed of an ensemble; a run without post-hoc steps is its own."""
    if not is_posthoc(spec):
        return (spec,)
    knobs = tuple(pair for pair in spec.knobs if not pair[0].startswith(f"{SCOPE}."))
    return tuple(replace(spec, knobs=knobs, seed=seed) for seed in _seeds(spec) or (spec.seed,))


def fitting_runs(spec: "RunSpec") -> tuple["RunSpec", ...]:
    """The runs on whose logits of the validation split a step is fitted, one for each seed; none where every step has its
    number."""
    return tuple(replace(run, split=VAL) for run in stored_runs(spec)) if VAL in steps_of(spec).values() else ()


def sources(spec: "RunSpec") -> tuple["RunSpec", ...]:
    """Every run whose stored logits a post-hoc run needs; none for others."""
    return (*stored_runs(spec), *fitting_runs(spec)) if is_posthoc(spec) else ()


def with_sources(specs: Mapping[str, "RunSpec"]) -> dict[str, "RunSpec"]:
    """Runs by slug, and those whose logits they need."""
    return dict(specs) | {run.slug: run for spec in specs.values() if is_posthoc(spec) for run in sources(spec)}

"""From a row and its ``tune`` to what is tried: candidates and their runs, checked. Torch-free."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from pel_core.common.errors import PelError, unknown
from pel_core.common.fingerprints import canonical
from pel_core.data.datasets import LongTailed
from pel_core.ingest.sources import require_split, validation_options
from pel_core.spec.choices import METRICS
from pel_core.spec.posthoc import ENSEMBLE
from pel_core.spec.run_spec import RunSpec
from pel_core.studies.selection_rules import SELECTION_RULES
from pel_core.studies.tuning import Base, Candidate, TunedRow, Tuning, is_number
from pel_core.studies.tuning_points import POINTS, check_grid, rung_sizes

DEFAULTS = {
    "kind": "grid", "split": "val", "by": "mean_class", "epochs": "same", "select": "best_mean", "draws": None, "draw_seed": 0,
    "hold_out": None, "rungs": None, "factor": None,
}  # fmt: skip


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
    check_grid(base.fields, tune)


def _lay_out(base: Base, tune: Mapping[str, Any], fixed: Mapping[str, Any]) -> Tuning:
    """A tuning of a row that has no evaluation of its own. ``fixed``: what every candidate has."""
    settings = POINTS[tune["kind"]](tune)
    if len(settings) < 2:
        raise PelError("the grid is of one candidate, which is no choice; give a field two values or more, or leave `tune` out")
    sizes, values = rung_sizes(len(settings), tune), base.spec(0).to_json()
    budgets = tune["rungs"] or [tune["epochs"]]
    candidates: dict[tuple[str, ...], Candidate] = {}
    for point in settings:
        try:
            rungs = tuple(_runs(base, tune["seeds"], {**point, **fixed}, epochs) for epochs in budgets)
        except PelError as error:
            hint = "leave that out of the grid, or say `tune: false` in the row"
            raise PelError(f"{error}; {hint}" if "has no effect" in str(error) else str(error)) from None
        after = rungs[0][0].to_json()
        # A number that is quoted in YAML is one: it may lie at an end of the grid.
        point = {
            name: after[name] if isinstance(given, str) and is_number(after.get(name)) else given for name, given in point.items()
        }
        candidate = Candidate(point, rungs, _change(point, values, after))
        slugs = tuple(spec.slug for spec in candidate.specs)
        if slugs in candidates:
            raise PelError(f"grid: {candidate.words} and {candidates[slugs].words} are the same run; give each value once")
        candidates[slugs] = candidate
    if budgets[-1] != "same" and budgets[-1] > values["epochs"]:
        word, most = "rungs" if tune["rungs"] else "epochs", "the same, or fewer" if tune["rungs"] else "same, or fewer"
        raise PelError(f"{word}={budgets[-1]} is more than the row's {values['epochs']}; expected {most}")
    plugin = SELECTION_RULES.entry(tune["select"]).plugin
    halving = [sizes] if len(sizes) > 1 else []
    identity = [tune["by"], tune["select"], *([plugin.sha256] if plugin else []), *halving, *candidates]
    digest = hashlib.sha256(canonical(identity).encode()).hexdigest()[:10]
    one = next(iter(candidates.values())).specs[0]
    return Tuning(f"{one.dataset}.{one.backbone}.{one.method}.{digest}", tune, tuple(candidates.values()), sizes)


def _runs(base: Base, seeds: Sequence[int], settings: Mapping[str, Any], epochs: int | str) -> tuple[RunSpec, ...]:
    """A candidate's runs on one rung, one for each seed."""
    given = settings if epochs == "same" else {**settings, "epochs": epochs}
    return base.specs(seeds, given)


def _change(settings: Mapping[str, Any], before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[int, float]:
    count, size = 0, 0.0
    for name in settings:
        old, new = before.get(name), after.get(name)
        if old != new:
            both = is_number(old) and is_number(new) and old > 0 and new > 0
            count, size = count + 1, size + (abs(math.log(new / old)) if both else 1.0)
    return count, round(size, 9)

"""POINTS: which settings a ``tune`` tries, by its kind, and what is refused of its grid. Torch-free."""

import math
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

from pel_core.common.errors import PelError
from pel_core.common.registry import spell
from pel_core.common.seeds import generator

DIGITS = 3  # significant digits of a value drawn from a range
NOT_TUNED = ("dataset", "backbone", "method", "value", "seed", "split", "evaluate_on", "tune")
FACTOR = 2  # of `kind: halving`: of so many candidates of a rung one goes on


def check_grid(fields: Mapping[str, Any], tune: Mapping[str, Any]) -> None:
    """Refuse a grid that the row cannot take, and keys that are another kind's. ``fields``: what the row says itself.

    Raises:
        PelError: naming the key, what was found and what to do.
    """
    for name in tune["grid"]:
        if name in NOT_TUNED or name.startswith("data."):
            raise PelError(f"grid: {name} is no setting of a training to be chosen; give it rows of its own")
        if name in fields:
            raise PelError(
                f"grid: {name} is fixed by the row ({name}={spell(fields[name])}); leave it out of the one or the other, "
                "or say `tune: false` in the row"
            )
    if "epochs" in tune["grid"] and tune["epochs"] != "same":
        raise PelError(f"epochs={tune['epochs']} and a grid of epochs: say one of the two")
    ranges = [name for name, values in tune["grid"].items() if isinstance(values, Mapping)]
    if tune["kind"] == "grid" and (ranges or tune["draws"]):
        raise PelError(f"{'draws' if tune['draws'] else f'grid: {ranges[0]}: a range {{low, high}}'} is for kind: random")
    if tune["kind"] == "random" and not tune["draws"]:
        raise PelError("kind: random needs `draws`, the number of settings that are tried")
    _check_rungs(tune, ranges)
    for name in ranges:
        _check_range(name, tune["grid"][name])


def _check_rungs(tune: Mapping[str, Any], ranges: list[str]) -> None:
    rungs = tune["rungs"]
    if tune["kind"] != "halving":
        if rungs or tune["factor"]:
            raise PelError(f"{'rungs' if rungs else 'factor'} is for kind: halving")
        return
    if not rungs:
        raise PelError("kind: halving needs `rungs`, the epochs that candidates are trained for, fewest first: rungs: [2, 5, 10]")
    if len(rungs) < 2 or sorted(set(rungs)) != list(rungs):
        raise PelError(f"rungs={list(rungs)}: expected two numbers of epochs or more, each above the one before")
    if "epochs" in tune["grid"] or tune["epochs"] != "same":
        raise PelError("epochs of candidates are what `rungs` says of kind: halving; leave `epochs` out")
    if ranges and not tune["draws"]:
        raise PelError(f"grid: {ranges[0]}: a range {{low, high}} needs `draws`, the number of settings on the first rung")


def _check_range(name: str, ends: Mapping[str, Any]) -> None:
    if ends["low"] >= ends["high"] or (ends.get("scale", "log") == "log" and ends["low"] <= 0):
        found = f"low {ends['low']} and high {ends['high']}"
        raise PelError(f"grid: {name}: found {found}, expected low below high, and on a log scale (the default) above 0")


def rung_sizes(count: int, tune: Mapping[str, Any]) -> tuple[int, ...]:
    """How many of so many candidates each rung of a ``tune`` has at most: one rung, but for `kind: halving` (Jamieson and
    Talwalkar, 2016). A share of 1 / factor goes on, rounded up as in scikit-learn's HalvingGridSearchCV.

    Raises:
        PelError: fewer than two are left on the last, where one is chosen.
    """
    if tune["kind"] != "halving":
        return (count,)
    sizes, factor = [count], tune["factor"] or FACTOR
    for _ in tune["rungs"][1:]:
        sizes.append(math.ceil(sizes[-1] / factor))
    if sizes[-1] < 2:
        told = ", ".join(map(str, sizes))
        raise PelError(
            f"rungs of {told} settings leave none to choose from on the last; try more settings, fewer rungs, or a smaller "
            f"factor (factor={factor})"
        )
    return tuple(sizes)


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


def _halving_points(tune: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Those of the first rung: as many as are drawn, or every combination."""
    return _random_points(tune) if tune["draws"] else _all_points(tune)


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


POINTS = {"grid": _all_points, "random": _random_points, "halving": _halving_points}

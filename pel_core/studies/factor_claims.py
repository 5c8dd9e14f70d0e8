"""Contrasts of a claim that are said by the factors and levels of a design, in place of selections."""

from collections.abc import Mapping, Sequence
from typing import Any

from pel_core.common.errors import PelError, unknown
from pel_core.studies.bindings import Bindings, UnboundRole
from pel_core.studies.cells import Cell, Contrast
from pel_core.studies.design import Factor
from pel_core.studies.factorial import Factorial, find_levels, read_factorial


def factor_contrast(
    bindings: Bindings, seeds: tuple[int, ...], part: Mapping[str, Any], designs: Mapping[str, Mapping[str, Any]]
) -> Contrast:
    """A contrast of a claim by the levels of a design: the mean of a - b over the cells that agree in all other levels, less
    that at ``minus``. ``designs``: declarations by name, each with its data set.

    Raises:
        PelError: an unknown design, factor or level; nothing to compare.
    """
    if part["factorial"] not in designs:
        raise PelError(unknown("factorial design", part["factorial"], designs))
    made = read_factorial(designs[part["factorial"]])
    factors = made.design.factors
    a, b = (find_levels(factors, part[side], side) for side in "ab")
    if a.keys() != b.keys() or a == b or not a:
        raise PelError("a and b name different levels of the same factors")
    label = f"{_labels(factors, a)} - {_labels(factors, b)}"
    places = {key: [find_levels(factors, each, key) for each in part.get(key, [])] for key in ("over", "minus")}
    for key, each in ((key, each) for key, found in places.items() for each in found):
        if both := each.keys() & a.keys():
            raise PelError(f"{key}: {', '.join(factors[i].name for i in both)} is what a and b compare; name other factors")
    if here := ", ".join(_labels(factors, each) for each in places["over"]):
        label = f"{label} at {here}"
    if places["minus"]:
        label = f"({label}) - (the same at {', '.join(_labels(factors, each) for each in places['minus'])})"
    absent = []
    try:
        pairs = _pairs(made, bindings, seeds, part["value"], a, b, places["over"] or [{}])
        minus = _pairs(made, bindings, seeds, part["value"], a, b, places["minus"])
    except UnboundRole:
        pairs, minus, absent = [], [], [part["factorial"]]
    margin = float(part.get("margin", 0.5 if part["expect"] == "equal" else 0))
    return Contrast(part["expect"], margin, part["value"], label, tuple(pairs), tuple(absent), tuple(minus))


def _labels(factors: Sequence[Factor], levels: Mapping[int, int]) -> str:
    return ", ".join(factors[i].labels[level] for i, level in levels.items())


def _pairs(
    made: Factorial,
    bindings: Bindings,
    seeds: tuple[int, ...],
    value: str,
    a: Mapping[int, int],
    b: Mapping[int, int],
    places: Sequence[Mapping[int, int]],
) -> list[tuple[Cell, Cell]]:
    pairs, every = [], set(made.design.cells)
    for place in places:
        fixed = {**place, **a}
        there = [cell for cell in made.design.cells if all(cell[i] == level for i, level in fixed.items())]
        for cell in there:
            other = tuple(b.get(i, level) for i, level in enumerate(cell))
            if other not in every:
                raise PelError(
                    f"({made.design.label(cell)}) has no partner: ({made.design.label(other)}) is no cell of this design"
                )
            pairs.append(tuple(made.cell(bindings, seeds, levels, value) for levels in (cell, other)))
        if not there:
            raise PelError(f"no cell of this design has the levels {_labels(made.design.factors, fixed)}")
    return pairs  # type: ignore[return-value]

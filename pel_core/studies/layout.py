"""Selections, laid over each other, become cells: sweeps and test sets are unrolled, and every run is resolved.

A *selection* is a mapping that may name dataset, backbone, method, value and any field of RunSpec. A table lays rows over
columns, a figure bars or points over series, a claim `a` and `b` over data sets; where two name a key, the latter wins.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from pel_core.common.errors import PLUGIN, PelError, unknown
from pel_core.data.datasets import require_factors
from pel_core.models.backbones import backbone_name
from pel_core.models.methods import METHODS, PART
from pel_core.spec import posthoc
from pel_core.spec.options import spell
from pel_core.spec.values import value_path
from pel_core.studies.bindings import OWN, TEST, Bindings, UnboundRole
from pel_core.studies.cells import Cell, Contrast, Selection
from pel_core.studies.origins import ALL, FROM, FROM_SEEDS, listed, parents_of, with_origins
from pel_core.studies.tuning import Base
from pel_core.studies.tuning_layout import make_tuned

ROW_SEEDS = "seeds"  # of `posthoc.ensemble`: the row's own


def spread(bindings: Bindings, entries: Iterable[Selection]) -> list[Selection]:
    """Unroll ``evaluate_on: [test, ROLE, ...]`` into a selection for each that the configuration binds; ``{}`` of a label is the
    role's title.

    Raises:
        UnboundRole: none but the run's own is bound.
        PelError: a role that there is not.
    """
    made: list[Selection] = []
    for entry in entries:
        roles = entry.get("evaluate_on")
        if not isinstance(roles, list):
            made.append(entry)
            continue
        if strange := [role for role in roles if role != TEST and role not in bindings.roles]:
            raise unknown("role", strange[0], [TEST, *bindings.roles], "(in evaluate_on)")
        others = [role for role in roles if role != TEST]
        if others and not any(role in bindings.data for role in others):
            raise UnboundRole(others[0])
        for role in roles:
            if role == TEST or role in bindings.data:
                label = str(entry.get("label", "{}")).replace("{}", OWN if role == TEST else bindings.roles[role])
                made.append({**entry, "label": label, "evaluate_on": role})
    return made


def expand(entries: Iterable[Selection]) -> list[Selection]:
    """Unroll every sweep: ``{sweep: lr, values: [0.1, 0.2], label: "lr {}"}`` becomes two selections, ``at`` 0.1 and 0.2."""
    made: list[Selection] = []
    for entry in entries:
        if "sweep" not in entry:
            made.append(entry)
            continue
        rest = {key: value for key, value in entry.items() if key not in ("sweep", "values", "label")}
        for value in entry["values"]:
            label = str(entry.get("label", "{}")).replace("{}", spell(value))
            at = {"at": value} if isinstance(value, int | float) else {}
            made.append({"label": label, **at, entry["sweep"]: value, **rest})
    return made


def make_cell(bindings: Bindings, seeds: Iterable[int], selections: Iterable[Selection], at: tuple[int, int] = (0, 0)) -> Cell:
    """Lay selections over each other and resolve the result for every seed.

    Raises:
        UnboundRole: its role has no data set here.
        PelError: something is missing or not possible.
    """
    selections, seeds = tuple(selections), tuple(seeds)
    fields = _laid_over(bindings, selections, ("dataset", "method", "value"))
    text, method, value, tune = fields["dataset"], fields["method"], fields["value"], fields["tune"]
    every = seeds
    if fields.get(posthoc.ENSEMBLE) == ROW_SEEDS:  # of all of them one value
        fields[posthoc.ENSEMBLE], seeds = list(seeds), seeds[:1]
    base = _base(bindings, selections, fields, every)
    if base.over and tune:
        raise PelError("from_seeds: all makes one run, whose settings cannot be chosen over seeds; say `tune: false` there")
    if fields.get(FROM_SEEDS) == ALL and not base.parents:
        raise PelError("from_seeds: all has no effect without `from`")
    once = tune or base.over  # of a tuned row to see that it is possible
    specs = base.specs(seeds[:1] if once else seeds)
    for spec in (run for child in specs[:1] for run in (child, *child.ancestors.values())):
        require_factors(spec.dataset, spec.factors, bindings.datasets)
    tuned = make_tuned(base, seeds, tune, bindings.datasets, bindings.tunings, bindings.validation) if tune else None
    return Cell(*at, dataset=text, method=method, value=value_path(value), specs=() if tuned else specs, tuned=tuned)


def _laid_over(bindings: Bindings, selections: Iterable[Selection], needed: Iterable[str]) -> dict[str, Any]:
    fields: dict[str, Any] = {"backbone": bindings.backbone, "tune": bindings.tune}
    for selection in selections:
        fields |= {key: value for key, value in posthoc.flat(selection).items() if key not in ("label", "at")}
    for key in needed:
        if key not in fields:
            raise PelError(f"no {key} is given; say it in `where`, or in the row or column")
    return fields


def _base(bindings: Bindings, selections: tuple[Selection, ...], fields: Mapping[str, Any], seeds: tuple[int, ...]) -> Base:
    """A cell's run without its seed, with those that it starts from. ``fields``: the selections laid over each other."""
    check_method(fields["method"])
    parents = []
    for above in map(tuple, parents_of(selections)):
        try:
            of_parent = _laid_over(bindings, above, ("dataset", "method"))
            if of_parent["tune"]:
                raise PelError("its settings are still to be chosen (tune); say `tune: false` there, and the settings")
            steps = [key for key in of_parent if key.startswith(f"{posthoc.SCOPE}.")]  # of logits, which no start has
            parents.append(_base(bindings, above, {k: v for k, v in of_parent.items() if k not in steps}, seeds))
        except PelError as error:
            raise PelError(str(error) if str(error).startswith("from: ") else f"from: {error}") from None
    others = ("dataset", "backbone", "method", "value", "tune", FROM, FROM_SEEDS)
    own = {key: value for key, value in fields.items() if key not in others}
    if "evaluate_on" in own:
        own["evaluate_on"] = bindings.test_set(own["evaluate_on"])
    over = seeds if parents and fields.get(FROM_SEEDS) == ALL else ()
    named = bindings.dataset(fields["dataset"]), backbone_name(fields["backbone"]), fields["method"]
    return Base(*named, bindings.recipe, own, tuple(parents), over)


def check_method(method: str) -> None:
    """Refuse an unknown method even where the artefact is left out, so that a slip does not hide.

    Raises:
        PelError: naming the method and its nearest match.
    """
    for part in method.split("+"):
        match = PART.fullmatch(part)
        if match and match["name"] not in METHODS:
            raise unknown("method", match["name"], METHODS, f"(in '{method}'). {PLUGIN}" if part != method else PLUGIN)


def grid(
    bindings: Bindings, seeds: Iterable[int], where: Selection, rows: list[Selection], columns: list[Selection]
) -> tuple[Cell, ...]:
    """All cells of rows x columns, row by row.

    Raises:
        UnboundRole, PelError: as ``make_cell``; the message says which row and column.
    """
    seeds, cells = tuple(seeds), []
    rows, columns = with_origins(rows), with_origins(columns)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            try:
                cells.append(make_cell(bindings, seeds, (where, row, column), (i, j)))
            except PelError as error:
                names = [entry.get("label", entry.get("at")) for entry in (row, column)]
                raise PelError(f"{' x '.join(str(name) for name in names if name is not None)}: {error}") from None
    return tuple(cells)


def make_contrast(bindings: Bindings, seeds: tuple[int, ...], part: Mapping[str, Any]) -> Contrast:
    """One contrast of a claim, an entry of its ``parts``, over the data sets that are bound here.

    Raises:
        PelError: as ``make_cell``.
    """
    pairs, absent = _pairs(bindings, seeds, part, part["over"])
    minus, more = _pairs(bindings, seeds, part, part.get("minus", []))
    if more:  # half a difference of differences says nothing
        pairs, minus, absent = [], [], [*absent, *more]
    label = f"{_name(part['a'])} - {_name(part['b'])}"
    if "minus" in part:
        here, there = (", ".join(map(_name, part[key])) for key in ("over", "minus"))
        label = f"({label} at {here}) - (the same at {there})"
    margin = float(part.get("margin", 0.5 if part["expect"] == "equal" else 0))
    return Contrast(part["expect"], margin, part["value"], label, tuple(pairs), tuple(absent), tuple(minus))


def _pairs(
    bindings: Bindings, seeds: tuple[int, ...], part: Mapping[str, Any], where: Iterable[Selection]
) -> tuple[list[tuple[Cell, Cell]], list[str]]:
    pairs, absent = [], []
    for over in where:
        try:
            a, b = (make_cell(bindings, seeds, ({"value": part["value"]}, over, part[side])) for side in "ab")
            pairs.append((a, b))
        except UnboundRole:
            absent.append(str(over.get("dataset", "")))
    return pairs, absent


def _name(selection: Selection) -> str:
    """A selection in words: its method, and what else it sets."""
    rest = [f"{key}={value}" for key, value in posthoc.flat(selection).items() if key not in ("method", "tune", FROM)]
    rest += [f"from ({_name(parent)})" for parent in listed(selection.get(FROM) or [])]
    return " ".join([str(selection.get("method", "")), *rest]).strip()

"""``factorial:`` of a study: factors with levels -> a design, its cells' runs, and the artefacts that are made of them.

A design is a list of cells with a layout, as a table is: it makes a table of cell means, an analysis of variance (NAME-anova),
main effects (NAME-main) and a plot of every interaction of two factors (NAME-A-B). What cannot be meant is refused when the
study is read.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import Any

from pel_core.common.errors import PelError, unknown
from pel_core.data.factors import AS_IS, GROUPING
from pel_core.spec.choices import METRICS
from pel_core.spec.posthoc import is_ensemble
from pel_core.spec.values import value_path
from pel_core.studies.bindings import Bindings
from pel_core.studies.cells import Artefact, Cell, Selection
from pel_core.studies.design import Design, Factor, Levels, regular_fraction
from pel_core.studies.kinds import DESIGNS, TABLES
from pel_core.studies.layout import expand, make_cell
from pel_core.studies.origins import with_origins

MOST_LINES = 8  # of an interaction plot


@dataclass(frozen=True)
class Factorial:
    """A design with the options of its levels and cells; ``options``: of each factor its levels' selections."""

    design: Design
    where: Selection
    options: tuple[tuple[Selection, ...], ...]
    own: Mapping[Levels, Selection]
    values: tuple[str, ...]

    def cell(self, bindings: Bindings, seeds: Iterable[int], levels: Levels, value: str, at: tuple[int, int] = (0, 0)) -> Cell:
        """The runs of a cell.

        Raises:
            UnboundRole, PelError: as `make_cell`; the message says which cell.
        """
        chosen = [options[level] for options, level in zip(self.options, levels, strict=True)]
        try:
            cell = make_cell(bindings, seeds, (self.where, *chosen, self.own.get(levels, {}), {"value": value}), at)
            require_seeds(cell)
            return cell
        except PelError as error:
            raise PelError(f"cell ({self.design.label(levels)}): {error}") from None


def require_seeds(cell: Cell) -> None:
    """Refuse an ensemble and a soup over seeds, whose one value has no spread over seeds to take apart.

    Raises:
        PelError: the cell is one.
    """
    one = "posthoc: ensemble" if is_ensemble(cell.expected[0]) else "from_seeds: all" if cell.expected[0].pooled else ""
    if one:
        raise PelError(f"{one}: it is one value, and what is taken apart here is over seeds; show it in a table")


def read_factorial(entry: Mapping[str, Any]) -> Factorial:
    """A declared design.

    Raises:
        PelError: what cannot be meant: a factor of one level, a repeated label, two factors of one option, a fraction that is
        empty or cannot tell main effects apart, ...
    """
    levels = {name: with_origins(expand(rows)) for name, rows in entry["factors"].items()}
    factors = tuple(Factor(name, tuple(str(row["label"]) for row in rows)) for name, rows in levels.items())
    options = tuple(tuple({k: v for k, v in row.items() if k not in ("label", "at")} for row in rows) for rows in levels.values())
    for factor in factors:
        _check_factor(factor)
    _check_options(factors, options, entry)
    if (order := entry.get("interactions", 2)) > len(factors):
        raise PelError(f"interactions: {order}, but an effect joins at most the {len(factors)} factors there are")
    cells, own = _cells(factors, entry)
    design = Design(factors, tuple(cells), order)
    _check_levels(design)
    values = tuple(entry.get("values", ("overall",)))
    for value in values:
        if value_path(value).removeprefix("metrics.").split(".")[0] not in (*METRICS, "per_class"):
            raise PelError(f"values: {value} is no metric of test images, so its effects have no interval; put it into a table")
    shared = {"tune": entry["tune"]} if "tune" in entry else {}
    return Factorial(design, {**shared, **entry.get("where", {})}, options, own, values)


def _check_factor(factor: Factor) -> None:
    if len(factor) < 2:
        raise PelError(
            f"factors.{factor.name} has {len(factor)} level{'s' * (len(factor) != 1)} here; a factor is varied: give at least "
            "two, or say the one in `where`"
        )
    for label in factor.labels:
        if factor.labels.count(label) > 1:
            raise PelError(f"factors.{factor.name}: two levels are labelled '{label}'; give each a label of its own")


def _check_options(factors: Sequence[Factor], options: Sequence[Sequence[Selection]], entry: Mapping[str, Any]) -> None:
    keys = [{key for level in levels for key in level} for levels in options]
    for (one, these), (two, those) in combinations(zip(factors, keys, strict=True), 2):
        if both := sorted(these & those):
            raise PelError(
                f"factors.{one.name} and factors.{two.name} both set {', '.join(both)}, so that the latter alone would count; "
                "make them one factor, or give each combination its options in `cells`"
            )
    for factor, levels in zip(factors, options, strict=True):
        if any("value" in level for level in levels):
            raise PelError(f"factors.{factor.name}: value is no option of a run; the metrics of a design stand in `values`")
        if idle := [key for key in entry.get("where", {}) if all(key in level for level in levels)]:
            raise PelError(
                f"every level of factors.{factor.name} sets {', '.join(idle)}, so that in `where` (for dataset: or `each`) it "
                "would have no effect; leave it out there"
            )
    if sum(key in entry for key in ("cells", "fraction")) > 1 or ("cells" in entry and "exclude" in entry):
        raise PelError("`cells` says all there is: leave out `fraction` and `exclude` beside it")


def _cells(factors: Sequence[Factor], entry: Mapping[str, Any]) -> tuple[list[Levels], dict[Levels, Selection]]:
    """The cells in reading order, and the options that some have of their own."""
    sizes = [len(factor) for factor in factors]
    if "cells" in entry:
        own: dict[Levels, Selection] = {}
        for i, cell in enumerate(entry["cells"]):
            levels = find_levels(factors, cell["levels"], f"cells[{i}].levels")
            if missing := [factor.name for j, factor in enumerate(factors) if j not in levels]:
                raise PelError(f"cells[{i}].levels: no level of {', '.join(missing)} is given")
            key = tuple(levels[j] for j in range(len(factors)))
            if key in own:
                raise PelError(f"cells[{i}]: the cell ({', '.join(cell['levels'].values())}) is given twice")
            own[key] = {name: value for name, value in cell.items() if name != "levels"}
        return sorted(own), own
    cells = list(product(*map(range, sizes)))
    if fraction := entry.get("fraction"):
        one_in, offset = fraction["one_in"], fraction.get("offset", 0)
        for factor in factors:
            if len(factor) % one_in:
                raise PelError(
                    f"fraction: one_in {one_in} does not divide the {len(factor)} levels of {factor.name}, so that some would be "
                    "in more cells than others; choose the cells by `exclude` or `cells`"
                )
        cells = regular_fraction(sizes, one_in, offset)
        if not cells:
            raise PelError(f"fraction: offset {offset} leaves no cell; expected 0 to {one_in - 1}")
    for i, given in enumerate(entry.get("exclude", [])):
        levels = find_levels(factors, given, f"exclude[{i}]")
        kept = [cell for cell in cells if any(cell[j] != level for j, level in levels.items())]
        if len(kept) == len(cells):
            raise PelError(f"exclude[{i}]: {_told(given)} is no cell any more; leave it out")
        cells = kept
    if not cells:
        raise PelError("exclude leaves no cell")
    return cells, {}


def find_levels(factors: Sequence[Factor], given: Mapping[str, Any], where: str) -> dict[int, int]:
    """Factor number -> level number of ``{factor: label}``.

    Raises:
        PelError: no such factor or level; with the nearest match.
    """
    names = [factor.name for factor in factors]
    found = {}
    for name, label in given.items():
        if name not in names:
            raise PelError(f"{where}: {unknown('factor', name, names)}")
        factor = factors[names.index(name)]
        if str(label) not in factor.labels:
            raise PelError(f"{where}: {unknown(f'level of {name}', str(label), factor.labels)}")
        found[names.index(name)] = factor.labels.index(str(label))
    return found


def _check_levels(design: Design) -> None:
    """Refuse cells that lack a level, or cannot tell the factors' main effects from each other."""
    for i, factor in enumerate(design.factors):
        there = {cell[i] for cell in design.cells}
        if gone := [label for level, label in enumerate(factor.labels) if level not in there]:
            raise PelError(
                f"no cell is left of the level {', '.join(gone)} of {factor.name}; leave out the level, or keep a cell"
            )
    for i, factor in enumerate(design.factors):
        if lost := design.model[i,]:
            raise PelError(
                f"the {len(design.cells)} cells cannot tell the main effect of {factor.name} from those of other factors "
                f"({lost}); run more of them"
            )


def _told(levels: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={label}" for name, label in levels.items())


def images_of(cell: Cell) -> tuple[object, ...]:
    """What decides which test images a cell has: cells that agree in it are paired image by image."""
    return cell.expected[0].data_bases[-1], *images_within(cell)


def images_within(cell: Cell) -> tuple[object, ...]:
    """The same within a data set."""
    spec = cell.expected[0]
    taken = spec.factors.classes, spec.factors.class_seed
    if spec.split != "val" or not spec.factors.val:  # of a split that is there, not held out of what the run draws
        return spec.split, *taken
    others = {name: getattr(AS_IS, name) for name in ("noise", "noise_seed", *GROUPING)}  # change no image
    return spec.split, *taken, spec.dataset, replace(spec.factors, **others)


def design_artefacts(name: str, entry: Mapping[str, Any], bindings: Bindings) -> Iterator[Artefact | tuple[str, str]]:
    """The artefacts of a declared design; a name and a reason in place of one that cannot be made.

    Raises:
        UnboundRole, PelError: as `read_factorial` and `Factorial.cell`, or two cells are the same run.
    """
    made = read_factorial(entry)
    design, seeds = made.design, tuple(entry.get("seeds", bindings.seeds))
    rows = [made.cell(bindings, seeds, levels, made.values[0]) for levels in design.cells]
    _check_same(design, rows)
    title, note = bindings.title(entry["title"]), {"note": entry["note"]} if "note" in entry else {}
    yield _table(name, title, note, made, rows, seeds)
    plain = [[factor.name, list(factor.labels)] for factor in design.factors]
    told = {"factors": plain, "cells": [list(cell) for cell in design.cells], "order": design.order, **note}

    def of(suffix: str, kind: str, more: str, values: Sequence[str], **about: Any) -> Artefact:
        cells = tuple(
            replace(row, row=i, column=j, value=value_path(value)) for i, row in enumerate(rows) for j, value in enumerate(values)
        )
        declared = {**told, "values": list(values), **about}
        return Artefact(f"{name}-{suffix}", DESIGNS.entry(kind), f"{title}: {more}", declared, cells, seeds=seeds)

    yield of("anova", "anova", "analysis of variance", made.values)
    several = len(made.values) > 1
    for value in made.values:
        ending = f"-{value.replace('.', '-')}" if several else ""
        metric = f", {value}" if several else ""
        yield of(f"main{ending}", "main-effects", f"main effects{metric}", [value])
        if design.order < 2:
            continue
        for pair in combinations(range(len(design.factors)), 2):
            along, lines = sorted(pair, key=lambda i: -len(design.factors[i]))
            names = f"{design.factors[pair[0]].name}-{design.factors[pair[1]].name}{ending}"
            if lost := design.model[pair]:
                yield f"{name}-{names}", f"no interaction can be drawn: {lost}"
            elif len(design.factors[lines]) > MOST_LINES:
                yield f"{name}-{names}", f"both factors have more than {MOST_LINES} levels, and a plot has room for no more lines"
            else:
                yield of(names, "design-interaction", f"{design.name(pair)}{metric}", [value], along=along, lines=lines)


def _check_same(design: Design, rows: Sequence[Cell]) -> None:
    seen: dict[tuple[str, str], Levels] = {}
    for levels, row in zip(design.cells, rows, strict=True):
        tuning = row.tuned.tuning.name if row.tuned else ""  # two that are tuned in other ways may come to other runs
        other = seen.setdefault((row.expected[0].slug, tuning), levels)
        if other != levels:
            differ = [f for f, a, b in zip(design.factors, other, levels, strict=True) if a != b]
            names, run = ", ".join(factor.name for factor in differ), row.expected[0].slug
            raise PelError(
                f"the cells ({design.label(other)}) and ({design.label(levels)}) are the same run {run}: there the levels of "
                f"{names} have no effect; give levels options that differ, or exclude one"
            )


def _table(
    name: str, title: str, note: Mapping[str, str], made: Factorial, rows: Sequence[Cell], seeds: tuple[int, ...]
) -> Artefact:
    """The cell means: where all cells are there, the last factor (that of data sets, if there is one) across; else a row each."""
    design, values = made.design, made.values
    across = next((i for i, levels in enumerate(made.options) if any("dataset" in level for level in levels)), -1)
    across %= len(design.factors)
    down = [i for i in range(len(design.factors)) if i != across] if design.is_full else list(range(len(design.factors)))
    by_levels = dict(zip(design.cells, rows, strict=True))
    labels = design.factors[across].labels if design.is_full else ("",)
    columns = [(level, label, value) for value in values for level, label in enumerate(labels)]
    body = list(dict.fromkeys(tuple(cell[i] for i in down) for cell in design.cells))
    cells = []
    for i, levels in enumerate(body):
        for j, (level, _, value) in enumerate(columns):
            key = list(levels)
            if design.is_full:
                key.insert(across, level)
            cells.append(replace(by_levels[tuple(key)], row=i, column=j, value=value_path(value)))
    factors = [design.factors[i] for i in down]
    several = len(values) > 1 or not design.is_full
    heading = [", ".join(filter(None, (label, value * several))) for _, label, value in columns]
    told = ", ".join(f"{factor.name} ({', '.join(factor.labels)})" for factor in design.factors)
    declaration = {
        "title": title,
        "corner": ", ".join(factor.name for factor in factors),
        "rows": [{"label": ", ".join(f.labels[k] for f, k in zip(factors, levels, strict=True))} for levels in body],
        "columns": [{"label": label} for label in heading],
        "info": [{"label": "Parameters", "value": "parameters.learnable"}],
        "note": " ".join(filter(None, (f"Factors: {told}.", note.get("note", "")))),
    }
    return Artefact(name, TABLES.entry("table"), title, declaration, tuple(cells), seeds=seeds)

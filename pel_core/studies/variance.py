"""``variance:`` of a study: one method on several training subsets, each with every seed -> one table of variance components."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pel_core.common.errors import PelError
from pel_core.spec.values import value_path
from pel_core.studies.bindings import Bindings
from pel_core.studies.cells import Artefact
from pel_core.studies.factorial import images_within, require_seeds
from pel_core.studies.kinds import DESIGNS
from pel_core.studies.layout import expand, make_cell

VALUES = ("overall", "head", "med", "tail")


def variance_artefact(name: str, entry: Mapping[str, Any], bindings: Bindings) -> Artefact:
    """The artefact of a declared study of variance; a row of cells per subset, a column per accuracy.

    Raises:
        UnboundRole, PelError: as `make_cell`; fewer than two subsets, two that are the same runs, a value that is no accuracy, a
            method that trains nothing.
    """
    # What is best for one draw of the training images would be part of the spread: nothing here is tuned.
    bindings = replace(bindings, tune=None)
    rows, values = expand(entry["subsets"]), list(entry.get("values", VALUES[:1]))
    seeds = tuple(entry.get("seeds", bindings.seeds))
    for value in values:
        if value not in VALUES:
            raise PelError(f"values: {value} is not an accuracy over test images; choose of {', '.join(VALUES)}")
    if any(selection.get("tune") for selection in (entry.get("where", {}), *rows)):
        raise PelError("tune: the settings of a study of variance are given, or their choice would be a part of the spread")
    if len(rows) < 2:
        raise PelError(f"subsets: variance between subsets needs two of them or more; there is {len(rows)}")
    cells, seen, labels = [], {}, [str(row["label"]) for row in rows]
    for i, row in enumerate(rows):
        _check_subset(row, labels)
        for j, value in enumerate(values):
            try:
                cell = make_cell(bindings, seeds, (entry.get("where", {}), row, {"value": value_path(value)}), (i, j))
                require_seeds(cell)
            except PelError as error:
                raise PelError(f"subset {row['label']}: {error}") from None
            cells.append(cell)
        other = seen.setdefault(cell.expected[0].slug, row["label"])
        if other != row["label"]:
            raise PelError(
                f"the subsets {other} and {row['label']} are the same run {cell.expected[0].slug}; give them data that differ"
            )
        if images_within(cell) != images_within(cells[0]):
            raise PelError(
                f"the subsets {labels[0]} and {row['label']} are asked other images; a study of variance needs the same of all: "
                "give `where` the classes, and evaluate on the test split (or images held out alike)"
            )
    if not cells[0].expected[0].trains:
        raise PelError(f"{cells[0].method} trains nothing, so that no subset and no seed changes it")
    declaration = {"values": values, "subsets": [str(row["label"]) for row in rows]} | {
        key: entry[key] for key in ("note",) if key in entry
    }
    return Artefact(name, DESIGNS.entry("variance"), bindings.title(entry["title"]), declaration, tuple(cells), seeds=seeds)


def _check_subset(row: Mapping[str, Any], labels: list[str]) -> None:
    if labels.count(str(row["label"])) > 1:
        raise PelError(f"subsets: two are labelled '{row['label']}'; give each a label of its own")
    # Another learning rate is no draw of images: what it changes would be called the subsets' variance.
    if other := [key for key in row if key not in ("label", "at", "dataset", "tune") and not key.startswith("data.")]:
        hint = "say it in `where`, or make it a factor"
        raise PelError(f"subset {row['label']}: {other[0]} is no choice of training images; {hint}")

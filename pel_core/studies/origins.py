"""``from`` of a study: which run a cell's runs start from. Torch-free.

It says another row (column, level) by its label, or a mapping that stands in that one's place: the parent is the cell of the same
artefact with this row in the place of the one that says ``from``, over the same seeds. In ``where`` it is laid over ``where``
itself, but for what that says of the start (``take``, ``soup``, ...), and takes only data set, backbone and data factors of row
and column.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pel_core.common.errors import PelError, unknown
from pel_core.data.factors import SCOPE

Selection = Mapping[str, Any]
FROM = "from"
FROM_SEEDS, ALL = "from_seeds", "all"  # the parents of a soup are those of every seed of the study
ABOUT_ITSELF = ("label", "at", "value")  # of a row, not of its runs
ABOUT_THE_START = (
    FROM,
    FROM_SEEDS,
    "take",
    "train_delta",
    "soup",
)  # of a run that starts from another: not of its parent


def with_origins(rows: Sequence[Selection]) -> list[Selection]:
    """Rows (columns, levels) whose ``from`` is a list of mappings in the place of labels.

    Raises:
        PelError: no row is called so, or several; or rows start from each other.
    """
    return [_resolved(row, rows, [str(row.get("label"))]) for row in rows]


def _resolved(selection: Selection, rows: Sequence[Selection], chain: list[str]) -> Selection:
    if not selection.get(FROM):
        return selection
    return {**selection, FROM: [_parent(given, rows, chain) for given in listed(selection[FROM])]}


def _parent(given: "str | Selection", rows: Sequence[Selection], chain: list[str]) -> Selection:
    if not isinstance(given, str):
        return _resolved(given, rows, chain)
    found = [row for row in rows if str(row.get("label")) == given]
    labels = [str(row["label"]) for row in rows if "label" in row]
    if not found:
        hint = "(from: the label of a row beside it, or a mapping such as {method: adaptformer, loss: ce})"
        raise unknown("row to start from:", given, labels, hint)
    if len(found) > 1:
        raise PelError(f"from: {given}: {len(found)} rows are called so; give each a label of its own")
    if given in chain:
        raise PelError(f"from: in a circle: {' <- '.join([*chain[chain.index(given) :], given])}; one of them has to start anew")
    own = _resolved(found[0], rows, [*chain, given])
    return {key: value for key, value in own.items() if key not in ABOUT_ITSELF}


def parents_of(selections: Sequence[Selection]) -> list[list[Selection]]:
    """The selections of each run that the runs of a cell start from; of none for most cells.

    Args:
        selections: the cell's, as they are laid over each other: ``where`` (or a claim's value) first.

    Raises:
        PelError: a label stands where there are no rows.
    """
    place = max((i for i, selection in enumerate(selections) if FROM in selection), default=None)
    if place is None or not selections[place][FROM]:
        return []
    found = []
    for given in listed(selections[place][FROM]):
        if isinstance(given, str):
            raise PelError(f"from: {given}: there are no rows here; say a mapping such as {{method: adaptformer, loss: ce}}")
        if place == 0:
            where = {key: value for key, value in selections[0].items() if key.partition(".")[0] not in ABOUT_THE_START}
            found.append([where, *map(_images, selections[1:]), given])
        else:
            found.append([*selections[:place], given, *selections[place + 1 :]])
    return found


def _images(selection: Selection) -> Selection:
    """What a selection says of images and backbone alone."""
    return {key: value for key, value in selection.items() if key in ("dataset", "backbone") or key.startswith(f"{SCOPE}.")}


def listed(given: Any) -> "Iterable[str | Selection]":
    """A ``from`` as a list, of one or several."""
    return given if isinstance(given, list) else [given]

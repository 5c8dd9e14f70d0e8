"""Which columns of a Hugging Face table hold images and labels: by name and kind; where several may be meant, nobody guesses.

And what the labels of its splits come to.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from pel_core.common.errors import PelError, unknown
from pel_core.ingest.catalogue import class_order
from pel_core.ingest.labels import read_labels

LABELS = ("label", "labels")
# What columns of classes are called besides; a column of such a name, or part of a name, may be meant.
TELLING = ("label", "class", "category", "target", "species")
HOW = "say which by '{option}: NAME' in the data set's entry (datasets: in a configuration)"


def image_column_of(root: str, table: Any, asked: str) -> str:
    """The column of images: the one that is ``asked`` for, else the only one.

    Raises:
        PelError: it is missing or holds something else; there is none, or several.
    """
    images = [
        name for name, kind in table.features.items() if "Image" in type(kind).__name__ or getattr(kind, "dtype", "") == "binary"
    ]
    if asked and asked not in table.features:
        raise unknown(f"image_column of {root}:", asked, table.features)
    if asked and asked not in images:
        raise PelError(f"image_column: '{asked}' of {root} is {table.features[asked]}, expected images")
    if not asked and len(images) != 1:
        found = f"{len(images)} columns of images ({', '.join(images)})" if images else f"no image in {', '.join(table.features)}"
        raise PelError(f"{root} has {found}; expected one: {HOW.format(option='image_column')}")
    return asked or images[0]


def label_column_of(root: str, table: Any, asked: str) -> str:
    """The column of labels: the one that is ``asked`` for, else ``label`` or ``labels``, else the only one that may be meant.

    That is a column of class labels where no other is of that kind, none has a telling name, and in no column of text do few
    values repeat.

    Raises:
        PelError: it is missing; there is none, or several may be meant.
    """
    kinds = {name: type(kind).__name__ for name, kind in table.features.items()}
    if asked and asked not in kinds:
        raise unknown(f"label_column of {root}:", asked, kinds)
    if asked:
        return asked
    how = HOW.format(option="label_column")
    named = [name for name in kinds if name.lower() in LABELS]
    if len(named) == 1:
        return named[0]
    candidates = named or [name for name in kinds if _may_be_meant(table, name)]
    if len(candidates) == 1 and kinds[candidates[0]] == "ClassLabel":
        return candidates[0]
    if not candidates:
        raise PelError(f"{root} has no column of class labels among {', '.join(kinds)}; {how}")
    listed = "; ".join(describe_column(table, name) for name in candidates)
    raise PelError(f"{root} has {'columns' if len(candidates) > 1 else 'a column'} that may hold the labels: {listed}; {how}")


def describe_column(table: Any, name: str) -> str:
    """A column's name and kind, with the first names of class labels."""
    kind = table.features[name]
    names = getattr(kind, "names", None)
    if names:
        few = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        return f"'{name}' (class labels: {few})"
    return f"'{name}' ({getattr(kind, 'dtype', None) or type(kind).__name__})"


def _may_be_meant(table: Any, name: str) -> bool:
    kind = table.features[name]
    if type(kind).__name__ == "ClassLabel":
        return True
    dtype = getattr(kind, "dtype", "")
    if not (dtype in ("string", "large_string") or dtype.startswith("int")) or "Image" in type(kind).__name__:
        return False
    if any(word in name.lower() for word in TELLING):
        return True
    return "string" in dtype and 2 <= len(table.unique(name)) <= len(table) / 2


def library() -> Any:
    """Hugging Face's ``datasets``, without progress bars.

    Raises:
        PelError: it is not installed.
    """
    try:
        import datasets
    except ImportError:
        raise PelError(
            "reading a Hugging Face directory needs their library: pip install datasets (it is the extra 'hf' of this package)"
        ) from None
    datasets.disable_progress_bars()
    return datasets


def names_of(kind: Any) -> list[str] | None:
    """The names of a column of class labels, by number; None of other columns."""
    return getattr(kind, "names", None)


def named(kind: Any, values: Iterable[Any]) -> list[Any]:
    """The values of a column of labels with numbers of class labels as names. What is no number of a name (-1: unlabelled)
    stays as it is, for `split_labels` to refuse."""
    names = names_of(kind)
    if not names:
        return list(values)
    return [names[value] if isinstance(value, int) and 0 <= value < len(names) else value for value in values]


def split_labels(
    root: str, values: Mapping[str, list[Any]], column: str, class_labels: bool
) -> tuple[dict[str, list[str]], list[str]]:
    """Every image's class in each split, as its name or number, and notes.

    Args:
        values: the column in each split, as `named` gives it.
        class_labels: whether it is a column of class labels, whose values are names by now.

    Raises:
        PelError: a label that is missing, or none; the message says where.
    """
    starts = dict(zip(values, np.cumsum([0, *map(len, values.values())]).tolist(), strict=False))
    together = [value for each in values.values() for value in each]

    def where(position: int) -> str:
        split = next(split for split in reversed(values) if starts[split] <= position)
        return f"{root} ({split}), image {position - starts[split]}"

    if class_labels:
        if (bad := next((i for i, value in enumerate(together) if not isinstance(value, str)), None)) is not None:
            raise PelError(f"{where(bad)}: its {column} is {together[bad]!r}, which is no class (unlabelled images?)")
        keys, notes = together, []
    else:
        keys, notes = read_labels(together, where, column)
    return {split: keys[start : start + len(values[split])] for split, start in starts.items()}, notes


def label_order(kind: Any, keys: Iterable[str]) -> list[str]:
    """Classes in label order: as the data set numbers them, less those without a training image; else by name.

    Args:
        kind: of the column. keys: the classes of training images.
    """
    there = set(keys)
    return [name for name in names if name in there] if (names := names_of(kind)) else class_order(there)

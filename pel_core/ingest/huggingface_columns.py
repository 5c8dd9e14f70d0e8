"""Which columns of a Hugging Face table hold images and labels: by name and kind; where several may be meant, nobody guesses."""

from typing import Any

from pel_core.common.errors import PelError, unknown

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

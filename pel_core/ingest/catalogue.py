"""Catalogue: images as a folder, a table or a saved data set has them, before they are divided. Shapes: N images, C classes."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal

import numpy as np

from pel_core.common.errors import PelError
from pel_core.common.locales import check_locale
from pel_core.data.lists import ImageList

# How people call the folders (and a table's or Hugging Face's splits) of a divided data set.
SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test", "val": "val", "valid": "val",
          "validation": "val", "dev": "val"}  # fmt: skip


@dataclass
class Catalogue:
    """Images as they are found: ``keys``, the classes as the data call them, in label order; ``splits`` "train", and "test" and
    "val" where there are such; ``notes`` for the user, ``root`` the image folder; ``no_classes`` the folders without an image.
    ``excluded`` counts images of classes that are left out as asked and are not among the keys, as no training image has them."""

    root: str
    keys: list[str]
    splits: dict[str, ImageList]
    notes: list[str] = field(default_factory=list)
    no_classes: list[str] = field(default_factory=list)
    excluded: int = 0


@dataclass(frozen=True)
class Placed(ImageList):
    """Images that no list file names: of a folder, or of the ``lines`` (N,) of a table."""

    lines: np.ndarray | None = None

    def where(self, position: int) -> str:
        """``file:line`` of an entry, or the folder."""
        return self.source if self.lines is None else f"{self.source}:{self.lines[position]}"

    def take(self, positions: np.ndarray) -> "Placed":
        """Some of the images, in the order of ``positions`` (n,)."""
        paths = [self.paths[i] for i in positions.tolist()]
        return Placed(self.source, paths, self.labels[positions], None if self.lines is None else self.lines[positions])


NUMBER = re.compile(r"(0|[1-9][0-9]*)(\.[0-9]*[1-9])?")  # as one way of spelling each has it


def class_order(keys: Iterable[str]) -> list[str]:
    """Classes in label order: by name, or by number where every one is a number (``9``, ``10``, ``10.5``; not ``09``)."""
    distinct = set(keys)
    if all(NUMBER.fullmatch(key) for key in distinct):
        return sorted(distinct, key=Decimal)
    return sorted(distinct)


def check_line(name: str) -> None:
    """Refuse a name of a class or a file that is not one line.

    Raises:
        PelError: naming it.
    """
    if "\n" in name or "\0" in name:
        raise PelError(f"the name {name!r} holds a line break; rename it (names of classes and files must be one line)")


def check_path(path: str) -> None:
    """Refuse a path that cannot be kept: prepared paths are UTF-8 text with a line for each.

    Raises:
        PelError: naming the path, or the locale that keeps this process from spelling it.
    """
    check_line(path)
    if path.isascii():
        return
    check_locale([path])
    try:
        path.encode()
    except UnicodeEncodeError:
        raise PelError(f"the name {path!r} is not UTF-8; rename it (convmv renames whole trees)") from None

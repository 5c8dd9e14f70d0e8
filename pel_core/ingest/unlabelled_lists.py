"""List files without labels, ``CLASS/image.jpg`` a line, as Caltech-101 and others are divided: the folder is the class.

Shapes: N images, C classes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pel_core.common.errors import PelError
from pel_core.common.problems import Problems
from pel_core.data.image_files import SUFFIXES, suffix_of
from pel_core.data.lists import ImageList, distinct, inside, read_lines
from pel_core.ingest.catalogue import class_order
from pel_core.ingest.class_keys import clean


def has_labels(path: str | Path) -> bool:
    """Whether the first line of a list file says more than the path of an image: it does not end as an image's name does."""
    return suffix_of(read_lines(path, "list file")[0].rstrip()) not in SUFFIXES


def folder_of(path: str) -> str:
    """The name of the folder that a file lies in."""
    return path.rpartition("/")[0].rpartition("/")[2]


def read_unlabelled(path: str | Path, problems: Problems | None = None) -> ImageList:
    """Read a list file of paths alone; every label is 0, until `label_by_folder`.

    ``problems`` takes bad lines, which are left out (None stops at the first).

    Raises:
        PelError: naming file and line: a line that is no path of an image in a folder, a path that leaves the root, a repeated
            path, or folders of one name in different places.
    """
    source = str(path)
    found: dict[int, str] = {}
    places: dict[str, str] = {}
    lines = read_lines(path, "list file")
    for number, line in enumerate(lines, 1):
        where = f"{source}:{number}"
        try:
            if suffix_of(line.rstrip()) not in SUFFIXES or line[0].isspace() or "\0" in line or "\r" in line:
                raise PelError(f"{where}: found {line!r}, expected the path of an image alone, as on line 1")
            name = inside(where, line.rstrip())
            folder = name.rpartition("/")[0]
            if not folder:
                raise PelError(f"{where}: found {line!r}, expected CLASS/image.jpg, as no line has a label")
            if (other := places.setdefault(folder_of(name), folder)) != folder:
                raise PelError(f"{where}: images without labels lie in {other} and in {folder}; expected a label on each line")
            found[number] = name
        except PelError as error:
            if problems is None:
                raise
            problems.add("bad lines in lists", error)
    numbers = np.array(list(found), np.int64) if len(found) < len(lines) else None
    return distinct(ImageList(source, list(found.values()), np.zeros(len(found), np.int64), numbers), problems)


def require_unlabelled(path: str | Path) -> None:
    """Refuse a training list with labels where no file of names says what these mean."""
    if has_labels(path):
        raise PelError(
            f"{path} has labels, and 'names' is missing, the file that says how they are called; "
            "expected it, or lists of CLASS/image.jpg alone"
        )


def folder_classes(files: Iterable[Path]) -> list[str]:
    """The classes of training lists without labels, in label order: the folders of their images.

    Raises:
        PelError: a list has labels.
    """
    keys: set[str] = set()
    for file in files:
        require_unlabelled(file)
        keys.update(map(folder_of, read_unlabelled(file, Problems()).paths))
    return class_order(keys)


def label_by_folder(images: ImageList, keys: Sequence[str], problems: Problems) -> ImageList:
    """The list with the label of each image's folder: the place of its name in ``keys`` (C,), in which ``_`` may be a space.

    ``problems`` takes images in other folders; they get the label 0.
    """
    row = {clean(key.replace("_", " ")): i for i, key in enumerate(keys)} | {key: i for i, key in enumerate(keys)}
    labels = np.zeros(len(images.paths), np.int64)
    for position, path in enumerate(images.paths):
        folder = folder_of(path)
        label = row.get(folder, row.get(clean(folder.replace("_", " "))))
        if label is None:
            text = f"{images.where(position)}: its folder '{folder}' is none of the {len(keys)} classes ({keys[0]}, ...)"
            problems.add("images without labels in folders that are no class", text)
        labels[position] = label or 0
    return replace(images, labels=labels)

"""A folder of class folders, as it is found: which images there are, of which class, perhaps in train, val and test folders.

Everything below a class folder belongs to that class. What is left out (hidden files, other suffixes, empty folders) is counted
and said. Torch-free: planning looks at folders too. Shapes: N images, C classes.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from pel_core.common.errors import PelError
from pel_core.ingest.catalogue import SPLITS, SUFFIXES, Catalogue, Placed, check_path, class_order
from pel_core.ingest.sources.base import register
from pel_core.ingest.sources.users import UserEntry, UserSource, digest_lines


class FoldersEntry(UserEntry):
    """A user's folder of class folders."""

    kind: Annotated[Literal["folders"], Field(description="a folder for each class")]


@register
class Folders(UserSource):
    """A folder for each class; images stay where they are."""

    kind = "folders"
    Entry = FoldersEntry

    def images_fingerprint(self) -> dict[str, str]:
        """Paths and sizes of the images."""
        return {"tree": digest_lines(tree_lines(self.root))}

    def catalogue(self, new: Path) -> Catalogue:
        """The images below each class folder."""
        return read_folders(self.root)


class Walk:
    """All images below a root. ``others`` counts files of other suffixes, ``hidden`` files and folders that start with a dot."""

    def __init__(self, root: str):
        self.root = root
        self.real = os.path.realpath(root)
        self.others: Counter[str] = Counter()
        self.hidden = 0

    def entries(self, folder: str) -> tuple[list[os.DirEntry], list[os.DirEntry]]:
        """Folders and files of a folder (relative to the root), sorted by name.

        Raises:
            PelError: it cannot be read, or a link in it leads in circles.
        """
        path = os.path.join(self.root, folder)
        folders, files = [], []
        try:
            with os.scandir(path) as found:
                for entry in sorted(found, key=lambda entry: entry.name):
                    if entry.name.startswith(".") or entry.name == "__MACOSX":
                        self.hidden += 1
                    else:
                        path = entry.path
                        (folders if entry.is_dir() else files).append(entry)
        except OSError as error:
            raise PelError(f"{path} cannot be read ({error.strerror}); mend its permissions, or take it away") from None
        return folders, files

    def images(self, folder: str, above: tuple[str, ...] = ()) -> Iterator[tuple[str, int]]:
        """(path relative to the root, bytes) of every image below a folder.

        Raises:
            PelError: something cannot be read, a link leads out of the root or back to a folder above it, or a name that
                cannot be kept.
        """
        above = (*above, os.path.realpath(os.path.join(self.root, folder)))
        folders, files = self.entries(folder)
        yield from self.files(folder, files)
        for entry in folders:
            name = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_symlink():
                self.check_link(name, above)
            yield from self.images(name, above)

    def files(self, folder: str, files: Iterable[os.DirEntry]) -> Iterator[tuple[str, int]]:
        """Those of a folder's files that are images, as ``images``."""
        for entry in files:
            name = entry.name  # of a million files: a call saved is half a second
            suffix = name[name.rfind(".") :].lower() if "." in name else ""
            if suffix not in SUFFIXES:
                self.others[suffix or "no suffix"] += 1
                continue
            name = f"{folder}/{name}" if folder else name
            if not name.isascii() or not name.isprintable():
                check_path(name)
            try:
                yield name, entry.stat().st_size
            except OSError as error:
                raise PelError(f"{entry.path} cannot be used ({error.strerror})") from None

    def check_link(self, name: str, above: tuple[str, ...]) -> None:
        """Refuse a link to a folder outside the root or above itself."""
        target = os.path.realpath(os.path.join(self.root, name))
        if os.path.commonpath([self.real, target]) != self.real:
            raise PelError(f"{self.root}/{name} is a symbolic link that leads out of {self.root}; copy the images in")
        if any(os.path.commonpath([target, folder]) == target for folder in above):
            raise PelError(f"{self.root}/{name} is a symbolic link back to a folder that holds it; remove it")

    def left_out(self) -> list[str]:
        """What was no image, in words."""
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in self.others.most_common(5))
        total = sum(self.others.values())
        notes = [f"{total} files are left out, which are no images by their suffix ({kinds})"] if total else []
        return notes + ([f"{self.hidden} hidden files or folders are left out"] if self.hidden else [])


Images = list[tuple[str, int]]  # paths relative to the root, bytes


def read_folders(root: str) -> Catalogue:
    """The classes and images of a folder of class folders, perhaps inside train, val and test folders.

    Raises:
        PelError: there are no class folders or only one, the splits do not fit each other, or as `Walk`.
    """
    walk, top = Walk(root), {}
    folders, files = walk.entries("")
    loose = len(list(walk.files("", files)))
    for entry in folders:
        if entry.is_symlink():
            walk.check_link(entry.name, (walk.real,))
        top[entry.name] = list(walk.images(entry.name, (walk.real,)))
    notes = [f"{loose} images beside the class folders are left out"] if loose else []
    full = [name for name, images in top.items() if images]
    divided = {name: SPLITS[name.lower()] for name in full if name.lower() in SPLITS}
    if "train" not in divided.values() or (len(divided) < 2 and len(full) > 1):
        tables = [entry.path for entry in files if entry.name.lower().endswith((".csv", ".tsv"))]
        classes = _classes(root, full, top, notes, loose, tables)
        order = class_order(classes)
        return Catalogue(root, order, {"train": _images(root, classes, order)}, [*notes, *walk.left_out()])
    if other := [f"{name}/ ({len(top[name])} images)" for name in full if name not in divided]:
        notes.append(f"left out, as it is no train, val or test folder: {', '.join(other)}")
    splits: dict[str, dict[str, Images]] = {}
    for name, split in divided.items():
        if split in splits:
            twice = ", ".join(f"{other}/" for other in divided if divided[other] == split)
            raise PelError(f"{root} holds several folders for the split '{split}': {twice}; keep one of them")
        splits[split] = _of_split(root, name, top[name], notes)
    order = class_order(splits["train"])
    for name, split in divided.items():
        if strange := sorted(set(splits[split]) - set(order)):
            few = ", ".join(map(repr, strange[:5])) + (", ..." if len(strange) > 5 else "")
            raise PelError(
                f"{len(strange)} class folders of {root}/{name} are not in its training folder: {few}; "
                "expected the same class folders in train, val and test"
            )
    made = {split: _images(root, classes, order) for split, classes in splits.items()}
    return Catalogue(root, order, made, [*notes, *walk.left_out()])


def _classes(
    root: str, full: list[str], top: dict[str, Images], notes: list[str], loose: int, tables: list[str]
) -> dict[str, Images]:
    if len(full) < 2:
        found = f"one folder with images ('{full[0]}')" if full else f"{loose} images" if loose else "no images"
        inside = f"; if '{full[0]}' holds the class folders, give {os.path.join(root, full[0])}" if full else ""
        inside += f"; if {tables[0]} is the table of these images, give that" if tables else ""
        raise PelError(f"{root} holds {found} and no folder for each class; expected CLASS/image.jpg for at least two{inside}")
    _note_empty([name for name in top if not top[name]], root, notes)
    return {name: top[name] for name in full}


def _of_split(root: str, name: str, images: Images, notes: list[str]) -> dict[str, Images]:
    """Images of a split's folder by class folder."""
    classes: dict[str, Images] = {}
    loose = 0
    for path, size in images:
        parts = path.split("/", 2)
        if len(parts) < 3:
            loose += 1
        else:
            classes.setdefault(parts[1], []).append((path, size))
    if not classes:
        raise PelError(
            f"{root}/{name} holds {loose} images and no class folders; expected {name}/CLASS/image.jpg "
            "(sort the images into folders, or give a table: kind: csv)"
        )
    if loose:
        notes.append(f"{loose} images beside the class folders of {name}/ are left out")
    with os.scandir(os.path.join(root, name)) as found:
        empty = [entry.name for entry in found if entry.is_dir() and entry.name not in classes and entry.name[0] != "."]
    _note_empty(sorted(empty), f"{root}/{name}", notes)
    return classes


def _note_empty(names: list[str], where: str, notes: list[str]) -> None:
    if names:
        few = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        notes.append(f"{len(names)} folders of {where} hold no image and are no classes ({few})")


def _images(root: str, classes: dict[str, Images], order: list[str]) -> Placed:
    paths = [path for key in order for path, _ in sorted(classes.get(key, []))]
    counts = [len(classes.get(key, [])) for key in order]
    return Placed(root, paths, np.repeat(np.arange(len(order)), counts).astype(np.int64))


def tree_lines(root: str) -> Iterator[str]:
    """What a folder holds, a line for each image: path and bytes. Two folders of equal lines make equal data sets."""
    yield from (f"{path}\t{size}" for path, size in Walk(root).images(""))

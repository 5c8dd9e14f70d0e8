"""A folder of class folders, as it is found: which images there are, of which class, perhaps in train, val and test folders.

Everything below a class folder belongs to that class. What is left out (hidden files, what programs leave, other suffixes, empty
folders) is counted and said; a class whose images cannot be read is an error. Torch-free: planning looks at folders too. Shapes:
N images, C classes.
"""

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from pel_core.common.counts import count_of
from pel_core.common.errors import PelError
from pel_core.data.image_files import SUFFIXES, UNREAD, count_suffixes, is_system, suffix_of
from pel_core.ingest.catalogue import SPLITS, Catalogue, Placed, check_path, class_order
from pel_core.ingest.class_keys import as_spelt, composed, how_to_exclude, untrained
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
        return read_folders(self.root, self.options.exclude)


class Walk:
    """All images below a root. ``others`` holds for each folder (relative to the root) its files of other suffixes, ``hidden``
    counts the names of what is hidden or left by programs (`is_system`)."""

    def __init__(self, root: str):
        self.root = root
        self.real = os.path.realpath(root)
        self.others: dict[str, list[str]] = {}
        self.hidden: Counter[str] = Counter()

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
                    if is_system(entry.name):
                        self.hidden[entry.name] += 1
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
                self.others.setdefault(folder, []).append(name)
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

    def unread(self, folder: str = "") -> list[str]:
        """The files below a folder that are no images by their suffix, relative to the root."""
        below = (here for here in self.others if not folder or here == folder or here.startswith(f"{folder}/"))
        return [f"{here}/{name}" if here else name for here in below for name in self.others[here]]

    def seen(self, folder: str = "") -> str:
        """``12 .xml, 3 .txt``: what lies below a folder besides images; empty where nothing does."""
        return count_suffixes(Counter(suffix_of(path) or "no suffix" for path in self.unread(folder)))

    def require_read(self, folder: str, key: str) -> None:
        """Of a folder without an image, see that it was not meant to be a class: none of its files is an image in truth.

        Raises:
            PelError: it was; a class is never dropped in silence.
        """
        found = self.unread(folder)
        if any(suffix_of(path) in UNREAD for path in found) or any(self._is_image(path) for path in found[:20]):
            raise PelError(
                f"none of the {len(found)} files in the class folder {self.root}/{folder} can be read as an image "
                f"({self.seen(folder)}; such as {found[0]}); convert them (.png, .jpg), "
                f"call them by their format, or leave the class out: {how_to_exclude([key])}"
            )

    def _is_image(self, path: str) -> bool:
        from PIL import Image  # only where a folder is odd: listing images takes none

        try:
            with Image.open(os.path.join(self.root, path)):
                return True
        except Exception:  # whatever its decoders make of a file that is none
            return False

    def left_out(self) -> list[str]:
        """What was no image, in words."""
        total, hidden = len(self.unread()), sum(self.hidden.values())
        notes = [f"left out: {count_of(total, 'file')}, no image by suffix ({self.seen()})"] if total else []
        names = ", ".join(sorted(self.hidden)[:5]) + (", ..." if len(self.hidden) > 5 else "")
        many = count_of(hidden, "hidden or system file or folder", "hidden or system files or folders")
        return notes + ([f"left out: {many} ({names})"] if hidden else [])


Images = list[tuple[str, int]]  # paths relative to the root, bytes


def read_folders(root: str, exclude: Collection[str] = ()) -> Catalogue:
    """The classes and images of a folder of class folders, perhaps inside train, val and test folders.

    ``exclude``: classes that are not wanted, and may therefore be unreadable; they are still listed.

    Raises:
        PelError: there are no class folders or only one, a class whose images cannot be read, the splits do not fit each other,
            or as `Walk`.
    """
    walk, top = Walk(root), {}
    folders, files = walk.entries("")
    loose = len(list(walk.files("", files)))
    for entry in folders:
        if entry.is_symlink():
            walk.check_link(entry.name, (walk.real,))
        top[entry.name] = list(walk.images(entry.name, (walk.real,)))
    notes = [f"left out: {count_of(loose, 'image')} beside the class folders"] if loose else []
    full = [name for name, images in top.items() if images]
    divided = {name: SPLITS[name.lower()] for name in full if name.lower() in SPLITS}
    if "train" not in divided.values() or (len(divided) < 2 and len(full) > 1):
        tables = [entry.path for entry in files if entry.name.lower().endswith((".csv", ".tsv"))]
        empty = _empty(walk, "", [name for name in top if not top[name]] if full else [], exclude, notes)
        if len(full) < 2:
            raise _no_classes(walk, full, loose, tables)
        order = class_order(full)
        images = _images(root, {name: top[name] for name in full}, order)
        return Catalogue(root, order, {"train": images}, [*notes, *walk.left_out()], empty)
    if other := [f"{name}/ ({count_of(len(top[name]), 'image')})" for name in full if name not in divided]:
        notes.append(f"left out, as it is no train, val or test folder: {', '.join(other)}")
    splits: dict[str, dict[str, Images]] = {}
    empty: list[str] = []
    hollow: list[str] = []  # of the training folder
    for name, split in divided.items():
        if split in splits:
            twice = ", ".join(f"{other}/" for other in divided if divided[other] == split)
            raise PelError(f"{root} holds several folders for the split '{split}': {twice}; keep one of them")
        splits[split] = _of_split(walk, name, top[name], notes)
        with os.scandir(os.path.join(root, name)) as found:
            folders = sorted(entry.name for entry in found if entry.is_dir() and not is_system(entry.name))
        bare = _empty(walk, name, [folder for folder in folders if folder not in splits[split]], exclude, notes)
        empty += bare
        hollow += bare if split == "train" else []
    order, unwanted, excluded = class_order(splits["train"]), set(map(composed, exclude)), 0
    for name, split in divided.items():
        splits[split] = _as_trained(splits[split], order, f"{root}/{name}", notes)
        lacking = sorted(set(splits[split]) - set(order))
        if strange := [key for key in lacking if composed(key) not in unwanted]:
            raise untrained(f"{root}/{name}", strange, order, hollow)
        empty += lacking  # known, so that it may be named
        excluded += sum(len(splits[split][key]) for key in lacking)
    made = {split: _images(root, classes, order) for split, classes in splits.items()}
    return Catalogue(root, order, made, [*notes, *walk.left_out()], empty, excluded)


def _no_classes(walk: Walk, full: list[str], loose: int, tables: list[str]) -> PelError:
    root = walk.root
    found = f"one folder with images ('{full[0]}')" if full else count_of(loose, "image") if loose else "no images"
    found += f" ({seen} are no images by their suffix)" if not full and (seen := walk.seen()) else ""
    inside = f"; if '{full[0]}' holds the class folders, give {os.path.join(root, full[0])}" if full else ""
    inside += _other_kind(walk)
    inside += f"; if {tables[0]} is the table of these images, give that" if tables else ""
    return PelError(f"{root} holds {found} and no folder for each class; expected CLASS/image.jpg for at least two{inside}")


# Files that are data sets of another kind than a folder of images: their ending, and the kinds that read them.
OTHER_KINDS = ((".parquet", "parquet (files of it) or hub (a repository's folder, with its README.md)"), (".tar", "webdataset"))


def _other_kind(walk: Walk) -> str:
    """What to say where the files are those of another kind of data set, which nobody guesses."""
    there = {name for path in walk.unread() for name, _ in OTHER_KINDS if path.lower().endswith((name, f"{name}.gz"))}
    told = [
        f"; {name} files are read by kind: {kinds} of a configuration (docs/data.md)"
        for name, kinds in OTHER_KINDS
        if name in there
    ]
    return "".join(told)


def _of_split(walk: Walk, name: str, images: Images, notes: list[str]) -> dict[str, Images]:
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
            f"{walk.root}/{name} holds {count_of(loose, 'image')} and no class folders; expected {name}/CLASS/image.jpg "
            "(sort the images into folders, or give a table: kind: csv)"
        )
    if loose:
        notes.append(f"left out: {count_of(loose, 'image')} beside the class folders of {name}/")
    return classes


def _as_trained(classes: dict[str, Images], order: list[str], where: str, notes: list[str]) -> dict[str, Images]:
    """A split's classes, called as the training folder spells them where only the coding of accents differs, which is noted."""
    spelt = {key: as_spelt(key, order, classes) for key in classes}
    if other := [key for key in spelt if spelt[key] != key]:
        few = ", ".join(map(repr, other[:5])) + (", ..." if len(other) > 5 else "")
        notes.append(f"{where}: letters are coded otherwise than in the training folder, and taken as the same classes: {few}")
    return {spelt[key]: images for key, images in classes.items()}


def _empty(walk: Walk, folder: str, names: list[str], exclude: Collection[str], notes: list[str]) -> list[str]:
    """See that folders without an image, of the root or of a split's ``folder``, are no classes; their names, which are noted."""
    below = {name: f"{folder}/{name}" if folder else name for name in names}
    for name, path in below.items():
        if composed(name) not in map(composed, exclude):
            walk.require_read(path, name)
    if names:
        where = f"{walk.root}/{folder}" if folder else walk.root
        told = [f"{name}: {seen}" if (seen := walk.seen(path)) else name for name, path in below.items()]
        few = "; ".join(told[:5]) + ("; ..." if len(told) > 5 else "")
        notes.append(f"{where}: {count_of(len(names), 'folder')} without an image, no class ({few})")
    return names


def _images(root: str, classes: dict[str, Images], order: list[str]) -> Placed:
    paths = [path for key in order for path, _ in sorted(classes.get(key, []))]
    counts = [len(classes.get(key, [])) for key in order]
    return Placed(root, paths, np.repeat(np.arange(len(order)), counts).astype(np.int64))


def tree_lines(root: str) -> Iterator[str]:
    """What a folder holds, a line for each image: path and bytes. Two folders of equal lines make equal data sets."""
    yield from (f"{path}\t{size}" for path, size in Walk(root).images(""))

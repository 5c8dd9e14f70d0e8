"""Published splits: a file of all splits, or one for each, which may be known by their SHA-256. Torch-free.

What such files look like: `pel_core.ingest.split_formats`. N images, C classes.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, Field, model_validator

from pel_core.common.errors import PelError
from pel_core.common.files import sha256
from pel_core.data.roots import expand_root
from pel_core.ingest.catalogue import Catalogue, Placed
from pel_core.ingest.labels import taken_notes
from pel_core.ingest.sources.base import register
from pel_core.ingest.sources.folders import tree_lines
from pel_core.ingest.sources.users import UserEntry, UserOptions, UserSource, digest_lines
from pel_core.ingest.split_formats import NAMES, TINY, Records, beside, read_split, read_splits
from pel_core.ingest.table_paths import TablePaths


def _hashes(given: Any) -> dict[str, str]:
    given = {"": given} if isinstance(given, str) else given
    if not isinstance(given, dict) or not all(re.fullmatch(r"[0-9a-f]{64}", str(digest)) for digest in given.values()):
        raise ValueError(f"sha256 is {given!r}, expected 64 hexadecimal digits, or a mapping of file to these")
    return {str(name): str(digest) for name, digest in given.items()}


class SplitFileOptions(UserOptions):
    """A file of all splits, or one for each, below the root or in full."""

    file: Annotated[str, Field(description="a file of all splits, such as CoOp's split_zhou_*.json")] = ""
    train: Annotated[str, Field(description="the training images, `path label` a line, or .mat or .json")] = ""
    val: Annotated[str, Field(description="the same of validation images, where there are some")] = ""
    test: Annotated[str, Field(description="the same of test images")] = ""
    sha256: Annotated[
        dict[str, str],
        BeforeValidator(_hashes, json_schema_input_type=dict[str, str] | str),
        Field(default_factory=dict, description="SHA-256 of the file, or file: SHA-256; another one is an error"),
    ]


class SplitFileEntry(UserEntry, SplitFileOptions):
    """A user's images, divided as a published file says."""

    kind: Annotated[Literal["split_file"], Field(description="images with a published split file")]

    @model_validator(mode="after")
    def _check_files(self) -> "SplitFileEntry":
        if bool(self.file) == bool(self.train) or (self.file and (self.val or self.test)):
            raise ValueError("expected either file (JSON of all splits) or train, test and perhaps val (`path label` a line)")
        files = [name for name in (self.file, self.train, self.val, self.test) if name]
        if "" in self.sha256 and len(files) > 1:
            raise ValueError(f"sha256 is of one file, and there are {len(files)}: {', '.join(files)}; expected file: SHA-256")
        if strange := [name for name in self.sha256 if name and name not in files]:
            raise ValueError(f"sha256 names {strange[0]!r}, expected one of {', '.join(files)}")
        return self


@register
class SplitFile(UserSource):
    """Images stay where they are; a published file says which are in which split, and of which class."""

    kind = "split_file"
    Options = SplitFileOptions
    Entry = SplitFileEntry

    @property
    def may_have_val(self) -> bool:  # type: ignore[override]
        """Whether there is a file of it, or there may be one in a file of all splits, or one is held out."""
        options = self.options
        return bool(options.val or options.val_fraction) or (options.file.endswith(".json"))

    def files(self) -> dict[str, str]:
        """The path of each split's file of a located source; one file of all is called ``file``."""
        given = {name: getattr(self.options, name) for name in ("file", *NAMES)}
        return {name: os.path.join(self.root, expand_root(file)) for name, file in given.items() if file}

    def found_at(self, root: str) -> UserSource:
        """A folder; its split files are there."""
        found = super().found_at(root)
        for path in found.files().values():
            for each in (path, *beside(path)):
                if not os.path.isfile(each):
                    raise PelError(f"the split file {each} does not exist")
        return found

    def images_fingerprint(self) -> dict[str, str]:
        """The bytes of the split files."""
        files = [other for path in self.files().values() for other in (path, *beside(path)) if os.path.isfile(other)]
        tree = digest_lines(tree_lines(os.path.join(self.root, "train"))) if any(path.endswith(TINY) for path in files) else ""
        return {os.path.basename(path): sha256(path) for path in files} | ({"tree": tree} if tree else {})

    def fetch(self, mirror: str = "") -> None:
        """Say how to get a published data set: nothing of these can be had without a licence or a click."""
        if not self.facts:
            return super().fetch(mirror)
        print(self.facts.by_hand.format(root=os.path.abspath(expand_root(self.given_root))))

    def catalogue(self, new: Path) -> Catalogue:
        """The images that the split files list."""
        files = self.files()
        for name, path in files.items():
            require_hash(path, self.options.sha256.get(getattr(self.options, name)) or self.options.sha256.get(""))
        if "file" in files:
            splits = read_splits(files["file"], self.root)
        else:
            splits = {name: read_split(path) for name, path in files.items()}
        return catalogue_of(self.root, splits, " and ".join(files.values()))


def require_hash(path: str, expected: str | None) -> None:
    """See that a file is the one that is meant; nothing where no hash is expected.

    Raises:
        PelError: its SHA-256 is another one.
    """
    if expected and (found := sha256(path)) != expected:
        raise PelError(
            f"{path} has SHA-256 {found}, expected {expected}: it is another split, or damaged; get the published file, or take "
            "sha256 out of the entry where another one is meant"
        )


def catalogue_of(root: str, splits: Mapping[str, Records], source: str) -> Catalogue:
    """Classes in the order of their labels, and the images of each split.

    Raises:
        PelError: naming the entry: a path that leaves the root or is there twice, a label with two class names or a class name
            with two labels, a class without a training image, or no training image at all.
    """
    if "train" not in splits:
        raise PelError(f"{source} lists {', '.join(splits) or 'nothing'} and no training image; expected a split called train")
    names = _names(splits)
    order = sorted(names)
    index = {label: i for i, label in enumerate(order)}
    reader, placed = TablePaths(root), {}
    seen: dict[str, str] = {}
    for split, records in splits.items():
        paths = []
        for i, (path, _, _) in enumerate(records.entries):
            paths.append(reader.read(records.where(i), path))
            if (first := seen.setdefault(paths[-1], records.where(i))) != records.where(i):
                raise PelError(f"{records.where(i)}: {paths[-1]!r} repeats {first}; expected each image once, in one split")
        labels = np.array([index[label] for _, label, _ in records.entries], np.int64)
        placed[split] = Placed(records.source, paths, labels, np.arange(1, len(paths) + 1))
    have = np.bincount(placed["train"].labels, minlength=len(order))
    called = [f"{label} ({names[label]})" if names[label] else f"{label}" for label in order]
    if lacking := [text for text, count in zip(called, have, strict=True) if not count]:
        few = ", ".join(lacking[:5]) + (", ..." if len(lacking) > 5 else "")
        raise PelError(f"{splits['train'].source}: {len(lacking)} of {len(order)} labels have no training image: {few}")
    keys = [names[label] or str(label) for label in order]
    return Catalogue(root, keys, placed, [*taken_notes(f"split read from {source}", keys, placed), *reader.notes()])


def _names(splits: Mapping[str, Records]) -> dict[int, str]:
    """The class name of each label, "" where only labels are given."""
    names: dict[int, str] = {}
    labels: dict[str, int] = {}
    for records in splits.values():
        for i, (_, label, name) in enumerate(records.entries):
            if names.setdefault(label, name) != name:
                raise PelError(f"{records.where(i)}: label {label} is {name!r}, and {names[label]!r} before; expected one name")
            if name and labels.setdefault(name, label) != label:
                raise PelError(f"{records.where(i)}: {name!r} has label {label}, and {labels[name]} before; expected one label")
    return names

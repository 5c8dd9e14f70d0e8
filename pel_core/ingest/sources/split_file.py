"""Published splits: a JSON file of all splits, or a text file for each, which may be known by their SHA-256. Torch-free.

JSON as CoOp publishes it (``split_zhou_*.json``; Zhou et al. 2022, github.com/KaiyangZhou/CoOp): ``{"train": [[path, label, class
name], ...], "val": ..., "test": ...}``. Text as VTAB-1k is passed on (Zhai et al. 2019; github.com/ZhangYuanhan-AI/NOAH):
``path label`` a line, in train800.txt, val200.txt, train800val200.txt and test.txt. N images, C classes.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import BeforeValidator, Field, model_validator

from pel_core.common.errors import PelError, unknown
from pel_core.common.files import sha256
from pel_core.data.lists import read_lines
from pel_core.data.roots import expand_root
from pel_core.ingest.catalogue import SPLITS, Catalogue, Placed, check_line
from pel_core.ingest.labels import taken_notes
from pel_core.ingest.sources.base import register
from pel_core.ingest.sources.users import UserEntry, UserOptions, UserSource
from pel_core.ingest.table_paths import TablePaths

NAMES = ("train", "val", "test")
Record = tuple[str, int, str]  # path, label, class name ("" where only labels are given)


class Records(NamedTuple):
    """What a split file says of one split: ``source``, its path, and ``entries`` in order."""

    source: str
    entries: list[Record]

    def where(self, position: int) -> str:
        """``source:number`` of an entry, counted from 1."""
        return f"{self.source}:{position + 1}"


def _hashes(given: Any) -> dict[str, str]:
    given = {"": given} if isinstance(given, str) else given
    if not isinstance(given, dict) or not all(re.fullmatch(r"[0-9a-f]{64}", str(digest)) for digest in given.values()):
        raise ValueError(f"sha256 is {given!r}, expected 64 hexadecimal digits, or a mapping of file to these")
    return {str(name): str(digest) for name, digest in given.items()}


class SplitFileOptions(UserOptions):
    """A file of all splits, or one for each, below the root or in full."""

    file: Annotated[str, Field(description="a JSON file of all splits, as CoOp's split_zhou_*.json")] = ""
    train: Annotated[str, Field(description="the training images, `path label` a line")] = ""
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

    def files(self) -> dict[str, str]:
        """The path of each split's file of a located source; one file of all is called ``file``."""
        given = {name: getattr(self.options, name) for name in ("file", *NAMES)}
        return {name: os.path.join(self.root, expand_root(file)) for name, file in given.items() if file}

    def found_at(self, root: str) -> UserSource:
        """A folder; its split files are there."""
        found = super().found_at(root)
        for path in found.files().values():
            if not os.path.isfile(path):
                raise PelError(f"the split file {path} does not exist")
        return found

    def images_fingerprint(self) -> dict[str, str]:
        """The bytes of the split files."""
        return {os.path.basename(path): sha256(path) for path in self.files().values()}

    def catalogue(self, new: Path) -> Catalogue:
        """The images that the split files list."""
        files = self.files()
        for name, path in files.items():
            require_hash(path, self.options.sha256.get(getattr(self.options, name)) or self.options.sha256.get(""))
        splits = read_json_splits(files["file"]) if "file" in files else {name: read_text(path) for name, path in files.items()}
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


def read_json_splits(path: str) -> dict[str, Records]:
    """The records of each split of a JSON file: ``[path, label, class name]``, or without the name.

    Raises:
        PelError: it is no such file.
    """
    expected = "expected {train: [[path, label, class name], ...], val, test}"
    try:
        loaded = json.loads("\n".join(read_lines(path, "split file")))
    except ValueError as error:
        raise PelError(f"{path} is not JSON ({error}); {expected}") from None
    if not isinstance(loaded, Mapping):
        raise PelError(f"{path} holds a {type(loaded).__name__}; {expected}")
    splits: dict[str, Records] = {}
    for name, entries in loaded.items():
        if (split := SPLITS.get(str(name).lower())) is None:
            raise unknown(f"split of {path}:", name, NAMES)
        if split in splits:
            raise PelError(f"{path} has several splits that mean '{split}': {', '.join(loaded)}; expected one")
        if not isinstance(entries, list):
            raise PelError(f"{path}: {name} is a {type(entries).__name__}; {expected}")
        source = f"{path} ({name})"
        splits[split] = Records(source, [_record(f"{source}:{i}", entry) for i, entry in enumerate(entries, 1)])
    return {split: records for split, records in splits.items() if records.entries}


def _record(where: str, record: Any) -> Record:
    parts = record if isinstance(record, list) else []
    good = len(parts) in (2, 3) and isinstance(parts[0], str) and type(parts[1]) is int and parts[1] >= 0
    name = parts[2] if good and len(parts) == 3 else ""
    if not good or not isinstance(name, str) or (len(parts) == 3 and not name.strip()):
        found = json.dumps(record, ensure_ascii=False)[:200]
        raise PelError(f"{where}: found {found}, expected [path, label, class name], the label a number of 0 or more")
    check_line(name)
    return parts[0], parts[1], name


def read_text(path: str) -> Records:
    """The records of a text file, ``path label`` a line; the path may hold spaces.

    Raises:
        PelError: naming file and line: a line that is none.
    """
    entries: list[Record] = []
    for number, line in enumerate(read_lines(path, "split file"), 1):
        name, label = [*line.rsplit(None, 1), "", ""][:2]
        if not re.fullmatch(r"[0-9]{1,9}", label, re.ASCII):
            raise PelError(f"{path}:{number}: found {line!r}, expected 'path label', the label a number of 0 or more")
        entries.append((name, int(label), ""))
    return Records(path, entries)


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

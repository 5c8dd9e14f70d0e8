"""A CSV table of images: a header with ``path``, ``label`` and perhaps ``split``, read strictly. Torch-free."""

import csv
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from pel_core.common.errors import PelError, unknown
from pel_core.common.files import sha256
from pel_core.data.lists import read_lines
from pel_core.data.roots import expand_root
from pel_core.ingest.catalogue import SPLITS, Catalogue, Placed, check_path, class_order
from pel_core.ingest.options import Rooted
from pel_core.ingest.sources.base import register
from pel_core.ingest.sources.users import UserEntry, UserOptions, UserSource

SUFFIXES = (".csv", ".tsv")


class Columns(Rooted):
    """The columns of a table, where they are not called so."""

    image_column: Annotated[str, Field(description="the column of images, where it is not called path")] = ""
    label_column: Annotated[str, Field(description="the column of labels, where it is not called label")] = ""


class Table(Columns):
    """A table below the root, or the root itself."""

    file: Annotated[str, Field(description="the table, below root or in full; left out, root is the table")] = ""
    split_column: Annotated[str, Field(description="the column of splits, where it is not called split")] = ""


class CsvOptions(UserOptions, Table):
    """A table, and what is drawn from its images."""


class CsvEntry(UserEntry, CsvOptions):
    """A user's table of images."""

    kind: Annotated[Literal["csv"], Field(description="a table of images")]


@register
class Csv(UserSource):
    """A table with the columns path, label and perhaps split; images stay where they are."""

    kind = "csv"
    Options = CsvOptions
    Entry = CsvEntry

    @classmethod
    def recognises(cls, root: str, options: Any) -> bool:
        """A table is named, or is the root."""
        return bool(options.file) or root.lower().endswith(SUFFIXES)

    @property
    def table(self) -> str:
        """The table of a located source."""
        return os.path.join(self.root, self.options.file)

    def found_at(self, root: str) -> UserSource:
        """Where ``root`` is the table, its folder and the table."""
        file = self.options.file
        if os.path.isfile(root) and not file:
            return self.at(root=os.path.dirname(root), file=os.path.basename(root))
        if not file:
            raise PelError(f"{root} is a folder; expected a table, or its name below the folder by 'file'")
        path = os.path.join(root, expand_root(file))
        if not os.path.isfile(path):
            raise PelError(f"the table {path} does not exist")
        return self.at(root=root, file=path)

    def images_fingerprint(self) -> dict[str, str]:
        """The bytes of the table."""
        return {"table": sha256(self.table)}

    def catalogue(self, new: Path) -> Catalogue:
        """The images that the table lists."""
        names = self.options
        return read_table(self.table, self.root, (names.image_column, names.label_column, names.split_column))


DELIMITERS = (",", ";", "\t", "|")
COLUMNS = (("path", "image_column"), ("label", "label_column"), ("split", "split_column"))  # and the keys that rename them
Row = tuple[int, list[str]]


def read_table(path: str, root: str, columns: tuple[str, str, str] = ("", "", "")) -> Catalogue:
    """The images that a table lists.

    Columns are found by the names in the header, in any order; others are left alone. A label is a class's name or a whole
    number; ``split`` is train, val or test. The delimiter is a comma, semicolon, tab or bar, whichever divides the header.

    Args:
        path: the table, UTF-8.
        root: the folder that its paths are relative to.
        columns: names of the columns for path, label and split, where they are not called so.

    Raises:
        PelError: naming file and line: a column that is missing, a row that is too short, an empty path or label, a path that
            leaves the root or repeats another, an unknown split, or no training image.
    """
    header, rows = _rows(path, [name or word for name, word in zip(columns[:2], ("path", "label"), strict=True)])
    places = _places(path, header, columns)
    real_root = os.path.realpath(root)
    found: dict[str, tuple[list[str], list[str], list[int]]] = {}
    seen: dict[str, int] = {}
    for line, row in rows:
        where = f"{path}:{line}"
        if len(row) != len(header):
            hint = "quote a value that holds a delimiter"
            raise PelError(f"{where}: {len(row)} values, expected {len(header)} as in the header; {hint}")
        name = _inside(where, row[places[0]], root, real_root)
        label = row[places[1]].strip()
        if not label or re.fullmatch(r"-\d+", label, re.ASCII):
            raise PelError(f"{where}: the label is {label!r}, expected a class name or a whole number of 0 or more")
        check_path(label)
        if seen.setdefault(name, line) != line:
            raise PelError(f"{where}: {name!r} repeats line {seen[name]}; expected each image once")
        split = _split(where, row[places[2]]) if places[2] is not None else "train"
        paths, labels, lines = found.setdefault(split, ([], [], []))
        paths.append(name)
        labels.append(label)
        lines.append(line)
    if "train" not in found:
        splits = ", ".join(sorted(found)) or "nothing"
        raise PelError(f"{path} lists {splits} and no training image; expected rows whose split is train")
    return _catalogue(path, root, found)


def _catalogue(path: str, root: str, found: dict[str, tuple[list[str], list[str], list[int]]]) -> Catalogue:
    order = class_order(found["train"][1])
    index = {key: i for i, key in enumerate(order)}
    splits = {}
    for split, (paths, labels, lines) in found.items():
        for label, line in zip(labels, lines, strict=True) if split != "train" else ():
            if label not in index:
                raise PelError(f"{path}:{line}: class {label!r} of the split '{split}' has no training image")
        splits[split] = Placed(path, paths, np.array([index[label] for label in labels], np.int64), np.array(lines, np.int64))
    return Catalogue(root, order, splits)


def _rows(path: str, wanted: list[str]) -> tuple[list[str], Iterator[Row]]:
    """The header, and the rows with their line numbers."""
    text = "\n".join(read_lines(path, "table"))
    first = text.lstrip("\n").split("\n", 1)[0]

    def named(mark: str) -> int:
        words = _words(next(csv.reader([first], delimiter=mark)))
        return sum(word.lower() in words for word in wanted)

    delimiter = max(DELIMITERS, key=named)  # the first of those that give most of the columns
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)

    def lines() -> Iterator[Row]:
        before = 0
        try:
            for row in reader:
                line, before = before + 1, reader.line_num  # where the row starts: a quoted value may hold line breaks
                if any(value.strip() for value in row):
                    yield line, row
        except csv.Error as error:
            raise PelError(f"{path}:{reader.line_num}: is not CSV ({error})") from None

    rows = lines()
    header = next(rows, (0, []))[1]
    return header, rows


def _words(header: list[str]) -> list[str]:
    return [word.strip().lower() for word in header]


def _places(path: str, header: list[str], columns: tuple[str, str, str]) -> tuple[int, int, int | None]:
    """Which column holds path, label and split; None where there is no split."""
    words = _words(header)
    places: list[int | None] = []
    for name, (word, key) in zip(columns, COLUMNS, strict=True):
        asked = (name or word).strip().lower()
        if words.count(asked) > 1:
            raise PelError(f"{path}:1: the column '{asked}' is there {words.count(asked)} times; expected it once")
        if asked not in words and (name or word != "split"):
            hint = f"The first line must name the columns (path,label or path,label,split); or say which it is by '{key}'."
            raise unknown(f"column of {path}:", asked, header, hint)
        places.append(words.index(asked) if asked in words else None)
    return places[0], places[1], places[2]  # type: ignore[return-value]


def _inside(where: str, text: str, root: str, real_root: str) -> str:
    """A path relative to the root; one that is given in full may lie below it."""
    name = text.strip()
    check_path(name)
    if name and name[0] != "/" and "./" not in name and "//" not in name and ".." not in name:
        return name.rstrip("/")  # nearly every one; the rest is for those with dots and slashes
    if os.path.isabs(name):
        below = next((os.path.relpath(name, folder) for folder in (root, real_root) if name.startswith(f"{folder}/")), "..")
        name = below
    name = os.path.normpath(name) if name else ""
    if not name or name == "." or name.split("/")[0] == "..":
        raise PelError(f"{where}: path {text!r} is not below the image folder {root}; expected a path relative to it")
    return name


def _split(where: str, text: str) -> str:
    word = text.strip().lower()
    if word not in SPLITS:
        raise unknown(f"split in {where}:", text, ("train", "val", "test"))
    return SPLITS[word]

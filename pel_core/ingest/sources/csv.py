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
from pel_core.ingest.catalogue import SPLITS, Catalogue, Placed, check_line, class_order
from pel_core.ingest.labels import read_labels, taken_notes
from pel_core.ingest.options import Rooted
from pel_core.ingest.sources.base import register
from pel_core.ingest.sources.users import UserEntry, UserOptions, UserSource
from pel_core.ingest.table_paths import TablePaths

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

    Columns are found by the names in the header, in any order; others are left alone. A label is a class's name or a number
    (`read_labels`); ``split`` is train, val or test. The delimiter is a comma, semicolon, tab or bar, whichever divides the
    header, or what a spreadsheet's first line ``sep=;`` says. White space around values, quoted or not, means nothing.

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
    reader = TablePaths(root)
    paths, labels, splits, lines = [], [], [], []
    seen: dict[str, int] = {}
    for line, row in rows:
        where = f"{path}:{line}"
        if len(row) != len(header):
            hint = "quote a value that holds a delimiter"
            raise PelError(f"{where}: {len(row)} values, expected {len(header)} as in the header; {hint}")
        name = reader.read(where, row[places[0]])
        if seen.setdefault(name, line) != line:
            raise PelError(f"{where}: {name!r} repeats line {seen[name]}; expected each image once")
        check_line(row[places[1]].strip())
        paths.append(name)
        labels.append(row[places[1]])
        splits.append(_split(where, row[places[2]]) if places[2] is not None else "train")
        lines.append(line)
    if "train" not in splits:
        found = ", ".join(sorted(set(splits))) or "nothing"
        raise PelError(f"{path} lists {found} and no training image; expected rows whose split is train")
    keys, notes = read_labels(labels, lambda position: f"{path}:{lines[position]}")
    order, made = _divided(path, paths, keys, splits, np.array(lines, np.int64))
    taken = ", ".join(f"{word} from {header[place].strip()!r}" for (word, _), place in zip(COLUMNS, places, strict=True)
                      if place is not None)  # fmt: skip
    return Catalogue(root, order, made, [*taken_notes(f"columns of {path}: {taken}", order, made), *notes, *reader.notes()])


def _divided(
    path: str, paths: list[str], keys: list[str], splits: list[str], lines: np.ndarray
) -> tuple[list[str], dict[str, Placed]]:
    """Classes in label order, and the images of each split."""
    order = class_order(key for key, split in zip(keys, splits, strict=True) if split == "train")
    index = {key: i for i, key in enumerate(order)}
    for key, split, line in zip(keys, splits, lines.tolist(), strict=True):
        if key not in index:
            raise PelError(f"{path}:{line}: class {key!r} of the split '{split}' has no training image")
    everything = Placed(path, paths, np.array([index[key] for key in keys], np.int64), lines)
    of_split = np.array(splits)
    return order, {split: everything.take(np.flatnonzero(of_split == split)) for split in dict.fromkeys(splits)}


def _rows(path: str, wanted: list[str]) -> tuple[list[str], Iterator[Row]]:
    """The header, and the rows with their line numbers."""
    text = "\n".join(read_lines(path, "table")).replace("\r", "\n")  # old spreadsheets end lines with it
    lead = len(text) - len(text.lstrip("\n"))
    told = re.match(r"sep=(.)[ \t]*\n", text[lead:], re.IGNORECASE)
    before = lead + (1 if told else 0)  # lines above the header
    text = text[lead + (told.end() if told else 0) :]

    def named(mark: str) -> int:
        words = _words(next(csv.reader([_without_spaces(text.split("\n", 1)[0], mark)], delimiter=mark)))
        return sum(word.lower() in words for word in wanted)

    delimiter = told[1] if told else max(DELIMITERS, key=named)  # the first of those that give most of the columns
    reader = csv.reader(io.StringIO(_without_spaces(text, delimiter), newline=""), delimiter=delimiter, strict=True)

    def lines(last: int = 0) -> Iterator[Row]:
        try:
            for row in reader:
                line, last = before + last + 1, reader.line_num  # where the row starts: a quoted value may hold line breaks
                if any(value.strip() for value in row):
                    yield line, row
        except csv.Error as error:
            raise PelError(f"{path}:{before + reader.line_num}: is not CSV ({error})") from None

    rows = lines()
    header = next(rows, (0, []))[1]
    return header, rows


def _without_spaces(text: str, delimiter: str) -> str:
    """The text without white space around quoted values, which the csv module would take for a part of them, or refuse."""
    if '"' not in text:
        return text
    mark, spaces = re.escape(delimiter), f"[{' ' if delimiter == chr(9) else ' ' + chr(9)}]*"
    return re.sub(rf'(?:\A|(?<=[{mark}\n])){spaces}("(?:[^"]|"")*+"){spaces}(?=[{mark}\n]|\Z)', r"\1", text)


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


def _split(where: str, text: str) -> str:
    word = text.strip().lower()
    if word not in SPLITS:
        raise unknown(f"split in {where}:", text, ("train", "val", "test"))
    return SPLITS[word]

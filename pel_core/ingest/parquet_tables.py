"""Parquet files as one table: what its columns are, and its rows, a few at a time. Torch-free.

Columns are shown to `huggingface_columns` as that library shows its own; where a file says what they are (Hugging Face writes
it into the head), class labels keep their names and images are images.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pel_core.common.errors import PelError, unknown
from pel_core.common.files import write_text
from pel_core.data.prepared_files import MARK
from pel_core.ingest.catalogue import Catalogue, Placed
from pel_core.ingest.huggingface_columns import describe_column, label_order, named, names_of
from pel_core.ingest.labels import read_labels, taken_notes
from pel_core.ingest.table_paths import TablePaths
from pel_core.ingest.taken_images import image_path, require_image, require_room, suffix_of

ROWS = 64  # rows that are held at once
TEXTS = ("string", "large_string")
PATHS = ("path", "image", "image_path", "file", "file_name", "filename")  # what a column of paths may be called


@dataclass(frozen=True)
class Value:
    """A column of plain values."""

    dtype: str

    def __str__(self) -> str:
        return self.dtype


@dataclass(frozen=True)
class ClassLabel(Value):
    """A column of numbers that have names."""

    names: Sequence[str] = ()


@dataclass(frozen=True)
class Image(Value):
    """A column of encoded images, or of paths."""


class ParquetTable:
    """The rows of several files, one after the other; ``features``: what each column is.

    Raises:
        PelError: a file is no Parquet file or cut off, or has no column that an earlier one has.
    """

    def __init__(self, title: str, files: Sequence[str], wanted: Sequence[str] = ()):
        self.title, self.files = title, files
        heads = [self._opened(file) for file in files]
        self.counts = [head.metadata.num_rows for head in heads]
        schema = heads[0].schema_arrow
        self.features = _features(schema, wanted)
        for file, head in zip(files, heads, strict=True):
            there = {name: str(kind) for name, kind in zip(head.schema_arrow.names, head.schema_arrow.types, strict=True)}
            for name in wanted:
                if name not in there:
                    raise unknown(f"column of {file}:", name, there)
                if there[name] != (first := str(schema.field(name).type)):
                    raise PelError(f"{file}: the column '{name}' is {there[name]}, and {first} in {files[0]}; expected one kind")

    def __len__(self) -> int:
        return sum(self.counts)

    def where(self, position: int) -> str:
        """File and row of a position, counted from 0."""
        for file, count in zip(self.files, self.counts, strict=True):
            if position < count:
                return f"{file}, row {position}"
            position -= count
        return self.title

    def has_paths(self, column: str) -> bool:
        """Whether a column of images holds paths."""
        return self.features[column].dtype in TEXTS

    def column(self, name: str) -> list[Any]:
        """All values of a column."""
        import pyarrow

        found: list[Any] = []
        for file in self.files:
            try:
                found += self._opened(file).read(columns=[name]).column(0).to_pylist()
            except (pyarrow.ArrowException, OSError) as error:
                raise PelError(_damaged(file, error)) from None
        return found

    def unique(self, name: str) -> set[Any]:
        """The values that a column has."""
        return set(self.column(name))

    def rows(self, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Position and values of each row.

        Raises:
            PelError: a file is damaged.
        """
        import pyarrow

        position = 0
        for file in self.files:
            try:
                for batch in self._opened(file).iter_batches(ROWS, columns=list(columns)):
                    for row in batch.to_pylist():
                        yield position, row
                        position += 1
            except (pyarrow.ArrowException, OSError) as error:
                raise PelError(_damaged(file, error)) from None

    @cached_property
    def nbytes(self) -> int:
        """Bytes of the files."""
        return sum(Path(file).stat().st_size for file in self.files)

    def _opened(self, file: str) -> Any:
        import pyarrow
        from pyarrow import parquet

        try:
            return parquet.ParquetFile(file, memory_map=True)
        except (pyarrow.ArrowException, OSError) as error:
            raise PelError(_damaged(file, error)) from None


def _damaged(file: str, error: Exception) -> str:
    return f"{file} cannot be read as a Parquet file ({' '.join(str(error).split())}); it is damaged, cut off or none"


def _features(schema: Any, wanted: Sequence[str]) -> dict[str, Value]:
    """What each column is; one of text is one of paths where it is asked for as images, or where nothing else is an image."""
    import pyarrow.types as types

    said = json.loads((schema.metadata or {}).get(b"huggingface") or "{}").get("info", {}).get("features", {})
    found: dict[str, Value] = {}
    for name, kind in zip(schema.names, schema.types, strict=True):
        told = said.get(name) if isinstance(said.get(name), dict) else {}
        struct = types.is_struct(kind) and any(field.name == "bytes" for field in kind)
        if struct or types.is_binary(kind) or types.is_large_binary(kind):
            found[name] = Image(str(kind))
        elif told.get("_type") == "ClassLabel" and told.get("names"):
            found[name] = ClassLabel(str(kind), told["names"])
        else:
            found[name] = Value("string" if types.is_dictionary(kind) else str(kind))
    texts = [name for name, kind in found.items() if kind.dtype in TEXTS]
    images = any(isinstance(kind, Image) for kind in found.values())
    paths = [] if images else [name for name in texts if name.lower() in PATHS]
    for name in [*wanted[:1], *paths]:
        if name in texts:
            found[name] = Image(found[name].dtype)
    return found


def read_rows(table: ParquetTable, columns: Mapping[str, str], rows: Mapping[str, np.ndarray], new: Path | None) -> Catalogue:
    """The images and classes of a table.

    Args:
        columns: which column is the image, the label and perhaps the split.
        rows: of each split, ascending.
        new: a folder that encoded images are written to; None leaves them unread, for planning.

    Raises:
        PelError: no training image, a label or image that is none, a class without a training image; naming file and row.
    """
    root, kind = table.title, table.features[columns["label"]]
    if "train" not in rows:
        raise PelError(f"{root} has rows of {', '.join(rows) or 'nothing'} and none to train on; expected a split called train")
    keys, notes = _keys(table, columns["label"], np.concatenate(list(rows.values())))
    order = label_order(kind, {keys[row] for row in rows["train"].tolist()})
    index = {key: i for i, key in enumerate(order)}
    for split, part in rows.items():
        if (row := next((row for row in part.tolist() if keys[row] not in index), None)) is not None:
            raise PelError(f"{table.where(row)}: class {keys[row]!r} of the split '{split}' has no training image")
    is_file = table.has_paths(columns["image"])
    if is_file:
        paths, more = _listed(table, columns["image"])
    else:
        paths, more = _write(table, columns["image"], rows, new) if new else [""] * len(table), []
    splits = {}
    for split, part in rows.items():
        labels = np.array([index[keys[row]] for row in part.tolist()], np.int64)
        splits[split] = Placed(f"{root} ({split})", [paths[row] for row in part.tolist()], labels)
    others = ", ".join(describe_column(table, name) for name in table.features if name not in columns.values()) or "none"
    taken = ", ".join(f"{what} from {describe_column(table, name)}" for what, name in columns.items())
    told = taken_notes(f"columns of {root}: {taken}; not read: {others}", order, splits)
    return Catalogue(root if is_file else str(new), order, splits, [*told, *notes, *more])


def _keys(table: ParquetTable, column: str, rows: np.ndarray) -> tuple[dict[int, str], list[str]]:
    """The class of each of the ``rows``, and notes."""
    kind, at = table.features[column], rows.tolist()
    every = named(kind, table.column(column))
    values = [every[row] for row in at]
    if names_of(kind):
        if (bad := next((i for i, value in enumerate(values) if not isinstance(value, str)), None)) is not None:
            raise PelError(f"{table.where(at[bad])}: its {column} is {values[bad]!r}, which is no class (unlabelled images?)")
        return dict(zip(at, values, strict=True)), []
    keys, notes = read_labels(values, lambda position: table.where(at[position]), column)
    return dict(zip(at, keys, strict=True)), notes


def _listed(table: ParquetTable, column: str) -> tuple[list[str], list[str]]:
    """The path of each row's image, relative to the root, and notes."""
    reader, paths = TablePaths(table.title), []
    seen: dict[str, int] = {}
    for row, value in enumerate(table.column(column)):
        paths.append(reader.read(table.where(row), value or ""))
        if (first := seen.setdefault(paths[-1], row)) != row:
            raise PelError(f"{table.where(row)}: {paths[-1]!r} repeats {table.where(first)}; expected each image once")
    return paths, reader.notes()


def _write(table: ParquetTable, column: str, rows: Mapping[str, np.ndarray], new: Path) -> list[str]:
    """Write the image of each row; their paths below ``new``."""
    require_room(table.title, f"{len(table):,} images", table.nbytes, new)
    place = {row: (split, position) for split, part in rows.items() for position, row in enumerate(part.tolist())}
    paths = []
    for row, values in table.rows([column]):
        value, where = values[column], table.where(row)
        content, name = (value.get("bytes"), value.get("path") or "") if isinstance(value, dict) else (value, "")
        if not content:
            what = f"only a path ({name}), and not the image itself" if name else "empty"
            raise PelError(f"{where}: the {column} is {what}; write the table again with the images in it")
        require_image(content, where)
        paths.append(image_path(*place[row], suffix_of(content, name)))
        target = new / paths[-1]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    write_text(new / MARK, f"Images of {table.title}, as they were encoded there.\n")
    return paths

"""Columns of a table that is read row by row: which hold images and labels, and the images in them: bytes, structs or paths."""

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from pel_core.common.errors import PelError, unknown
from pel_core.ingest.huggingface_columns import image_column_of
from pel_core.ingest.table_paths import TablePaths

HEAD = 500  # rows that are looked at where nobody says which column holds the labels


class ColumnHead:
    """The columns of a streamed table, and its first rows where they are asked for.

    Args:
        wanted: columns that must be there.

    Raises:
        PelError: one is missing.
    """

    def __init__(self, title: str, table: Any, wanted: Collection[str] = ()):
        self.title, self.table = title, table
        features = table.features
        if features is None:  # JSON and CSV: known from the first rows
            features = table._resolve_features().features
        self.features: dict[str, Any] = dict(features)
        for name in wanted:
            if name not in self.features:
                raise unknown(f"column of {title}:", name, self.features)
        self._rows: dict[str, list[Any]] = {}

    def image_column(self, asked: str) -> str:
        """The column of images: what `image_column_of` finds, or one of texts that is asked for and holds paths."""
        if asked in self.features and getattr(self.features[asked], "dtype", "") in ("string", "large_string"):
            return asked
        return image_column_of(self.title, self, asked)

    def unique(self, name: str) -> set[Any]:
        """Values of a column in the first rows."""
        return set(self._head(name))

    def __len__(self) -> int:
        """How many rows are looked at."""
        return max(map(len, self._rows.values()), default=0)

    def _head(self, name: str) -> list[Any]:
        if name not in self._rows:
            self._rows[name] = [row[name] for row in self.table.select_columns([name]).take(HEAD)]
        return self._rows[name]


def require_classes(title: str, table: Any, column: str) -> None:
    """Refuse a column whose kind names no class: of numbers with a fraction, of lists.

    Raises:
        PelError: saying what it holds.
    """
    kind = table.features[column]
    dtype = str(getattr(kind, "dtype", "") or type(kind).__name__)
    whole = getattr(kind, "names", None) or dtype.startswith(("int", "uint")) or dtype in ("string", "large_string")
    if not whole:
        what = "measurements, not classes" if dtype.startswith(("float", "double", "decimal")) else "no classes"
        there = ", ".join(table.features)
        raise PelError(
            f"label_column: '{column}' of {title} holds {dtype} ({what}); expected class labels, text or whole numbers; the "
            f"columns are {there}"
        )


def images_of(title: str, folder: Path, rows: Iterable[tuple[int, Any]], column: str) -> Iterator[tuple[bytes, str, Any, str]]:
    """Bytes and name of each row's image, the row, and where it stands. ``rows``: with their positions.

    Raises:
        PelError: a row has none, or names a file that is not in the folder.
    """
    paths = TablePaths(str(folder))
    for position, row in rows:
        value, where = row[column], f"{title}, image {position}"
        content, name = (value.get("bytes"), value.get("path") or "") if isinstance(value, dict) else (value, "")
        if isinstance(content, str):
            content, name = None, content
        if not content and name:
            try:
                content = Path(folder, paths.read(where, name)).read_bytes()
            except OSError as error:
                reason = f"{error.strerror}; expected a file below {folder}"
                raise PelError(f"{where}: the image {name!r} cannot be read ({reason})") from None
        if not content:
            raise PelError(f"{where}: its image '{column}' is empty")
        yield content, name, row, where

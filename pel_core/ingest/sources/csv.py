"""A CSV table of image files (`pel_core.ingest.image_tables` reads it)."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from pel_core.common.errors import PelError
from pel_core.common.files import sha256
from pel_core.data.roots import expand_root
from pel_core.ingest.image_folders import Catalogue
from pel_core.ingest.image_tables import read_table
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

    kind: Literal["csv"]


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

    def images_print(self) -> dict[str, str]:
        """The bytes of the table."""
        return {"table": sha256(self.table)}

    def catalogue(self, new: Path) -> Catalogue:
        """The images that the table lists."""
        names = self.options
        return read_table(self.table, self.root, (names.image_column, names.label_column, names.split_column))

"""Parquet files: encoded images (bytes, or structs with ``bytes``) or paths, and a label in each row.

Encoded images are written to files once, as they are; images that are named by paths stay where they are.
"""

import glob
import os
import re
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, Field, model_validator

from pel_core.common.errors import PelError, unknown
from pel_core.common.files import sha256
from pel_core.data.roots import expand_root
from pel_core.ingest.catalogue import SPLITS, Catalogue
from pel_core.ingest.hub_columns import require_classes
from pel_core.ingest.huggingface_columns import image_column_of, label_column_of
from pel_core.ingest.parquet_tables import ParquetTable, read_rows
from pel_core.ingest.sources.base import register
from pel_core.ingest.sources.csv import Columns
from pel_core.ingest.sources.users import UserEntry, UserOptions, UserSource, digest_lines
from pel_core.ingest.taken_images import replace_images

SHARD = re.compile(r"([A-Za-z]+)(-\d+-of-\d+(-[0-9a-f]+)?)?\.parquet")  # train.parquet, train-00000-of-00002.parquet


def _patterns(given: Any) -> tuple[str, ...]:
    given = [given] if isinstance(given, str) else given
    if not isinstance(given, list | tuple) or not all(isinstance(name, str) and name for name in given):
        raise ValueError(f"{given!r} is no file: expected a name, a pattern such as data/train-*.parquet, or a list of these")
    return tuple(given)


Patterns = Annotated[tuple[str, ...], BeforeValidator(_patterns, json_schema_input_type=str | list[str])]


class ParquetOptions(UserOptions, Columns):
    """Files, by name or pattern, and their columns."""

    files: Annotated[Patterns, Field(description="the files, or patterns of them; left out: all *.parquet below root")] = ()
    train: Annotated[Patterns, Field(description="in place of files: those of training images")] = ()
    val: Annotated[Patterns, Field(description="those of validation images")] = ()
    test: Annotated[Patterns, Field(description="those of test images")] = ()
    split_column: Annotated[str, Field(description="the column of splits, where it is not called split")] = ""


class ParquetEntry(UserEntry, ParquetOptions):
    """A user's Parquet files."""

    kind: Annotated[Literal["parquet"], Field(description="Parquet files of images or paths, with labels")]

    @model_validator(mode="after")
    def _check_files(self) -> "ParquetEntry":
        if self.files and (self.train or self.val or self.test):
            raise ValueError("files and train, val or test are given; expected one or the other")
        if (self.val or self.test) and not self.train:
            raise ValueError("expected train beside val and test")
        if self.train and self.split_column:
            raise ValueError("train and split_column are given; files of each split need no column of splits")
        return self


@register
class Parquet(UserSource):
    """Rows of Parquet files, divided by file or by a column."""

    kind = "parquet"
    Options = ParquetOptions
    Entry = ParquetEntry

    @classmethod
    def recognises(cls, root: str, options: Any) -> bool:
        """The root is such a file."""
        return root.lower().endswith(".parquet")

    def found_at(self, root: str) -> UserSource:
        """Where ``root`` is a file, its folder and the file; the files are there."""
        if os.path.isfile(root):
            if self.options.files or self.options.train:
                raise PelError(f"{root} is a file, and files are named besides; name the folder that they are below by 'root'")
            found = self.at(root=os.path.dirname(root), files=(os.path.basename(root),))
        else:
            found = super().found_at(root)
        found.split_files  # noqa: B018 -- so that a file that lacks is told here
        return found

    def at(self, **options: Any) -> UserSource:
        """The same with other options, looked at anew."""
        other = super().at(**options)
        for name in ("split_files", "columns", "table"):
            other.__dict__.pop(name, None)
        return other

    @cached_property
    def split_files(self) -> dict[str, list[str]]:
        """The files of each split, in full; those that hold all splits, or of which nothing says it, are called ``""``.

        Raises:
            PelError: a pattern that no file fits, a file in two splits, or some files that are called by a split and some not.
        """
        options = self.options
        if options.train:
            given = {split: getattr(options, split) for split in ("train", "val", "test")}
            found = {split: self._files(patterns) for split, patterns in given.items() if patterns}
        else:
            files = self._files(options.files or ("**/*.parquet",))
            found = {"": files} if options.split_column else _by_name(files, self.root)
        seen: dict[str, str] = {}
        for split, files in found.items():
            for file in files:
                if seen.setdefault(file, split) != split:
                    raise PelError(f"{file} is of the splits {seen[file]} and {split}; expected each file in one")
        return found

    def _files(self, patterns: tuple[str, ...]) -> list[str]:
        found: list[str] = []
        for pattern in patterns:
            path = expand_root(pattern) if "$" in pattern or pattern.startswith("~") else pattern
            files = sorted(glob.glob(path if os.path.isabs(path) else os.path.join(glob.escape(self.root), path), recursive=True))
            files = [file for file in files if os.path.isfile(file)]
            if not files:
                raise PelError(f"no file of {self.root} fits {pattern!r}; expected Parquet files")
            found += files
        return list(dict.fromkeys(found))

    @cached_property
    def columns(self) -> dict[str, str]:
        """Which column is what, by the first file: image, label and perhaps split.

        Raises:
            PelError: one is missing, of another kind, or several may be meant.
        """
        options, title = self.options, next(iter(self.split_files.values()))[0]
        table = ParquetTable(self.root, [title], [*filter(None, [options.image_column])])
        columns = {"image": image_column_of(title, table, options.image_column)}
        columns["label"] = label_column_of(title, table, options.label_column)
        require_classes(title, table, columns["label"])
        if options.split_column and options.split_column not in table.features:
            raise unknown(f"split_column of {title}:", options.split_column, table.features)
        if "" in self.split_files and (options.split_column or "split" in table.features):
            columns["split"] = options.split_column or "split"
        elif "split" in table.features and not options.train:
            raise PelError(f"{title} is called by a split and has a column 'split'; say which is meant: split_column, or train")
        return columns

    @cached_property
    def table(self) -> ParquetTable:
        """All files in the order of `split_files`."""
        return ParquetTable(self.root, [file for files in self.split_files.values() for file in files], [*self.columns.values()])

    @property
    def has_paths(self) -> bool:
        """Whether images are files that the table names."""
        return self.table.has_paths(self.columns["image"])

    def images_fingerprint(self) -> dict[str, str]:
        """Names and sizes of the files; of tables without images, their bytes."""
        known = ((file, sha256(file) if self.has_paths else str(os.path.getsize(file))) for file in self.table.files)
        return {"tables": digest_lines(f"{os.path.relpath(file, self.root)}\t{content}" for file, content in known)}

    def tables(self) -> list[str] | None:
        """The files, where images are in them."""
        return None if self.has_paths else [os.path.relpath(file, self.root) for file in self.table.files]

    def catalogue(self, new: Path) -> Catalogue:
        """Its images, written below ``new`` unless they are files already."""
        return read_rows(self.table, self.columns, self._split_rows(), new)

    def outline(self, new: Path) -> Catalogue:
        """Its labels and splits."""
        return read_rows(self.table, self.columns, self._split_rows(), None)

    def finish(self, new: Path, out: Path) -> None:
        """Put the images where runs look for them."""
        if not self.has_paths:
            replace_images(new, out)

    def _split_rows(self) -> dict[str, np.ndarray]:
        """The rows of each split."""
        table, columns = self.table, self.columns
        if "split" in columns:
            given = table.column(columns["split"])
            words = [SPLITS.get(str(word).strip().lower()) for word in given]
            if None in words:
                row = words.index(None)
                raise unknown(f"split in {table.where(row)}:", given[row], ("train", "val", "test"))
            found = np.array(words)
            return {split: np.flatnonzero(found == split) for split in ("train", "test", "val") if split in words}
        by_file = dict(zip(table.files, np.split(np.arange(len(table)), np.cumsum(table.counts)[:-1]), strict=True))
        rows = {split or "train": np.concatenate([by_file[file] for file in files]) for split, files in self.split_files.items()}
        return {split: part for split, part in rows.items() if len(part)}


def _by_name(files: list[str], root: str) -> dict[str, list[str]]:
    """Files by the split that they are called, as Hugging Face calls them (``train-00000-of-00002.parquet``)."""
    words = {file: match[1].lower() if (match := SHARD.fullmatch(os.path.basename(file))) else "" for file in files}
    called = {file: SPLITS.get(word, "") for file, word in words.items()}
    if not any(called.values()):
        return {"": files}
    if other := next((file for file, split in called.items() if not split), ""):
        first = os.path.relpath(next(file for file, split in called.items() if split), root)
        raise PelError(
            f"{first} is called by a split, and {os.path.relpath(other, root)} is not; say which files are meant (files), or "
            "those of each split (train, val, test)"
        )
    there = [split for split in ("train", "test", "val") if split in called.values()]
    return {split: [file for file in files if called[file] == split] for split in there}

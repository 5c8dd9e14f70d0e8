"""Data sets of the Hugging Face hub by name, at one commit; or a repository's folder on this machine.

Rows are read one after another from the repository's files (parquet, image folders, JSON, CSV; whatever the library ``datasets``
reads). Encoded images are written to files once, as they are; a process that was killed goes on where it was.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, Field, model_validator

from pel_core.common.counts import count_of
from pel_core.common.errors import PelError, is_our_defect, unknown
from pel_core.common.files import sha256
from pel_core.ingest.catalogue import SPLITS, Catalogue, Placed
from pel_core.ingest.hub_columns import ColumnHead, images_of, require_classes
from pel_core.ingest.hub_repository import (
    REPOSITORY,
    REVISION,
    cached_snapshot,
    card_sizes,
    download,
    offline_variable,
    require_whole_shards,
)
from pel_core.ingest.huggingface_columns import (
    describe_column,
    label_column_of,
    label_order,
    library,
    named,
    names_of,
    split_labels,
)
from pel_core.ingest.labels import taken_notes
from pel_core.ingest.sources.base import register
from pel_core.ingest.sources.csv import Columns
from pel_core.ingest.sources.users import Unread, UserEntry, UserOptions, UserSource, digest_lines
from pel_core.ingest.taken_images import Taken, TakenImages, replace_images, require_room


def _splits(given: Any) -> dict[str, str]:
    if not isinstance(given, Mapping) or not all(isinstance(name, str) and name for name in given.values()):
        raise ValueError(f"splits is {given!r}, expected a mapping such as {{train: train, test: validation}}")
    if strange := [word for word in given if word not in ("train", "test", "val")]:
        raise ValueError(f"splits: {strange[0]!r} is none of train, test and val")
    if given and "train" not in given:
        raise ValueError("splits says none to train on; expected train: NAME")
    return dict(given)


Splits = Annotated[dict[str, str], BeforeValidator(_splits)]


class HubOptions(UserOptions, Columns):
    """Repository, commit, configuration, splits and columns, and what is drawn from the images."""

    root: Annotated[str, Field(description="a repository's folder on this machine, in the place of repository")] = ""
    repository: Annotated[str, Field(description="owner/name of a data set on the Hugging Face hub")] = ""
    revision: Annotated[str, Field(description="the commit (40 hex digits), or NAME@COMMIT: a tag that has to be it still")] = ""
    configuration: Annotated[str, Field(description="the repository's configuration, where it has several")] = ""
    splits: Annotated[Splits, Field(description="train, test, val: what the repository calls them")] = {}  # noqa: RUF012


class HubEntry(HubOptions, UserEntry):
    """A data set of the hub."""

    kind: Annotated[Literal["hub"], Field(description="a data set of the Hugging Face hub")]

    @model_validator(mode="after")
    def _check_place(self) -> "HubEntry":
        if bool(self.root) == bool(self.repository):
            given = "both are given" if self.root else "neither is given"
            raise ValueError(f"expected repository (owner/name on the hub) or root (a repository's folder here); {given}")
        if self.root and self.revision:
            raise ValueError("revision is of a repository on the hub; a folder (root) is read as it is")
        if self.repository and not REPOSITORY.fullmatch(self.repository):
            raise ValueError(f"repository is {self.repository!r}, expected owner/name as on the hub")
        if self.repository and not REVISION.fullmatch(self.revision):
            found = f"revision is {self.revision!r}" if self.revision else "revision is missing"
            raise ValueError(
                f"{found}, expected a commit, 40 hex digits, so that a repository that changes is another data set (they are "
                f"listed at https://huggingface.co/datasets/{self.repository}/commits/main); or NAME@COMMIT of a tag or branch"
            )
        return self


@register
class Hub(UserSource):
    """A repository of the Hugging Face hub at one commit, whose images are written to files once, byte for byte."""

    kind = "hub"
    Options = HubOptions
    Entry = HubEntry
    goes_on = True

    @property
    def root(self) -> str | None:  # type: ignore[override]
        """The folder that is given in the place of a repository; None of one that is known by its commit."""
        return self.options.root or None

    @property
    def title(self) -> str:
        """What it is called in messages."""
        return self.options.root or f"{self.options.repository}@{REVISION.fullmatch(self.options.revision)['commit'][:12]}"

    def locate(self) -> UserSource:
        """A folder in full; a repository is looked for when it is read."""
        return super().locate() if self.options.root else self

    def looked_at(self) -> UserSource:
        """The same."""
        return super().looked_at() if self.options.root else self

    def has_val(self) -> bool:
        """As the entry says, or the repository's README.md."""
        return "val" in self.options.splits or super().has_val()

    def images_fingerprint(self) -> dict[str, str]:
        """Paths and sizes of a folder's files and the content of its head. A commit identifies the rest by itself."""
        if not self.options.root:
            return {}
        files = [Path(self.root, name) for name in self.tables()]
        known = (
            f"{path.relative_to(self.root)}\t{sha256(path) if path.suffix == '.md' else path.stat().st_size}" for path in files
        )
        return {"files": digest_lines(known)}

    def tables(self) -> list[str]:
        """A folder's files; none of a repository, which cannot change."""
        if not self.options.root:
            return []
        return sorted(
            os.path.relpath(os.path.join(folder, name), self.root)
            for folder, _, names in os.walk(self.root)
            for name in names
            if not os.path.relpath(os.path.join(folder, name), self.root).startswith(".")
        )

    def fetch(self, mirror: str = "") -> None:
        """Download the repository into the hub's cache, where jobs without network find it."""
        if not self.options.repository:
            super().fetch(mirror)
        print(f"{self.base}: {self._folder()}")

    def catalogue(self, new: Path) -> Catalogue:
        """Its images, written below ``new``."""
        return _read(self, self._folder(), new)

    def outline(self, new: Path) -> Catalogue:
        """Its splits, as the repository's README.md says; that is looked for in the cache."""
        options = self.options
        folder = Path(options.root) if options.root else cached_snapshot(options.repository, options.revision)
        if folder is None and (variable := offline_variable()):
            raise PelError(f"the data set {options.repository} of the hub is not in the cache, and {variable} is set")
        sizes = card_sizes(folder, options.configuration) if folder else {}
        if not sizes:
            raise Unread(f"{self.title}: how many images it has is not known before they are prepared")
        chosen = _chosen(self, list(sizes))[0]
        labels = {split: np.zeros(sizes[name], np.int64) for split, name in chosen.items()}
        return Catalogue(self.title, [""], {split: Placed(self.title, [""] * len(each), each) for split, each in labels.items()})

    def finish(self, new: Path, out: Path) -> None:
        """Put the images where runs look for them."""
        replace_images(new, out)

    def _folder(self) -> Path:
        options = self.options
        return Path(options.root) if options.root else download(options.repository, options.revision)


def _read(source: Hub, folder: Path, out: Path) -> Catalogue:
    """Write every image of a repository's folder below ``out``, and list them.

    Raises:
        PelError: it cannot be read, is not whole, has no such configuration, split or column; an image or label is none.
    """
    options, title = source.options, source.title
    builder, tables = _tables(source, folder)
    chosen, left_out = _chosen(source, list(tables))
    head = ColumnHead(title, tables[chosen["train"]])
    image, label = head.image_column(options.image_column), label_column_of(title, head, options.label_column)
    require_classes(title, head, label)
    files = [file for name in chosen.values() for file in builder.config.data_files[name]] if builder.config.data_files else []
    require_whole_shards(str(folder), files)
    sizes = card_sizes(folder, options.configuration)
    counted = [sizes.get(name, 0) for name in chosen.values()]
    images = f"{sum(counted):,} images" if all(counted) else "its images"
    size = sum(os.path.getsize(file) for file in files if os.path.isfile(file))
    if not out.is_dir():
        require_room(title, images, size, out)
    taken = TakenImages(out, [source.declared_options(), source.images_fingerprint(), image, label])
    splits, values, notes = {}, {}, [f"split '{name}' is left out, as it is no train, val or test split" for name in left_out]
    for split, name in chosen.items():
        found = taken.there(split)
        found = taken.take(split, _rows(source, folder, tables[name], split, (image, label), len(found)), found)
        if (told := sizes.get(name)) is not None and told != len(found):
            raise PelError(
                f"{title} ({name}): {len(found):,} images were read, and its README.md says {told:,}; get all of its files"
            )
        splits[split] = [path for path, _ in found]
        values[split] = [value for _, value in found]
    kind = head.features[label]
    labels, more = split_labels(title, values, label, bool(names_of(kind)))
    order = label_order(kind, labels["train"])
    index = {key: i for i, key in enumerate(order)}
    for split, keys in labels.items():
        if strange := sorted(set(keys) - set(index)):
            many = count_of(len(strange), "class", "classes")
            raise PelError(f"{title}: {many} of the split '{split}' without a training image: {strange[:5]}")
    taken.finish(title)
    placed = {
        split: Placed(f"{title} ({split})", paths, np.array([index[key] for key in labels[split]], np.int64))
        for split, paths in splits.items()
    }
    others = ", ".join(describe_column(head, name) for name in head.features if name not in (image, label)) or "none"
    columns = f"columns of {title}: images from '{image}', labels from {describe_column(head, label)}; not read: {others}"
    return Catalogue(str(out), order, placed, [*taken_notes(columns, order, placed), *notes, *more])


def _tables(source: Hub, folder: Path) -> tuple[Any, Mapping[str, Any]]:
    """What reads the repository, and its tables by the repository's names of splits: rows are read as they are asked for."""
    configuration = source.options.configuration
    with _told(source):
        there = library().get_dataset_config_names(str(folder))
    if configuration and configuration not in there:
        raise unknown(f"configuration of {source.title}:", configuration, there)
    if not configuration and len(there) > 1 and "default" not in there:
        raise PelError(f"{source.title} has {len(there)} configurations ({', '.join(there)}); say which by 'configuration: NAME'")
    with _told(source):
        builder = library().load_dataset_builder(str(folder), configuration or None)
        return builder, builder.as_streaming_dataset()


def _chosen(source: Hub, there: list[str]) -> tuple[dict[str, str], list[str]]:
    """The repository's name of each split that is taken, and those that are left out."""
    if source.options.splits:
        for name in source.options.splits.values():
            if name not in there:
                raise unknown(f"split of {source.title}:", name, there)
        return dict(source.options.splits), []
    chosen: dict[str, str] = {}
    for name in there:
        split = SPLITS.get(str(name).lower())
        if split in chosen:
            raise PelError(f"{source.title} has several splits that mean '{split}': {', '.join(there)}; say which by 'splits'")
        if split:
            chosen[split] = name
    if "train" not in chosen:
        raise PelError(
            f"{source.title} has the splits {', '.join(there)}; say which is to be trained on: 'splits: {{train: NAME}}'"
        )
    return chosen, [name for name in there if name not in chosen.values()]


def _rows(source: Hub, folder: Path, table: Any, split: str, columns: tuple[str, str], done: int) -> Iterator[Taken]:
    """Images and labels of a split, after the first ``done``."""
    image, label = columns
    kind = ColumnHead(source.title, table, (image, label)).features
    table = table.select_columns([image, label])
    if type(kind[image]).__name__ == "Image":
        table = table.cast_column(image, library().Image(decode=False))
    rows = enumerate(_rows_of(source, table.skip(done), split), done)
    for content, name, row, where in images_of(f"{source.title} ({split})", folder, rows, image):
        yield content, name, named(kind[label], [row[label]])[0], where


def _rows_of(source: Hub, table: Any, split: str) -> Iterator[Any]:
    with _told(source, f" ({split})"):
        yield from table


@contextmanager
def _told(source: Hub, more: str = "") -> Iterator[None]:
    """What their library raises, which may be nearly anything, in words; without what it logs of a README.md without a head, in
    which nothing is wrong."""
    card = logging.getLogger("huggingface_hub.repocard")
    card.addFilter(_says_more)
    try:
        yield
    except Exception as error:
        if isinstance(error, PelError) or is_our_defect(error):
            raise
        told = " ".join(str(error).split()) or type(error).__name__
        raise PelError(f"{source.title}{more} cannot be read as a data set of the hub ({told})") from error
    finally:
        card.removeFilter(_says_more)


def _says_more(record: logging.LogRecord) -> bool:
    return "metadata block was not found" not in record.getMessage()

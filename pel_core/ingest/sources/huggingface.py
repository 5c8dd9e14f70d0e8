"""Directories that Hugging Face's ``Dataset.save_to_disk`` or ``DatasetDict.save_to_disk`` leaves: their images, as files.

Their tables hold encoded images. These bytes are written to files once, as they are, so that everything later sees files.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from pel_core.common.counts import count_of
from pel_core.common.errors import PelError, is_our_defect, unknown
from pel_core.common.files import sha256, write_text
from pel_core.common.logs import logger
from pel_core.data.prepared_files import MARK
from pel_core.ingest.catalogue import SPLITS, Catalogue, Placed
from pel_core.ingest.huggingface_columns import (
    describe_column,
    image_column_of,
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
from pel_core.ingest.sources.users import UserEntry, UserOptions, UserSource, digest_lines
from pel_core.ingest.taken_images import image_path, replace_images, require_room, suffix_of

SAVED = ("dataset_dict.json", "state.json")  # what Hugging Face's save_to_disk leaves


class HuggingFaceOptions(UserOptions, Columns):
    """Columns, and what is drawn from the images."""


class HuggingFaceEntry(UserEntry, HuggingFaceOptions):
    """A user's Hugging Face directory."""

    kind: Annotated[Literal["huggingface"], Field(description="what Hugging Face's save_to_disk left")]


@register
class HuggingFace(UserSource):
    """Tables of encoded images, which are written to files once, byte for byte, beside the prepared folder's own."""

    kind = "huggingface"
    Options = HuggingFaceOptions
    Entry = HuggingFaceEntry

    @classmethod
    def recognises(cls, root: str, options: Any) -> bool:
        """Such a directory has a file of a certain name."""
        return any(os.path.isfile(f"{root}/{name}") for name in SAVED)

    def found_at(self, root: str) -> UserSource:
        """A folder that has one of these files."""
        found = super().found_at(root)
        if not self.recognises(root, self.options):
            raise PelError(f"{root} holds neither {' nor '.join(SAVED)}, expected what Dataset.save_to_disk leaves")
        return found

    def images_fingerprint(self) -> dict[str, str]:
        """The content of its JSON files and the sizes of its tables."""
        files = [Path(self.root, name) for name in self.tables()]
        known = ((path, sha256(path) if path.suffix == ".json" else str(path.stat().st_size)) for path in files)
        return {"tables": digest_lines(f"{path.relative_to(self.root)}\t{content}" for path, content in known)}

    def tables(self) -> list[str]:
        """Its JSON files and tables."""
        files = sorted(path for path in Path(self.root).rglob("*") if path.suffix in (".json", ".arrow"))
        return [str(path.relative_to(self.root)) for path in files]

    def catalogue(self, new: Path) -> Catalogue:
        """Its images, written below ``new``."""
        return read_saved(self.root, new, self.options.image_column, self.options.label_column)

    def outline(self, new: Path) -> Catalogue:
        """Its splits, by the heads of its tables."""
        from pel_core.ingest.user_outline import saved_outline

        return saved_outline(self.root)

    def finish(self, new: Path, out: Path) -> None:
        """Put the images where runs look for them."""
        replace_images(new, out)


def read_saved(root: str, out: Path, image_column: str = "", label_column: str = "") -> Catalogue:
    """Write every image of a saved data set below ``out``, and list them.

    Args:
        root: the directory.
        out: an empty folder; its images are called SPLIT/00012/00012345.jpg after their place.
        image_column, label_column: columns, where there is more than one that could be meant.

    Raises:
        PelError: it is damaged or without training images, a column is missing or of another kind, an image or label is empty,
            or the disk has no room.
    """
    tables = _tables(root)
    first = tables["train"]
    image, label = image_column_of(root, first, image_column), label_column_of(root, first, label_column)
    labels, notes = _labels(root, tables, label)
    order = label_order(first.features[label], labels["train"])
    index = {key: i for i, key in enumerate(order)}
    for split, keys in labels.items():
        if strange := sorted(set(keys) - set(index)):
            many = count_of(len(strange), "class", "classes")
            raise PelError(f"{root}: {many} of the split '{split}' without a training image: {strange[:5]}")
    size = sum(os.path.getsize(file["filename"]) for table in tables.values() for file in table.cache_files)
    require_room(root, f"{sum(map(len, tables.values())):,} images", size, out)
    splits = {}
    for split, table in tables.items():
        paths = list(_write(root, split, table, image, out))
        splits[split] = Placed(f"{root} ({split})", paths, np.array([index[key] for key in labels[split]], np.int64))
    write_text(out / MARK, f"Images of {root}, as they were encoded there.\n")
    others = ", ".join(describe_column(first, name) for name in first.features if name not in (image, label)) or "none"
    columns = f"columns of {root}: images from '{image}', labels from {describe_column(first, label)}; not read: {others}"
    return Catalogue(str(out), order, splits, [*taken_notes(columns, order, splits), *notes])


def _tables(root: str) -> dict[str, Any]:
    """The tables by split: train, and test and val where there are such."""
    try:
        loaded = library().load_from_disk(root)
    except Exception as error:  # a damaged directory makes it raise nearly anything
        if is_our_defect(error):
            raise
        raise PelError(f"{root} cannot be read as a Hugging Face directory ({' '.join(str(error).split())})") from error
    loaded = loaded.with_format(None)  # plain values, whatever it was saved as
    if not isinstance(loaded, dict):
        return {"train": loaded}
    tables: dict[str, Any] = {}
    for name, table in loaded.items():
        split = SPLITS.get(str(name).lower())
        if split is None:
            logger.info("note: the split '%s' of %s is left out, as it is no train, val or test split", name, root)
        elif split in tables:
            raise PelError(f"{root} holds several splits that mean '{split}': {', '.join(map(str, loaded))}; keep one of them")
        else:
            tables[split] = table
    if "train" not in tables:
        raise PelError(f"{root} holds the splits {', '.join(map(str, loaded))} and none to train on; expected one called train")
    return tables


def _labels(root: str, tables: Mapping[str, Any], column: str) -> tuple[dict[str, list[str]], list[str]]:
    """Every image's class in each split, as its name or number, and notes."""
    values: dict[str, list[Any]] = {}
    for split, table in tables.items():
        if column not in table.features:
            raise unknown(f"column of the split '{split}' of {root}:", column, table.features)
        values[split] = named(table.features[column], table.select_columns([column])[:][column])
    return split_labels(root, values, column, bool(names_of(tables["train"].features[column])))


def _write(root: str, split: str, table: Any, column: str, out: Path) -> Iterator[str]:
    """Write a split's images; yields their paths below ``out``."""
    raw = table.select_columns([column])
    if type(table.features[column]).__name__ == "Image":
        raw = raw.cast_column(column, library().Image(decode=False))
    position = 0
    for batch in raw.iter(batch_size=64):
        for value in batch[column]:
            content, name = (value.get("bytes"), value.get("path") or "") if isinstance(value, dict) else (value, "")
            if not content:
                what = f"only a path ({name}), and not the image itself" if name else "empty"
                raise PelError(f"{root} ({split}), image {position}: is {what}; save it again with the images in it")
            path = image_path(split, position, suffix_of(content, name))
            target = out / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            yield path
            position += 1

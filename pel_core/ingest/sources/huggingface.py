"""Directories that Hugging Face's ``Dataset.save_to_disk`` or ``DatasetDict.save_to_disk`` leaves: their images, as files.

Their tables hold encoded images. These bytes are written to files once, as they are, so that everything later sees files.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from pel_core.common.errors import PelError, unknown
from pel_core.common.files import sha256, write_text
from pel_core.common.logs import logger
from pel_core.data.image_files import SUFFIXES
from pel_core.data.prepared_files import MARK
from pel_core.ingest.catalogue import SPLITS, Catalogue, Placed, class_order
from pel_core.ingest.huggingface_columns import describe_column, image_column_of, label_column_of
from pel_core.ingest.labels import read_labels, taken_notes
from pel_core.ingest.sources.base import register
from pel_core.ingest.sources.csv import Columns
from pel_core.ingest.sources.users import UserEntry, UserOptions, UserSource, digest_lines

SAVED = ("dataset_dict.json", "state.json")  # what Hugging Face's save_to_disk leaves
FOLDER_SIZE = 1000  # images in a folder
# The first bytes of an image file -> its suffix.
MAGIC = (
    (b"\xff\xd8\xff", ".jpg"), (b"\x89PNG", ".png"), (b"GIF8", ".gif"), (b"BM", ".bmp"), (b"II*\0", ".tif"), (b"MM\0*", ".tif"),
)  # fmt: skip


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
    order = _classes(first, label, labels["train"])
    index = {key: i for i, key in enumerate(order)}
    for split, keys in labels.items():
        if strange := sorted(set(keys) - set(index)):
            raise PelError(f"{root}: {len(strange)} classes of the split '{split}' have no training image: {strange[:5]}")
    _announce(root, tables, out)
    splits = {}
    for split, table in tables.items():
        paths = list(_write(root, split, table, image, out))
        splits[split] = Placed(f"{root} ({split})", paths, np.array([index[key] for key in labels[split]], np.int64))
    write_text(out / MARK, f"Images of {root}, as they were encoded there.\n")
    others = ", ".join(describe_column(first, name) for name in first.features if name not in (image, label)) or "none"
    columns = f"columns of {root}: images from '{image}', labels from {describe_column(first, label)}; not read: {others}"
    return Catalogue(str(out), order, splits, [*taken_notes(columns, order, splits), *notes])


def _library() -> Any:
    try:
        import datasets
    except ImportError:
        raise PelError(
            "reading a Hugging Face directory needs their library: pip install datasets (it is the extra 'hf' of this package)"
        ) from None
    datasets.disable_progress_bars()
    return datasets


def _tables(root: str) -> dict[str, Any]:
    """The tables by split: train, and test and val where there are such."""
    library = _library()
    try:
        loaded = library.load_from_disk(root)
    except Exception as error:  # a damaged directory makes it raise nearly anything
        raise PelError(f"{root} cannot be read as a Hugging Face directory ({' '.join(str(error).split())})") from None
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
    values: list[Any] = []
    for split, table in tables.items():
        if column not in table.features:
            raise unknown(f"column of the split '{split}' of {root}:", column, table.features)
        names = getattr(table.features[column], "names", None)
        found = table.select_columns([column])[:][column]
        # A name stays as it is; what is no number of a name (-1: unlabelled) is refused below.
        values += [names[value] if isinstance(value, int) and value >= 0 else value for value in found] if names else found
    starts = dict(zip(tables, np.cumsum([0, *map(len, tables.values())]).tolist(), strict=False))

    def where(position: int) -> str:
        split = next(split for split in reversed(tables) if starts[split] <= position)
        return f"{root} ({split}), image {position - starts[split]}"

    if getattr(tables["train"].features[column], "names", None):
        if (bad := next((i for i, value in enumerate(values) if not isinstance(value, str)), None)) is not None:
            raise PelError(f"{where(bad)}: its {column} is {values[bad]!r}, which is no class (unlabelled images?)")
        keys, notes = values, []
    else:
        keys, notes = read_labels(values, where, column)
    return {split: keys[start : start + len(tables[split])] for split, start in starts.items()}, notes


def _classes(table: Any, column: str, keys: list[str]) -> list[str]:
    """Classes in label order: as the data set numbers them, less those without a training image; else by name."""
    names = getattr(table.features[column], "names", None)
    there = set(keys)
    return [name for name in names if name in there] if names else class_order(keys)


def _announce(root: str, tables: dict[str, Any], out: Path) -> None:
    """Say how much will be written, before it is; refuse what has no room."""
    size = sum(os.path.getsize(file["filename"]) for table in tables.values() for file in table.cache_files)
    images = sum(len(table) for table in tables.values())
    out.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(out).free
    text = f"{images:,} images (about {max(1, round(size / 1e6)):,} MB) are taken out of {root} into {out.parent / 'images'}"
    if free < 1.1 * size:
        raise PelError(f"{text}, but {free / 1e6:,.0f} MB are free there; choose another results folder")
    logger.info("note: %s", text)


def _write(root: str, split: str, table: Any, column: str, out: Path) -> Iterator[str]:
    """Write a split's images; yields their paths below ``out``."""
    raw = table.select_columns([column])
    if type(table.features[column]).__name__ == "Image":
        raw = raw.cast_column(column, _library().Image(decode=False))
    position = 0
    for batch in raw.iter(batch_size=64):
        for value in batch[column]:
            content, name = (value.get("bytes"), value.get("path") or "") if isinstance(value, dict) else (value, "")
            if not content:
                what = f"only a path ({name}), and not the image itself" if name else "empty"
                raise PelError(f"{root} ({split}), image {position}: is {what}; save it again with the images in it")
            path = f"{split}/{position // FOLDER_SIZE:05d}/{position:08d}{_suffix(content, name)}"
            target = out / path
            if position % FOLDER_SIZE == 0:
                target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            yield path
            position += 1


def _suffix(content: bytes, name: str) -> str:
    given = os.path.splitext(name)[1].lower()
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return ".webp"
    return next((suffix for magic, suffix in MAGIC if content.startswith(magic)), given if given in SUFFIXES else ".img")


def replace_images(new: Path, folder: Path) -> None:
    """Put the images that were written to ``new`` where runs look for them, in place of earlier ones.

    Raises:
        PelError: images of somebody else lie there.
    """
    target = folder / "images"
    if target.exists():
        if not (target / MARK).is_file():
            raise PelError(f"{target} was not written by this program; move it away, or choose another results folder")
        shutil.rmtree(target)
    new.rename(target)

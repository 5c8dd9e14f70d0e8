"""Shards of tar with images and labels, as the library webdataset reads them; read here by Python's own tarfile.

Images are written to files once, byte for byte; a process that was killed goes on where it was.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, Field

from pel_core.common.counts import count_of
from pel_core.common.errors import PelError
from pel_core.ingest.catalogue import Catalogue, Placed, check_line, class_order
from pel_core.ingest.huggingface_columns import split_labels
from pel_core.ingest.labels import taken_notes
from pel_core.ingest.options import Rooted
from pel_core.ingest.shards import find_shards, image_of, label_member, label_of, read_shard
from pel_core.ingest.sources.base import register
from pel_core.ingest.sources.users import Unread, UserEntry, UserOptions, UserSource, digest_lines
from pel_core.ingest.taken_images import Taken, TakenImages, replace_images, require_room


def _patterns(given: Any) -> tuple[str, ...]:
    given = [given] if isinstance(given, str) else given
    if not isinstance(given, list | tuple) or not given or not all(isinstance(each, str) and each for each in given):
        raise ValueError(f"shards are {given!r}, expected a pattern such as train-{{000..009}}.tar, or a list of them")
    return tuple(given)


Patterns = Annotated[tuple[str, ...], BeforeValidator(_patterns, json_schema_input_type=str | list[str])]


class Shards(Rooted):
    """Where the shards are, and what is what in them."""

    train: Annotated[Patterns, Field(description="shards to train on, below root: a pattern with {000..009}, {a,b}, * or ?")]
    test: Annotated[Patterns, Field(description="shards of the test split")] = ()
    val: Annotated[Patterns, Field(description="shards of the validation split")] = ()
    image: Annotated[str, Field(description="extension of the image, where a sample has several")] = ""
    label: Annotated[str, Field(description="extension of the label; left out: the only cls, cls.txt, label or label.txt")] = ""
    label_key: Annotated[str, Field(description="the key of the label in a json member; a.b: b in a")] = ""


class WebDatasetOptions(UserOptions, Shards):
    """Shards, and what is drawn from the images."""


class WebDatasetEntry(UserEntry, WebDatasetOptions):
    """A user's shards."""

    kind: Annotated[Literal["webdataset"], Field(description="shards of tar")]


@register
class WebDataset(UserSource):
    """Shards of tar, whose images are written to files once, byte for byte."""

    kind = "webdataset"
    Options = WebDatasetOptions
    Entry = WebDatasetEntry
    goes_on = True

    def has_val(self) -> bool:
        """As the entry says: shards are not looked at for it."""
        return bool(self.options.val or self.options.val_fraction)

    def shards(self) -> dict[str, list[str]]:
        """The shards of each split, below the root.

        Raises:
            PelError: one is missing, or is meant for two splits.
        """
        patterns = {split: getattr(self.options, split) for split in ("train", "test", "val")}
        found = {split: find_shards(self.root, each) for split, each in patterns.items() if each}
        seen: dict[str, str] = {}
        for split, names in found.items():
            for name in names:
                if (other := seen.setdefault(name, split)) != split:
                    raise PelError(f"the shard {name} is meant for {other} and for {split}; expected it in one of them")
        return found

    def images_fingerprint(self) -> dict[str, str]:
        """Names and sizes of the shards."""
        sizes = ((name, os.path.getsize(os.path.join(self.root, name))) for name in self.tables())
        return {"shards": digest_lines(f"{name}\t{size}" for name, size in sizes)}

    def tables(self) -> list[str]:
        """All shards."""
        return [name for names in self.shards().values() for name in names]

    def catalogue(self, new: Path) -> Catalogue:
        """Its images, written below ``new``."""
        return _read(self, new)

    def outline(self, new: Path) -> Catalogue:
        """Not known before shards are read."""
        self.shards()
        raise Unread(f"how many images the shards in {self.root} have is not known before they are prepared")

    def finish(self, new: Path, out: Path) -> None:
        """Put the images where runs look for them."""
        replace_images(new, out)


def _read(source: WebDataset, out: Path) -> Catalogue:
    """Write every image of the shards below ``out``, and list them.

    Raises:
        PelError: a shard is cut off, a sample without image or label, or with an image that is none.
    """
    root, shards = source.root, source.shards()
    size = sum(os.path.getsize(os.path.join(root, name)) for name in source.tables())
    if not out.is_dir():
        require_room(root, f"the images of {len(source.tables()):,} shards", size, out)
    first = next(read_shard(os.path.join(root, shards["train"][0])), None)
    if first is None:
        raise PelError(f"the shard {os.path.join(root, shards['train'][0])} has no sample, such as 0001.jpg with 0001.cls")
    member = label_member(first, source.options.label, source.options.label_key)
    taken = TakenImages(out, [source.declared_options(), source.images_fingerprint()])
    found = {}
    for split, names in shards.items():
        there = taken.there(split)
        found[split] = taken.take(split, _samples(source, names, member, len(there)), there)
    values = {split: [label for _, label in each] for split, each in found.items()}
    labels, notes = split_labels(root, values, member, False)
    order = class_order(labels["train"])
    index = {key: i for i, key in enumerate(order)}
    splits = {}
    for split, keys in labels.items():
        if strange := sorted(set(keys) - set(index)):
            many = count_of(len(strange), "class", "classes")
            raise PelError(f"{root}: {many} of the split '{split}' without a training image: {strange[:5]}")
        paths = [path for path, _ in found[split]]
        splits[split] = Placed(f"{root} ({split})", paths, np.array([index[key] for key in keys], np.int64))
    taken.finish(root)
    key = f", key '{source.options.label_key}'" if source.options.label_key else ""
    what = f"samples of {root}: labels from '{member}'{key}; {sum(map(len, shards.values()))} shards"
    return Catalogue(str(out), order, splits, [*taken_notes(what, order, splits), *notes])


def _samples(source: WebDataset, names: list[str], member: str, done: int) -> Iterator[Taken]:
    """Images and labels of shards, after the first ``done``."""
    options, position = source.options, 0
    for name in names:
        for sample in read_shard(os.path.join(source.root, name)):
            if position >= done:
                content, extension = image_of(sample, options.image)
                label = label_of(sample, member, options.label_key)
                check_line(str(label))
                yield content, f"{sample.key}.{extension}", label, sample.where
            position += 1

"""Source: one kind of data. Where it lies, what is wrong with it, what identifies it, and what it comes to. Torch-free.

A kind is one file of this package: its options, what a configuration may say of it, and a class that is registered in SOURCES.
Callers ask a source; none of them tests for a kind. C classes.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

from pel_core.common.errors import PelError, unknown
from pel_core.common.logs import logger
from pel_core.common.problems import UNSORTED, Problems
from pel_core.common.registry import Registry
from pel_core.common.shipped import images_said
from pel_core.data.datasets import LongTailed, split_name
from pel_core.data.naming import naming_of, renamed
from pel_core.data.sampling import long_tail_counts
from pel_core.ingest.content import Content
from pel_core.ingest.data_check import Bar
from pel_core.ingest.facts import FACTS, Facts
from pel_core.ingest.options import Declared
from pel_core.ingest.published_counts import COUNTS

SAID = images_said()
RATIOS = (10, 50, 100, 200)  # shown of a data set that can be sampled at any


class Size(NamedTuple):
    """Training images, test images and classes of a data set."""

    train: int
    test: int
    classes: int


class NoOptions(BaseModel):
    """Of a source that has to be told nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Source:
    """A data set ``base``, declared as ``entry``, as the configuration ``config`` has it.

    A kind sets the class variables and what of the methods is not as here: ``read`` at least.

    kind: its name. Options: the model of ``LongTailed.options``. Entry: the model of what a configuration's ``datasets:`` may
    say; None for a kind that only built-in data sets have. is_users: whether images are taken as they are found, and divided
    and sampled when they are prepared.
    """

    kind: ClassVar[str]
    Options: ClassVar[type[BaseModel]] = NoOptions
    Entry: ClassVar[type[Declared] | None] = None
    is_users: ClassVar[bool] = False

    def __init__(self, base: str, entry: LongTailed, config: Mapping[str, Any]):
        self.base, self.entry, self.config = base, entry, config
        self.options: Any = self.Options.model_validate(dict(entry.options))

    @property
    def facts(self) -> Facts | None:
        """What is known of the published data set of this name."""
        return FACTS.get(self.base) or COUNTS.get(self.base)

    @property
    def published(self) -> Facts | None:
        """What is known of the images of this data set; None for one of the user's own, or with lists of the user's own."""
        return None if self.base in (self.config.get("user_lists") or []) else self.facts

    @property
    def may_have_val(self) -> bool:
        """Whether there is a validation split, or there may be one, which shows when the data are read."""
        return False

    def has_val(self) -> bool:
        """Whether there is a validation split, as far as that can be seen now: images as they are found are looked at."""
        return self.may_have_val

    @property
    def root(self) -> str | None:
        """The image folder as jobs are told and a prepared folder remembers; None where images are kept as pixels."""
        return None

    @property
    def given_root(self) -> str:
        """The folder of the data as the user gave it; a variable in it stays a variable.

        A data set of the configuration says its own; a built-in one has it from ``roots: {BASE: FOLDER}``, else it lies in the
        folder that the environment variable PEL_DATA names, or in ./data.
        """
        if self.base in (self.config.get("datasets") or {}):
            return self.options.root
        roots = self.config.get("roots") or {}
        usual = os.path.join("$PEL_DATA" if "PEL_DATA" in os.environ else "data", self.options.root)
        return str(roots[self.base]) if self.base in roots else usual

    def tables(self) -> list[str] | None:
        """The files below the root of a located source that hold its images, where these are no files of their own."""
        return None

    def locate(self) -> "Source":
        """The source of the kind that the data are, where they lie.

        Raises:
            PelError: they are not there; the message says how to name the place.
        """
        return self

    def declared_options(self) -> dict[str, Any]:
        """What the entry says about its content: all that departs from the defaults, and nothing about where it lies."""
        entry = self.entry
        plain: dict[str, Any] = {"kind": entry.kind}
        for name, default in (("native_resolution", None), ("ratios", ()), ("groups_from", None)):
            if (value := getattr(entry, name)) != default:
                plain[name] = value
        return plain | self.options.model_dump(exclude_defaults=True, exclude={"root"})

    def fingerprint(self) -> dict[str, Any]:
        """What identifies the content of a located source, wherever it lies, without reading every image.

        Raises:
            PelError: something cannot be read.
        """
        return {}

    def read(self, out: Path, check_images: str = "sample", problems: Problems | None = None) -> Content:
        """What a prepared folder is to hold, of a located source.

        Args:
            out: the prepared folder, for what has to be written beside it.
            check_images: decode "none" of the image files, a "sample" or "all".
            problems: takes all that is wrong; None stops at the first.

        Raises:
            PelError: the data cannot be used.
        """
        raise NotImplementedError(f"{type(self).__name__}.read")

    def check(self, problems: Problems, check_images: str, bar: Bar | None = None) -> None:
        """Print what there is, and put all that is wrong with it into ``problems``.

        A source without a check of its own is read: it stops at the first thing that is wrong, but looks at all files.
        """
        try:
            with TemporaryDirectory() as folder:
                content = self.locate().read(Path(folder), check_images, problems)
            print(*content.notes, sep="\n", end="\n" if content.notes else "")
            renamed(self.base, content.class_names, naming_of(self.config, self.base), content.class_ids, content.folders)
        except PelError as error:
            if not problems:
                problems.add(UNSORTED, error)
            return
        if not self.is_users:  # whose reading tells more
            print(
                f"{self.base}: {len(content.class_names):,} classes, {len(content.splits['train']['labels']):,} training images"
            )

    def class_counts(self) -> tuple[dict[str, np.ndarray], list[str]]:
        """Training images of each class, int64 (C,), by data-set name, and a line on each split that is evaluated on.

        Raises:
            PelError: what has to be read for it cannot be.
        """
        if self.entry.ratios == "any" and self.entry.pool:
            classes, largest = self.entry.pool
            ratios = [ratio for ratio in RATIOS if ratio <= largest]
            return {f"{self.base}-ir{ratio}": long_tail_counts(classes, largest, ratio) for ratio in ratios}, []
        with TemporaryDirectory() as folder:  # read anew: a prepared folder may be of other images
            content = self.locate().read(Path(folder), "none")
        for note in content.notes:
            logger.info(note)
        counts = content.train_counts
        return {f"{self.base}-ir{key}" if key else self.base: np.array(each) for key, each in counts.items()}, []

    def size(self, ratio: float | None) -> Size | None:
        """How large the data set is at an imbalance ratio, as far as that is known before it is read."""
        if not self.facts or not self.facts.images:
            return None
        train, test = self.facts.images
        if self.entry.pool:
            train = int(long_tail_counts(*self.entry.pool, ratio or 1).sum())
        return Size(train, test, self.facts.classes)

    def fetch(self, mirror: str = "") -> None:
        """Get what is free to download, and say how to get the rest. ``mirror``: an address that has the same files by name.

        Raises:
            PelError: there is nothing to get, a folder cannot be written to, a download fails or has another checksum.
        """
        raise PelError(f"data set '{self.base}' has nothing to download: its images are made here, or are yours")


SOURCES: Registry[type[Source]] = Registry("kind of data", ("pel_core.ingest.sources",))


def register(source: type[Source]) -> type[Source]:
    """Add a class to SOURCES, under its kind.

    Raises:
        PelError: there is another source of this kind.
    """
    return SOURCES.register(source.kind, source)


def open_source(base: str, entry: LongTailed, config: Mapping[str, Any] | None = None) -> Source:
    """The source of a declared data set, which is not looked at yet.

    Raises:
        PelError: no source is of the entry's kind.
    """
    if entry.kind not in SOURCES:
        raise unknown(f"kind of data set '{base}':", entry.kind, SOURCES)
    return SOURCES[entry.kind](base, entry, config or {})


def require_split(name: str, split: str, datasets: Mapping[str, LongTailed], val: float = 0.0, asked: str = "split=val") -> None:
    """See that a data set has the split that is evaluated on. Of images as they are found it shows when they are read.

    ``val``: the fraction of training images that the run holds out for validation (``data.val``), 0 for none. ``asked``: what
    needs it, for the message.

    Raises:
        PelError: it has none of this name; the message says which data sets do, and how one is held out.
    """
    base = split_name(name)[0]
    if split != "val" or val or open_source(base, datasets[base]).may_have_val:
        return
    have = [other for other in sorted(datasets) if open_source(other, datasets[other]).may_have_val]
    known = f"; {', '.join(have)} has" if have else ""
    raise PelError(
        f"{asked}: data set '{name}' has no validation split{known}. data.val=0.1 holds a tenth of its training images out, "
        "of which the run does not train (docs/data.md)"
    )


def validation_options(name: str, datasets: Mapping[str, LongTailed], fraction: float) -> dict[str, Any]:
    """The options of a run that is evaluated on validation images: ``split: val``, and where a data set has none of its own,
    ``data.val`` so that this fraction is held out."""
    source = open_source(split_name(name)[0], datasets[split_name(name)[0]])
    return {"split": "val"} | ({} if source.has_val() else {"data.val": fraction})

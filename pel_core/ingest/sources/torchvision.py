"""The classification sets of torchvision, by the name of their class: what lies in the folder that torchvision calls root.

Each set has its own parts (train, trainval, 2021_valid, ...); which of them is train, val and test is said in the log, and by the
entry where there is more than one way to read it. Nothing is downloaded but by ``data fetch``. Torch-free until images are read.
"""

import glob
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from pel_core.common.errors import PelError
from pel_core.data.roots import expand_root
from pel_core.ingest.catalogue import Catalogue
from pel_core.ingest.options import one_of
from pel_core.ingest.sources.base import register
from pel_core.ingest.sources.users import Unread, UserEntry, UserOptions, UserSource, digest_lines
from pel_core.ingest.taken_images import replace_images
from pel_core.ingest.torchvision_sets import TORCHVISION, TorchvisionSet

SPLIT_NAMES = ("train", "val", "test")


def _mapping(given: Any) -> Any:
    if not isinstance(given, Mapping):
        raise ValueError(f"{given!r} is no mapping: expected name: value")
    return {str(key): value for key, value in given.items()}


class TorchvisionOptions(UserOptions):
    """A class of torchvision, its parts and arguments."""

    set: Annotated[one_of(TORCHVISION), Field(description="the class of torchvision.datasets, such as Flowers102")]
    splits: Annotated[
        dict[str, str],
        BeforeValidator(_mapping, json_schema_input_type=dict[str, str | int]),
        Field(default_factory=dict, description="train, val, test: the set's own part; where several ways are possible"),
    ]
    arguments: Annotated[
        dict[str, str | int | bool],
        BeforeValidator(_mapping, json_schema_input_type=dict[str, str | int | bool]),
        Field(default_factory=dict, description="other arguments of the class, such as DTD's partition"),
    ]

    @model_validator(mode="before")
    @classmethod
    def _as_text(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and isinstance(given.get("splits"), Mapping):
            return {**given, "splits": {key: str(part) for key, part in given["splits"].items()}}  # 2019 is a part
        return given


class TorchvisionEntry(UserEntry, TorchvisionOptions):
    """A set of torchvision."""

    kind: Annotated[Literal["torchvision"], Field(description="a classification set of torchvision, by its class")]

    @model_validator(mode="after")
    def _check_set(self) -> "TorchvisionEntry":
        check_said(self.set, self.splits, self.arguments)
        if not (parts := chosen_splits(self.set, self.splits)).keys() - {"train"} and not self.test_fraction:
            said = f"its part '{parts['train']}' alone is taken" if self.splits else TORCHVISION[self.set].why
            raise ValueError(
                f"{self.set} has no test images as it is declared ({said}); say test_fraction: 0.2 for some that are held out, "
                "or take a published split (kind: split_file)"
            )
        return self


def chosen_splits(name: str, said: Mapping[str, str]) -> dict[str, str]:
    """Which part of a set each split is."""
    known = TORCHVISION[name]
    alone = {"train": "all"} if list(known.parts) == ["all"] else {}
    return dict(said or known.splits or alone)


def check_said(name: str, splits: Mapping[str, str], arguments: Mapping[str, Any]) -> None:
    """See that all is said of a set that has to be said, and that it can be.

    Raises:
        ValueError: in words.
    """
    known = TORCHVISION[name]
    there = ", ".join(known.parts)
    for split, part in splits.items():
        if split not in SPLIT_NAMES or part not in known.parts:
            raise ValueError(f"splits has {split}: {part}, expected train, val or test: one of {there}")
    if splits and "train" not in splits:
        raise ValueError(f"splits says nothing of train; expected one of {there}")
    if len(set(splits.values())) < len(splits):
        raise ValueError(f"splits is {dict(splits)}; expected another part for each split")
    for part in splits.values():
        if both := [other for other in splits.values() if other in known.contains.get(part, ())]:
            raise ValueError(f"splits has {part} and {both[0]}, which is a part of it; an image would be in both")
    if not chosen_splits(name, splits):
        raise ValueError(f"{name} can be divided in several ways ({known.why}); say splits: {{train: ...}}, of {there}")
    for argument, value in arguments.items():
        if argument not in known.arguments:
            raise ValueError(f"arguments has {argument}; {name} has {', '.join(known.arguments) or 'none'}")
        if value not in known.arguments[argument] or isinstance(value, bool) != isinstance(known.arguments[argument][0], bool):
            raise ValueError(
                f"arguments has {argument}: {value!r}, expected one of {', '.join(map(str, known.arguments[argument]))}"
            )
    if lacking := [argument for argument in known.asked if argument not in arguments]:
        values = ", ".join(map(str, known.arguments[lacking[0]]))
        raise ValueError(f"{name} comes in several forms; say arguments: {{{lacking[0]}: ...}}, one of {values}")


@register
class Torchvision(UserSource):
    """A set as torchvision reads it: images that are files stay where they are, arrays become files in the prepared folder."""

    kind = "torchvision"
    Options = TorchvisionOptions
    Entry = TorchvisionEntry

    @property
    def known(self) -> TorchvisionSet:
        """What is known of the class."""
        return TORCHVISION[self.options.set]

    @property
    def splits(self) -> dict[str, str]:
        """Which part each split is."""
        return chosen_splits(self.options.set, self.options.splits)

    @property
    def may_have_val(self) -> bool:  # type: ignore[override]
        """Whether there is a validation split beside a test split, or one is held out."""
        return ("val" in self.splits and "test" in self.splits) or bool(self.options.val_fraction)

    def has_val(self) -> bool:
        """The same: it shows from the entry."""
        return self.may_have_val

    def found_at(self, root: str) -> UserSource:
        """A folder; what the set consists of is below it."""
        found = super().found_at(root)
        for pattern, files in self._places(root).items():
            if not files:
                from pel_core.ingest.torchvision_reading import how_to_get

                above = os.path.dirname(root)
                inside = f"; {above} has it: name that as root" if glob.glob(os.path.join(glob.escape(above), pattern)) else ""
                how = how_to_get(self.options.set, root)
                raise PelError(f"{root} holds no {pattern}, which torchvision's {self.options.set} needs{inside}; {how}")
        return found

    def _places(self, root: str) -> dict[str, list[str]]:
        """What is there of each pattern of files and folders."""
        patterns = dict.fromkeys(place.replace("{part}", part) for place in self.known.places for part in self.splits.values())
        return {pattern: sorted(glob.glob(os.path.join(glob.escape(root), pattern))) for pattern in patterns}

    def _all_files(self) -> list[str]:
        """Every file of a located set, relative to the root."""
        found = []
        for place in sorted({place for places in self._places(self.root).values() for place in places}):
            if os.path.isfile(place):
                found.append(os.path.relpath(place, self.root))
            for folder, folders, files in os.walk(place):
                folders.sort()
                found += [os.path.relpath(os.path.join(folder, name), self.root) for name in sorted(files)]
        return found

    def images_fingerprint(self) -> dict[str, str]:
        """Paths and sizes of its files."""
        sizes = ((name, os.path.getsize(os.path.join(self.root, name))) for name in self._all_files())
        return {"tree": digest_lines(f"{name}\t{size}" for name, size in sizes)}

    def tables(self) -> list[str] | None:
        """Its files, where images are in arrays."""
        return self._all_files() if self.known.pixels else None

    def catalogue(self, new: Path) -> Catalogue:
        """Its images; arrays are written below ``new``."""
        from pel_core.ingest.torchvision_reading import read_parts

        return read_parts(self.options.set, self.root, self.splits, self.options.arguments, new)

    def outline(self, new: Path) -> Catalogue:
        """Nothing: reading takes torchvision, which planning does not import."""
        raise Unread(f"what torchvision's {self.options.set} comes to is known when it is prepared")

    def finish(self, new: Path, out: Path) -> None:
        """Put written images where runs look for them."""
        if self.known.pixels:
            replace_images(new, out)

    def fetch(self, mirror: str = "") -> None:
        """Let torchvision download the parts that are used, with its checksums, and say how to get what cannot be downloaded.

        Raises:
            PelError: it is got by hand, a mirror is given, or a download fails.
        """
        from pel_core.ingest.torchvision_reading import how_to_get, make

        root = os.path.abspath(expand_root(self.given_root))
        if self.known.by_hand:
            raise PelError(f"torchvision cannot download {self.options.set}: {how_to_get(self.options.set, root)}")
        if mirror:
            raise PelError(f"--mirror is {mirror}, but torchvision's {self.options.set} comes from torchvision's own addresses")
        there = {*glob.glob(os.path.join(glob.escape(root), "*"))} if os.path.isdir(root) else None
        try:
            os.makedirs(root, exist_ok=True)
            for part in dict.fromkeys(self.splits.values()):
                make(self.options.set, root, part, self.options.arguments, download=True)
        except OSError as error:
            raise PelError(
                f"{root} cannot be written to ({error.strerror}); make it writable, or name another by roots"
            ) from None
        except PelError:
            _remove_empty(root, there)
            raise


def _remove_empty(root: str, there: set[str] | None) -> None:
    """Take away the empty folders that a failed download made: all but those that were ``there``; None: nor was the root."""
    for folder, _, _ in os.walk(root, topdown=False):
        new = os.path.join(root, os.path.relpath(folder, root).split(os.sep)[0])
        if (folder != root and new not in (there or ())) or (folder == root and there is None):
            with suppress(OSError):  # it holds something
                os.rmdir(folder)

"""Image files and list files (``path label`` a line), as ImageNet-LT, Places-LT and iNaturalist 2018 are published.

A list of the user's own may be without labels, ``CLASS/image.jpg`` a line.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from pel_core.common.errors import PelError
from pel_core.common.fingerprints import fingerprint
from pel_core.common.problems import Problems
from pel_core.common.shipped import program
from pel_core.data.class_name_files import NAME_FORMATS
from pel_core.data.lists import read_lines
from pel_core.data.roots import expand_root
from pel_core.ingest.content import Content
from pel_core.ingest.data_check import check_lists, describe_split
from pel_core.ingest.options import Declared, Excluding, one_of
from pel_core.ingest.sources.base import SAID, Bar, Size, Source, register
from pel_core.ingest.unlabelled_lists import require_unlabelled

Name = Annotated[str, Field(min_length=1)]


class ListsOptions(Excluding):
    """Names of list files below the image folder, or below its subfolder (or another folder, given in full) ``lists``."""

    lists: Annotated[str, Field(description="the folder of the list files, below root or in full")] = ""
    train: Annotated[Name, Field(description="the training list; {ir} in it stands for each of several ratios")]
    test: Annotated[Name, Field(description="the test list")]
    val: Annotated[str, Field(description="the validation list, where there is one")] = ""
    # One that ends in .json is iNaturalist's: labels in the lists are category ids, and become ranks of the sorted names.
    names: Annotated[
        str,
        Field(
            description="class names, line i for label i, or iNaturalist's categories.json; none for lists without labels, whose "
            "classes are the images' folders"
        ),
    ] = ""
    names_format: Annotated[
        one_of(NAME_FORMATS), Field(description="whether an identifier stands before each name (auto, name, id name)")
    ] = "auto"


class ListsEntry(Declared, ListsOptions):
    """A user's data set of list files."""

    kind: Annotated[Literal["lists"], Field(description="image files and list files")] = "lists"

    @model_validator(mode="after")
    def _check_ratios(self) -> "ListsEntry":
        if bool(self.ratios) != ("{ir}" in self.train):
            raise ValueError(
                f"train is '{self.train}' and ratios is {list(self.ratios)}; "
                "several ratios need '{ir}' in the name of the training list, and one list needs neither"
            )
        return self


@register
class Lists(Source):
    """Images stay where they are; a list file for each split names them and says their labels."""

    kind = "lists"
    Options = ListsOptions
    Entry = ListsEntry

    @property
    def may_have_val(self) -> bool:
        """Whether a validation list is declared."""
        return bool(self.options.val)

    @property
    def root(self) -> str:
        """The image folder, with its variables."""
        return self.given_root

    def locate(self) -> "Lists":
        """See that the image folder exists, and names where the lists have labels; what else lacks of the lists is told when
        they are read.

        Raises:
            PelError: it does not.
        """
        self.find_root()
        if not self.options.names:
            found = self.find_lists(Problems())
            try:
                for split, file in self.split_files().items():
                    if split.startswith("train") and file in found:
                        require_unlabelled(found[file])
            except PelError as error:
                raise PelError(f"data set '{self.base}': {error}") from None
        return self

    def fingerprint(self) -> dict[str, Any]:
        """The content of every list file."""
        return {name: fingerprint(path) for name, path in self.find_lists().items()}

    def split_files(self) -> dict[str, str]:
        """The list file of each split, test first: ``{"test": ..., "val": ..., "train-ir100": ...}``."""
        splits = {"test": self.options.test, "val": self.options.val}
        for ratio in self.entry.ratios or ("",):
            key = f"{ratio:g}" if ratio else ""
            splits[f"train-ir{key}" if key else "train"] = self.options.train.replace("{ir}", key)
        return {split: file for split, file in splits.items() if file}

    def list_names(self) -> list[str]:
        """All list files as the entry names them: class names, training lists, test, val."""
        splits = self.split_files()
        held = [splits.pop(split) for split in ("test", "val") if split in splits]
        return [*filter(None, [self.options.names]), *splits.values(), *held]

    def lists_folder(self) -> Path:
        """The folder of the list files; ``lists: {BASE: FOLDER}`` in a configuration says another one than the entry."""
        given = str((self.config.get("lists") or {}).get(self.base) or self.options.lists)
        return Path(expand_root(self.given_root), expand_root(given) if given else "")

    def find_root(self) -> str:
        """The image folder, which exists.

        Raises:
            PelError: it does not; the message says how to name it.
        """
        try:
            root = expand_root(self.given_root)
            if not os.path.isdir(root):
                what = "is a file, expected a folder" if os.path.exists(root) else "does not exist"
                raise PelError(f"image folder {root} {what}")
        except PelError as error:
            raise PelError(f"data set '{self.base}': {error}; {self._how_to_say()}") from None
        return root

    def find_lists(self, problems: Problems | None = None) -> dict[str, Path]:
        """The list files that exist, by the name that the entry gives them.

        ``problems`` takes those that do not, which are left out; None stops at the first.

        Raises:
            PelError: the image folder or a list file does not exist.
        """
        self.find_root()
        folder = self.lists_folder()
        files = {name: folder / name for name in self.list_names()}
        for name, path in list(files.items()):
            if path.is_file():
                continue
            what = "class-names file" if name == self.options.names else "list file"
            text, hint = f"data set '{self.base}': {what} {path} does not exist", self._how_to_say()
            if problems is None:
                raise PelError(f"{text}; {hint}")
            problems.add("missing list files", text, hint)
            del files[name]
        return files

    def _how_to_say(self) -> str:
        if self.base not in (self.config.get("datasets") or {}):
            root = self.options.root
            where = f"name it by 'roots: {{{self.base}: FOLDER}}' in the configuration, or the folder that holds '{root}'"
            fetch = f"`{program()} data fetch {self.base}` gets what can be had, and says how to get the rest"
            return f"{where} by {SAID}; {fetch}"
        where = f"say where the images are by 'root' of 'datasets: {self.base}' in the configuration"
        return where + (f", that is here by {SAID}" if "PEL_DATA" in self.options.root else "")

    def read(self, out: Path, check_images: str = "sample", problems: Problems | None = None) -> Content:
        """Names, lists and the sizes of all files, as `check_lists` finds them."""
        problems = Problems() if problems is None else problems
        checked = check_lists(self, check_images, problems)
        problems.require_none(self.base)
        content = Content(checked.names, {}, class_ids=checked.ids, folders=checked.folders, root=self.find_root())
        content.notes = [f"note: {note}" for note in checked.notes]
        for split, images in checked.images.items():
            content.add_files(split, images, checked.sizes[split])
            if split.startswith("train"):
                counts = np.bincount(images.labels, minlength=len(checked.names))
                content.train_counts[split.removeprefix("train").removeprefix("-ir")] = counts.tolist()
        return content

    def check(self, problems: Problems, check_images: str, bar: Bar | None = None) -> None:
        """Print every split; all that is wrong is found at once."""
        print(f"{self.base}: {self.kind} in {self.find_root()}")
        checked = check_lists(self, check_images, problems, bar)
        for split, images in checked.images.items() if checked else ():
            print(f"  {describe_split(split, images, len(checked.names))}")
        for note in checked.notes if checked else ():
            print(f"  note: {note}")

    def class_counts(self) -> tuple[dict[str, np.ndarray], list[str]]:
        """Of the lists; image files need not be there."""
        problems = Problems()
        checked = check_lists(self, "none", problems, files=False)
        problems.require_none(self.base)
        counts, lines = {}, []
        for split, images in checked.images.items():
            if split.startswith("train"):
                counts[f"{self.base}{split.removeprefix('train')}"] = np.bincount(images.labels, minlength=len(checked.names))
            else:
                lines.append(f"{self.base} {describe_split(split, images, len(checked.names))}")
        return counts, lines

    def size(self, ratio: float | None) -> Size | None:
        """As published; lists of the user's own are counted, as far as they are there."""
        if self.published:
            return super().size(ratio)
        try:
            counts = self.class_counts()[0][f"{self.base}-ir{ratio:g}" if ratio else self.base]
            test = read_lines(self.find_lists()[self.options.test], "list file")
        except (PelError, KeyError):
            return super().size(ratio)  # what is wrong with them is told by whoever needs them
        return Size(int(counts.sum()), len(test), len(counts))

    def fetch(self, mirror: str = "") -> None:
        """The list files of a published data set; how to get its images is told."""
        from pel_core.ingest.fetch import fetch_lists

        if not self.facts:
            return super().fetch(mirror)
        root = Path(expand_root(self.given_root))
        fetch_lists(self.base, self.facts, self.lists_folder(), root, self.options.test, mirror)

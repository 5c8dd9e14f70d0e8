"""What sources of a user's own images share: found where they lie, divided and sampled when they are prepared. Torch-free."""

import copy
import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, model_validator

from pel_core.common.errors import PelError
from pel_core.common.files import sha256
from pel_core.common.locales import check_locale
from pel_core.common.problems import Problems
from pel_core.common.shipped import images_said, program
from pel_core.data.datasets import DATASETS
from pel_core.data.roots import expand_root
from pel_core.data.sampling import PROFILES
from pel_core.ingest.catalogue import Catalogue
from pel_core.ingest.class_keys import leave_out
from pel_core.ingest.content import Content
from pel_core.ingest.options import Declared, Excluding, one_of
from pel_core.ingest.sources.base import SAID, Source


def _class_names(given: Any) -> Any:
    if isinstance(given, dict):
        for key, name in given.items():
            if not isinstance(key, str | int) or not isinstance(name, str) or not name.strip():
                raise ValueError(f"class_names: {key!r}: {name!r}, expected a class's folder or label: its name, a text")
        if len(set(map(type, given))) > 1:  # numbers and words: as words, which have an order
            return {str(key): name for key, name in given.items()}
    elif not isinstance(given, str):
        raise ValueError(f"class_names is {given!r}, expected a mapping (folder: name) or the name of a file")
    return given


Seed = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
PROFILE = one_of(PROFILES, "Leave it out for the imbalance as found.")


class UserOptions(Excluding):
    """What is drawn from the images there are: held-out splits, an imbalance profile, class names."""

    class_names: Annotated[
        dict[str | int, str] | str, BeforeValidator(_class_names), Field(description="folder or label: name; or a file of that")
    ] = ""
    profile: Annotated[PROFILE, Field(description="the imbalance that is drawn: exponential, step or pareto")] = ""
    largest: Annotated[int, Field(ge=1, description="images of the largest class that is drawn; left out: as many as fit")] = 0
    sampling_seed: Annotated[Seed, Field(description="of the images that are drawn")] = 0
    test_fraction: Annotated[Fraction, Field(description="held out of each class for testing; 0.2 where there is no split")] = 0.0
    val_fraction: Annotated[Fraction, Field(description="held out of each class for validation; none unless given")] = 0.0
    split_seed: Annotated[Seed, Field(description="of the images that are held out")] = 0


class UserEntry(Declared, UserOptions):
    """A user's own images, as any of these kinds."""

    @model_validator(mode="after")
    def _check_drawn(self) -> "UserEntry":
        if bool(self.profile) != bool(self.ratios):
            given = f"profile is '{self.profile}' and ratios is {list(self.ratios)}"
            raise ValueError(f"{given}; a drawn profile needs both (profile: exponential, ratios: [100]), none needs neither")
        if self.largest and not self.profile:
            raise ValueError(f"largest is {self.largest}, which means nothing without a profile")
        if self.test_fraction + self.val_fraction >= 1:
            raise ValueError("test_fraction and val_fraction leave nothing to train on")
        return self


class Unread(PelError):
    """What images come to is not known before they are prepared, and nothing is wrong with that."""


class UserSource(Source):
    """Images as they are found. A kind says how they are recognised, known and listed.

    goes_on: whether ``catalogue`` goes on with what an earlier process that was killed left of the folder that it writes to.
    """

    Options = UserOptions
    is_users: ClassVar[bool] = True
    goes_on: ClassVar[bool] = False
    may_have_val = True

    def has_val(self) -> bool:
        """Whether the images come with a validation split, or one is held out of them; False where they are not there."""
        from pel_core.ingest.user_outline import outline

        try:
            return bool(self.options.val_fraction) or "val" in outline(self.locate()).splits
        except PelError:
            return False  # which is told by whoever needs the images

    @property
    def root(self) -> str:
        """The image folder of a located source, in full."""
        return self.options.root

    @property
    def given_root(self) -> str:
        """As a configuration's entry says; of a built-in data set, as every source has it."""
        return super().given_root if self.base in DATASETS else self.options.root

    @classmethod
    def recognises(cls, root: str, options: Any) -> bool:
        """Whether what lies at ``root`` is of this kind, for ``kind: auto``."""
        return False

    def at(self, **options: Any) -> "UserSource":
        """The same with other options."""
        other = copy.copy(self)
        other.options = self.options.model_copy(update=options)
        return other

    def locate(self) -> "UserSource":
        """Of the kind that the images are, with ``root`` in full.

        Raises:
            PelError: nothing is there, or not what the kind asks for.
        """
        try:
            return self.looked_at()
        except PelError as error:
            raise PelError(f"data set '{self.base}': {error}; {self._how_to_say()}") from None

    def looked_at(self) -> "UserSource":
        """As `locate`, whose errors say how a configuration names images, which these do not."""
        root = os.path.abspath(expand_root(self.given_root))
        check_locale([root])
        if not os.path.exists(root):
            raise PelError(f"{root} does not exist")
        return self.found_at(root)

    def found_at(self, root: str) -> "UserSource":
        """``locate`` for a path that exists."""
        if not os.path.isdir(root):
            raise PelError(f"{root} is a file, expected a folder")
        return self.at(root=root)

    def _how_to_say(self) -> str:
        if self.base in DATASETS:
            fetch = f"`{program()} data fetch {self.base}` gets what can be had, and says how to get the rest"
            holds = f"the folder that holds '{root}', " if (root := self.entry.options["root"]) != "." else ""
            where = f"name its folder by 'roots: {{{self.base}: FOLDER}}' in the configuration, or {holds}by {SAID}"
            return f"{where}; {fetch}"
        said = os.environ.get("PEL_DATA")  # which --root sets; a source that was opened has the path in the place of the variable
        if "PEL_DATA" in self.options.root or (said and os.path.abspath(self.options.root) == os.path.abspath(said)):
            return f"say where the images are by {images_said('PATH')}"
        return f"say where the images are by 'root' of 'datasets: {self.base}' in the configuration"

    def names_file(self) -> str:
        """The file of a located source's class names; empty where there is none.

        Raises:
            PelError: it does not exist.
        """
        given = self.options.class_names
        if not isinstance(given, str) or not given:
            return ""
        path = os.path.join(self.root or "", expand_root(given))
        if not os.path.isfile(path):
            raise PelError(f"class_names: {path} does not exist; expected a file below {self.root}, or one that is given in full")
        return path

    def fingerprint(self) -> dict[str, Any]:
        """Paths and sizes of images, or the bytes of their table, and the file of class names."""
        try:
            names = self.names_file()
            return self.images_fingerprint() | ({"names": sha256(names)} if names else {})
        except PelError as error:
            raise PelError(f"data set '{self.base}': {error}") from None

    def images_fingerprint(self) -> dict[str, str]:
        """What the images of a located source are known by."""
        raise NotImplementedError(f"{type(self).__name__}.images_fingerprint")

    def catalogue(self, new: Path) -> Catalogue:
        """The images of a located source. ``new``: a folder that is not there yet, for images that are in no files."""
        raise NotImplementedError(f"{type(self).__name__}.catalogue")

    def outline(self, new: Path) -> Catalogue:
        """As ``catalogue``, for planning: quick, with nothing written. One class stands for labels that are not known yet."""
        return self.catalogue(new)

    def finish(self, new: Path, out: Path) -> None:
        """Put in place what ``catalogue`` wrote to ``new``, just before the folder ``out`` is written."""

    def read(self, out: Path, check_images: str = "sample", problems: Problems | None = None) -> Content:
        """Found, less what is excluded, divided, sampled, named and checked (`pel_core.ingest.user_content`).

        Raises:
            PelError: nothing to train or test on, a profile that the images do not allow, names that fit no class, or files
                that cannot be used; the message names the data set.
        """
        from pel_core.ingest.user_content import user_content

        new = out / ".images-new"
        if not self.goes_on:
            shutil.rmtree(new, ignore_errors=True)
        try:
            found = leave_out(self.catalogue(new), self.options.exclude)
            content = user_content(self, found, check_images, Problems() if problems is None else problems)
        except PelError as error:
            shutil.rmtree(new, ignore_errors=True)
            raise PelError(f"data set '{self.base}': {error}") from None
        content.finish = lambda: self.finish(new, out)
        return content


def digest_lines(lines: Iterable[str]) -> str:
    """A short digest of lines of text."""
    return hashlib.sha256("".join([f"{line}\n" for line in lines]).encode()).hexdigest()[:16]

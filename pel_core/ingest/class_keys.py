"""Classes as the data call them: those that are left out on request, and what looks odd about the others.

Shapes: N images, C classes.
"""

import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from difflib import get_close_matches

import numpy as np

from pel_core.common.counts import count_of
from pel_core.common.errors import PelError
from pel_core.data.lists import ImageList
from pel_core.ingest.catalogue import Catalogue

# A class called so is rarely a kind of thing: Caltech-101's BACKGROUND_Google, Caltech-256's 257.clutter, "unsorted" folders.
BACKGROUND = {"background", "clutter", "distractor", "distractors", "unlabeled", "unlabelled", "unsorted", "misc"}
ALONE = {"other", "others", "unknown", "none", "rest", "junk"}  # only where it is the whole name


def composed(key: str) -> str:
    """A text whose accents are one character with their letter: equal for what people see as equal."""
    return unicodedata.normalize("NFC", key)


def clean(name: str) -> str:
    """A class name as a prompt takes it: one line, single spaces, composed characters."""
    return " ".join(composed(name).split())


def kept(exclude: Collection[str], keys: Sequence[str], also: Iterable[str] = (), other_names: Sequence[str] = ()) -> np.ndarray:
    """Which of C classes stay: int64 (C,), the new label of each, -1 for one that is left out.

    Args:
        exclude: what is left out, as the data call it.
        keys: the classes, in label order.
        also: what may be named besides, and is no class.
        other_names: a second name of each class (C,), if they have one.

    Raises:
        PelError: a name that is no class, or fewer than two classes that stay.
    """
    asked = {composed(key) for key in exclude}
    names = [{composed(key)} for key in keys]
    for own, other in zip(names, other_names, strict=False):
        own.add(composed(other))
    known = set().union(*names, map(composed, also))
    for key in exclude:
        if composed(key) not in known:
            near = (get_close_matches(composed(key), sorted(known), n=1) or list(keys[:1]))[0]
            raise PelError(f"exclude: '{key}' is none of the {len(keys)} classes; expected names such as '{near}'")
    stays = np.array([not own & asked for own in names], bool)
    if exclude and stays.sum() < 2:
        raise PelError(f"exclude leaves {stays.sum()} of {len(keys)} classes; expected at least two")
    return np.where(stays, np.cumsum(stays) - 1, -1)


def without(images: ImageList, labels: np.ndarray) -> ImageList:
    """A list file's images less those of classes that are left out, with new labels: ``labels`` (C,) of `kept`."""
    stay = np.flatnonzero(labels[images.labels] >= 0)
    if len(stay) == len(images.paths):
        return replace(images, labels=labels[images.labels])
    lines = np.arange(1, len(images.paths) + 1) if images.lines is None else images.lines
    paths = [images.paths[i] for i in stay.tolist()]
    return ImageList(images.source, paths, labels[images.labels[stay]], lines[stay])


def leave_out(found: Catalogue, exclude: Collection[str]) -> Catalogue:
    """The catalogue without the classes of ``exclude``, which is noted.

    Raises:
        PelError: as `kept`.
    """
    if not exclude:
        return found
    labels = kept(exclude, found.keys, found.no_classes)
    splits = {}
    for split, images in found.splits.items():
        stay = np.flatnonzero(labels[images.labels] >= 0)
        taken = images.take(stay)
        splits[split] = replace(taken, labels=labels[taken.labels])
    images = found.excluded + sum(len(found.splits[split].paths) - len(splits[split].paths) for split in splits)
    gone = [key for key, label in zip(found.keys, labels.tolist(), strict=True) if label < 0]
    keys = [key for key in found.keys if key not in set(gone)]
    notes = [excluded_note(exclude, images), *found.notes]
    return replace(found, keys=keys, splits=splits, notes=notes, no_classes=[*found.no_classes, *gone])


def as_spelt(key: str, there: Sequence[str], others: Iterable[str]) -> str:
    """The class of ``there`` that ``key`` is but for how accents are coded (macOS does it its own way).

    ``key`` itself where there is none, or where several of ``there`` or of ``others`` read so, as then nobody knows.
    """
    same = [each for each in there if composed(each) == composed(key)]
    alone = sum(composed(each) == composed(key) for each in others) == 1
    return same[0] if key not in there and len(same) == 1 and alone else key


def untrained(where: str, lacking: Sequence[str], keys: Sequence[str], empty: Collection[str]) -> PelError:
    """The refusal of a split's class folders that have no training image, with the reason of each as far as it shows.

    Args:
        where: the split's folder.
        lacking: its classes that have no training image.
        keys: those that have.
        empty: class folders of the training folder without an image.
    """
    hollow = set(map(composed, empty))

    def told(key: str) -> str:
        if composed(key) in hollow:
            return f"{key!r} (it is in the training folder too, and holds no image there)"
        if same := [each for each in keys if composed(each) == composed(key)]:
            return f"{key!r} (equal letters coded differently: {key!a}, for training {same[0]!a})"
        near = [each for each in keys if composed(each).casefold() == composed(key).casefold()]
        return f"{key!r} (for training it is {near[0]!r}: capital letters differ)" if near else repr(key)

    few = ", ".join(map(told, lacking[:5])) + (", ..." if len(lacking) > 5 else "")
    has = "has" if len(lacking) == 1 else "have"
    remedy = f"put images there, call the folders alike, or leave the class out: {how_to_exclude(lacking[:5])}"
    return PelError(
        f"{count_of(len(lacking), 'class folder')} of {where} {has} no training images: {few}; expected every class of val "
        f"and test in the training folder: {remedy}"
    )


def excluded_note(exclude: Collection[str], images: int) -> str:
    """What was left out on request."""
    return f"left out as `exclude` says: {', '.join(exclude)} ({images:,} {'image' if images == 1 else 'images'})"


def how_to_exclude(keys: Sequence[str]) -> str:
    """The key of a configuration's data set that leaves classes out, quoted so that any name may be copied."""
    return f"`exclude: {json.dumps(list(keys), ensure_ascii=False)}` in the configuration"


def odd_keys(keys: Sequence[str]) -> list[str]:
    """Notes on classes that may be one in truth, and on classes that may be none."""
    alike: dict[str, list[str]] = defaultdict(list)
    for key in keys:
        alike[" ".join(re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFKC", key)).split()).casefold()].append(key)
    split = [group for group in alike.values() if len(group) > 1]
    shown = "; ".join(_told(group) for group in split[:3]) + ("; ..." if len(split) > 3 else "")
    notes = [f"classes that look alike are told apart, as found: {shown}; if they are one, merge them"] if split else []
    words = {key: set(re.findall(r"[^\W\d_]+", key.lower())) for key in keys}
    background = [key for key in keys if words[key] & BACKGROUND or (len(words[key]) == 1 and words[key] <= ALONE)]
    if background:
        few = ", ".join(background[:5])
        notes.append(f"no kind of thing, by the name: {few}; if so, leave it out ({how_to_exclude(background[:5])})")
    return notes


def _told(group: list[str]) -> str:
    """Names that look alike, so that the difference shows."""
    same = len({composed(key) for key in group}) < len(group)
    return " and ".join(map(ascii if same else repr, group)) + (" (of equal letters, coded differently)" if same else "")

"""A user's own images as they are found -> what a prepared folder holds: divided, sampled, named, checked.

Shapes: N images, C classes.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

import numpy as np

from pel_core.common.counts import count_of
from pel_core.common.errors import PelError
from pel_core.common.problems import Problems
from pel_core.common.yaml_files import load_yaml
from pel_core.data import class_name_files, lists
from pel_core.data.image_files import require_readable
from pel_core.data.sampling import held_out, largest_fitting, profile_counts, profile_subset
from pel_core.ingest.catalogue import Catalogue, Placed
from pel_core.ingest.class_keys import clean, composed, odd_keys
from pel_core.ingest.content import Content
from pel_core.ingest.data_check import decode_images
from pel_core.ingest.duplicate_images import duplicate_notes
from pel_core.ingest.facts import Facts
from pel_core.ingest.known_mistakes import explain_missing

if TYPE_CHECKING:
    from pel_core.ingest.sources.users import UserOptions, UserSource

TEST_FRACTION = 0.2  # held out where a data set has neither a test nor a validation split, unless the entry says otherwise


def user_content(source: "UserSource", found: Catalogue, check_images: str, problems: Problems) -> Content:
    """What the images of a located source come to.

    Raises:
        PelError: nothing to train or test on, a profile that the images do not allow, names that fit no class, or files that
            cannot be used, all of which ``problems`` takes, by kind.
    """
    if len(found.keys) < 2:
        raise PelError(f"{found.root} has one class ({', '.join(found.keys)}); expected at least two")
    entry = source.options
    names = class_names(source, found)
    splits = divide(entry, found)
    content = Content(names, {}, root=found.root)
    for images in splits.values():
        require_readable(images.paths)
    sizes = {split: lists.check_files(found.root, images, problems=problems) for split, images in splits.items()}
    explain_missing(found.root, splits, sizes, problems)
    for split, images in splits.items():
        decode_images(found.root, images, sizes[split], check_images, problems)
        content.add_files(split, images, sizes[split])
    problems.stop()
    found.notes += odd_keys(found.keys)
    found.notes += duplicate_notes(found.root, splits, sizes, check_images)
    train = splits["train"]
    pool = np.bincount(train.labels, minlength=len(names))
    content.train_counts[""] = pool.tolist()
    for ratio, counts in drawn_counts(entry, source.entry.ratios, found.keys, pool).items():
        chosen = train.take(profile_subset(train.labels, found.keys, counts, entry.sampling_seed))
        content.train_counts[f"{ratio:g}"] = counts.tolist()
        content.add_files(f"train-ir{ratio:g}", chosen, lists.check_files(found.root, chosen))
    for text in unlike_published(source.published, found.keys, splits):
        hint = f"get what is published, or declare a data set with a name of its own, not '{source.base}'"
        problems.add("numbers that are not the published ones", text, hint)
    problems.stop()
    content.notes = _notes(found, names, splits, content)
    return content


def unlike_published(facts: Facts | None, keys: Sequence[str], splits: Mapping[str, lists.ImageList]) -> list[str]:
    """Where classes, the images of the splits, and the largest and smallest class are not as published, in words."""
    if facts is None:
        return []
    found = [f"{len(keys):,} classes, published: {facts.classes:,}"] if len(keys) != facts.classes else []
    known = zip(("train", "test", "val"), (*facts.images, facts.val), strict=True) if facts.images else ()
    for split, expected in known:
        images = len(splits[split].labels) if split in splits else 0
        found += [f"{images:,} {split} images, published: {expected:,}"] if images != expected else []
    counts = np.bincount(splits["train"].labels, minlength=len(keys))
    if facts.profile and (int(counts.max()), int(counts.min())) != facts.profile:
        ends = "{:,} to {:,}".format(*facts.profile)
        found.append(f"{counts.max():,} to {counts.min():,} training images a class, published: {ends}")
    return found


def divide(entry: "UserOptions", found: Catalogue) -> dict[str, Placed]:
    """The splits, held out from the training images where the data have none.

    A validation split of the data is the test split where there is no other and no ``test_fraction`` is asked for.

    Raises:
        PelError: a split is there and a fraction for it, or no class has enough images.
    """
    splits = dict(found.splits)
    for split in ("test", "val"):
        if split in splits and getattr(entry, f"{split}_fraction"):
            raise PelError(f"{found.root} has a {split} split of its own; leave out {split}_fraction, or take that split away")
    if "test" not in splits and "val" in splits and not entry.test_fraction:
        splits["test"] = splits.pop("val")
        found.notes.append("there is no test split; the validation split is taken as such (test_fraction holds one out instead)")
    test = 0.0 if "test" in splits else entry.test_fraction or TEST_FRACTION
    val = entry.val_fraction
    if test or val:
        parts = held_out(splits["train"].labels, found.keys, test, val, entry.split_seed)
        whole = splits.pop("train")
        splits = {"train": whole.take(np.flatnonzero(parts == 0)), **splits}
        splits |= {name: whole.take(np.flatnonzero(parts == part)) for name, part, f in (("test", 1, test), ("val", 2, val)) if f}
        shares = " and ".join(f"{100 * f:g} % for {name}" for name, f in (("test", test), ("val", val)) if f)
        found.notes.append(f"held out of every class: {shares} (split_seed {entry.split_seed})")
    for split, images in splits.items():
        if not images.paths:
            raise PelError(f"{found.root} has no image for the split '{split}': its classes have one image each; add images")
    return splits


def drawn_counts(entry: "UserOptions", ratios: Sequence[float], keys: list[str], pool: np.ndarray) -> dict[float, np.ndarray]:
    """Training images per class (C,) at each ratio of the entry's profile, from ``pool`` (C,), those there are.

    The profile goes down the classes by their number of training images; of equal ones the first in label order comes first. The
    largest class keeps as many images at every ratio, so that they are nested: as many as the smallest ratio allows.

    Raises:
        PelError: the images do not allow it.
    """
    if not entry.profile:
        return {}
    rank = np.argsort(-pool, kind="stable")
    fits = largest_fitting(entry.profile, pool[rank], min(ratios))
    largest = entry.largest or fits
    if largest > fits:
        raise PelError(f"largest is {largest}, but ratio {min(ratios):g} allows at most {fits} (pool: {_ends(keys, pool, rank)})")
    made = {}
    for ratio in ratios:
        counts = np.empty_like(pool)
        try:
            counts[rank] = profile_counts(entry.profile, len(pool), largest, ratio)
        except PelError as error:
            raise PelError(f"profile {entry.profile}: {error} (pool: {_ends(keys, pool, rank)})") from None
        made[ratio] = counts
    return made


def _ends(keys: list[str], pool: np.ndarray, rank: np.ndarray) -> str:
    return f"{pool[rank[0]]} images of '{keys[rank[0]]}' down to {pool[rank[-1]]} of '{keys[rank[-1]]}'"


def class_names(source: "UserSource", found: Catalogue) -> list[str]:
    """Names in label order: as ``class_names`` maps them, else the class's own with underscores as spaces.

    Raises:
        PelError: a key of the mapping that is no class.
    """
    given = _mapping(source)
    there = set(map(composed, [*found.keys, *found.no_classes]))
    for key in given:
        if composed(key) not in there:
            near = get_close_matches(key, found.keys, n=1) or found.keys[:1]
            raise PelError(f"class_names: '{key}' is none of the {len(found.keys)} classes; expected names such as '{near[0]}'")
    given = {composed(key): name for key, name in given.items()}
    names = [clean(given.get(composed(key)) or key.replace("_", " ")) for key in found.keys]
    if blank := [key for key, name in zip(found.keys, names, strict=True) if not name]:
        raise PelError(f"class {blank[0]!r} has no name; give one by class_names")
    bare = [key for key in found.keys if composed(key) not in given]
    if bare and all(key.isdecimal() or class_name_files.WNID.fullmatch(key) for key in bare):
        many = count_of(len(bare), "class", "classes")
        found.notes.append(f"{many} called by numbers ('{bare[0]}'), which tell CLIP nothing: give class_names")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        found.notes.append(f"{count_of(len(twice), 'name')} of several classes ('{twice[0]}'), whose text features are equal")
    return names


def _mapping(source: "UserSource") -> dict[str, str]:
    if isinstance(source.options.class_names, Mapping):
        return {str(key): name for key, name in source.options.class_names.items()}
    path = source.names_file()
    if not path:
        return {}
    if re.search(r"\.(ya?ml|json)$", path, re.IGNORECASE):
        loaded = load_yaml(path)
        for key, name in loaded.items():
            if not isinstance(name, str) or not name.strip():
                raise PelError(f"{path}: {key}: {name!r}, expected the class's name, a text")
        return {str(key): name for key, name in loaded.items()}
    given: dict[str, str] = {}
    for number, line in enumerate(lists.read_lines(path, "class-names file"), 1):
        key, _, name = line.strip().partition("\t" if "\t" in line else " ")
        if not name.strip() or key in given:
            raise PelError(f"{path}:{number}: found {line!r}, expected a class's folder or label, once, and its name")
        given[key] = name
    return given


def _notes(found: Catalogue, names: list[str], splits: dict[str, Placed], content: Content) -> list[str]:
    """What was found, left out and done, a line each."""
    sizes = ", ".join(f"{len(splits[split].paths):,} {split}" for split in ("train", "test", "val") if split in splits)
    pool = content.train_counts[""]
    lines = [f"found: {len(names)} classes; images: {sizes}; {max(pool)} to {min(pool)} training images a class"]
    for key, counts in content.train_counts.items():
        if key:
            lines.append(f"drawn: {sum(counts):,} training images at ratio {key}, {max(counts)} to {min(counts)} a class")
    lines += [f"note: {note}" for note in found.notes if note]
    for split, images in splits.items():
        absent = [name for name, count in zip(names, np.bincount(images.labels, minlength=len(names)), strict=True) if not count]
        if absent and split != "train":
            few = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
            lacks = f"no image of {len(absent)} of {len(names)} classes ({few})"
            lines.append(f"note: the {split} split has {lacks}; they have no accuracy")
    return lines

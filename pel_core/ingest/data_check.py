"""Checking a data set of image files and list files: everything that can be wrong with it before a GPU starts, by kind.

``data check`` prints all that is found; ``data prepare`` goes the same way and stops where anything is. N images, C classes.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pel_core.common.errors import PelError
from pel_core.common.problems import Problems
from pel_core.common.shipped import program
from pel_core.data import class_name_files, lists
from pel_core.data.image_files import require_readable
from pel_core.data.lists import ImageList
from pel_core.data.sampling import shot_groups
from pel_core.hardware.cores import usable_cpus
from pel_core.ingest.class_keys import clean, excluded_note, kept, odd_keys, without
from pel_core.ingest.facts import Facts, difference
from pel_core.ingest.known_mistakes import known_mistakes
from pel_core.ingest.unlabelled_lists import folder_classes, folder_of, has_labels, label_by_folder, read_unlabelled

if TYPE_CHECKING:
    from pel_core.ingest.sources.lists import Lists

# Makes a progress bar from a title and a total; it returns what is told of progress.
Bar = Callable[[str, int], Callable[[int], Any]]
USER_LISTS = "fetch it again (delete it, then `data fetch {base}`), or say `user_lists: [{base}]` in the configuration"


@dataclass
class Checked:
    """What was read: ``names`` (C,) and their ``ids`` where there are any, lists and file sizes (N,) of each split, and
    ``folders`` (C,), where the training images of each class lie, if those of a class lie in one folder."""

    names: list[str]
    ids: list[str] | None
    images: dict[str, ImageList] = field(default_factory=dict)
    sizes: dict[str, np.ndarray] = field(default_factory=dict)
    folders: list[str] | None = None
    notes: list[str] = field(default_factory=list)

    def keep(self, rows: np.ndarray) -> None:
        """Keep the names and identifiers of some classes, ``rows`` (c,)."""
        self.names = [self.names[row] for row in rows.tolist()]
        self.ids = self.ids and [self.ids[row] for row in rows.tolist()]


def check_lists(
    source: "Lists",
    check_images: str,
    problems: Problems,
    bar: Bar | None = None,
    files: bool = True,
) -> Checked | None:
    """Read names and lists, and look at every file.

    Args:
        source: the data set.
        check_images: decode "none" of the files, a "sample" of 64 a list, or "all".
        problems: takes all that is wrong.
        bar: makes a progress bar from a title and a total; it returns what is told of progress.
        files: False leaves the image files alone, which may then be absent.

    Returns:
        What was read, or None where there are no names to read it by.

    Raises:
        PelError: the image folder does not exist.
    """
    base, options, facts = source.base, source.options, source.published
    root, found = source.find_root(), source.find_lists(problems)
    for name in source.list_names() if facts else ():
        if name in found and name in facts.files and (text := difference(found[name], facts.files[name])):
            problems.add("lists that are not the published ones", text, USER_LISTS.format(base=base))
    try:
        checked, labels = _class_names(source, found)
        stays = kept(options.exclude, checked.names, (), checked.ids or ())
    except (KeyError, PelError) as error:
        if isinstance(error, PelError):
            problems.add("class names that cannot be read", error)
        return None
    gone = 0
    for split, file in source.split_files().items():
        if file not in found:
            continue
        try:
            images = _read_list(found[file], checked, source, problems)
        except PelError as error:
            problems.add("lists that cannot be read", error)
            continue
        _check_label_order(images, checked, labels is not None, source, problems)
        if labels is not None:
            images = ImageList(images.source, images.paths, labels[images.labels], images.lines)
        whole, images = len(images.paths), without(images, stays)
        checked.images[split], gone = images, gone + whole - len(images.paths)
        try:
            require_readable(images.paths)
        except PelError as error:
            problems.add("lists of images that cannot be read here", f"{images.source}: {error}")
        if files:
            checked.sizes[split] = _check_files(source, root, str(found.get(options.test, "")), checked, split, problems, bar)
            largest = facts.largest_side if facts else None
            decode_images(root, images, checked.sizes[split], check_images, problems, largest, bar)
    if options.exclude:
        checked.keep(np.flatnonzero(stays >= 0))
        checked.notes.append(excluded_note(options.exclude, gone))
    checked.notes += [] if source.facts else odd_keys(checked.names if options.names else checked.ids or [])
    # A published list says what is published: numbers are compared where a list is another one, to say how it differs.
    _check_classes(checked, facts if "lists that are not the published ones" in problems.kinds else None, problems)
    return checked


def _class_names(source: "Lists", found: Mapping[str, Path]) -> tuple[Checked, np.ndarray | None]:
    """As `_read_names`; without a file of names the classes are the folders of the training lists, which have no labels."""
    if source.options.names:
        return _read_names(found[source.options.names], source.options.names_format)
    keys = folder_classes(found[file] for split, file in source.split_files().items() if split.startswith("train"))
    notes = [f"the lists have no labels: each image is of the class that its folder is called ({len(keys)} classes)"]
    return Checked([clean(key.replace("_", " ")) for key in keys], keys, notes=notes), None


def _read_list(path: Path, checked: Checked, source: "Lists", problems: Problems) -> ImageList:
    """A list with its labels, or, in a data set of the user's own, with those of its images' folders."""
    if source.facts or has_labels(path):
        if not source.options.names:
            raise PelError(f"{path} has labels, and the training list has none; expected both alike, or a file of 'names'")
        return lists.read_image_list(path, len(checked.names), problems)
    return label_by_folder(read_unlabelled(path, problems), checked.ids or checked.names, problems)


def _read_names(path: Path, names_format: str) -> tuple[Checked, np.ndarray | None]:
    """Names and identifiers, and the new label of each label in the lists, where they change."""
    if path.name.endswith(".json"):
        names, labels = class_name_files.read_categories(path)
        return Checked(names, [str(i) for i in np.argsort(labels).tolist()]), labels
    pairs = class_name_files.read_identified_names(path, names_format)
    ids = [key for key, _ in pairs if key is not None]
    return Checked([name for _, name in pairs], ids or None), None


def _check_label_order(images: ImageList, checked: Checked, categories: bool, source: "Lists", problems: Problems) -> None:
    """Where images lie in folders that are called as the names file's identifiers, see that each label is its folder's.

    Only built-in data sets have to be so: in one of the user's own, labels may differ from folders on purpose.
    """
    if checked.ids is None:
        return
    row = {key: int(key) if categories else i for i, key in enumerate(checked.ids)}
    id_of = {i: key for key, i in row.items()}
    pairs: dict[tuple[str, int], int] = {}
    for position, (path, label) in enumerate(zip(images.paths, images.labels.tolist(), strict=True)):
        pairs.setdefault((folder_of(path), label), position)
    allowed = source.facts.swapped if source.facts else {}
    for (folder, label), position in pairs.items():
        if folder == id_of[label] or allowed.get(label) == folder:
            continue
        text = (
            f"{images.where(position)}: images in folder {folder} have label {label}, which the class names call {id_of[label]}"
        )
        if source.published or (source.facts and folder in row):
            hint = "class names or labels are permuted: row i of the names must be label i of the lists"
            problems.add("labels that do not fit the class names", text, hint)
        elif folder in row:
            checked.notes.append(f"{text} (each folder and label once)")
            return


def _check_files(
    source: "Lists", root: str, test_list: str, checked: Checked, split: str, problems: Problems, bar: Bar | None
) -> np.ndarray:
    images = checked.images[split]
    before = problems.kinds["missing files"].count if "missing files" in problems.kinds else 0
    sizes = lists.check_files(root, images, problems=problems, advance=bar and bar(f"{split}: files", len(images.paths)))
    if "missing files" in problems.kinds and problems.kinds["missing files"].count > before:
        missing = [images.paths[i] for i in np.flatnonzero(sizes == 0).tolist()]
        folders = sorted({os.path.dirname(path) for path in images.paths})
        if source.facts:
            hint = f"`{program()} data fetch {source.base}` says what to get and where to put it"
            problems.kinds["missing files"].hint = hint
        own = source.facts.mistakes if source.facts else None
        for mistake in known_mistakes(root, missing, folders, test_list, own):
            if mistake.seen not in str(problems.kinds.get(mistake.kind)):
                problems.add(mistake.kind, mistake.seen, mistake.hint)
    return sizes


def decode_images(
    root: str, images: ImageList, sizes: np.ndarray, check: str, problems: Problems, largest: int | None = None, bar: Any = None
) -> None:
    """Decode none, a sample of 64 or all of those images whose size in ``sizes`` (N,) is not 0.

    ``largest``: pixels that an image's shorter side may have at most.
    """
    from pel_core.data.transforms import load_rgb

    def decode(position: int) -> tuple[str, str]:
        try:
            image = load_rgb(os.path.join(root, images.paths[position]))
        except PelError as error:
            return "images that cannot be decoded", f"{images.where(position)}: {error}"
        if largest and min(image.size) > largest:
            size = f"{image.size[0]} x {image.size[1]}"
            return f"images larger than {largest} pixels", f"{images.where(position)}: {images.paths[position]} is {size}"
        return "", ""

    there = np.flatnonzero(sizes)
    count = {"none": 0, "sample": min(64, len(there)), "all": len(there)}[check]
    positions = there[np.linspace(0, len(there) - 1, count).astype(int)].tolist() if count else []
    advance = bar(f"{Path(images.source).stem}: decoding", count) if bar and check == "all" else None
    # Threads do: Pillow lets go of the interpreter while it decodes. Blocks keep half a million futures from piling up.
    with ThreadPoolExecutor(usable_cpus()) as pool:
        for start in range(0, count, 4096):
            block = positions[start : start + 4096]
            for kind, text in pool.map(decode, block):
                if kind:
                    hint = (
                        "this is the high-resolution variant; the small images (256 * 256) are meant" if "larger" in kind else ""
                    )
                    problems.add(kind, text, hint)
            if advance:
                advance(len(block))


def _check_classes(checked: Checked, facts: Facts | None, problems: Problems) -> None:
    """Every class has training images, no training image is evaluated on, and the numbers are the published ones."""
    for split, images in checked.images.items():
        if not split.startswith("train"):
            if note := absent_classes(images, checked.names):
                checked.notes.append(note)
            continue
        try:
            lists.require_every_class(images, checked.names)
        except PelError as error:
            problems.add("classes without a training image", error)
        for other in ("test", "val"):
            try:
                if other in checked.images:
                    lists.require_disjoint(images, checked.images[other])
            except PelError as error:
                problems.add("training images that are evaluated on", error)
    if "train" in checked.images:
        checked.folders = _folders(checked.images["train"], len(checked.names))
    if facts:
        for text in unlike(checked, facts):
            problems.add("numbers that are not the published ones", text)


def _folders(images: ImageList, classes: int) -> list[str] | None:
    found: list[set[str]] = [set() for _ in range(classes)]
    for path, label in zip(images.paths, images.labels.tolist(), strict=True):
        found[label].add(folder_of(path))
    return [next(iter(each)) for each in found] if all(len(each) == 1 for each in found) else None


def absent_classes(images: ImageList, names: Sequence[str]) -> str:
    """A note on classes that a split has no image of; empty where it has all."""
    counts = np.bincount(images.labels, minlength=len(names))
    absent = [name for name, count in zip(names, counts, strict=True) if not count]
    shown = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
    text = f"{images.source} has no image of {len(absent)} of {len(names)} classes ({shown}); they have no accuracy"
    return text if absent else ""


def unlike(checked: Checked, facts: Facts) -> list[str]:
    """Where class count, counts per class and the sizes of head, medium and tail are not the published ones."""
    found = [f"{len(checked.names):,} classes, published: {facts.classes:,}"] if len(checked.names) != facts.classes else []
    for split, images in checked.images.items():
        counts = np.bincount(images.labels, minlength=len(checked.names))
        if split in facts.each:
            off = np.flatnonzero(counts != facts.each[split])
            found += [f"{split}: {len(off)} classes have not {facts.each[split]} images"] if len(off) else []
        elif split == "train":
            groups, profile = shot_groups(counts), (int(counts.max()), int(counts.min()))
            sizes = tuple(groups.count(group) for group in ("head", "med", "tail"))
            if profile != facts.profile:
                found.append(f"train: {profile[0]:,} to {profile[1]:,} images a class, published: {facts.profile[0]:,} to "
                             f"{facts.profile[1]:,}")  # fmt: skip
            if sizes != facts.groups:
                found.append(f"train: head, medium, tail classes {sizes}, published: {facts.groups}")
    return found


def describe_split(split: str, images: ImageList, classes: int) -> str:
    """A line on a split: images, classes, the largest and smallest class, and for training its head, medium and tail."""
    counts = np.bincount(images.labels, minlength=classes)
    text = (
        f"{split}: {len(images.paths):,} images, {int((counts > 0).sum()):,} classes, {counts.max():,} to {counts.min():,} each"
    )
    if split.startswith("train"):
        groups = shot_groups(counts)
        text += f"; head {groups.count('head'):,}, medium {groups.count('med'):,}, tail {groups.count('tail'):,}"
    return text

"""Images of torchvision's classes as a catalogue: files stay where they are, arrays are written to files once, image by image.

An array is written as PNG, which loses nothing. Which of the two a class has, `torchvision_sets` says.
"""

import inspect
import io
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pel_core.common.errors import PelError, is_our_defect
from pel_core.common.files import write_text
from pel_core.common.shipped import command
from pel_core.data.prepared_files import MARK
from pel_core.ingest.catalogue import Catalogue, Placed
from pel_core.ingest.labels import taken_notes
from pel_core.ingest.taken_images import image_path, require_room
from pel_core.ingest.torchvision_sets import TORCHVISION


def make(name: str, root: str, part: str, arguments: Mapping[str, Any], download: bool = False) -> Any:
    """One part of a set, as torchvision has it.

    Raises:
        PelError: it is not there, damaged, cannot be downloaded, or needs a library that is not installed.
    """
    from torchvision import datasets

    known = TORCHVISION[name]
    kind = getattr(datasets, name, None)
    if kind is None or (known.needs and _lacks(known.needs)):
        lacking = f"pip install {known.needs}" if kind else "another version of torchvision, which has this class"
        extra = " (it is the extra 'pcam' of this package)" if known.needs == "h5py" else ""
        raise PelError(f"torchvision's {name} needs: {lacking}{extra}")
    accepted = inspect.signature(kind.__init__).parameters
    more: dict[str, Any] = {}
    if "loader" in accepted or issubclass(kind, datasets.ImageFolder):
        more["loader"] = os.fspath  # an image is then its path
    elif not known.pixels and not known.paths:
        raise PelError(f"torchvision's {name} cannot tell its files in this version; expected torchvision 0.22 or later")
    if "download" in accepted or name in ("EMNIST", "QMNIST"):
        more["download"] = download
    try:
        return kind(root, **known.parts[part], **arguments, **more)
    except Exception as error:  # torchvision, its readers and its downloads raise nearly anything
        if is_our_defect(error):
            raise
        what = "cannot be downloaded" if download else "cannot be read"
        again = "" if download else f"; {how_to_get(name, root)}, or mend it (delete what is damaged)"
        raise PelError(f"torchvision's {name} ({part}) in {root} {what} ({' '.join(str(error).split())[:500]}){again}") from error


def how_to_get(name: str, root: str) -> str:
    """What to do to have a set."""
    if TORCHVISION[name].by_hand:
        return TORCHVISION[name].by_hand.format(root=root)
    return f"where there is a network, `{command('data fetch')}` gets it"


def _lacks(library: str) -> bool:
    from importlib.util import find_spec

    return find_spec(library) is None


def read_parts(name: str, root: str, splits: Mapping[str, str], arguments: Mapping[str, Any], new: Path) -> Catalogue:
    """The images of a set.

    Args:
        name, root: of the set.
        splits: our splits, and the part that each is.
        arguments: of torchvision's class, besides.
        new: a folder that images which are no files are written to.

    Raises:
        PelError: as `make`; an image without a label, one that is in two splits, or a class without a training image.
    """
    known = TORCHVISION[name]
    parts = {split: make(name, root, part, arguments) for split, part in splits.items()}
    if known.pixels:
        _require_room(name, root, parts, new)
    read = {split: _pixels(images, split, new) if known.pixels else _files(name, root, images) for split, images in parts.items()}
    if known.pixels:
        write_text(new / MARK, f"Images of torchvision's {name} in {root}, as PNG.\n")
    for split, (_, labels) in read.items():
        if None in labels:
            raise PelError(f"torchvision's {name}: image {labels.index(None)} of its part '{splits[split]}' has no label")
    order = sorted(set(read["train"][1]))
    keys = _keys(name, next(iter(parts.values())), order)
    if known.unordered:
        keys, order = (list(each) for each in zip(*sorted(zip(keys, order, strict=True)), strict=True))
    index = {label: i for i, label in enumerate(order)}
    placed, seen = {}, dict[str, str]()
    for split, (paths, labels) in read.items():
        if strange := sorted(set(labels) - set(order)):
            raise PelError(
                f"torchvision's {name}: labels {strange[:5]} of '{splits[split]}' have no image in '{splits['train']}'"
            )
        for path in paths:
            if (other := seen.setdefault(path, split)) != split:
                raise PelError(
                    f"torchvision's {name}: {path} is in '{splits[other]}' and '{splits[split]}'; expected it in one split"
                )
        where = f"{root} ({name}, {splits[split]})"
        placed[split] = Placed(where, paths, np.array([index[label] for label in labels], np.int64))
    notes = taken_notes(_told(name, splits, arguments, {split: len(labels) for split, (_, labels) in read.items()}), keys, placed)
    return Catalogue(str(new) if known.pixels else root, keys, placed, notes)


def _told(name: str, splits: Mapping[str, str], arguments: Mapping[str, Any], counts: Mapping[str, int]) -> str:
    """Which part is which split, and what is not read."""
    taken = ", ".join(f"{split} is its '{part}' ({counts[split]:,} images)" for split, part in splits.items())
    left = ", ".join(part for part in TORCHVISION[name].parts if part not in splits.values())
    said = ", ".join(f"{key}={value}" for key, value in arguments.items())
    return f"torchvision's {name}: {taken}" + (f"; not read: {left}" if left else "") + (f"; {said}" if said else "")


def _files(name: str, root: str, images: Any) -> tuple[list[str], list[Any]]:
    """Paths relative to the root, and labels, of images that are files."""
    paths_of = TORCHVISION[name].paths
    if paths_of is None:
        pairs = [images[i] for i in range(len(images))]
        paths, labels = [os.fspath(path) for path, _ in pairs], [label for _, label in pairs]
    else:
        paths = [os.fspath(path) for path in paths_of(images)]
        labels = _labels(images, len(paths))
    # Some classes list folders in whatever order the disk has them.
    found = sorted(zip([os.path.relpath(path, root) for path in paths], labels, strict=True), key=lambda pair: pair[0])
    return [path for path, _ in found], [None if label is None else int(label) for _, label in found]


def _labels(images: Any, count: int) -> list[Any]:
    """Labels of a class that cannot tell its files; images are not decoded for them."""
    if hasattr(images, "_samples"):
        return [label for _, label in images._samples]
    if hasattr(images, "y"):
        return list(images.y)
    binary = "binary-category" in getattr(images, "_target_types", ())
    return list(images._bin_labels if binary else images._labels)[:count]


def _pixels(images: Any, split: str, new: Path) -> tuple[list[str], list[Any]]:
    """Write the images of an array one by one; their paths below ``new``, and labels."""
    paths, labels = [], []
    for position in range(len(images)):
        image, label = images[position]
        content = io.BytesIO()
        image.save(content, "PNG", compress_level=1)
        paths.append(image_path(split, position, ".png"))
        target = new / paths[-1]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.getbuffer())
        labels.append(None if label is None else int(label))
    return paths, labels


def _require_room(name: str, root: str, parts: Mapping[str, Any], new: Path) -> None:
    sizes = {split: np.asarray(images[0][0]).nbytes if len(images) else 0 for split, images in parts.items()}
    size = sum(len(images) * sizes[split] for split, images in parts.items())
    require_room(f"torchvision's {name} in {root}", f"{sum(map(len, parts.values())):,} images", size, new)


def _keys(name: str, images: Any, order: list[int]) -> list[str]:
    """What the set calls each label of ``order``; the number where it has no names. Equal names have their number behind."""
    if isinstance(categories := getattr(images, "all_categories", None), list):
        called: Any = categories
    elif hasattr(images, "_characters"):
        called = images._characters
    elif hasattr(images, "categories"):
        called = images.categories
    elif "binary-category" in getattr(images, "_target_types", ()):
        called = images.bin_classes
    elif hasattr(images, "classes"):
        called = images.classes
    else:
        called = {label: key for key, label in getattr(images, "class_to_idx", {}).items()}
    names = []
    for label in order:
        there = label in called if isinstance(called, Mapping) else 0 <= label < len(called)
        found = called[label] if there else str(label)
        found = found if isinstance(found, str) else str(found[0])  # several words for one class: the first
        names.append(TORCHVISION[name].name(found) if TORCHVISION[name].name else found)
    counts = Counter(names)
    return [key if counts[key] == 1 else f"{key} ({label})" for key, label in zip(names, order, strict=True)]

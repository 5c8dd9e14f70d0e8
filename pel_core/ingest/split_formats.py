"""Split files as they are published, read strictly: which image is in which split, and of which class.

* JSON as CoOp's ``split_zhou_*.json`` (Zhou et al. 2022, github.com/KaiyangZhou/CoOp): a mapping of "train", "val" and "test"
  to lists of ``[path, label, class name]``.
* Text, ``path label`` a line, as VTAB-1k's train800.txt, val200.txt, train800val200.txt and test.txt (Zhai et al. 2019; as
  github.com/ZhangYuanhan-AI/NOAH passes them on).
* ``train_test_split.txt`` of CUB-200-2011 and NABirds, with images.txt, image_class_labels.txt and classes.txt beside it.
* ``train_list.mat`` and ``test_list.mat`` of Stanford Dogs (Khosla et al. 2011), of which the class's name is the folder's.
* ``val_annotations.txt`` of Tiny ImageNet, whose training images are the folders train/WNID/images.
* JSON in COCO's form (``images``, ``annotations``, ``categories``), as the iNaturalist competitions publish
  (github.com/visipedia/inat_comp).

Torch-free.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pel_core.common.errors import PelError, is_our_defect, unknown
from pel_core.data.lists import read_lines
from pel_core.ingest.catalogue import SPLITS, check_line

NAMES = ("train", "val", "test")
CUB, TINY = "train_test_split.txt", "val_annotations.txt"
Record = tuple[str, int, str]  # path, label, class name ("" where only labels are given)


class Records(NamedTuple):
    """What a split file says of one split: ``source``, its path, and ``entries`` in order."""

    source: str
    entries: list[Record]

    def where(self, position: int) -> str:
        """``source:number`` of an entry, counted from 1."""
        return f"{self.source}:{position + 1}"


def read_splits(file: str, root: str) -> dict[str, Records]:
    """The records of each split of a file of all splits.

    Args:
        file: JSON, CUB's train_test_split.txt or Tiny ImageNet's val_annotations.txt.
        root: the image folder.

    Raises:
        PelError: it is none of these.
    """
    name = os.path.basename(file)
    if name == CUB:
        return _read_cub(file)
    if name == TINY:
        return _read_tiny(file, root)
    return read_json_splits(file)


def read_split(file: str) -> Records:
    """The records of a file of one split: text, Stanford Dogs' .mat, or JSON in COCO's form.

    Raises:
        PelError: it is none of these.
    """
    if file.lower().endswith(".mat"):
        return _read_mat(file)
    if file.lower().endswith(".json"):
        return _read_coco(file)
    return read_text(file)


def beside(file: str) -> list[str]:
    """Other files that are read with a split file, where there are such."""
    names = {CUB: ("images.txt", "image_class_labels.txt", "classes.txt"), TINY: ("../words.txt",)}
    return [os.path.normpath(os.path.join(os.path.dirname(file), name)) for name in names.get(os.path.basename(file), ())]


def read_json_splits(path: str) -> dict[str, Records]:
    """The records of each split of a JSON file: ``[path, label, class name]``, or without the name.

    Raises:
        PelError: it is no such file.
    """
    expected = "expected {train: [[path, label, class name], ...], val, test}"
    try:
        loaded = json.loads("\n".join(read_lines(path, "split file")))
    except ValueError as error:
        raise PelError(f"{path} is not JSON ({error}); {expected}") from None
    if not isinstance(loaded, Mapping):
        raise PelError(f"{path} holds a {type(loaded).__name__}; {expected}")
    splits: dict[str, Records] = {}
    for name, entries in loaded.items():
        if (split := SPLITS.get(str(name).lower())) is None:
            raise unknown(f"split of {path}:", name, NAMES)
        if split in splits:
            raise PelError(f"{path} has several splits that mean '{split}': {', '.join(loaded)}; expected one")
        if not isinstance(entries, list):
            raise PelError(f"{path}: {name} is a {type(entries).__name__}; {expected}")
        source = f"{path} ({name})"
        splits[split] = Records(source, [_record(f"{source}:{i}", entry) for i, entry in enumerate(entries, 1)])
    return {split: records for split, records in splits.items() if records.entries}


def _record(where: str, record: Any) -> Record:
    parts = record if isinstance(record, list) else []
    good = len(parts) in (2, 3) and isinstance(parts[0], str) and type(parts[1]) is int and parts[1] >= 0
    name = parts[2] if good and len(parts) == 3 else ""
    if not good or not isinstance(name, str) or (len(parts) == 3 and not name.strip()):
        found = json.dumps(record, ensure_ascii=False)[:200]
        raise PelError(f"{where}: found {found}, expected [path, label, class name], the label a number of 0 or more")
    check_line(name)
    return parts[0], parts[1], name


def read_text(path: str) -> Records:
    """The records of a text file, ``path label`` a line; the path may hold spaces.

    Raises:
        PelError: naming file and line: a line that is none.
    """
    entries: list[Record] = []
    for number, line in enumerate(read_lines(path, "split file"), 1):
        name, label = [*line.rsplit(None, 1), "", ""][:2]
        if not re.fullmatch(r"[0-9]{1,9}", label, re.ASCII):
            raise PelError(f"{path}:{number}: found {line!r}, expected 'path label', the label a number of 0 or more")
        entries.append((name, int(label), ""))
    return Records(path, entries)


def _read_cub(file: str) -> dict[str, Records]:
    """``image 1`` for a training image, ``image 0`` for a test image; the class of each by its number."""
    images, labels, classes = (_table(path) for path in beside(file))
    splits = {"train": Records(f"{file} (train)", []), "test": Records(f"{file} (test)", [])}
    for image, training in _table(file).items():
        for table, name in ((images, "images.txt"), (labels, "image_class_labels.txt")):
            if image not in table:
                raise PelError(f"{file} has the image {image}, which {name} beside it has not")
        label = labels[image]
        if training not in ("0", "1") or not label.isdecimal() or label not in classes:
            raise PelError(
                f"{file}: image {image} has the split {training!r} and class {label!r}; expected 0 or 1 and a known class"
            )
        name = re.sub(r"^[0-9]+\.", "", classes[label]).replace("_", " ")  # CUB's 001.Black_footed_Albatross
        splits["train" if training == "1" else "test"].entries.append((images[image], int(label), name))
    return splits


def _table(file: str) -> dict[str, str]:
    """``key value`` a line."""
    found: dict[str, str] = {}
    for number, line in enumerate(read_lines(file, "split file"), 1):
        key, _, value = line.strip().partition(" ")
        if not value or key in found:
            raise PelError(f"{file}:{number}: found {line!r}, expected 'number value', each number once")
        found[key] = value.strip()
    return found


def _read_mat(file: str) -> Records:
    """``file_list``, paths whose folder names the class (n02085620-Chihuahua), and ``labels``."""
    from scipy.io import loadmat

    expected = "expected Stanford Dogs' list, with file_list and labels"
    try:
        loaded = loadmat(file, squeeze_me=True, chars_as_strings=True)
    except Exception as error:  # a damaged file makes it raise nearly anything
        if is_our_defect(error):
            raise
        raise PelError(f"{file} cannot be read ({error!r}); {expected}") from error
    found = [np.atleast_1d(loaded.get(key, ())) for key in ("file_list", "labels")]
    if not len(found[0]) or found[0].shape != found[1].shape or found[0].ndim != 1 or found[1].dtype.kind not in "iuf":
        there = ", ".join(f"{key} {np.shape(value)}" for key, value in loaded.items() if not key.startswith("__"))
        raise PelError(f"{file} holds {there or 'nothing'}; {expected}")
    paths, labels = [str(path) for path in found[0]], [int(label) for label in found[1]]
    names = [re.sub(r"^n[0-9]{8}-", "", path.split("/")[0]).replace("_", " ") for path in paths]
    return Records(file, list(zip(paths, labels, names, strict=True)))


def _read_tiny(file: str, root: str) -> dict[str, Records]:
    """The labelled validation images are the test split; training images are those of each class's folder."""
    words = dict(line.split("\t", 1) for line in read_lines(beside(file)[0], "class-names file") if "\t" in line)
    train = Path(root, "train")
    classes = sorted(path.name for path in train.iterdir() if path.is_dir()) if train.is_dir() else []
    if not classes:
        raise PelError(f"{train} holds no class folder; expected train/WNID/images/*.JPEG beside {file}")
    label = {wnid: i for i, wnid in enumerate(classes)}
    called = [words.get(wnid, wnid).split(",")[0].strip() for wnid in classes]
    names = [f"{name} ({wnid})" if called.count(name) > 1 else name for name, wnid in zip(called, classes, strict=True)]
    splits = {"train": Records(str(train), []), "test": Records(file, [])}
    for wnid in classes:
        paths = sorted(path.relative_to(root).as_posix() for path in (train / wnid / "images").glob("*.JPEG"))
        splits["train"].entries.extend((path, label[wnid], names[label[wnid]]) for path in paths)
    folder = os.path.relpath(os.path.join(os.path.dirname(file), "images"), root)
    for number, line in enumerate(read_lines(file, "split file"), 1):
        image, wnid = [*line.split("\t"), ""][:2]
        if wnid not in label:
            raise PelError(f"{file}:{number}: found {line!r}, expected an image and one of the {len(classes)} classes of {train}")
        splits["test"].entries.append((f"{folder}/{image}", label[wnid], names[label[wnid]]))
    return splits


def _read_coco(file: str) -> Records:
    """Images with their ids, annotations of image and category, categories with names. Each image has one category."""
    try:
        loaded = json.loads("\n".join(read_lines(file, "split file")))
        names = {int(each["id"]): str(each["name"]) for each in loaded["categories"]}
        paths = {each["id"]: str(each["file_name"]) for each in loaded["images"]}
        found = [(paths[each["image_id"]], int(each["category_id"])) for each in loaded["annotations"]]
        entries = [(path, label, names[label]) for path, label in found]
    except (ValueError, TypeError, KeyError) as error:
        raise PelError(
            f"{file} is no list of one split ({error!r}); expected JSON with images, annotations and categories, as iNaturalist "
            "has it (a JSON file of all splits is said by 'file')"
        ) from None
    if len(entries) != len(paths):
        raise PelError(f"{file} has {len(entries):,} annotations of {len(paths):,} images; expected one of each")
    return Records(file, entries)

"""SOURCES: where the images, labels and names of each kind of data set come from. Shapes: N images, H x W pixels, C classes."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pel_core.common.errors import PelError
from pel_core.common.problems import Problems
from pel_core.common.seeds import generator
from pel_core.data import lists
from pel_core.data.datasets import LongTailed
from pel_core.data.roots import SAID, expand_root, given_root
from pel_core.data.sampling import long_tail_counts
from pel_core.ingest.cifar import Absent, find_cifar
from pel_core.ingest.data_check import check_lists


@dataclass
class Content:
    """What a source yields. ``splits``: file name without suffix -> arrays to store; ``images``: the same for pixels;
    ``finish`` puts in place what is not in these, just before the folder is written. ``class_ids`` and ``folders``: an
    identifier and the folder of the images of each class, where there are such."""

    class_names: list[str]
    train_counts: dict[str, list[int]]
    splits: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    images: dict[str, np.ndarray] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    finish: Callable[[], None] | None = None
    class_ids: list[str] | None = None
    folders: list[str] | None = None

    def add_images(self, split: str, images: np.ndarray, labels: np.ndarray) -> None:
        """Add a split held as pixels, uint8 (N, H, W, 3), with labels (N,)."""
        self.images[split] = images = np.ascontiguousarray(images, np.uint8)
        self.splits[split] = {"labels": np.asarray(labels, np.int64)}
        self.digests[split] = hashlib.sha256(images.tobytes() + self.splits[split]["labels"].tobytes()).hexdigest()

    def add_files(self, split: str, images: lists.ImageList, sizes: np.ndarray) -> None:
        """Add a split held as files. Its digest covers paths, labels and file sizes, not every file's bytes."""
        paths = np.frombuffer("\n".join(images.paths).encode(), np.uint8)
        self.splits[split] = {"labels": images.labels, "paths": paths}
        self.digests[split] = lists.digest(images, sizes)


def _from_lists(base: str, entry: LongTailed, config: Mapping[str, Any], check_images: str) -> Content:
    problems = Problems()
    checked = check_lists(base, entry, config, check_images, problems)
    problems.require_none(base)
    content = Content(checked.names, {}, class_ids=checked.ids, folders=checked.folders)
    for note in checked.notes:
        print(f"note: {note}")
    for split, images in checked.images.items():
        content.add_files(split, images, checked.sizes[split])
        if split.startswith("train"):
            counts = np.bincount(images.labels, minlength=len(checked.names))
            content.train_counts[split.removeprefix("train").removeprefix("-ir")] = counts.tolist()
    return content


def _from_cifar(base: str, entry: LongTailed, config: Mapping[str, Any], check_images: str) -> Content:
    root = Path(expand_root(given_root(base, entry, config)))
    try:
        read = find_cifar(root)
    except Absent as error:
        read = _fetched_cifar(base, root, error)
    names = [str(name) for name in read("meta")["fine_label_names"]]
    content = Content(names, {})
    for split in ("train", "test"):
        record = read(split)
        images = np.asarray(record["data"], np.uint8).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        content.add_images(split, images, np.array(record["fine_labels"]))
    content.train_counts[""] = np.bincount(content.splits["train"]["labels"], minlength=len(names)).tolist()
    return content


def _fetched_cifar(base: str, root: Path, absent: PelError) -> Callable[[str], dict[str, Any]]:
    from pel_core.ingest.fetch import fetch_cifar

    try:
        fetch_cifar(root)
    except PelError as error:
        where = f"'roots: {{{base}: FOLDER}}' in the configuration names its folder, {SAID} the folder above"
        by_hand = f"where there is a network, `python -m pel_core data fetch {base}` gets it"
        raise PelError(f"data set '{base}': {absent}; {where}; {by_hand} ({error})") from None
    return find_cifar(root)


def _from_stand_in(base: str, entry: LongTailed, config: Mapping[str, Any], check_images: str) -> Content:
    from pel_core.demo.stand_ins import STAND_INS, render

    names = list(STAND_INS[base].class_names)
    content = Content(names, {})
    for split in ("train", "test"):
        content.add_images(split, *render(base, split))
    content.train_counts[""] = np.bincount(content.splits["train"]["labels"], minlength=len(names)).tolist()
    return content


TOY_NAMES = ["red", "green", "blue", "yellow", "cyan", "magenta"]


def _from_toy(base: str, entry: LongTailed, config: Mapping[str, Any], check_images: str) -> Content:
    """Six tinted noise textures of 20 x 20 pixels, 120 training and 10 test images each: quick, and possible to learn."""
    content = Content(list(TOY_NAMES), {"": long_tail_counts(6, 120, 1).tolist()})
    tints = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1], [1, 0, 1]])
    for split, each in (("train", 120), ("test", 10)):
        random = generator(0, base, split)
        labels = np.repeat(np.arange(6), each)
        noise = random.integers(0, 160, (len(labels), 20, 20, 3))
        content.add_images(split, noise + 95 * tints[labels][:, None, None, :], labels)
    return content


SOURCES: dict[str, Callable[[str, LongTailed, Mapping[str, Any], str], Content]] = {
    "lists": _from_lists,
    "cifar": _from_cifar,
    "rendered": _from_stand_in,
    "toy": _from_toy,
}

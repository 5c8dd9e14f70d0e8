"""SOURCES: where the images, labels and names of each kind of data set come from. Shapes: N images, H x W pixels, C classes."""

import hashlib
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pel_core import lists
from pel_core.cifar import read_cifar
from pel_core.datasets import LongTailed
from pel_core.errors import PelError
from pel_core.roots import find_lists, find_root, given_root
from pel_core.sampling import long_tail_counts
from pel_core.seeds import generator


@dataclass
class Content:
    """What a source yields. ``splits``: file name without suffix -> arrays to store; ``images``: the same for pixels."""

    class_names: list[str]
    train_counts: dict[str, list[int]]
    splits: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    images: dict[str, np.ndarray] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)

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
    files, root = find_lists(base, entry, config), find_root(base, entry, config)
    new_labels = None
    if entry.names.endswith(".json"):
        names, new_labels = lists.read_categories(files[entry.names])
    else:
        names = lists.read_class_names(files[entry.names], entry.names_format)
    content = Content(names, {})

    def read(file: str, split: str) -> lists.ImageList:
        images = lists.read_image_list(files[file], len(names))
        if new_labels is not None:
            images = lists.ImageList(images.source, images.paths, new_labels[images.labels])
        content.add_files(split, images, lists.check_files(root, images))
        _decode(root, images, check_images)
        return images

    others = {split: read(file, split) for split, file in (("test", entry.test), ("val", entry.val)) if file}
    for other in others.values():
        _note_absent(other, names)
    for ratio in entry.ratios or ("",):
        key = f"{ratio:g}" if ratio else ""
        train = read(entry.train.replace("{ir}", key), f"train-ir{key}" if key else "train")
        content.train_counts[key] = lists.require_every_class(train, names).tolist()
        for other in others.values():
            lists.require_disjoint(train, other)
    return content


def _note_absent(images: lists.ImageList, names: list[str]) -> None:
    if absent := [name for name, count in zip(names, np.bincount(images.labels, minlength=len(names)), strict=True) if not count]:
        shown = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
        print(f"note: {images.source} has no image of {len(absent)} of {len(names)} classes ({shown}); they have no accuracy")


def _decode(root: str, images: lists.ImageList, check: str) -> None:
    from pel_core.transforms import load_rgb

    def decode(position: int) -> None:
        try:
            load_rgb(os.path.join(root, images.paths[position]))
        except PelError as error:
            raise PelError(f"{images.where(position)}: {error}") from None

    count = {"none": 0, "sample": min(64, len(images.paths)), "all": len(images.paths)}[check]
    positions = np.linspace(0, len(images.paths) - 1, count).astype(int).tolist()
    # Threads do: Pillow lets go of the interpreter while it decodes. Blocks keep half a million futures from piling up.
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()) as pool:
        for start in range(0, count, 4096):
            list(pool.map(decode, positions[start : start + 4096]))


def _from_cifar(base: str, entry: LongTailed, config: Mapping[str, Any], check_images: str) -> Content:
    try:
        folder = Path(find_root(base, entry, config))
    except PelError as error:
        parent = Path(given_root(base, entry, config)).parent
        fetch = f"python -c \"from torchvision.datasets import CIFAR100; CIFAR100('{parent}', download=True)\""
        raise PelError(f"{error}. Fetch it once, with network, by {os.path.expandvars(fetch)}") from None
    names = [str(name) for name in read_cifar(folder / "meta")["fine_label_names"]]
    content = Content(names, {})
    for split in ("train", "test"):
        record = read_cifar(folder / split)
        images = np.asarray(record["data"], np.uint8).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        content.add_images(split, images, np.array(record["fine_labels"]))
    content.train_counts[""] = np.bincount(content.splits["train"]["labels"], minlength=len(names)).tolist()
    return content


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

"""Small trees and tables of drawn images, and one way to prepare them, for the tests of one's own data."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from pel_core.data.datasets import open_prepared
from pel_core.ingest.prepare import prepare

CLASSES = {"red_deer": 8, "Зубр": 5, 'it\'s; a "moose"': 3}


def draw(path: Path, seed: int = 0) -> None:
    """A small image whose bytes follow from the seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8 + seed % 5, 8), (seed * 7 % 256, seed * 31 % 256, 90)).save(path)


def fill(root: Path, classes: dict[str, int] = CLASSES, suffix: str = ".png") -> Path:
    """A folder for each class with its number of images."""
    for label, (name, count) in enumerate(classes.items()):
        for i in range(count):
            draw(root / name / f"{i:03d}{suffix}", 100 * label + i)
    return root


def make(root: Path, out: Path | None = None, name: str = "mine", **keys):
    """Prepare one entry and open it."""
    config = {"datasets": {"mine": {"kind": "auto", "root": str(root), **keys}}}
    out = out or root.parent / "out"
    prepare("mine", out, config)
    return open_prepared(out, name)


def counts(split, classes: int) -> list[int]:
    return np.bincount(split.labels, minlength=classes).tolist()


def write(path: Path, rows: list[list[str]], **form) -> Path:
    with open(path, "w", newline="", encoding=form.pop("encoding", "utf-8")) as handle:
        csv.writer(handle, **form).writerows(rows)
    return path

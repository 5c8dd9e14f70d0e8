"""``data describe``: how many images each class has, in numbers and as a curve."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from pel_core.common.files import read_json
from pel_core.common.problems import Problems
from pel_core.data.datasets import LongTailed
from pel_core.data.sampling import long_tail_counts, shot_groups
from pel_core.demo.stand_ins import STAND_INS
from pel_core.ingest.data_check import check_lists, describe_split
from pel_core.ingest.prepare import prepare
from pel_core.reporting.figure_counts import save_counts

RATIOS = (10, 50, 100, 200)  # shown of a data set that can be sampled at any


def describe(base: str, entry: LongTailed, config: Mapping[str, Any], folder: Path) -> None:
    """Print the numbers and draw ``BASE-classes`` as pdf, svg and png into ``folder``. Image files need not be there.

    Raises:
        PelError: the lists, the class names or the images of one's own cannot be read.
    """
    counts, lines = class_counts(base, entry, config)
    reference = reference_counts(base, entry, counts)
    print("\n".join([*lines, *(numbers(name, each, reference) for name, each in counts.items())]))
    at = f" at imbalance ratio {entry.groups_from:g}" if entry.groups_from else ""
    save_counts(base, counts, reference, folder, f"{base}-classes", at)
    print(f"{folder}/{base}-classes.{{pdf,svg,png}}")


def reference_counts(base: str, entry: LongTailed, counts: Mapping[str, np.ndarray]) -> np.ndarray:
    """The counts (C,) that say which classes are head, medium and tail."""
    if entry.groups_from and entry.ratios == "any":
        return long_tail_counts(*entry.pool, entry.groups_from)
    return counts.get(f"{base}-ir{entry.groups_from:g}" if entry.groups_from else base, next(iter(counts.values())))


def class_counts(base: str, entry: LongTailed, config: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Training images of each class, int64 (C,), by data-set name, and a line on each split that is evaluated on."""
    if entry.ratios == "any":
        classes, largest = entry.pool
        ratios = [ratio for ratio in RATIOS if ratio <= largest]
        return {f"{base}-ir{ratio}": long_tail_counts(classes, largest, ratio) for ratio in ratios}, []
    if entry.kind == "rendered":
        return {base: np.array(STAND_INS[base].train_counts(None), np.int64)}, []
    if entry.kind == "lists":
        problems = Problems()
        checked = check_lists(base, entry, config, "none", problems, files=False)
        problems.require_none(base)
        named = [(split, images) for split, images in checked.images.items() if not split.startswith("train")]
        lines = [f"{base} {describe_split(split, images, len(checked.names))}" for split, images in named]
        counts = {
            f"{base}{split.removeprefix('train')}": np.bincount(images.labels, minlength=len(checked.names))
            for split, images in checked.images.items()
            if split.startswith("train")
        }
        return counts, lines
    return _own_counts(base, config), []


def _own_counts(base: str, config: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Those of a data set of one's own, read anew: a prepared folder may be of other images."""
    with TemporaryDirectory() as folder:
        prepare(base, folder, config, "none")
        counts = read_json(Path(folder, "data.json"))["train_counts"]
    return {f"{base}-ir{key}" if key else base: np.array(each) for key, each in counts.items()}


def numbers(name: str, counts: np.ndarray, reference: np.ndarray) -> str:
    """A line on the training images of a data set, whose head, medium and tail ``reference`` tells."""
    groups = shot_groups(reference)
    text = f"{name}: {counts.sum():,} training images, {len(counts):,} classes, {counts.max():,} to {counts.min():,} each"
    return f"{text}; head {groups.count('head'):,}, medium {groups.count('med'):,}, tail {groups.count('tail'):,}"

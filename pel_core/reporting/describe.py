"""``data describe``: how many images each class has, in numbers and as a curve."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pel_core.data.datasets import LongTailed
from pel_core.data.sampling import long_tail_counts, shot_groups
from pel_core.ingest.sources import open_source
from pel_core.reporting.figure_counts import save_counts


def describe(base: str, entry: LongTailed, config: Mapping[str, Any], folder: Path) -> None:
    """Print the numbers and draw ``BASE-classes`` as pdf, svg and png, and its caption as txt, into ``folder``. Image files need
    not be there.

    Raises:
        PelError: the lists, the class names or the images of one's own cannot be read.
    """
    counts, lines = open_source(base, entry, config).class_counts()
    reference = reference_counts(base, entry, counts)
    print("\n".join([*lines, *(numbers(name, each, reference) for name, each in counts.items())]))
    at = f" at imbalance ratio {entry.groups_from:g}" if entry.groups_from else ""
    save_counts(base, counts, reference, folder, f"{base}-classes", at)
    print(f"{folder}/{base}-classes.{{pdf,svg,png,txt}}")


def reference_counts(base: str, entry: LongTailed, counts: Mapping[str, np.ndarray]) -> np.ndarray:
    """The counts (C,) that say which classes are head, medium and tail."""
    if entry.groups_from and entry.ratios == "any":
        return long_tail_counts(*entry.pool, entry.groups_from)
    return counts.get(f"{base}-ir{entry.groups_from:g}" if entry.groups_from else base, next(iter(counts.values())))


def numbers(name: str, counts: np.ndarray, reference: np.ndarray) -> str:
    """A line on the training images of a data set, whose head, medium and tail ``reference`` tells."""
    groups = shot_groups(reference)
    text = f"{name}: {counts.sum():,} training images, {len(counts):,} classes, {counts.max():,} to {counts.min():,} each"
    return f"{text}; head {groups.count('head'):,}, medium {groups.count('med'):,}, tail {groups.count('tail'):,}"

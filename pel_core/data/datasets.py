"""DATASETS: every long-tailed data set by name, as data (`builtin_datasets` has the entries), and reading the folder that
``prepare.py`` makes of one.

A name is ``BASE`` or ``BASE-irRATIO`` (imbalance ratio): cifar100-ir100. Torch-free and quick to import, because the
workflow's planning reads it. Shapes: N images, H x W pixels, C classes.
"""

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pel_core.common.errors import PLUGIN, PelError, unknown
from pel_core.common.files import read_json
from pel_core.common.registry import Registry
from pel_core.common.versions import check_versions
from pel_core.data.factors import AS_IS, Factors
from pel_core.data.prepared_files import open_split
from pel_core.data.sampling import long_tail_counts
from pel_core.data.split import Split
from pel_core.data.subsets import chosen_classes, draw, grouped

FORMAT = 1  # of a prepared folder
NAME = re.compile(r"(?P<base>[a-z][a-z0-9_-]*?)(?:-ir(?P<ratio>[1-9]\d*(?:\.\d*[1-9])?))?")


@dataclass(frozen=True, kw_only=True)
class LongTailed:
    """A data set as every kind of source declares it.

    ``kind``: the name of the source that reads it (`pel_core.ingest.sources`); ``options``: what that source has to be told, such
    as where the images lie. They are checked by the source's own model; nothing else looks into them.
    ``ratios``: the imbalance ratios there are; "any" samples one from a balanced pool; empty means that the set comes
    with one profile of its own. ``as_found``: it also comes without a ratio, beside those that are drawn from it.
    ``groups_from``: the ratio whose training counts say which classes are head, medium and tail, whatever ratio is trained on;
    None takes the counts trained on.
    ``pool``: classes and training images of each, where ratios are "any"; a ratio that leaves a class empty is refused.
    ``recipe``: RunSpec fields that this data set sets.
    ``held_as``: whether prepared images are files that stay where they are, or one array of pixels.
    ``synthetic``: images are drawn by this program, so that numbers cannot be compared with published ones.
    """

    kind: str
    native_resolution: int | None = None
    ratios: tuple[float, ...] | Literal["any"] = ()
    as_found: bool = False
    groups_from: float | None = None
    pool: tuple[int, int] | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    held_as: Literal["files", "pixels"] = "files"
    synthetic: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


DATASETS: Registry[LongTailed] = Registry("data set", ("pel_core.data.builtin_datasets", "pel_core.data.published_datasets"))


@cache
def split_name(name: str) -> tuple[str, float | None]:
    """Base and imbalance ratio of a data-set name: ``"cifar100-ir100"`` -> ``("cifar100", 100.0)``.

    Raises:
        PelError: the text is not of that form, or spells the ratio in another way than its one way.
    """
    match = NAME.fullmatch(name)
    if not match:
        raise PelError(f"'{name}' is not a data-set name: expected lower-case letters, digits, - and _, then perhaps -irRATIO")
    return match["base"], float(match["ratio"]) if match["ratio"] else None


def find_dataset(name: str, datasets: Mapping[str, LongTailed] = DATASETS) -> LongTailed:
    """The entry behind a name, its ratio checked.

    Raises:
        PelError: an undeclared data set, or a ratio that it does not have.
    """
    base, ratio = split_name(name)
    if base not in datasets:
        raise unknown("data set", base, datasets, PLUGIN)
    ratios = datasets[base].ratios
    if ratios == "any":
        _check_pool(name, datasets[base], ratio)
        return datasets[base]
    found = datasets[base].as_found
    if ratios and ratio not in ratios and not (ratio is None and found):
        known = ", ".join([*([base] if found else []), *(f"{base}-ir{r:g}" for r in ratios)])
        raise PelError(f"data set '{name}' does not exist; {base} comes as {known}")
    if not ratios and ratio is not None:
        other = f", or with data.ratio={ratio:g} for one that is drawn from it"
        raise PelError(f"data set '{name}' does not exist; {base} has one profile of its own, ask for '{base}'{other}")
    return datasets[base]


def drawn_ratio(name: str, factors: Factors) -> float | None:
    """The imbalance ratio that is drawn when a data set is opened; None where images are as they are found or prepared."""
    base, ratio = split_name(name)
    if base in DATASETS and DATASETS[base].ratios == "any":
        return ratio
    return None if factors.ratio == "own" else float(factors.ratio)


def require_factors(name: str, factors: Factors, datasets: Mapping[str, LongTailed] = DATASETS) -> None:
    """See that a declared data set can be as a run asks for it, as far as that is known before it is read.

    Raises:
        PelError: an undeclared data set, a ratio that it does not have, or that it has by its name.
    """
    entry, base = find_dataset(name, datasets), split_name(name)[0]
    if factors.ratio != "own" and entry.ratios != "any" and factors.ratio in entry.ratios:
        raise PelError(_prepared_at(base, float(factors.ratio)))


def _prepared_at(base: str, ratio: float) -> str:
    return f"data.ratio={ratio:g}: data set '{base}' is prepared at that ratio; ask for '{base}-ir{ratio:g}'"


def held_as_files(name: str) -> bool:
    """Whether the images of a data set stay files when it is prepared; a user's own do."""
    entry = DATASETS.get(split_name(name)[0])
    return entry is None or entry.held_as == "files"


def _check_pool(name: str, entry: LongTailed, ratio: float | None) -> None:
    try:
        long_tail_counts(*entry.pool, ratio or 1) if entry.pool else None
    except PelError as error:
        raise PelError(f"data set '{name}': {error}") from None


@dataclass(frozen=True)
class Prepared:
    """A data set as a run uses it: ``train_counts`` int64 (C,) by the labels that are trained on, ``groups`` head, med or tail
    (C,), ``sha256`` of its content, ``classes`` int64 (C,) the label of each class as prepared, None where all are used."""

    name: str
    class_names: list[str]
    native_resolution: int | None
    train: Split
    test: Split
    val: Split | None
    train_counts: np.ndarray
    groups: list[str]
    sha256: str
    classes: np.ndarray | None = None

    def split(self, name: str) -> Split:
        """The split evaluated on: ``test`` or ``val``."""
        chosen = {"test": self.test, "val": self.val}.get(name)
        if chosen is None:
            raise PelError(f"data set {self.name} has no split '{name}'" + "; data.val=0.1 holds one out" * (name == "val"))
        return chosen


def open_prepared(folder: str | Path, name: str, compare: Collection[str] = (), factors: Factors = AS_IS) -> Prepared:
    """Open what ``prepare`` wrote for the base of ``name``. Images stay on disk until they are read.

    Args:
        compare: the splits (train, val, test) whose image files are to be those that were prepared, as
            `prepared_files.require_unchanged` sees it; where images moved, all are.
        factors: what the run asks of the data set beside its name.

    Raises:
        PelError: the folder is missing, incomplete or of another format or data set, the ratio is not there, files are others, or
            the images do not allow what the factors ask for.
    """
    folder = Path(folder)
    base, ratio = split_name(name)
    about = read_about(folder, base)
    _require_possible(folder, about, name, factors)
    balanced = about["ratios"] == "any"  # a pool, of which the ratio is drawn
    ratio = ratio if balanced else None if factors.ratio == "own" else float(factors.ratio)
    train = whole = open_split(folder, about, train_split(about, name), "train" in compare or (factors.val and "val" in compare))
    names, classes = about["class_names"], None
    drawn = draw(whole.labels, len(names), ratio, factors, reference=balanced)
    if factors.noise or not np.array_equal(drawn.rows, np.arange(len(whole))):
        train = whole.take(drawn.rows, drawn.labels)
    test = open_split(folder, about, "test", "test" in compare)
    val = whole.take(drawn.val_rows, drawn.val_labels) if factors.val else None
    if "val.npz" in about["files"]:
        val = open_split(folder, about, "val", "val" in compare)
    if factors.classes != "all":
        classes = chosen_classes(len(names), factors)
        names, test = [names[label] for label in classes], _of_classes(test, classes)
        val = _of_classes(val, classes) if val and not factors.val else val
    told = _group_counts(about, name, classes) if factors.groups_from == "full" else drawn.counts
    return Prepared(
        name=name,
        class_names=names,
        native_resolution=about["native_resolution"],
        train=train,
        test=test,
        val=val,
        train_counts=np.bincount(drawn.labels, minlength=len(names)),
        groups=grouped(told, factors),
        sha256=content_hash(about, name, factors),
        classes=classes,
    )


def _require_possible(folder: Path, about: Mapping[str, Any], name: str, factors: Factors) -> None:
    """See that a prepared data set has the ratio in a name, and nothing that a run's factors would say once more.

    Raises:
        PelError: saying what there is.
    """
    base, ratio = split_name(name)
    counts = about["train_counts"]
    if about["ratios"] != "any" and (f"{ratio:g}" if ratio else "") not in counts:
        known = ", ".join(f"{base}-ir{r}" if r else base for r in counts)
        raise PelError(f"data set '{name}' is not in {folder}; it holds {known}")
    if factors.ratio != "own" and f"{factors.ratio:g}" in counts:
        raise PelError(_prepared_at(base, float(factors.ratio)))
    if factors.val and "val.npz" in about["files"]:
        raise PelError(f"data.val={factors.val:g}: data set '{base}' has validation images of its own; leave it out (split=val)")


def _group_counts(about: Mapping[str, Any], name: str, classes: np.ndarray | None) -> np.ndarray:
    """Training images of each of the ``classes`` (c,), labels as prepared, that say whether it is head, medium or tail: of all
    that are prepared, or of a pool at the ratio where groups are told."""
    counts = about["train_counts"]
    if about["ratios"] == "any":
        return long_tail_counts(len(counts[""]) if classes is None else len(classes), counts[""][0], about["groups_from"])
    ratio = about["groups_from"] or split_name(name)[1]
    found = np.array(counts[f"{ratio:g}" if ratio else ""], np.int64)
    return found if classes is None else found[classes]


def _of_classes(split: Split, classes: np.ndarray) -> Split:
    """The images of some classes (c,), ascending labels, which become 0..c-1."""
    rows = np.flatnonzero(np.isin(split.labels, classes))
    return split.take(rows, np.searchsorted(classes, split.labels[rows]))


def content_hash(about: Mapping[str, Any], name: str, factors: Factors = AS_IS) -> str:
    """What identifies the content that a run on ``name`` sees: class names, images, labels, ratio, and what its factors make of
    these. ``about`` is data.json."""
    ratio = split_name(name)[1]
    content = [about["class_names"], about["digests"][train_split(about, name)], about["digests"]["test"], ratio]
    content += [asked] if (asked := factors.content()) else []
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def train_split(about: Mapping[str, Any], name: str) -> str:
    """The file, without suffix, of the training images of ``name``. ``about`` is data.json."""
    ratio = split_name(name)[1]
    return f"train-ir{ratio:g}" if ratio and about["ratios"] != "any" else "train"


def read_about(folder: Path, base: str) -> dict[str, Any]:
    """The data.json of a prepared folder.

    Raises:
        PelError: the folder is missing, incomplete or of another format or data set.
    """
    about = read_json(folder / "data.json")
    again = f"; delete {folder} and prepare '{base}' again"
    if not isinstance(about, Mapping) or about.get("format") != FORMAT:
        raise PelError(f"{folder / 'data.json'} is not of data format {FORMAT}{again}")
    check_versions(folder / "data.json", about)
    if about["name"] != base:
        raise PelError(f"{folder} holds data set '{about['name']}', not '{base}'{again}")
    for file, size in about["files"].items():
        path = folder / file
        if not path.is_file():
            raise PelError(f"{path} is missing{again}")
        if path.stat().st_size != size:
            raise PelError(f"{path} has {path.stat().st_size} bytes, expected {size}{again}")
    return about

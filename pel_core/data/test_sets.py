"""Another data set's images as a test set of a trained run: which of its classes is which of the run's. Torch-free.

Trained once, a run is evaluated on its own test images and on others (`evaluate_on`): on ImageNet-A after a training on
ImageNet-LT, say. Logits are restricted to the classes that both have, as the makers of these sets do (Hendrycks et al. 2021,
"Natural adversarial examples": 200 of the 1,000 classes). Shapes: N images, C classes of the training, K that are tested.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from pel_core.common.errors import PelError
from pel_core.common.files import read_json
from pel_core.data.datasets import Prepared
from pel_core.data.split import Split

OTHERS = "others"
RULES = ("names", "folders", "sorted-folders")


@dataclass(frozen=True)
class TestSet:
    """What a configuration says of a data set that is evaluated on (``test_sets``).

    ``images``: its test split, or all of its images. ``classes``: how its classes are recognised: by name, by the folder that
    images lie in, as the number of a folder in order, or by a JSON file. ``leave_out``: its classes that are not evaluated
    on, or "others", all that fit none. ``count``: how many classes are published to fit; 0: not said.
    """

    __test__ = False  # no test, whatever pytest thinks

    images: str = "test"
    classes: str = "names"
    leave_out: Sequence[str] | str = ()
    count: int = 0

    @classmethod
    def read(cls, text: str) -> "TestSet":
        """From JSON, as a job is told; nothing of it: the defaults.

        Raises:
            PelError: it is not that.
        """
        try:
            return cls(**json.loads(text or "{}"))
        except (ValueError, TypeError) as error:
            raise PelError(f"--test-set {text}: expected JSON of images, classes, leave_out and count ({error})") from None


AS_NAMED = TestSet()


@dataclass(frozen=True)
class ClassMap:
    """Which classes are tested. ``names`` (K,): what they are called; ``members`` (K,): labels of the training that each stands
    for; ``labels`` int64 (C',): of each class of the test set its place among the K, -1 where it is left out."""

    names: list[str]
    members: list[list[int]]
    labels: np.ndarray
    left_out: list[str] = field(default_factory=list)

    def restrict(self, logits_NC: np.ndarray) -> np.ndarray:
        """Logits (N, K): of each tested class the largest of those that it stands for."""
        if all(len(each) == 1 for each in self.members):
            return np.ascontiguousarray(logits_NC[:, [each[0] for each in self.members]])
        return np.stack([logits_NC[:, each].max(axis=1) for each in self.members], axis=1)


def match_classes(data: Prepared, other: Prepared, how: TestSet) -> ClassMap:
    """Find each class of another data set among those of the training.

    Args:
        data: of the training, as its run has it: of ``data.classes`` some.
        other: the data set that is evaluated on.

    Raises:
        PelError: classes that fit none and are not left out, a name or folder that means several, or another number of classes
            than is published.
    """
    where = f"evaluate_on={other.name}"
    found = _by_rule(data, other, how, where)
    asked = [] if how.leave_out == OTHERS else list(how.leave_out)
    names = list(other.class_names)
    keys = [{name, folder} for name, folder in zip(names, _folders(other, "", False) or names, strict=True)]
    for word in asked:
        if not any(word in key for key in keys):
            raise PelError(f"{where}: leave_out: '{word}' is none of its {len(names)} classes ({_few(names)})")
    out = [any(word in key for word in asked) or each is None for key, each in zip(keys, found, strict=True)]
    missing = [name for name, members, leave in zip(names, found, out, strict=True) if not members and not leave]
    if missing and how.leave_out != OTHERS:
        raise PelError(
            f"{where}: {len(missing)} of its {len(names)} classes are none of the {len(data.class_names)} that {data.name} "
            f"trains on: {_few(missing)}. In the configuration, say which they are by a file (test_sets: {{{other.name}: "
            "{{classes: FILE.json}}}}), or that they are left out (leave_out: [NAME, ...], or others)"
        )
    kept = [i for i, (members, leave) in enumerate(zip(found, out, strict=True)) if members and not leave]
    if len(kept) < 2:
        raise PelError(f"{where}: {len(kept)} of its classes fit {data.name}; expected at least two")
    if how.count and len(kept) != how.count:
        raise PelError(f"{where}: {len(kept)} of its classes fit {data.name}, expected {how.count} as published (count)")
    kept.sort(key=lambda i: min(found[i]))
    shared = Counter(label for i in kept for label in found[i])
    if twice := [label for label, count in shared.items() if count > 1]:
        raise PelError(f"{where}: several of its classes are '{data.class_names[twice[0]]}' of {data.name}; expected one of them")
    labels = np.full(len(names), -1, np.int64)
    labels[kept] = np.arange(len(kept))
    called = [data.class_names[found[i][0]] if len(found[i]) == 1 else names[i] for i in kept]
    left_out = [name for name, place in zip(names, labels, strict=True) if place < 0]
    return ClassMap(called, [sorted(found[i] or ()) for i in kept], labels, left_out)


def _by_rule(data: Prepared, other: Prepared, how: TestSet, where: str) -> list[list[int] | None]:
    """Of each class of ``other`` the labels of the training that it is; none where it fits none, None where it is left out."""
    if how.classes == "names":
        return _by_word(data.class_names, other.class_names, where, "folders, or a JSON file")
    if how.classes == "folders":
        return _by_word(_folders(data, where), _folders(other, where), where, "a JSON file")
    if how.classes == "sorted-folders":
        if data.classes is not None:
            raise PelError(f"{where}: data.classes takes some of the classes, whose folders have other numbers; leave it out")
        order = sorted(range(len(data.class_names)), key=_folders(data, where).__getitem__)
        numbers = _folders(other, where)
        if wrong := [name for name in numbers if not name.isdecimal()]:
            raise PelError(f"{where}: its folder '{wrong[0]}' is no number, expected that of a class in the order of folders")
        return [[order[int(name)]] if int(name) < len(order) else [] for name in numbers]
    return _by_file(data, other, Path(how.classes), where)


def _by_file(data: Prepared, other: Prepared, file: Path, where: str) -> list[list[int] | None]:
    """By a JSON file, {class or folder of the test set: class or folder of the training, a list of these, or null: left out}."""
    given = read_json(file)
    if not isinstance(given, Mapping):
        raise PelError(f"{where}: {file} holds no mapping of its classes to those of {data.name}")
    folders = _folders(other, "", False) or other.class_names
    theirs = [{name, folder} for name, folder in zip(other.class_names, folders, strict=True)]
    for key in given:
        if sum(key in names for names in theirs) != 1:
            there = f"{len(theirs)} classes, or several ({_few(other.class_names)})"
            raise PelError(f"{where}: {file}: '{key}' is none of its {there}")
    known: dict[str, set[int]] = defaultdict(set)
    for names in (data.class_names, _folders(data, "", False) or []):
        for label, name in enumerate(names):
            known[name].add(label)
    found: list[list[int] | None] = []
    for names in theirs:
        key = next((key for key in given if key in names), None)
        values = given[key] if key is not None else []
        if values is None:
            found.append(None)
            continue
        members = []
        for value in values if isinstance(values, list) else [values]:
            if not isinstance(value, str):
                raise PelError(
                    f"{where}: {file}: '{key}' is {values!r}; expected a class of {data.name}, a list of them, or null"
                )
            if len(known.get(value, ())) != 1:
                what = "several classes" if known.get(value) else "no class"
                raise PelError(f"{where}: {file}: '{key}': '{value}' is {what} that {data.name} trains on; expected one, or null")
            members += known[value]
        found.append(members)
    return found


def _by_word(ours: Sequence[str], theirs: Sequence[str], where: str, instead: str) -> list[list[int] | None]:
    """By equal words, each of which has to mean one class of either side."""
    for word, count in Counter(theirs).items():
        if (several := ours.count(word)) > 1 or (count > 1 and several):
            raise PelError(f"{where}: '{word}' stands for several classes; say which is which by {instead} (test_sets: classes)")
    known = {word: label for label, word in enumerate(ours)}
    return [[known[word]] if word in known else [] for word in theirs]


def _folders(data: Prepared, where: str, needed: bool = True) -> list[str]:
    """The folder that the images of each class lie in, its name alone.

    Raises:
        PelError: images are no files, or a class has images in several folders, where that is ``needed``.
    """
    found: dict[int, set[str]] = defaultdict(set)
    for split in (data.test, data.train):  # whose labels may be wrong on purpose (data.noise)
        for path, label in zip(split.paths or (), split.labels.tolist(), strict=False):
            found[label].add(PurePosixPath(path).parent.name)
        if all(len(found[label]) == 1 for label in range(len(data.class_names))):
            return [next(iter(found[label])) for label in range(len(data.class_names))]
    if not needed:
        return []
    instead = "`classes: names`, or a JSON file"
    raise PelError(f"{where}: the images of {data.name} are not in a folder for each class; say {instead}")


def _few(names: Sequence[str]) -> str:
    return ", ".join(map(str, names[:8])) + (f", ... ({len(names) - 8} more)" if len(names) > 8 else "")


def restricted(data: Prepared, other: Prepared, how: TestSet, classes: ClassMap) -> Prepared:
    """The training's data set as its run is evaluated on another one's images: K classes, and these images as its test split."""
    split = other.test if how.images == "test" else _together([each for each in (other.train, other.val, other.test) if each])
    labels = classes.labels[split.labels]
    rows = np.flatnonzero(labels >= 0)
    whole = replace(split, labels=labels) if len(rows) == len(labels) else split.take(rows, labels[rows])
    largest = [max(members, key=lambda label: data.train_counts[label]) for members in classes.members]
    return replace(
        data,
        class_names=classes.names,
        test=whole,
        val=None,
        train_counts=np.array([sum(int(data.train_counts[label]) for label in members) for members in classes.members], np.int64),
        groups=[data.groups[label] for label in largest],
        classes=None,
    )


def _together(splits: list[Split]) -> Split:
    """The images of several splits as one."""
    first = splits[0]
    labels = np.concatenate([each.labels for each in splits])
    images = None if first.images is None else np.concatenate([each.images for each in splits])
    paths = None if first.paths is None else [path for each in splits for path in each.paths or ()]
    return Split(labels, images=images, paths=paths, native=first.native, file="all")


def content_of(about: Mapping[str, Any], images: str = "test") -> str:
    """What identifies the images that are evaluated on. ``about``: the data set's data.json."""
    digests = {split: digest for split, digest in about["digests"].items() if images != "test" or split == "test"}
    return hashlib.sha256(json.dumps([about["class_names"], digests], sort_keys=True).encode()).hexdigest()

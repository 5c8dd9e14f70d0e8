"""Mistakes that people make with image folders, recognised by what lies on disk: validation images that are not in class
folders, archives that are not unpacked, a root one folder too high or too deep, paths with backslashes. Those of one data set
are in `facts`."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from shlex import quote

import numpy as np

from pel_core.common.problems import Problems
from pel_core.data.lists import ImageList

SAMPLE = 200  # missing files looked at
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip")
# A shell line for the image folder: moves val/NAME to where the list has it.
SPLIT_VAL = """cut -d' ' -f1 {list} | while read -r path; do mkdir -p "${{path%/*}}"; mv "val/${{path##*/}}" "$path"; done"""


@dataclass(frozen=True)
class Mistake:
    """A recognised mistake: what kind, what was seen, what to do."""

    kind: str
    seen: str
    hint: str


Recognise = Callable[[str, Sequence[str]], Iterable[Mistake]]  # from the image folder and all class folders of the lists


def known_mistakes(
    root: str, missing: Sequence[str], folders: Sequence[str] = (), test_list: str = "", own: Recognise | None = None
) -> list[Mistake]:
    """What explains that listed files are not there; empty where nothing is recognised.

    Args:
        root: the image folder.
        missing: paths that are not there, relative to the root.
        folders: every class folder that the lists name, relative to the root.
        test_list: the path of the test list, for what to do.
        own: recognises mistakes that only this data set has (``Facts.mistakes``).
    """
    step = max(1, len(missing) // SAMPLE)
    sample = list(missing[::step])
    made = [*_backslashes(root, missing), *_nested(root, sample), *_archives(root)]
    made += _flat(root, sample, test_list)
    made += own(root, folders) if own else []
    return made


def explain_missing(root: str, splits: Mapping[str, ImageList], sizes: Mapping[str, np.ndarray], problems: Problems) -> None:
    """Add to ``problems`` what explains that files are missing, where some are. ``sizes``: (N,) of each split; 0: not usable."""
    if "missing files" not in problems.kinds:
        return
    missing = [splits[split].paths[i] for split in splits for i in np.flatnonzero(sizes[split] == 0).tolist()]
    for mistake in known_mistakes(root, missing):
        problems.add(mistake.kind, mistake.seen, mistake.hint)
        problems.kinds["missing files"].hint = problems.kinds["missing files"].hint or f"{mistake.seen}: {mistake.hint}"


def names_in(*parts: str) -> list[str]:
    """What a folder holds, sorted; nothing where there is no such folder."""
    try:
        return sorted(os.listdir(os.path.join(*parts)))
    except OSError:
        return []


def _backslashes(root: str, missing: Sequence[str]) -> Iterator[Mistake]:
    odd = [path for path in missing if "\\" in path]
    if odd:
        sample = odd[:: max(1, len(odd) // SAMPLE)]
        there = sum(os.path.isfile(os.path.join(root, path.replace("\\", "/"))) for path in sample)
        seen = f"{len(odd):,} missing paths hold backslashes ({odd[0]!r}), as Windows writes paths"
        hint = f"write '/' in their place, with which {there} of {len(sample)} that were tried are there"
        hint = hint if there else f"expected paths relative to {root} with '/' in their place (with which none is there either)"
        yield Mistake("paths with backslashes", seen, hint)


def _nested(root: str, sample: Sequence[str]) -> Iterator[Mistake]:
    for inner in (*(name for name in names_in(root) if os.path.isdir(os.path.join(root, name))), "ILSVRC/Data/CLS-LOC"):
        found = os.path.join(root, inner)
        if any(os.path.exists(os.path.join(found, path)) for path in sample):
            yield Mistake("images one folder deeper", f"{found} holds listed files", f"name {found} as the data set's folder")
    above = os.path.dirname(os.path.abspath(root))
    if any(os.path.exists(os.path.join(above, path)) for path in sample):
        yield Mistake("images one folder higher", f"{above} holds listed files", f"name {above} as the data set's folder")


def _archives(root: str) -> Iterator[Mistake]:
    for folder in (root, *(os.path.join(root, split) for split in ("train", "val"))):
        packed = [name for name in names_in(folder) if name.endswith(ARCHIVES)]
        if packed and not packed[0].startswith("cifar"):
            seen = f"{os.path.join(folder, packed[0])}" + (f" and {len(packed) - 1} more" if len(packed) > 1 else "")
            yield Mistake("archives that may not be unpacked", seen, "unpack each into a folder of its name")


def _flat(root: str, sample: Sequence[str], test_list: str) -> Iterator[Mistake]:
    for path in sample:
        parts = path.split("/")
        if len(parts) == 3 and os.path.isfile(os.path.join(root, parts[0], parts[2])):
            seen = f"{os.path.join(root, parts[0], parts[2])} lies there, the list has {path}"
            command = SPLIT_VAL.format(list=quote(os.path.abspath(test_list)) if test_list else "TEST_LIST")
            hint = f"sort them by the test list, in the image folder: `{command}`"
            yield Mistake(f"folders '{parts[0]}' that are not split into class folders", seen, hint)
            return

"""Mistakes that people make with the published data sets, recognised by what lies on disk: another year or variant, validation
images that are not in class folders, archives that are not unpacked, a root one folder too high or too deep. Torch-free."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

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


def known_mistakes(
    base: str, root: str, missing: Sequence[str], folders: Sequence[str] = (), test_list: str = ""
) -> list[Mistake]:
    """What explains that listed files are not there; empty where nothing is recognised.

    Args:
        base: the data set; the built-in ones have mistakes of their own.
        root: the image folder.
        missing: paths that are not there, relative to the root.
        folders: every class folder that the lists name, relative to the root.
        test_list: the path of the test list, for what to do.
    """
    step = max(1, len(missing) // SAMPLE)
    sample = list(missing[::step])
    made = [*_nested(root, sample), *_archives(root)]
    made += _flat(root, sample, test_list)
    made += OWN[base](root, folders) if base in OWN else []
    return made


def _names(*parts: str) -> list[str]:
    try:
        return sorted(os.listdir(os.path.join(*parts)))
    except OSError:
        return []


def _nested(root: str, sample: Sequence[str]) -> Iterator[Mistake]:
    for inner in (*(name for name in _names(root) if os.path.isdir(os.path.join(root, name))), "ILSVRC/Data/CLS-LOC"):
        found = os.path.join(root, inner)
        if any(os.path.exists(os.path.join(found, path)) for path in sample):
            yield Mistake("images one folder deeper", f"{found} holds listed files", f"name {found} as the data set's folder")
    above = os.path.dirname(os.path.abspath(root))
    if any(os.path.exists(os.path.join(above, path)) for path in sample):
        yield Mistake("images one folder higher", f"{above} holds listed files", f"name {above} as the data set's folder")


def _archives(root: str) -> Iterator[Mistake]:
    for folder in (root, *(os.path.join(root, split) for split in ("train", "val"))):
        packed = [name for name in _names(folder) if name.endswith(ARCHIVES)]
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


def _imagenet(root: str, folders: Sequence[str]) -> Iterator[Mistake]:
    get = "ImageNet-LT needs ILSVRC 2012: `python -m pel_core data fetch imagenet-lt` says which files"
    first = _names(root, "val")[:1]
    names = [*_names(root), *_names(root, "val")[:50], *_names(root, "val", *first)[:50], *_names(root, "train")[:5]]
    years = {match[1]: name for name in names if (match := re.search(r"(?:ILSVRC|imagenet)_?(20\d\d)", name, re.IGNORECASE))}
    for year, name in sorted(years.items()):
        if year != "2012":
            yield Mistake("ImageNet of another year", f"{root} holds {name}, which is of ILSVRC {year}", get)
    listed = {folder.split("/")[1] for folder in folders if folder.startswith("train/")}
    there = {name for name in _names(root, "train") if re.fullmatch(r"n\d{8}", name)}
    if there and (absent := sorted(listed - there)):
        seen = f"{root}/train lacks {len(absent):,} of {len(listed):,} class folders ({absent[0]}, ...) and has {len(there):,}"
        yield Mistake("ImageNet of another year or with other classes", seen, get)


def _places(root: str, folders: Sequence[str]) -> Iterator[Mistake]:
    get = "Places-LT needs 'Small images (256 * 256) with easy directory structure' of Places365-Standard"
    for name in _names(root):
        if re.search(r"large", name):
            yield Mistake("Places in high resolution", f"{root} holds {name}, which is the high-resolution variant", get)
        if re.fullmatch(r"(data|val|test)_256(\.tar)?|(train|val)_256_.*", name):
            yield Mistake("Places without the easy directory structure", f"{root} holds {name}", get)
        if "challenge" in name:
            yield Mistake("Places365-Challenge", f"{root} holds {name}", get)


def _inaturalist(root: str, folders: Sequence[str]) -> Iterator[Mistake]:
    get = "iNaturalist 2018 unpacks to train_val2018/Plantae/7291/...: `python -m pel_core data fetch inat2018` says which file"
    names = [name for name in _names(root) if os.path.isdir(os.path.join(root, name))]
    for name in names:
        year = re.search(r"20(?:17|19|2\d)", name)
        if year or name.startswith("train_mini") or re.match(r"\d{5}_", next(iter(_names(root, name)), "")):
            which = f"of {year[0]}" if year else "of 2021"
            yield Mistake("iNaturalist of another year", f"{Path(root, name)} is {which}", get)
        if name in ("Plantae", "Insecta", "Aves"):
            hint = f"put it, with its neighbours, into {root}/train_val2018, or name the folder above as the data set's"
            yield Mistake("folders one level too high", f"{Path(root, name)}", hint)
            return


OWN = {"imagenet-lt": _imagenet, "places-lt": _places, "inat2018": _inaturalist}

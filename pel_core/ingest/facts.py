"""FACTS: what is known of the published data sets, a record each.

Numbers, files and their checksums, addresses, how to get what is not free to pass on, and the mistakes that people make.

A git blob id is the SHA-1 of a short header and the content, as ``git hash-object`` prints it. The lists are those of LIFT
(github.com/shijxcs/LIFT at `COMMIT`, which has those of OLTR). Torch-free.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pel_core.common.shipped import program
from pel_core.ingest.known_mistakes import Mistake, Recognise, names_in

COMMIT = "661ead9b78368f05ba79abe4672d63154467f823"
LISTS = f"https://raw.githubusercontent.com/shijxcs/LIFT/{COMMIT}/datasets"


@dataclass(frozen=True)
class ListFile:
    """A published file: git blob id, bytes (None: not known), lines (0: not a list of images)."""

    blob: str
    size: int | None
    lines: int = 0


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Facts about a published data set.

    ``classes``, ``images``: training and test images, before anything is drawn from them, None where
    they are not known; ``val``: validation images, where
    there are some.
    ``address`` of the ``files`` (and of CIFAR's archive), which are known by name. ``by_hand``: how to get the rest, a format of
    ``root``, ``quoted`` (for a shell) and ``split_val`` (a shell line).
    ``profile``: training images of the largest and of the smallest class; ``groups``: head, medium and tail classes; ``each``:
    images of every class in a balanced split. ``swapped``: labels whose images lie in another class's folder than the published
    class names say: {label: folder}. ``largest_side``: pixels that an image's shorter side may have at most, in the variant that
    is meant. ``mistakes``: recognises what lies there in the place of the images that are meant.
    """

    classes: int
    images: tuple[int, int] | None
    address: str
    val: int = 0
    files: Mapping[str, ListFile] = field(default_factory=dict)
    by_hand: str = ""
    profile: tuple[int, int] | None = None
    groups: tuple[int, int, int] | None = None
    each: Mapping[str, int] = field(default_factory=dict)
    swapped: Mapping[int, str] = field(default_factory=dict)
    largest_side: int | None = None
    mistakes: Recognise | None = None


IMAGENET_BY_HAND = """\
The images of ImageNet are not free to pass on: register at https://image-net.org/download-images and get, of ILSVRC *2012*,
  ILSVRC2012_img_train.tar  "Training images (Task 1 & 2)", 138 GB, MD5 1d675b47d978889d74fa0da5fadfb00e
  ILSVRC2012_img_val.tar    "Validation images (all tasks)", 6.3 GB, MD5 29b22e2961454d5413ddabcf34fc5622
Put them into {root} and unpack them there (training images into a folder for each class, validation images by the test list):
  cd {quoted}
  mkdir -p train val && tar -xf ILSVRC2012_img_train.tar -C train && tar -xf ILSVRC2012_img_val.tar -C val
  for tar in train/*.tar; do mkdir -p "${{tar%.tar}}"; tar -xf "$tar" -C "${{tar%.tar}}" && rm "$tar"; done
  {split_val}
That makes {root}/train/n01440764/n01440764_18.JPEG, ... and {root}/val/n01440764/ILSVRC2012_val_00000293.JPEG, ..."""
PLACES_BY_HAND = """\
The images are those of Places365-Standard, "Small images (256 * 256) with easy directory structure", from
http://places2.csail.mit.edu/download.html (not the high-resolution images, and not the small ones without that structure):
  places365standard_easyformat.tar, from http://data.csail.mit.edu/places/places365/places365standard_easyformat.tar
Unpack it so that its folders train and val lie in {root}:
  tar -xf places365standard_easyformat.tar -C {quoted} --strip-components=1
That makes {root}/train/airfield/00000001.jpg, ... and {root}/val/airfield/Places365_val_00000435.jpg, ..."""
INATURALIST_BY_HAND = """\
The images are those of iNaturalist *2018*, training and validation together, from https://github.com/visipedia/inat_comp/tree/master/2018:
  train_val2018.tar.gz, 120 GB, MD5 b1c6952ce38f31868cc50ea72d066cc3,
  from https://ml-inat-competition-datasets.s3.amazonaws.com/2018/train_val2018.tar.gz
Unpack it in {root}:
  tar -xzf train_val2018.tar.gz -C {quoted}
That makes {root}/train_val2018/Plantae/7291/..., in folders that are called as the categories' ids."""


def _imagenet(root: str, folders: Sequence[str]) -> Iterator[Mistake]:
    get = f"ImageNet-LT needs ILSVRC 2012: `{program()} data fetch imagenet-lt` says which files"
    first = names_in(root, "val")[:1]
    names = [*names_in(root), *names_in(root, "val")[:50], *names_in(root, "val", *first)[:50], *names_in(root, "train")[:5]]
    years = {match[1]: name for name in names if (match := re.search(r"(?:ILSVRC|imagenet)_?(20\d\d)", name, re.IGNORECASE))}
    for year, name in sorted(years.items()):
        if year != "2012":
            yield Mistake("ImageNet of another year", f"{root} holds {name}, which is of ILSVRC {year}", get)
    listed = {folder.split("/")[1] for folder in folders if folder.startswith("train/")}
    there = {name for name in names_in(root, "train") if re.fullmatch(r"n\d{8}", name)}
    if there and (absent := sorted(listed - there)):
        seen = f"{root}/train lacks {len(absent):,} of {len(listed):,} class folders ({absent[0]}, ...) and has {len(there):,}"
        yield Mistake("ImageNet of another year or with other classes", seen, get)


def _places(root: str, folders: Sequence[str]) -> Iterator[Mistake]:
    get = "Places-LT needs 'Small images (256 * 256) with easy directory structure' of Places365-Standard"
    for name in names_in(root):
        if re.search(r"large", name):
            yield Mistake("Places in high resolution", f"{root} holds {name}, which is the high-resolution variant", get)
        if re.fullmatch(r"(data|val|test)_256(\.tar)?|(train|val)_256_.*", name):
            yield Mistake("Places without the easy directory structure", f"{root} holds {name}", get)
        if "challenge" in name:
            yield Mistake("Places365-Challenge", f"{root} holds {name}", get)


def _inaturalist(root: str, folders: Sequence[str]) -> Iterator[Mistake]:
    get = f"iNaturalist 2018 unpacks to train_val2018/Plantae/7291/...: `{program()} data fetch inat2018` says which file"
    names = [name for name in names_in(root) if os.path.isdir(os.path.join(root, name))]
    for name in names:
        year = re.search(r"20(?:17|19|2\d)", name)
        if year or name.startswith("train_mini") or re.match(r"\d{5}_", next(iter(names_in(root, name)), "")):
            which = f"of {year[0]}" if year else "of 2021"
            yield Mistake("iNaturalist of another year", f"{Path(root, name)} is {which}", get)
        if name in ("Plantae", "Insecta", "Aves"):
            hint = f"put it, with its neighbours, into {root}/train_val2018, or name the folder above as the data set's"
            yield Mistake("folders one level too high", f"{Path(root, name)}", hint)
            return


FACTS: dict[str, Facts] = {
    "cifar100": Facts(classes=100, images=(50_000, 10_000), address="https://www.cs.toronto.edu/~kriz"),
    "imagenet-lt": Facts(
        images=(115_846, 50_000),
        address=f"{LISTS}/ImageNet_LT",
        by_hand=IMAGENET_BY_HAND,
        mistakes=_imagenet,
        files={
            "classnames.txt": ListFile("91710b143a9ea19996f66d1b92af859f99e96e8e", 21_814),
            "ImageNet_LT_train.txt": ListFile("a063f095fcd475db4cf8b0658c4b73955535bbf9", 4_658_674, 115_846),
            "ImageNet_LT_val.txt": ListFile("3ed3188b2f44829ce2dec1cc27040d8d40984088", 804_172, 20_000),
            "ImageNet_LT_test.txt": ListFile("76a2fb9749d6cd29e765cc4f8c270f2504131e2f", 2_344_500, 50_000),
        },
        classes=1000,
        profile=(1280, 5),
        groups=(385, 479, 136),
        each={"val": 20, "test": 50},
    ),
    "places-lt": Facts(
        images=(62_500, 36_500),
        address=f"{LISTS}/Places_LT",
        by_hand=PLACES_BY_HAND,
        mistakes=_places,
        files={
            "classnames.txt": ListFile("f2d229cdfdab6b888fcbc0f1ecbd78a06ee5fd27", 8_778),
            "Places_LT_train.txt": ListFile("6392252f8ae867bc8a5e841cc1b29e5b8ef4b636", 2_092_674, 62_500),
            "Places_LT_val.txt": ListFile("b93a2ca58ccb7f3b671c176f395a70bf52c95533", 253_480, 7_300),
            "Places_LT_test.txt": ListFile("e732e58b8aa718a2c1c11933375f5710652c2b93", 1_705_400, 36_500),
        },
        classes=365,
        profile=(4980, 5),
        groups=(131, 163, 71),
        each={"val": 20, "test": 100},
        # The lists sort desert_road before desert/sand, the class names behind: a mistake of the published files.
        swapped={116: "desert_road", 117: "desert-sand", 118: "desert-vegetation", 141: "field_road", 142: "field-wild"},
        largest_side=256,
    ),
    "inat2018": Facts(
        images=(437_513, 24_426),
        address=f"{LISTS}/iNaturalist18",
        by_hand=INATURALIST_BY_HAND,
        mistakes=_inaturalist,
        files={
            "categories.json": ListFile("5804f413dc401661710ea810d7bcd3abf4c632e2", 1_720_750),
            "iNaturalist18_train.txt": ListFile("4accdb7584d2f0a5106c40a33ed6afa392189bcc", None, 437_513),
            "iNaturalist18_val.txt": ListFile("4c23900857fd0f5adcd4cc0dffef345039eeb05f", 1_677_390, 24_426),
        },
        classes=8142,
        profile=(1000, 2),
        groups=(842, 4076, 3224),
        each={"test": 3},
    ),
}


def blob_id(path: str | Path) -> str:
    """The git blob id of a file; line ends of Windows, which git itself may have written, count as ``\\n``."""
    content = Path(path).read_bytes()
    if b"\r\n" in content:
        content = content.replace(b"\r\n", b"\n")
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def difference(path: str | Path, known: ListFile) -> str:
    """How a file differs from the published one, in words; empty where it does not."""
    digest = blob_id(path)
    if digest == known.blob:
        return ""
    size = Path(path).stat().st_size
    text = f"{path} is not the published file: git blob {digest[:12]}, expected {known.blob[:12]}"
    if known.lines:
        with open(path, "rb") as handle:
            lines = sum(block.count(b"\n") for block in iter(lambda: handle.read(1 << 20), b""))
        text += f"; {lines:,} lines, expected {known.lines:,}" if lines != known.lines else "; as many lines, other content"
    if known.size is not None and size < known.size:
        text += f"; {size:,} of {known.size:,} bytes, perhaps a download that was cut off"
    return text

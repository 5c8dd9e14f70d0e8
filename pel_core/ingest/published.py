"""What is known of the published long-tail lists: size and git blob id of every file, and what the lists say.

A git blob id is the SHA-1 of a short header and the content, as ``git hash-object`` prints it. The lists are those of LIFT
(github.com/shijxcs/LIFT at `COMMIT`, which has those of OLTR). Torch-free.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

COMMIT = "661ead9b78368f05ba79abe4672d63154467f823"
ADDRESS = f"https://raw.githubusercontent.com/shijxcs/LIFT/{COMMIT}/datasets"


@dataclass(frozen=True)
class ListFile:
    """A published file: git blob id, bytes (None: not known), lines (0: not a list of images)."""

    blob: str
    size: int | None
    lines: int = 0


@dataclass(frozen=True)
class Published:
    """Facts about a data set.

    ``folder`` of the files below `ADDRESS`. ``profile``: training images of the largest and of the smallest class;
    ``groups``: head, medium and tail classes; ``each``: images of every class in a balanced split. ``swapped``: labels whose
    images lie in another class's folder than the published class names say: {label: folder}.
    ``largest_side``: pixels that an image's shorter side may have at most, in the variant that is meant.
    """

    folder: str
    files: Mapping[str, ListFile]
    classes: int
    profile: tuple[int, int]
    groups: tuple[int, int, int]
    each: Mapping[str, int]
    swapped: Mapping[int, str] = field(default_factory=dict)
    largest_side: int | None = None


PUBLISHED: dict[str, Published] = {
    "imagenet-lt": Published(
        folder="ImageNet_LT",
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
    "places-lt": Published(
        folder="Places_LT",
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
    "inat2018": Published(
        folder="iNaturalist18",
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
    found = blob_id(path)
    if found == known.blob:
        return ""
    size = Path(path).stat().st_size
    text = f"{path} is not the published file: git blob {found[:12]}, expected {known.blob[:12]}"
    if known.lines:
        with open(path, "rb") as handle:
            lines = sum(block.count(b"\n") for block in iter(lambda: handle.read(1 << 20), b""))
        text += f"; {lines:,} lines, expected {known.lines:,}" if lines != known.lines else "; as many lines, other content"
    if known.size is not None and size < known.size:
        text += f"; {size:,} of {known.size:,} bytes, perhaps a download that was cut off"
    return text

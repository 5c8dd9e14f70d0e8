"""Small trees in the layouts that the published data sets unpack to, with list files of their own in the published form.

Identifiers and names are those of the real lists; counts are made up. `publish` makes such a tree the published one, as far
as a test can tell: its files get into the table of known git blob ids.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pel_core.cli.main import main
from pel_core.data.sampling import shot_groups
from pel_core.ingest.facts import FACTS, ListFile, blob_id

COUNTS = (24, 12, 6, 3)  # training images of each class
TEST, VAL = 2, 2  # images of each class
IMAGENET = [("n01440764", "tench"), ("n03773504", "missile"), ("n04008634", "missile"), ("n04355933", "sunglasses")]
PLACES = ["airfield", "desert-sand", "desert_road", "zen_garden"]
SPECIES = [(2, "Plantae", "Zea mays"), (0, "Plantae", "Abies alba"), (3, "Aves", "Corvus corax"), (1, "Mammalia", "Bison bison")]


@dataclass
class Tree:
    """A data set on disk: its folder, class names in label order, and list files by split."""

    base: str
    root: Path
    names: list[str]
    lists: dict[str, str]

    @property
    def config(self) -> dict:
        """What a configuration says of it."""
        return {"roots": {self.base: str(self.root)}, "user_lists": [self.base]}

    def paths(self, split: str) -> list[Path]:
        """The image files of a split."""
        lines = (self.root / self.lists[split]).read_text(encoding="utf-8").splitlines()
        return [self.root / line.rsplit(None, 1)[0] for line in lines]


def draw(path: Path, label: int, number: int, side: int) -> None:
    """An image of a class: its colour, and noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng([label, number])
    colour = np.array([(200, 60, 60), (60, 200, 60), (60, 60, 200), (200, 200, 60)][label % 4])
    pixels = np.clip(colour + random.integers(-40, 40, (side, side, 3)), 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path)


def _fill(tree: Tree, entries: dict[str, list[tuple[str, int, int]]], side: int) -> Tree:
    """Draw images and write lists. ``entries``: split -> (path, label in the list, class that is drawn)."""
    for split, lines in entries.items():
        for number, (path, _, drawn) in enumerate(lines):
            draw(tree.root / path, drawn, number, side)
        text = "".join(f"{path} {label}\n" for path, label, _ in lines)
        (tree.root / tree.lists[split]).write_text(text, encoding="utf-8")
    return tree


def imagenet(root: Path, side: int = 32) -> Tree:
    """train/WNID/WNID_1.JPEG and val/WNID/ILSVRC2012_val_00000001.JPEG; validation lists take training images."""
    lists = {split: f"ImageNet_LT_{split}.txt" for split in ("train", "val", "test")}
    tree = Tree("imagenet-lt", root, [name for _, name in IMAGENET], lists)
    entries = {"train": [], "val": [], "test": []}
    for label, (wnid, _) in enumerate(IMAGENET):
        train = [(f"train/{wnid}/{wnid}_{i}.JPEG", label, label) for i in range(COUNTS[label] + VAL)]
        entries["train"] += train[VAL:]
        entries["val"] += train[:VAL]
        entries["test"] += [(f"val/{wnid}/ILSVRC2012_val_{label * TEST + i + 1:08d}.JPEG", label, label) for i in range(TEST)]
    root.mkdir(parents=True)
    (root / "classnames.txt").write_text("".join(f"{wnid} {name}\n" for wnid, name in IMAGENET))
    return _fill(tree, entries, side)


def places(root: Path, side: int = 256) -> Tree:
    """train/airfield/00000001.jpg and val/airfield/Places365_val_00000001.jpg."""
    lists = {split: f"Places_LT_{split}.txt" for split in ("train", "val", "test")}
    tree = Tree("places-lt", root, list(PLACES), lists)
    entries = {"train": [], "val": [], "test": []}
    for label, name in enumerate(PLACES):
        train = [(f"train/{name}/{i + 1:08d}.jpg", label, label) for i in range(COUNTS[label] + VAL)]
        entries["train"] += train[VAL:]
        entries["val"] += train[:VAL]
        entries["test"] += [(f"val/{name}/Places365_val_{label * TEST + i + 1:08d}.jpg", label, label) for i in range(TEST)]
    root.mkdir(parents=True)
    (root / "classnames.txt").write_text("".join(f"{name} {name}\n" for name in PLACES))
    return _fill(tree, entries, side)


def inaturalist(root: Path, side: int = 40) -> Tree:
    """train_val2018/Plantae/2/0000.jpg: folders and labels are category ids, class i is the i-th name of the alphabet."""
    tree = Tree("inat2018", root, sorted(name for _, _, name in SPECIES), {s: f"iNaturalist18_{s}.txt" for s in ("train", "val")})
    entries = {"train": [], "val": []}
    for rank, (key, group, name) in enumerate(sorted(SPECIES, key=lambda species: species[2])):
        assert tree.names[rank] == name
        paths = [(f"train_val2018/{group}/{key}/{i:032x}.jpg", key, rank) for i in range(COUNTS[rank] + TEST)]
        entries["train"] += paths[TEST:]
        entries["val"] += paths[:TEST]
    root.mkdir(parents=True)
    records = [{"id": key, "name": name, "supercategory": group} for key, group, name in SPECIES]
    (root / "categories.json").write_text(json.dumps(records))
    return _fill(tree, entries, side)


TREES = {"imagenet-lt": imagenet, "places-lt": places, "inat2018": inaturalist}


def publish(monkeypatch, tree: Tree) -> None:
    """Make the tree's lists the published ones."""
    old = FACTS[tree.base]
    files = {
        name: ListFile(
            blob_id(tree.root / name), (tree.root / name).stat().st_size, len((tree.root / name).read_text().splitlines())
        )
        for name in old.files
    }
    groups = shot_groups(np.array(COUNTS))
    sizes = tuple(groups.count(group) for group in ("head", "med", "tail"))
    each = dict.fromkeys(old.each, TEST)
    known = replace(
        old, files=files, classes=len(COUNTS), profile=(max(COUNTS), min(COUNTS)), groups=sizes, each=each, swapped={}
    )
    monkeypatch.setitem(FACTS, tree.base, known)


every = pytest.mark.parametrize("tree", TREES, indirect=True)
of_imagenet = pytest.mark.parametrize("tree", ["imagenet-lt"], indirect=True)
of_places = pytest.mark.parametrize("tree", ["places-lt"], indirect=True)
of_inaturalist = pytest.mark.parametrize("tree", ["inat2018"], indirect=True)


def check(capsys, base, root, *words) -> tuple[int, str, str]:
    """Run ``data check``; its status, output and errors."""
    status = main(["data", "check", base, "--root", str(root), *words])
    out = capsys.readouterr()
    return status, out.out, out.err

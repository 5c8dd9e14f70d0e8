"""torchvision's classification sets by the name of their class, each made small in its true format."""

import inspect
import io
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets
from own_trees import counts, make
from PIL import Image
from torchvision_trees import MADE, caltech101, cifar10, dtd, flowers102, food101, pcam

from pel_core.common.errors import PelError
from pel_core.common.problems import Problems
from pel_core.ingest.entries import declared
from pel_core.ingest.prepare import prepare as prepare_data
from pel_core.ingest.sources import open_source, require_split
from pel_core.ingest.torchvision_sets import TORCHVISION


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """Where sets lie; nothing is downloaded here."""

    def refused(*arguments):
        raise OSError("no network in tests")

    monkeypatch.setattr(socket, "getaddrinfo", refused)
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def entry(root: Path, name: str, **keys) -> dict:
    return {"datasets": {"mine": {"kind": "torchvision", "root": str(root), "set": name, **keys}}}


def prepare(root: Path, name: str, out: Path | None = None, base: str = "mine", **keys):
    return make(root, out, base, kind="torchvision", set=name, **keys)


@pytest.mark.parametrize(("name", "tree", "keys", "classes", "images"), MADE, ids=[f"{m[0]}-{i}" for i, m in enumerate(MADE)])
def test_a_set_in_its_true_format(root, monkeypatch, capsys, name, tree, keys, classes, images):
    """Classes, splits, images and labels are those that torchvision gives."""
    if TORCHVISION[name].needs:
        pytest.importorskip(TORCHVISION[name].needs)
    tree(root, monkeypatch.setattr)
    data = prepare(root, name, **keys)
    assert data.class_names == classes
    assert {split: len(getattr(data, split) or ()) for split in ("train", "val", "test") if getattr(data, split)} == images
    told = capsys.readouterr().err
    assert f"torchvision's {name}: train is its '" in told
    in_place = str(root) in data.train.paths[0]
    assert in_place != TORCHVISION[name].pixels, "files stay where they are, arrays become files"
    part = next(iter(open_source("mine", declared(entry(root, name, **keys))["mine"]).splits.values()))
    if "test_fraction" not in keys:
        theirs = getattr(torchvision.datasets, name)(root, **TORCHVISION[name].parts[part], **keys.get("arguments", {}))
        order = sorted({int(label) for _, label in theirs})
        expected = [(np.asarray(image.convert("RGB")).tobytes(), order.index(int(label))) for image, label in theirs]
        pairs = zip(data.train.paths, data.train.labels.tolist(), strict=True)
        found = [(np.asarray(Image.open(path).convert("RGB")).tobytes(), label) for path, label in pairs]
        assert found == expected if TORCHVISION[name].pixels else sorted(found) == sorted(expected)


def test_made_sets_are_many_and_all_names_are_torchvisions():
    assert len({name for name, *_ in MADE}) >= 27
    assert {name for name, *_ in MADE} <= set(TORCHVISION)
    left = set(TORCHVISION) - {name for name, *_ in MADE}
    assert left <= {"CIFAR100", "FashionMNIST", "KMNIST", "QMNIST"}, "of the same format as others"


@pytest.mark.parametrize("name", TORCHVISION)
def test_what_is_known_of_a_set_is_what_torchvision_has(name):
    """Its class, the arguments of each part, and whether it can tell its files."""
    known, kind = TORCHVISION[name], getattr(torchvision.datasets, name)
    accepted = inspect.signature(kind.__init__).parameters
    for arguments in [*known.parts.values(), dict.fromkeys(known.arguments)]:
        for argument in arguments:
            assert argument in accepted or (argument == "train" and name == "EMNIST")
    tells = "loader" in accepted or issubclass(kind, torchvision.datasets.ImageFolder)
    assert known.pixels + bool(known.paths) + tells == 1
    assert set(known.splits.values()) <= set(known.parts) and set(known.splits) <= {"train", "val", "test"}
    assert bool(known.splits) != bool(known.why) and set(known.asked) <= set(known.arguments)
    assert {*known.contains, *(part for parts in known.contains.values() for part in parts)} <= set(known.parts)
    assert "download" in accepted or known.by_hand or name in ("EMNIST", "QMNIST")


def test_every_classification_set_is_known():
    """Whatever torchvision adds is either here or known to be something else."""
    others = {
        "LSUN", "LSUNClass", "ImageFolder", "DatasetFolder", "FakeData", "CocoCaptions", "CocoDetection", "MovingMNIST",
        "PhotoTour", "SBU",
        "Flickr8k", "Flickr30k", "VOCSegmentation", "VOCDetection", "Cityscapes", "CelebA", "WIDERFace", "SBDataset",
        "VisionDataset", "Kinetics", "HMDB51", "UCF101", "Kitti", "LFWPairs", "KittiFlow", "Sintel", "FlyingChairs",
        "FlyingThings3D", "HD1K", "Kitti2012Stereo", "Kitti2015Stereo", "CarlaStereo", "Middlebury2014Stereo", "CREStereo",
        "FallingThingsStereo", "SceneFlowStereo", "SintelStereo", "InStereo2k", "ETH3DStereo", "wrap_dataset_for_transforms_v2",
    }  # fmt: skip
    assert set(torchvision.datasets.__all__) - others == set(TORCHVISION)


def test_a_long_tail_of_cifar10(root, monkeypatch):
    cifar10(root, monkeypatch.setattr)
    data = prepare(root, "CIFAR10", base="mine-ir5", profile="exponential", ratios=[5])
    assert data.train_counts.tolist() == [5, 2, 1]
    other = prepare(root, "CIFAR10", root.parent / "again", base="mine-ir5", profile="exponential", ratios=[5])
    assert other.sha256 == data.sha256 and counts(other.test, 3) == [1, 1, 1]


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("Flower102", {}, "Did you mean 'Flowers102'"),
        ("FGVCAircraft", {}, r"can be divided in several ways \(train and val, or trainval\); say splits"),
        ("INaturalist", {}, "several ways .*2021_valid"),
        ("Places365", {"arguments": {"small": True}}, "several ways .*train-challenge"),
        ("QMNIST", {}, "several ways"),
        ("DTD", {}, r"several forms; say arguments: \{partition: \.\.\.\}, one of 1, 2"),
        ("EMNIST", {}, r"several forms; say arguments: \{split: \.\.\.\}, one of byclass"),
        ("DTD", {"arguments": {"partition": 11}}, "partition: 11, expected one of 1, 2"),
        ("DTD", {"arguments": {"partition": True}}, "partition: True, expected one of 1, 2"),
        ("DTD", {"arguments": {"part": 1}}, "arguments has part; DTD has partition"),
        ("CIFAR10", {"arguments": {"part": 1}}, "arguments has part; CIFAR10 has none"),
        ("CIFAR10", {"splits": {"train": "trian"}}, "train: trian, expected train, val or test: one of train, test"),
        ("CIFAR10", {"splits": {"tain": "train"}}, "tain: train, expected train, val or test"),
        ("CIFAR10", {"splits": {"test": "test"}}, "says nothing of train"),
        ("CIFAR10", {"splits": {"train": "train", "test": "train"}}, "expected another part for each split"),
        ("CIFAR10", {"splits": "train"}, "'train' is no mapping"),
        (
            "FGVCAircraft",
            {"splits": {"train": "trainval", "val": "val", "test": "test"}},
            "trainval and val, which is a part of it",
        ),
        ("EuroSAT", {}, r"no test images .*\(it has no split of its own\); say test_fraction"),
        ("SUN397", {}, "take a published split"),
        ("INaturalist", {"splits": {"train": 2019}}, "its part '2019' alone is taken"),
        ("CIFAR10", {"file": "x"}, "unknown key"),
    ],
)
def test_entries_that_cannot_be_meant(root, name, keys, message):
    with pytest.raises(PelError, match=f"data set 'mine' of the configuration.*{message}|{message} of data set 'mine'"):
        declared(entry(root, name, **keys))


def test_a_set_that_is_not_there(root, monkeypatch):
    with pytest.raises(PelError, match=r"holds no food-101, which torchvision's Food101 needs; where there is a network"):
        prepare(root, "Food101")
    food101(root, monkeypatch.setattr)
    with pytest.raises(PelError, match=f"holds no food-101, .*; {root} has it: name that as root"):
        prepare(root / "food-101", "Food101")
    with pytest.raises(PelError, match=r"StanfordCars needs; its download is dead"):
        prepare(root, "StanfordCars")
    assert not (root / "caltech101").exists()
    with pytest.raises(PelError, match="holds no caltech101/101_ObjectCategories"):
        prepare(root, "Caltech101", test_fraction=0.2)
    assert not (root / "caltech101").exists(), "nothing is made where the data are"


def test_damaged_files(root, monkeypatch):
    cifar10(root, monkeypatch.setattr)
    batch = root / "cifar-10-batches-py/data_batch_3"
    batch.write_bytes(batch.read_bytes()[:-100])
    with pytest.raises(PelError, match=r"CIFAR10 \(train\) in .* cannot be read \(Dataset not found or corrupted.*mend it"):
        prepare(root, "CIFAR10")
    assert not [path for path in (root.parent / "out").rglob("*") if path.is_file()]
    flowers102(root, monkeypatch.setattr)
    (root / "flowers-102/jpg/image_00002.jpg").unlink()
    with pytest.raises(PelError, match=r"image_00002\.jpg"):
        prepare(root, "Flowers102")
    caltech101(root, monkeypatch.setattr)
    (root / "caltech101/101_ObjectCategories/accordion/image_0003.jpg").write_text("no image")
    with pytest.raises(PelError, match=r"image_0003\.jpg.* cannot be"):
        prepare(root, "Caltech101", test_fraction=0.2)


def test_an_image_in_two_splits(root, monkeypatch):
    dtd(root, monkeypatch.setattr)
    listed = root / "dtd/dtd/labels/val2.txt"
    listed.write_text(listed.read_text() + "banded/banded_0000.jpg\n")
    with pytest.raises(PelError, match=r"banded_0000\.jpg is in 'train' and 'val'; expected it in one split"):
        prepare(root, "DTD", arguments={"partition": 2})


def test_a_library_that_is_lacking(root, monkeypatch):
    monkeypatch.setattr("pel_core.ingest.torchvision_reading._lacks", lambda library: library == "h5py")
    (root / "pcam").mkdir()
    with pytest.raises(PelError, match=r"PCAM needs: pip install h5py \(it is the extra 'pcam'"):
        prepare(root, "PCAM")


def test_fetch_says_what_cannot_be_had(root):
    def fetch(name: str, mirror: str = "", **keys) -> None:
        config = entry(root, name, **keys)
        open_source("mine", declared(config)["mine"], config).fetch(mirror)

    with pytest.raises(PelError, match=r"cannot download StanfordCars: its download is dead, as torchvision says"):
        fetch("StanfordCars")
    with pytest.raises(PelError, match=r"cannot download LFWPeople: it cannot be downloaded any more"):
        fetch("LFWPeople", splits={"train": "10fold"}, test_fraction=0.2)
    with pytest.raises(PelError, match=r"CIFAR10 \(train\) in .* cannot be downloaded \(.*no network in tests"):
        fetch("CIFAR10")
    with pytest.raises(PelError, match=r"OxfordIIITPet \(trainval\) in .* cannot be downloaded"):
        fetch("OxfordIIITPet")
    assert not list(root.iterdir()), "empty folders are left"
    with pytest.raises(PelError, match="torchvision's own addresses"):
        fetch("CIFAR10", "https://example.org")


def test_validation_splits_are_known_from_the_entry(root):
    config = entry(root, "Flowers102")
    require_split("mine", "val", declared(config))
    with pytest.raises(PelError, match="has no validation split"):
        require_split("mine", "val", declared(entry(root, "CIFAR10")))


def test_planning_imports_no_torch(root, monkeypatch):
    cifar10(root, monkeypatch.setattr)
    code = (
        "import sys\nfrom pel_core.ingest.entries import declared\nfrom pel_core.ingest.identity import data_params\n"
        f"config = {entry(root, 'CIFAR10')!r}\ndata_params('mine', declared(config), config)\n"
        "assert not {'torch', 'torchvision', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_changed_files_are_another_data_set(root, monkeypatch):
    food101(root, monkeypatch.setattr)
    first = prepare(root, "Food101")
    Image.new("RGB", (30, 30)).save(root / "food-101/images/waffles/11.jpg")
    assert prepare(root, "Food101").sha256 != first.sha256


def test_the_check_prints_and_writes_nothing(root, monkeypatch, capsys):
    pytest.importorskip("h5py")
    pcam(root, monkeypatch.setattr)
    config = entry(root, "PCAM")
    problems = Problems()
    open_source("mine", declared(config)["mine"], config).check(problems, "all")
    assert not problems and "4 train" in capsys.readouterr().out
    prepare_data("mine", root.parent / "out", config)
    assert io.BytesIO(next((root.parent / "out/images/train").rglob("*.png")).read_bytes()).read(4) == b"\x89PNG"

"""Preparing every kind of data set, and opening the folders."""

import hashlib
import json
import os
import pickle
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pel_core.common.errors import PelError
from pel_core.data.datasets import DATASETS, open_prepared
from pel_core.data.sampling import long_tail_subset, shot_groups
from pel_core.demo.stand_ins import STAND_INS
from pel_core.ingest import fetch
from pel_core.ingest.facts import FACTS
from pel_core.ingest.prepare import prepare
from pel_core.ingest.sources import cifar, open_source


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    prepare("toy", folder)
    return folder


def test_toy(toy, tmp_path):
    whole, tail = open_prepared(toy, "toy"), open_prepared(toy, "toy-ir20")
    assert whole.train.images.shape == (720, 20, 20, 3) and isinstance(whole.train.images, np.memmap)
    assert whole.train_counts.tolist() == [120] * 6
    assert tail.train_counts.tolist() == np.bincount(tail.train.labels).tolist() == [120, 65, 36, 19, 10, 6]
    assert whole.groups == tail.groups == ["head", "med", "med", "tail", "tail", "tail"]
    assert len(tail.test) == 60 and tail.split("test") is tail.test
    assert whole.sha256 != tail.sha256 and len(whole.sha256) == 64
    with pytest.raises(PelError, match="no split 'val'"):
        tail.split("val")
    prepare("toy", tmp_path)
    for file in sorted(toy.iterdir()):
        assert file.read_bytes() == (tmp_path / file.name).read_bytes(), file.name


def test_an_incomplete_folder_is_refused(tmp_path):
    with pytest.raises(PelError, match=r"data\.json does not exist"):
        open_prepared(tmp_path, "toy")
    prepare("toy", tmp_path)
    with pytest.raises(PelError, match="holds data set 'toy', not 'cifar100'"):
        open_prepared(tmp_path, "cifar100-ir10")
    images = tmp_path / "images-train.npy"
    images.write_bytes(images.read_bytes()[:-1])
    with pytest.raises(PelError, match=r"images-train\.npy has 864127 bytes"):
        open_prepared(tmp_path, "toy")
    images.unlink()
    with pytest.raises(PelError, match="is missing"):
        open_prepared(tmp_path, "toy")
    (tmp_path / "data.json").write_text('{"format": 0}')
    with pytest.raises(PelError, match="not of data format"):
        open_prepared(tmp_path, "toy")


def test_a_crash_leaves_no_data_json(tmp_path, monkeypatch):
    prepare("toy", tmp_path)
    monkeypatch.setattr(np, "savez", lambda *a, **k: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises((OSError, PelError), match="disk full"):
        prepare("toy", tmp_path)
    assert not (tmp_path / "data.json").exists()
    assert not [f for f in os.listdir(tmp_path) if f.startswith(".")]


def test_unknown_requests(tmp_path):
    with pytest.raises(PelError, match="unknown data set 'toy-ir20'"):
        prepare("toy-ir20", tmp_path)
    with pytest.raises(PelError, match="unknown image check"):
        prepare("toy", tmp_path, check_images="some")


@pytest.mark.parametrize("name", list(STAND_INS))
def test_stand_ins(name, tmp_path, monkeypatch):
    """The counts of the demo's own description and of our sampler agree. Rendering itself is tested with the demo."""
    import pel_core.demo.stand_ins as demo

    def blank(name, split, draw=0):
        labels = demo.labels_of(STAND_INS[name], split)
        return np.zeros((len(labels), 4, 4, 3), np.uint8), labels

    monkeypatch.setattr(demo, "render", blank)
    prepare(name, tmp_path)
    for ratio in (10, 50, 100) if DATASETS[name].ratios == "any" else (None,):
        data = open_prepared(tmp_path, f"{name}-ir{ratio}" if ratio else name)
        assert data.train_counts.tolist() == STAND_INS[name].train_counts(ratio)
        assert np.bincount(data.train.labels).tolist() == data.train_counts.tolist()
        assert data.class_names == list(STAND_INS[name].class_names)
        few = {"tail"} if name == "demo-sketch" else {"head", "med", "tail"}  # which is there to be tested on (`evaluate_on`)
        assert set(data.groups) == few


# CIFAR-100 from torchvision's archive


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """A miniature archive in the real one's format (pickled by NumPy 1, read as Python 2 text), and its checksums."""
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    random = np.random.default_rng(0)

    def write(name, record, protocol=2):
        content = pickle.dumps(record, protocol).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
        (folder / name).write_bytes(content)
        monkeypatch.setitem(cifar.CIFAR_MD5, name, hashlib.md5(content).hexdigest())

    write("meta", {"fine_label_names": ["apple", "aquarium_fish", "baby"]})
    for split, each in (("train", 120), ("test", 2)):
        labels = random.permutation(np.repeat(np.arange(3), each)).tolist()
        write(split, {"data": random.integers(0, 256, (3 * each, 3072)).astype(np.uint8), "fine_labels": labels})
    return folder, write


def test_cifar(archive, tmp_path, monkeypatch):
    folder, _ = archive
    prepare("cifar100", tmp_path / "out", {"roots": {"cifar100": str(folder)}})
    data = open_prepared(tmp_path / "out", "cifar100-ir4")
    assert data.class_names == ["apple", "aquarium_fish", "baby"] and data.native_resolution == 32
    assert data.train_counts.tolist() == [120, 60, 30] and data.groups == ["head", "tail", "tail"]
    record = pickle.loads((folder / "train").read_bytes(), encoding="latin1")
    chosen = long_tail_subset(np.array(record["fine_labels"]), 4)
    assert (data.train.images == record["data"][chosen].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)).all()
    monkeypatch.setenv("PEL_DATA", str(folder.parent))
    prepare("cifar100", tmp_path / "again", {})
    assert open_prepared(tmp_path / "again", "cifar100-ir4").sha256 == data.sha256


def test_cifar_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("PEL_DATA", str(tmp_path))
    monkeypatch.setitem(FACTS, "cifar100", replace(FACTS["cifar100"], address="http://127.0.0.1:9"))
    monkeypatch.setattr(fetch, "PAUSE", 0)
    with pytest.raises(PelError, match=r"roots: \{cifar100: FOLDER\}.*data fetch cifar100"):
        prepare("cifar100", tmp_path / "out")
    (tmp_path / "cifar-100-python").mkdir()
    with pytest.raises(PelError, match="expected the files meta, train, test"):
        prepare("cifar100", tmp_path / "out")


def test_a_damaged_archive(archive, tmp_path):
    folder, _ = archive
    (folder / "test").write_bytes(b"x")
    with pytest.raises(PelError, match=r"expected .*: it is damaged"):
        prepare("cifar100", tmp_path / "out", {"roots": {"cifar100": str(folder)}})


class Shell:
    def __reduce__(self):
        return os.system, ("exit 1",)


def test_a_pickle_runs_nothing(archive, tmp_path):
    folder, write = archive
    write("meta", Shell())
    with pytest.raises(PelError, match=r"asks for posix\.system"):
        prepare("cifar100", tmp_path / "out", {"roots": {"cifar100": str(folder)}})


# Image folders with list files


@pytest.fixture
def folder(tmp_path):
    """Three classes of small files: training lists of two ratios, a test and a validation list."""
    root = tmp_path / "pictures"
    lists = {"train_2": [4, 3, 2], "train_4": [4, 2, 1], "test": [2, 2, 0], "val": [1, 1, 1]}
    for file, counts in lists.items():
        lines = []
        for label, count in enumerate(counts):
            for i in range(count):
                path = root / file.split("_")[0] / f"class {label}" / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8 + i, 8), (80 * label, 10 * i, 0)).save(path)
                lines.append(f"{path.relative_to(root)} {label}\n")
        (root / f"{file}.txt").write_text("".join(lines))
    (root / "names.txt").write_text("n00000001 parking meter\nn00000002 lawn mower\nn00000003 frog\n")
    entry = {
        "root": str(root),
        "train": "train_{ir}.txt",
        "test": "test.txt",
        "val": "val.txt",
        "names": "names.txt",
        "ratios": [2, 4],
    }
    return root, {"datasets": {"mine": {**entry, "groups_from": 2}}}


def test_lists(folder, tmp_path, capsys):
    root, config = folder
    prepare("mine", tmp_path / "out", config, check_images="all")
    assert "test.txt has no image of 1 of 3 classes (frog)" in capsys.readouterr().err
    data = open_prepared(tmp_path / "out", "mine-ir4")
    assert data.class_names == ["parking meter", "lawn mower", "frog"]
    assert data.train_counts.tolist() == [4, 2, 1] and data.train.images is None
    assert data.train.paths[4] == f"{root}/train/class 1/0.png" and data.train.labels.tolist() == [0] * 4 + [1] * 2 + [2]
    assert data.groups == shot_groups(np.array([4, 3, 2]))
    assert len(data.test) == 4 and len(data.split("val")) == 3
    assert not list((tmp_path / "out").glob("*.npy"))
    with pytest.raises(PelError, match="it holds mine-ir2, mine-ir4"):
        open_prepared(tmp_path / "out", "mine-ir3")
    assert data.sha256 != open_prepared(tmp_path / "out", "mine-ir2").sha256


def test_the_hash_follows_the_content(folder, tmp_path):
    root, config = folder

    def digests():
        prepare("mine", tmp_path / "out", config)
        return [open_prepared(tmp_path / "out", f"mine-ir{r}").sha256 for r in (2, 4)]

    before = digests()
    assert digests() == before
    Image.new("RGB", (30, 30)).save(root / "train/class 0/0.png")
    assert all(a != b for a, b in zip(before, digests(), strict=True))
    before = digests()
    lines = (root / "train_4.txt").read_text().splitlines()
    (root / "train_4.txt").write_text("\n".join(reversed(lines)))
    after = digests()
    assert after[0] == before[0] and after[1] != before[1]


def test_the_root_may_hold_a_variable(folder, tmp_path, monkeypatch):
    root, config = folder
    config["datasets"]["mine"]["root"] = "$PICTURES/pictures"
    with pytest.raises(PelError, match="variable that is not set"):
        prepare("mine", tmp_path / "out", config)
    monkeypatch.setenv("PICTURES", str(root.parent))
    prepare("mine", tmp_path / "out", config)
    assert json.loads((tmp_path / "out/root.json").read_text()) == {"root": "$PICTURES/pictures", "was": str(root)}
    assert open_prepared(tmp_path / "out", "mine-ir2").train.paths[0] == f"{root}/train/class 0/0.png"


def test_images_that_moved_are_found_again(folder, tmp_path, monkeypatch):
    root, config = folder
    prepare("mine", tmp_path / "out", config)
    moved = root.rename(tmp_path / "elsewhere")
    monkeypatch.setenv("PEL_ROOTS", json.dumps({"mine": str(moved)}))  # as Snakemake's jobs find it
    data = open_prepared(tmp_path / "out", "mine-ir4")
    assert data.train.paths[0] == f"{moved}/train/class 0/0.png"
    config["datasets"]["mine"]["root"] = str(moved)
    prepare("mine", tmp_path / "again", config)
    assert (tmp_path / "again/data.json").read_bytes() == (tmp_path / "out/data.json").read_bytes()
    assert open_prepared(tmp_path / "again", "mine-ir4").sha256 == data.sha256
    Image.new("RGB", (40, 40)).save(moved / "test/class 0/0.png")
    with pytest.raises(PelError, match=r"are not those that .*out was prepared from"):
        open_prepared(tmp_path / "out", "mine-ir4")
    (moved / "test/class 0/0.png").unlink()
    with pytest.raises(PelError, match=r"elsewhere/test/class 0/0\.png cannot be used"):
        open_prepared(tmp_path / "out", "mine-ir4")


def test_a_built_in_root_keeps_its_variable(monkeypatch):
    monkeypatch.delenv("PEL_DATA", raising=False)
    assert open_source("places-lt", DATASETS["places-lt"], {}).given_root == "data/places"
    monkeypatch.setenv("PEL_DATA", "/pictures")
    assert open_source("places-lt", DATASETS["places-lt"], {}).given_root == "$PEL_DATA/places"
    assert open_source("places-lt", DATASETS["places-lt"], {"roots": {"places-lt": "~/p"}}).given_root == "~/p"


def test_a_folder_of_another_engine_is_stale(tmp_path):
    prepare("toy", tmp_path)
    path = tmp_path / "data.json"
    path.write_text(path.read_text().replace('"prepare": 1', '"prepare": 0'))
    with pytest.raises(PelError, match="stale: prepared by version 0, this is 1"):
        open_prepared(tmp_path, "toy")


def test_a_corrupt_image_beyond_the_sample(folder, tmp_path):
    root, config = folder
    lines = (root / "test.txt").read_text()
    for i in range(200):
        Image.new("RGB", (4, 4)).save(root / f"test/{i}.png")
    (root / "test.txt").write_text(lines + "".join(f"test/{i}.png 0\n" for i in range(200)))
    path = root / "test/100.png"
    path.write_bytes(path.read_bytes()[:40])
    prepare("mine", tmp_path / "sampled", config)
    with pytest.raises(PelError, match=r"test\.txt:105: image .*100\.png cannot be decoded"):
        prepare("mine", tmp_path / "whole", config, check_images="all")


def test_lists_in_another_folder(folder, tmp_path):
    root, config = folder
    (tmp_path / "lists").mkdir()
    for file in root.glob("*.txt"):
        file.rename(tmp_path / "lists" / file.name)
    with pytest.raises(PelError, match=r"names\.txt does not exist"):
        prepare("mine", tmp_path / "out", config)
    config["datasets"]["mine"]["lists"] = str(tmp_path / "lists")
    prepare("mine", tmp_path / "out", config)


def spoil_missing(root):
    (root / "train/class 1/1.png").unlink()


def spoil_corrupt(root):
    path = root / "train/class 1/1.png"
    path.write_bytes(path.read_bytes()[:40])


def spoil_empty(root):
    (root / "train/class 1/1.png").write_bytes(b"")


def spoil_folder(root):
    spoil_missing(root)
    (root / "train/class 1/1.png").mkdir()


def spoil_link(root):
    spoil_missing(root)
    Image.new("RGB", (8, 8)).save(root.parent / "outside.png")
    (root / "train/class 1/1.png").symlink_to(root.parent / "outside.png")


def spoil_folder_link(root):
    (root / "train/class 1").rename(root.parent / "elsewhere")
    (root / "train/class 1").symlink_to(root.parent / "elsewhere")


@pytest.mark.parametrize(
    "spoil, message",
    [
        (spoil_missing, r"train_2\.txt:6: .*1\.png cannot be used \(No such file"),
        (spoil_corrupt, r"train_2\.txt:6: image .*1\.png cannot be decoded"),
        (spoil_empty, r"train_2\.txt:6: .*1\.png is empty"),
        (spoil_folder, r"train_2\.txt:6: .*1\.png is not a file"),
        (spoil_link, r"train_2\.txt:6: .* symbolic link that leads out"),
        (spoil_folder_link, r"train_2\.txt:5: .* symbolic link that leads out"),
        (lambda root: (root / "names.txt").unlink(), r"class-names file .*names\.txt does not exist"),
        (lambda root: (root / "test.txt").write_text(""), r"list file .*test\.txt is empty"),
        (lambda root: (root / "test.txt").write_text("train/class 0/0.png 0"), r"test\.txt:1: .* also a training image in"),
        (
            lambda root: (root / "train_4.txt").write_text("train/class 0/0.png 0"),
            r"2 of 3 classes have no training image: 1 \(lawn",
        ),
    ],
)
def test_bad_folders(folder, tmp_path, spoil, message):
    root, config = folder
    spoil(root)
    with pytest.raises(PelError, match=message):
        prepare("mine", tmp_path / "out", config)
    assert not (tmp_path / "out").exists()


def test_links_inside_the_root_are_followed(folder, tmp_path):
    root, config = folder
    (root / "train/class 1").rename(root / "moved")
    (root / "train/class 1").symlink_to("../moved")
    linked = tmp_path / "linked"
    linked.symlink_to(root)
    config["datasets"]["mine"]["root"] = str(linked)
    prepare("mine", tmp_path / "out", config)


def test_a_missing_root(folder, tmp_path):
    with pytest.raises(PelError, match=r"'imagenet-lt': image folder /nowhere does not exist; name it by 'roots:"):
        prepare("imagenet-lt", tmp_path / "out", {"roots": {"imagenet-lt": "/nowhere"}})


def test_inaturalist_labels_follow_the_sorted_names(tmp_path):
    root = tmp_path / "inat"
    root.mkdir()
    records = [{"id": i, "name": name, "kingdom": "x"} for i, name in enumerate(["Zea mays", "Abies alba", "Mus musculus"])]
    (root / "categories.json").write_text(json.dumps(records))
    for label in range(3):
        for split in ("train", "val"):
            Image.new("RGB", (4, 4)).save(root / f"{split}{label}.png")
    for split in ("train", "val"):
        (root / f"iNaturalist18_{split}.txt").write_text("".join(f"{split}{label}.png {label}\n" for label in range(3)))
    config = {"roots": {"inat2018": str(root)}}
    with pytest.raises(PelError, match=r"categories\.json is not the published file: .*user_lists: \[inat2018\]"):
        prepare("inat2018", tmp_path / "out", config)
    prepare("inat2018", tmp_path / "out", config | {"user_lists": ["inat2018"]})
    assert json.loads((tmp_path / "out/data.json").read_text())["user_lists"] is True
    data = open_prepared(tmp_path / "out", "inat2018")
    assert data.class_names == ["Abies alba", "Mus musculus", "Zea mays"]
    assert data.train.labels.tolist() == data.test.labels.tolist() == [2, 0, 1]


@pytest.fixture(scope="session")
def tiny_imagenet(shared, tmp_path_factory):
    import tarfile

    folder = tmp_path_factory.mktemp("photographs")
    with tarfile.open(shared / "data" / "tiny-imagenet-100.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "tiny-imagenet-100"


def test_real_photographs(tiny_imagenet, tmp_path):
    entry = {"root": str(tiny_imagenet), "train": "lists/train_ir{ir}.txt", "test": "lists/test.txt", "names": "classnames.txt"}
    config = {"datasets": {"tiny": {**entry, "ratios": [10, 50, 100, 200], "groups_from": 100, "native_resolution": 64}}}
    prepare("tiny", tmp_path, config)
    for ratio, images in ((10, 9760), (50, 6282), (100, 5399), (200, 4728)):
        data = open_prepared(tmp_path, f"tiny-ir{ratio}")
        assert len(data.train) == data.train_counts.sum() == images and len(data.test) == 3000
        assert [data.groups.count(g) for g in ("head", "med", "tail")] == [20, 35, 45]
    assert data.class_names[0] == "parking meter" and os.path.isfile(data.train.paths[-1])

"""Published data sets that ship as entries: their declarations fit what is published, which is compared with what is there."""

import json
from pathlib import Path

import numpy as np
import pytest
from own_trees import draw
from scipy.io import savemat
from torchvision_trees import MADE

from pel_core.common.errors import PelError
from pel_core.common.problems import Problems
from pel_core.data.datasets import DATASETS, find_dataset, open_prepared
from pel_core.data.factors import Factors
from pel_core.data.published_datasets import VTAB
from pel_core.ingest.facts import Facts
from pel_core.ingest.prepare import prepare
from pel_core.ingest.published_counts import COUNTS
from pel_core.ingest.sources import SOURCES, open_source, require_split
from pel_core.ingest.split_formats import read_split, read_splits

SUBSET = Factors(groups_from="subset")  # of few images, of which no groups can be told at ratio 100


def test_all_that_ship_have_published_counts():
    assert set(COUNTS) == {base for base, entry in DATASETS.items() if SOURCES[entry.kind].is_users}
    assert len(VTAB) == 19 and {f"vtab-{name}" for name in VTAB} <= set(COUNTS)


@pytest.mark.parametrize("base", list(COUNTS))
def test_an_entry_is_one_that_a_configuration_could_have(base):
    """Its options are complete, its numbers fit each other, and its size is known before it is there."""
    entry, facts = DATASETS[base], COUNTS[base]
    kind = SOURCES[entry.kind]
    kind.Entry.model_validate(
        {"kind": entry.kind, **{k: list(v) if isinstance(v, tuple) else v for k, v in entry.options.items()}}
    )
    source = open_source(base, entry)
    assert source.size(None) == ((*facts.images, facts.classes) if facts.images else None)
    if entry.pool:
        assert facts.classes == entry.pool[0] and facts.profile == (entry.pool[1], entry.pool[1])
        assert find_dataset(f"{base}-ir100") is entry
    if facts.profile:
        assert facts.profile[1] * facts.classes <= facts.images[0] <= facts.profile[0] * facts.classes
    if facts.val:
        require_split(base, "val", DATASETS)
    elif "val" not in entry.options and not base.startswith(("caltech", "sun", "euro")):
        with pytest.raises(PelError, match="has no validation split"):
            require_split(base, "val", DATASETS)


def cub(root: Path) -> None:
    folder = root / "CUB_200_2011"
    kinds = ["001.Black_footed_Albatross", "002.Laysan_Albatross"]
    rows = [(i + 1, kinds[i % 2], f"{kinds[i % 2]}/{i}.jpg") for i in range(6)]
    for i, _, path in rows:
        draw(folder / "images" / path, i)
    (folder / "images.txt").write_text("".join(f"{i} {path}\n" for i, _, path in rows))
    (folder / "image_class_labels.txt").write_text("".join(f"{i} {kinds.index(kind) + 1}\n" for i, kind, _ in rows))
    (folder / "classes.txt").write_text("".join(f"{i} {kind}\n" for i, kind in enumerate(kinds, 1)))
    (folder / "train_test_split.txt").write_text("".join(f"{i} {int(i <= 4)}\n" for i, _, _ in rows))


def dogs(root: Path) -> None:
    folder = root / "stanford-dogs"
    kinds = ["n02085620-Chihuahua", "n02085782-Japanese_spaniel"]
    for split, numbers in (("train", (0, 1)), ("test", (2,))):
        paths = [f"{kind}/{kind[:9]}_{i}.jpg" for kind in kinds for i in numbers]
        for i, path in enumerate(paths):
            draw(folder / "Images" / path, i)
        labels = np.array([[kinds.index(path.split("/")[0]) + 1] for path in paths])
        savemat(folder / f"{split}_list.mat", {"file_list": np.array([[path] for path in paths], object), "labels": labels})


def tiny(root: Path) -> None:
    folder = root / "tiny-imagenet-200"
    kinds = ["n01443537", "n01629819"]
    for kind in kinds:
        for i in range(2):
            draw(folder / f"train/{kind}/images/{kind}_{i}.JPEG", i)
    for i in range(2):
        draw(folder / f"val/images/val_{i}.JPEG", i)
    lines = [f"val_{i}.JPEG\t{kind}\t0\t32\t44\t62\n" for i, kind in enumerate(kinds)]
    (folder / "val/val_annotations.txt").write_text("".join(lines))
    (folder / "words.txt").write_text("n01443537\tgoldfish, Carassius auratus\nn01629819\tEuropean fire salamander\n")


def inat(root: Path) -> None:
    kinds = [{"id": 0, "name": "Lumbricus terrestris"}, {"id": 1, "name": "Eratigena duellica"}]
    for split, count in (("train", 4), ("val", 2)):
        images = [{"id": 10 * i, "file_name": f"{split}/{i % 2:05d}_x/{i}.jpg"} for i in range(count)]
        for i, image in enumerate(images):
            draw(root / "inat2021" / image["file_name"], i)
        annotations = [{"id": i, "image_id": image["id"], "category_id": i % 2} for i, image in enumerate(images)]
        made = {"images": images, "annotations": annotations, "categories": kinds}
        (root / f"inat2021/{split}.json").write_text(json.dumps(made))


def vtab(root: Path) -> None:
    folder = root / "vtab-1k/svhn"
    for split, at in (("train800val200", range(4)), ("test", range(4, 6))):
        lines = [f"images/{split}/{i:06d}.jpg {i % 2}" for i in at]
        for i, line in enumerate(lines):
            draw(folder / line.split()[0], i)
        (folder / f"{split}.txt").write_text("\n".join(lines) + "\n")


SMALL = [
    ("cub200", cub, ["Black footed Albatross", "Laysan Albatross"], 4, 2),
    ("stanford-dogs", dogs, ["Chihuahua", "Japanese spaniel"], 4, 2),
    ("tiny-imagenet", tiny, ["goldfish", "European fire salamander"], 4, 2),
    ("inat2021", inat, ["Lumbricus terrestris", "Eratigena duellica"], 4, 2),
    ("vtab-svhn", vtab, ["0", "1"], 4, 2),
]


@pytest.mark.parametrize(("base", "tree", "classes", "train", "test"), SMALL, ids=[each[0] for each in SMALL])
def test_a_published_split_in_its_true_format(tmp_path, monkeypatch, base, tree, classes, train, test):
    """It is found below PEL_DATA, refused where the numbers are not the published ones, and read where they are."""
    tree(tmp_path / "data")
    monkeypatch.setenv("PEL_DATA", str(tmp_path / "data"))
    problems = Problems()
    open_source(base, DATASETS[base]).check(problems, "sample")
    assert "numbers that are not the published ones" in problems.kinds
    with pytest.raises(PelError, match=rf"{train} train images, published: |2 classes, published: {COUNTS[base].classes:,}"):
        prepare(base, tmp_path / "out")
    assert not (tmp_path / "out/data.json").exists()
    monkeypatch.setitem(COUNTS, base, Facts(classes=2, images=(train, test), address=""))
    problems = Problems()
    open_source(base, DATASETS[base]).check(problems, "all")
    assert not problems
    prepare(base, tmp_path / "out")
    data = open_prepared(tmp_path / "out", base, factors=SUBSET)
    assert data.class_names == classes and (len(data.train), len(data.test)) == (train, test)
    assert all(Path(path).is_file() for path in data.train.paths + data.test.paths)
    if DATASETS[base].ratios == "any":
        assert open_prepared(tmp_path / "out", f"{base}-ir2", factors=SUBSET).train_counts.tolist() == [2, 1]


def test_a_set_of_torchvision_that_ships(tmp_path, monkeypatch):
    tree = next(tree for name, tree, *_ in MADE if name == "CIFAR10")
    (tmp_path / "data").mkdir()
    tree(tmp_path / "data", monkeypatch.setattr)
    config = {"roots": {"cifar10": str(tmp_path / "data")}}
    with pytest.raises(PelError, match="3 classes, published: 10"):
        prepare("cifar10", tmp_path / "out", config)
    prepare("cifar10", tmp_path / "out", config | {"user_lists": ["cifar10"]})
    assert open_prepared(tmp_path / "out", "cifar10-ir5", factors=SUBSET).train_counts.tolist() == [5, 2, 1]


def test_how_to_get_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PEL_DATA", str(tmp_path))
    for base, facts in COUNTS.items():
        source = open_source(base, DATASETS[base])
        with pytest.raises(PelError, match=rf"data set '{base}': .*(does not exist|holds no).*`python -m pel_core data fetch"):
            source.locate()
        if source.kind == "split_file":
            source.fetch()
            assert str(tmp_path) in capsys.readouterr().out and facts.by_hand


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("CUB_200_2011/train_test_split.txt", "1 1\n99 0\n", "has the image 99, which images.txt beside it has not"),
        ("CUB_200_2011/train_test_split.txt", "1 2\n", "image 1 has the split '2'"),
        ("CUB_200_2011/train_test_split.txt", "1 1\n1 0\n", "txt:2: found '1 0', expected 'number value', each number once"),
        ("CUB_200_2011/image_class_labels.txt", "1 77\n", "image 1 has the split '1' and class '77'"),
    ],
)
def test_damaged_files_of_cub(tmp_path, file, text, message):
    cub(tmp_path)
    (tmp_path / file).write_text(text)
    with pytest.raises(PelError, match=message):
        read_splits(str(tmp_path / "CUB_200_2011/train_test_split.txt"), str(tmp_path))


@pytest.mark.parametrize(
    ("base", "tree", "file", "content", "message"),
    [
        ("stanford-dogs", dogs, "stanford-dogs/train_list.mat", b"MATLAB", "cannot be read"),
        ("tiny-imagenet", tiny, "tiny-imagenet-200/val/val_annotations.txt", b"val_0.JPEG\tn9\n", "one of the 2 classes"),
        ("inat2021", inat, "inat2021/val.json", b'{"train": []}', "is no list of one split"),
        ("inat2021", inat, "inat2021/val.json", b'{"images": [{"id": 1, "file_name": "x"}], "annotations": [], "categories": []}',
         "0 annotations of 1 images"),
    ],
)  # fmt: skip
def test_damaged_files_of_other_sets(tmp_path, monkeypatch, base, tree, file, content, message):
    tree(tmp_path)
    (tmp_path / file).write_bytes(content)
    monkeypatch.setenv("PEL_DATA", str(tmp_path))
    with pytest.raises(PelError, match=f"data set '{base}': .*{message}"):
        prepare(base, tmp_path / "out")


@pytest.mark.parametrize(
    "content",
    [
        {"labels": [[1.0]]},
        {"file_list": np.array([["a/b.jpg"]], object)},
        {"file_list": np.array([["a/b.jpg"], ["c/d.jpg"]], object), "labels": [[1.0]]},
        {"file_list": np.array([["a/b.jpg"]], object), "labels": np.array([["one"]], object)},
    ],
)
def test_a_list_of_stanford_dogs_without_its_parts(tmp_path, content):
    savemat(tmp_path / "train_list.mat", content)
    with pytest.raises(PelError, match=r"train_list\.mat holds .*expected Stanford Dogs' list, with file_list and labels"):
        read_split(str(tmp_path / "train_list.mat"))


def test_a_list_of_one_image_is_a_list(tmp_path):
    savemat(tmp_path / "a.mat", {"file_list": np.array([["n1-Red_dog/b.jpg"]], object), "labels": [[1.0]]})
    assert read_split(str(tmp_path / "a.mat")).entries == [("n1-Red_dog/b.jpg", 1, "n1-Red dog")]


def test_a_slip_of_ours_is_no_damaged_list(tmp_path, monkeypatch):
    monkeypatch.setattr("scipy.io.loadmat", lambda file: {})  # called with more
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        read_split(str(tmp_path / "a.mat"))

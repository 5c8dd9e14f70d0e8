"""Published split files: CoOp's JSON, VTAB-1k's lists."""

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from own_trees import draw, fill, make

from pel_core.common.errors import PelError
from pel_core.ingest.split_formats import read_text

CLASSES = {"001.sea lion": 4, "orca": 4, "seal": 4}


@pytest.fixture
def tree(tmp_path) -> Path:
    return fill(tmp_path / "images", CLASSES)


def coop(tree: Path, **changes) -> dict:
    """Two training images, one validation and one test image of each class; labels are not in the order of names."""
    split: dict = {"train": [], "val": [], "test": []}
    for label, name in ((7, "sea lion"), (0, "orca"), (3, "seal")):
        folder = "001.sea lion" if name == "sea lion" else name
        for i, part in enumerate(("train", "train", "val", "test")):
            split[part].append([f"{folder}/{i:03d}.png", label, name])
    split.update(changes)
    (tree / "split_zhou_Mine.json").write_text(json.dumps(split))
    return split


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def prepare(tree: Path, **keys):
    return make(tree, kind="split_file", **keys)


def test_a_split_as_coop_publishes_it(tree):
    coop(tree)
    data = prepare(tree, file="split_zhou_Mine.json", sha256=digest(tree / "split_zhou_Mine.json"))
    assert data.class_names == ["orca", "seal", "sea lion"], "classes are in the order of their labels"
    assert [len(each) for each in (data.train, data.val, data.test)] == [6, 3, 3]
    assert data.train.labels.tolist() == [2, 2, 0, 0, 1, 1] and data.test.paths[0].endswith("001.sea lion/003.png")


def test_a_split_that_lies_elsewhere_and_has_no_names(tree, tmp_path):
    split = coop(tree)
    bare = {part: [entry[:2] for entry in entries] for part, entries in split.items() if part != "val"}
    (tmp_path / "split.json").write_text(json.dumps(bare | {"val": []}))
    data = prepare(tree, file=str(tmp_path / "split.json"), class_names={"7": "sea lion", 0: "killer whale"})
    assert data.class_names == ["killer whale", "3", "sea lion"] and data.val is None


def vtab(tree: Path) -> None:
    """The lists of VTAB-1k, of 2 + 1 training images and one test image a class."""
    parts: dict[str, list[str]] = {"train800": [], "val200": [], "test": []}
    for label, name in enumerate(CLASSES):
        for i, part in enumerate(("train800", "train800", "val200", "test")):
            parts[part].append(f"{name}/{i:03d}.png {label}")
    parts["train800val200"] = parts["train800"] + parts["val200"]
    for part, lines in parts.items():
        (tree / f"{part}.txt").write_text("\n".join(lines) + "\n")


def test_the_lists_of_vtab(tree):
    vtab(tree)
    names = {"train800.txt": digest(tree / "train800.txt")}
    tuned = prepare(tree, train="train800.txt", val="val200.txt", test="test.txt", sha256=names)
    assert [len(each) for each in (tuned.train, tuned.val, tuned.test)] == [6, 3, 3] and tuned.class_names == ["0", "1", "2"]
    final = prepare(tree, train="train800val200.txt", test="test.txt")
    assert len(final.train) == 9 and final.val is None and final.train_counts.tolist() == [3, 3, 3]


def test_a_long_tail_is_drawn_from_a_published_split(tree):
    for i in range(4, 9):
        draw(tree / "orca" / f"{i:03d}.png", 500 + i)
    split = coop(tree)
    split["train"] += [[f"orca/{i:03d}.png", 0, "orca"] for i in range(4, 9)]
    coop(tree, **split)
    data = prepare(tree, file="split_zhou_Mine.json", profile="exponential", ratios=[2], name="mine-ir2", largest=2)
    assert sorted(data.train_counts.tolist()) == [1, 1, 2]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"train": []}, "lists val, test and no training image"),
        ({"train": 3}, r"train is a int; expected \{train"),
        ({"trian": []}, "unknown split of .*'trian'.*Did you mean 'train'"),
        ({"training": []}, "several splits that mean 'train'"),
        (
            {"train": [["orca/000.png", 0, "orca"], ["orca/001.png", "0", "orca"]]},
            r"\(train\):2: found .* expected \[path, label",
        ),
        ({"train": [["orca/000.png", 0.5, "orca"]]}, r"\(train\):1: found .*0\.5"),
        ({"train": [["orca/000.png", -1, "orca"]]}, r"\(train\):1: found .*-1"),
        ({"train": [["orca/000.png", 0, ""]]}, r"\(train\):1: found"),
        ({"val": [["orca/002.png", 0, "seal"]]}, r"label 0 is 'seal', and 'orca' before"),
        ({"val": [["orca/002.png", 9, "orca"]]}, r"'orca' has label 9, and 0 before"),
        ({"val": [["orca/002.png", 9, "walrus"]]}, r"1 of 4 labels have no training image: 9 \(walrus\)"),
        ({"val": [["orca/001.png", 0, "orca"]]}, r"'orca/001.png' repeats .*\(train\):4; expected each image once, in one split"),
        ({"val": [["../x.png", 0, "orca"]]}, r"\(val\):1: path '../x.png' is not below"),
        ({"test": [["orca/999.png", 0, "orca"]]}, r"\(test\):1: .*orca/999\.png cannot be used"),
    ],
)
def test_splits_that_cannot_be_meant(tree, changes, message):
    coop(tree, **changes)
    with pytest.raises(PelError, match=f"data set 'mine': .*{message}"):
        prepare(tree, file="split_zhou_Mine.json")
    assert not [path for path in (tree.parent / "out").rglob("*") if path.is_file()], "something was written"


def test_files_that_are_no_splits(tree):
    for text, message in (("{", "is not JSON"), ("[]", "holds a list"), ("", "is empty")):
        (tree / "s.json").write_text(text)
        with pytest.raises(PelError, match=f"s.json {message}"):
            prepare(tree, file="s.json")
    (tree / "train.txt").write_text("orca/000.png orca\n")
    with pytest.raises(PelError, match=r"train.txt:1: found 'orca/000.png orca', expected 'path label'"):
        prepare(tree, train="train.txt")
    with pytest.raises(PelError, match=r"the split file .*absent.json does not exist"):
        prepare(tree, file="absent.json")


def test_another_file_than_the_published_one(tree):
    coop(tree)
    with pytest.raises(PelError, match=rf"SHA-256 {digest(tree / 'split_zhou_Mine.json')}, expected {'0' * 64}: it is another"):
        prepare(tree, file="split_zhou_Mine.json", sha256="0" * 64)


@pytest.mark.parametrize(
    "keys, message",
    [
        ({}, "expected either file"),
        ({"file": "a.json", "train": "b.txt"}, "expected either file"),
        ({"file": "a.json", "test": "b.txt"}, "expected either file"),
        ({"file": "a.json", "sha256": "abc"}, "64 hexadecimal digits"),
        ({"file": "a.json", "sha256": {"b.json": "0" * 64}}, "names 'b.json', expected one of a.json"),
        ({"train": "a.txt", "test": "b.txt", "sha256": "0" * 64}, "sha256 is of one file, and there are 2"),
        ({"file": "a.json", "label_column": "x"}, "unknown key of data set 'mine'"),
    ],
)
def test_entries_that_cannot_be_meant(tree, keys, message):
    with pytest.raises(PelError, match=message):
        prepare(tree, **keys)


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=40))
def test_any_text_is_read_or_refused(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("text") / "list.txt"
    path.write_text(text, encoding="utf-8", errors="surrogatepass", newline="")
    try:
        assert all(label >= 0 and name for name, label, _ in read_text(str(path)).entries)
    except PelError as error:
        assert str(path) in str(error)
